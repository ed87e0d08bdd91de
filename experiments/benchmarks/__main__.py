"""The command ``python -m experiments.benchmarks``: measures, and writes the page."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer
import xarray as xr

from experiments.benchmarks import gpu, registry
from experiments.runner.registry import check_device
from linlocal.analysis import results
from linlocal.analysis.results import Provenance, ResultError

PAGE = Path("docs/benchmarks.md")
FOLDER = Path("docs/benchmarks")
SUMMARY = "## In short"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help=f"Benchmarks: {', '.join(registry.NAMES)}; all if none is named.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure what the main operations cost here, and write the page of all that was measured.

    Results of other devices stay on the page. Measuring takes minutes on a CPU; leave the
    machine alone meanwhile.
    """
    try:
        results.known_name("device", device, ("cpu", "cuda"))
        wanted = {name: registry.load(name) for name in names or registry.NAMES}
        check_device(device)
        if not PAGE.parent.is_dir():
            raise ResultError(f"{PAGE} is written in the root of a checkout: run it there.")
        results.usable_folder(FOLDER)
    except ResultError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    for name in [name for name in wanted if device not in wanted[name].CONFIGS]:
        del wanted[name]
        typer.echo(f"{name}: nothing to measure on {device}")
    # Collected before the first file is written, which changes what the commit holds.
    origins = {
        name: Provenance.collect(
            f"benchmarks.{name}",
            "cpu",
            0,
            asdict(benchmark.CONFIGS[device]),
            f"experiments.benchmarks.{name}",
        )
        for name, benchmark in wanted.items()
    }
    for name, benchmark in wanted.items():
        began = time.monotonic()
        try:
            data = benchmark.measure(benchmark.CONFIGS[device])
        except KeyboardInterrupt:
            typer.echo(f"interrupted; what was measured before {name} is kept", err=True)
            raise typer.Exit(130) from None
        origin = replace(origins[name], duration_s=time.monotonic() - began)
        typer.echo(results.write(data, FOLDER / f"{name}-{device}.nc", origin))
    PAGE.write_text(page(FOLDER), encoding="utf-8")
    typer.echo(PAGE)


def page(folder: Path) -> str:
    """The page, from the result files of a folder alone."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m experiments.benchmarks` (`make benchmark`); do not edit. What is",
        "not here was not measured.",
        "",
        SUMMARY,
        "",
        "| what | measured | beside it | device |",
        "|---|---|---|---|",
    ]
    sections: list[str] = []
    for name in registry.NAMES:
        benchmark = registry.load(name)
        sections += [f"## {benchmark.TITLE}", ""]
        for file in sorted(folder.glob(f"{name}-*.nc")):
            data = results.read(file)
            row = (*benchmark.summary(data), file.stem.rpartition("-")[2])
            lines.append(f"| {' | '.join(row)} |")
            sections += [*benchmark.section(data), "", hardware(data), ""]
    for file in sorted(folder.glob("gpu_benchmark-*.nc")):  # by its own command, see `gpu`
        data = results.read(file)
        sections += ["## Training at 224x224", "", *gpu.section(data), "", hardware(data), ""]
    lines += [
        "",
        *sections,
        "## Growth with pairs, width and depth",
        "",
        "The figure `scaling` (`python -m experiments run scaling`, `python -m paper_figures "
        "scaling`).",
        "",
    ]
    return "\n".join(lines)


def hardware(data: xr.Dataset) -> str:
    """The hardware, the versions and the commit of a measurement."""
    found = json.loads(data.attrs["hardware"])
    packages = json.loads(data.attrs["packages"])
    device = f"{found['accelerator']}; " if "accelerator" in found else ""
    versions = ", ".join(f"{name} {packages[name]}" for name in ("numpy", "scipy", "torch"))
    return (
        f"Hardware: {device}{found['processor']}, {found['cores']} cores, {found['machine']}. "
        f"Python {packages['python']}, {versions}. Commit `{data.attrs['commit']}`."
    )


if __name__ == "__main__":
    app(prog_name="python -m experiments.benchmarks")
