"""Data of the theory as tensors of torch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from linlocal.pairs import Direction


def signs(d: Direction) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the positive and of the negative pairs."""
    positive, negative = np.flatnonzero(d.sign > 0), np.flatnonzero(d.sign < 0)
    if len(negative) == 0:
        raise ValueError("The pairs have no negatives, but the rule needs them.")
    return torch.as_tensor(positive), torch.as_tensor(negative)


def partners(d: Direction) -> torch.Tensor:
    """For each negative pair the position of the positive pair of its group."""
    negative = np.flatnonzero(d.sign < 0)
    return torch.tensor(
        [int(np.flatnonzero((d.sign > 0) & (d.group == d.group[j]))[0]) for j in negative]
    )


def tensor(array: ArrayLike) -> torch.Tensor:
    """A copy in float64."""
    return torch.from_numpy(np.array(array, dtype=np.float64))


def index(array: NDArray[np.int64]) -> torch.Tensor:
    """A copy as indices."""
    return torch.from_numpy(np.array(array, dtype=np.int64))
