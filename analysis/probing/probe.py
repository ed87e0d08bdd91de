"""Linear probe: how well a linear classifier reads the class from frozen features.

The strength of the penalty is chosen on a held-out part of the training data, and the classifier is
then fitted again on all of them. The test data never take part in the choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from linlocal.analysis.block import Block, resolve
from linlocal.analysis.probing.linear_classifiers import Scores, logistic_scores, ridge_scores
from linlocal.analysis.watching import one_pass, untouched
from linlocal.inputs import described, numbers, real, sequence, whole

Kind = Literal["ridge", "logistic"]
Loader = Iterable[tuple[Tensor, Tensor]]

STRENGTHS = tuple(float(s) for s in 10.0 ** np.arange(-6, 4))


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        accuracy: the share of test samples that are classified correctly.
        validation_accuracy: the share of held-out training samples that are classified correctly
            at the chosen strength.
        strength: the chosen strength of the penalty.
        num_features: the number of columns of the features.
    """

    accuracy: float
    validation_accuracy: float
    strength: float
    num_features: int


def linear_probe(
    features: ArrayLike | Tensor,
    labels: ArrayLike | Tensor,
    test_features: ArrayLike | Tensor,
    test_labels: ArrayLike | Tensor,
    *,
    seed: int,
    kind: Kind = "ridge",
    validation: float = 0.2,
    strengths: Sequence[float] = STRENGTHS,
) -> ProbeResult:
    """Test accuracy of ``argmax W x + b``, with the penalty chosen on held-out training data.

    Features are shifted and scaled to mean 0 and variance 1 by the statistics of the samples that
    the classifier is fitted on. "ridge" minimises ``||Y - X W||^2 / n + s ||W||^2`` for one-hot
    targets Y; one eigendecomposition (of X X^T if there are fewer samples than features) gives the
    exact minimum for all strengths s. "logistic" minimises the cross-entropy plus
    ``s ||W||^2 / 2`` by L-BFGS. Everything is computed in float64 on the device of the features.

    Args:
        features: (samples, features).
        labels: (samples,) whole numbers.
        test_features: (test samples, features).
        test_labels: (test samples,), all of them seen in ``labels``.
        seed: decides which samples are held out.
        kind: the kind of classifier, "ridge" or "logistic".
        validation: the share of each class that is held out to choose the strength.
        strengths: the strengths s to choose from. The one that is most accurate on the held-out
            part is taken, and of equally accurate ones the one with the smallest loss there.

    Raises:
        ValueError: shapes do not fit, features are not finite, a test label never occurs in
            training, a strength is not positive, or there are too few samples to hold any out.
    """
    validation, seed = real(validation, "validation"), whole(seed, "seed", 0)
    if not 0 < validation < 1:
        raise ValueError(f"validation must lie between 0 and 1, got {validation}.")
    given = sequence(strengths, "strengths", "positive numbers")
    strengths = tuple(real(strength, "an entry of strengths") for strength in given)
    if not strengths or not all(0 < strength < np.inf for strength in strengths):
        raise ValueError(f"strengths must be positive numbers, got {strengths}.")
    if kind not in ("ridge", "logistic"):
        raise ValueError(f'kind must be "ridge" or "logistic", got {kind!r}.')
    x, y = _checked(features, labels, "training")
    test_x, test_y = _checked(test_features, test_labels, "test")
    if test_x.shape[1] != x.shape[1]:
        raise ValueError(
            f"{x.shape[1]} features in training, but {test_x.shape[1]} in the test: take both from "
            "the same block."
        )
    classes, y = np.unique(y, return_inverse=True)
    if unseen := sorted({*test_y.tolist()} - {*classes.tolist()}):
        raise ValueError(
            f"Test labels {unseen[:10]} never occur in training ({len(classes)} classes do): no "
            "classifier could predict them. Check the split, or leave these samples out."
        )
    rest, held_out = stratified_split(y, validation, seed)
    judge = _classifier(kind, x[rest], y[rest], x[held_out])
    found = []
    # In this order each logistic fit starts from the one before.
    for strength in sorted(strengths, reverse=True):
        scores = judge(strength)
        loss = _loss(kind, scores, y[held_out])
        found.append((_accuracy(scores, y[held_out]), -loss, strength))
    validation_accuracy, _, strength = max(found)
    scores = _classifier(kind, x, y, test_x.to(x.device))(strength)
    accuracy = _accuracy(scores, np.searchsorted(classes, test_y))
    return ProbeResult(accuracy, validation_accuracy, strength, x.shape[1])


def probe_blocks(
    model: nn.Module,
    blocks: Iterable[str] | None,
    train_loader: Loader,
    test_loader: Loader,
    *,
    seed: int,
    pooling: int = 1,
    kind: Kind = "ridge",
    validation: float = 0.2,
    strengths: Sequence[float] = STRENGTHS,
) -> xr.Dataset:
    """`linear_probe` of the output of each block, and of all outputs side by side.

    The model runs in eval mode and without gradients; its modes are restored. Maps (n, c, h, w) are
    averaged to ``pooling`` x ``pooling`` values per channel, sequences (n, tokens, c) over the
    tokens.

    Args:
        model: the network; it takes the inputs of the loaders and may return anything.
        blocks: the names of its blocks, as for `linlocal.analysis.blocks`.
        train_loader: the batches (inputs, labels) to fit on.
        test_loader: the batches (inputs, labels) to test on.
        seed: decides which training samples are held out, the same ones for every block.
        pooling: the side of the pooled maps; smaller maps stay as they are.
        kind: the kind of classifier, as for `linear_probe`.
        validation: the share of each class that is held out, as for `linear_probe`.
        strengths: the strengths to choose from, as for `linear_probe`.

    Returns:
        accuracy, validation_accuracy, strength and num_features over the dimension ``block``:
        "1".."L" and "all", with the coordinate ``name``.

    Raises:
        ValueError: as `linlocal.analysis.blocks`, a loader gave no batch, or a block returns
            something other than one tensor.
        TypeError: a loader gives batches that do not begin with inputs and labels.
        RuntimeError: the blocks do not run once each, in this order.
    """
    pooling, seed = whole(pooling, "pooling", 1), whole(seed, "seed", 0)
    # Once, because a generator is used up by the first block.
    strengths = sequence(strengths, "strengths", "positive numbers")
    watched = resolve(model, blocks, strict=False)
    features, labels = _block_features(model, watched, train_loader, pooling)
    test_features, test_labels = _block_features(model, watched, test_loader, pooling)
    probe = partial(linear_probe, seed=seed, kind=kind, validation=validation, strengths=strengths)
    results = [
        probe(here, labels, there, test_labels)
        for here, there in zip(
            [*features, torch.cat(features, 1)],
            [*test_features, torch.cat(test_features, 1)],
            strict=True,
        )
    ]
    rows = [asdict(result) for result in results]
    return xr.Dataset(
        {key: ("block", [row[key] for row in rows]) for key in rows[0]},
        {
            "block": [*map(str, range(1, len(watched) + 1)), "all"],
            "name": ("block", [*(block.name for block in watched), "all"]),
        },
        {"kind": kind, "pooling": pooling, "seed": seed},
    )


def stratified_split(
    labels: ArrayLike, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ascending rows to keep and rows to hold out, the same share of each class.

    Args:
        labels: (samples,).
        fraction: the share to hold out, rounded in each class; one sample of each class is always
            kept.
        seed: decides which samples are held out.

    Raises:
        ValueError: the fraction is not between 0 and 1, labels that are no vector, or nothing would
            be held out.
    """
    fraction = real(fraction, "fraction")
    if not 0 < fraction < 1:
        raise ValueError(f"The fraction to hold out must lie between 0 and 1, got {fraction}.")
    array = np.asarray(labels)
    if array.ndim != 1:
        raise ValueError(f"labels must be (samples,), got shape {array.shape}.")
    rng = np.random.default_rng(whole(seed, "seed", 0))
    held_out = np.zeros(len(array), dtype=bool)
    for label in np.unique(array):
        rows = rng.permutation(np.flatnonzero(array == label))
        held_out[rows[: min(round(fraction * len(rows)), len(rows) - 1)]] = True
    if not held_out.any():
        raise ValueError(
            f"{fraction} of each class of {len(array)} samples is less than one sample: nothing is "
            "left to choose by. Give more samples, or a larger fraction."
        )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _checked(
    features: ArrayLike | Tensor, labels: ArrayLike | Tensor, which: str
) -> tuple[Tensor, NDArray[Any]]:
    if isinstance(features, Tensor) and not features.is_complex():
        x = features.detach().to(torch.float64)
    else:
        x = torch.from_numpy(numbers(features, f"{which} features"))
    y = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if x.ndim != 2 or y.shape != x.shape[:1] or not y.size:
        raise ValueError(
            f"{which} needs features (samples, features) and one label for each sample, got "
            f"features of shape {tuple(x.shape)} and labels of shape {y.shape}."
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(f"{which} labels must be whole numbers, got {y.dtype}.")
    if damaged := int((~x.isfinite()).any(dim=1).sum()):
        raise ValueError(
            f"{damaged} of {len(x)} {which} samples have features that are NaN or infinite; has "
            "the network diverged, or does it overflow in half precision?"
        )
    return x, y


def _accuracy(scores: Tensor, labels: NDArray[Any]) -> float:
    return float(np.mean(scores.argmax(dim=1).cpu().numpy() == labels))


def _loss(kind: Kind, scores: Tensor, labels: NDArray[Any]) -> float:
    target = torch.as_tensor(labels, device=scores.device)
    if kind == "logistic":
        return float(F.cross_entropy(scores, target))
    return float(F.mse_loss(scores, F.one_hot(target, scores.shape[1]).to(scores)))


def _classifier(kind: Kind, x: Tensor, labels: NDArray[Any], new: Tensor) -> Scores:
    """Fits on ``x``, and gives the scores of ``new`` at any strength."""
    mean, deviation = x.mean(dim=0), x.std(dim=0, correction=0)
    scale = torch.where(deviation > 0, deviation, torch.inf)  # drops constant features
    y = torch.as_tensor(labels, device=x.device)
    fit = ridge_scores if kind == "ridge" else logistic_scores
    return fit((x - mean) / scale, F.one_hot(y).to(x), (new - mean) / scale)


def _block_features(
    model: nn.Module, watched: Sequence[Block], loader: Loader, pooling: int
) -> tuple[list[Tensor], Tensor]:
    parts: list[list[Tensor]] = [[] for _ in watched]
    labels = []
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def look(position: int, z: Tensor) -> None:
        parts[position].append(_pooled(z, pooling))

    with untouched(model), torch.no_grad():
        model.eval()
        for batch in loader:
            inputs, target = _parts(batch)
            with one_pass(watched, look):
                model(inputs.to(device))
            labels.append(target)
    if not labels:
        raise ValueError("Nothing to probe: the loader gave no batch.")
    return [torch.cat(part) for part in parts], torch.cat(labels)


def _parts(batch: Any) -> tuple[Tensor, Tensor]:
    """Inputs and labels of a batch; what else a loader gives (indices, weights) is left aside."""
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise TypeError(
            "A loader must give batches (inputs, labels), got "
            f"{described(batch)}: wrap it in a generator that takes them out."
        )
    return torch.as_tensor(batch[0]), torch.as_tensor(batch[1])


def _pooled(output: Tensor, pooling: int) -> Tensor:
    output = output.detach().float()
    if output.ndim == 4:
        height, width = (min(pooling, side) for side in output.shape[2:])
        output = F.adaptive_avg_pool2d(output, (height, width))
    elif output.ndim == 3:
        output = output.mean(dim=1)
    # Copied, because an in-place activation may overwrite what the block returned.
    return output.flatten(1).clone()
