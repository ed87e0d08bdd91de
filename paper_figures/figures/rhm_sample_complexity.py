"""Deep networks learn the hierarchy from n m^L labels, shallow ones need a share of all data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from paper_figures.claims import Claim, Question, of_estimates
from paper_figures.look import comparisons, needed, panels, style

INPUTS = ("rhm_sample_complexity",)
PAPER = "B"

DEEP, SHALLOW = "convolutional", "shallow"
SPREAD = 4.0
# Powers that differ by less are the same to us.
POWER = 0.2
# A panel shows no more curves than this; the last panel has all grammars.
CURVES = 6


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Error of grammars against P / P*, one panel for each network, and P needed against P*."""
    data = datasets["rhm_sample_complexity"]
    error, level = needed.relative_error(data), needed.threshold(data)
    size = needed.needed(error, level)
    figure = Figure(figsize=(style.PAGE, 2.9))
    row = figure.subplots(1, data.sizes["architecture"] + 1, squeeze=False)[0]
    star = data["P_star"].values
    shown = np.argsort(star)[np.linspace(0, len(star) - 1, min(CURVES, len(star))).astype(int)]
    for axes, network in zip(row, data["architecture"].values, strict=False):
        for place, color, marker in zip(shown, style.PALETTE, "osD^vP", strict=False):
            here = error.sel(architecture=network).isel(grammar=place).dropna("multiple")
            if here.sizes["multiple"]:
                label = str(data["grammar"].values[place])
                style.band(axes, here, "repetition", color=color, label=label)
                axes.lines[-1].set_marker(marker)
        axes.axhline(level, color="#777777", linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set(ylim=(-0.03, 1.15))
        axes.set_title(str(network).replace(", ", ",\n"), size=8)
        axes.set_xlabel("P / (n m^L)")
    row[0].set_ylabel("test error / error of guessing")
    axes = row[-1]
    for network, marker, color in zip(
        data["architecture"].values, "osD^v", style.PALETTE, strict=False
    ):
        cell = size.sel(architecture=network)
        for place in np.flatnonzero(cell["estimate"].notnull()):
            low, high = (float(cell[key][place]) for key in ("low", "high"))
            ends = [max(low, 2.0**-3), high if np.isfinite(high) else 2.0**5]
            axes.plot([star[place]] * 2, ends, color=color, linewidth=0.8)
        axes.plot(star, cell["estimate"], marker, color=color, markerfacecolor="none")
        axes.plot([], [], marker, color=color, label=f"P: {network}", markerfacecolor="none")
    axes.set_xscale("log")
    axes.set_yscale("log", base=2)
    axes.axhline(1, color="#777777", linewidth=0.8, linestyle=":")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title(f"data needed for\n{level:.0%} of guessing's error", size=8)
    axes.set(xlabel="n m^L", ylabel="P / (n m^L)")
    handles = list(zip(*axes.get_legend_handles_labels(), strict=True))
    panels.legend_below(figure, row[0], columns=3, extra=handles)
    deep = size.sel(architecture=DEEP)
    known = deep.isel(grammar=np.flatnonzero(deep["estimate"].notnull()))
    span = (
        [float(known["estimate"].min()), float(known["estimate"].max())]
        if known.sizes["grammar"]
        else []
    )
    panels.headline(
        figure,
        f"Convolutional networks learn {known.sizes['grammar']} of {len(star)} grammars from "
        f"{span[0]:.1f} to {span[1]:.1f} n m^L labels"
        if span
        else "No network learned the hierarchy from so few labels",
    )
    return panels.finish(figure, data)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Collapse of the deep curves; the power of n m^L; shallow networks need more."""
    data = datasets["rhm_sample_complexity"]
    size = needed.needed(needed.relative_error(data), needed.threshold(data))
    deep, shallow = (size.sel(architecture=name) for name in (DEEP, SHALLOW))
    known = np.flatnonzero(deep["estimate"].notnull())
    count = deep.sizes["grammar"]
    part = data.sel(architecture=[DEEP])
    question, note = needed.decided(part, needed.learns(part))
    decided = [
        Claim(
            "a convolutional network learns every grammar within the data sizes tried (error a "
            "tenth of guessing)",
            question,
            f"{len(known)} of {count} grammars{note}",
        )
    ]
    if len(known) >= 3:
        learned = deep.isel(grammar=known)
        estimate = learned["estimate"].values
        question, note = needed.decided(part, needed.question(_span(learned), at_most=SPREAD))
        decided.append(
            Claim(
                f"the data it needs are n m^L times a constant, within a factor {SPREAD:g} over "
                "all grammars",
                question,
                f"between {estimate.min():.1f} and {estimate.max():.1f} times n m^L, a factor "
                f"{estimate.max() / estimate.min():.1f}{note}",
                "P* ~ n m^L (arXiv 2307.02129)",
            )
        )
        power, question = _power(data["P_star"].values[known], learned)
        question, note = needed.decided(part, question)
        decided.append(
            Claim(
                f"the data it needs grow with n m^L to a power within {POWER:g} of 1",
                question,
                f"power {power:.2f} over {len(known)} grammars, the grid included{note}",
                "1 (arXiv 2307.02129)",
            )
        )
    times = needed.ratio(size, {"architecture": DEEP}).sel(architecture=SHALLOW)
    number = int(shallow["estimate"].notnull().sum())
    question, note = needed.decided(
        data.sel(architecture=[DEEP, SHALLOW]), needed.question(times, 1.0)
    )
    decided.append(
        Claim(
            "a network with one hidden layer needs more data on every grammar",
            question,
            f"it learned {number} of {count}, with up to {float(_share(data).max()):.0%} of all "
            f"data{note}",
            "a fixed share of P_max (arXiv 2307.02129)",
        )
    )
    return [*decided, *comparisons.searches_inside(data)]


def _span(sizes: xr.Dataset) -> xr.Dataset:
    """Bounds of the largest over the smallest of some sizes, of at least 1."""
    below = sizes["below"].max("grammar") / sizes["above"].min("grammar")
    above = sizes["above"].max("grammar") / sizes["below"].min("grammar")
    return xr.Dataset({"below": below.clip(min=1.0), "above": above}, attrs=sizes.attrs)


def _share(data: xr.Dataset) -> xr.DataArray:
    """The share of all data that the shallow network was given at most, grammar by grammar."""
    measured = data["test_accuracy"].sel(architecture=SHALLOW).notnull().all("repetition")
    return (data["multiple"] * data["P_star"] / data["P_max"]).where(measured).max("multiple")


def _power(star: NDArray[np.float64], deep: xr.Dataset) -> tuple[float, Question]:
    """Exponent of growth of the data needed with P*, and whether it is near 1.

    The standard error is the deviation over draws: of the crossing, anywhere between the sizes that
    bound it; of the grammars' networks; and of the grammars, with replacement.
    """
    x = np.log(star)
    rng = np.random.default_rng(0)
    below, above = deep["below"].values, deep["above"].values
    slopes = []
    for draw in range(1, below.shape[1]):
        low, high = below[:, draw], above[:, draw]
        # Below the smallest size and beyond the largest nothing is known but a grid step.
        low = np.where(low > 0, low, high / 2)
        high = np.where(np.isfinite(high), high, 2 * low)
        y = np.log(low) + rng.random(len(x)) * (np.log(high) - np.log(low)) + x
        rows = rng.integers(len(x), size=len(x))
        if len(np.unique(x[rows])) > 1:
            slopes.append(np.polyfit(x[rows], y[rows], 1)[0])
    slope = float(np.polyfit(x, np.log(deep["estimate"].values) + x, 1)[0])
    freedom = len(x) - 2
    error = float(np.std(slopes)) * np.sqrt(len(x) / freedom) if freedom > 0 else np.nan
    return slope, of_estimates(
        xr.DataArray(slope), error, freedom, len(x), "grammars", 1 - POWER, 1 + POWER
    )
