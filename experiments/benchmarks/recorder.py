"""What a recorded step costs, against a plain forward and backward pass of the same training.

The network is the VGG-like encoder of arXiv 2601.21683 with 6 layers, 128, 256, 256, 512, 1024 and
1024 wide, 3x3, max-pool after 2, 4, 5 and 6; both views of 16 images of 32x32 make a batch of 32.
The rule is CLAPP++ with direct feedback; the global loss is its loss on the last block. Plain steps
and steps that are recorded, with and without the terms of the mismatch, take turns, and the median
over neighbours counts: of one thread's process time on a CPU, of wall time elsewhere.
"""

from __future__ import annotations

import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import xarray as xr
from torch import Tensor, nn

from linlocal.analysis.alignment import AlignmentRecorder
from linlocal.analysis.block import resolve
from linlocal.analysis.local_losses import CLAPP
from linlocal.analysis.training import peak_bytes
from linlocal.analysis.watching import survey


@dataclass(frozen=True)
class Config:
    """What is timed.

    Attributes:
        widths: widths of the layers.
        pooled: layers (1..L) that a max-pool of 2 follows.
        batch: number of rows, both views together.
        size: side of the images in pixels.
        steps: number of recorded steps, and of plain ones; the first of them warm up.
        device: name of the torch device.
        seed: seeds the weights and the images.
    """

    widths: tuple[int, ...] = (128, 256, 256, 512, 1024, 1024)
    pooled: tuple[int, ...] = (2, 4, 5, 6)
    batch: int = 32
    size: int = 32
    steps: int = 12
    device: str = "cpu"
    seed: int = 0


TITLE = "A recorded training step"
CONFIGS = {"cpu": Config(), "cuda": Config(device="cuda", steps=100)}


def encoder(config: Config) -> nn.Sequential:
    """The VGG-like encoder, one child per block."""
    layers: list[nn.Module] = []
    channels = 3
    for l, width in enumerate(config.widths, start=1):
        parts: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
        if l in config.pooled:
            parts.append(nn.MaxPool2d(2))
        layers.append(nn.Sequential(*parts))
        channels = width
    return nn.Sequential(*layers)


def measure(config: Config) -> xr.Dataset:
    """Time plain, recorded and unrecorded steps in turns.

    Returns:
        ``plain_s``: seconds of a plain step, the median. ``ratio``: recorded over plain step, the
        median over neighbours. ``terms_ratio``: the same with ``terms=True``. ``unrecorded_ratio``:
        the same for a step with the recorder in which nothing is due. ``share``: the recorder's
        share of the training time at cadence 100, in a run of 100 steps with one recorded.
        ``flush_s``: seconds of one transfer and write, done for every 10 recorded steps.
        ``memory_ratio``: peak memory of a recorded over a plain step, weights and their gradients
        not counted.
    """
    with TemporaryDirectory() as folder:
        return _measure(config, Path(folder))


def _measure(config: Config, folder: Path) -> xr.Dataset:
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    model = encoder(config).to(config.device)
    images = torch.randn(config.batch, 3, config.size, config.size, device=config.device)
    losses = CLAPP(context="top").build(survey(model, resolve(model), images).shapes, config.seed)
    losses.to(config.device)
    recorder, taking_apart = (
        AlignmentRecorder(
            model,
            rule=losses,
            every=every,
            path=folder / f"every{every}",
            flush_every=10**9,
            trains_rule=True,
            terms=terms,
        )
        for every, terms in ((2, False), (1, True))
    )

    def step(by: AlignmentRecorder | None) -> None:
        model.zero_grad()
        with nullcontext() if by is None else by.step():
            top: Tensor = model(images)
            losses[-1](top, top.detach()).backward()

    def seconds(by: AlignmentRecorder | None) -> float:
        start = _now(config.device)
        step(by)
        return _now(config.device) - start

    plain, due, idle, apart = [], [], [], []
    warm = min(3, config.steps - 1)
    for i in range(config.steps):
        if i == warm:
            # The first write also asks for the provenance.
            recorder.flush()
        due.append(seconds(recorder))
        plain.append(seconds(None))
        idle.append(seconds(recorder))
        apart.append(seconds(taking_apart))
    ratio, unrecorded, with_terms = (
        statistics.median(a / b for a, b in zip(times[warm:], plain[warm:], strict=True))
        for times in (due, idle, apart)
    )
    start = _now(config.device)
    recorder.flush()
    flush_s = _now(config.device) - start
    plain_s = statistics.median(plain[warm:])
    peaks = [peak_bytes(partial(step, by), config.device) for by in (recorder, None)]
    # A recorded step pays a tenth of a flush.
    extra = (ratio - 1.0) + flush_s / 10 / plain_s
    share = extra / (100 + extra)
    return xr.Dataset(
        {
            "plain_s": plain_s,
            "ratio": ratio,
            "terms_ratio": with_terms,
            "unrecorded_ratio": unrecorded,
            "share": share,
            "flush_s": flush_s,
            "memory_ratio": peaks[0] / peaks[1],
        },
        attrs={"threads": torch.get_num_threads(), "batch": config.batch, "side": config.size},
    )


def _now(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def summary(data: xr.Dataset) -> tuple[str, str, str]:
    """In a few words: what was measured, the number, and what stands beside it."""
    return (
        "a training step with the cosine of every block recorded",
        f"{float(data['ratio']):.2f} times a plain one",
        f"with masks, feedback and slopes {float(data['terms_ratio']):.2f} times; every 100th step "
        f"recorded: {float(data['share']):.1%} of the time",
    )


def section(data: xr.Dataset) -> list[str]:
    """Lines of the page, from a result file alone."""
    return [
        "VGG-like encoder, 6 layers, CLAPP++ with direct feedback, batch "
        f"{data.attrs['batch']} of {data.attrs['side']}x{data.attrs['side']}, "
        f"{data.attrs['threads']} thread(s); a step is one forward and backward pass.",
        "",
        "| plain step, s | recorded / plain | with terms / plain | not due / plain "
        "| share at cadence 100 | peak memory, recorded / plain |",
        "|---:|---:|---:|---:|---:|---:|",
        f"| {float(data['plain_s']):.4f} | {float(data['ratio']):.2f} | "
        f"{float(data['terms_ratio']):.2f} | "
        f"{float(data['unrecorded_ratio']):.3f} | {float(data['share']):.2%} "
        f"| {float(data['memory_ratio']):.2f} |",
    ]
