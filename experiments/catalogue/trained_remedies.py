"""What remedies bring in a convolutional network that is trained: cosine per block, and accuracy.

Two encoders are trained by CLAPP++ with direct feedback on augmented views: a chain of convolutions
with ReLU, and one of residual blocks. Each remedy starts from the same weights and sees the same
views as the training without one, so that differences are paired.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import xarray as xr
from torch import Tensor, nn

from experiments.data import in_batches, labelled_identities, named_data, source
from experiments.runner import Sweep, grid
from experiments.training import Schedule, fit_by_rule
from linlocal.analysis.local_losses import CLAPP, Cells, NetworkRule
from linlocal.analysis.probing import probe_blocks
from linlocal.analysis.training import Orthogonality, orthogonal_, scale_branches_


@dataclass(frozen=True)
class Config:
    """What is trained and measured.

    Attributes:
        channels: channels of each block.
        blocks: number of blocks of each network.
        size: side of the images in pixels.
        cells: cells along a side that the maps of all blocks are pooled to in the losses.
        steps: steps of training.
        batch: images per batch.
        learning_rate: learning rate of AdamW.
        margin: margin of the softplus score.
        penalty: strength lam of the penalty on the projections.
        speed: how many times as fast as the network the projections learn, so that they are near
            their optimum, as the theory has them.
        refresh: steps between two measurements of the averaged Jacobian.
        orthogonality: strength rho of the penalty on ||W W^T - gain^2 I||^2.
        measured: number of batches for cosines; they are never trained on.
        repetitions: number of networks.
        device: name of the torch device.
        seed: seeds the images, the views and the networks.
        data: folder of STL-10 or CIFAR-10 (the first of them that lies there); None takes digits.
    """

    channels: int = 12
    blocks: int = 4
    size: int = 8
    cells: int = 2
    steps: int = 80
    batch: int = 32
    learning_rate: float = 1e-3
    margin: float = 1.0
    penalty: float = 0.01
    speed: float = 10.0
    refresh: int = 10
    orthogonality: float = 0.1
    measured: int = 1
    repetitions: int = 7
    device: str = "cpu"
    seed: int = 0
    data: Path | None = None


PRESETS = {
    "smoke": Config(channels=4, blocks=3, steps=2, batch=8, measured=1, repetitions=2, refresh=1),
    "cpu": Config(steps=30, repetitions=5),
    "workstation": Config(channels=16, blocks=6, size=16, steps=500, batch=64, measured=4),
    "paper": Config(
        channels=128,
        blocks=6,
        size=32,
        steps=20_000,
        batch=128,
        learning_rate=2e-4,
        refresh=100,
        measured=8,
        repetitions=8,
        device="cuda",
    ),
}
PUBLISHED = "ours: statements 2, 4, 11 and 14 of the theory, in nonlinear networks"

# The data sets of a folder, the first that is there; without a folder it is the digits.
WANTED = ("stl10", "cifar10")
# ReLU halves the mean square of an activity.
GAIN = 2**0.5

Network = Literal["plain", "residual"]


@dataclass(frozen=True)
class Remedy:
    """One training.

    Attributes:
        network: the kind of the network.
        start: what is changed of the weights before: nothing, or blocks 2..L become "orthogonal",
            or the residual branches are "scaled" by 1/sqrt(branches).
        kept: how the weights of blocks 2..L are kept orthogonal, by "retraction" or "penalty".
        projection: how B is chosen: "trained" with the network, trained with its penalty in the
            "metric" of the averaged Jacobian, or solved for in each step by "least squares".
    """

    network: Network
    start: Literal["", "orthogonal", "scaled"] = ""
    kept: Literal["", "retraction", "penalty"] = ""
    projection: Literal["trained", "metric", "least squares"] = "trained"


REMEDIES = {
    "plain: none": Remedy("plain"),
    "plain: orthogonal start": Remedy("plain", start="orthogonal"),
    "plain: orthogonality penalty": Remedy("plain", start="orthogonal", kept="penalty"),
    "plain: retraction": Remedy("plain", start="orthogonal", kept="retraction"),
    "plain: metric penalty": Remedy("plain", projection="metric"),
    "plain: orthogonal start, metric penalty": Remedy(
        "plain", start="orthogonal", projection="metric"
    ),
    "plain: least-squares B": Remedy("plain", projection="least squares"),
    "residual: none": Remedy("residual"),
    "residual: scaled branches": Remedy("residual", start="scaled"),
    "residual: metric penalty": Remedy("residual", projection="metric"),
    "residual: least-squares B": Remedy("residual", projection="least squares"),
}


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprint of the data set with labels that is trained on."""
    return labelled_identities(folder, named_data(folder, WANTED)[:1])


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train a network with every remedy.

    Returns:
        Over remedy (with its coordinate ``network``) and repetition: ``cosine`` along step and
        layer; ``accuracy`` of a linear probe on all blocks and
        ``block_accuracy`` over layer; ``deviation`` of the weights of blocks 2..L from orthogonal
        ones at the end, their mean, see `linlocal.analysis.training.Orthogonality`. And ``data``:
        what was trained on.
    """
    name: str = next(iter(named_data(config.data, WANTED)), "digits")

    def measure(remedy: str, repetition: int) -> xr.Dataset:
        return _train(config, name, REMEDIES[remedy], config.seed + repetition)

    result = grid(
        sweep,
        measure,
        "trained_remedies",
        remedy=tuple(REMEDIES),
        repetition=range(config.repetitions),
    )
    kinds = [remedy.network for remedy in REMEDIES.values()]
    return result.assign_coords(network=("remedy", kinds), data=name)


def _train(config: Config, data: str, remedy: Remedy, seed: int) -> xr.Dataset:
    images = source(data, seed, folder=config.data, size=config.size, device=config.device)
    network = build(remedy.network, config, images.test[0].shape[1], seed).to(config.device)
    above = [f"block{l}" for l in range(2, config.blocks + 1)]
    if remedy.start == "orthogonal":
        orthogonal_(network, above, gain=GAIN, seed=seed)
    if remedy.start == "scaled":
        scale_branches_(network, [f"{name}.branch.1" for name in above])
    kept = {
        "": None,
        "retraction": Orthogonality(gain=GAIN, names=tuple(above)),
        "penalty": Orthogonality(
            retraction=None, penalty=config.orthogonality, gain=GAIN, names=tuple(above)
        ),
    }[remedy.kept]
    schedule = Schedule(config.steps, config.learning_rate, weight_decay=0.0)
    _, recorded = fit_by_rule(
        network,
        _rule(config, remedy),
        lambda step: images.views(step, config.batch, seed),
        schedule,
        seed=seed,
        watched=[images.held_out_views(k, config.batch, seed) for k in range(config.measured)],
        orthogonality=kept,
        speed=config.speed,
    )
    found = probe_blocks(
        network,
        [name for name, _ in network.named_children()],
        in_batches(images.train),
        {"test": in_batches(images.test)},
        seed=seed,
    )["accuracy"].sel(part="test", drop=True)
    apart = Orthogonality(gain=GAIN, names=tuple(above)).deviation(network).values()
    return xr.Dataset(
        {
            "cosine": recorded["cosine"].drop_vars("block"),
            "accuracy": float(found.sel(block="all")),
            "block_accuracy": ("layer", found.values[:-1]),
            "deviation": sum(apart) / len(apart),
        },
        {"layer": list(range(1, config.blocks + 1))},
    )


def build(kind: Network, config: Config, num_channels: int, seed: int) -> nn.Sequential:
    """A chain of blocks ``block1``, ``block2``, ... of 3x3 convolutions, without pooling.

    Args:
        kind: "plain": convolution and ReLU; "residual": so in the first block, then
            z + convolution(ReLU(z)).
        config: the number of blocks and channels.
        num_channels: channels of the images.
        seed: seeds the weights; the global random state is left alone.
    """
    width = config.channels
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        for l in range(1, config.blocks + 1):
            below = num_channels if l == 1 else width
            convolution = nn.Conv2d(below, width, 3, padding=1)
            blocks[f"block{l}"] = (
                _Residual(nn.Sequential(nn.ReLU(), convolution))
                if kind == "residual" and l > 1
                else nn.Sequential(convolution, nn.ReLU())
            )
    return nn.Sequential(blocks)


class _Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, z: Tensor) -> Tensor:
        total: Tensor = z + self.branch(z)
        return total


def _rule(config: Config, remedy: Remedy) -> NetworkRule:
    return CLAPP(
        context="top",
        score="softplus",
        margin=config.margin,
        penalty=config.penalty,
        pooling=Cells(config.cells),
        projection="least_squares" if remedy.projection == "least squares" else "trained",
        metric="downstream" if remedy.projection == "metric" else None,
        refresh=config.refresh,
    )
