"""In a linear CNN local learning gains most from a projection that sees where things are."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim
from paper_figures.look import comparisons, panels, style

INPUTS = ("linear_cnn",)
PAPER = "A"

LOOKS = {
    "no spatial dependence": (style.PALETTE[1], "v"),
    "2D dependence": (style.PALETTE[2], "s"),
    "2D dependence + direct feedback": (style.PALETTE[0], "o"),
}
NONE, PLACE, FEEDBACK = LOOKS
GAINS = ((PLACE, NONE, "gain of 2D dependence"), (FEEDBACK, PLACE, "further gain of feedback"))
PUBLISHED_ON = "crops of MNIST"  # in the released code


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Cosines per layer, a column for each kind of images; below the two gains, same networks."""
    results = datasets["linear_cnn"]
    cosine = results["cosine"].mean("batch")
    sources = results["data"].values
    figure = Figure(figsize=(style.PAGE, 3.9))
    cosines, gains = figure.subplots(2, len(sources), sharey="row", squeeze=False)
    for source, upper, lower in zip(sources, cosines, gains, strict=True):
        here = cosine.sel(data=source)
        for condition, (color, marker) in LOOKS.items():
            measured = here.sel(condition=condition)
            style.band(upper, measured, "network", color=color, label=condition, marker=marker)
        upper.set(title=source)
        panels.layer_axis(upper, results["layer"])
        for place, (better, worse, label) in zip((-0.08, 0.08), GAINS, strict=True):
            gain = here.sel(condition=better) - here.sel(condition=worse)
            mean, half = style.interval(gain.sel(layer=results["layer"][:-1]), "network")
            color, marker = LOOKS[better]
            lower.errorbar(
                *(mean["layer"] + place, mean, half),
                color=color,
                marker=marker,
                linestyle="none",
                capsize=2,
                label=label,
            )
        lower.axhline(0, color="#777777", linewidth=0.6)
        panels.layer_axis(lower, results["layer"][:-1])
        lower.set_xlim(0.6, results.sizes["layer"] - 0.4)
    cosines[0].set_ylabel("cosine of local\nand global update")
    cosines[0].set_ylim(max(-1.04, cosines[0].get_ylim()[0]), 1.04)
    gains[0].set_ylabel("gain, same network")
    handles, labels = gains[0].get_legend_handles_labels()
    extra = list(zip(handles, labels, strict=True))
    panels.legend_below(figure, cosines[0], columns=3, extra=extra)
    panels.headline(figure, "Linear CNN: a projection that sees places gains most, feedback little")
    return panels.finish(figure, results)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """The order of the three published curves."""
    results = datasets["linear_cnn"]
    below = results["cosine"].mean("batch").sel(layer=results["layer"][:-1])
    decided = []
    for source in results["data"].values:
        none, place, feedback = (below.sel(data=source, condition=name) for name in LOOKS)
        for text, better, worse in (
            ("2D dependence raises the cosine over none", place, none),
            ("direct feedback raises it further", feedback, place),
        ):
            claim = f"{source}: {text} in every layer below the top"
            decided.append(
                comparisons.raises(
                    claim,
                    better,
                    worse,
                    "network",
                    digits=4,
                    elsewhere=None if source == "mnist" else PUBLISHED_ON,
                )
            )
    return decided
