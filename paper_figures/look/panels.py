"""Parts that several figures share: titles, layer axes, legends, lists of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from linlocal.plots import layer_axis as layer_axis
from paper_figures.look import style

# Values below the rounding of float64 are drawn at this height on logarithmic axes.
FLOOR = 1e-16


def headline(figure: Figure, text: str) -> None:
    """Say at the top, on the left, what the figure shows."""
    figure.suptitle(text, x=0.01, ha="left", size=10, weight="bold")


def legend_below(
    figure: Figure, axes: Axes, columns: int, extra: Sequence[tuple[Artist, str]] = ()
) -> None:
    """Draw one legend below all panels, with what ``axes`` shows.

    Args:
        figure: the figure that gets the legend.
        axes: the panel whose labelled lines are shown.
        columns: number of columns of the legend.
        extra: handles and labels of further entries.
    """
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        [*handles, *(handle for handle, _ in extra)],
        [*labels, *(label for _, label in extra)],
        loc="outside lower center",
        ncols=columns,
    )


def finish(figure: Figure, *datasets: xr.Dataset) -> Figure:
    """Lay the panels out and add the footer; nothing may be added afterwards.

    A legend below the panels belongs to the lower edge of the saved picture, which the footer moves
    down: left alone, the legend would follow and cover it.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0, 0, 1, 1), figure.transFigure)
    style.footer(figure, *datasets)
    return figure


def numbers(values: xr.DataArray, digits: int = 2, sign: str = "") -> str:
    """The values of one dimension as a list in words."""
    return " ".join(f"{float(value):{sign}.{digits}f}" for value in values)


def span(layers: xr.DataArray) -> str:
    """First and last layer, as in "1-5"."""
    return f"{int(layers[0])}-{int(layers[-1])}"
