"""Sliced normality: how far the samples are from a standard normal distribution, in all directions.

The cosines of all slices a.d of a vector d, a uniform on the unit sphere of R^D, have the mean

    E_a cos(t a.d) = Omega_D(t ||d||),   Omega_D(x) = Gamma(D/2) (2/x)^(D/2-1) J_(D/2-1)(x),

so a statistic of characteristic functions, averaged over all directions, is a function of norms and
distances of the samples: no rotation changes it (statement 13 of the theory).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import scipy.linalg
import scipy.special
from scipy.spatial.distance import pdist, squareform

from linlocal import inputs
from linlocal.inputs import Array


@dataclass(frozen=True)
class SlicedNormality:
    """mean ||z - z_view||^2 + weight (T(z) + T(z_view)), T the sliced statistic of normality.

    T(z) = samples E_a int |mean_k exp(i t a.z_k) - exp(-t^2/2)|^2 exp(-t^2/2) dt, the Epps-Pulley
    statistic of the slices a.z, averaged over directions a. The integral is the trapezoid rule on
    [-limit, limit]. Over all directions (``slices=None``) T is a function of norms and distances:

        T / samples = mean_jk K(||z_j - z_k||) - 2 mean_k M(||z_k||) + constant,

    K and M sums of Omega_D(t r) over the nodes t. This is SIGReg of Balestriero and LeCun 2025
    (LeJEPA, arXiv 2511.08544), whose released code draws some slices anew in each step: all slices
    are their mean. With its trade-off lambda, the loss of two views there is a multiple of this one
    at weight = 2 D lambda / (1 - lambda).

    Attributes:
        weight: the weight of the statistic.
        dimension: D. The slices are those of R^D, in which the activities fill the first units.
            None is the width of each layer; layers of unequal width have the same loss only for the
            same D.
        slices: how many random slices stand for all directions; None averages over all in closed
            form.
        nodes: nodes of the trapezoid rule on [0, limit], both ends included; the rest is symmetric.
            The released code has 17 up to 3, the listing in the article 9 up to 5.
        limit: the largest t.
        seed: seeds the slices, which are the same in each call (a training draws them anew with
            ``NetworkRule(rule=..., fresh_slices=True)`` of `linlocal.analysis.local_losses`).

    Raises:
        ValueError: fewer than 2 nodes, dimension or slices below 1, a limit that is not positive;
            in use, a dimension below the width of a layer.
    """

    weight: float = 1.0
    dimension: int | None = None
    slices: int | None = None
    nodes: int = 17
    limit: float = 3.0
    seed: int = 0

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.finite, "weight")
        inputs.keep(self, inputs.positive, "limit")
        inputs.keep(self, partial(inputs.whole, least=2), "nodes")
        inputs.keep(self, partial(inputs.whole, least=0), "seed")
        for name in ("dimension", "slices"):
            if getattr(self, name) is not None:
                inputs.keep(self, partial(inputs.whole, least=1), name)

    def value(self, z: Array, z_view: Array) -> float:
        pull = float(np.mean(np.sum((z - z_view) ** 2, axis=1)))
        return pull + self.weight * (self._statistic(z) + self._statistic(z_view))

    def gradients(self, z: Array, z_view: Array) -> tuple[Array, Array]:
        pull = 2.0 * (z - z_view) / len(z)
        by_first, by_second = self._slope(z), self._slope(z_view)
        return pull + self.weight * by_first, -pull + self.weight * by_second

    def directions(self, width: int) -> Array:
        """The random slices, as they act on the units of a layer.

        Args:
            width: the width of the layer.

        Returns:
            (slices, width).

        Raises:
            ValueError: all directions are averaged over, or as `space`.
            TypeError: as `space`.
        """
        space = self.space(width)
        if self.slices is None:
            raise ValueError("slices=None averages over all directions; there are none to list.")
        return unit_vectors(self.slices, space, self.seed)[:, :width]

    def space(self, width: int) -> int:
        """D, for a layer of this width.

        Raises:
            ValueError, TypeError: the dimension is below the width, or this is no width.
        """
        width = inputs.whole(width, "width", 1)
        if self.dimension is None:
            return width
        if self.dimension < width:
            raise ValueError(
                f"SlicedNormality with dimension={self.dimension} met a layer of width {width}, "
                "which has no place in so few dimensions; the dimension must be at least the "
                "largest width it is used on, or None for the width of each layer."
            )
        return self.dimension

    def _rule(self) -> tuple[Array, Array, Array]:
        """Nodes t > 0 (at t = 0 all is equal), their weights in the integral, and exp(-t^2/2)."""
        t, step = np.linspace(0.0, self.limit, self.nodes, retstep=True)
        normal = np.exp(-0.5 * t**2)
        weights = 2.0 * step * normal
        weights[-1] /= 2.0
        return t[1:], weights[1:], normal[1:]

    def _statistic(self, z: Array) -> float:
        n, (t, weights, normal) = len(z), self._rule()
        if self.slices is not None:
            sliced = z @ self.directions(z.shape[1]).T
            total = 0.0
            for t_i, weight, at in zip(t, weights, normal, strict=True):
                real, imaginary = np.cos(t_i * sliced), np.sin(t_i * sliced)
                apart = (real.mean(axis=0) - at) ** 2 + imaginary.mean(axis=0) ** 2
                total += weight * float(np.mean(apart))
            return n * total
        space = self.space(z.shape[1])
        between = weights @ sphere_mean(np.outer(t, pdist(z)), space)
        alone = (weights * normal) @ sphere_mean(np.outer(t, np.linalg.norm(z, axis=1)), space)
        of_pairs = (n * weights.sum() + 2.0 * between.sum()) / n**2
        return float(n * (of_pairs - 2.0 * np.mean(alone) + weights @ normal**2))

    def _slope(self, z: Array) -> Array:
        """The derivative of T by z."""
        # Omega_D'(x) = -(x/D) Omega_(D+2)(x), so the derivative of Omega_D(t ||d||) by d has no
        # pole at 0: it is -(t^2/D) Omega_(D+2)(t ||d||) d.
        n, (t, weights, normal) = len(z), self._rule()
        if self.slices is not None:
            directions = self.directions(z.shape[1])
            sliced = z @ directions.T
            by_sliced = np.zeros_like(sliced)
            for t_i, weight, at in zip(t, weights, normal, strict=True):
                real, imaginary = np.cos(t_i * sliced), np.sin(t_i * sliced)
                push = imaginary.mean(axis=0) * real - (real.mean(axis=0) - at) * imaginary
                by_sliced += weight * t_i * push
            return np.asarray(2.0 * by_sliced @ directions / len(directions))
        space = self.space(z.shape[1])
        outer = weights * t**2 / space
        between = outer @ sphere_mean(np.outer(t, pdist(z)), space + 2)
        alone = (outer * normal) @ sphere_mean(np.outer(t, np.linalg.norm(z, axis=1)), space + 2)
        pulled = squareform(between)
        away = pulled.sum(axis=1)[:, None] * z - pulled @ z
        return np.asarray(2.0 * alone[:, None] * z - 2.0 * away / n)


def sphere_mean(x: Array, dimension: int) -> Array:
    """Omega_D(x) = Gamma(D/2) (2/x)^(D/2-1) J_(D/2-1)(x), the mean of cos(x a_1) over the sphere.

    The unit is the first of a point a on the unit sphere of R^D. Its density is proportional to
    (1 - s^2)^((D-3)/2), and Gauss quadrature with that weight is exact to rounding: the Bessel
    function itself underflows for large D. Where its argument is beyond D, so that it oscillates,
    it is taken.

    Args:
        x: any shape, not negative.
        dimension: D >= 1.

    Returns:
        As x, to within 1e-14 of the largest value 1.

    Raises:
        ValueError, TypeError: the dimension is no whole number of at least 1.
    """
    dimension = inputs.whole(dimension, "dimension", 1)
    if dimension == 1:
        return np.cos(x)
    far = ~(x <= max(dimension, 512.0))  # so NaN stays NaN
    near = np.where(far, 0.0, x)
    total = np.zeros_like(near)
    # In steps of 8, so that the rules in the cache are few.
    largest = 8 * math.ceil(max(1.0, float(near.max(initial=0.0))) / 8)
    for node, weight in zip(*_gauss(dimension, largest), strict=True):
        total += weight * np.cos(node * near)
    if far.any():
        order = dimension / 2.0 - 1.0
        log_scale = scipy.special.gammaln(order + 1.0) - order * np.log(x[far] / 2.0)
        total[far] = np.exp(log_scale) * scipy.special.jv(order, x[far])
    return total


@lru_cache(maxsize=64)
def _gauss(dimension: int, largest: int) -> tuple[Array, Array]:
    """Positive nodes and weights that integrate cos(x s), x <= largest, to rounding.

    The error of n nodes is at most x^(2n) / (2n)! times beta_1 ... beta_n, the squared norm of the
    monic orthogonal polynomial, where beta_k are the coefficients of its recurrence. Nodes and
    weights are those of its matrix (Golub and Welsch 1969).
    """
    k = np.arange(1.0, 2.0 * largest + 64.0)
    beta = _recurrence(dimension, len(k))
    log_error = 2 * k * np.log(largest) - scipy.special.gammaln(2 * k + 1) + np.cumsum(np.log(beta))
    count = int(np.flatnonzero(log_error > np.log(1e-17))[-1]) + 2
    count += count % 2  # half of an even number of nodes is positive
    nodes, vectors = scipy.linalg.eigh_tridiagonal(np.zeros(count), np.sqrt(beta[: count - 1]))
    return nodes[count // 2 :], 2.0 * vectors[0, count // 2 :] ** 2


def _recurrence(dimension: int, count: int) -> Array:
    """beta_k = k (k + D - 3) / ((2k + D - 2)(2k + D - 4)) of Gegenbauer polynomials, beta_1 = 1/D.

    k = 1 apart: for D = 2 its quotient is 0/0.
    """
    k = np.arange(2.0, count + 1)
    later = k * (k + dimension - 3) / ((2 * k + dimension - 2) * (2 * k + dimension - 4))
    return np.concatenate([[1.0 / dimension], later])


@lru_cache(maxsize=4)
def unit_vectors(count: int, dimension: int, seed: int) -> Array:
    """Random points on the unit sphere, (count, dimension); more keep those of fewer.

    Args:
        count: how many.
        dimension: of the space.
        seed: seeds them.
    """
    inputs.room(count * dimension, f"{count} slices of {dimension} dimensions")
    drawn = np.random.default_rng(seed).standard_normal((count, dimension))
    return inputs.frozen(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
