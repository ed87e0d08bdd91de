"""A long training from the shell: ResNet-50 or another network, blockwise or end to end.

See `experiments.pretrain` for what it leaves, and docs/scale.md for many processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.distributed as dist
import typer

from experiments.data import DataError
from experiments.pretrain import dry_run
from experiments.pretrain.loop import Pretraining, make_fabric, provenance_of
from experiments.pretrain.owner import owned
from experiments.pretrain.settings import (
    LOSS_NAMES,
    NETWORKS,
    ORDERS,
    PRECISIONS,
    PRESETS,
    Settings,
    claim,
    finished,
)
from linlocal.analysis import results
from linlocal.analysis.results import ResultError
from linlocal.analysis.training import CheckpointError

STRATEGIES = ("auto", "ddp")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _words(names: Any) -> str:
    return " | ".join(names)


_HELP = """Train a network for long, probe every block, and write OUT/pretrain.nc.

Try it within seconds, estimate a real run, start it, and start it again after a crash:

\b
  python -m experiments.pretrain --preset smoke --out runs/smoke
  python -m experiments.pretrain --data folder:/data/imagenet --workers 12 --out runs/one --dry-run
  python -m experiments.pretrain --data folder:/data/imagenet --workers 12 --out runs/one
  TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --nproc-per-node 8 --max-restarts 3 \\
      -m experiments.pretrain ... --out runs/one

The same command goes on from the newest checkpoint in OUT; another one is refused there.
OUT/log.jsonl has losses, images/s, what the bottleneck is, and how many images were skipped because
they are damaged; `linlocal.analysis.alignment.series.read(Path("OUT/alignment"))` has the cosines
so far.
"""


@app.command(help=_HELP)
def main(
    out: Annotated[Path, typer.Option(help="Folder of the run.", file_okay=False)],
    preset: Annotated[
        str,
        typer.Option(
            help="Size, parts of which the options below change: smoke takes seconds, cpu minutes"
            " on a laptop, paper is ResNet-50 at 224x224 for 300 epochs."
        ),
    ] = "paper",
    data: Annotated[
        str | None,
        typer.Option(
            help="rhm (images of a Random Hierarchy Model, drawn on the device), folder:PATH"
            " (PATH/train/CLASS/*.JPEG, PATH/val/CLASS/*.JPEG) or shards:PATH (PATH/train*.tar,"
            " PATH/val*.tar of webdataset)."
        ),
    ] = None,
    network: Annotated[str | None, typer.Option(help=_words(NETWORKS))] = None,
    loss: Annotated[str | None, typer.Option(help=_words(LOSS_NAMES))] = None,
    order: Annotated[
        str | None,
        typer.Option(
            help=f"{_words(ORDERS)}: each block by its own loss, or all by that of the last."
        ),
    ] = None,
    noise: Annotated[
        float | None, typer.Option(help="Scale of the noise between blocks; 0 for none.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of training.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of training, instead of epochs.")] = None,
    batch: Annotated[
        int | None, typer.Option(help="Images in a batch, all processes together.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the images in pixels.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Rate of LARS for a batch of 256; it grows with the batch.")
    ] = None,
    precision: Annotated[str | None, typer.Option(help=_words(PRECISIONS))] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints; a restart loses at most these.")
    ] = None,
    record_every: Annotated[
        str | None,
        typer.Option(
            help="Steps between records of the cosines of local and end-to-end gradients; log for"
            " 8 in each decade, never for none. Of simultaneous training only: end to end, the"
            " lower blocks have no loss."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seeds data, views, weights and noise.")] = None,
    strategy: Annotated[
        str, typer.Option(help=f"{_words(STRATEGIES)}; auto is ddp for several processes.")
    ] = "auto",
    workers: Annotated[
        int, typer.Option(help="Processes that decode images, for each that trains.", min=0)
    ] = 0,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Check data, disk and memory, measure a few steps, estimate the whole run, and"
            " stop: with exit code 0 if it can succeed, with the reason if not.",
        ),
    ] = False,
) -> None:
    """Train a network for long, probe every block, and write OUT/pretrain.nc."""
    options = locals()
    with _short_errors():
        given = {
            field.name: options[field.name]
            for field in fields(Settings)
            if options.get(field.name) is not None
        }
        if "epochs" in given:
            given.setdefault("steps", 0)
        settings = replace(PRESETS[results.known_name("preset", preset, PRESETS)], **given)
        results.known_name("strategy", strategy, STRATEGIES)
        try:
            _run(settings, preset, strategy, workers, out, dry)
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()


def _run(
    settings: Settings, preset: str, strategy: str, workers: int, out: Path, dry: bool
) -> None:
    fabric = make_fabric(settings.precision, strategy)
    first = fabric.is_global_zero
    provenance = provenance_of(settings, preset)
    done = None if dry else finished(out, settings)
    if done is not None:
        if first:
            typer.echo(f"finished: {out / 'pretrain.nc'}")
            if done.code != provenance.code:
                typer.echo(
                    f"by other code, {done.code}; to run the present one, give another --out"
                )
        return
    run = Pretraining(settings, fabric, workers)
    if dry:
        found = dry_run.estimate(run, out)
        if first:
            typer.echo(str(found))
        if found.problem:
            _fail(found.problem)
        return
    with owned(out) if first else nullcontext():
        if first:
            claim(out, settings)
        fabric.barrier()
        codes = run.resume(out, provenance.code)
        if first and len(codes) > 1:
            for step, code in codes.items():
                typer.echo(f"trained by code {code} from step {step} on", err=True)
            typer.echo(
                "the code is not that of the checkpoint, so the result will name both", err=True
            )
        run.train(out, codes)
        if not first:
            return
        data = run.finish(out, provenance, codes)
    names = [*data["block"].values]
    accuracies = (f"{name} {float(data['accuracy'].sel(block=name)):.1%}" for name in names)
    typer.echo(f"accuracy of a probe of each block: {', '.join(accuracies)}")
    typer.echo(f"skipped images: {int(data['skipped'])}\nwritten: {out / 'pretrain.nc'}")


@contextmanager
def _short_errors() -> Iterator[None]:
    """Turn mistakes of the user (code 2) and runs that fail (code 1) into one line."""
    try:
        yield
    except (ResultError, DataError, CheckpointError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except (FloatingPointError, torch.OutOfMemoryError) as error:
        _fail(str(error).partition("\n")[0])
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on from the newest checkpoint", err=True)
        raise typer.Exit(130) from None


def _fail(reason: str) -> None:
    typer.echo(f"the run cannot succeed: {reason}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app(prog_name="python -m experiments.pretrain")
