"""Data of the theory as tensors of torch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from linlocal.autodiff.pairs import OfScores, PairFormula
from linlocal.pairs import Direction


def judged(formula: PairFormula, u: torch.Tensor, d: Direction) -> torch.Tensor:
    """A loss of scored pairs of the scores (pairs,) of a direction.

    Raises:
        ValueError: the direction has no negatives.
    """
    if d.num_negatives == 0:
        raise ValueError("The pairs have no negatives, but the rule needs them.")
    if isinstance(formula, OfScores):
        return formula.of_scores(u, d)
    positive = np.flatnonzero(d.sign > 0)
    rows = [np.flatnonzero((d.sign < 0) & (d.group == d.group[p])) for p in positive]
    longest = max(map(len, rows))
    real = np.array([[k < len(row) for k in range(longest)] for row in rows])
    table = np.array([np.pad(row, (0, longest - len(row))) for row in rows])
    there = None if real.all() else torch.from_numpy(real)
    return formula(u[index(positive)], u[torch.from_numpy(table.astype(np.int64))], there)


def tensor(array: ArrayLike) -> torch.Tensor:
    """A copy in float64."""
    return torch.from_numpy(np.array(array, dtype=np.float64))


def index(array: NDArray[np.int64]) -> torch.Tensor:
    """A copy as indices."""
    return torch.from_numpy(np.array(array, dtype=np.int64))
