"""Equal search budgets: every rule tries the same candidates, and is judged on other seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from experiments.runner.sweep import Sweep

# The search sees other rules, splits and initial weights than what is reported.
SEARCH_SEED = 1000


def searched(
    sweep: Sweep,
    measure: Callable[..., xr.Dataset],
    cells: Sequence[Mapping[str, Any]],
    candidates: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    description: str,
    seed: int = 0,
) -> list[xr.Dataset]:
    """For each cell: try all candidates once, then measure the best on fresh seeds.

    The best has the highest validation accuracy; the test set is not looked at. Among equals the
    first wins.

    Args:
        sweep: evaluates the points.
        measure: takes the entries of a cell, of a candidate, and ``seed``; returns scalars, among
            them ``validation_accuracy``.
        cells: the things to compare, for example pairs of a rule and a size of the training set.
        candidates: the choices that every cell has.
        seeds: seeds of the repetitions that are reported.
        description: shown beside the progress bars; distinguishes the sweeps of a run.
        seed: the base of all seeds.

    Returns:
        For each cell the variables of ``measure`` over ``repetition``, and over ``candidate`` the
        ``search_accuracy`` and the index ``chosen``; where there is nothing to choose the
        accuracy is NaN and the search is left out.
    """
    scores, best = tried(sweep, measure, cells, candidates, description, seed)
    measured = sweep(
        measure,
        [
            {**cell, **candidates[choice], "seed": seed + each}
            for cell, choice in zip(cells, best, strict=True)
            for each in seeds
        ],
        description,
    )
    results = []
    for row, choice in enumerate(best):
        mine = measured[row * len(seeds) : (row + 1) * len(seeds)]
        results.append(
            xr.concat(mine, "repetition").assign(
                search_accuracy=("candidate", scores[row]), chosen=int(choice)
            )
        )
    return results


def tried(
    sweep: Sweep,
    measure: Callable[..., xr.Dataset],
    cells: Sequence[Mapping[str, Any]],
    candidates: Sequence[Mapping[str, Any]],
    description: str,
    seed: int = 0,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Try all candidates of every cell once, as `searched` does, and measure nothing.

    Returns:
        (cells, candidates) validation accuracies, NaN where there is nothing to choose, and
        (cells,) the index of the best candidate.
    """
    trials = [
        {**cell, **candidate, "seed": seed + SEARCH_SEED}
        for cell in cells
        for candidate in candidates
        if len(candidates) > 1
    ]
    parts = sweep(measure, trials, f"{description}: search")
    scores = np.array([float(each["validation_accuracy"]) for each in parts] or np.nan)
    scores = np.broadcast_to(scores, len(cells) * len(candidates))
    scores = scores.reshape(len(cells), len(candidates))
    best = np.nan_to_num(scores, nan=-1.0).argmax(axis=1)
    return scores, best


def words(candidates: Sequence[Mapping[str, Any]]) -> list[str]:
    """The candidates as labels."""
    return [", ".join(f"{key} {value}" for key, value in each.items()) for each in candidates]
