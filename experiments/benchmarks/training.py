"""Training as the experiments do it against a plain pass of the same encoder, side by side.

A step of an experiment takes a batch of bytes, draws two augmented views of each image, runs the
encoder, its losses and the optimiser. Beside it stands what PyTorch does least: one forward pass of
the encoder on views that are ready, in PyTorch's own memory format, a sum of squares as the loss,
and one backward pass. Both take turns; the lower quartile of one thread's process time counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from experiments.data import simclr, two_views
from experiments.networks import build
from experiments.training import Schedule, fabric_on, released_clapp
from linlocal.analysis.training import GlobalTrainer, LocalTrainer, Trainer


@dataclass(frozen=True)
class Config:
    """What is timed.

    Attributes:
        widths: factors on the channels of the encoder.
        images: images in a batch, which two views make twice as large.
        size: side of the images in pixels.
        steps: steps of each kind; the first fifth warms up.
        seed: seeds the weights, the images and the views.
    """

    widths: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4)
    images: int = 32
    size: int = 32
    steps: int = 20
    seed: int = 0


TITLE = "Training of an encoder beside plain PyTorch"
CONFIGS = {"cpu": Config()}
KINDS: dict[str, Callable[..., Trainer]] = {
    "local losses": partial(LocalTrainer, one_pass=True),
    "end to end": GlobalTrainer,
}
CELLS = (8, 4, 4, 4, 2, 1)  # of the losses, as in `experiments.catalogue.trained_cnn`


def measure(config: Config) -> xr.Dataset:
    """Time all three.

    Returns:
        Over width: ``plain_s``, seconds of a plain pass, ``last_s`` of one in the memory format of
        the experiments, and ``augment_s`` of the augmentation. Over width and trainer: ``step_s``,
        seconds of a whole step.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [_width(width, config) for width in config.widths]
    finally:
        torch.set_num_threads(threads)
    seconds = {
        name: ("width", [row[name] for row in rows], {"units": "s"})
        for name in ("plain_s", "last_s", "augment_s")
    }
    steps = [[row[kind] for kind in KINDS] for row in rows]
    return xr.Dataset(
        {**seconds, "step_s": (("width", "trainer"), steps, {"units": "s"})},
        {"width": list(config.widths), "trainer": list(KINDS)},
        {"images": config.images, "side": config.size},
    )


def _width(width: float, config: Config) -> dict[str, float]:
    network = build("vgg6", width=width, image_size=config.size, seed=config.seed)
    random = torch.Generator().manual_seed(config.seed)
    shape = (config.images, 3, config.size, config.size)
    images = torch.randint(256, shape, generator=random).to(torch.uint8)
    augmentation = simclr(config.size)
    views = partial(two_views, images, augmentation)
    ready = views(config.seed)
    plain = deepcopy(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    calls: dict[str, Callable[[int], Any]] = {
        "plain_s": lambda _: _pass(plain, ready),
        "last_s": lambda _: _pass(network, ready),
        "augment_s": views,
    }
    for name, kind in KINDS.items():
        trainer = kind(
            deepcopy(cast(nn.Sequential, network)),
            None,
            released_clapp(CELLS),
            shape=ready.shape[1:],
            optimiser=Schedule(config.steps, 1e-4).optimiser,
            fabric=fabric_on(ready.device),
            seed=config.seed,
        )
        calls[name] = partial(_whole_step, trainer, views)
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for step in range(config.steps):
        for name, call in calls.items():
            start = time.process_time()
            call(step)
            taken[name].append(time.process_time() - start)
    warm = config.steps // 5
    return {name: float(np.quantile(each[warm:], 0.25)) for name, each in taken.items()}


def _whole_step(trainer: Trainer, views: Callable[[int], Tensor], step: int) -> None:
    trainer.step(views(step))


def _pass(network: nn.Module, views: Tensor) -> None:
    network.zero_grad()
    network(views).square().sum().backward()


def summary(data: xr.Dataset) -> tuple[str, str, str]:
    """In a few words: what was measured, the number, and what stands beside it."""
    ratio = data["step_s"] / data["plain_s"]
    local, whole = (float(ratio.sel(trainer=kind).max()) for kind in KINDS)
    return (
        "a training step of an experiment with augmentation, losses and optimiser",
        f"{local:.2f} times a plain forward and backward pass at most, by local losses",
        f"end to end {whole:.2f} times",
    )


def section(data: xr.Dataset) -> list[str]:
    """Lines of the page, from a result file alone."""
    images, side = data.attrs["images"], data.attrs["side"]
    lines = [
        f"VGG-like encoder, 6 layers, CLAPP++, two views of {images} images of {side}x{side}, one",
        "thread. A plain pass is one forward and backward pass of the encoder alone, on views that",
        "are ready, in the memory format that PyTorch takes by itself. The experiments store",
        "kernels with channels last.",
        "",
        "| width | plain pass, ms | channels last | augmentation alone | "
        + " | ".join(f"whole step, {kind}" for kind in data["trainer"].values)
        + " |",
        "|---" * (4 + data.sizes["trainer"]) + "|",
    ]
    for width in data["width"].values:
        row = data.sel(width=width)
        plain = float(row["plain_s"])
        ratios = [float(row[name]) / plain for name in ("last_s", "augment_s")]
        ratios += [float(each) / plain for each in row["step_s"]]
        lines.append(
            f"| {width:g} | {1e3 * plain:.1f} | "
            + " | ".join(f"{ratio:.2f}" for ratio in ratios)
            + " |"
        )
    return [*lines, "", "All but the second column are ratios to it."]
