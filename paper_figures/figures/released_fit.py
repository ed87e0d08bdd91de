"""Two published curves of Fig. 2 show the fit: one that stops early, one of the batch before."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.claims import Claim, of_networks
from paper_figures.look import comparisons, panels, style

INPUTS = ("released_fit",)
PAPER = "A"

SMALL, EXACT = "ReLU + default", "all assumptions"
# Fig. 2 of arXiv 2601.21683, layers 1-6, measured on MNIST; the other is a curve only.
PUBLISHED = (0.04, 0.10, 0.13, 0.23, 0.30, 1.0)
CURVE = "as a curve only, between 0 and -0.2"
OPTIMUM, FITTED, BEFORE, DRAWN = (
    "optimum",
    "released fit",
    "fit of the batch before",
    "drawn",
)
LOOKS = {
    OPTIMUM: (style.PALETTE[0], "o"),
    FITTED: (style.PALETTE[1], "s"),
    BEFORE: (style.PALETTE[2], "^"),
    DRAWN: (style.PALETTE[3], "v"),
}
# More than the released projection of one negative of each view changes, see departures.
NEAR = 0.03
CLOSE = 0.1  # the smallest difference of cosines that we call one, as in linear_alignment


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Cosines per layer where the fit stops early, and before it; how far each fit got."""
    results = datasets["released_fit"]
    figure = Figure(figsize=(style.PAGE, 2.9))
    early, random, gradients = figure.subplots(1, 3)
    _cosines(early, results, SMALL, (OPTIMUM, FITTED))
    if results.sizes["layer"] == len(PUBLISHED):
        early.plot(
            results["layer"],
            PUBLISHED,
            linestyle="none",
            marker="D",
            markersize=6,
            markerfacecolor="none",
            markeredgecolor="black",
            label="published (MNIST)",
        )
    early.set(title=SMALL, ylim=(-0.05, 1.05))
    early.set_ylabel("cosine of local\nand global update")
    below = results.sel(layer=results["layer"][:-1])
    _cosines(random, below, EXACT, (BEFORE, DRAWN))
    random.axhline(0, color="#777777", linewidth=0.6)
    random.set(title=f"{EXACT}, before the fit")
    for (condition, marker), color in zip(
        zip(results["condition"].values, "osv^", strict=False), style.PALETTE[:4], strict=False
    ):
        mean = results["relative_gradient"].sel(condition=condition).median("network")
        gradients.plot(mean["layer"], mean, color=color, marker=marker, label=condition)
    gradients.set(yscale="log", title="how far the fit got")
    gradients.set_ylabel("||dLoss/dB|| / ||λB||")
    gradients.set_ylim(top=100)  # room for the legend
    gradients.legend(fontsize=7, loc="upper left")
    panels.layer_axis(gradients, results["layer"])
    handles, labels = random.get_legend_handles_labels()
    panels.legend_below(figure, early, 3, extra=list(zip(handles, labels, strict=True)))
    published = str(results["data"].values) == "mnist"
    panels.headline(
        figure,
        "Two published curves show how B was fitted, not the optimal B"
        if published
        else "The released fit of B beside the optimal B (published: MNIST)",
    )
    return panels.finish(figure, results)


def _cosines(axes: Axes, results: xr.Dataset, condition: str, fits: tuple[str, ...]) -> None:
    """Means over networks; a band holds 95 % of networks."""
    for fit in fits:
        color, marker = LOOKS[fit]
        measured = results["cosine"].sel(condition=condition, fit=fit)
        mean, half = style.spread(measured, "network")
        axes.plot(mean["layer"], mean, color=color, marker=marker, label=fit)
        axes.fill_between(mean["layer"], mean - half, mean + half, color=color, alpha=0.2, lw=0)
    panels.layer_axis(axes, results["layer"])


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Where the two published curves lie, and where the fit is good."""
    results = datasets["released_fit"]
    elsewhere = None if str(results["data"].values) == "mnist" else "MNIST"
    below = results["cosine"].sel(layer=results["layer"][:-1])
    small, exact = (below.sel(condition=name) for name in (SMALL, EXACT))
    decided = []
    if results.sizes["layer"] == len(PUBLISHED):
        decided = [_published(small, fit, elsewhere) for fit in (FITTED, OPTIMUM)]
    decided += [
        comparisons.raises(
            f"{SMALL}: the optimum lies above the released fit in every layer below the top",
            small.sel(fit=OPTIMUM),
            small.sel(fit=FITTED),
            "network",
            published=None,
        ),
        *(
            _near(below.sel(condition=condition), str(condition))
            for condition in results["condition"].values
            if condition != SMALL
        ),
        comparisons.raises(
            f"{EXACT}: a B as drawn lies above the fit of the batch before, which was published as "
            "random fixed B, in every layer below the top",
            exact.sel(fit=DRAWN),
            exact.sel(fit=BEFORE),
            "network",
            published=None,
        ),
    ]
    return decided


def _published(cosines: xr.DataArray, fit: str, elsewhere: str | None) -> Claim:
    """The published numbers are those of one network: the difference from its means and ours."""
    row = cosines.sel(fit=fit)
    published = xr.DataArray(list(PUBLISHED[:-1]), coords={"layer": row["layer"]})
    return Claim(
        f"{SMALL}, {fit}: the mean cosines are those of the published networks (one of them, "
        f"MNIST) in every layer, within {CLOSE:g}",
        of_networks(row - published, "network", -CLOSE, CLOSE, one_more=True),
        f"{panels.numbers(row.mean('network'))}, difference "
        f"{panels.numbers((row - published).mean('network'), sign='+')}",
        " ".join(f"{value:.2f}" for value in PUBLISHED[:-1]),
        elsewhere,
    )


def _near(cosines: xr.DataArray, condition: str) -> Claim:
    gap = cosines.sel(fit=FITTED) - cosines.sel(fit=OPTIMUM)
    return Claim(
        f"{condition}: the released fit is within {NEAR:g} of the optimum in every layer below the "
        "top",
        of_networks(gap, "network", -NEAR, NEAR),
        f"{panels.numbers(gap.mean('network'), 3, '+')} in layers {panels.span(gap['layer'])}",
    )
