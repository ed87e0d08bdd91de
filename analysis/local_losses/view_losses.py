"""Losses of two aligned views in torch: the formulas and options of `linlocal.losses`.

A loss is called with two views (samples, features), row k of both made from the same datum, and
returns a scalar that is differentiable in both. Half precision is raised to float32, also inside
autocast: covariances and log-sums of a batch overflow in 16 bits.

A sum over features x features is taken over samples x samples instead where that is smaller:
||A^T B||_F^2 = sum (A A^T * B B^T), and log det(I + A^T A) = log det(I + A A^T).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor


class ViewLoss(ABC):
    """A loss of two aligned views; a loss of your own defines `between`."""

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss of two views.

        Args:
            first: (samples, features) first view.
            second: (samples, features) second view, row by row of the same data.

        Returns:
            A scalar in float32 or wider.

        Raises:
            ValueError: the views are no matrices of one shape, or hold fewer than 2 samples.
        """
        if first.ndim != 2 or first.shape != second.shape:
            raise ValueError(
                "Both views must have the same shape (samples, features), got "
                f"{tuple(first.shape)} and {tuple(second.shape)}; pool or flatten feature maps, "
                "and drop the last odd batch of a loader."
            )
        if len(first) < 2:
            raise ValueError(
                f"{type(self).__name__} compares samples: it needs at least 2 of them, got "
                f"{len(first)}; use a larger batch, and drop_last=True in the loader."
            )
        wide = torch.promote_types(first.dtype, torch.float32)
        with torch.autocast(first.device.type, enabled=False):
            return self.between(first.to(wide), second.to(wide))

    @abstractmethod
    def between(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss of two checked views, (samples, features) each."""


@dataclass(frozen=True)
class NTXent(ViewLoss):
    """SimCLR's loss: InfoNCE over cosine similarities of all 2n activities, both views anchors.

    Chen et al. 2020 (arXiv 2002.05709), eq. 1. A function of inner products only.
    """

    temperature: float = 0.5

    def __post_init__(self) -> None:
        _positive(self.temperature, "temperature")

    def between(self, first: Tensor, second: Tensor) -> Tensor:
        stacked = torch.cat([first, second])
        squared = stacked.square().sum(1, keepdim=True)
        # A dead sample has no direction and so no gradient; both `where` are needed for that.
        inverse = torch.where(squared > 0, torch.where(squared > 0, squared, 1.0).rsqrt(), 0.0)
        unit = stacked * inverse
        logits = (unit @ unit.T / self.temperature).fill_diagonal_(-math.inf)
        partner = torch.arange(len(stacked), device=stacked.device).roll(len(first))
        return torch.nn.functional.cross_entropy(logits, partner)


@dataclass(frozen=True)
class SpectralContrastive(ViewLoss):
    """-2 mean z.z_view + mean over different samples of (z.z_view)^2.

    HaoChen et al. 2021 (arXiv 2106.04156), eq. 6. A function of inner products only.
    """

    def between(self, first: Tensor, second: Tensor) -> Tensor:
        n = len(first)
        k = first @ second.T
        different = k - torch.diag(k.diagonal())
        return -2.0 * k.trace() / n + different.square().sum() / (n * (n - 1))


@dataclass(frozen=True)
class Whitening(ViewLoss):
    """mean ||z - z_view||^2 + weight (||cov(z) - I||_F^2 + ||cov(z_view) - I||_F^2).

    cov(z) = z^T z / samples (not centred). Invariant to rotations although written per unit.
    """

    weight: float = 1.0

    def between(self, first: Tensor, second: Tensor) -> Tensor:
        return _distance(first, second) + self.weight * (self._spread(first) + self._spread(second))

    @staticmethod
    def _spread(z: Tensor) -> Tensor:
        # The D - r eigenvalues of cov beyond the smaller side r are 0, each 1 away from I.
        gram = _smaller_gram(z) / len(z)
        missing = z.shape[1] - len(gram)
        return (gram - _identity(gram)).square().sum() + missing


@dataclass(frozen=True)
class LogDet(ViewLoss):
    """mean ||z - z_view||^2 - weight sum over views of log det(I + z^T z / (samples epsilon)).

    A rate-distortion term as in Yu et al. 2020 (arXiv 2006.08558), eq. 1. Invariant to rotations.
    """

    weight: float = 0.1
    epsilon: float = 0.5

    def __post_init__(self) -> None:
        _positive(self.epsilon, "epsilon")

    def between(self, first: Tensor, second: Tensor) -> Tensor:
        return _distance(first, second) - self.weight * (self._rate(first) + self._rate(second))

    def _rate(self, z: Tensor) -> Tensor:
        gram = _smaller_gram(z) / (len(z) * self.epsilon)
        return torch.linalg.slogdet(_identity(gram) + gram).logabsdet


@dataclass(frozen=True)
class VICReg(ViewLoss):
    """invariance mean-square(z - z_view) + variance hinge(std per unit) + covariance off-diagonal.

    Bardes et al. 2022 (arXiv 2105.04906), eqs. 1-6. Its terms are per unit: not invariant.
    """

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    target_std: float = 1.0
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        _positive(self.epsilon, "epsilon")

    def between(self, first: Tensor, second: Tensor) -> Tensor:
        pull = (first - second).square().mean()
        return self.invariance * pull + self._spread(first) + self._spread(second)

    def _spread(self, z: Tensor) -> Tensor:
        centred, variance = _moments(z)
        below = (self.target_std - (variance + self.epsilon).sqrt()).relu().mean()
        off = _off_diagonal(centred, centred) / (len(z) - 1) ** 2
        return self.variance * below + self.covariance * off / z.shape[1]


@dataclass(frozen=True)
class BarlowTwins(ViewLoss):
    """sum_i (1 - C_ii)^2 + weight sum_{i != j} C_ij^2, C the cross-correlation of both views.

    Zbontar et al. 2021 (arXiv 2103.03230), eqs. 1-2. Standardised per unit: not invariant.
    """

    weight: float = 5e-3
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        _positive(self.epsilon, "epsilon")

    def between(self, first: Tensor, second: Tensor) -> Tensor:
        a, b = self._standardised(first), self._standardised(second)
        off = _off_diagonal(a, b) / len(a) ** 2
        return (1.0 - (a * b).mean(0)).square().sum() + self.weight * off

    def _standardised(self, z: Tensor) -> Tensor:
        centred = z - z.mean(0)
        return centred * (centred.square().mean(0) + self.epsilon).rsqrt()


@dataclass(frozen=True)
class LPL(ViewLoss):
    """Latent predictive learning: prediction - Hebbian variance + decorrelation, in each view.

    mean-square(z - stop(z_view)) - mean log var + decorrelation sum of squared off-diagonal
    covariance per unit; Halvagal and Zenke 2023 (Nat. Neurosci. 26, 1906), eqs. 1-4. Each view
    predicts the other, detached. Terms are per unit: not invariant.
    """

    predictive: float = 1.0
    hebbian: float = 1.0
    decorrelation: float = 10.0
    epsilon: float = 1e-4

    def __post_init__(self) -> None:
        _positive(self.epsilon, "epsilon")

    def between(self, first: Tensor, second: Tensor) -> Tensor:
        forward = (first - second.detach()).square().mean()
        backward = (first.detach() - second).square().mean()
        pull = 0.5 * (forward + backward)
        return self.predictive * pull + self._spread(first) + self._spread(second)

    def _spread(self, z: Tensor) -> Tensor:
        width = z.shape[1]
        centred, variance = _moments(z)
        off = _off_diagonal(centred, centred) / (len(z) - 1) ** 2
        log_variance = (variance + self.epsilon).log().mean()
        return self.decorrelation * off / (width * max(1, width - 1)) - self.hebbian * log_variance


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean over samples of ||z - z_view||^2."""
    return (first - second).square().sum(1).mean()


def _moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Centred activities and their unbiased variance per unit."""
    centred = z - z.mean(0)
    return centred, centred.square().sum(0) / (len(z) - 1)


def _off_diagonal(a: Tensor, b: Tensor) -> Tensor:
    """sum_{i != j} (a^T b)_ij^2."""
    if len(a) >= a.shape[1]:
        k = a.T @ b
        return (k - torch.diag(k.diagonal())).square().sum()
    return ((a @ a.T) * (b @ b.T)).sum() - (a * b).sum(0).square().sum()


def _smaller_gram(z: Tensor) -> Tensor:
    """z^T z or z z^T, whichever is smaller: they have the same eigenvalues but for zeros."""
    return z.T @ z if len(z) >= z.shape[1] else z @ z.T


def _identity(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=like.dtype, device=like.device)


def _positive(value: float, name: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}.")
