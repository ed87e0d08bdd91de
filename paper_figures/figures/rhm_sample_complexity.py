"""Deep networks learn the hierarchy from n m^L labels, shallow ones need a share of all data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from paper_figures.claims import Claim, of_networks
from paper_figures.look import comparisons, panels, style

INPUTS = ("rhm_sample_complexity",)
PAPER = "B"

# Learned: the test error is a tenth of that of guessing.
LEARNED = 0.1
SPREAD = 4.0
POWER = 0.2  # the smallest departure from the power 1 that we call one


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
    crossing, error = needed(data), relative_error(data)
    deep = error.sel(architecture="convolutional")
    ratio = (crossing / data["P_star"]).sel(architecture="convolutional")
    known = ratio.dropna("grammar")
    decided = [
        Claim(
            "a convolutional network learns every grammar within the data sizes tried (error a "
            "tenth of guessing)",
            of_networks(_most_data(deep), "repetition", below=LEARNED),
            f"{known.sizes['grammar']} of {ratio.sizes['grammar']} grammars",
        )
    ]
    if known.sizes["grammar"] >= 3:
        each = xr.concat(
            [needed(data.isel(repetition=[r])) for r in range(data.sizes["repetition"])],
            "repetition",
        ).sel(architecture="convolutional", grammar=known["grammar"])
        ratios = each / data["P_star"]
        logs = ratios.copy(data=np.log(ratios.values))
        slope = _slope(logs, data["P_star"])
        span = logs.max("grammar", skipna=False) - logs.min("grammar", skipna=False)
        decided += [
            Claim(
                f"the data it needs are n m^L times a constant, within a factor {SPREAD:g} over "
                "all grammars",
                of_networks(span, "repetition", below=float(np.log(SPREAD))),
                f"between {float(known.min()):.1f} and {float(known.max()):.1f} times n m^L; "
                "logarithm of the largest over the smallest",
                "P* ~ n m^L (arXiv 2307.02129)",
            ),
            Claim(
                f"the data it needs grow with n m^L to the power 1, within {POWER:g}",
                of_networks(slope, "repetition", 1 - POWER, 1 + POWER),
                f"power {float(slope.mean()):.2f} over {known.sizes['grammar']} grammars",
                "1 (arXiv 2307.02129)",
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
            "a network with one hidden layer needs more data on every grammar: where the "
            "convolutional one has learned, it has not",
            of_networks(_where_deep_learns(error), "repetition", above=LEARNED),
            f"more on {int(worse.sum())} of {worse.sizes['grammar']}; it learned "
            f"{int(shallow.notnull().sum())} of them, with up to {float(share.max()):.0%} of all "
            "data",
            "a fixed share of P_max (arXiv 2307.02129)",
        )
    )
    return decided


def relative_error(data: xr.Dataset) -> xr.DataArray:
    """Test error in units of that of guessing, 1 - 1/n."""
    error: xr.DataArray = (1 - data["test_accuracy"]) / (1 - 1 / data["num_symbols"])
    return error


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


def _slope(logs: xr.DataArray, star: xr.DataArray) -> xr.DataArray:
    """Exponent of the growth of ratio times P* over the grammars, of each network."""
    x = star.sel(grammar=logs["grammar"])
    x = x.copy(data=np.log(x.values))
    x = x - x.mean("grammar")
    return 1 + (logs * x).sum("grammar", skipna=False) / (x**2).sum("grammar")


def _most_data(error: xr.DataArray) -> xr.DataArray:
    """The error with the most data that were tried for each grammar."""
    tried = {
        str(name): error.sel(grammar=name).dropna("multiple", how="all")
        for name in error["grammar"].values
    }
    return comparisons.together({name: each.isel(multiple=-1) for name, each in tried.items()})


def _where_deep_learns(error: xr.DataArray) -> xr.DataArray:
    """The error of shallow networks with the fewest data from which convolutional ones learn."""
    deep = error.sel(architecture="convolutional").mean("repetition")
    learned = deep.copy(data=deep.values <= LEARNED)
    first = learned.idxmax("multiple")
    shallow = error.sel(architecture="shallow", multiple=first, drop=True)
    return shallow.where(learned.any("multiple"))
