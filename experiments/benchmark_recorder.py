"""What a recorded step costs, against a plain forward and backward pass of the same training.

    python -m experiments.benchmark_recorder                 # minutes on a CPU; prints a table
    python -m experiments.benchmark_recorder --device cuda

The network is the VGG-like encoder of arXiv 2601.21683 with 6 layers, 128, 256, 256, 512, 1024 and
1024 wide, 3x3, max-pool after 2, 4, 5 and 6; both views of 16 images of 32x32 make a batch of 32.
The rule is CLAPP++ with direct feedback; the global loss is its loss on the last block. Steps with
and without the recorder take turns, and the median over neighbours counts: of one thread's process
time on a CPU, of wall time elsewhere.
"""

from __future__ import annotations

import json
import statistics
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from analysis.capture import output_shapes
from analysis.local_losses import CLAPP
from analysis.recorder import AlignmentRecorder
from analysis.results import Provenance


@dataclass(frozen=True)
class Config:
    """What is timed.

    Attributes:
        widths: of the layers.
        pooled: layers (1..L) that a max-pool of 2 follows.
        batch: rows, both views together.
        size: pixels of a side.
        steps: recorded and plain steps each; the first of them warm up.
        device: where.
        seed: of weights and images.
    """

    widths: tuple[int, ...] = (128, 256, 256, 512, 1024, 1024)
    pooled: tuple[int, ...] = (2, 4, 5, 6)
    batch: int = 32
    size: int = 32
    steps: int = 12
    device: str = "cpu"
    seed: int = 0


@dataclass(frozen=True)
class Cost:
    """What was measured.

    Attributes:
        plain_s: seconds of a plain step, the median.
        ratio: recorded over plain step, the median over neighbours.
        unrecorded_ratio: the same for a step with the recorder in which nothing is due.
        share: of the training time at cadence 100, in a run of 100 steps: recorded, 99 not.
        flush_s: seconds of one transfer and write, done for every 10 recorded steps.
    """

    plain_s: float
    ratio: float
    unrecorded_ratio: float
    share: float
    flush_s: float


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


def measure(config: Config, folder: Path) -> Cost:
    """Time plain, recorded and unrecorded steps in turns; ``folder`` takes what is recorded."""
    torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    model = encoder(config).to(config.device)
    images = torch.randn(config.batch, 3, config.size, config.size, device=config.device)
    losses = CLAPP(context="top").build(output_shapes(model, None, images), config.seed)
    losses.to(config.device)
    recorder = AlignmentRecorder(
        model, rule=losses, every=2, path=folder, flush_every=10**9, trains_rule=True
    )

    def step(recorded: bool) -> None:
        model.zero_grad()
        with recorder.step() if recorded else nullcontext():
            top: Tensor = model(images)
            losses[-1](top, top.detach()).backward()

    def seconds(recorded: bool) -> float:
        start = _now(config.device)
        step(recorded)
        return _now(config.device) - start

    plain, due, idle = [], [], []
    warm = min(3, config.steps - 1)
    for i in range(config.steps):
        if i == warm:
            # The first write also asks for the provenance.
            recorder.flush()
        due.append(seconds(True))
        plain.append(seconds(False))
        idle.append(seconds(True))
    ratio, unrecorded = (
        statistics.median(a / b for a, b in zip(times[warm:], plain[warm:], strict=True))
        for times in (due, idle)
    )
    start = _now(config.device)
    recorder.flush()
    flush_s = _now(config.device) - start
    plain_s = statistics.median(plain[warm:])
    # Per recorded step a tenth of a flush.
    extra = (ratio - 1.0) + flush_s / 10 / plain_s
    return Cost(plain_s, ratio, unrecorded, extra / (100 + extra), flush_s)


def _now(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    steps: Annotated[int, typer.Option(help="steps of each kind")] = 12,
) -> None:
    """Print what a recorded step costs, and the hardware."""
    config = Config(device=device, steps=steps)
    with TemporaryDirectory() as folder:
        cost = measure(config, Path(folder))
    hardware = json.loads(Provenance.collect("benchmark", "cpu", 0, asdict(config)).hardware)
    name = hardware.get("accelerator") if device.startswith("cuda") else hardware["processor"]
    print(
        "| device | threads | plain step, s | recorded / plain | not due / plain | share at 100 |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    print(
        f"| {name} | {torch.get_num_threads()} | {cost.plain_s:.4f} | {cost.ratio:.2f} | "
        f"{cost.unrecorded_ratio:.3f} | {100 * cost.share:.2f} % |"
    )


if __name__ == "__main__":
    typer.run(main)
