"""What was given: Datasets with the wanted variables, the axes to draw into, series of curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr
from matplotlib.axes import Axes

from linlocal import inputs

# The repetitions over which an interval is taken, the first that there is.
REPETITIONS = ("repetition", "network", "draw", "batch")


def drawn_into(axes: Axes | None, size: tuple[float, float]) -> Axes:
    """The axes that were given, or those of a new figure of this size in inches."""
    if axes is None:
        return new_figure(1, size)[0]
    inputs.instance(axes, Axes, "axes", "a matplotlib Axes")
    return axes


def new_figure(count: int, size: tuple[float, float]) -> list[Axes]:
    """Panels of one size side by side, at most three in a row, in a new figure."""
    from matplotlib import pyplot

    columns = min(count, 3)
    rows = -(-count // columns)
    figure, grid = pyplot.subplots(
        rows,
        columns,
        figsize=(size[0] * columns, size[1] * rows),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.flat[count:]:
        figure.delaxes(axes)
    return [*grid.flat[:count]]


def with_variables(data: Any, *names: str, along: Sequence[str], made_by: str) -> xr.Dataset:
    """The Dataset, if it has these variables over these dimensions.

    Raises:
        TypeError: it is no Dataset.
        ValueError: a variable or a dimension is missing.
    """
    inputs.instance(data, xr.Dataset, "data", f"an xarray Dataset as {made_by} returns it")
    missing = [repr(name) for name in names if name not in data]
    missing += [
        f"the dimension {dim!r}"
        for dim in along
        if any(name in data and dim not in data[name].dims for name in names)
    ]
    if missing:
        shown = ", ".join(f"{name} {tuple(v.dims)}" for name, v in list(data.items())[:6])
        raise ValueError(
            f"This plot needs {', '.join(missing)}, which the Dataset does not have. Give it what "
            f"is returned by {made_by}; this one holds {shown or 'no variable'}."
        )
    return data


def curves(
    data: Mapping[str, xr.Dataset] | xr.Dataset,
    variable: str,
    along: str,
    made_by: str,
    over: str | None = None,
) -> list[tuple[str, xr.DataArray, str | None]]:
    """The curves of a plot: the entries of a mapping, or the rules of one Dataset.

    Of recorded steps the last one counts. Batches of one network are averaged.

    Args:
        data: one Dataset, or several by name.
        variable: what is drawn.
        along: the dimension of the horizontal axis.
        made_by: the functions that return such Datasets, for the message.
        over: the dimension of the repetitions; by default the first of `REPETITIONS` that there is.

    Returns:
        The label of each curve, its values over ``along`` and over its repetitions if it has any,
        and the name of that dimension.

    Raises:
        TypeError, ValueError: as `with_variables`; or a dimension is left over.
    """
    if isinstance(data, Mapping) and not isinstance(data, xr.Dataset):
        if not data:
            raise ValueError("There is nothing to draw: the mapping from names to data is empty.")
        each = {
            str(name): with_variables(part, variable, along=[along], made_by=made_by)[variable]
            for name, part in data.items()
        }
    else:
        values = with_variables(data, variable, along=[along], made_by=made_by)[variable]
        each = {"": values}
        if "rule" in values.dims:
            each = {str(r): values.sel(rule=r, drop=True) for r in values["rule"].values}
    return [(name, *_repeated(values, along, over)) for name, values in each.items()]


def _repeated(
    values: xr.DataArray, along: str, over: str | None
) -> tuple[xr.DataArray, str | None]:
    if "step" in values.dims and along != "step":
        values = values.isel(step=-1, drop=True)
    if over is not None and over not in values.dims:
        raise ValueError(
            f"over must be a dimension of the data, one of {', '.join(map(str, values.dims))}, got "
            f"{over!r}."
        )
    chosen = over or next((dim for dim in REPETITIONS if dim in values.dims), None)
    if chosen != "batch" and "batch" in values.dims:
        values = values.mean("batch")
    left = [str(dim) for dim in values.dims if dim not in (along, chosen)]
    if left:
        raise ValueError(
            f"The data vary along {', '.join(left)} as well: select one value, as in "
            f"data.sel({left[0]}=...), or give a mapping from names to Datasets."
        )
    return values, chosen
