"""Claims that compare two rules or variants, network by network."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr

from paper_figures.claims import Claim, Question, decide, of_cases, of_networks
from paper_figures.look import needed, panels


def raises(
    text: str,
    better: xr.DataArray,
    worse: xr.DataArray,
    over: str,
    digits: int = 3,
    published: str | None = "as curves only",
    elsewhere: str | None = None,
) -> Claim:
    """The claim that ``better`` exceeds ``worse`` in every layer, by paired differences.

    Args:
        text: the claim.
        better: cosines over ``over`` and layer.
        worse: cosines of the other rule in the same networks.
        over: the dimension of the networks.
        digits: number of printed decimals.
        published: what the papers say about it.
        elsewhere: as of `Claim`.
    """
    gain = better - worse
    mean = gain.mean(over)
    measured = f"{panels.numbers(mean, digits, '+')} in layers {panels.span(mean['layer'])}"
    return Claim(text, of_networks(gain, over, above=0), measured, published, elsewhere)


def difference(
    values: xr.DataArray,
    better: str,
    worse: str,
    text: str,
    least: float,
    published: str | None = None,
    elsewhere: str | None = None,
) -> Claim:
    """The claim that a paired difference is above ``least``.

    Args:
        values: numbers over variant and repetition.
        better: name of the variant that should have the larger ones.
        worse: name of the other variant.
        text: the claim.
        least: what the difference must exceed.
        published: what the papers say about it.
        elsewhere: as of `Claim`.
    """
    gain = values.sel(variant=better) - values.sel(variant=worse)
    measured = " against ".join(
        f"{float(values.sel(variant=v).mean()):.3f}" for v in (better, worse)
    )
    measured += f", difference {float(gain.mean()):+.3f}"
    return Claim(text, above(gain, least), measured, published, elsewhere)


def rates_inside(data: xr.Dataset) -> list[Claim]:
    """The claim that searches found rates that others enclose; none where nothing was searched.

    Args:
        data: ``search_accuracy`` over candidate, by ascending rates, and other dimensions. A search
            that goes on at the edge leaves NaN where a cell did not try a rate, and says itself
            whether what it chose lies ``inside``.
    """
    scores = data["search_accuracy"].transpose(..., "candidate")
    rows = scores.values.reshape(math.prod(scores.shape[:-1]), scores.shape[-1])
    # What shares its trainings counts once, and what no rate changes, as without training, never.
    cells = [k for k, row in enumerate(rows) if len(set(row[np.isfinite(row)])) > 1]
    _, first = np.unique(np.nan_to_num(rows[cells], nan=-1.0), axis=0, return_index=True)
    cells = [cells[k] for k in first]
    if not cells:
        return []
    if "inside" in data:
        inside = data["inside"].transpose(*scores.dims[:-1]).values.ravel()[cells] == 1
        counts = np.isfinite(rows[cells]).sum(axis=1)
        tried = " to ".join(map(str, sorted({counts.min(), counts.max()})))
    else:
        best = np.nan_to_num(rows[cells], nan=-1.0).argmax(axis=1)
        inside = (best > 0) & (best < rows.shape[1] - 1)
        tried = str(rows.shape[1])
    return [inside_grids(int(inside.sum()), len(cells), f"{tried} rates were tried")]


def searches_inside(data: xr.Dataset) -> list[Claim]:
    """The same of a result on hierarchies, which says where its rates lie ``inside``."""
    found = data["inside"]
    note = f"{needed.at_the_cap(data):.1%} of the trainings met the cap of steps"
    count = int(found.count())
    return [inside_grids(int(found.sum()), count, note)] if count else []


def inside_grids(inside: int, cells: int, note: str) -> Claim:
    """The claim that the best rates of nearly all cells lie inside their grids.

    Args:
        inside: in how many cells they do.
        cells: how many were searched.
        note: stands behind both numbers.
    """
    return Claim(
        "the best learning rate lies inside its grid in at least 95 % of the cells",
        of_cases(inside / cells, least=0.95),
        f"{inside} of {cells} cells; {note}",
    )


def above(values: xr.DataArray, least: float = 0.0) -> Question:
    """Whether the mean over repetitions exceeds a number, in every part."""
    return of_networks(values, "repetition", above=least)


def slope(y: xr.DataArray, x: xr.DataArray, over: str) -> xr.DataArray:
    """The slope of y on x over one dimension, by least squares; others, as networks, stay."""
    apart = x - x.mean(over)
    return (apart * (y - y.mean(over))).sum(over) / (apart**2).sum(over)


def sign(values: xr.DataArray) -> int:
    """1 or -1 where the interval over repetitions lies above or below 0, else 0."""
    holds = decide([above(values)])[0].holds
    return 0 if holds is None else 1 if holds else -1


def together(parts: Mapping[str, xr.DataArray]) -> xr.DataArray:
    """Numbers of several parts along one dimension, by their names."""
    bare = [values.reset_coords(drop=True) for values in parts.values()]
    return xr.concat(bare, xr.DataArray(list(parts), dims="part", name="part"))
