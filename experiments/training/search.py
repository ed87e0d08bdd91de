"""Learning rates that networks of their own try, and further ones while the best is at the edge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from experiments.runner import Sweep

# A search sees other grammars, splits and initial weights than what is reported.
SEARCH_SEED = 1000
# Validation accuracies that differ by less count as equal.
TIED = 0.005
# From one learning rate to the next where the grid is extended.
FACTOR = 10**0.5


@dataclass(frozen=True)
class Search:
    """How the learning rate of a cell is chosen, by networks that are not reported.

    Attributes:
        rates: ascending learning rates that are tried first; SGD takes ten times as much.
        extensions: how often the grid may be extended, by a factor of sqrt(10) on the side where
            the best rate lies at the edge.
        grammars: number of networks of the search; on hierarchies, each has a grammar of its own.
    """

    rates: tuple[float, ...]
    extensions: int
    grammars: int


def best_rate(scores: Mapping[float, float]) -> tuple[float, bool]:
    """The middle one of the rates that are as good as the best, and whether others enclose it."""
    rates = sorted(scores)
    top = max(scores.values())
    tied = [rate for rate in rates if scores[rate] >= top - TIED]
    best = tied[(len(tied) - 1) // 2]
    return best, rates[0] < best < rates[-1]


@dataclass(frozen=True)
class Choice:
    """What a search chose for one cell.

    Attributes:
        candidate: the learning rate and the other choices.
        inside: whether other rates enclose it; NaN where there was nothing to choose.
        scores: the mean validation accuracy of every candidate that was tried, by its words.
    """

    candidate: dict[str, Any]
    inside: float
    scores: dict[str, float]


def unsearched(search: Search, other: Mapping[str, Any]) -> Choice:
    """The first rate with one other choice, where nothing is tried."""
    return Choice({"learning_rate": search.rates[0], **other}, np.nan, {})


def with_best_rate(
    sweep: Sweep,
    measure: Callable[..., xr.Dataset],
    cells: Sequence[Mapping[str, Any]],
    search: Search,
    repetitions: int,
    description: str,
    seed: int = 0,
) -> list[xr.Dataset]:
    """For each cell: choose the learning rate on networks of its own, then measure fresh ones.

    The best rate has the highest validation accuracy; the test set is not looked at. Among those
    that are equally good the middle one is taken. While it lies at the edge of what was tried, the
    next one is tried, as often as the search may be extended.

    Args:
        sweep: evaluates the points.
        measure: takes the entries of a cell, ``learning_rate`` and ``seed``; returns
            ``validation_accuracy`` among others.
        cells: what is compared.
        search: the rates, how often they may be extended, and the number of networks of a trial.
        repetitions: number of networks that are reported.
        description: shown beside the progress bars; distinguishes the sweeps of a run.
        seed: the base of all seeds.

    Returns:
        For each cell the variables of ``measure`` over ``repetition``; the ``search_accuracy`` over
        the candidates that any cell tried, NaN elsewhere; the ``learning_rate`` that was chosen,
        and whether it lies ``inside`` those that were tried: NaN where there was one.
    """
    choices = chosen(sweep, measure, cells, lambda cell: [{}], search, description, seed)
    points = [
        {**cell, **choice.candidate, "seed": seed + each}
        for cell, choice in zip(cells, choices, strict=True)
        for each in range(repetitions)
    ]
    measured = iter(sweep(measure, points, description))
    return [
        xr.concat([next(measured) for _ in range(repetitions)], "repetition").merge(choice)
        for choice in table(choices)
    ]


def chosen(
    sweep: Sweep,
    measure: Callable[..., xr.Dataset],
    cells: Sequence[Mapping[str, Any]],
    others: Callable[[Mapping[str, Any]], Sequence[Mapping[str, Any]]],
    search: Search,
    description: str,
    seed: int = 0,
) -> list[Choice]:
    """Try candidates for every cell by networks that are not reported, and choose the best.

    A candidate is a learning rate and one of the other choices. The score of a rate is that of the
    best choice with it. A cell whose best rate lies at the edge tries the next one with all other
    choices, a power of sqrt(10), as often as it may.

    Args:
        sweep: evaluates the points.
        measure: takes the entries of a cell, ``learning_rate``, the other choices and ``seed``;
            returns ``validation_accuracy``.
        cells: what is compared.
        others: the other choices of a cell, one at least.
        search: the rates, how often they may be extended, and the number of grammars.
        description: shown beside the progress bars; distinguishes the sweeps of a run.
        seed: the base of all seeds.

    Returns:
        The choice for each cell. Where there is one candidate, nothing is tried.
    """
    choices = [list(others(cell)) for cell in cells]
    searched = [row for row, each in enumerate(choices) if len(search.rates) * len(each) > 1]
    scores: list[dict[float, NDArray[np.float64]]] = [{} for _ in cells]

    def tried(asked: Sequence[tuple[int, float]], what: str) -> None:
        points = [
            {**cells[row], "learning_rate": rate, **other, "seed": seed + SEARCH_SEED + k}
            for row, rate in asked
            for other in choices[row]
            for k in range(search.grammars)
        ]
        parts = sweep(measure, points, f"{description}: {what}")
        found = iter([float(part["validation_accuracy"]) for part in parts])
        for row, rate in asked:
            accuracies = [[next(found) for _ in range(search.grammars)] for _ in choices[row]]
            # What is undefined never wins.
            scores[row][rate] = np.nan_to_num(np.mean(accuracies, axis=1), nan=-1.0)

    def best(row: int) -> tuple[float, bool]:
        return best_rate({rate: float(each.max()) for rate, each in scores[row].items()})

    tried([(row, rate) for row in searched for rate in search.rates], "search")
    for extension in range(1, search.extensions + 1):
        found = [(row, *best(row)) for row in searched]
        asked = [
            (row, _beside(rate, above=rate == max(scores[row])))
            for row, rate, inside in found
            if not inside
        ]
        if not asked:
            break
        tried(asked, f"search, extension {extension}")
    return [
        _choice(each, scores[row], *best(row)) if row in searched else unsearched(search, each[0])
        for row, each in enumerate(choices)
    ]


def _choice(
    others: Sequence[Mapping[str, Any]],
    scores: Mapping[float, NDArray[np.float64]],
    rate: float,
    inside: bool,
) -> Choice:
    tried = [
        ({"learning_rate": each, **other}, float(score))
        for each in sorted(scores)
        for other, score in zip(others, scores[each], strict=True)
    ]
    labels = words([candidate for candidate, _ in tried])
    best = {"learning_rate": rate, **others[int(scores[rate].argmax())]}
    return Choice(
        best, float(inside), dict(zip(labels, (score for _, score in tried), strict=True))
    )


def words(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    """The candidates as labels."""
    return [", ".join(f"{key} {value}" for key, value in each.items()) for each in candidates]


def _beside(rate: float, above: bool) -> float:
    """The next power of sqrt(10), to three digits."""
    power = round(2 * np.log10(rate)) + (1 if above else -1)
    return float(f"{10 ** (power / 2):.3g}")


def table(choices: Sequence[Choice]) -> list[xr.Dataset]:
    """For each choice ``search_accuracy`` over all candidates that any cell tried, NaN elsewhere.

    With it come ``learning_rate``, the other choices, and ``inside``.
    """
    labels = sorted({label for choice in choices for label in choice.scores})
    return [
        xr.Dataset(
            {
                "search_accuracy": (
                    "candidate",
                    [choice.scores.get(label, np.nan) for label in labels],
                ),
                **choice.candidate,
                "inside": choice.inside,
            },
            {"candidate": labels},
        )
        for choice in choices
    ]
