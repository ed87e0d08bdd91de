"""A step in windows of w blocks against a step of backpropagation, side by side in one process.

A repeated encoder is trained by a loss that needs no projections, so memory is that of activities.
All trainers take steps on the same batch in turn; the lower quartile of one thread's process time
counts. A window of all blocks ends with the weights of backpropagation, bit by bit, which is
checked. Peaks are those of a forward and backward pass above weights and gradients.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import xarray as xr

from experiments.networks import build
from linlocal.analysis.local_losses import SCFF
from linlocal.analysis.training import GlobalTrainer, LocalTrainer, Trainer, peak_bytes


@dataclass(frozen=True)
class Config:
    """What is timed.

    Attributes:
        rows: rows of a batch, both views together.
        width: factor on the channels of the encoder.
        windows: numbers of blocks; the last is that of the encoder.
        steps: steps of each trainer; the first fifth warms up.
        seed: seeds the weights and the batch.
    """

    rows: int = 64
    width: float = 1 / 8
    windows: tuple[int, ...] = (1, 2, 3, 6, 12, 18, 24)
    steps: int = 15
    seed: int = 0


TITLE = "A step in windows"
CONFIGS = {"cpu": Config()}
SHAPE = (3, 32, 32)


def measure(config: Config) -> xr.Dataset:
    """Time all.

    Returns:
        Over window ``seconds`` and ``bytes``, and ``whole_s`` and ``whole_bytes``, those of
        backpropagation; ``same``, whether the largest window ends with its weights.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = GlobalTrainer(_encoder(config), None, SCFF(), shape=SHAPE)
        trainers: list[Trainer] = [whole]
        for window in config.windows:
            made = LocalTrainer(_encoder(config), None, SCFF(), shape=SHAPE, window=window)
            trainers.append(made)
        generator = torch.Generator().manual_seed(config.seed)
        views = torch.randn(config.rows, *SHAPE, generator=generator)
        times: list[list[float]] = [[] for _ in trainers]
        for _ in range(config.steps):
            for trainer, taken in zip(trainers, times, strict=True):
                start = time.process_time()
                trainer.step(views)
                taken.append(time.process_time() - start)
        pairs = zip(whole.model.parameters(), trainers[-1].model.parameters(), strict=True)
        same = all(torch.equal(a, b) for a, b in pairs)
        peaks = [_peak(trainer, views) for trainer in trainers]
    finally:
        torch.set_num_threads(threads)
    warm = config.steps // 5
    whole_s, *seconds = (float(np.quantile(taken[warm:], 0.25)) for taken in times)
    return xr.Dataset(
        {
            "seconds": ("window", seconds, {"units": "s"}),
            "bytes": ("window", peaks[1:], {"units": "bytes"}),
            "whole_s": ((), whole_s, {"units": "s"}),
            "whole_bytes": ((), peaks[0], {"units": "bytes"}),
            "same": ((), same),
        },
        {"window": list(config.windows)},
        {"rows": config.rows},
    )


def _encoder(config: Config) -> torch.nn.Module:
    depth = config.windows[-1]
    return build("vgg6", width=config.width, image_size=SHAPE[-1], depth=depth, seed=config.seed)


def _peak(trainer: Trainer, views: torch.Tensor) -> int:
    trainer.backward(views)  # so that the gradients exist
    return peak_bytes(partial(trainer.backward, views))


def summary(data: xr.Dataset) -> tuple[str, str, str]:
    """In a few words: what was measured, the number, and what stands beside it."""
    time_, memory = data["seconds"] / data["whole_s"], data["bytes"] / data["whole_bytes"]
    first, second = (int(w) for w in data["window"][:2])
    most = int(time_["window"].values[np.argmax(time_.values)])
    return (
        f"a step in windows of {second} of {int(data['window'][-1])} blocks",
        f"{float(time_.sel(window=second)):.2f} times the time and "
        f"{float(memory.sel(window=second)):.2f} times the memory of backpropagation",
        f"w = {first}: {float(time_.sel(window=first)):.2f} and "
        f"{float(memory.sel(window=first)):.2f}; the slowest, w = {most}: "
        f"{float(time_.max()):.2f} times the time",
    )


def section(data: xr.Dataset) -> list[str]:
    """Lines of the page, from a result file alone."""
    milliseconds, mebibytes = 1e3 * float(data["whole_s"]), float(data["whole_bytes"]) / 2**20
    lines = [
        f"{data.attrs['rows']} rows of 32x32, one thread, SCFF in an encoder of "
        f"{int(data['window'][-1])} blocks, over backpropagation ({milliseconds:.0f} ms, "
        f"{mebibytes:.1f} MiB). The largest window takes "
        f"{'the same steps, bit by bit' if bool(data['same']) else 'OTHER STEPS'}.",
        "",
        "| window | time | memory |",
        "|---:|---:|---:|",
    ]
    for window in data["window"].values:
        row = data.sel(window=window)
        lines.append(
            f"| {window} | {float(row['seconds'] / row['whole_s']):.2f} | "
            f"{float(row['bytes'] / row['whole_bytes']):.2f} |"
        )
    return lines
