"""What a linear classifier reads from networks trained by local rules and by backpropagation."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from paper_figures.claims import Claim, decided
from paper_figures.look import comparisons, panels, rows, style

INPUTS = ("local_rules",)
PAPER = "A"

# arXiv 2601.21683 on CIFAR-10, top-1 in per cent: local, and backpropagation of the same loss.
PUBLISHED: dict[str, tuple[float | None, float | None]] = {
    "CLAPP++ without 2D": (73.21, None),
    "CLAPP++": (80.51, 80.49),
    "CLAPP++ DFB": (80.65, 80.49),
    "CLAPP++ both": (81.18, 80.49),
    "InfoNCE": (None, 80.69),
    "SCFF": (80.60, None),
    "LPL": (59.4, None),
}
# The better one first, as published.
ORDERS = (
    ("CLAPP++", "CLAPP++ without 2D"),
    ("CLAPP++ DFB", "CLAPP++"),
    ("CLAPP++ both", "CLAPP++"),
)
MARGIN = 0.01
# What it takes to compare numbers: all channels, and 300 epochs, so many of our steps.
PUBLISHED_SIZE = {"width": 1.0, "steps": 470_000}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """A panel for each data set, a row for each rule: local training minus backpropagation."""
    data = datasets["local_rules"]
    gain = _gain(data)
    order = np.argsort(-gain.mean(["data", "repetition"]).values, kind="stable")
    data, gain = data.isel(rule=order), gain.isel(rule=order)
    figure = Figure(figsize=(style.PAGE, 0.25 * data.sizes["rule"] + 1.6))
    row = figure.subplots(1, data.sizes["data"], sharey=True, squeeze=False)[0]
    for axes, name in zip(row, data["data"].values, strict=True):
        differences(axes, data.sel(data=name), gain.sel(data=name, drop=True))
        axes.set_title(name)
    row[0].set_yticks(range(data.sizes["rule"]), [label(r) for r in data["rule"].values])
    row[0].invert_yaxis()
    panels.legend_below(figure, row[0], columns=3)
    panels.headline(figure, _result(data))
    return panels.finish(figure, data)


def differences(axes: Axes, data: xr.Dataset, gain: xr.DataArray) -> None:
    """Dots with their intervals; at the right, the accuracy of local training."""
    places = range(gain.sizes["rule"])
    values = [gain.isel(rule=k) for k in places]
    color = style.PALETTE[0]
    axes.axvspan(-MARGIN, MARGIN, color="#DDDDDD", linewidth=0, label=f"within {MARGIN:g}")
    rows.zero(axes)
    rows.dots(axes, places, values, "repetition", color=color, marker="o", label="measured here")
    published = [PUBLISHED.get(str(r), (None, None)) for r in data["rule"].values]
    stars = [(k, (l - b) / 100) for k, (l, b) in enumerate(published) if l is not None and b]
    axes.plot(
        [gap for _, gap in stars],
        [k for k, _ in stars],
        linestyle="",
        marker="*",
        markersize=7,
        markerfacecolor="none",
        color=style.PALETTE[1],
        label="published, CIFAR-10 (in brackets: local | BP)",
    )
    local = data["accuracy"].sel(credit="local").mean("repetition").values
    for place, accuracy in zip(places, local, strict=True):
        words = f"{float(accuracy):.2f}"
        axes.text(1.01, place, words, transform=axes.get_yaxis_transform(), va="center", size=7)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"accuracy, local minus backpropagation\n{_references(data)}")


def _references(data: xr.Dataset) -> str:
    """The accuracies that frame those at the right of a panel."""
    means = data["reference_accuracy"].mean("repetition")
    told = (f"{name} {float(means.sel(reference=name)):.2f}" for name in means["reference"].values)
    return f"at the right: local;\n{', '.join(told)}"


def _gain(data: xr.Dataset) -> xr.DataArray:
    accuracy = data["accuracy"]
    return accuracy.sel(credit="local", drop=True) - accuracy.sel(
        credit="backpropagation", drop=True
    )


def _result(data: xr.Dataset) -> str:
    """What the headline says: how many rules are no worse than backpropagation, and learn."""
    found = decided(claims({"local_rules": data}))
    told = []
    for name in data["data"].values:
        here, learning = (
            [c.here for c in found if c.text.startswith(f"{name}: ") and words in c.text]
            for words in (" is no worse than ", " an untrained network")
        )
        good, worse = here.count("holds"), here.count("fails")
        told.append(
            f"{name} {good} of {len(here)}, {worse} worse, {len(here) - good - worse} undecided; "
            f"better than untrained: {learning.count('holds')}"
        )
    return (
        f"Rules whose local training is no worse than backpropagation of their loss, within "
        f"{MARGIN:g}:\n{'; '.join(told)}"
    )


def label(rule: str) -> str:
    """The rule with its published accuracies."""
    if rule not in PUBLISHED:
        return rule
    local, backpropagated = ("–" if value is None else f"{value:.1f}" for value in PUBLISHED[rule])
    return f"{rule} ({local} | {backpropagated})"


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Local against backpropagation for each rule, and the order within the CLAPP++ family."""
    data = datasets["local_rules"]
    found = []
    for name in data["data"].values:
        accuracy = data["accuracy"].sel(data=name)
        elsewhere = _elsewhere(data, str(name))
        untrained = data["reference_accuracy"].sel(data=name, reference="untrained", drop=True)
        local = accuracy.sel(credit="local", drop=True)
        rules = set(local["rule"].values.tolist())
        found += [
            _decided(
                f"{name}: {rule} is no worse than backpropagation of the same loss, within "
                f"{MARGIN:g}",
                local.sel(rule=rule) - accuracy.sel(rule=rule, credit="backpropagation"),
                _difference(rule),
                elsewhere,
                -MARGIN,
            )
            for rule in local["rule"].values
        ]
        found += [
            _decided(
                f"{name}: {better} is better than {worse}",
                local.sel(rule=better) - local.sel(rule=worse),
                f"{PUBLISHED[better][0]} against {PUBLISHED[worse][0]}",
                elsewhere,
            )
            for better, worse in ORDERS
            if {better, worse} <= rules
        ]
        found += [
            _decided(
                f"{name}: {rule} is better than an untrained network",
                local.sel(rule=rule) - untrained,
            )
            for rule in local["rule"].values
        ]
    return [*found, *comparisons.rates_inside(data)]


def _elsewhere(data: xr.Dataset, name: str) -> str | None:
    """What the accuracies were published on, where this is something else, or much smaller."""
    config = json.loads(data.attrs["config"])
    if name != "cifar10":
        return "CIFAR-10"
    if any(config.get(key, 0) < least for key, least in PUBLISHED_SIZE.items()):
        return "CIFAR-10, with all channels, for 300 epochs"
    return None


def _difference(rule: str) -> str | None:
    local, backpropagated = PUBLISHED.get(rule, (None, None))
    if local is None or backpropagated is None:
        return None
    return f"{local} against {backpropagated}"


def _decided(
    text: str,
    gain: xr.DataArray,
    published: str | None = None,
    elsewhere: str | None = None,
    at_least: float = 0.0,
) -> Claim:
    """That the paired difference exceeds ``at_least``."""
    measured = f"{float(gain.mean()):+.3f}"
    return Claim(text, comparisons.above(gain, at_least), measured, published, elsewhere)
