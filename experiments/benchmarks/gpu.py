"""Images per second and peak memory of end-to-end, blockwise and layer-local training.

    python -m experiments.benchmarks.gpu --device cuda --out results      # half an hour on a GPU
    python -m experiments.benchmarks.gpu --device cuda --eager            # two minutes, uncompiled
    python -m experiments.benchmarks.gpu --preset smoke --out results     # seconds on a CPU

Two networks at 224x224: ResNet-50 cut into its 4 stages, with the head, projector and Barlow Twins
of arXiv 2302.01647, and the 8-layer encoder of arXiv 2601.21683 with CLAPP++ in every layer. Both
are trained end to end by the last block's loss and by all blocks' losses, the memory of a block
freed before the next runs, also with blocks that run on a micro-batch at a time; in bf16 autocast
and channels_last, compiled block by block and not. A step is forward, backward and update of a
batch of images in two views; its peak memory is what the allocator had on top of weights, gradients
and optimiser, on the CPU what `peak_bytes` counts. What cannot be measured (memory runs out, no
compiler, micro-batches of a ResNet with its BatchNorm) is left out of the result, and its reason is
written beside it. The overhead of the recorder is that of a step in which it is due.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import xarray as xr
from torch import nn
from tqdm import tqdm

from experiments.networks import cut, encoders as networks
from experiments.runner import registry
from experiments.training import lars
from linlocal.analysis import results
from linlocal.analysis.alignment import AlignmentRecorder
from linlocal.analysis.local_losses import CLAPP, HeadedViews, LocalRule
from linlocal.analysis.results import Provenance
from linlocal.analysis.training import GlobalTrainer, LocalTrainer, Trainer, peak_bytes


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        batches: number of images in a batch, for each network.
        size: side of the images in pixels.
        width: factor on the numbers of channels of the 8-layer encoder, the heads and projectors.
        steps: number of timed steps, after the warm-up.
        warm_up: number of steps before the timed ones.
        precision: a precision that Fabric knows.
        micro_batch: number of rows that a block runs on at a time in training with micro-batches; a
            batch has two rows for each image.
        compiled: the cases to measure: with compiled blocks, without, or both.
        device: name of the torch device.
        seed: seeds the weights and the images.
    """

    batches: tuple[int, int] = (128, 128)
    size: int = 224
    width: float = 1.0
    steps: int = 20
    warm_up: int = 5
    precision: str = "bf16-mixed"
    micro_batch: int = 16
    compiled: tuple[bool, ...] = (False, True)
    device: str = "cuda"
    seed: int = 0


PRESETS = {
    "smoke": Config(
        batches=(2, 2),
        size=32,
        width=1 / 64,
        steps=1,
        warm_up=0,
        micro_batch=1,
        compiled=(False,),
        device="cpu",
    ),
    "cpu": Config(
        batches=(4, 4),
        steps=3,
        warm_up=1,
        width=0.25,
        micro_batch=1,
        compiled=(False,),
        device="cpu",
    ),
    "paper": Config(),
}
NETWORKS = ("ResNet-50, 4 blocks", "8-layer encoder")
END_TO_END, IN_MICRO_BATCHES = "end to end", "local, micro-batches"
TRAININGS: dict[str, type[Trainer]] = {
    "local": LocalTrainer,
    IN_MICRO_BATCHES: LocalTrainer,
    END_TO_END: GlobalTrainer,
}


def measure(config: Config) -> xr.Dataset:
    """Measure every network, training and compilation, one after the other.

    Returns:
        Over network, training and compiled: ``images_per_s``, ``peak_gib``, ``recorder_ratio`` (a
        step in which the recorder is due, over one without it; of end-to-end training in the eager
        network), NaN where nothing was measured, and ``why``; ``memory_ratio`` (its peak
        over that of end-to-end training).
    """
    cells = list(product(NETWORKS, TRAININGS, config.compiled))
    rows = []
    for cell in tqdm(cells, "cells", disable=None):
        row: dict[str, Any] = {"images_per_s": None, "peak_gib": None, "recorder_ratio": None}
        try:
            why = ""
            row |= _measured(config, *cell)
        # A compiler that is missing or fails raises nearly anything.
        except Exception as error:  # the reason is kept, and the other cells are measured
            why = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        rows.append(row | {"why": why})
        if config.device.startswith("cuda"):
            torch.cuda.empty_cache()
    coordinates = {
        "network": list(NETWORKS),
        "training": list(TRAININGS),
        "compiled": list(map(str, config.compiled)),
    }
    shape = [len(values) for values in coordinates.values()]
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    data = xr.Dataset(coords=coordinates)
    for key, values in columns.items():
        kind: Any = str if key == "why" else float
        flat = xr.DataArray(values).astype(kind).values
        data[key] = (list(coordinates), flat.reshape(shape))
    peak = data["peak_gib"]
    return data.assign(memory_ratio=peak / peak.sel(training=END_TO_END, drop=True))


def _measured(config: Config, network: str, training: str, compiled: bool) -> dict[str, float]:
    torch.manual_seed(config.seed)
    position = NETWORKS.index(network)
    batch = config.batches[position]
    model, rule = build(config, network)
    model = model.to(config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    names = [name for name, _ in model.named_children()]
    if compiled:
        for name in names:
            setattr(model, name, torch.compile(model.get_submodule(name)))
    options: dict[str, Any] = {}
    if training == IN_MICRO_BATCHES:
        options["micro_batch"] = config.micro_batch
    trainer = TRAININGS[training](
        model,
        names,
        rule,
        shape=(3, config.size, config.size),
        fabric=_fabric(config),
        optimiser=lars if position == 0 else partial(torch.optim.AdamW, lr=2e-4),
        seed=config.seed,
        **options,
    )
    images = torch.randn(2 * batch, 3, config.size, config.size, device=config.device)
    images = images.contiguous(memory_format=torch.channels_last)
    step = partial(trainer.step, images)
    for _ in range(config.warm_up):
        step()
    seconds = statistics.median(_seconds(step, config.device) for _ in range(config.steps))
    found = {"images_per_s": batch / seconds}
    trainer.backward(images)  # so that gradients exist and are not counted
    found["peak_gib"] = peak_bytes(partial(trainer.backward, images), config.device) / 2**30
    trainer.model.zero_grad(set_to_none=True)
    if training == END_TO_END and not compiled:
        found["recorder_ratio"] = _recorded(config, trainer, rule, images)
    return found


def build(config: Config, network: str) -> tuple[nn.Sequential, LocalRule]:
    """A network, whose children are the blocks, and its rule."""
    if network == NETWORKS[0]:
        width = max(round(2048 * config.width), 8)
        rule = HeadedViews(width=width, widths=(4 * width,) * 3)
        whole = networks.build("resnet50", image_size=config.size, seed=config.seed)
        return cut(whole), rule
    model = networks.build("vgg8", width=config.width, image_size=config.size, seed=config.seed)
    assert isinstance(model, nn.Sequential)
    return model, CLAPP()


def _recorded(config: Config, trainer: Trainer, rule: LocalRule, images: torch.Tensor) -> float:
    """Median ratio of the times of a recorded and a plain forward and backward pass."""
    losses = rule.build(trainer.shapes, config.seed).to(config.device)
    losses[-1] = trainer.losses[-1]
    recorder = AlignmentRecorder(
        trainer.model, rule=losses, every=1, flush_every=10**9, trains_rule=True
    )

    def step(recorded: bool) -> None:
        with recorder.step() if recorded else nullcontext():
            trainer.backward(images)
        trainer.model.zero_grad(set_to_none=True)

    ratios = []
    for _ in range(config.warm_up + config.steps):
        times = [_seconds(partial(step, recorded), config.device) for recorded in (True, False)]
        ratios.append(times[0] / times[1])
    return statistics.median(ratios[config.warm_up :])


def _fabric(config: Config) -> Any:
    from lightning_fabric import Fabric

    accelerator = "cuda" if config.device.startswith("cuda") else "cpu"
    precision: Any = config.precision
    return Fabric(accelerator=accelerator, devices=1, precision=precision)


def _seconds(call: Callable[[], object], device: str) -> float:
    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def table(data: xr.Dataset) -> str:
    """The measurements as a table in Markdown; cells that were not measured stay empty."""
    lines = [
        "| network | training | compiled | images/s | peak, GiB | peak / end to end "
        "| recorded / plain step | note |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    for network, training, compiled in product(*(data[d].values for d in data["why"].dims)):
        row = data.sel(network=network, training=training, compiled=compiled)
        numbers = [
            "" if row[key].isnull() else f"{float(row[key]):{form}}"
            for key, form in (
                ("images_per_s", ".4g"),
                ("peak_gib", ".3g"),
                ("memory_ratio", ".2f"),
                ("recorder_ratio", ".2f"),
            )
        ]
        words = [str(network), str(training), str(compiled), *numbers, str(row["why"].values)]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines)


def section(data: xr.Dataset) -> list[str]:
    """Lines of the page of all benchmarks, from a result file alone."""
    config = json.loads(data.attrs["config"])
    size, batches = config["size"], " and ".join(map(str, config["batches"]))
    head, projector = (round(full * config["width"]) for full in (2048, 8192))
    return [
        f"Batches of {batches} images of {size}x{size} in two views, {config['precision']}. Each "
        f"block of the ResNet that has a loss has a head of {head} and a projector of {projector} "
        "channels. Compiled blocks that are not in the table were not measured.",
        "",
        table(data),
    ]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder of the result file.")] = Path("results"),
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    preset: Annotated[
        str, typer.Option(help="smoke, cpu or paper; by default of the device.")
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seeds the weights and the images.")] = 0,
    eager: Annotated[
        bool, typer.Option("--eager", help="Leave out compiled blocks, which take minutes each.")
    ] = False,
) -> None:
    """Measure, write gpu_benchmark-PRESET-seedSEED.nc and print it as a table."""
    chosen = preset or ("paper" if device.startswith("cuda") else "cpu")
    try:
        known = PRESETS[results.known_name("preset", chosen, PRESETS)]
        registry.check_device(device)
        results.usable_folder(out)
    except results.ResultError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    config = replace(known, device=device, seed=seed)
    if eager:
        config = replace(config, compiled=(False,))
    start = time.perf_counter()
    entry = "experiments.benchmarks.gpu:measure"
    provenance = Provenance.collect("gpu_benchmark", chosen, seed, asdict(config), entry)
    data = measure(config)
    if data["images_per_s"].isnull().all():
        reasons = ", ".join(sorted(set(data["why"].values.ravel().tolist())))
        typer.echo(f"error: nothing could be measured, so nothing is written: {reasons}", err=True)
        raise typer.Exit(2)
    path = results.Address("gpu_benchmark", chosen, seed, out).path
    took = round(time.perf_counter() - start, 1)
    results.write(data, path, Provenance(**{**asdict(provenance), "duration_s": took}))
    print(table(data))
    print(f"\n{provenance.hardware}\nwritten: {path}")


if __name__ == "__main__":
    app(prog_name="python -m experiments.benchmarks.gpu")
