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
from linlocal.losses.curvature import Curvature, Softmax
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

    def curvature(self, m: Array, pairs: Direction) -> Array | Curvature:
        """The Hessian of phi: its diagonal (margins,), the whole matrix, or a `Curvature`."""
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

    def value(self, m: Array, pairs: Direction) -> float:
        _, norm = self._negatives(m, pairs)
        return float(np.sum(norm)) / _num_positives(pairs)

    def _negatives(self, m: Array, pairs: Direction) -> tuple[Array, Array]:
        """The probability of each negative within its group, which also holds the positive.

        Returns:
            The probabilities (margins,), and log(1 + sum_j exp(-m_j / temperature)), (groups,).
        """
        groups = pairs.negative_groups
        logits = m / -self.temperature
        top = groups.largest(logits)
        logits -= groups.spread(top)
        p = np.exp(logits, out=logits)
        top_and_sum = top + np.log(groups.total(p))
        norm = np.logaddexp(0.0, top_and_sum)
        p *= groups.spread(np.exp(top - norm))
        return p, norm

    def gradient(self, m: Array, pairs: Direction) -> Array:
        p, _ = self._negatives(m, pairs)
        p *= -1.0 / (self.temperature * _num_positives(pairs))
        return p

    def curvature(self, m: Array, pairs: Direction) -> Array | Curvature:
        p, _ = self._negatives(m, pairs)
        weight = 1.0 / (self.temperature**2 * _num_positives(pairs))
        # T^T p is minus the probability of a negative pair, and one minus that of a positive one.
        q = self.contrasts(pairs).adjoint(p)
        np.subtract(pairs.positive_mask & (q > 0), q, out=q)
        by_score = Softmax(q, pairs.groups, weight * q)
        return Softmax(p, pairs.negative_groups, weight * p, by_score)


@dataclass(frozen=True)
class SupervisedInfoNCE:
    """InfoNCE with several positives: cross-entropy against the even distribution over them.

    mean over references r of log sum_{p in r} exp(u_p / temperature) - mean over the positive pairs
    p in r of u_p / temperature, where "p in r" are all pairs of the reference, positive or not.
    Khosla et al. 2020 (arXiv 2004.11362), eq. 2, of bilinear scores. With one positive pair for
    each reference it is `InfoNCE`. References without a positive pair are left out.
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.positive, "temperature")

    def contrasts(self, pairs: Direction) -> Contrasts:
        return pairs.plain

    def _judged(self, m: Array, pairs: Direction) -> tuple[Array, Array, Array, Array]:
        """Probabilities and targets by pair; log-sum-exp and the share in the mean by reference."""
        groups, positive = pairs.reference_groups, pairs.positive_mask.astype(np.float64)
        count = groups.total(positive)
        share = (count > 0) / np.sum(count > 0)
        target = positive / groups.spread(np.maximum(count, 1.0))
        logits = m / self.temperature
        top = groups.largest(logits)
        p = np.exp(logits - groups.spread(top))
        total = groups.total(p)
        p /= groups.spread(total)
        return p, target, top + np.log(total), share

    def value(self, m: Array, pairs: Direction) -> float:
        _, target, norm, share = self._judged(m, pairs)
        pulled = pairs.reference_groups.total(target * m) / self.temperature
        return float(share @ (norm - pulled))

    def gradient(self, m: Array, pairs: Direction) -> Array:
        p, target, _, share = self._judged(m, pairs)
        p -= target
        p *= pairs.reference_groups.spread(share / self.temperature)
        return p

    def curvature(self, m: Array, pairs: Direction) -> Array | Curvature:
        p, _, _, share = self._judged(m, pairs)
        groups = pairs.reference_groups
        return Softmax(p, groups, groups.spread(share / self.temperature**2) * p)


@dataclass(frozen=True)
class SpectralScores:
    """-2 mean over positive pairs u + mean over negative pairs u^2.

    The spectral contrastive loss of HaoChen et al. 2021 (arXiv 2106.04156), eq. 6, of bilinear
    scores u. The optimal projection solves one linear system. The loss of z.z_view is
    `SpectralContrastive`.
    """

    def contrasts(self, pairs: Direction) -> Contrasts:
        return pairs.plain

    def value(self, m: Array, pairs: Direction) -> float:
        return float(pairs.weights @ np.where(pairs.positive_mask, -2.0 * m, m**2))

    def gradient(self, m: Array, pairs: Direction) -> Array:
        return pairs.weights * np.where(pairs.positive_mask, -2.0, 2.0 * m)

    def curvature(self, m: Array, pairs: Direction) -> Array | Curvature:
        return pairs.weights * np.where(pairs.positive_mask, 0.0, 2.0)


def _num_positives(pairs: Direction) -> int:
    return pairs.num_pairs - pairs.num_negatives
