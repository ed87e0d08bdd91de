"""Losses of scored pairs: convex functions phi of the margins m = T u.

u are the scores of the pairs and T a fixed contrast matrix (`linlocal.pairs.Contrasts`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.losses import scores
from linlocal.losses.scores import Score
from linlocal.pairs import Contrasts, Direction


@runtime_checkable
class PairLoss(Protocol):
    """phi(T u): ``contrasts`` gives T, the others phi and its derivatives at m = T u."""

    def contrasts(self, pairs: Direction) -> Contrasts:
        """T, (margins, pairs): ``pairs.signed``, ``pairs.differences`` or your own."""
        ...

    def value(self, m: Array, pairs: Direction) -> float:
        """phi(m)."""
        ...

    def gradient(self, m: Array, pairs: Direction) -> Array:
        """d phi / d m, (margins,)."""
        ...

    def curvature(self, m: Array, pairs: Direction) -> Array:
        """The Hessian of phi: its diagonal (margins,) if it is diagonal, else the whole matrix."""
        ...


@dataclass(frozen=True)
class TypeTwo:
    """mean over positive pairs f(u) + mean over negative pairs f(-u).

    Illing et al. 2021 (arXiv 2010.08262), eq. 5, in the scaling of Wu et al. 2026.
    """

    score: Score

    def __post_init__(self) -> None:
        scores.check(self.score)

    @property
    def summand(self) -> Score:
        """f; see `linlocal.losses.shape.summand_of`."""
        return self.score

    def contrasts(self, pairs: Direction) -> Contrasts:
        return pairs.signed

    def weights(self, pairs: Direction) -> Array:
        """1/(number of positive pairs), 1/(number of negative pairs)."""
        return pairs.weights

    def value(self, m: Array, pairs: Direction) -> float:
        return float(self.weights(pairs) @ self.score.value(m))

    def gradient(self, m: Array, pairs: Direction) -> Array:
        return self.weights(pairs) * self.score.slope(m)

    def curvature(self, m: Array, pairs: Direction) -> Array:
        return self.weights(pairs) * self.score.curvature(m)


@dataclass(frozen=True)
class TypeOne:
    """mean over negative pairs f(u_positive - u_negative), both of the same group.

    Momeni et al. 2023, Science 382, 1297 (PhyLL), with softplus f.
    """

    score: Score

    def __post_init__(self) -> None:
        scores.check(self.score)

    @property
    def summand(self) -> Score:
        """f; see `linlocal.losses.shape.summand_of`."""
        return self.score

    def contrasts(self, pairs: Direction) -> Contrasts:
        return pairs.differences

    def weights(self, pairs: Direction) -> Array:
        """1/(number of negative pairs)."""
        return np.full(pairs.num_negatives, 1.0 / pairs.num_negatives)

    def value(self, m: Array, pairs: Direction) -> float:
        return float(self.weights(pairs) @ self.score.value(m))

    def gradient(self, m: Array, pairs: Direction) -> Array:
        return self.weights(pairs) * self.score.slope(m)

    def curvature(self, m: Array, pairs: Direction) -> Array:
        return self.weights(pairs) * self.score.curvature(m)


@dataclass(frozen=True)
class InfoNCE:
    """mean over positive pairs of log(1 + sum_j exp(-(u_positive - u_j) / temperature)).

    The cross-entropy of picking the positive pair among its negatives (van den Oord et al. 2018,
    arXiv 1807.03748, eq. 4); local in Loewe et al. 2019 (arXiv 1905.11786).
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.positive, "temperature")

    def contrasts(self, pairs: Direction) -> Contrasts:
        return pairs.differences

    def _groups(self, pairs: Direction) -> tuple[Array, int]:
        """(groups with negatives, margins) membership matrix and the number of positive pairs."""
        _, group = np.unique(pairs.positive_of, return_inverse=True)
        member = (group == np.arange(group.max() + 1)[:, None]).astype(np.float64)
        return member, len(pairs.sign) - pairs.num_negatives

    def value(self, m: Array, pairs: Direction) -> float:
        member, count = self._groups(pairs)
        logits = np.where(member > 0, -m / self.temperature, -np.inf)
        return float(np.sum(np.logaddexp(0.0, np.logaddexp.reduce(logits, axis=1)))) / count

    def _probabilities(self, m: Array, pairs: Direction) -> tuple[Array, Array, int]:
        """Probability of each negative within its group, which also holds the positive."""
        member, count = self._groups(pairs)
        logits = np.where(member > 0, -m / self.temperature, -np.inf)
        norm = np.logaddexp(0.0, np.logaddexp.reduce(logits, axis=1))
        return np.exp(-m / self.temperature - norm @ member), member, count

    def gradient(self, m: Array, pairs: Direction) -> Array:
        p, _, count = self._probabilities(m, pairs)
        return -p / (self.temperature * count)

    def curvature(self, m: Array, pairs: Direction) -> Array:
        p, member, count = self._probabilities(m, pairs)
        same_group = member.T @ member
        return (np.diag(p) - same_group * np.outer(p, p)) / (self.temperature**2 * count)
