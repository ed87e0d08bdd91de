"""Contrasts: the fixed matrix T that turns scores u of pairs into margins m = T u of a loss.

Applied by index, never built.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from linlocal.inputs import Array, Index


class Contrasts(ABC):
    """T, (margins, pairs)."""

    @property
    @abstractmethod
    def num_margins(self) -> int:
        """Rows of T."""

    @property
    def only_signs(self) -> bool:
        """Whether T is a diagonal of signs, so that T^T diag(h) T = diag(h)."""
        return False

    @abstractmethod
    def apply(self, u: Array) -> Array:
        """T u; u is (pairs,) or (pairs, anything)."""

    @abstractmethod
    def adjoint(self, g: Array) -> Array:
        """T^T g: derivatives by margins, (margins,), into derivatives by scores, (pairs,)."""

    def weigh(self, h: Array) -> Array:
        """About the diagonal of T^T diag(h) T, (pairs,); a guess from 16 random signs.

        Override it where T is known. It serves a preconditioner, so no result depends on it.
        """
        rng, root = np.random.default_rng(0), np.sqrt(np.maximum(h, 0.0))
        drawn = (self.adjoint(root * rng.choice([-1.0, 1.0], len(h))) ** 2 for _ in range(16))
        return np.asarray(sum(drawn) / 16.0)

    def conjugate(self, kernel: Array) -> Array:
        """T kernel T^T for a symmetric kernel, which may be overwritten."""
        return self.apply(np.ascontiguousarray(self.apply(kernel).T))


@dataclass(frozen=True, eq=False)
class Plain(Contrasts):
    """m = u: a margin for each pair."""

    num_pairs: int

    @property
    def num_margins(self) -> int:
        """As many as pairs."""
        return self.num_pairs

    @property
    def only_signs(self) -> bool:
        return True

    def apply(self, u: Array) -> Array:
        return u

    def adjoint(self, g: Array) -> Array:
        return g

    def weigh(self, h: Array) -> Array:
        return h

    def conjugate(self, kernel: Array) -> Array:
        return kernel


@dataclass(frozen=True, eq=False)
class Signed(Contrasts):
    """m[p] = sign[p] u[p]: a margin for each pair (type 2)."""

    sign: Array

    @property
    def num_margins(self) -> int:
        """As many as pairs."""
        return len(self.sign)

    @property
    def only_signs(self) -> bool:
        return True

    def apply(self, u: Array) -> Array:
        return self.sign.reshape(-1, *[1] * (u.ndim - 1)) * u

    def adjoint(self, g: Array) -> Array:
        return self.sign * g

    def weigh(self, h: Array) -> Array:
        return h

    def conjugate(self, kernel: Array) -> Array:
        kernel *= self.sign[:, None]
        kernel *= self.sign
        return kernel


@dataclass(frozen=True, eq=False)
class Differences(Contrasts):
    """m[j] = u[positive[j]] - u[negative[j]]: a margin for each negative pair (type 1)."""

    positive: Index
    negative: Index
    num_pairs: int

    @property
    def num_margins(self) -> int:
        """As many as negative pairs."""
        return len(self.negative)

    def apply(self, u: Array) -> Array:
        return u[self.positive] - u[self.negative]

    def adjoint(self, g: Array) -> Array:
        total = np.zeros(self.num_pairs)
        total[self.negative] = -g
        total += np.bincount(self.positive, g, minlength=self.num_pairs)
        return total

    def weigh(self, h: Array) -> Array:
        total = np.zeros(self.num_pairs)
        total[self.negative] = h
        total += np.bincount(self.positive, h, minlength=self.num_pairs)
        return total
