"""Curves over the layers of a network: cosines, mismatch terms, what classifiers read."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from linlocal import inputs
from linlocal.plots import given, style

Data = Mapping[str, xr.Dataset] | xr.Dataset

_ACCURACIES = ("accuracy", "probe_accuracy", "knn_accuracy")
# The terms, and what they add up to.
_THEORY = ("dual_mismatch", "context_mismatch", "metric_mismatch"), "relative_error"
_MEASURED = ("slopes", "feedback", "masks"), "error_relative_error"


def cosines(data: Data, *, over: str | None = None, axes: Axes | None = None) -> Axes:
    """The cosine of local and global updates by layer, with 95 % intervals over networks.

    A line for each rule, or for each entry of a mapping. Lines over repetitions (networks, draws)
    are their mean, with Student's t interval as a band. Batches of one network are averaged before;
    of recorded steps the last one is drawn.

    Args:
        data: what `linlocal.compare`, `linlocal.sweep`, `linlocal.analysis.align` or
            ``AlignmentRecorder.dataset`` return, or several of these by name.
        over: the dimension of the repetitions; by default "repetition", "network", "draw" or
            "batch", the first that the data have.
        axes: where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: the data have no cosine by layer, or vary along a dimension more.
        TypeError: no Dataset, or no Axes.

    Example:
        >>> plots.cosines(ll.compare(network, pairs, rule))
    """
    made_by = "linlocal.compare, linlocal.sweep, linlocal.analysis.align or a recorder"
    found = given.curves(data, "cosine", "layer", made_by, over)
    axes = given.drawn_into(axes, (5.0, 3.0))
    _lines(axes, found, "layer")
    style.zero_line(axes)
    axes.set_ylim(min(-0.1, axes.get_ylim()[0]), 1.05)
    axes.set_xlabel("layer")
    axes.set_ylabel("cosine of local and global update")
    return axes


def mismatch(data: xr.Dataset, *, axes: Axes | None = None) -> Axes:
    """The terms that make local and global updates differ, by layer, and the whole difference.

    Norms over that of the global update. The terms add up to the difference as vectors, so their
    norms may be larger together than its norm.

    Args:
        data: what `linlocal.compare` returns (dual variables, contexts, metric), or
            `linlocal.analysis.align` with ``terms=True`` (slopes, feedback, masks; of error
            signals).
        axes: where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: the data have no such terms, or vary along a dimension more.
        TypeError: no Dataset, or no Axes.
    """
    made_by = "linlocal.compare, or linlocal.analysis.align(..., terms=True)"
    measured = isinstance(data, xr.Dataset) and "slopes" in data
    terms, whole = _MEASURED if measured else _THEORY
    given.with_variables(data, *terms, whole, along=["layer"], made_by=made_by)
    found = [
        (name.removesuffix("_mismatch"), values, over)
        for name in terms
        for _, values, over in given.curves(data[[name]], name, "layer", made_by)
    ]
    if len(found) > len(terms):
        raise ValueError("The data hold several rules: select one, as in data.sel(rule=...).")
    axes = given.drawn_into(axes, (5.0, 3.0))
    _lines(axes, found, "layer")
    ((_, values, over),) = given.curves(data[[whole]], whole, "layer", made_by)
    mean = values if over is None else values.mean(over)
    axes.plot(mean["layer"], mean, "--", color="#888888", label="whole difference")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("layer")
    axes.set_ylabel("norm over global " + ("error" if measured else "update"))
    axes.legend(frameon=False)
    return axes


def knowledge(
    data: Data, *, over: str | None = None, chance: float | None = None, axes: Axes | None = None
) -> Axes:
    """What a classifier reads from each layer: its accuracy, with 95 % intervals over networks.

    Args:
        data: what `linlocal.analysis.probe_blocks` or ``Monitor.dataset`` return, or several of
            these by name. Of a monitor the last look is drawn.
        over: the dimension of the repetitions, as in `cosines`.
        chance: the accuracy of guessing, as a dotted line.
        axes: where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: the data have no accuracies by block or layer, or vary along a dimension more,
            or chance is no share.
        TypeError: no Dataset, or no Axes.
    """
    made_by = "linlocal.analysis.probe_blocks, or by a Monitor that is given labels"
    if chance is not None:
        chance = inputs.share(chance, "chance")
    parts = [data] if isinstance(data, xr.Dataset) else [*getattr(data, "values", tuple)()]
    known = {str(name) for part in parts if isinstance(part, xr.Dataset) for name in part.variables}
    variable = next((name for name in _ACCURACIES if name in known), _ACCURACIES[0])
    along = "layer" if "layer" in known else "block"
    found = given.curves(data, variable, along, made_by, over)
    axes = given.drawn_into(axes, (5.0, 3.0))
    _lines(axes, found, along)
    if chance is not None:
        axes.axhline(chance, color="#888888", linestyle=":", label="guessing")
        axes.legend(frameon=False)
    axes.set_xlabel("block" if along == "block" else "layer")
    axes.set_ylabel("accuracy of a classifier")
    axes.set_ylim(top=1.02)
    return axes


def _lines(axes: Axes, found: list[tuple[str, xr.DataArray, str | None]], along: str) -> None:
    """A line for each curve, with a band where it has repetitions."""
    for number, (label, values, over) in enumerate(found):
        color, marker = style.series_look(number)
        places = values[along].values
        if values[along].dtype.kind not in "iuf":  # names, side by side
            places = np.arange(values.sizes[along])
            axes.set_xticks(places, values[along].values.tolist())
        elif along == "layer":
            axes.set_xticks(places)
        here = values.assign_coords({along: places})
        if over is not None:
            style.band(axes, here, over, color=color, label=label, marker=marker)
            if values[along].dtype.kind not in "iuf":
                axes.set_xticks(places, values[along].values.tolist())
        else:
            axes.plot(places, here, color=color, marker=marker, label=label)
    if any(label for label, _, _ in found):
        axes.legend(frameon=False)
