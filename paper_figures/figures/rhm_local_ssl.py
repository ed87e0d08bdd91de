"""Layer-local self-supervised rules learn the hierarchy, and from how much data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from paper_figures.claims import Claim, both, of_cases, of_networks
from paper_figures.look import feedback, panels, style

INPUTS = ("rhm_local_ssl",)
PAPER = "B"

NEGLIGIBLE = 0.05
# What distinguishes these two from the rules: they have labels, or nothing to learn from.
LABELS, NOTHING = "labels", ""
SHORT = {"test_accuracy": "(linear readout)", "hidden_accuracy": "(top layer refitted)"}
COLORS = dict(
    zip(("CLAPP", "InfoNCE", "VICReg", "LPL", "Barlow Twins"), style.PALETTE, strict=False)
)
LINES: dict[tuple[str, str], tuple[Any, str]] = {
    ("local", "views"): ("-", "o"),
    ("end to end", "views"): ("--", "s"),
    ("local", "fresh views"): (":", "^"),
    ("local", "siblings"): ("-.", "D"),
    ("local", "masked halves"): ((0, (1, 3)), "v"),
}
READOUTS = {
    "test_accuracy": "linear readout of the top layer",
    "hidden_accuracy": "readout with the top layer refitted",
}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """One column for each grammar, one row for each readout."""
    data = datasets["rhm_local_ssl"]
    figure = Figure(figsize=(style.PAGE, 4.6))
    grid = figure.subplots(2, data.sizes["grammar"], sharex=True, sharey=True, squeeze=False)
    for number, (row, readout) in enumerate(zip(grid, READOUTS, strict=True)):
        for axes, grammar, control in zip(
            row, data["grammar"].values, _controls(data), strict=True
        ):
            here = data[readout].sel(grammar=grammar)
            # Supervised training brings a readout of its own.
            here = here.where(
                here["positives"] != LABELS, data["own_accuracy"].sel(grammar=grammar)
            )
            mean, half = style.interval(here, "repetition")
            for rule in data["rule"].values:
                color, line, marker, words = look(data.sel(rule=rule))
                axes.errorbar(
                    data["multiple"],
                    mean.sel(rule=rule),
                    half.sel(rule=rule),
                    color=color,
                    linestyle=line,
                    marker=marker,
                    markerfacecolor="none",
                    linewidth=1,
                    elinewidth=0.5,
                    label=words,
                )
            axes.set_xscale("log", base=2)
            axes.set_xticks(data["multiple"].values, [f"{x:g}" for x in data["multiple"].values])
            axes.minorticks_off()
            axes.set_ylim(0, 1.05)
            if number == 0:
                axes.set_title(
                    f"{grammar}\n(control: leaves are independent)" if control else grammar
                )
            else:
                axes.set_xlabel("data seen / (n m^L)")
        row[0].set_ylabel(f"test accuracy\n{SHORT[readout]}")
    panels.legend_below(figure, grid[0, 0], columns=3)
    labelled = json.loads(data.attrs["config"])["num_labelled"]
    panels.headline(
        figure, f"What layer-local rules learn without labels (read out with {labelled} other data)"
    )
    return panels.finish(figure, data)


def look(rule: xr.Dataset) -> tuple[str, Any, str, str]:
    """Colour, line, marker and label of a rule."""
    loss, credit, positives = (str(rule[key].values) for key in ("loss", "credit", "positives"))
    if positives == LABELS:
        return style.PALETTE[6], "-", "*", "supervised backpropagation (the data are labelled)"
    if positives == NOTHING:
        return "#999999", ":", "", "untrained network"
    line, marker = LINES[credit, positives]
    return COLORS[loss], line, marker, f"{loss}, {credit}, {positives}"


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Data efficiency against supervised backpropagation; depth of credit; siblings; control."""
    data = datasets["rhm_local_ssl"]
    control = _controls(data)
    local = ((data["credit"] == "local") & (data["positives"] == "views")).values
    decided = []
    if not control.all():
        usual = data[list(READOUTS)].isel(grammar=~control)
        taught = _only(data["own_accuracy"].isel(grammar=~control), positives=LABELS)
        for (readout, words), multiple in product(READOUTS.items(), data["multiple"].values):
            rules = usual[readout].isel(rule=local).sel(multiple=multiple)
            gain = rules - taught.sel(multiple=multiple)
            decided.append(
                Claim(
                    f"from {multiple:g} n m^L data, views included, every layer-local rule "
                    f"({words}) is no less accurate than supervised backpropagation with as many "
                    "labels, within 0.02",
                    of_networks(gain, "repetition", above=-0.02),
                    f"differences {_by_loss(gain.mean('repetition').min('grammar'))}; supervised "
                    f"{float(taught.sel(multiple=multiple).mean()):.2f}",
                    "as data-efficient (arXiv 2605.18557)",
                    feedback.SETTINGS,
                )
            )
        untrained = _only(usual["hidden_accuracy"], positives=NOTHING)
        lift = (usual["hidden_accuracy"].isel(rule=local) - untrained).isel(multiple=-1)
        decided.append(
            Claim(
                "every layer-local rule learns: at the largest number of data the refitted "
                "readout is at least 0.2 above that of an untrained network",
                of_networks(lift, "repetition", above=0.2),
                _by_loss(lift.mean("repetition").min("grammar")),
                "they learn it (arXiv 2605.18557)",
                feedback.SETTINGS,
            )
        )
        for loss in _losses(data, "end to end", "views"):
            near, far = (
                _only(usual["hidden_accuracy"], loss=loss, credit=credit, positives="views")
                for credit in ("local", "end to end")
            )
            gap = near - far
            decided.append(
                Claim(
                    f"{loss} in every layer learns no less than the same loss backpropagated from "
                    "the top (refitted readout, within 0.02)",
                    of_networks(gap, "repetition", above=-0.02),
                    f"local minus end to end {float(gap.mean('repetition').min()):+.2f} to "
                    f"{float(gap.mean('repetition').max()):+.2f}",
                )
            )
        for loss, positives in _alone(data):
            linear, hidden = (
                _only(usual[readout], loss=loss, credit="local", positives=positives)
                for readout in READOUTS
            )
            gain = (hidden - untrained).isel(multiple=-1)
            linear, hidden, without = (
                each.mean("repetition").isel(multiple=-1) for each in (linear, hidden, untrained)
            )
            decided.append(
                Claim(
                    f"{loss} from {positives} alone, without any side information, learns: "
                    "refitted readout at least 0.2 above an untrained network at the largest "
                    "number of data",
                    of_networks(gain, "repetition", above=0.2),
                    f"refitted {float(hidden.min()):.2f}, untrained "
                    f"{float(without.max()):.2f}, linear readout of the top "
                    f"layer{', which has no siblings,' if positives == 'siblings' else ''} "
                    f"{float(linear.min()):.2f}",
                )
            )
    if control.any():
        silent = data.isel(grammar=control)
        alone = _alone(data)
        hidden, without = silent["hidden_accuracy"], silent["credit"] == "local"
        without &= silent["positives"].isin([positives for _, positives in alone])
        gain = hidden.isel(rule=without.values) - _only(hidden, positives=NOTHING)
        learned = _only(silent["own_accuracy"], positives=LABELS).mean("repetition")
        gain = gain.mean(["grammar", "multiple"])
        center = gain.mean("repetition")
        decided.append(
            Claim(
                "negative control m = v^(s-1): rules without side information gain less than "
                f"{NEGLIGIBLE:g} over an untrained network, supervised backpropagation learns",
                both(
                    of_networks(gain, "repetition", below=NEGLIGIBLE),
                    of_cases(learned.max(), above=0.9),
                ),
                "gain "
                + ", ".join(
                    f"{loss} from {positives} "
                    f"{float(_only(center, loss=loss, positives=positives)):+.2f}"
                    for loss, positives in alone
                )
                + f"; supervised {float(learned.max()):.2f}",
                "no signal: the covariance of leaves is 0 (arXiv 2406.00048)",
            )
        )
    return decided


def _losses(data: xr.Dataset, credit: str, positives: str) -> list[str]:
    chosen = (data["credit"] == credit) & (data["positives"] == positives)
    return [str(loss) for loss in data["loss"].values[chosen.values]]


def _alone(data: xr.Dataset) -> list[tuple[str, str]]:
    """Losses and positives without side information: data alone, at most their tuples."""
    return [
        (loss, positives)
        for positives in ("siblings", "masked halves")
        for loss in _losses(data, "local", positives)
    ]


def _only(data: xr.DataArray, **coordinates: str) -> xr.DataArray:
    """The one rule that has these coordinates."""
    chosen = np.logical_and.reduce([data[key].values == word for key, word in coordinates.items()])
    (place,) = np.flatnonzero(chosen)
    # Without the coordinates of the rule: other rules are subtracted from it.
    return data.isel(rule=place, drop=True)


def _by_loss(values: xr.DataArray) -> str:
    """Signed numbers over rules, in words."""
    pairs = zip(values["loss"].values, values.values, strict=True)
    return ", ".join(f"{loss} {value:+.2f}" for loss, value in pairs)


def _controls(data: xr.Dataset) -> NDArray[np.bool_]:
    """Which grammars are negative controls: those in which any leaves are possible."""
    grammars = json.loads(data.attrs["config"])["grammars"]
    return np.array([num_symbols == num_synonyms for num_symbols, num_synonyms, _ in grammars])
