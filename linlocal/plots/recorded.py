"""What was recorded during training: lines for the layers, or a map of layers and steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from linlocal import inputs
from linlocal.plots import given, style

Kind = Literal["lines", "map"]


def training(
    data: xr.Dataset,
    *,
    variable: str = "cosine",
    kind: Kind = "lines",
    axes: Axes | Sequence[Axes] | None = None,
) -> list[Axes]:
    """A variable during training, for every layer: a panel for each rule.

    Repetitions are averaged. The steps of a map lie side by side at equal distances.

    Args:
        data: what ``AlignmentRecorder.dataset`` or ``Monitor.dataset`` return, or
            `linlocal.analysis.alignment.series.read`.
        variable: which variable over step and layer to draw.
        kind: "lines" for a line for each layer, "map" for the layers as rows and steps as columns.
        axes: where to draw, as many as there are rules; None makes a new figure.

    Returns:
        The axes, one for each rule.

    Raises:
        ValueError: the data have no such variable over step and layer, another kind, or another
            number of axes.
        TypeError: no Dataset, or no Axes.
    """
    if not inputs.is_one_of(kind, get_args(Kind)):
        raise ValueError(f'kind must be "lines" or "map", got {kind!r}.')
    made_by = "AlignmentRecorder.dataset, Monitor.dataset or alignment.series.read"
    given.with_variables(data, variable, along=["step", "layer"], made_by=made_by)
    values = data[variable]
    rules = [str(r) for r in values["rule"].values] if "rule" in values.dims else [""]
    parts = [values.sel(rule=r, drop=True) if r else values for r in rules]
    parts = [part.mean(set(part.dims) & set(given.REPETITIONS)) for part in parts]
    left = [str(dim) for dim in parts[0].dims if dim not in ("step", "layer")]
    if left:
        raise ValueError(
            f"{variable} varies along {', '.join(left)} as well: select one value, as in "
            f"data.sel({left[0]}=...)."
        )
    panels = _panels(axes, len(parts))
    words = str(values.attrs.get("long_name", variable))
    signed = variable.endswith("cosine")
    for panel, rule, part in zip(panels, rules, parts, strict=True):
        panel.set_title(rule)
        if kind == "lines":
            _lines(panel, part, signed)
        else:
            picture = _map(panel, part, signed)
    if kind == "map":
        panels[-1].figure.colorbar(picture, ax=panels, label=words)
    else:
        panels[0].set_ylabel(words)
        columns = -(-values.sizes["layer"] // 3)
        panels[-1].legend(frameon=False, title="layer", loc="lower left", ncols=columns)
    return panels


def _panels(axes: Axes | Sequence[Axes] | None, count: int) -> list[Axes]:
    if axes is None:
        return given.new_figure(count, (3.6 if count > 1 else 5.0, 2.8))
    panels = [axes] if isinstance(axes, Axes) else list(inputs.sequence(axes, "axes", "Axes"))
    for panel in panels:
        inputs.instance(panel, Axes, "axes", "a matplotlib Axes, or one for each rule")
    if len(panels) != count:
        raise ValueError(f"There are {count} rules to draw, but {len(panels)} axes to draw into.")
    return panels


def _lines(axes: Axes, values: xr.DataArray, signed: bool) -> None:
    colors = style.graded(values.sizes["layer"])
    for number, layer in enumerate(values["layer"].values):
        here = values.sel(layer=layer)
        marker = style.MARKERS[number % len(style.MARKERS)]
        axes.plot(
            here["step"], here, color=colors[number], marker=marker, markersize=3, label=f"{layer}"
        )
    style.step_axis(axes)
    if signed:
        style.zero_line(axes)
        axes.set_ylim(-1.05, 1.05)


def _map(axes: Axes, values: xr.DataArray, signed: bool) -> AxesImage:
    values = values.transpose("layer", "step")
    limits = {"cmap": "RdBu", "vmin": -1.0, "vmax": 1.0} if signed else {"cmap": "viridis"}
    picture = axes.imshow(values, origin="lower", aspect="auto", interpolation="none", **limits)
    axes.set_yticks(range(values.sizes["layer"]), [str(l) for l in values["layer"].values])
    count = values.sizes["step"]
    shown = np.unique(np.linspace(0, count - 1, min(count, 6)).round().astype(int))
    axes.set_xticks(shown, [str(s) for s in values["step"].values[shown]])
    axes.set_xlabel("steps of training")
    axes.set_ylabel("layer")
    return picture
