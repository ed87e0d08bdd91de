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
        """H v, (margins,); ``v`` may be overwritten."""

    @property
    @abstractmethod
    def diagonal(self) -> Array:
        """The diagonal of H, (margins,), or about it: it serves a preconditioner."""

    def by_score(self, contrasts: Contrasts) -> Curvature:
        """T^T H T, the Hessian by the scores of the pairs."""
        return Through(self, contrasts)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        columns = [self.product(column.copy()) for column in np.eye(len(self.diagonal))]
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
class Through(Curvature):
    """T^T H T, (pairs, pairs).

    Attributes:
        inner: H.
        contrasts: T.
    """

    inner: Curvature
    contrasts: Contrasts

    def product(self, v: Array) -> Array:
        return self.contrasts.adjoint(self.inner.product(self.contrasts.apply(v)))

    @property
    def diagonal(self) -> Array:
        return self.contrasts.weigh(self.inner.diagonal)


@dataclass(frozen=True, eq=False)
class Diagonal(Curvature):
    """H = diag(h), h of shape (margins,)."""

    h: Array

    def product(self, v: Array) -> Array:
        return np.multiply(self.h, v, out=v)

    @property
    def diagonal(self) -> Array:
        return self.h

    def by_score(self, contrasts: Contrasts) -> Curvature:
        return self if contrasts.only_signs else super().by_score(contrasts)


@dataclass(frozen=True, eq=False)
class Dense(Curvature):
    """H as a matrix, (margins, margins)."""

    matrix: Array

    def product(self, v: Array) -> Array:
        return np.asarray(self.matrix @ v)

    @property
    def diagonal(self) -> Array:
        return self.matrix.diagonal()


@dataclass(frozen=True, eq=False)
class Softmax(Curvature):
    """H = w (diag(p) - p p^T) within each group: the Hessian of a sum of log-sum-exp.

    Attributes:
        p: (margins,) probabilities, whose sums over a group are at most 1. What is missing to 1
            is the probability of a member whose logit is fixed at 0.
        groups: the groups.
        weighted: (margins,) w p; w is the same in a group.
        scores: the same Hessian by the scores, if T is not the identity.
    """

    p: Array
    groups: Groups
    weighted: Array
    scores: Softmax | None = None

    def product(self, v: Array) -> Array:
        self.groups.subtract(self.groups.inner(self.p, v), v)
        return np.multiply(self.weighted, v, out=v)

    @property
    def diagonal(self) -> Array:
        return self.weighted * (1.0 - self.p)

    def by_score(self, contrasts: Contrasts) -> Curvature:
        return self if self.scores is None else self.scores
