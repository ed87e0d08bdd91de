"""The command ``python -m paper_figures.report.hierarchy_page``: the tables of docs/hierarchy.md.

It reads the kept results on hierarchies; nothing in the tables is typed by hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import xarray as xr

from linlocal.analysis import results
from linlocal.analysis.results import Address, ResultError
from paper_figures.claims import Claim, decide, decided, of_networks, replace_text
from paper_figures.figures import rhm_feedback, rhm_local_ssl, rhm_masks, rhm_sample_complexity
from paper_figures.look import feedback, needed
from paper_figures.report.readme import replace_between

PRESET = "workstation"
COMMAND = "python -m paper_figures.report.hierarchy_page"
# What the abstract of arXiv 2605.18557 states, and words of the claims of a figure that are of it.
STATEMENTS = {
    "direct feedback fails": (rhm_feedback, " fails"),
    "... because masks are missing": (rhm_masks, "missing masks explain it"),
    "local self-supervised rules are as data-efficient as supervised backpropagation": (
        rhm_local_ssl,
        "read by the same head",
    ),
}
HERE = ("holds", "fails", "undecided")


def statements(datasets: Mapping[str, xr.Dataset]) -> list[str]:
    """Each statement of the abstract: for which rule it holds here, for which not, by what."""
    lines = [
        "| claim of the abstract | holds here | does not | undecided | evidence |",
        "|---" * 5 + "|",
    ]
    for statement, (figure, words) in STATEMENTS.items():
        (name,) = figure.INPUTS
        if name not in datasets:
            cells = ["", "", "", f"`{name}`: no result of this size is kept"]
        else:
            found = decided(figure.claims({name: datasets[name]}))
            asked = [claim for claim in found if words in claim.text]
            cells = ["; ".join(_told(c) for c in asked if c.here == here) for here in HERE]
            cells.append(f"`{name}`")
        lines.append(f"| {' | '.join([statement, *cells])} |")
    return lines


def _told(claim: Claim) -> str:
    """What a claim is about, and its numbers."""
    subject = claim.text.partition(":")[0].partition(" fails")[0].removesuffix(" explain it")
    if "read by the same head" in claim.text:
        grammar, _, rest = claim.text.partition(", read by the same head: ")
        subject = f"{rest.partition(' comes to')[0]} on {grammar}"
    return f"{subject} ({claim.measured})"


def by_rule(data: xr.Dataset) -> list[str]:
    """Rules on grammars: whether they learn, from how many data, in how many steps."""
    cells = [(setting, rule) for setting in data["setting"].values for rule in data["rule"].values]
    parts = [data.sel(setting=[setting], rule=[rule]) for setting, rule in cells]
    decisions = decide([needed.learns(part) for part in parts])
    size, ratio, names = feedback.sizes(data), feedback.ratios(data), feedback.setting_names(data)
    lines = [
        "| grammar | rule | learns | times the data of backpropagation | accuracy | at P* "
        "| steps | loss | met the cap |",
        "|---|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for (setting, rule), part, decision in zip(cells, parts, decisions, strict=True):
        number = list(data["setting"].values).index(setting)
        own, times = (each.sel(setting=setting, rule=rule) for each in (size, ratio))
        first = rule == feedback.BACKPROPAGATION
        wanted = f"{needed.words(own)} P*" if first else needed.words(times)
        holds, _ = needed.decided(part, decision.holds)
        last = [needed.last(part[key]) for key in ("test_accuracy", "steps", "train_loss")]
        unfinished = float(needed.unfinished(part).mean())
        lines.append(
            f"| {names[number] if first else ''} | {rule} | "
            f"{'undecided' if holds is None else 'yes' if holds else 'no'} | {wanted} | "
            f"{float(last[0].mean()):.2f} | {float(last[0]['multiple'].squeeze()):g} | "
            f"{float(last[1].median()):.0f} | {float(last[2].median()):.1g} | {unfinished:.0%} |"
        )
    count = data.sizes["repetition"]
    return [
        *lines,
        "",
        f"{count} grammars and networks in each row; accuracy, steps and loss (median) at the most "
        f"data that were tried, in units of P*. Data: 95 % intervals of one row alone. Whether a "
        f"rule learns: its mean error there is below {needed.threshold(data):g} of that of "
        f"guessing, decided over all {len(cells)} rows together; undecided, too, where more than "
        f"{needed.UNFINISHED:.0%} of the trainings met the cap of steps.",
    ]


def by_network(data: xr.Dataset) -> list[str]:
    """Grammars, and the data that each kind of network needs to learn them."""
    networks = [str(name) for name in data["architecture"].values]
    size = needed.needed(needed.relative_error(data), needed.threshold(data))
    lines = [
        f"| grammar | P* | {' | '.join(networks)} |",
        "|---|---:" + "|---" * len(networks) + "|",
    ]
    for place, grammar in enumerate(data["grammar"].values):
        found = size.isel(grammar=place)
        cells = [needed.words(found.sel(architecture=name)) for name in networks]
        lines.append(f"| {grammar} | {int(data['P_star'][place])} | {' | '.join(cells)} |")
    open_share = float(needed.unfinished(data).mean())
    return [
        *lines,
        "",
        f"Data in units of P* for a mean error of {needed.threshold(data):g} of guessing's, with "
        f"the 95 % interval of one cell alone; {data.sizes['repetition']} grammars and networks of "
        f"each kind. {int(data['inside'].sum())} of {int(data['inside'].count())} learning rates "
        f"lie inside their grids, {open_share:.1%} of the trainings met the cap of steps.",
    ]


def by_term(data: xr.Dataset) -> list[str]:
    """Rules on grammars: the cosine of layer 1 over the training, and what takes from it."""
    lines = [
        "| grammar | rule | cosine | masks take | matrices | slopes | accuracy | met the cap |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for grammar in data["grammar"].values:
        for place, rule in enumerate(data["rule"].values):
            here = data.sel(grammar=grammar, rule=rule)
            over = here.sel(layer=1).mean("time")
            numbers = [_with_half(over[key]) for key in ("error_cosine", *rhm_masks.SHAPLEY)] + [
                _with_half(here["test_accuracy"])
            ]
            name = "" if place else str(grammar)
            cap = f"{1 - float(here['finished'].mean()):.0%}"
            lines.append(f"| {' | '.join([name, str(rule), *numbers, cap])} |")
    return [
        *lines,
        "",
        f"Mean of layer 1 over the times of the training; {data.sizes['repetition']} grammars and "
        "networks, +- half of the 95 % interval of one row alone.",
    ]


def _with_half(values: xr.DataArray) -> str:
    """A mean over repetitions and half its interval."""
    (half,) = of_networks(values, "repetition").at(0.05).half
    mean = float(values.mean())
    return "" if np.isnan(mean) else f"{round(mean, 2) + 0.0:.2f} +- {half:.2f}"  # no -0.00


def kept(folder: Path) -> dict[str, xr.Dataset]:
    """The results of this page that a folder holds."""
    figures = (rhm_feedback, rhm_masks, rhm_sample_complexity, rhm_local_ssl)
    names = [name for figure in figures for name in figure.INPUTS]
    paths = {name: Address(name, PRESET, 0, folder).path for name in names}
    return {name: results.read(path) for name, path in paths.items() if path.exists()}


def written(text: str, datasets: Mapping[str, xr.Dataset]) -> str:
    """The page with its tables as the results are.

    Raises:
        ValueError: the page lacks a marker.
    """
    blocks = {"statements": statements(datasets)}
    if "rhm_feedback" in datasets:
        blocks["rules"] = by_rule(datasets["rhm_feedback"])
    if "rhm_sample_complexity" in datasets:
        blocks["networks"] = by_network(datasets["rhm_sample_complexity"])
    if "rhm_masks" in datasets:
        blocks["terms"] = by_term(datasets["rhm_masks"])
    for name, lines in blocks.items():
        text = replace_between(text, name, "\n".join(lines), COMMAND)
    return text


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    folder: Annotated[Path, typer.Option("--results", help="Folder of kept results.")] = Path(
        "results"
    ),
    page: Annotated[Path, typer.Option(help="The page to bring up to date.")] = Path(
        "docs/hierarchy.md"
    ),
) -> None:
    """Write the tables of the page on hierarchies from the kept results."""
    try:
        text = written(page.read_text(encoding="utf-8"), kept(folder))
    except ResultError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    replace_text(page, text)
    typer.echo(f"written: {page}")


if __name__ == "__main__":
    app(prog_name=COMMAND)
