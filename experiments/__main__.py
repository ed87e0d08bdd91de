"""The command ``python -m experiments``."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from analysis import results
from analysis.results import Address, Provenance, ResultError
from experiments import registry
from experiments.data import DataError
from experiments.registry import Experiment
from experiments.sweep import Parts, Sweep
from experiments.workers import Workers

app = typer.Typer(
    help="Run experiments and store their results as labelled, self-describing netCDF files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Seed = Annotated[int, typer.Option(help="Seed of every random number in the run.")]
Out = Annotated[Path, typer.Option(help="Folder of the results.", file_okay=False)]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder with data sets: MNIST's training images in IDX format, plain or .gz; unpacked"
        " archives of CIFAR-10 (binary version), STL-10, Tiny ImageNet. Without it, experiments"
        " that need images take what ships with scikit-learn, or make them.",
        file_okay=False,
        exists=True,
    ),
]


@app.command("list")
def list_experiments(out: Out = Path("results"), seed: Seed = 0, data: Data = None) -> None:
    """Show what each experiment shows, its sizes, and the state of its results."""
    with one_line_errors():
        for name in registry.NAMES:
            experiment = registry.load(name)
            typer.echo(f"{name}  ({experiment.PUBLISHED})\n  {registry.summary(experiment)}")
            for preset, size in registry.sizes(experiment).items():
                config = registry.configure(experiment, preset, seed, data)
                address = Address(name, preset, seed, out)
                run_now = Provenance.collect(name, preset, seed, registry.describe(config))
                values = " ".join(f"{key}={value}" for key, value in size.items())
                typer.echo(f"  {preset:<6} {values:<50} {state(address, run_now)}")
            typer.echo()
    typer.echo("Run one with: python -m experiments run NAME --preset smoke|cpu|paper")


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="An experiment (see `list`), or `all`.")],
    preset: Annotated[
        str,
        typer.Option(
            help="Size: smoke takes seconds, cpu minutes on a laptop, paper is the published size."
        ),
    ] = "cpu",
    seed: Seed = 0,
    out: Out = Path("results"),
    data: Data = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compute everything again, even if up to date.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Points of a sweep that are computed at the same time.")
    ] = os.cpu_count() or 1,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Address of a running dask scheduler, e.g. tcp://host:8786, whose workers compute"
            " the points; they must see this checkout.",
            metavar="ADDRESS",
        ),
    ] = None,
) -> None:
    """Run an experiment, unless its result is up to date.

    A result is up to date if the same parameters went through the same source code. An interrupted
    run keeps its finished points; the same command resumes it.
    """
    with one_line_errors():
        names = registry.NAMES if name == "all" else (name,)
        # All imported before any runs: a typo must not cost an hour, nor an edit mix two versions.
        experiments = {each: registry.load(each) for each in names}
        try:
            with Workers(workers, scheduler) as pool:
                several = pool if workers > 1 or scheduler else None
                for each, experiment in experiments.items():
                    config = registry.configure(experiment, preset, seed, data)
                    run_one(Address(each, preset, seed, out), experiment, config, force, several)
        except KeyboardInterrupt:
            command = Address(name, preset, seed, out).command
            option = f" --data {shlex.quote(str(data))}" if data else ""
            typer.echo(f"interrupted; resume with: {command}{option}", err=True)
            raise typer.Exit(130) from None


def run_one(
    address: Address, experiment: Experiment, config: Any, force: bool, workers: Workers | None
) -> None:
    """Make one result file, from the parts of an interrupted run where there are some."""
    label = f"{address.experiment} ({address.preset}, seed {address.seed})"
    parameters = registry.describe(config)
    provenance = Provenance.collect(address.experiment, address.preset, address.seed, parameters)
    if not force and state(address, provenance) == "up to date":
        typer.echo(f"{label}: up to date, {address.path}")
        return
    parts = Parts(parts_folder(address), provenance, fresh=force)
    start = time.perf_counter()
    dataset = experiment.run(config, Sweep(parts, workers))
    duration_s = time.perf_counter() - start + parts.restored_s
    results.write(dataset, address.path, replace(provenance, duration_s=duration_s))
    parts.clear()
    typer.echo(f"{label}: {duration_s:.1f} s, {address.path}")


def parts_folder(address: Address) -> Path:
    """Where an unfinished run keeps its finished points."""
    return address.folder / ".parts" / address.path.stem


def state(address: Address, provenance: Provenance) -> str:
    """The state of a result file, compared with the run that would make it now."""
    if parts_folder(address).exists():
        return "interrupted"
    if not address.path.exists():
        return "no result"
    try:
        stored = Provenance.of(results.read(address.path))
    except ResultError:
        return "damaged"
    if stored.repeats(provenance):
        return "up to date"
    return "older code" if stored.config == provenance.config else "other parameters"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn mistakes of the user into one line and exit code 2."""
    try:
        yield
    except (ResultError, DataError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    app(prog_name="python -m experiments")
