"""Deep networks learn the hierarchy from n m^L labels, shallow ones need a share of all data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from paper_figures.claims import Claim
from paper_figures.look import needed, panels, style

INPUTS = ("rhm_sample_complexity",)
PAPER = "B"

DEEP, SHALLOW = "convolutional", "shallow"
SPREAD = 4.0
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
    verdict, note = needed.decided(part, len(known) == count)
    decided = [
        Claim(
            "a convolutional network learns every grammar within the data sizes tried (error a "
            "tenth of guessing)",
            verdict,
            f"{len(known)} of {count} grammars{note}",
        )
    ]
    if len(known) >= 3:
        estimate = deep["estimate"].values[known]
        low, high = deep["low"].values[known], deep["high"].values[known]
        # The whole intervals, so neither grammars nor grid decide.
        within, beyond = high.max() / low.min() <= SPREAD, low.max() / high.min() > SPREAD
        verdict, note = needed.decided(part, True if within else False if beyond else None)
        decided.append(
            Claim(
                f"the data it needs are n m^L times a constant, within a factor {SPREAD:g} over "
                "all grammars",
                verdict,
                f"between {estimate.min():.1f} and {estimate.max():.1f} times n m^L, intervals "
                f"{low.min():.1f} to {high.max():.1f}{note}",
                "P* ~ n m^L (arXiv 2307.02129)",
            )
        )
        slope, ends = _power(data["P_star"].values[known], deep.isel(grammar=known))
        verdict, note = needed.decided(part, bool(ends[0] <= 1 <= ends[1]))
        decided.append(
            Claim(
                "the data it needs grow with n m^L to a power whose interval holds 1",
                verdict,
                f"power {slope:.2f}, 95 % interval {ends[0]:.2f} to {ends[1]:.2f} over "
                f"{len(known)} grammars, the grid included{note}",
                "1",
            )
        )
    surely = shallow["low"] >= deep["high"]
    never = (shallow["high"] <= deep["low"]) & shallow["estimate"].notnull()
    verdict = True if bool(surely.all()) else False if bool(never.any()) else None
    verdict, note = needed.decided(data.sel(architecture=[DEEP, SHALLOW]), verdict)
    decided.append(
        Claim(
            "a network with one hidden layer needs more data on every grammar",
            verdict,
            f"surely more on {int(surely.sum())} of {count}; it learned "
            f"{int(shallow['estimate'].notnull().sum())} of them, with up to "
            f"{float(_share(data).max()):.0%} of all data{note}",
            "a fixed share of P_max",
        )
    )
    return decided


def _share(data: xr.Dataset) -> xr.DataArray:
    """The share of all data that the shallow network was given at most, grammar by grammar."""
    measured = data["test_accuracy"].sel(architecture=SHALLOW).notnull().all("repetition")
    return (data["multiple"] * data["P_star"] / data["P_max"]).where(measured).max("multiple")


def _power(star: NDArray[np.float64], deep: xr.Dataset) -> tuple[float, tuple[float, float]]:
    """Exponent of growth of the data needed with P*, and its 95 % interval.

    The interval is that of the slopes over draws of the grammars' networks, each crossing anywhere
    between the sizes that bound it, and over draws of the grammars with replacement.
    """
    x = np.log(star)
    rng = np.random.default_rng(0)
    below, above = deep["below"].values, deep["above"].values
    slopes = []
    for draw in range(below.shape[1]):
        low, high = below[:, draw], above[:, draw]
        # Below the smallest size and beyond the largest nothing is known but a grid step.
        low = np.where(low > 0, low, high / 2)
        high = np.where(np.isfinite(high), high, 2 * low)
        y = np.log(low) + rng.random(len(x)) * (np.log(high) - np.log(low)) + x
        rows = rng.integers(len(x), size=len(x))
        if len(np.unique(x[rows])) > 1:
            slopes.append(np.polyfit(x[rows], y[rows], 1)[0])
    slope = float(np.polyfit(x, np.log(deep["estimate"].values) + x, 1)[0])
    low, high = np.quantile(slopes, needed.LEVELS)
    return slope, (float(low), float(high))
