"""In a linear CNN local learning gains most from a projection that sees where things are."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim
from paper_figures.look import comparisons, panels, style

INPUTS = ("linear_cnn",)
PAPER = "A"

COLORS = {
    "no spatial dependence": style.PALETTE[1],
    "2D dependence": style.PALETTE[2],
    "2D dependence + direct feedback": style.PALETTE[0],
}
NONE, PLACE, FEEDBACK = COLORS
PUBLISHED_ON = "crops of natural images"


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Cosines per layer on each kind of images, and the two gains, paired by batch."""
    results = datasets["linear_cnn"]
    sources = results["data"].values
    figure = Figure(figsize=(style.PAGE, 2.6))
    *cosines, gains = figure.subplots(1, len(sources) + 1)
    for axes in cosines[1:]:
        axes.sharey(cosines[0])
    for source, axes in zip(sources, cosines, strict=True):
        for condition, color in COLORS.items():
            measured = results["cosine"].sel(data=source, condition=condition)
            style.band(axes, measured, "batch", color=color, label=condition)
        axes.set(title=source)
        panels.layer_axis(axes, results["layer"])
    cosines[0].set_ylabel("cosine of local\nand global update")
    cosines[0].set_ylim(max(-1.04, cosines[0].get_ylim()[0]), 1.04)
    below = results["cosine"].sel(layer=results["layer"][:-1])
    for number, (source, marker) in enumerate(zip(sources, "osv", strict=False)):
        here = below.sel(data=source)
        for better, worse in ((PLACE, NONE), (FEEDBACK, PLACE)):
            gain = here.sel(condition=better) - here.sel(condition=worse)
            mean, half = style.interval(gain, "batch")
            gains.errorbar(
                mean["layer"] + 0.16 * (number - (len(sources) - 1) / 2),
                mean,
                half,
                color=COLORS[better],
                marker=marker,
                linestyle="none",
                capsize=2,
            )
        gains.plot([], [], linestyle="none", marker=marker, color="#777777", label=source)
    gains.axhline(0, color="#777777", linewidth=0.6)
    gains.set(title="gain over next curve", ylabel="difference of cosines,\nsame batch")
    bottom, top = gains.get_ylim()
    gains.set_ylim(bottom, top + 0.15 * len(sources) * (top - bottom))
    gains.legend(loc="upper left", fontsize=7)
    panels.layer_axis(gains, below["layer"])
    panels.legend_below(figure, cosines[0], columns=3)
    panels.headline(figure, "Linear CNN: a projection that sees places gains most, feedback little")
    return panels.finish(figure, results)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """The order of the three published curves."""
    results = datasets["linear_cnn"]
    below = results["cosine"].sel(layer=results["layer"][:-1])
    decided = []
    for source in results["data"].values:
        none, place, feedback = (below.sel(data=source, condition=name) for name in COLORS)
        for text, better, worse in (
            ("2D dependence raises the cosine over none", place, none),
            ("direct feedback raises it further", feedback, place),
        ):
            claim = f"{source}: {text} in every layer below the top"
            decided.append(
                comparisons.raises(claim, better, worse, "batch", digits=4, elsewhere=PUBLISHED_ON)
            )
    return decided
