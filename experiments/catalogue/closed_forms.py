"""How near a B in closed form brings local errors to backpropagated ones during a training.

A VGG-like encoder of six blocks is trained by CLAPP++ with direct feedback, and so is its B. Along
the way other projections take the place of B below the last block, each solved for on one larger
batch of training images: the optimum of the block's own penalised loss, and the nearest to the
backpropagated error (least squares given the slopes of the top), where that error is known, or
estimated from forward products. All are then judged on other images, together with least squares
on these very images. That is no bound: B is solved for with the slopes of the top, and a block
pulls with its own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import xarray as xr
from torch import Tensor, nn

from experiments.data import labelled_identities, named_data, source
from experiments.networks import encoders as networks
from experiments.runner import Sweep, grid
from experiments.training import Batch, Schedule, fit_by_rule
from linlocal.analysis import align
from linlocal.analysis.local_losses import (
    CLAPP,
    Cells,
    LeastSquares,
    ScoredPairs,
    least_squares,
    penalty_optimal,
)
from linlocal.analysis.watching import errors_below


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        width: factor on the numbers of channels 128, 256, 256, 512, 1024, 1024.
        size: side of the images in pixels.
        steps: steps of training.
        batch: images per batch.
        learning_rate: learning rate of AdamW.
        penalty: lam of the rule, for B trained and B optimal.
        solved: images of the batch on which projections are solved for.
        measured: number of other batches for cosines; they are never trained on.
        repetitions: number of networks.
        device: name of the torch device.
        seed: seeds the images, the views and the networks.
        data: folder of STL-10 or CIFAR-10 (the first of them that lies there); None takes digits.
    """

    width: float = 1 / 16
    size: int = 16
    steps: int = 100
    batch: int = 32
    learning_rate: float = 1e-3
    penalty: float = 0.02
    solved: int = 128
    measured: int = 2
    repetitions: int = 5
    device: str = "cpu"
    seed: int = 0
    data: Path | None = None


PRESETS = {
    "smoke": Config(width=1 / 64, size=8, steps=3, batch=8, solved=16, measured=1, repetitions=2),
    "cpu": Config(steps=40, solved=64),
    "workstation": Config(steps=1000, solved=256, measured=8),
    "paper": Config(
        width=1.0,
        size=96,
        steps=47_000,
        learning_rate=2e-4,
        solved=1024,
        measured=16,
        device="cuda",
    ),
}
PUBLISHED = "the trained and the matched B of Fig. 4c of arXiv 2601.21683 (STL-10; curves only)"

WANTED = ("stl10", "cifar10")
CELLS = (8, 4, 4, 4, 2, 1)
# Forward products for each sample and block.
TANGENTS = (8, 64)
TRAINED, OPTIMAL, NEAREST, SAME = (
    "trained",
    "penalty-optimal",
    "least squares",
    "least squares on the same images",
)
ESTIMATED = {f"least squares, {m} tangents": m for m in TANGENTS}
PROJECTIONS = (TRAINED, OPTIMAL, NEAREST, *ESTIMATED, SAME)


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprint of the data set with labels that is trained on."""
    return labelled_identities(folder, named_data(folder, WANTED)[:1])


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train networks and measure with every projection.

    Returns:
        Over repetition, ``projection``, ``step`` and layer: ``error_cosine`` of local and
        backpropagated error signals, ``cosine`` of the updates; ``data``: what was trained on.
    """
    name: str = next(iter(named_data(config.data, WANTED)), "digits")

    def measure(repetition: int) -> xr.Dataset:
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
        # Other views of the training images.
        solved = images.views(config.steps, config.solved, seed + 1)
        watched = [images.held_out_views(k, config.batch, seed) for k in range(config.measured)]
        rule = CLAPP(
            context="top",
            pooling=[Cells(side) for side in CELLS],
            negatives="stacked",
            penalty=config.penalty,
        )
        _, recorded = fit_by_rule(
            network,
            rule,
            batches,
            Schedule(config.steps, config.learning_rate, weight_decay=0.0),
            seed=seed,
            look=lambda losses: rung_cosines(network, losses, solved, watched),
        )
        return recorded

    result = grid(sweep, measure, "closed_forms", repetition=range(config.repetitions))
    return result.assign_coords(data=name)


def rung_cosines(
    network: nn.Sequential, losses: nn.ModuleList, solved: Tensor, watched: Sequence[Batch]
) -> xr.Dataset:
    """Cosines with every projection below the last block, averaged over batches.

    Args:
        network: its children are the blocks.
        losses: the local losses of the blocks, with the trained B; nothing of them changes.
        solved: both views, stacked, of the images on which projections are solved for.
        watched: batches on which cosines are measured.
    """
    named = {name: copy.deepcopy(losses) for name in PROJECTIONS}
    outputs, errors = _backpropagated(network, losses[-1], solved)
    for loss, here in zip(named[OPTIMAL][:-1], outputs, strict=False):
        penalty_optimal(loss, here, outputs[-1])
    least_squares(named[NEAREST], outputs, errors)
    for name, tangents in ESTIMATED.items():
        least_squares(named[name], outputs, errors, LeastSquares(tangents=tangents))
    measured = []
    for views, *_ in watched:
        least_squares(named[SAME], *_backpropagated(network, losses[-1], views))
        measured.append(align(network, None, named, views)[["error_cosine", "cosine"]])
    mean = xr.concat(measured, "batch").mean("batch")
    return mean.rename(rule="projection").drop_vars(("parameter", "view"), errors="ignore")


def _backpropagated(
    network: nn.Sequential, last: nn.Module, views: Tensor
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """The outputs of all blocks, and the error of the last loss at all below the last."""
    outputs, z = [], views
    for block in network:
        z = block(z)
        outputs.append(z)
    top = z.detach().requires_grad_()
    (error,) = torch.autograd.grad(cast(ScoredPairs, last).activity_loss(top, None), top)
    return [z.detach() for z in outputs], errors_below(outputs, error)
