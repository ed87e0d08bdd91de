"""The penalised score problem whose minimiser is the optimal projection B, and its solution.

For anchors z and contexts c the problem is

    min_B  phi(T u) + lam/2 ||B||_F^2,      u[p] = z[a_p]^T B c[r_p].

With Phi the matrix of features (T applied to the outer products z c^T), the margins are m = Phi b,
b = vec(B), and stationarity is lam b = -Phi^T grad phi(m). Hence b = Phi^T gamma (representer
theorem) with

    lam gamma = -grad phi(m),    m = Q gamma,    Q = Phi Phi^T = T [(Z Z^T) * (C C^T)] T^T :

a problem with as many unknowns as there are margins. (The symbols are those of the package
docstring.)

Three precautions make the answer accurate. Margins are computed from B and not as Q gamma, whose
terms cancel, because that would square the condition number. Activities wider than the batch are
first rotated into the span of the batch (QR). The rotation leaves all scores as they are and makes
B as small as the batch. And activities are first divided by powers of two s and t, which bring
their largest entries to one: z = s z', c = t c', B = B' / (s t) is the same problem with
lam' = lam / (s t)^2, without rounding, and no size of an input makes a test for zero pass or fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg

from linlocal.inputs import Array
from linlocal.losses import PairLoss
from linlocal.pairs import Direction

TOLERANCE = 1e-13  # the relative residual that a solution must reach
MAX_ITERATIONS = 200
_SMALLEST_PENALTY = 1e-100  # on activities of size one
_LARGEST_EXPONENT = 200  # 2^200 is 1e60; its fourth power, which scales lam, is still a float64


class ConvergenceError(RuntimeError):
    """The optimal projection was not found to the required residual."""


class Rows:
    """Activities over 2^exponent, in a basis of their span if they have more columns than rows.

    Args:
        rows: (samples, width) activities, finite.
    """

    def __init__(self, rows: Array) -> None:
        self.basis: Array | None = None
        largest = int(np.frexp(np.max(np.abs(rows)))[1])
        self.exponent = max(-_LARGEST_EXPONENT, min(largest, _LARGEST_EXPONENT))
        self.rows = rows = np.ldexp(rows, -self.exponent)
        if rows.shape[1] > rows.shape[0]:
            self.basis, triangle = scipy.linalg.qr(rows.T, mode="economic", check_finite=False)
            self.rows = triangle.T
        self.norms = np.linalg.norm(rows, axis=1)

    def unrotate(self, rows: Array) -> Array:
        """``rows`` in the original coordinates."""
        return rows if self.basis is None else rows @ self.basis.T


class ScoreProblem:
    """min_B phi(T u) + lam/2 ||B||_F^2, in the coordinates and the scale of its `Rows`.

    What it takes and gives as B is B 2^exponent, and its ``penalty`` is lam / 4^exponent.

    Args:
        z: the activities of the anchors.
        c: the contexts of the references.
        pairs: who is scored against whom.
        loss: gives phi and T.
        penalty: lam > 0.
    """

    def __init__(self, z: Rows, c: Rows, pairs: Direction, loss: PairLoss, penalty: float) -> None:
        self.z, self.c, self.pairs, self.loss = z, c, pairs, loss
        self.exponent = z.exponent + c.exponent
        with np.errstate(over="ignore", under="ignore"):
            self.penalty = float(np.ldexp(penalty, -2 * self.exponent))
        if not _SMALLEST_PENALTY <= self.penalty < np.inf:
            raise ConvergenceError(
                f"For activities of size {2.0**z.exponent:.0e} and contexts of size "
                f"{2.0**c.exponent:.0e}, a penalty of {penalty:.1e} is beyond what float64 "
                "resolves: scale the input nearer to one, or the penalty like the fourth power of "
                "the input."
            )
        self.contrasts = loss.contrasts(pairs)
        self.pair_norms = z.norms[pairs.anchor_index] * c.norms[pairs.reference_index]

    @property
    def b_shape(self) -> tuple[int, int]:
        """The shape (width, context width) of B in the rotated coordinates."""
        return self.z.rows.shape[1], self.c.rows.shape[1]

    @property
    def num_entries(self) -> int:
        """The number of entries of B, which is that of the unknowns of the primal problem."""
        return int(self.b_shape[0] * self.b_shape[1])

    def margins(self, b: Array) -> Array:
        """m = T u = Phi vec(B), (margins,)."""
        left = (self.z.rows @ b)[self.pairs.anchor_index]
        u = np.einsum("pj,pj->p", left, self.c.rows[self.pairs.reference_index])
        return self.contrasts.apply(u)

    def combine(self, gamma: Array) -> Array:
        """B = Phi^T gamma: the sum of the features, each weighted by its margin's entry of gamma.

        Args:
            gamma: (margins,) weights, dual variables or derivatives by the margins.
        """
        coefficients = self.pairs.coefficient_matrix(self.contrasts.adjoint(gamma))
        return self.z.rows.T @ (coefficients @ self.c.rows)

    def features(self) -> Array:
        """Phi, (margins, entries of B)."""
        z = self.z.rows[self.pairs.anchor_index]
        c = self.c.rows[self.pairs.reference_index]
        return self.contrasts.apply(np.einsum("pi,pj->pij", z, c).reshape(len(z), -1))

    def kernel(self) -> Array:
        """Q = T [(Z Z^T) * (C C^T)] T^T, (margins, margins), gathered from two Gram matrices."""
        a, r = self.pairs.anchor_index, self.pairs.reference_index
        # Taking along one axis after the other is several times faster than a table of indices.
        kernel = (self.z.rows @ self.z.rows.T).take(a, axis=0).take(a, axis=1)
        kernel *= (self.c.rows @ self.c.rows.T).take(r, axis=0).take(r, axis=1)

        return self.contrasts.conjugate(kernel)

    def energy(self, b: Array, m: Array) -> float:
        """phi(m) + lam/2 ||B||_F^2, the function that B minimises."""
        return self.loss.value(m, self.pairs) + 0.5 * self.penalty * float(np.sum(b**2))

    def stationarity(self, b: Array, by_margin: Array) -> Array:
        """The gradient of the energy by B, lam B + Phi^T grad phi.

        Args:
            b: B in the rotated coordinates.
            by_margin: (margins,) grad phi.
        """
        return self.penalty * b + self.combine(by_margin)

    def residual(self, b: Array, by_margin: Array, gradient: Array) -> float:
        """The norm of ``gradient`` over the sum of the norms of the terms that add up to it."""
        pushes = np.abs(self.contrasts.adjoint(by_margin))
        terms = self.penalty * float(np.linalg.norm(b)) + float(pushes @ self.pair_norms)
        return float(np.linalg.norm(gradient)) / terms if terms > 0 else 0.0

    def solution(
        self, b: Array, m: Array, by_margin: Array, curvature: Array, iterations: int, method: str
    ) -> Projection:
        residual = self.residual(b, by_margin, self.stationarity(b, by_margin))
        slopes = -self.contrasts.adjoint(by_margin)
        return Projection(slopes, m, residual, iterations, method, self, b, curvature)


@dataclass(frozen=True, eq=False)
class Projection:
    """The minimiser B, with the numbers that certify it.

    Attributes:
        matrix: B, (width, context width).
        projected: B c for every reference, (references, width).
        slopes: (pairs,) beta = lam alpha = -d phi / d u, the push on each score. At a kink it is
            the element of the subdifferential that makes B stationary.
        margins: (margins,) m = T u at the optimum.
        residual: the relative residual of stationarity,
            ||lam B - sum_p beta_p z c^T|| / (lam ||B|| + sum_p |beta_p| ||z|| ||c||).
        condition_number: the condition number of the Newton matrix lam I + H^(1/2) Q H^(1/2).
        cancellation: how far the terms of B exceed their sum. Rounding changes an update by at
            most about the machine epsilon times the larger of ``condition_number`` and
            ``cancellation``.
        iterations: the number of Newton steps.
        method: the solver: "closed form", "dual", "primal" or "active set".
    """

    slopes: Array
    margins: Array
    residual: float
    iterations: int
    method: str
    _problem: ScoreProblem
    _b: Array
    _curvature: Array

    @cached_property
    def matrix(self) -> Array:
        """B, (width, context width)."""
        b = self._problem.z.unrotate(self._problem.c.unrotate(self._b).T).T
        return np.ldexp(b, -self._problem.exponent)

    @cached_property
    def projected(self) -> Array:
        """B c for every reference, (references, width)."""
        sent = self._problem.z.unrotate(self._problem.c.rows @ self._b.T)
        return np.ldexp(sent, -self._problem.z.exponent)

    @property
    def relative_gradient(self) -> float:
        """||d energy / d B|| / ||lam B||, which is stricter than `residual` where terms cancel."""
        penalty = self._problem.penalty * self._b
        push = self._problem.z.rows.T @ self.coefficients @ self._problem.c.rows
        size = float(np.linalg.norm(penalty))
        return float(np.linalg.norm(penalty - push)) / size if size > 0 else 0.0

    @cached_property
    def coefficients(self) -> Array:
        """sum_p beta_p e_a e_r^T, (anchors, references)."""
        return self._problem.pairs.coefficient_matrix(self.slopes)

    @cached_property
    def cancellation(self) -> float:
        """sum_p |beta_p| ||z|| ||c|| / ||lam B||: how far the terms of B exceed their sum."""
        terms = float(np.abs(self.slopes) @ self._problem.pair_norms)
        size = self._problem.penalty * float(np.linalg.norm(self._b))
        return terms / size if size > 0 else 1.0

    @cached_property
    def condition_number(self) -> float:
        """Condition number of the Newton matrix lam I + H^(1/2) Q H^(1/2).

        The H of the hinge is infinite at its kink; there the condition number is that of Q among
        the margins at the kink.
        """
        q, penalty = self._problem.kernel(), self._problem.penalty
        if np.isinf(self._curvature).any():
            free = np.flatnonzero(self._curvature)
            spectrum = scipy.linalg.eigvalsh(q[np.ix_(free, free)]) if free.size else np.ones(1)
            spectrum = spectrum[spectrum > spectrum[-1] * len(spectrum) * np.finfo(float).eps]
            return float(spectrum[-1] / spectrum[0]) if spectrum.size else 1.0
        if self._curvature.ndim == 1:
            half = np.diag(np.sqrt(self._curvature))
        else:
            values, vectors = scipy.linalg.eigh(self._curvature)
            half = vectors * np.sqrt(np.maximum(values, 0.0))
        spectrum = np.maximum(scipy.linalg.eigvalsh(half.T @ q @ half), 0.0)
        return float((penalty + spectrum[-1]) / (penalty + spectrum[0]))
