"""The command ``python -m paper_figures``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import matplotlib.pyplot as plt
import typer
import xarray as xr

from analysis import results
from analysis.results import PRESETS, Address, ResultError, known_name
from paper_figures import claims, registry, style
from paper_figures.registry import FigureModule

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(no_args_is_help=True)
def main(
    wanted: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Figures, `all`, or `list` to see what there is."),
    ],
    preset: Annotated[str, typer.Option(help="Size of the runs: smoke, cpu or paper.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of the runs.")] = 0,
    results_folder: Annotated[
        Path, typer.Option("--results", help="Folder that `python -m experiments run` filled.")
    ] = Path("results"),
    out: Annotated[
        Path, typer.Option(help="Folder for NAME.png, NAME.svg and the claims.", file_okay=False)
    ] = Path("figures"),
) -> None:
    """Draw figures from saved results and decide which published claims they reproduce."""
    mpl.use("Agg")  # no window, no display needed
    if wanted == ["list"]:
        for each in registry.NAMES:
            typer.echo(f"{each}: {registry.caption(registry.load(each))}")
        return
    try:
        known_name("preset", preset, PRESETS)
        names = registry.NAMES if wanted == ["all"] else wanted
        figures = {each: registry.load(each) for each in names}
    except ResultError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    failed = False
    for each, module in figures.items():
        try:
            datasets = load_inputs(module, preset, seed, results_folder)
        except ResultError as error:
            # The others are still worth drawing.
            typer.echo(f"error: {each}: {error}", err=True)
            failed = True
            continue
        with style.house():
            figure = module.draw(datasets)
        png, svg = style.save(figure, out / each)
        plt.close(figure)
        decided = module.claims(datasets)
        claims.record(each, decided, f"preset {preset}, seed {seed}", out)
        typer.echo(f"{png} {svg}")
        for claim in decided:
            typer.echo(f"  {claim}")
    if failed:
        raise typer.Exit(2)


def load_inputs(
    module: FigureModule, preset: str, seed: int, folder: Path
) -> dict[str, xr.Dataset]:
    """Read the results that a figure needs.

    Raises:
        ResultError: some are missing; the message holds the commands that make them.
    """
    addresses = [Address(experiment, preset, seed, folder) for experiment in module.INPUTS]
    absent = [address.command for address in addresses if not address.path.exists()]
    if absent:
        raise ResultError("\n  ".join(["a result is missing; make it with", *absent]))
    return {address.experiment: results.read(address.path) for address in addresses}


if __name__ == "__main__":
    app(prog_name="python -m paper_figures")
