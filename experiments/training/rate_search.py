"""Networks trained on images, each cell with the best learning rate of a search that goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xarray as xr

from experiments.runner import Sweep
from experiments.training.hierarchy_ladder import Search
from experiments.training.hierarchy_search import chosen, table


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
