"""What a linear classifier reads from networks trained by local rules and by backpropagation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.claims import Claim
from paper_figures.look import comparisons, panels, style

INPUTS = ("local_rules",)
PAPER = "A"

# arXiv 2601.21683 on CIFAR-10, top-1 in per cent: local, and backpropagation of the same loss.
PUBLISHED: dict[str, tuple[float | None, float | None]] = {
    "CLAPP++": (80.51, 80.49),
    "CLAPP++ DFB": (80.65, 80.49),
    "CLAPP++ both": (81.18, 80.49),
    "InfoNCE": (None, 80.69),
    "SCFF": (80.60, None),
    "LPL": (59.4, None),
}
COLORS = {"local": style.PALETTE[0], "backpropagation": style.PALETTE[1]}
WORDS = {"local": "local", "backpropagation": "backpropagation of the same loss"}
MARGIN = 0.01
LINES = {"untrained": ":", "supervised": "--"}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """A panel for each data set, two bars for each rule."""
    data = datasets["local_rules"]
    figure = Figure(figsize=(style.PAGE, 0.3 * data.sizes["rule"] + 1.4))
    row = figure.subplots(1, data.sizes["data"], sharey=True, squeeze=False)[0]
    for axes, name in zip(row, data["data"].values, strict=True):
        bars(axes, data.sel(data=name))
        axes.set_title(name)
    row[0].set_yticks(range(data.sizes["rule"]), [label(r) for r in data["rule"].values])
    row[0].invert_yaxis()
    panels.legend_below(figure, row[0], columns=4)
    panels.headline(
        figure, "Linear probe on all blocks (in brackets: published, CIFAR-10, local | BP)"
    )
    return panels.finish(figure, data)


def bars(axes: Axes, data: xr.Dataset) -> None:
    """Accuracies with their intervals, and the references as lines."""
    places = np.arange(data.sizes["rule"])
    for shift, (credit, color) in zip((-0.2, 0.2), COLORS.items(), strict=True):
        mean, half = style.interval(data["accuracy"].sel(credit=credit), "repetition")
        axes.barh(
            places + shift,
            mean,
            0.38,
            xerr=half.fillna(0),
            color=color,
            label=WORDS[credit],
            error_kw={"elinewidth": 0.7},
        )
    for name, line in LINES.items():
        value = float(data["reference_accuracy"].sel(reference=name).mean())
        words = {"untrained": "untrained network", "supervised": "supervised backpropagation"}
        axes.axvline(value, color="black", linestyle=line, linewidth=1, label=words[name])
    axes.set_xlim(0, 1)
    axes.set_xlabel("test accuracy")


def label(rule: str) -> str:
    """The rule with its published accuracies."""
    if rule not in PUBLISHED:
        return rule
    local, backpropagated = ("–" if value is None else f"{value:.1f}" for value in PUBLISHED[rule])
    return f"{rule} ({local} | {backpropagated})"


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Local against backpropagation for each rule, and the order within the CLAPP++ family."""
    data = datasets["local_rules"]
    decided = []
    for name in data["data"].values:
        accuracy = data["accuracy"].sel(data=name)
        elsewhere = None if name == "cifar10" else "CIFAR-10"
        untrained = data["reference_accuracy"].sel(data=name, reference="untrained", drop=True)
        local = accuracy.sel(credit="local", drop=True)
        family = [rule for rule in local["rule"].values if rule.startswith("CLAPP++")]
        decided += [
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
        decided += [
            _decided(
                f"{name}: {rule} is better than CLAPP++",
                local.sel(rule=rule) - local.sel(rule="CLAPP++"),
                f"{PUBLISHED[rule][0]} against {PUBLISHED['CLAPP++'][0]}"
                if rule in PUBLISHED
                else None,
                elsewhere,
            )
            for rule in family[1:]
        ]
        decided += [
            _decided(
                f"{name}: {rule} is better than an untrained network",
                local.sel(rule=rule) - untrained,
            )
            for rule in local["rule"].values
        ]
    return decided


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
