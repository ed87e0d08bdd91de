"""Deep networks learn the hierarchy from n m^L labels, shallow ones need a share of all data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from paper_figures.claims import Claim
from paper_figures.look import panels, style

INPUTS = ("rhm_sample_complexity",)
PAPER = "B"

# Learned: the test error is a tenth of that of guessing.
LEARNED = 0.1
SPREAD = 4.0


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Error of each grammar against P / P*, one panel for each architecture, and P_10 to P*."""
    data = datasets["rhm_sample_complexity"]
    error = relative_error(data)
    figure = Figure(figsize=(style.PAGE, 2.9))
    row = figure.subplots(1, data.sizes["architecture"] + 1, squeeze=False)[0]
    colors = [*style.PALETTE, "#999999", "#8B4513"]
    for axes, architecture in zip(row, data["architecture"].values, strict=False):
        for grammar, color in zip(data["grammar"].values, colors, strict=False):
            here = error.sel(architecture=architecture, grammar=grammar).dropna("multiple")
            if here.sizes["multiple"]:
                style.band(axes, here, "repetition", color=color, label=str(grammar))
        axes.axhline(LEARNED, color="#777777", linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set(title=architecture, ylim=(-0.03, 1.15))
        axes.set_xlabel("P / (n m^L)")
    row[0].set_ylabel("test error / error of guessing")
    axes = row[-1]
    crossing = needed(data)
    for architecture, marker, color in zip(
        data["architecture"].values, "osD^", style.PALETTE, strict=False
    ):
        here = crossing.sel(architecture=architecture)
        axes.loglog(data["P_star"], here, marker, color=color, markersize=4, markerfacecolor="none")
        axes.plot(
            [], [], marker, color=color, label=f"P for 10 %: {architecture}", markerfacecolor="none"
        )
    line = np.sort(data["P_star"].values)
    axes.plot(line, line, color="#777777", linewidth=0.8, linestyle=":")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(title="data needed", xlabel="n m^L", ylabel="P at 10 % of guessing's error")
    handles = list(zip(*axes.get_legend_handles_labels(), strict=True))
    panels.legend_below(figure, row[0], columns=4, extra=handles)
    ratio = (crossing / data["P_star"]).sel(architecture="convolutional").dropna("grammar")
    panels.headline(
        figure,
        "Convolutional networks learn the hierarchy from "
        f"{float(ratio.min()):.1f} to {float(ratio.max()):.1f} times n m^L labels"
        if ratio.size
        else "No network learned the hierarchy from so few labels",
    )
    return panels.finish(figure, data)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Collapse of the deep curves; the slope of the data needed; shallow networks need more."""
    data = datasets["rhm_sample_complexity"]
    crossing = needed(data)
    ratio = (crossing / data["P_star"]).sel(architecture="convolutional")
    known = ratio.dropna("grammar")
    decided = [
        Claim(
            "a convolutional network learns every grammar within the data sizes tried (error a "
            "tenth of guessing)",
            bool(known.sizes["grammar"] == ratio.sizes["grammar"]),
            f"{known.sizes['grammar']} of {ratio.sizes['grammar']} grammars",
        )
    ]
    if known.sizes["grammar"] >= 3:
        slope, half = _slope(data["P_star"].sel(grammar=known["grammar"]), known)
        decided += [
            Claim(
                f"the data it needs are n m^L times a constant, within a factor {SPREAD:g} over "
                "all grammars",
                float(known.max() / known.min()) <= SPREAD,
                f"between {float(known.min()):.1f} and {float(known.max()):.1f} times n m^L",
                "P* ~ n m^L (arXiv 2307.02129)",
            ),
            Claim(
                "the data it needs grow with n m^L to the power 1",
                bool(abs(slope - 1) <= half),
                f"power {slope:.2f}, 95 % interval +-{half:.2f} over {known.sizes['grammar']} "
                "grammars",
                "1",
            ),
        ]
    shallow = crossing.sel(architecture="shallow")
    share = (data["multiple"] * data["P_star"] / data["P_max"]).where(
        data["test_accuracy"].sel(architecture="shallow").mean("repetition").notnull()
    )
    worse = (shallow > crossing.sel(architecture="convolutional")) | (
        shallow.isnull() & crossing.sel(architecture="convolutional").notnull()
    )
    decided.append(
        Claim(
            "a network with one hidden layer needs more data on every grammar",
            bool(worse.all()),
            f"more on {int(worse.sum())} of {worse.sizes['grammar']}; it learned "
            f"{int(shallow.notnull().sum())} of them, with up to {float(share.max()):.0%} of all "
            "data",
            "a fixed share of P_max",
        )
    )
    return decided


def relative_error(data: xr.Dataset) -> xr.DataArray:
    """Test error in units of that of guessing, 1 - 1/n."""
    return (1 - data["test_accuracy"]) / (1 - 1 / data["num_symbols"])


def needed(data: xr.Dataset) -> xr.DataArray:
    """P at which the mean error falls below `LEARNED`, interpolated in log P.

    It is the smallest P where that is already enough, and NaN where no P is.
    """
    error = relative_error(data).mean("repetition")
    result = error.isel(multiple=0, drop=True).copy()
    for index in np.ndindex(result.shape):
        where = dict(zip(result.dims, index, strict=True))
        curve = error.isel(where).dropna("multiple")
        below = np.flatnonzero(curve.values <= LEARNED)
        value = np.nan
        if len(below):
            last = below[0]
            log_p = np.log(curve["multiple"].values)
            first = max(last - 1, 0)
            gap = curve.values[first] - curve.values[last]
            part = (curve.values[first] - LEARNED) / gap if gap > 0 else 0.0
            value = np.exp(log_p[first] + part * (log_p[last] - log_p[first]))
        result[index] = value * float(data["P_star"].isel(grammar=where["grammar"]))
    return result


def _slope(star: xr.DataArray, ratio: xr.DataArray) -> tuple[float, float]:
    """Exponent of growth of ratio * star with star, and half its 95 % interval."""
    from scipy.stats import linregress, t

    fit = linregress(np.log(star.values), np.log((ratio * star).values))
    return float(fit.slope), float(fit.stderr * t.ppf(0.975, len(star) - 2))
