"""A datum of a Random Hierarchy Model, with its latent symbols."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from linlocal import inputs
from linlocal.plots import given
from linlocal.rhm import Trees

_MOST = 64  # leaves that can be told apart in a picture


def tree(trees: Trees, row: int = 0, *, axes: Axes | None = None) -> Axes:
    """One datum as a tree: the class at the top, the symbols of each level below, leaves last.

    A node shows the number of its symbol, and its colour is that of the number. Symbols of
    different levels have nothing in common, even where their numbers are equal. Blanks of sparse
    data are left out.

    Args:
        trees: data of a `linlocal.rhm.RandomHierarchyModel`, by sample, split or parse.
        row: which of the data.
        axes: where to draw; None makes a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: there is no such datum, or it has more than 64 leaves.
        TypeError: no `Trees`, or no Axes.
    """
    inputs.instance(trees, Trees, "trees", "`Trees`, as model.sample(...) returns them")
    row = inputs.whole(row, "row", 0)
    if row >= len(trees):
        raise ValueError(f"row must be below the number of data, {len(trees)}, got {row}.")
    levels = [symbols[row] for symbols in trees.symbols]
    width = len(levels[0])
    if width > _MOST:
        raise ValueError(f"A picture shows at most {_MOST} leaves, and this datum has {width}.")
    axes = given.drawn_into(axes, (max(3.5, 0.42 * width), 0.75 * len(levels) + 0.3))
    colors = mpl.colormaps["tab20"]
    places = [(np.arange(len(level)) + 0.5) * width / len(level) for level in levels]
    for l, (symbols, x) in enumerate(zip(levels, places, strict=True)):
        if l + 1 < len(levels):
            above = np.repeat(places[l + 1], len(symbols) // len(levels[l + 1]))
            axes.plot(
                [x, above], [np.full(len(x), l), np.full(len(x), l + 1)], color="#999999", zorder=1
            )
        axes.scatter(
            x, np.full(len(x), l), s=180, c=[colors(int(s) % 20) for s in symbols], zorder=2
        )
        for place, symbol in zip(x, symbols, strict=True):
            red, green, blue, _ = colors(int(symbol) % 20)
            letters = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else "white"
            axes.text(
                place, l, str(symbol), ha="center", va="center", fontsize=8, color=letters, zorder=3
            )
    names = ["leaves", *(f"level {l}" for l in range(1, len(levels) - 1)), "class"]
    axes.set_yticks(range(len(levels)), names)
    axes.set_ylim(-0.5, len(levels) - 0.5)
    axes.set_xlim(0, width)
    axes.set_xticks([])
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes
