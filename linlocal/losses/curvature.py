"""The Hessian H of a loss of scored pairs by the margins, as an operator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from linlocal.inputs import Array
from linlocal.pairs import Contrasts, Groups


class Curvature(ABC):
    """H, (margins, margins), symmetric and positive semidefinite.

    ``np.asarray(curvature)`` is the whole matrix.
    """

    @abstractmethod
    def product(self, v: Array) -> Array:
        """H v, (margins,)."""

    @abstractmethod
    def by_pair(self, contrasts: Contrasts) -> Array:
        """About the diagonal of T^T H T, (pairs,); it serves a preconditioner."""

    @property
    @abstractmethod
    def num_margins(self) -> int:
        """Rows of H."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        columns = [self.product(column) for column in np.eye(self.num_margins)]
        return np.asarray(columns, dtype=dtype)

    @classmethod
    def of(cls, given: Array | Curvature) -> Curvature:
        """What `PairLoss.curvature` returned, as an operator."""
        if isinstance(given, Curvature):
            return given
        return Diagonal(given) if given.ndim == 1 else Dense(given)


def explicit(given: Array | Curvature) -> Array:
    """What `PairLoss.curvature` returned, as the diagonal or the whole matrix."""
    return np.asarray(given)


@dataclass(frozen=True, eq=False)
class Diagonal(Curvature):
    """H = diag(h), h of shape (margins,)."""

    h: Array

    @property
    def num_margins(self) -> int:
        return len(self.h)

    def product(self, v: Array) -> Array:
        return self.h * v

    def by_pair(self, contrasts: Contrasts) -> Array:
        return contrasts.weigh(self.h)


@dataclass(frozen=True, eq=False)
class Dense(Curvature):
    """H as a matrix, (margins, margins)."""

    matrix: Array

    @property
    def num_margins(self) -> int:
        return len(self.matrix)

    def product(self, v: Array) -> Array:
        return np.asarray(self.matrix @ v)

    def by_pair(self, contrasts: Contrasts) -> Array:
        return contrasts.weigh(self.matrix.diagonal())


@dataclass(frozen=True, eq=False)
class Softmax(Curvature):
    """H = weight (diag(p) - p p^T) within each group: the Hessian of a sum of log-sum-exp.

    Attributes:
        p: (margins,) probabilities, whose sums over a group are at most 1. What is missing to 1
            is the probability of a member whose logit is fixed at 0.
        groups: the groups.
        weight: one factor for all groups, or (margins,) equal within a group.
        pair_weights: (pairs,) about the diagonal of T^T H T.
    """

    p: Array
    groups: Groups
    weight: float | Array
    pair_weights: Array

    @property
    def num_margins(self) -> int:
        return len(self.p)

    def product(self, v: Array) -> Array:
        # weight p (v - sum of p v over the group), with few copies: a table of pairs is large.
        result = self.p * v
        mean = self.groups.spread(self.groups.total(result))
        np.subtract(v, mean, out=mean)
        mean *= self.p
        mean *= self.weight
        return mean

    def by_pair(self, contrasts: Contrasts) -> Array:
        return self.pair_weights
