"""The command ``python -m paper_figures.report.hierarchy_page``: the tables of docs/hierarchy.md.

It reads the kept results on hierarchies; nothing in the tables is typed by hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import xarray as xr

from linlocal.analysis import results
from linlocal.analysis.results import Address, ResultError
from paper_figures.claims import Claim, decide, decided, of_networks, replace_text
from paper_figures.figures import rhm_feedback, rhm_local_ssl, rhm_masks
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
        rhm_local_ssl.SAME_HEAD,
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
            cells = ["", "", "", _missing(name)]
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
    grammar, said, rest = claim.text.partition(f", {rhm_local_ssl.SAME_HEAD}: ")
    if said:
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
        accuracy = needed.last(part["test_accuracy"])
        most = float(accuracy["multiple"].squeeze())
        steps, loss = (
            float(part[key].sel(multiple=most).median()) for key in ("steps", "train_loss")
        )
        unfinished = float(needed.unfinished(part).mean())
        lines.append(
            f"| {names[number] if first else ''} | {rule} | "
            f"{'undecided' if holds is None else 'yes' if holds else 'no'} | {wanted} | "
            f"{float(accuracy.mean()):.2f} | {most:g} | {steps:.0f} | "
            f"{'not finite' if np.isnan(loss) else f'{loss:.1g}'} | {unfinished:.0%} |"
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
    return [
        *lines,
        "",
        f"Data in units of P* for a mean error of {needed.threshold(data):g} of guessing's, with "
        f"the 95 % interval of one cell alone; {data.sizes['repetition']} grammars and networks of "
        "each kind.",
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


def by_view(data: xr.Dataset) -> list[str]:
    """Rules with labels and without on grammars: what they come to, and from how many data."""
    lines = [
        "| grammar | rule | times the data of supervised | labels charged | linear readout "
        "| top layer refitted | own output | at P* | steps | met the cap |",
        "|---|---|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    readouts = ["test_accuracy", "hidden_accuracy", "own_accuracy"]
    for grammar in data["grammar"].values:
        here = data.sel(grammar=grammar)
        # A rule that counts has no course, one without labels no output of its own.
        known = here[readouts].to_dataarray().notnull().any(["variable", "repetition"])
        rules = [str(rule) for rule in here["rule"].values[known.any("multiple").values]]
        tried = [r for r in rhm_local_ssl.trained_rules(here) if r in rules]
        others = [rule for rule in tried if rule != rhm_local_ssl.SUPERVISED]
        times = [
            part(here, others) for part in (rhm_local_ssl.times_seen, rhm_local_ssl.times_charged)
        ]
        for row, rule in enumerate(rules):
            sizes = here["multiple"].values[known.sel(rule=rule).values]
            own, last = here.sel(rule=rule), here.sel(rule=rule, multiple=sizes[-1])
            needs = ["", ""]
            if rule == rhm_local_ssl.SUPERVISED:
                size = needed.needed(1 - own["test_accuracy"], rhm_local_ssl.ERROR)
                needs[0] = f"{needed.words(size)} P*"
            elif rule in others and len(sizes) > 1:  # a single size brackets nothing
                needs = [needed.words(each.sel(rule=rule)) for each in times]
            effort = _effort(last["steps"], needed.unfinished(own)) if rule in tried else ["", ""]
            read = [_with_half(last[key]) for key in readouts]
            cells = ["" if row else str(grammar), rule, *needs, *read, f"{sizes[-1]:g}", *effort]
            lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        f"Accuracies, +- half of the 95 % interval of one row alone, and steps (median) at the "
        f"most data that were tried, in units of P*; {data.sizes['repetition']} grammars and "
        f"networks. Data for an error of {rhm_local_ssl.ERROR:g}, where several sizes were tried, "
        "with the 95 % interval of one row alone: read by the same linear readout, and with the "
        "labels of head and search charged, against the supervised network's own output.",
    ]


def by_block(data: xr.Dataset) -> list[str]:
    """Rules on hierarchical images: what a linear probe reads from each block."""
    blocks = data["layer"].values
    lines = [
        f"| rule | {' | '.join(f'block {number}' for number in blocks)} | steps | met the cap |",
        "|---" + "|---:" * (len(blocks) + 2) + "|",
    ]
    for rule in data["rule"].values:
        here = data.sel(rule=rule)
        read = [_with_half(here["accuracy"].sel(layer=number)) for number in blocks]
        trained = float(here["steps"].max()) > 0
        effort = _effort(here["steps"], needed.unfinished(here)) if trained else ["", ""]
        lines.append(f"| {' | '.join([str(rule), *read, *effort])} |")
    pixels = _with_half(data["pixel_accuracy"].isel(rule=0))
    return [
        *lines,
        "",
        f"{data.sizes['repetition']} grammars and networks, +- half of the 95 % interval of one "
        f"cell alone; a probe of the pixels reads {pixels}, "
        f"guessing {float(data['chance']):.3g}.",
    ]


def _effort(steps: xr.DataArray, unfinished: xr.DataArray) -> list[str]:
    """The median of the steps, and how many trainings met the cap."""
    return [f"{float(steps.median()):.0f}", f"{float(unfinished.mean()):.0%}"]


def _with_half(values: xr.DataArray) -> str:
    """A mean over repetitions and half its interval."""
    (half,) = of_networks(values, "repetition").at(0.05).half
    mean = float(values.mean())
    return "" if np.isnan(mean) else f"{round(mean, 2) + 0.0:.2f} +- {half:.2f}"  # no -0.00


# Between which markers each result is shown, and how.
TABLES: dict[str, tuple[str, Callable[[xr.Dataset], list[str]]]] = {
    "rules": ("rhm_feedback", by_rule),
    "variants": ("rhm_feedback_variants", by_rule),
    "terms": ("rhm_masks", by_term),
    "networks": ("rhm_sample_complexity", by_network),
    "views": ("rhm_local_ssl", by_view),
    "blocks": ("rhm_images", by_block),
}


def kept(folder: Path) -> dict[str, xr.Dataset]:
    """The results of this page that a folder holds."""
    paths = {name: Address(name, PRESET, 0, folder).path for name, _ in TABLES.values()}
    return {name: results.read(path) for name, path in paths.items() if path.exists()}


def written(text: str, datasets: Mapping[str, xr.Dataset]) -> str:
    """The page with its tables as the results are.

    Raises:
        ValueError: the page lacks a marker.
    """
    blocks = {"statements": statements(datasets)}
    for mark, (name, table) in TABLES.items():
        data = datasets.get(name)
        blocks[mark] = [f"{_missing(name)}."] if data is None else [*table(data), "", run(data)]
    for mark, lines in blocks.items():
        text = replace_between(text, mark, "\n".join(lines), COMMAND)
    return text


def run(data: xr.Dataset) -> str:
    """The command of a result, how long it took, and how its searches and trainings ended."""
    known = data.attrs
    minutes, cores = float(known["duration_s"]) / 60, json.loads(known["hardware"])["cores"]
    ends = [f"{needed.at_the_cap(data):.1%} of the trainings met the cap of steps"]
    if "inside" in data:
        found = data["inside"]
        ends.insert(
            0, f"{int(found.sum())} of {int(found.count())} learning rates lie inside their grids"
        )
    return (
        f"`python -m experiments run {known['experiment']} --preset {known['preset']}`, "
        f"{minutes:.0f} minutes of {cores} cores: {', '.join(ends)}."
    )


def _missing(name: str) -> str:
    return f"`{name}`: no result of this size is kept"


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
