"""The command ``python -m paper_figures``."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import typer
import xarray as xr
from tqdm import tqdm

from linlocal.analysis import results
from linlocal.analysis.results import PRESETS, Address, Provenance, ResultError, known_name
from paper_figures import claims, registry
from paper_figures.addresses import (
    address,
    address_of,
    changed_results,
    is_changed,
    read_settings,
    settings_of,
    words,
)
from paper_figures.look import style
from paper_figures.registry import FigureModule
from paper_figures.report import contents as report, sources as drawing

HERE = Path(__file__).parent
# The sizes of which results are kept; a later one is the stronger evidence.
KEPT = ("workstation", "paper")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(no_args_is_help=True)
def main(
    wanted: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Figures; or `all`; or `report`: all, and a page that shows them with their claims"
            " and sources; or `kept`: for each of the larger sizes, the figures whose results all"
            " lie in the folder, and such a page, and beside them what was made by --set; or `list`"
            " to see what there is.",
        ),
    ],
    preset: Annotated[
        str | None,
        typer.Option(
            help="Size of the runs: smoke, cpu, workstation or paper; by default cpu, and for"
            " `kept` workstation and paper, each in a folder of its own."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the runs.")] = 0,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Draw the result that `python -m experiments run --set NAME=VALUE` made. Can be"
            " given several times.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            metavar="FILE.toml",
            help="The same from a file.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    results_folder: Annotated[
        Path,
        typer.Option(
            "--results",
            metavar="PATH",
            help="Folder that `python -m experiments run` filled, or one result in it.",
        ),
    ] = Path("results"),
    out: Annotated[
        Path,
        typer.Option(help="Folder for NAME.png, NAME.svg, claims and report.", file_okay=False),
    ] = Path("figures"),
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Where a result lies there from several data, the one to take: how the name of its"
            " file ends, e.g. mnist-1a2b3c4d, or `embedded`. Can be given several times.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Draw again, even what is up to date.")
    ] = False,
) -> None:
    """Draw figures from saved results and decide which published claims they reproduce.

    A figure is up to date if the same results went through the same code.
    """
    mpl.use("Agg")  # no window, no display needed
    if wanted == ["list"]:
        for each in registry.NAMES:
            typer.echo(f"{each}: {registry.caption(registry.load(each))}")
        return
    only_kept = wanted == ["kept"]
    try:
        if preset is not None:
            known_name("preset", preset, PRESETS)
        everything = only_kept or wanted in (["all"], ["report"])
        settings = read_settings(pairs or (), file)
        if everything and (settings or results_folder.is_file()):
            raise ResultError(
                f"a setting and a single result are those of one figure: name it in place of "
                f"`{wanted[0]}`."
            )
        figures = {each: registry.load(each) for each in (registry.NAMES if everything else wanted)}
        sizes = (preset,) if preset else KEPT if only_kept else ("cpu",)
        plans = [
            planned(
                figures,
                size,
                seed,
                results_folder,
                data or (),
                out / size if only_kept else out,
                settings,
            )
            for size in sizes
        ]
        others = beside(figures, plans, results_folder) if only_kept else []
        if only_kept:
            plans = kept(plans)
        for plan in plans:
            results.usable_folder(plan.out)
    except ResultError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    for plan in plans:
        draw_all(plan, figures, force)
        if only_kept or wanted == ["report"]:
            shown = [*plan.inputs, *plan.failed] if only_kept else registry.NAMES
            pages = report.write(
                plan.out, plan.preset, seed, results_folder, plan.failed, data or (), shown
            )
            typer.echo(" ".join(map(str, pages)))
    for plan in others:
        draw_all(plan, figures, force)
    if any(plan.failed for plan in (*plans, *others)):
        raise typer.Exit(2)


@dataclass(frozen=True)
class Plan:
    """What is drawn from results of one size.

    Attributes:
        preset: the size.
        out: the folder of the figures.
        inputs: for each figure, the addresses of its results.
        failed: the figures that cannot be drawn, and why.
    """

    preset: str
    out: Path
    inputs: dict[str, list[Address]]
    failed: dict[str, str]


def planned(
    figures: Mapping[str, FigureModule],
    preset: str,
    seed: int,
    folder: Path,
    data: Sequence[str],
    out: Path,
    settings: Mapping[str, Any],
) -> Plan:
    """Where the results of figures lie; a figure fails where several could be meant, or none."""
    plan = Plan(preset, out, {}, {})
    for each, module in figures.items():
        try:
            if folder.is_file():
                plan.inputs[each] = [only(address_of(folder), module.INPUTS)]
                continue
            plan.inputs[each] = [
                address(name, preset, seed, folder, data, settings) for name in module.INPUTS
            ]
        except ResultError as error:
            plan.failed[each] = str(error)
    return plan


def draw_all(plan: Plan, figures: Mapping[str, FigureModule], force: bool) -> None:
    """Draw every figure that can be drawn, and add the others to ``plan.failed``."""
    out, failed = plan.out, plan.failed
    if (complaint := claims.complaint(out)) is not None:
        typer.echo(f"warning: {complaint}", err=True)
    for each, reason in failed.items():
        typer.echo(f"error: {each}: {reason}", err=True)
    # disable=None: no bar where there is no terminal to draw it on.
    for each, addresses in tqdm(plan.inputs.items(), "figures", unit="figure", disable=None):
        try:
            draw_one(each, figures[each], addresses, out, force)
        except ResultError as error:
            # The others are still worth drawing.
            failed[each] = str(error)
            tqdm.write(f"error: {each}: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            typer.echo("interrupted; the same command goes on: what is drawn is kept", err=True)
            raise typer.Exit(130) from None


def only(given: Address, wanted: Sequence[str]) -> Address:
    """The address of a result if a figure is drawn from this experiment alone.

    Raises:
        ResultError: it needs others.
    """
    if [*wanted] != [given.experiment]:
        raise ResultError(
            f"is drawn from {', '.join(wanted)}, and {given.path} is a result of "
            f"{given.experiment}."
        )
    return given


def draw_one(
    name: str, module: FigureModule, addresses: Sequence[Address], out: Path, force: bool
) -> None:
    """Draw one figure and record its claims, unless the same inputs gave it before.

    Raises:
        ResultError: results are missing or damaged, or none of this experiment's.
    """
    datasets = load_inputs(addresses)
    for each in addresses:
        stored = Provenance.of(datasets[each.experiment])
        if older := drawing.outdated(each.experiment, stored.code, stored.commit):
            tqdm.write(f"{name}: {each.path}: {older}", file=sys.stdout)
    fingerprint = drawing.fingerprint(registry.module_of(name), addresses)
    run = f"preset {addresses[0].preset}, seed {addresses[0].seed}"
    changed = words(settings_of(datasets[addresses[0].experiment]))
    title = name
    if changed:
        # Beside the figure of the preset, not in its place.
        run, title = f"{run}, with {changed}", f"{name}-{addresses[0].data}"
    if not force and drawing.up_to_date(claims.entries(out).get(title, {}), fingerprint, out):
        tqdm.write(f"{title}: up to date", file=sys.stdout)
        return
    try:
        with style.house():
            figure = module.draw(datasets)
            if changed:
                style.note(figure, f"Not the preset: with {changed}.")
        decided = claims.decided(module.claims(datasets))
        pictures = style.save(figure, out / title)
    except OSError as error:
        raise ResultError(f"cannot be written into {out} ({error.strerror}).") from error
    # A foreign result can fail anywhere in xarray and matplotlib, and in any way.
    except Exception as error:
        raise ResultError(
            f"cannot be drawn from {', '.join(str(each.path) for each in addresses)} "
            f"({_last_place(error)}{type(error).__name__}: {error}). If it is no result of the "
            f"present code, make it again with\n  "
            + "\n  ".join(drawing.command(each) for each in addresses)
        ) from error
    finally:
        plt.close("all")
    source = drawing.source(datasets, addresses, pictures, fingerprint)
    claims.record(title, decided, run, out, source)
    lines = [" ".join(map(str, pictures)), *(f"  {claim}" for claim in decided)]
    tqdm.write("\n".join(lines), file=sys.stdout)


def _last_place(error: Exception) -> str:
    """The line of ours in which an error arose, for those who look for a fault in the figure."""
    ours = [
        each for each in traceback.extract_tb(error.__traceback__) if f"{HERE}/" in each.filename
    ]
    return f"{Path(ours[-1].filename).name}, line {ours[-1].lineno}: " if ours else ""


def kept(plans: Sequence[Plan]) -> list[Plan]:
    """Of each size the figures whose results all exist, without the sizes that have none.

    Raises:
        ResultError: no size has any.
    """
    found = [
        replace(
            plan,
            inputs={
                name: addresses
                for name, addresses in plan.inputs.items()
                if all(address.path.exists() for address in addresses)
            },
        )
        for plan in plans
    ]
    found = [plan for plan in found if plan.inputs or plan.failed]
    if not found:
        every = {each for plan in plans for some in plan.inputs.values() for each in some}
        commands = sorted(drawing.command(address) for address in every)
        raise ResultError("\n  ".join(["no figure has all its results; make them with", *commands]))
    return found


def beside(figures: Mapping[str, FigureModule], plans: Sequence[Plan], folder: Path) -> list[Plan]:
    """The figures of single results whose parameters are not those of a preset, if kept."""
    return [
        Plan(plan.preset, plan.out, {name: [each]}, {})
        for plan in plans
        for name, module in figures.items()
        for each in changed_results(module.INPUTS, folder)
        if each.preset == plan.preset
    ]


def load_inputs(addresses: Sequence[Address]) -> dict[str, xr.Dataset]:
    """Read the results that a figure needs, by experiment.

    Raises:
        ResultError: some are missing, damaged or of other runs; the message holds the commands that
            make them.
    """
    absent = [
        drawing.command(address, sys.executable)
        for address in addresses
        if not address.path.exists()
    ]
    if absent:
        raise ResultError("\n  ".join(["a result is missing; make it with", *absent]))
    datasets = {}
    for wanted in addresses:
        datasets[wanted.experiment] = results.read(wanted.path)
        stored = Provenance.of(datasets[wanted.experiment])
        changed = settings_of(datasets[wanted.experiment])
        found = (stored.experiment, stored.preset, stored.seed, bool(changed))
        if found != (wanted.experiment, wanted.preset, wanted.seed, is_changed(wanted)):
            values = f" with {words(changed)}" if changed else ""
            raise ResultError(
                f"{wanted.path} is a result of {found[0]}, preset {found[1]}, seed {found[2]}"
                f"{values}: it "
                f"was renamed. Make the right one with\n  {drawing.command(wanted)}"
            )
    return datasets


if __name__ == "__main__":
    app(prog_name="python -m paper_figures")
