"""The command ``python -m paper_figures.report.stability``: which verdicts a second run changes.

Sums in another order differ in the last digit, and training makes more of it. A verdict that
depends on the number of threads needs more networks.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from linlocal.analysis import results
from linlocal.analysis.results import PRESETS, Address, ResultError, known_name
from paper_figures import claims, registry
from paper_figures.addresses import address
from paper_figures.claims import Claim
from paper_figures.report import sources

# One of each kind: equality to rounding, networks without training, trained ones, accuracies.
KINDS = ("spectrum", "linear_alignment", "trained_mlp", "rhm_tokens")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def changed(first: Sequence[Claim], second: Sequence[Claim]) -> list[str]:
    """The claims of one figure whose verdicts differ between two runs, with both.

    Raises:
        ResultError: the runs decide different claims.
    """
    now = {claim.text: claim for claim in second}
    if {claim.text for claim in first} != set(now):
        raise ResultError("the two runs have different claims: their parameters differ.")
    return [
        f"{claim.text}: {claim.here} ({claim.numbers}), then {now[claim.text].here} "
        f"({now[claim.text].numbers})"
        for claim in first
        if claim.here != now[claim.text].here
    ]


def decide_all(figure: str, addresses: Sequence[Address]) -> list[Claim]:
    """The claims of a figure from these results.

    Raises:
        ResultError: a result is missing or damaged.
    """
    datasets = {each.experiment: results.read(each.path) for each in addresses}
    return claims.decided(registry.load(figure).claims(datasets))


def rerun(address: Address, threads: int, data: Path | None) -> None:
    """Compute a result in a process of its own.

    Args:
        address: where the result is to lie.
        threads: number of threads of that process.
        data: folder with data sets, for a result that was computed from one.

    Raises:
        ResultError: the run failed.
    """
    line = shlex.split(sources.command(replace(address, data=""), sys.executable))
    line += ["--data", str(data)] if data else []
    environment = os.environ | dict.fromkeys(_THREADS, str(threads))
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ResultError(f"{shlex.join(line)} failed:\n{done.stderr.strip()}")


@app.command()
def main(
    figures: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME...", help="Figures; one of each kind if none."),
    ] = None,
    preset: Annotated[str, typer.Option(help=f"Size of the runs: {', '.join(PRESETS)}.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the runs.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the second run.")] = 2,
    folder: Annotated[Path, typer.Option("--results", help="Results of the first run.")] = Path(
        "results"
    ),
    data: Annotated[
        Path | None, typer.Option(help="Folder with the data sets of the first run.")
    ] = None,
) -> None:
    """Compute results again with other threads, and say which verdicts change; 1 if any does."""
    number = 0
    try:
        known_name("preset", preset, PRESETS)
        for figure in figures or KINDS:
            inputs = registry.load(figure).INPUTS
            stored = [address(name, preset, seed, folder) for name in inputs]
            first = decide_all(figure, stored)
            with TemporaryDirectory() as other:
                again = [replace(each, folder=Path(other)) for each in stored]
                for each in again:
                    rerun(each, threads, data)
                found = changed(first, decide_all(figure, again))
            typer.echo(f"{figure}: {len(found)} of {len(first)} verdicts change")
            for line in found:
                typer.echo(f"  {line}")
            number += len(found)
    except ResultError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if number:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
