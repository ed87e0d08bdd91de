"""Hierarchical images need every block: accuracy of a probe of each, by rule."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim, of_networks
from paper_figures.look import comparisons, needed, panels, style

INPUTS = ("rhm_images",)
PAPER = "B"

# Gain of the top block over the first below which depth brings nothing; what counts as no worse.
HEADROOM, AS_GOOD = 0.2, 0.02
TAUGHT, UNTRAINED = "cross-entropy backpropagation", "untrained"
MARKERS = "osD^vP"


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Rules with labels on the left, layer-local rules without on the right."""
    data = datasets["rhm_images"]
    figure = Figure(figsize=(style.PAGE, 4.0))
    panels_ = figure.subplots(1, 2, sharey=True)
    labelled = [str(r) for r in data["rule"].values if r.startswith("cross-entropy")]
    local = [str(r) for r in data["rule"].values if r.endswith(" local")]
    for axes, rules, title in zip(
        panels_,
        ([*labelled, UNTRAINED], [*local, TAUGHT]),
        ("labels", "layer-local rules, no labels"),
        strict=True,
    ):
        for rule, color, marker in zip(rules, style.PALETTE, MARKERS, strict=False):
            here = data.sel(rule=rule)
            color = "#000000" if rule == TAUGHT else "#999999" if rule == UNTRAINED else color
            mean, half = style.interval(here["accuracy"], "repetition")
            label = rule.removeprefix("cross-entropy ").removesuffix(" local")
            open_ = float(needed.unfinished(here)) > needed.UNFINISHED
            axes.errorbar(
                data["layer"],
                mean,
                half,
                color=color,
                marker=marker,
                markerfacecolor="white" if open_ else color,
                linewidth=1,
                elinewidth=0.5,
                label=label + (" (unfinished)" if open_ else ""),
            )
        pixels = float(data["pixel_accuracy"].mean())
        axes.axhline(pixels, color="#bbbbbb", linewidth=0.8, linestyle=":", zorder=0)
        axes.axhline(float(data["chance"]), color="#bbbbbb", linewidth=0.8, zorder=0)
        panels.layer_axis(axes, data["layer"])
        axes.set_xlabel("block")
        axes.set_title(title)
        axes.set_ylim(0, 1.05)
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0.0, -0.2))
    panels_[0].set_ylabel("accuracy of a linear probe\n(dotted: of the pixels; line: chance)")
    panels.headline(figure, _headline(data))
    return panels.finish(figure, data)


def _headline(data: xr.Dataset) -> str:
    gain = _gain(data, TAUGHT)
    mean, half = (float(each) for each in style.interval(gain, "repetition"))
    if mean - half > HEADROOM:
        return f"Hierarchical images: depth brings backpropagation {mean:+.2f} in accuracy"
    return "Hierarchical images: depth is not shown to bring much here"


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Headroom in depth, and which rules use it."""
    data = datasets["rhm_images"]
    found = [
        _claim(
            data,
            "backpropagation needs all blocks: the last is read at least "
            f"{HEADROOM:g} better than the first",
            _gain(data, TAUGHT),
            HEADROOM,
            [TAUGHT],
        )
    ]
    top = data["accuracy"].isel(layer=-1)
    best = top.sel(rule=TAUGHT, drop=True).reset_coords(drop=True)
    for rule in (str(r) for r in data["rule"].values if r not in (TAUGHT, UNTRAINED)):
        found.append(
            _claim(
                data,
                f"{rule}: every block is read better than the one below",
                _steps(data, rule),
                0.0,
                [rule],
            )
        )
        gap = top.sel(rule=rule, drop=True).reset_coords(drop=True) - best
        found.append(
            _claim(
                data,
                f"{rule}: the last block is read no worse than after backpropagation "
                f"(within {AS_GOOD:g})",
                gap,
                -AS_GOOD,
                [rule, TAUGHT],
            )
        )
    return [*found, *comparisons.searches_inside(data)]


def _gain(data: xr.Dataset, rule: str) -> xr.DataArray:
    accuracy = data["accuracy"].sel(rule=rule)
    return accuracy.isel(layer=-1, drop=True) - accuracy.isel(layer=0, drop=True)


def _steps(data: xr.Dataset, rule: str) -> xr.DataArray:
    """The smallest gain from a block to the next, over repetition."""
    return data["accuracy"].sel(rule=rule).diff("layer").min("layer")


def _claim(
    data: xr.Dataset, text: str, gain: xr.DataArray, bound: float, rules: list[str]
) -> Claim:
    question, open_ = needed.decided(
        data.sel(rule=rules), of_networks(gain, "repetition", above=bound)
    )
    return Claim(text, question, f"{float(gain.mean()):+.2f}{open_}")
