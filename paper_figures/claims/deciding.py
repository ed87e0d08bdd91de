"""One decision for all claims: an interval lies inside a region, outside of it, or neither.

A `Question` holds numbers and the region in which they must lie. Its parts, such as the layers of a
network, must all lie there. The claim

- holds where the intervals of all parts lie inside the region,
- fails where the interval of one part lies outside,
- is undecided otherwise, and always where there is one network only.

Each part has Student's interval of the mean over networks; batches are averaged before. The
intervals of k parts hold together by Bonferroni: each has the confidence 1 - alpha / k, whatever
the layers of a network have in common. The bootstrap of the largest t would be narrower where
layers go together, but it needs many networks, and three or ten are what there is.

All questions of one figure are corrected by Holm: ordered by their p values, the one at place j of
m is asked with alpha / (m - j + 1), and once one is not decided, no later one is. So no claim of a
figure is decided wrongly, with probability 1 - alpha, for normally distributed networks. Here p is
the smallest alpha at which the intervals decide. The intervals that are shown are those that
decided. Claims that are not comparable get no verdict, and are corrected among themselves.

Some numbers are known between bounds only, such as the data that a network needs, of which a grid
of sizes was tried. Then the claim holds where the intervals of both bounds lie inside the region.

Statements about each of the cases computed ("to 1e-10 in every layer and network") need no
interval: one case outside is a counterexample.

References: S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal
of Statistics 6, 1979.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

ALPHA = 0.05
CASES = "cases"
_NAMED = 6  # so many parts are named at most


@dataclass(frozen=True)
class Question:
    """Numbers, and how far inside their region they lie.

    Attributes:
        low: the numbers of the parts, shape (parts,), or their lower bounds.
        high: the same numbers, or their upper bounds.
        error: their standard errors; 0 where they are exact, NaN where they are unknown.
        freedom: the degrees of freedom of the errors.
        within: how far inside the region each number lies at least; negative outside.
        beyond: how far outside it lies at least; negative inside.
        names: names of the parts, e.g. "layer 2".
        count: number of units.
        unit: what is repeated, e.g. "networks"; `CASES` where nothing is estimated.
        factors: whether the numbers are log2 of factors, in which intervals are told.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    error: NDArray[np.float64]
    freedom: NDArray[np.float64]
    within: NDArray[np.float64]
    beyond: NDArray[np.float64]
    names: tuple[str, ...]
    count: int
    unit: str
    factors: bool = False

    @property
    def p(self) -> float:
        """The smallest alpha at which the intervals of all parts decide together; at most 1."""
        with np.errstate(divide="ignore", invalid="ignore"):
            # On the edge of the region itself, 0 / 0, nothing is decided.
            inside, outside = (
                np.where(gap == 0, 0.0 * self.error, gap / self.error)
                for gap in (self.within, self.beyond)
            )
        if np.isnan(inside).all():
            return 1.0
        # NaN, an unknown part, is not inside; another part may still be outside.
        tails = [stdtr(self.freedom, -inside).max(), np.nanmin(stdtr(self.freedom, -outside))]
        return float(min(1.0, 2 * inside.size * np.nanmin(tails)))

    @property
    def open(self) -> bool:
        """Whether intervals can be had, and so the question counts among those of a figure."""
        return self.unit != CASES and bool(np.isfinite(self.error).any())

    def told(self, number: float) -> str:
        """A number as text."""
        return f"{2.0**number:.2g}" if self.factors else f"{number:+.3g}"

    def at(self, alpha: float, asked: int = 1) -> Decision:
        """The decision by intervals that hold together with probability 1 - alpha."""
        half = self.error * stdtrit(self.freedom, 1 - alpha / (2 * max(1, self.low.size)))
        inside, outside = self.within > half, self.beyond > half
        holds = True if inside.all() and inside.size else False if outside.any() else None
        return Decision(holds, half, inside, outside, self, asked)


@dataclass(frozen=True)
class Decision:
    """What the intervals say.

    Attributes:
        holds: True inside, False outside, None where the intervals do not decide.
        half: half widths of the intervals of the parts.
        inside: which parts lie inside.
        outside: which parts lie outside.
        question: what was decided.
        asked: how many questions were decided together; 1 for one alone.
    """

    holds: bool | None
    half: NDArray[np.float64]
    inside: NDArray[np.bool_]
    outside: NDArray[np.bool_]
    question: Question
    asked: int = 1

    @property
    def intervals(self) -> list[tuple[float, float]]:
        """The interval of each part; that of all cases together."""
        asked = self.question
        if asked.unit == CASES:
            values = asked.low[np.isfinite(asked.low)]
            return [(float(values.min()), float(values.max()))] if values.size else []
        pairs = zip(asked.low - self.half, asked.high + self.half, strict=True)
        return [(float(low), float(high)) for low, high in pairs]

    @property
    def units(self) -> str:
        """How many networks or cases decide."""
        asked = self.question
        return f"{asked.count} {asked.unit.removesuffix('s') if asked.count == 1 else asked.unit}"

    @property
    def correction(self) -> str:
        """For how many intervals and questions they hold together."""
        if self.question.unit == CASES:
            return ""
        parts = self.question.low.size
        words = [f"Bonferroni over {parts} intervals"] if parts > 1 else []
        words += [f"Holm over {self.asked} questions"] if self.asked > 1 else []
        return ", ".join(words)

    def __str__(self) -> str:
        """The interval, and the parts that keep a claim from holding."""
        asked = self.question
        if asked.unit == CASES:
            return ""
        if not asked.open:
            return "no interval"
        if len(self.intervals) == 1:
            ((low, high),) = self.intervals
            return f"interval {asked.told(low)} to {asked.told(high)}"
        if asked.factors:
            words = [
                "intervals "
                + ", ".join(
                    "unknown" if np.isnan(low) else f"{asked.told(low)} to {asked.told(high)}"
                    for low, high in self.intervals
                )
            ]
        else:
            words = [f"half intervals up to {np.nanmax(self.half):.2g}"]
        for which, word in (
            (self.outside, "outside"),
            (~(self.inside | self.outside), "undecided"),
        ):
            named = [name for name, here in zip(asked.names, which, strict=True) if here]
            if named:
                more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
                words.append(f"{word}: {', '.join(named[:_NAMED])}{more}")
        return "; ".join(words)


def decide(questions: Sequence[Question], alpha: float = ALPHA) -> list[Decision]:
    """Decide all questions of one figure together, see the head of this module.

    Args:
        questions: the questions.
        alpha: probability that any of them is decided wrongly.

    Returns:
        Their decisions, in the same order.
    """
    found = [question.at(alpha) for question in questions]
    open_ones = [place for place, question in enumerate(questions) if question.open]
    left = len(open_ones)
    stopped = False
    for place in sorted(open_ones, key=lambda place: questions[place].p):
        found[place] = questions[place].at(alpha / left, len(open_ones))
        stopped = stopped or found[place].holds is None
        if not stopped:
            left -= 1
    return found


def of_networks(
    values: xr.DataArray,
    over: str,
    above: float | xr.DataArray = -np.inf,
    below: float | xr.DataArray = np.inf,
    one_more: bool = False,
    unit: str = "networks",
) -> Question:
    """Whether means over networks lie between two numbers, in every part.

    Args:
        values: numbers over networks and any other dimensions, which are the parts; NaN is left
            out.
        over: the dimension of the networks.
        above: what the means must exceed, for all parts or each of them.
        below: what they must stay under.
        one_more: the values are differences from a single other network, as published numbers often
            are: then the interval, mean +- t sd sqrt(1 + 1/n), is that of the difference of the two
            means, for networks that vary as ours do.
        unit: what ``over`` counts.
    """
    count = values.count(over)
    freedom = (count - 1).where(count > 1)
    share = 1 / count + 1 if one_more else 1 / count.where(count > 0)
    error = values.std(over, ddof=1) * np.sqrt(share) if values.sizes[over] > 1 else count * np.nan
    return of_estimates(
        values.mean(over), error, freedom, int(values.sizes[over]), unit, above, below
    )


def of_estimates(
    estimate: xr.DataArray,
    error: xr.DataArray | float,
    freedom: xr.DataArray | float,
    count: int,
    unit: str = "networks",
    above: float | xr.DataArray = -np.inf,
    below: float | xr.DataArray = np.inf,
) -> Question:
    """Whether estimates with standard errors lie between two numbers.

    Args:
        estimate: numbers over any dimensions, which are the parts.
        error: their standard errors.
        freedom: degrees of freedom of the errors.
        count: number of units that they are estimated from.
        unit: what is counted.
        above: what the estimates must exceed.
        below: what they must stay under.
    """
    return of_bounds(estimate, estimate, error, freedom, count, unit, above, below)


def of_bounds(
    low: xr.DataArray,
    high: xr.DataArray,
    error: xr.DataArray | float,
    freedom: xr.DataArray | float,
    count: int,
    unit: str = "networks",
    above: float | xr.DataArray = -np.inf,
    below: float | xr.DataArray = np.inf,
    factors: bool = False,
) -> Question:
    """Whether numbers that are known between bounds lie between two others.

    Args:
        low: estimates of the lower bounds over any dimensions, which are the parts.
        high: those of the upper bounds; infinite where there is none.
        error: their standard errors.
        freedom: as in `of_estimates`.
        count: as in `of_estimates`.
        unit: as in `of_estimates`.
        above: as in `of_estimates`.
        below: as in `of_estimates`.
        factors: whether all numbers are log2 of factors, in which intervals are told.
    """
    least, most = (
        each if isinstance(each, xr.DataArray) else float(each) for each in (above, below)
    )
    within = _gap(low, least).clip(max=-_gap(high, most, -np.inf))
    beyond = _gap(low, most, -np.inf).clip(min=-_gap(high, least))
    zero = xr.zeros_like(low, dtype=float)
    flat = [
        (zero + each).transpose(*low.dims).values.ravel()
        for each in (low, high, error, freedom, within, beyond)
    ]
    return _question(flat, _names(low), count, unit, factors)


def of_cases(
    values: xr.DataArray | ArrayLike,
    least: float = -np.inf,
    most: float = np.inf,
    above: float = -np.inf,
    below: float = np.inf,
) -> Question:
    """Whether each of the cases computed lies within limits; one outside is a counterexample.

    Args:
        values: numbers, or booleans as 0 and 1; NaN, an undefined case, leaves the claim open.
        least: what each is at least.
        most: what each is at most.
        above: what each exceeds.
        below: what each stays under.
    """
    cases = np.asarray(values, float).ravel()
    inside = (cases >= least) & (cases <= most) & (cases > above) & (cases < below)
    margin = np.where(np.isnan(cases), np.nan, np.where(inside, np.inf, -np.inf))
    zero = np.zeros(cases.size)
    names = ("",) * cases.size
    return Question(cases, cases, zero, zero + 1, margin, -margin, names, cases.size, CASES)


def both(*questions: Question) -> Question:
    """The question whether all of these hold together."""
    networks = [each for each in questions if each.unit != CASES] or [questions[0]]
    numbers = [
        np.concatenate([getattr(each, name) for each in questions])
        for name in ("low", "high", "error", "freedom", "within", "beyond")
    ]
    names = tuple(name for each in questions for name in each.names)
    return _question(numbers, names, networks[0].count, networks[0].unit)


def _question(
    numbers: Sequence[NDArray[np.float64]],
    names: tuple[str, ...],
    count: int,
    unit: str,
    factors: bool = False,
) -> Question:
    low, high, error, freedom, within, beyond = numbers
    return Question(low, high, error, freedom, within, beyond, names, count, unit, factors)


def _gap(
    numbers: xr.DataArray, limit: float | xr.DataArray, unlimited: float = np.inf
) -> xr.DataArray:
    """Numbers minus a limit, ``unlimited`` where that is infinite; NaN where a number is."""
    with np.errstate(invalid="ignore"):
        gap = numbers - limit
    return gap.where(np.isfinite(limit) | numbers.isnull(), unlimited)


def _names(parts: xr.DataArray) -> tuple[str, ...]:
    """The parts by their coordinates, as in "layer 2"."""
    labels = [[_label(dim, each) for each in parts[dim].values] for dim in map(str, parts.dims)]
    return tuple(", ".join(words) for words in product(*labels))


def _label(dim: str, label: object) -> str:
    """A text or texts as they are, a number with its dimension."""
    if isinstance(label, tuple):
        return " ".join(map(str, label))
    if isinstance(label, str):
        return " ".join(label.split())
    return f"{dim} {label:g}" if isinstance(label, float) else f"{dim} {label}"
