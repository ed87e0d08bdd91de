"""With orthogonal weights and optimal projections local and global updates agree to rounding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike

from paper_figures.claims import Claim, Question, of_cases, of_networks
from paper_figures.look import panels, style

INPUTS = ("linear_alignment",)
PAPER = "A"

# Fig. 2 of arXiv 2601.21683, layers 1-6, measured on MNIST. The last one is that of a fit which
# stopped early: `released_fit`.
PUBLISHED = {
    "default init": (0.25, 0.31, 0.40, 0.55, 0.71, 1.0),
    "ReLU + orthogonal": (0.20, 0.37, 0.51, 0.61, 0.67, 1.0),
    "ReLU + default": (0.04, 0.10, 0.13, 0.23, 0.30, 1.0),
}
PUBLISHED_ERROR = 3e-7
EXACT = "all assumptions"
LIMIT = 1e-10
# The smallest difference of cosines that we call one; the published conditions differ by as much.
CLOSE = 0.1


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Cosines per layer and condition on each kind of images, and the error of the exact row.

    Lines are means over networks; a band holds 95 % of networks.
    """
    results = datasets["linear_alignment"]
    sources = results["data"].values
    figure = Figure(figsize=(style.PAGE, 2.9))
    *cosines, errors = figure.subplots(1, len(sources) + 1)
    for source, axes in zip(sources, cosines, strict=True):
        looks = zip(results["condition"].values, style.PALETTE, style.MARKERS, strict=False)
        for condition, color, marker in looks:
            measured = results["cosine"].sel(data=source, condition=condition)
            mean, half = style.spread(measured, "network")
            axes.plot(results["layer"], mean, color=color, label=condition, marker=marker)
            axes.fill_between(
                results["layer"], mean - half, mean + half, color=color, alpha=0.2, linewidth=0
            )
            if condition in PUBLISHED and len(PUBLISHED[condition]) == measured.sizes["layer"]:
                axes.plot(
                    results["layer"],
                    PUBLISHED[condition],
                    linestyle="none",
                    marker="D",
                    markersize=5,
                    markerfacecolor="none",
                    markeredgecolor=color,
                )
        axes.axhline(0, color="#777777", linewidth=0.6)
        axes.set(title=source)
        axes.set_ylim(max(-1.08, axes.get_ylim()[0]), 1.08)
        panels.layer_axis(axes, results["layer"])
    cosines[0].set_ylabel("cosine of local\nand global update")
    _draw_errors(errors, results)
    diamond = Line2D([], [], linestyle="none", marker="D", markerfacecolor="none", color="#777777")
    panels.legend_below(figure, cosines[0], 3, extra=[(diamond, "published (MNIST)")])
    panels.headline(figure, "Drop one assumption, and local updates leave backpropagation")
    return panels.finish(figure, results)


def _draw_errors(axes: Axes, results: xr.Dataset) -> None:
    exact = results.sel(condition=EXACT)
    below = exact.sel(layer=results["layer"][:-1])  # local and global are one in the top layer
    markers = zip(results["data"].values, "osv", strict=False)
    for source, marker in markers:
        worst = below["worst_error"].sel(data=source).max("network")
        axes.plot(
            worst["layer"],
            worst.clip(min=panels.FLOOR),
            color=style.PALETTE[0],
            marker=marker,
            linestyle=":" if marker != "o" else "-",
            label=source,
        )
    rounding = np.finfo(float).eps * float(exact["condition_number"].max())
    for height, text in (
        (PUBLISHED_ERROR, "published"),
        (rounding, "rounding × condition"),
        (LIMIT, None),
    ):
        if text:
            axes.axhline(height, color="#777777", linewidth=0.8, linestyle="--")
            axes.text(1, height * 1.4, text, size=7, color="#777777")
    many = results.sizes["data"] > 2
    axes.set(yscale="log", ylim=(1e-19 if many else 1e-16, 1e-5), title=EXACT)
    axes.set_ylabel("relative error, worst case")
    axes.legend(loc="lower left", fontsize=7, ncols=1 if many else 2, columnspacing=1)
    panels.layer_axis(axes, below["layer"])


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Exactness, the order of the layers, and the place of the published cosines."""
    results = datasets["linear_alignment"]
    decided = [_exactness(results)]
    for source in results["data"].values:
        here = results["cosine"].sel(data=source)
        for condition in ("default init", "ReLU + orthogonal", "ReLU + default"):
            row = here.sel(condition=condition)
            published = PUBLISHED.get(condition)
            decided.append(
                Claim(
                    f"{source}, {condition}: the cosine increases with the layer",
                    _of_sign(row.diff("layer"), 1),
                    panels.numbers(row.mean("network")),
                    " ".join(f"{value:.2f}" for value in published) if published else None,
                    _elsewhere(source) if published else None,
                )
            )
        decided += _against_published(str(source), here)
    return decided


def _exactness(results: xr.Dataset) -> Claim:
    exact = results.sel(condition=EXACT)
    worst = exact["worst_error"]
    condition = float(exact["condition_number"].max())
    rounding = np.finfo(float).eps * condition
    return Claim(
        f"{EXACT}: cosine 1 and relative error at most {LIMIT:g} in every layer, network and batch",
        of_cases(
            np.concatenate([worst.values.ravel(), abs(exact["cosine"] - 1).values.ravel()]),
            most=LIMIT,
        ),
        f"worst {float(worst.max()):.1e}; rounding times the condition number {condition:.1e} is "
        f"{rounding:.1e}",
        f"cosine 1.0000, error {PUBLISHED_ERROR:g}",
    )


def _against_published(source: str, cosines: xr.DataArray) -> list[Claim]:
    """The published numbers are those of one network: the difference from its means and ours."""
    if any(len(values) != cosines.sizes["layer"] for values in PUBLISHED.values()):
        return []
    below = cosines.isel(layer=slice(-1))
    decided = []
    for condition, values in PUBLISHED.items():
        published = xr.DataArray(list(values[:-1]), coords={"layer": below["layer"]})
        row = below.sel(condition=condition)
        decided.append(
            Claim(
                f"{source}, {condition}: the mean cosines are those of the published networks "
                f"(one of them, MNIST) in every layer, within {CLOSE:g}",
                of_networks(row - published, "network", -CLOSE, CLOSE, one_more=True),
                f"{panels.numbers(row.mean('network'))}, difference "
                f"{panels.numbers((row - published).mean('network'), sign='+')}",
                " ".join(f"{value:.2f}" for value in values),
                _elsewhere(source),
            )
        )
    gap = np.subtract(PUBLISHED["ReLU + orthogonal"], PUBLISHED["default init"])[:-1]
    ours = below.sel(condition="ReLU + orthogonal") - below.sel(condition="default init")
    decided.append(
        Claim(
            f"{source}: ReLU + orthogonal lies above default init exactly in layers "
            + " ".join(str(l) for l, value in enumerate(gap, 1) if value > 0),
            _of_sign(ours, np.sign(gap)),
            f"difference {panels.numbers(ours.mean('network'), sign='+')} in layers "
            f"{panels.span(ours['layer'])}",
            " ".join(f"{value:+.2f}" for value in gap),
            _elsewhere(source),
        )
    )
    return decided


def _elsewhere(source: str) -> str | None:
    return None if source == "mnist" else "MNIST"


def _of_sign(values: xr.DataArray, sign: ArrayLike) -> Question:
    """Whether the mean over networks has this sign in every layer."""
    return of_networks(values * sign, "network", above=0)
