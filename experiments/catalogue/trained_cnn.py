"""How local and global updates agree in a trained convolutional network, with what masks explain.

A VGG-like encoder of six blocks is trained by CLAPP++ on augmented views. At the end, and along the
way, the local updates are compared with backpropagation of the last block's loss, and the mismatch
is taken apart: what masks, feedback and slopes take from the cosine. Compared is also
backpropagation whose masks (derivatives of ReLU) are averaged over the batch, or left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import xarray as xr
from torch import Tensor, nn

from experiments.data import labelled_identities, named_data, source
from experiments.networks import encoders as networks
from experiments.runner import Sweep, grid
from experiments.training import Schedule, fit_by_rule, masked_cosines, released_clapp
from linlocal.analysis.local_losses import LeastSquares, LocalRule


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        width: factor on the numbers of channels 128, 256, 256, 512, 1024, 1024.
        size: side of the images in pixels.
        steps: steps of training.
        batch: images per batch.
        learning_rate: learning rate of AdamW.
        measured: number of batches for cosines; they are never trained on.
        repetitions: number of networks.
        device: name of the torch device.
        seed: seeds the images, the views and the networks.
        data: folder of STL-10 or CIFAR-10 (the first of them that lies there); None takes digits.
    """

    width: float = 1 / 16
    size: int = 16
    steps: int = 200
    batch: int = 32
    learning_rate: float = 1e-3
    measured: int = 4
    repetitions: int = 5
    device: str = "cpu"
    seed: int = 0
    data: Path | None = None


PRESETS = {
    "smoke": Config(width=1 / 64, size=8, steps=4, batch=8, measured=1, repetitions=2),
    "cpu": Config(steps=60, measured=1),
    "workstation": Config(size=32, steps=1000, batch=64),
    "paper": Config(
        width=1.0, size=96, steps=47_000, learning_rate=2e-4, measured=16, device="cuda"
    ),
}
PUBLISHED = "Fig. 4c of arXiv 2601.21683 (STL-10; curves only)"

# The data sets of a folder, the first that is there; without a folder it is the digits.
WANTED = ("stl10", "cifar10")
# For this figure the loss of the last block does not depend on the place.
CELLS = (8, 4, 4, 4, 2, 1)
RULES: dict[str, LocalRule] = {
    "CLAPP++": released_clapp(CELLS),
    "CLAPP++ DFB": released_clapp(CELLS, context="top"),
    "CLAPP++ DFB, matched B": released_clapp(
        CELLS, context="top", projection="least_squares", matching=LeastSquares(decay=0.99)
    ),
}


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprint of the data set with labels that is trained on."""
    return labelled_identities(folder, named_data(folder, WANTED)[:1])


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train a network by every rule.

    Returns:
        Over rule, repetition and layer: ``cosine``, ``error_cosine`` and the terms of the mismatch
        (`linlocal.analysis.align`) along ``step``, and ``masked_cosine`` in the trained network
        over ``mask``; ``data``: what was trained on.
    """
    name: str = next(iter(named_data(config.data, WANTED)), "digits")

    def measure(rule: str, repetition: int) -> xr.Dataset:
        seed = config.seed + repetition
        images = source(name, seed, folder=config.data, size=config.size, device=config.device)

        def batches(step: int) -> Tensor:
            return images.views(step, config.batch, seed)

        network = networks.build(
            "vgg6",
            width=config.width,
            num_channels=images.test[0].shape[1],
            image_size=config.size,
            seed=seed,
        ).to(config.device)
        network = cast(nn.Sequential, network)
        watched = [images.held_out_views(k, config.batch, seed) for k in range(config.measured)]
        schedule = Schedule(config.steps, config.learning_rate, weight_decay=0.0)
        losses, recorded = fit_by_rule(
            network, RULES[rule], batches, schedule, seed=seed, watched=watched, terms=True
        )
        return recorded.assign(masked_cosine=masked_cosines(network, losses[-1], watched))

    result = grid(
        sweep, measure, "trained_cnn", rule=tuple(RULES), repetition=range(config.repetitions)
    )
    return result.assign_coords(data=name)
