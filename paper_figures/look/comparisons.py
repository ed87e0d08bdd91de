"""Claims that compare two rules or variants, repetition by repetition."""

from __future__ import annotations

import numpy as np
import xarray as xr

from paper_figures.claims import Claim
from paper_figures.look import panels, style


def raises(
    text: str,
    better: xr.DataArray,
    worse: xr.DataArray,
    over: str,
    digits: int = 3,
    published: str | None = "as curves only",
    elsewhere: str | None = None,
) -> Claim:
    """The claim that ``better`` exceeds ``worse`` in every layer, by paired 95 % intervals.

    It holds if it does in all layers, and fails if it is the other way round in one. Otherwise the
    intervals do not decide, as those of a single repetition never do.

    Args:
        text: the claim.
        better: cosines over ``over`` and layer.
        worse: cosines of the other rule in the same repetitions.
        over: the dimension of the repetitions.
        digits: number of printed decimals.
        published: what the papers say about it.
        elsewhere: as of `Claim`.
    """
    mean, half = style.interval(better - worse, over)
    wins, losses = mean - half > 0, mean + half < 0
    measured = f"{panels.numbers(mean, digits, '+')} in layers {panels.span(mean['layer'])}"
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
    holds = True if bool(wins.all()) else False if bool(losses.any()) else None
    return Claim(text, holds, measured, published, elsewhere)


def difference(
    values: xr.DataArray,
    better: str,
    worse: str,
    text: str,
    least: float,
    published: str | None = None,
    elsewhere: str | None = None,
) -> Claim:
    """The claim that a paired difference is above ``least``, decided by its 95 % interval.

    Args:
        values: numbers over variant and repetition.
        better: name of the variant that should have the larger ones.
        worse: name of the other variant.
        text: the claim.
        least: what the difference must exceed.
        published: what the papers say about it.
        elsewhere: as of `Claim`.
    """
    low, high = bounds(values.sel(variant=better) - values.sel(variant=worse))
    holds = True if low > least else False if high <= least else None
    measured = " against ".join(
        f"{float(values.sel(variant=v).mean()):.3f}" for v in (better, worse)
    )
    measured = f"{measured}, difference {low:+.3f} to {high:+.3f}"
    return Claim(text, holds, measured, published, elsewhere)


def bounds(values: xr.DataArray) -> tuple[float, float]:
    """The 95 % interval over repetitions; NaN for a single one."""
    mean, half = style.interval(values, "repetition")
    return float(mean - half), float(mean + half)
