"""Memory and time of local against end-to-end training over depth, batch and resolution.

The 8-layer encoder of arXiv 2601.21683 with CLAPP++, and a residual network with Barlow Twins
behind a head of its own in every block: averages of 2x2 cells, or the expansion (to 2048 channels,
at every place of the map) of arXiv 2302.01647. The blocks of the encoder also run on a few rows of
a batch at a time, which batch normalisation in training forbids in the residual network. For more
depth each layer of the encoder is repeated (and each stage of the residual network longer); every
layer is a block of local training.
Memory is the peak of one forward and backward pass above weights, gradients and inputs
(`linlocal.analysis.training`), counted on the CPU tensor by tensor and on a GPU by the allocator.
Time is that of a whole step with its update. The published savings stand beside those of the
encoders at the published sizes with a loss (SCFF) that has no projections: the activities alone.
"""

from __future__ import annotations

import statistics
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn

from experiments.networks import encoders as networks, narrow_resnet
from experiments.runner import Sweep
from linlocal.analysis.local_losses import CLAPP, SCFF, HeadedViews, HeadKind, LocalRule
from linlocal.analysis.training import GlobalTrainer, LocalTrainer, Trainer, peak_bytes


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        depths: numbers of blocks, multiples of 8.
        batches: numbers of images, each in two views.
        sides: sides of the images in pixels.
        depth: number of blocks where something else varies.
        batch: number of images where something else varies.
        side: side of the images in pixels where something else varies.
        micro_batch: number of rows that a block runs on at a time in training with micro-batches,
            both views counted.
        width: factor on the numbers of channels.
        published_width: the same factor for the encoders at the published sizes.
        steps: number of timed steps, whose median counts.
        device: name of the torch device.
        seed: seeds the weights and the images.
    """

    depths: tuple[int, ...] = (8, 16, 32)
    batches: tuple[int, ...] = (4, 8, 16)
    sides: tuple[int, ...] = (16, 32, 64)
    depth: int = 8
    batch: int = 8
    side: int = 32
    micro_batch: int = 4
    width: float = 1 / 8
    published_width: float = 1.0
    steps: int = 3
    device: str = "cpu"
    seed: int = 0


PRESETS = {
    "smoke": Config(
        depths=(8, 16, 24),
        batches=(2, 4),
        sides=(16, 32),
        batch=2,
        side=16,
        micro_batch=2,
        width=1 / 64,
        published_width=1 / 64,
        steps=1,
    ),
    "cpu": Config(),
    "paper": Config(
        depths=(8, 16, 32, 64),
        batches=(16, 32, 64, 128),
        sides=(64, 96, 128, 224),
        batch=32,
        side=96,
        micro_batch=8,
        width=1.0,
        steps=20,
        device="cuda",
    ),
}
PUBLISHED = "peak memory saved, arXiv 2601.21683"

AXES = {"depth": "depths", "batch": "batches", "side": "sides"}
ENCODER = "8-layer encoder"
HEADS: dict[str, HeadKind] = {
    "residual network": "local",
    "residual network, expansion": "expansion",
}
NETWORKS = (ENCODER, *HEADS)
WHOLE, MICRO = "end to end", "local, in micro-batches"
TRAININGS = ("local", WHOLE, MICRO)
# Encoder, side and batch of the published savings.
SETTINGS: dict[str, tuple[networks.Name, int, int]] = {
    "STL-10": ("vgg6", 96, 32),
    "ImageNet": ("vgg8", 224, 32),
}


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Measure along three axes.

    Returns:
        For each axis (depth, batch, side) ``bytes_by_AXIS`` and ``seconds_by_AXIS`` over network,
        training and the axis, NaN where the network cannot be trained so; ``published_bytes`` over
        setting and training.
    """

    def measure(**point: Any) -> xr.Dataset:
        return xr.Dataset(measured(config, **point))

    usual = {axis: getattr(config, axis) for axis in AXES}
    sizes = {axis: [{**usual, axis: v} for v in getattr(config, AXES[axis])] for axis in AXES}
    # The usual size lies on every axis, but is measured once.
    points = [
        {"network": network, "training": training, **dict(size)}
        for network, training in product(NETWORKS, TRAININGS)
        for size in dict.fromkeys(tuple(size.items()) for axis in AXES for size in sizes[axis])
        if network == ENCODER or training != MICRO
    ]
    found = sweep(measure, points, "sizes", alone=True)
    at = {tuple(point.values()): each for point, each in zip(points, found, strict=True)}
    result = xr.Dataset()
    for axis, plural in AXES.items():
        coords = {
            "network": list(NETWORKS),
            "training": list(TRAININGS),
            axis: list(getattr(config, plural)),
        }
        for quantity, unit in (("bytes", "bytes"), ("seconds", "s")):
            values = [
                float(at[cell][quantity]) if (cell := (n, t, *size.values())) in at else np.nan
                for n, t, size in product(NETWORKS, TRAININGS, sizes[axis])
            ]
            shaped = np.reshape(values, [len(each) for each in coords.values()])
            result[f"{quantity}_by_{axis}"] = xr.DataArray(
                shaped, coords, list(coords), attrs={"units": unit}
            )
    settings = [{"setting": s, "training": t} for s, t in product(SETTINGS, TRAININGS)]
    counted = sweep(
        lambda setting, training: xr.Dataset({"bytes": published(config, setting, training)}),
        settings,
        "published sizes",
        alone=True,
    )
    whole = np.array([float(each["bytes"]) for each in counted])
    return result.assign_coords(setting=list(SETTINGS)).assign(
        published_bytes=(
            ("setting", "training"),
            whole.reshape(len(SETTINGS), len(TRAININGS)),
            {"units": "bytes"},
        )
    )


def measured(
    config: Config, network: str, training: str, depth: int, batch: int, side: int
) -> dict[str, float]:
    """The ``bytes`` and ``seconds`` of one point."""
    torch.set_num_threads(1)
    rule: LocalRule = CLAPP()
    if network == ENCODER:
        model = encoder(depth, config.width, side, config.seed)
    else:
        model = residual(depth, config.width, config.seed)
        width = max(round(2048 * config.width), 8)
        rule = HeadedViews(kind=HEADS[network], width=width, widths=(width, width))
    made = _trainer(training, model, rule, side, config)
    seconds = _seconds(made, 2 * batch, side, config)
    return {"bytes": _peak(made, 2 * batch, side, config.device), "seconds": seconds}


def published(config: Config, setting: str, training: str) -> int:
    """Peak bytes of activities at the size of a published saving."""
    name, side, batch = SETTINGS[setting]
    model = networks.build(name, width=config.published_width, image_size=side, seed=config.seed)
    made = _trainer(training, model, SCFF(), side, config)
    # Too large to be computed without a GPU.
    on_gpu = config.device.startswith("cuda")
    return _peak(made, 2 * batch, side, config.device if on_gpu else "meta")


def encoder(depth: int, width: float, side: int, seed: int) -> nn.Sequential:
    """The 8-layer encoder, each layer followed by repetitions of it without pooling.

    Raises:
        ValueError: a depth that is no multiple of 8.
    """
    model = networks.build("vgg8", width=width, image_size=side, seed=seed)
    first = list(model.children())
    if depth < 1 or depth % len(first):
        raise ValueError(f"The depth must be a multiple of {len(first)}, got {depth}.")
    blocks: list[nn.Module] = []
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        for block in first:
            channels = next(block.children()).get_parameter("bias").numel()
            blocks.append(block)
            for _ in range(depth // len(first) - 1):
                again = nn.Conv2d(channels, channels, 3, padding=1)
                blocks.append(nn.Sequential(again, nn.ReLU()))
    return _named(blocks)


def residual(depth: int, width: float, seed: int) -> nn.Sequential:
    """`narrow_resnet` with every residual block as a block, the stem with the first.

    Raises:
        ValueError: a depth that is no multiple of 4.
    """
    if depth < 1 or depth % 4:
        raise ValueError(f"The depth must be a multiple of 4, got {depth}.")
    stages = narrow_resnet(max(round(64 * width), 2), 3, layers=depth // 4, seed=seed)
    layers = [layer for stage in stages for layer in stage.children()]
    stem = len(layers) - depth
    return _named([nn.Sequential(*layers[: stem + 1]), *layers[stem + 1 :]])


def _named(blocks: list[nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict((f"block{l}", b) for l, b in enumerate(blocks, start=1)))


def _trainer(
    training: str, model: nn.Module, rule: LocalRule, side: int, config: Config
) -> Trainer:
    from lightning_fabric import Fabric

    accelerator = "cuda" if config.device.startswith("cuda") else "cpu"
    names = [name for name, _ in model.named_children()]
    fabric = Fabric(accelerator=accelerator, devices=1)
    make: Callable[..., Trainer] = GlobalTrainer if training == WHOLE else LocalTrainer
    if training == MICRO:
        make = partial(LocalTrainer, micro_batch=config.micro_batch)
    return make(model, names, rule, shape=(3, side, side), fabric=fabric, seed=config.seed)


def _seconds(made: Trainer, rows: int, side: int, config: Config) -> float:
    """Median time of a step, after one that does not count."""
    generator = torch.Generator().manual_seed(config.seed)
    views = torch.randn(rows, 3, side, side, generator=generator).to(config.device)
    taken = []
    for _ in range(config.steps + 1):
        start = time.perf_counter()
        made.step(views)
        if views.is_cuda:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def _peak(made: Trainer, rows: int, side: int, device: str) -> int:
    """Peak bytes of a pass; on "meta" the trainer is left without values."""
    made.model.to(device)
    made.losses.to(device)
    views = torch.zeros(rows, 3, side, side, device=device)
    made.backward(views)  # so that the gradients exist
    return peak_bytes(partial(made.backward, views), device)
