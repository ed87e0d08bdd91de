"""The cost of a comparison against pairs, width and depth."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim, of_networks
from paper_figures.look import panels, style

INPUTS = ("scaling",)
PAPER = ""
LABELS = {"pairs": "pairs per view direction", "width": "width of a layer", "depth": "layers"}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Three panels, both axes logarithmic: the median, and from the fastest network to the slowest.

    Above each stands the mean slope between the last two points.
    """
    data = datasets["scaling"]
    figure = Figure(figsize=(style.PAGE, 2.6))
    row = figure.subplots(1, 3, sharey=True)
    for axes, (axis, label), color in zip(row, LABELS.items(), style.PALETTE, strict=False):
        seconds = data[f"by_{axis}"]
        axes.fill_between(
            seconds[axis], seconds.min("network"), seconds.max("network"), color=color, alpha=0.2
        )
        axes.loglog(seconds[axis], seconds.median("network"), "o-", color=color)
        axes.set_xlabel(label)
        axes.set_xticks(seconds[axis], [f"{int(v):,}" for v in seconds[axis]])
        axes.minorticks_off()
        axes.set_title(f"last slope {float(_slopes(seconds).mean()):.1f}")
        axes.grid(alpha=0.2)
    row[0].set_ylabel("seconds for all updates")
    hardware = json.loads(data.attrs["hardware"])
    panels.headline(
        figure,
        "All updates of a network take milliseconds to seconds "
        f"(one core of {hardware['processor']})",
    )
    return panels.finish(figure, data)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Growth no faster than the algebra says: pairs cubed, width squared, depth linear."""
    data = datasets["scaling"]
    limits = {"pairs": 3.0, "width": 2.0, "depth": 1.0}
    slopes = {axis: _slopes(data[f"by_{axis}"]) for axis in limits}
    return [
        Claim(
            f"time grows with {axis} no faster than its power {limit:g} (within 0.3)",
            of_networks(slopes[axis], "network", below=limit + 0.3),
            f"power {float(slopes[axis].mean()):.2f} between the last two points",
        )
        for axis, limit in limits.items()
    ]


def _slopes(seconds: xr.DataArray) -> xr.DataArray:
    """Exponents of growth between the last two points, one of each network."""
    (axis,) = set(seconds.dims) - {"network"}
    before, last = (seconds.isel({axis: place}) for place in (-2, -1))
    steps = np.log(float(last[axis]) / float(before[axis]))
    return xr.apply_ufunc(np.log, last / before) / steps
