"""Parts that several figures share: their titles, layer axes, legends, and paired comparisons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.claims import Claim
from paper_figures.look import style

# What lies below the rounding of float64 is drawn at this height on logarithmic axes.
FLOOR = 1e-16


def headline(figure: Figure, text: str) -> None:
    """Say at the top, on the left, what the figure shows."""
    figure.suptitle(text, x=0.01, ha="left", size=10, weight="bold")


def layer_axis(axes: Axes, layers: xr.DataArray, widths: Sequence[int] | None = None) -> None:
    """Number the layers along the horizontal axis, with their widths below where they differ."""
    numbers: list[int] = layers.values.tolist()
    labels = [str(l) for l in numbers]
    if widths is not None:
        labels = [f"{l}\n{width}" for l, width in zip(numbers, widths, strict=True)]
    axes.set_xticks(numbers, labels)
    axes.set_xlabel("layer" if widths is None else "layer, its width below")


def legend_below(
    figure: Figure, axes: Axes, columns: int, extra: Sequence[tuple[Artist, str]] = ()
) -> None:
    """One legend for all panels, below them, of what ``axes`` shows.

    Args:
        figure: gets the legend.
        axes: whose labelled lines are shown.
        columns: of the legend.
        extra: handles and labels of more entries.
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


def raises(
    text: str,
    better: xr.DataArray,
    worse: xr.DataArray,
    over: str,
    digits: int = 3,
    published: str | None = "as curves only",
) -> Claim:
    """The claim that ``better`` exceeds ``worse`` in every layer, by paired 95 % intervals.

    Args:
        text: the claim.
        better: cosines over ``over`` and layer.
        worse: the same of the other rule, in the same repetitions.
        over: the dimension of the repetitions.
        digits: of the printed numbers.
        published: what is known of it.
    """
    mean, half = style.interval(better - worse, over)
    wins, losses = mean - half > 0, mean + half < 0
    measured = f"{numbers(mean, digits, '+')} in layers {span(mean['layer'])}"
    undecided = ~(wins | losses)
    notes = [
        f"{word} in {'layer' if found.sum() == 1 else 'layers'} "
        + ", ".join(str(int(l)) for l in found["layer"][found])
        for word, found in (("lower", losses), ("undecided", undecided))
        if bool(found.any())
    ]
    largest = float(half.max())
    measured += f", half intervals up to {largest:.{digits}f}" if np.isfinite(largest) else ""
    if notes:
        measured += "; " + ", ".join(notes)
    return Claim(text, bool(wins.all()), measured, published)


def difference(
    values: xr.DataArray, better: str, worse: str, text: str, least: float, published: str
) -> Claim:
    """That a paired difference is above ``least``; open where its 95 % interval holds both.

    Args:
        values: over variant and repetition.
        better: name of the variant that should have the larger ones.
        worse: name of the other.
        text: the claim.
        least: what the difference must exceed.
        published: what is known of it.
    """
    low, high = bounds(values.sel(variant=better) - values.sel(variant=worse))
    holds = True if low > least else False if high <= least else None
    measured = " against ".join(
        f"{float(values.sel(variant=v).mean()):.3f}" for v in (better, worse)
    )
    return Claim(text, holds, f"{measured}, difference {low:+.3f} to {high:+.3f}", published)


def bounds(values: xr.DataArray) -> tuple[float, float]:
    """The 95 % interval over repetitions; NaN for a single one."""
    mean, half = style.interval(values, "repetition")
    return float(mean - half), float(mean + half)


def span(layers: xr.DataArray) -> str:
    """First and last layer, as in "1-5"."""
    return f"{int(layers[0])}-{int(layers[-1])}"
