"""The command ``python -m experiments``."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import sys
import textwrap
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from tqdm import tqdm

from experiments.data import DataError
from experiments.downloads import PUBLIC, fetch, missing
from experiments.runner import (
    Parts,
    Sweep,
    Workers,
    commands,
    first_interrupt_only,
    listing,
    outline,
    registry,
    settings,
    verify,
)
from linlocal.analysis import results
from linlocal.analysis.results import PRESETS, ResultError, known_name

app = typer.Typer(
    help="Run experiments and store their results as labelled, self-describing netCDF files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

T = TypeVar("T")
CORES = os.cpu_count() or 1

Seed = Annotated[int, typer.Option(min=0, help="Seed of every random number in the run.")]
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
Processes = Annotated[
    int,
    typer.Option(
        min=1,
        help="Points of a sweep that are computed at the same time. More than 1 opens ports of this"
        " machine's loopback interface, through which its other users could run code.",
    ),
]


@app.command("list")
def list_experiments(out: Out = Path("results"), seed: Seed = 0, data: Data = None) -> None:
    """List what each experiment shows, its sizes, and the state of its results."""
    with one_line_errors(data):
        for name in registry.NAMES:
            experiment = outline(name)
            typer.echo(f"{name}  ({experiment.PUBLISHED})")
            wrapped("  ", registry.summary(experiment))
            for preset, size in registry.sizes(experiment).items():
                values = " ".join(f"{key}={typed(value)}" for key, value in size.items())
                try:
                    first, *others = listing.entries(name, preset, seed, data, out)
                except DataError as error:
                    wrapped(f"  {preset:<13}", values)
                    wrapped(f"  {'':<13}", f"cannot run: {error}")
                    continue
                wrapped(f"  {preset:<13}{first.state:<18}", values)
                for each in others:
                    wrapped(f"  {'':<13}{each.state:<18}", each.what)
            typer.echo()
    typer.echo(f"Run one with: python -m experiments run NAME --preset {'|'.join(PRESETS)}")


def wrapped(start: str, text: str) -> None:
    """Print a start and a text, whose further lines begin where the first does."""
    width = max(shutil.get_terminal_size((100, 24)).columns, len(start) + 40)
    lines = textwrap.wrap(
        text,
        width,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
        break_long_words=False,
    )
    typer.echo("\n".join(lines) or start.rstrip())


def typed(value: object) -> str:
    """A value as it can be typed after ``--set``; a long list has places to break a line."""
    text = "none" if value is None else json.dumps(value)
    short = text.replace(", ", ",")
    return short if len(short) <= 40 else text


@app.command()
def run(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="An experiment (see `list`), or `all`.")
    ],
    preset: Annotated[
        str,
        typer.Option(
            help="Size: smoke takes seconds, cpu minutes on a laptop, workstation hours on two"
            " cores (best with --data; `all` leaves out experiments without it), paper is the"
            " published size."
        ),
    ] = "cpu",
    seed: Seed = 0,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="A parameter in place of that of the preset, for example width=0.25 or"
            " widths=[64,32]; `list` names those in which presets differ. Can be given several"
            " times.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE.toml",
            help="The same from a file with lines NAME = VALUE; --set wins over it.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    out: Out = Path("results"),
    data: Data = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compute everything again, even if up to date.")
    ] = False,
    workers: Processes = CORES,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Address of a running dask scheduler, e.g. tcp://host:8786, whose workers compute"
            " the points; they must see this checkout. Whoever reaches its port can run code.",
            metavar="ADDRESS",
        ),
    ] = None,
) -> None:
    """Run an experiment, unless its result is up to date.

    A result is up to date if the same parameters went through the same source code. An interrupted
    run keeps its finished points; the same command resumes it. Where parameters are not those of
    the preset, the name of the result says so, and other values are another result.
    """
    with one_line_errors(data), first_interrupt_only():
        names = in_size(preset) if name == "all" else (name,)
        # All planned before any runs: a typo or data that are not there must not cost an hour, nor
        # an edit mix two versions.
        given = settings.read(pairs or (), file)
        if given and name == "all":
            raise ResultError("settings are those of one experiment: name it in place of `all`.")
        plans = [registry.plan(each, preset, seed, data, given) for each in names]
        for each in plans:
            registry.check_device(getattr(each.config, "device", "cpu"))
        results.usable_folder(out)
        try:
            with Workers(workers, scheduler) as pool:
                several = pool if workers > 1 or scheduler else None
                for each in progress(plans, "experiments"):
                    run_one(each, out, force, several)
        except KeyboardInterrupt:
            # Without --force, which would forget the finished points.
            words = ["run", name, "--preset", preset, "--seed", seed, "--out", out]
            words += settings.options(given)
            words += ["--data", data] if data else []
            words += ["--workers", workers] if workers != CORES else []
            words += ["--scheduler", scheduler] if scheduler else []
            typer.echo(f"interrupted; resume with: {commands.line(*words)}", err=True)
            raise typer.Exit(130) from None


def in_size(preset: str) -> list[str]:
    """The experiments that have a preset; one line names the others.

    Raises:
        ResultError: unknown preset.
    """
    known_name("preset", preset, PRESETS)
    lacking = [name for name in registry.NAMES if preset not in outline(name).PRESETS]
    if lacking:
        typer.echo(f"no preset {preset}, left out: {', '.join(lacking)}")
    return [name for name in registry.NAMES if name not in lacking]


@app.command("verify")
def verify_results(
    sample: Annotated[int, typer.Option(min=1, help="How many result files to compute again.")] = 3,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seeds the choice of files; without it, another each time."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="Take results of this size only: smoke, cpu, workstation or paper."),
    ] = None,
    out: Out = Path("results"),
    tolerance: Annotated[
        float,
        typer.Option(
            min=0,
            help="Largest difference that other libraries or hardware may make, relative to the"
            " largest magnitude of a variable.",
        ),
    ] = 1e-6,
    any_version: Annotated[
        bool, typer.Option("--any-version", help="Take results of other code, too.")
    ] = False,
    any_size: Annotated[
        bool,
        typer.Option(
            "--any-size",
            help="Take results, too, with parameters that no preset comes near (ten times as large,"
            " other words): of files that you made yourself.",
        ),
    ] = False,
    data: Data = None,
    workers: Processes = CORES,
) -> None:
    """Compute a random sample of stored results again and compare.

    Each is computed by its own parameters and seed, from the same data: results that read a folder
    need it named by --data. Results of other code are only listed. Exit code 1 says that one
    differs or that a file of the folder is damaged. Wall-clock times (units of s) are not compared.
    An interrupted verification keeps its finished points; the command that it prints resumes it.
    """
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    with one_line_errors(), first_interrupt_only():
        presets = (known_name("preset", preset, PRESETS),) if preset else PRESETS
        found = verify.sort(out, presets, any_version, any_size, data)
        for name, reason in (found.skipped | found.outdated).items():
            typer.echo(f"skipped: {name}: {reason}")
        for reason in found.damaged.values():
            typer.echo(f"damaged: {reason}")
        if not (found.candidates or found.damaged or found.outdated):
            raise ResultError(f"{out} holds no result that can be computed again here.")
        if not found.candidates and found.outdated:
            typer.echo(
                f"nothing was compared: no result in {out} was made by the present code. "
                "--any-version compares those of other code nevertheless; "
                f"`{commands.line('run', 'NAME')}` makes new ones."
            )
            raise typer.Exit(1 if found.damaged else 0)
        results.usable_folder(out)
        chosen = verify.draw(found.candidates, sample, seed)
        took = sum(each.stored.duration_s for each in chosen)
        typer.echo(
            f"{len(chosen)} of {len(found.candidates)} results, drawn with seed {seed}, made in "
            f"{took:.0f} s"
        )
        try:
            with Workers(workers) as pool:
                several = pool if workers > 1 else None
                verdicts = [
                    verify_one(each, several, tolerance) for each in progress(chosen, "results")
                ]
        except KeyboardInterrupt:
            options = {"sample": sample, "seed": seed, "out": out, "tolerance": tolerance}
            words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
            words += ["--preset", preset] if preset else []
            words += ["--any-version"] if any_version else []
            words += ["--any-size"] if any_size else []
            words += ["--data", str(data)] if data else []
            words += ["--workers", str(workers)] if workers != CORES else []
            typer.echo(f"interrupted; resume with: {commands.line('verify', *words)}", err=True)
            raise typer.Exit(130) from None
        verify.forget(out)
    if found.damaged or "different" in verdicts:
        raise typer.Exit(1)


_DATA_HELP = """Download public data sets, check them, and unpack them as `run --data` reads them.

What is there already is left as it is. An interrupted download goes on where it broke off. An
archive that lies in the folder under its published name is taken instead of a download.

\b
  python -m experiments data mnist cifar10 --out data
  python -m experiments run linear_alignment --data data
"""


@app.command("data", help=_DATA_HELP)
def download_data(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help=f"Data sets: {', '.join(PUBLIC)}. Without a name, they are listed.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the data, for `run --data`.", file_okay=False)
    ] = Path("data"),
) -> None:
    """Download public data sets, check them, and unpack them as `run --data` reads them."""
    with one_line_errors(), first_interrupt_only():
        # All names before the first download: a typo must not cost an hour.
        wanted = [known_name("data set", name, PUBLIC) for name in names or ()]
        failed = False
        for name in wanted:
            there = not missing(name, out)
            try:
                fetch(name, out)
            except DataError as error:
                # The others are still worth having.
                failed = True
                typer.echo(f"error: {name}: {error}", err=True)
            except KeyboardInterrupt:
                line = commands.line("data", *wanted, "--out", out)
                typer.echo(f"interrupted; resume with: {line}", err=True)
                raise typer.Exit(130) from None
            else:
                typer.echo(f"{name}: {'already in' if there else 'written to'} {out}")
    if failed:
        raise typer.Exit(2)
    if not wanted:
        for name, public in PUBLIC.items():
            state = f"in {out}" if not missing(name, out) else f"not in {out}"
            size = f"{public.size / 1e6:.0f} MB"
            typer.echo(f"{name:<14} {size:>8}  {public.title}; {state}")
        typer.echo("Download one with: python -m experiments data NAME")


def verify_one(
    candidate: verify.Candidate, workers: Workers | None, tolerance: float
) -> verify.Verdict:
    """Compute one result again and say variable by variable how it compares."""
    rows = verify.compare(
        results.read(candidate.path), verify.compute(candidate, workers), tolerance
    )
    verdict = verify.overall(rows)
    lines = [f"{candidate.path}: {verdict}"]
    lines += [f"  {'variable':<32} {'verdict':<18} largest relative difference", *map(str, rows)]
    if verdict != "exactly equal":
        changed = verify.circumstances(candidate.stored, candidate.now)
        lines += [f"  otherwise: {each}" for each in changed]
        lines += [] if changed else ["  the same code, commit, versions and hardware"]
    tqdm.write("\n".join(lines), file=sys.stdout)
    return verdict


def run_one(plan: registry.Plan, out: Path, force: bool, workers: Workers | None) -> None:
    """Make one result file, from the parts of an interrupted run where there are some."""
    address, provenance = plan.address(out), plan.provenance
    words = [address.preset, f"seed {address.seed}", *settings.options(plan.settings)[1::2]]
    label = f"{address.experiment} ({', '.join(words)})"
    parts = Parts(listing.parts_folder(address), provenance, fresh=force)
    if listing.state(address, provenance) == "up to date" and not parts.forced:
        tqdm.write(f"{label}: up to date, {address.path}", file=sys.stdout)
        return
    start = time.perf_counter()
    try:
        dataset = plan.experiment.run(plan.config, Sweep(parts, workers))
    except Exception as error:
        # The result that is there stays valid; only an interrupted --force goes on by itself.
        parts.forget_force()
        if plan.settings and not isinstance(error, (ResultError, DataError, OSError)):
            # Presets are tested, and other values can mean anything to an experiment.
            raise ResultError(
                f"{label} cannot be computed ({type(error).__name__}: {error}): other values may "
                "suit it."
            ) from error
        raise
    read_now = registry.describe(address.experiment, plan.config).get("data")
    if read_now != json.loads(provenance.config).get("data"):
        parts.clear()
        raise DataError(
            f"the files in {plan.config.data} have changed while {label} read them: nothing was "
            "written. Run it again."
        )
    duration_s = time.perf_counter() - start + parts.restored_s
    dated = dataset.assign_attrs(date=datetime.now(UTC).isoformat(timespec="seconds"))
    if plan.settings:
        dated = dated.assign_attrs(settings=json.dumps(plan.settings))
    results.write(dated, address.path, replace(provenance, duration_s=duration_s))
    parts.clear()
    tqdm.write(f"{label}: {duration_s:.1f} s, {address.path}", file=sys.stdout)


def progress(items: Collection[T], description: str) -> Iterable[T]:
    """A bar over ``items`` if they are several and there is a terminal to draw it on."""
    return tqdm(items, description, disable=None if len(items) > 1 else True)


@contextmanager
def one_line_errors(data: Path | None = None) -> Iterator[None]:
    """Turn mistakes of the user into one line and exit code 2.

    Args:
        data: the folder of data sets that the user named.
    """
    try:
        yield
    except (ResultError, DataError) as error:
        hint = ""
        if data is not None and isinstance(error, DataError):
            line = commands.line("data", "NAME", "--out", data)
            hint = f" Public data sets ({', '.join(PUBLIC)}) are downloaded by: {line}"
        typer.echo(f"error: {error}{hint}", err=True)
        raise typer.Exit(2) from None
    except OSError as error:
        # A disk that fills up, a folder that vanishes: what is finished is kept.
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f": {error.filename}" if error.filename else ""
        typer.echo(f"error: {error.strerror}{where}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    app(prog_name="python -m experiments")
