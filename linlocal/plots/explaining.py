"""Which condition holds in which layer."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from linlocal import inputs
from linlocal.conditions import Explanation
from linlocal.plots import given

_FAILS, _HOLDS = "#D55E00", "#0072B2"


def explanation(found: Explanation, *, axes: Axes | None = None) -> Axes:
    """The conditions of `linlocal.explain` as a table: rows are conditions, columns are layers.

    A filled blue square is a condition that holds. An orange one fails, the fuller the more; the
    number in it is the relative distance from the condition. The first row has the cosines.

    Args:
        found: what `linlocal.explain` returns.
        axes: where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        TypeError: no explanation, or no Axes.
    """
    inputs.instance(found, Explanation, "found", "what linlocal.explain returns")
    names = list(dict.fromkeys(c.name for e in found.layers for c in e.conditions))
    rows, columns = len(names) + 1, len(found.layers)
    axes = given.drawn_into(axes, (2.6 + 0.75 * columns, 0.8 + 0.36 * rows))
    for column, entry in enumerate(found.layers):
        color = _HOLDS if entry.exact else _FAILS
        words = "-" if np.isnan(entry.cosine) else f"{entry.cosine:.4f}"
        _cell(axes, column, 0, color, 1.0 if entry.exact else 0.35, words)
        for condition in entry.conditions:
            place = names.index(condition.name) + 1
            if condition.holds:
                _cell(axes, column, place, _HOLDS, 1.0, "holds")
            else:
                full = 0.25 + 0.75 * float(np.clip(1 + np.log10(condition.distance) / 3, 0, 1))
                _cell(axes, column, place, _FAILS, full, f"{condition.distance:.1g}")
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xticks(range(columns), [str(e.layer) for e in found.layers])
    axes.set_yticks(range(rows), ["cosine", *names])
    axes.set_xlabel("layer")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    verdict, _, more = found.verdict.partition("; ")
    axes.set_title(verdict + (f";\n{more}" if more else ""), fontsize=9, loc="right")
    return axes


def _cell(axes: Axes, x: int, y: int, color: str, full: float, words: str) -> None:
    """A square with a word; letters keep the colour of the page where the square is faint."""
    square = Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, facecolor=color, alpha=full, linewidth=0)
    axes.add_patch(square)
    text = axes.text(x, y, words, ha="center", va="center", fontsize=8)
    if full > 0.6:
        text.set_color("white")
