"""Panels of cosines in networks that are trained."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.axes import Axes

from linlocal.plots import step_axis as step_axis
from paper_figures.look import panels, style


def cosines(trained: Axes, along: Axes, data: xr.Dataset, colors: Mapping[str, str]) -> None:
    """Draw the cosine per layer after training, and its mean below the top during training.

    Args:
        trained: axes for the cosines after training.
        along: axes for the means during training.
        data: ``cosine`` over rule, repetition, step and layer.
        colors: a colour for each rule.
    """
    for rule, color in colors.items():
        cosine = data["cosine"].sel(rule=rule, drop=True)
        style.band(trained, cosine.isel(step=-1), "repetition", color=color, label=rule)
        mean = cosine.isel(layer=slice(-1)).mean("layer")
        style.band(along, mean, "repetition", color=color, label=rule)
    trained.set_xlabel("layer")
    trained.set_ylabel("cosine of local and global update")
    trained.set_title(f"after {int(data['step'][-1])} steps")
    along.set_title(f"mean of layers {panels.span(data['layer'][:-1])}")
    step_axis(along)
    for axes in (trained, along):
        axes.axhline(0, color="#999999", linewidth=0.5)
        axes.set_ylim(-0.3, 1.05)
