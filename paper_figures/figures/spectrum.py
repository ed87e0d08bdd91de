"""The condition number of the layers above bounds how far local leaves global learning."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim, of_cases
from paper_figures.look import panels, style

INPUTS = ("spectrum",)
PAPER = ""

BOUNDED = "linear f, direct feedback"
ROUNDING = 1e-12
ATTAINED = 1e-6
LIMIT_COLOR = "#777777"


def bound(condition: xr.DataArray) -> xr.DataArray:
    """2 sqrt(k) / (1 + k) for k = condition^2 = cond(G)."""
    return 2 * condition / (1 + condition**2)


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """The bounded rule in all layers with the case that attains the bound; all rules in layer 1."""
    results = datasets["spectrum"]
    figure = Figure(figsize=(style.PAGE, 2.9))
    left, right = figure.subplots(1, 2)
    curve = np.geomspace(1, float(results["downstream_condition"].max()), 200)
    limit = 2 * curve / (1 + curve**2)
    below = results.sel(layer=results["layer"][:-1])
    for layer, color in zip(below["layer"].values, style.PALETTE, strict=False):
        here = below.sel(layer=layer)
        left.plot(
            here["downstream_condition"].values.ravel(),
            here["cosine"].sel(rule=BOUNDED).values.ravel(),
            linestyle="none",
            marker="o",
            markersize=2.5,
            color=color,
            label=f"images, layer {layer}",
        )
    left.plot(
        results["downstream_condition"].sel(layer=1).values.ravel(),
        results["worst_case_cosine"].values.ravel(),
        linestyle="none",
        marker="x",
        markersize=5,
        color=style.PALETTE[6],
        label="constructed data, layer 1",
    )
    left.plot(curve, limit, color=LIMIT_COLOR, linewidth=1)
    left.fill_between(curve, limit, limit.min() / 10, color=LIMIT_COLOR, alpha=0.2, linewidth=0)
    left.text(1.5, 2e-3, "impossible", size=8, color="#555555")
    left.set(xscale="log", yscale="log", ylim=(limit.min() / 3, 2), title=BOUNDED)
    left.set_xlabel("condition number of $V_l$, the layers above")
    left.set_ylabel("cosine of local and global update")
    left.legend(loc="lower left", bbox_to_anchor=(0.0, 0.16), fontsize=7, handletextpad=0.2)
    first = results["cosine"].sel(layer=1, drop=True)
    for rule, color in zip(first["rule"].values, style.PALETTE, strict=False):
        style.band(
            right,
            first.sel(rule=rule).transpose("repetition", "condition"),
            "repetition",
            color=color,
            label=rule,
        )
    right.plot(
        curve,
        limit,
        color=LIMIT_COLOR,
        linewidth=1,
        linestyle="--",
        label=f"bound, for {BOUNDED} only",
    )
    right.set(xscale="log", ylim=(0, 1.05), title="layer 1, four rules, images")
    right.set_xlabel("condition number of $V_1$")
    right.legend(loc="upper right", fontsize=7)
    panels.headline(figure, "The spectrum of the layers above bounds the cosine from below")
    return panels.finish(figure, results)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """That the bound is never violated, and that it is attained."""
    results = datasets["spectrum"]
    limit = bound(results["downstream_condition"])
    # In the top layer both are 1.
    ratio = (results["cosine"].sel(rule=BOUNDED) / limit).sel(layer=results["layer"][:-1])
    apart = abs(results["worst_case_cosine"] / limit.sel(layer=1) - 1)
    largest = float(results["downstream_condition"].max())
    return [
        Claim(
            f"{BOUNDED}: cosine at least 2 sqrt(k) / (1 + k), k = cond(G), in every case",
            of_cases(ratio, least=1 - ROUNDING),
            f"smallest cosine / bound - 1 is {float(ratio.min()) - 1:.1e} in {ratio.size} cases, "
            f"cond(V) up to {largest:.0e}",
        ),
        Claim(
            f"the constructed data attain the bound to {ATTAINED:g}",
            of_cases(apart, most=ATTAINED),
            f"relative difference at most {float(apart.max()):.1e}",
        ),
    ]
