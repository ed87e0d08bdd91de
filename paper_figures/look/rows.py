"""Dots with intervals in rows, and labels beside points that do not cover each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from paper_figures.look import style

Array = NDArray[np.float64]


def dots(
    axes: Axes,
    places: Sequence[float],
    values: Sequence[xr.DataArray],
    over: str,
    *,
    color: str,
    marker: str,
    label: str = "",
) -> None:
    """The mean of each of the values as a dot in its row, with its 95 % interval over ``over``.

    Args:
        axes: the panel to draw in.
        places: the height of each row.
        values: numbers over ``over``, for each row.
        over: the dimension of the repetitions.
        color: colour of dots and intervals.
        marker: marker of the dots.
        label: entry in the legend.
    """
    found = [style.interval(each, over) for each in values]
    axes.errorbar(
        [float(mean) for mean, _ in found],
        places,
        xerr=[float(half.fillna(0)) for _, half in found],
        color=color,
        marker=marker,
        linestyle="",
        elinewidth=1,
        label=label or None,
    )


def zero(axes: Axes) -> None:
    """A thin line where a difference is zero."""
    axes.axvline(0, color="#777777", linewidth=0.6, zorder=0)


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Heights of labels in the order of these and at least ``gap`` from each other.

    The lowest one stays, the others move up no more than they must.
    """
    moved: dict[int, float] = {}
    below = -np.inf
    for place in np.argsort(heights, kind="stable").tolist():
        below = max(heights[place], below + gap)
        moved[place] = below
    return [moved[place] for place in range(len(heights))]


def name_points(
    axes: Axes, x: Array, y: Array, names: Sequence[str], colors: Sequence[str]
) -> None:
    """Write a name beside each point, where it covers no point and no other name if it can.

    Limits of the axes must be set and the figure laid out, because distances are those on paper.

    Args:
        axes: the panel.
        x: places of the points.
        y: places of the points.
        names: what to write.
        colors: colours of the letters.
    """
    points = axes.transData.transform(np.column_stack([x, y]))
    taken = [Bbox.from_bounds(px - 4, py - 4, 8, 8) for px, py in points]
    frame = axes.get_window_extent()
    offsets = [(dx, dy) for far in (5, 9, 14, 20) for dx, dy in _AROUND * far]
    for across, up, name, color in zip(x, y, names, colors, strict=True):
        best = None
        for dx, dy in offsets:
            text = axes.annotate(
                name,
                (float(across), float(up)),
                (dx, dy),
                textcoords="offset points",
                size=7,
                color=color,
                ha="left" if dx > 1 else "right" if dx < -1 else "center",
                va="bottom" if dy > 1 else "top" if dy < -1 else "center",
            )
            box = text.get_window_extent()
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
            covered = sum(box.overlaps(other) for other in taken) + 10 * (not inside)
            if best is None or covered < best[0]:
                if best is not None:
                    best[1].remove()
                best = covered, text, box
            else:
                text.remove()
            if covered == 0:
                break
        assert best is not None
        taken.append(best[2])


_AROUND = np.array(
    [(1, 0), (-1, 0), (0, 1), (0, -1), (0.8, 0.8), (-0.8, 0.8), (0.8, -0.8), (-0.8, -0.8)]
)
