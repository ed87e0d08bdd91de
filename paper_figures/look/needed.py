"""How many data a network needs for a given test error, and the interval of that number.

The interval holds both what the choice of grammars leaves open (bootstrap) and what the grid does:
a crossing between two measured sizes may lie anywhere between them. Pictures show the percentiles
of the draws, for one number alone; claims are decided as all others are, by `question`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from paper_figures.claims import Question, of_bounds, of_networks

T = TypeVar("T")
DRAWS = 1000
LEVELS = (0.025, 0.975)
# A claim is open if more than this share of its trainings met the cap.
UNFINISHED = 0.05


def relative_error(data: xr.Dataset) -> xr.DataArray:
    """Test error in units of that of guessing, 1 - 1/n."""
    return (1 - data["test_accuracy"]) / (1 - 1 / data["num_symbols"])


def threshold(data: xr.Dataset) -> float:
    """The relative error at which the result counts a network as having learned."""
    return float(json.loads(data.attrs["config"])["error"])


def needed(error: xr.DataArray, level: float) -> xr.Dataset:
    """The size at which the mean error falls to ``level``.

    Grammars are drawn anew with replacement, the same for all cells. In each draw the first
    measured size whose mean error is at most ``level`` bounds the crossing from above, the measured
    size before it from below: 0 where the smallest is enough, and infinity above where none is.

    Args:
        error: over multiple, repetition and other dimensions; NaN where nothing was measured.
        level: the error in question.

    Returns:
        Over the other dimensions ``estimate`` (interpolated in the logarithm of the size; the
        smallest size where it is enough, NaN where none is), ``low`` and ``high``, the ends of the
        95 % interval; over ``draw`` too, ``below`` and ``above``, the bounds of each draw, of which
        the first is the grammars as they are. The attribute ``grammars`` counts them.
    """
    others = [dim for dim in error.dims if dim not in ("multiple", "repetition")]
    values = error.transpose(*others, "multiple", "repetition").values
    sizes = error["multiple"].values
    count = values.shape[-1]
    rng = np.random.default_rng(0)
    draws = np.vstack([np.arange(count), rng.integers(count, size=(DRAWS, count))])
    shape = values.shape[:-2]
    estimate, bounds = np.full(shape, np.nan), np.full((*shape, 2, 1 + DRAWS), np.nan)
    for cell in np.ndindex(shape):
        known = np.isfinite(values[cell]).all(axis=1)
        if known.any():
            curves = values[cell][known][:, draws].mean(axis=2)
            bounds[cell] = _bracket(sizes[known], curves, level)
            estimate[cell] = _crossing(sizes[known], curves[:, 0], level)
    low = np.quantile(bounds[..., 0, 1:], LEVELS[0], axis=-1, method="lower")
    high = np.quantile(bounds[..., 1, 1:], LEVELS[1], axis=-1, method="higher")
    coordinates = {dim: error[dim] for dim in others if dim in error.coords}
    return xr.Dataset(
        {
            "estimate": (others, estimate),
            "low": (others, low),
            "high": (others, high),
            "below": ([*others, "draw"], bounds[..., 0, :]),
            "above": ([*others, "draw"], bounds[..., 1, :]),
        },
        coordinates,
        {"grammars": count},
    )


def ratio(sizes: xr.Dataset, reference: Mapping[str, Any]) -> xr.Dataset:
    """How many times more data than the reference, in the form of `needed`.

    The same grammars are drawn for both. NaN where the reference did not learn; ``high`` is
    infinite where no size is known to be enough.
    """
    base = sizes.sel(reference)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = (sizes["below"] / base["above"]).fillna(0.0)
        above = (sizes["above"] / base["below"]).fillna(np.inf)
    learned = base["estimate"].notnull()
    dims = sizes["estimate"].dims
    draws = [each.transpose(*dims, "draw").values[..., 1:] for each in (below, above)]
    low = np.quantile(draws[0], LEVELS[0], axis=-1, method="lower")
    high = np.quantile(draws[1], LEVELS[1], axis=-1, method="higher")
    found = {
        "estimate": sizes["estimate"] / base["estimate"],
        "low": (dims, low),
        "high": (dims, high),
        "below": below,
        "above": above,
    }
    return xr.Dataset(found, attrs=sizes.attrs).where(learned)


def question(sizes: xr.Dataset, more_than: float = 0.0, at_most: float = np.inf) -> Question:
    """Whether numbers of data, or ratios of them, lie between two others; see `of_bounds`.

    Decided on logarithms: the standard error is the deviation of the bounds over draws, times
    (n / (n - 1))^(1/2), as a draw of n grammars varies less than n other grammars would. A bound
    that is infinite in some draw is so.

    Args:
        sizes: as from `needed` or `ratio`; all dimensions but ``draw`` are the parts.
        more_than: what they must exceed.
        at_most: what they must not exceed.
    """
    count = int(sizes.attrs["grammars"])
    with np.errstate(divide="ignore", invalid="ignore"):
        below, above = (xr.apply_ufunc(np.log2, sizes[key]) for key in ("below", "above"))
        limits = float(np.log2(more_than)), float(np.log2(at_most))
    sure = [each.where(abs(each) < np.inf) for each in (below, above)]
    spread = [each.std("draw", skipna=False).fillna(0.0) for each in sure]
    low, high = (
        each.isel(draw=0).where(known.notnull().all("draw"), unknown)
        for each, known, unknown in zip((below, above), sure, (-np.inf, np.inf), strict=True)
    )
    known = sizes["above"].notnull().all("draw")
    return of_bounds(
        low.where(known),
        high.where(known),
        xr.apply_ufunc(np.maximum, *spread) * np.sqrt(count / (count - 1)) if count > 1 else np.nan,
        count - 1,
        count,
        "grammars",
        *limits,
        factors=True,
    )


def unfinished(data: xr.Dataset) -> xr.DataArray:
    """The share of trainings that met the cap or broke off, of each measured cell."""
    return 1 - data["finished"].mean("repetition")


def at_the_cap(data: xr.Dataset) -> float:
    """The share of all trainings that met the cap; what was not trained does not count."""
    return float((1 - data["finished"]).where(data["steps"] > 0).mean())


def decided(data: xr.Dataset, verdict: T | None) -> tuple[T | None, str]:
    """A verdict or question, open if too many trainings are unfinished; and words that say so."""
    share = float(unfinished(data).mean())
    if share <= UNFINISHED:
        return verdict, ""
    return None, f"; {share:.0%} of the trainings met the cap of steps, so this is undecided"


def last(values: xr.DataArray) -> xr.DataArray:
    """The values at the largest size that was measured."""
    measured = values.notnull().all("repetition")
    return values.sel(multiple=values["multiple"].where(measured).max("multiple"))


def learns(data: xr.Dataset) -> Question:
    """Whether the error at the largest size that was measured counts as learned."""
    return of_networks(
        last(relative_error(data)), "repetition", below=threshold(data), unit="grammars"
    )


def words(size: xr.Dataset) -> str:
    """One size with its interval.

    "2.4 (2.0 to 2.8)", "2.4 (above 2.0)", "at most 0.5", "above 16", or "unknown", which is what
    is known of nothing but positive numbers.
    """
    estimate, low, high = (float(size[key]) for key in ("estimate", "low", "high"))
    if np.isnan(low) or (low == 0 and not np.isfinite(high)):
        return "unknown"
    if not np.isfinite(high):
        return f"{estimate:.1f} (above {low:.1f})" if np.isfinite(estimate) else f"above {low:.1f}"
    if low == 0:
        return f"at most {high:.1f}"
    return f"{estimate:.1f} ({low:.1f} to {high:.1f})"


def middle(size: xr.Dataset) -> str:
    """One size without its interval."""
    estimate, low, high = (float(size[key]) for key in ("estimate", "low", "high"))
    if np.isfinite(estimate):
        return f"{estimate:.1f}"
    return f"above {low:.1f}" if low > 0 and not np.isfinite(high) else "unknown"


def _bracket(
    sizes: NDArray[np.float64], curves: NDArray[np.float64], level: float
) -> NDArray[np.float64]:
    """(2, draws) the sizes between which each curve (sizes, draws) first falls to the level."""
    learned = curves <= level
    first = np.where(learned.any(axis=0), learned.argmax(axis=0), len(sizes))
    edges = np.concatenate([[0.0], sizes, [np.inf]])
    return np.stack([edges[first], edges[first + 1]])


def _crossing(sizes: NDArray[np.float64], curve: NDArray[np.float64], level: float) -> float:
    learned = np.flatnonzero(curve <= level)
    if not len(learned):
        return float("nan")
    last = learned[0]
    if last == 0:
        return float(sizes[0])
    part = (curve[last - 1] - level) / (curve[last - 1] - curve[last])
    return float(sizes[last - 1] * (sizes[last] / sizes[last - 1]) ** part)
