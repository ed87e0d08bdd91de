"""The cost of a comparison against pairs, width and depth."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim, of_cases
from paper_figures.look import panels, style

INPUTS = ("scaling",)
PAPER = ""
LABELS = {"pairs": "pairs per view direction", "width": "width of a layer", "depth": "layers"}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Three panels, both axes logarithmic, with the slope of the last half of each curve."""
    data = datasets["scaling"]
    figure = Figure(figsize=(style.PAGE, 2.6))
    row = figure.subplots(1, 3, sharey=True)
    for axes, (axis, label), color in zip(row, LABELS.items(), style.PALETTE, strict=False):
        seconds = data[f"by_{axis}"]
        axes.loglog(seconds[axis], seconds, "o-", color=color)
        axes.set_xlabel(label)
        axes.set_xticks(seconds[axis], [f"{int(v):,}" for v in seconds[axis]])
        axes.minorticks_off()
        axes.set_title(f"last slope {_slope(seconds):.1f}")
        axes.grid(alpha=0.2)
    row[0].set_ylabel("seconds for all updates")
    hardware = json.loads(data.attrs["hardware"])
    processor = f"{hardware['processor']}, {hardware['cores']} cores"
    panels.headline(figure, f"All updates of a network take milliseconds to seconds ({processor})")
    return panels.finish(figure, data)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Growth no faster than the algebra says: pairs cubed, width squared, depth linear."""
    data = datasets["scaling"]
    limits = {"pairs": 3.0, "width": 2.0, "depth": 1.0}
    return [
        Claim(
            f"time grows with {axis} no faster than its power {limit:g} (within 0.3)",
            of_cases(_slope(data[f"by_{axis}"]), most=limit + 0.3),
            f"power {_slope(data[f'by_{axis}']):.2f} between the last two points",
        )
        for axis, limit in limits.items()
    ]


def _slope(seconds: xr.DataArray) -> float:
    """Exponent of growth between the last two points."""
    axis = seconds.dims[0]
    rise = np.diff(np.log(seconds.values[-2:]))[0]
    return float(rise / np.diff(np.log(seconds[axis].values[-2:].astype(float)))[0])
