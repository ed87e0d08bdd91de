"""How well a linear probe fitted to clean images reads corrupted ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.data import SEVERITIES, Labelled, LabelledPixels, Pixels, corrupt
from linlocal.analysis.probing import linear_probe, ridge_scores

_BATCH = 512


def corrupted_accuracy(
    network: nn.Module | None,
    train: LabelledPixels,
    test: Labelled,
    names: Sequence[str],
    seed: int,
) -> xr.DataArray:
    """Accuracy of a linear probe on corrupted images, fitted to clean ones once.

    Args:
        network: turns images into maps (rows, channels, height, width), which are averaged over
            places; it runs in eval mode. None stands for training that diverged and has
            accuracy 0.
        train: clean images and labels; labels number the classes from 0, all of them present.
        test: images to be corrupted, and their labels.
        names: names of corruptions in `experiments.data.CORRUPTIONS`.
        seed: seeds the probe and the corruptions.

    Returns:
        Accuracies over corruption and severity 0 to 5; at 0 the images are clean.
    """
    labels = {"corruption": list(names), "severity": [0, *SEVERITIES]}
    accuracy = xr.DataArray(0.0, labels, [*labels])
    if network is None:
        return accuracy
    x, clean = (_features(network, images) for images, _ in (train, test))
    known, classes = train[1].to(x.device), test[1].to(x.device)
    chosen = linear_probe(x, known, clean, classes, seed=seed)
    accuracy.loc[{"severity": 0}] = chosen.accuracy
    mean, deviation = x.mean(0), x.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, torch.inf)  # constant features are not used
    targets = F.one_hot(known).to(x)
    for name in names:
        harmed = [corrupt(test[0], name, severity, seed) for severity in SEVERITIES]
        new = _features(network, torch.cat(harmed))
        scores = ridge_scores((x - mean) / scale, targets, (new - mean) / scale)(chosen.strength)
        found = scores.argmax(1).view(len(SEVERITIES), -1) == classes
        accuracy.loc[{"corruption": name, "severity": list(SEVERITIES)}] = (
            found.double().mean(1).tolist()
        )
    return accuracy


def _features(network: nn.Module, images: Tensor | Pixels) -> Tensor:
    device = next(network.parameters()).device
    was = network.training
    network.eval()
    try:
        with torch.no_grad():
            parts = [
                network(part.to(device)).mean((2, 3)).double() for part in images.split(_BATCH)
            ]
    finally:
        network.train(was)
    return torch.cat(parts)
