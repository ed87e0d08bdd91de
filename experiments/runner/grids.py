"""Sweeps over a grid, as one labelled dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any

import xarray as xr

from experiments.runner.sweep import Sweep


def grid(
    sweep: Sweep, function: Callable[..., xr.Dataset], description: str, **axes: Sequence[Any]
) -> xr.Dataset:
    """Evaluate ``function`` at every point of the Cartesian product of ``axes``.

    Args:
        sweep: evaluates the points.
        function: takes one keyword argument per axis; all its results have the same variables.
        description: shown beside the progress bar; distinguishes the sweeps of a run.
        **axes: the values along each new dimension, outermost first.

    Returns:
        The results with one leading dimension per axis, labelled with its values.
    """
    points = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    level: list[xr.Dataset] = sweep(function, points, description)
    for name, values in reversed(axes.items()):
        count = len(values)
        level = [
            stack(level[first : first + count], name, values)
            for first in range(0, len(level), count)
        ]
    (whole,) = level
    return whole


def stack(parts: Iterable[xr.Dataset], name: str, values: Sequence[Any]) -> xr.Dataset:
    """Datasets of the same variables along a new first dimension ``name``."""
    # The attributes of each part describe that part (one network, one rule), not the whole.
    joined: xr.Dataset = xr.concat(
        [part.drop_attrs() for part in parts],
        name,
        data_vars="all",
        coords="minimal",
        compat="override",
        join="exact",
    )
    return joined.assign_coords({name: list(values)})
