"""A rule without negatives is exact above isometries if it averages over all slices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim, of_cases, of_networks
from paper_figures.look import panels, style

INPUTS = ("sliced_normality",)
PAPER = ""

EXACT, VISIBLE = 1e-12, 1e-2
EQUAL = ("square", "widening, one D")
SLOPE, TOLERANCE = -0.5, 0.05


def slopes(results: xr.Dataset) -> xr.DataArray:
    """d log deviation / d log slices of each network, of the mean over layers below the top."""
    below = results["deviation"].sel(layer=results["layer"][:-1])
    logs: xr.DataArray = xr.apply_ufunc(np.log, below).mean("layer")
    logs = logs.assign_coords(slices=np.log(logs["slices"]))
    return logs.polyfit("slices", 1)["polyfit_coefficients"].sel(degree=1, drop=True)


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """The relative error against the number of slices, and that of rules over all slices."""
    results = datasets["sliced_normality"]
    below = results.sel(layer=results["layer"][:-1])
    figure = Figure(figsize=(style.PAGE, 2.9))
    left, right = figure.subplots(1, 2, width_ratios=(1.0, 1.15))
    for layer, color in zip(below["layer"].values, style.PALETTE, strict=False):
        deviation = below["deviation"].sel(layer=layer)
        style.band(
            left,
            deviation.transpose("network", "slices"),
            "network",
            color=color,
            label=f"layer {layer}",
        )
    counts = results["slices"].values
    last = float(below["deviation"].isel(slices=-1).mean())
    left.plot(
        counts,
        0.6 * last * (counts / counts[-1]) ** SLOPE,
        color="#777777",
        linestyle="--",
        label="slope -1/2",
    )
    left.set(xscale="log", yscale="log", xlabel="random slices", title="square, orthogonal")
    left.set_ylabel("||local - global|| over\n||global|| of all slices")
    left.legend(loc="lower left")
    cases = results["case"].values.tolist()
    height = np.arange(len(cases))[::-1]
    offsets = np.linspace(0.14, -0.14, below.sizes["layer"])
    for layer, offset, color in zip(below["layer"].values, offsets, style.PALETTE, strict=False):
        error = below["relative_error"].sel(layer=layer).clip(min=panels.FLOOR)
        for case, y in zip(cases, height, strict=True):
            values = error.sel(case=case)
            right.plot(
                values,
                np.full(values.size, y + offset),
                linestyle="none",
                marker="o",
                markersize=3,
                alpha=0.6,
                color=color,
            )
    right.axvline(EXACT, color="#777777", linewidth=0.8, linestyle=":")
    right.set(xscale="log", xlim=(panels.FLOOR / 3, 30), ylim=(-0.6, len(cases) - 0.4))
    right.set_yticks(height, cases)
    right.set(xlabel="relative error, a dot for each network", title="all slices; rules per unit")
    panels.headline(
        figure, "Over all slices of one dimension, normality is learned exactly layer by layer"
    )
    return panels.finish(figure, results)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Where the updates are equal, where they are not, and how the deviation falls."""
    results = datasets["sliced_normality"]
    below = results["relative_error"].sel(layer=results["layer"][:-1])
    equal = below.sel(case=list(EQUAL))
    decided = [
        Claim(
            f"all slices, one D in all layers: local equals global above isometries to {EXACT:g}, "
            "widening ones included",
            of_cases(equal, most=EXACT),
            f"relative error at most {float(equal.max()):.1e} in {below.sizes['network']} networks",
        )
    ]
    for case in below["case"].values:
        if case not in EQUAL:
            error = below.sel(case=case)
            decided.append(
                Claim(
                    f"{case}: not equal above isometries, by at least {VISIBLE:g} in every network",
                    of_cases(error, least=VISIBLE),
                    f"smallest relative error {float(error.min()):.2g}",
                )
            )
    last = float(results["deviation"].sel(layer=results["layer"][:-1]).isel(slices=-1).mean())
    exponents = slopes(results)
    decided.append(
        Claim(
            f"random slices: the deviation falls like slices^(-1/2), exponent within {TOLERANCE:g}",
            of_networks(exponents, "network", SLOPE - TOLERANCE, SLOPE + TOLERANCE),
            f"exponent {float(exponents.mean()):.3f}; {int(results['slices'][-1])} slices deviate "
            f"by {last:.2g}",
        )
    )
    return decided
