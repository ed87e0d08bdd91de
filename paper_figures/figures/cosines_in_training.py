"""How the agreement of local and global updates develops while each local rule trains."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.claims import Claim
from paper_figures.look import comparisons, panels, style, training_panels

INPUTS = ("local_rules",)
PAPER = "A"

COLUMNS = 6


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """A panel for each rule and data set, a curve for each layer below the top."""
    data = datasets["local_rules"]
    rows = -(-data.sizes["rule"] // COLUMNS)
    figure = Figure(figsize=(style.PAGE, 1.5 * rows * data.sizes["data"] + 0.8))
    grid = figure.subplots(rows * data.sizes["data"], COLUMNS, sharex=True, sharey=True)
    cells = [(name, rule) for name in data["data"].values for rule in data["rule"].values]
    for axes, (name, rule) in zip(grid.flat, cells, strict=True):
        curves(axes, data["cosine"].sel(data=name, rule=rule, drop=True))
        axes.set_title(f"{name}:\n{rule}", size=7)
    for axes in grid[-1]:
        axes.set_xlabel("steps of training")
    for axes in grid[:, 0]:
        axes.set_ylabel("cosine")
    panels.legend_below(figure, grid[0, 0], columns=6)
    panels.headline(figure, "Cosine of local and global updates while local rules train")
    return panels.finish(figure, data)


def curves(axes: Axes, cosine: xr.DataArray) -> None:
    """The mean for each layer below the top, lower ones darker; thin: each network."""
    below = cosine["layer"].values[:-1]
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(below)))
    for layer, color in zip(below, colors, strict=True):
        here = cosine.sel(layer=layer, drop=True)
        # Five bands of so few repetitions would cover each other.
        for repetition in range(here.sizes["repetition"]):
            one = here.isel(repetition=repetition)
            axes.plot(here["step"], one, color=color, alpha=0.4, linewidth=0.5)
        mean = here.mean("repetition")
        axes.plot(here["step"], mean, color=color, label=f"layer {layer}")
    training_panels.step_axis(axes)
    axes.set_xlabel("")
    axes.axhline(0, color="#999999", linewidth=0.5)
    axes.set_ylim(-1.05, 1.05)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Whether training keeps, raises or loses alignment, for each rule."""
    data = datasets["local_rules"]
    mean = data["cosine"].isel(layer=slice(-1)).mean("layer")
    change = mean.isel(step=-1) - mean.isel(step=0)
    decided = []
    for name in data["data"].values:
        for rule in data["rule"].values:
            first, last = (
                float(mean.sel(data=name, rule=rule).isel(step=step).mean()) for step in (0, -1)
            )
            known = np.isfinite(first) and np.isfinite(last)
            words = f"{first:+.2f} to {last:+.2f}, change {last - first:+.2f}"
            decided.append(
                Claim(
                    f"{name}, {rule}: training raises the mean cosine",
                    comparisons.above(change.sel(data=name, rule=rule)) if known else None,
                    words if known else "an undefined cosine",
                )
            )
    return decided
