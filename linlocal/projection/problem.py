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
from scipy.linalg import lapack
from scipy.sparse import csr_array

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.losses import Curvature, PairLoss, explicit
from linlocal.pairs import Direction
from linlocal.projection.factors import extreme_eigenvalues

TOLERANCE = 1e-13  # the relative residual that a solution must reach
MAX_ITERATIONS = 200
_SMALLEST_PENALTY = 1e-100  # on activities of size one
_LARGEST_EXPONENT = 200  # 2^200 is 1e60; its fourth power, which scales lam, is still a float64
MOST_MARGINS = 2048  # of a problem whose eigenvalues are all computed
MOST_COUPLED = 512  # the same where the curvature is not diagonal
MOST_ENTRIES = 512  # of a B whose Newton matrix is formed for its largest eigenvalue


class ConvergenceError(RuntimeError):
    """The optimal projection was not found to the required residual."""


class Rows:
    """Activities over 2^exponent, in a basis of their span if they have more columns than rows.

    Args:
        rows: (samples, width) activities, finite.
    """

    def __init__(self, rows: Array) -> None:
        largest = int(np.frexp(np.max(np.abs(rows)))[1])
        self.exponent = max(-_LARGEST_EXPONENT, min(largest, _LARGEST_EXPONENT))
        # As exact as ldexp, and ten times as fast.
        self.given = rows = rows * 2.0**-self.exponent
        self.norms = np.linalg.norm(rows, axis=1)
        self._wide = rows.shape[1] > rows.shape[0]

    @cached_property
    def _factored(self) -> tuple[tuple[Array, Array], Array]:
        """The QR factorisation of the transposed rows: reflectors with factors, and R."""
        raw, triangle = scipy.linalg.qr(self.given.T, mode="raw", check_finite=False)
        return raw, triangle[: len(self.given)]

    @cached_property
    def basis(self) -> Array | None:
        """The orthonormal basis, (width, samples); None where the coordinates are those given."""
        if not self._wide:
            return None
        # 64 columns of workspace are room for LAPACK's blocked form.
        return np.asarray(lapack.dorgqr(*self._factored[0], lwork=64 * len(self.given))[0])

    @cached_property
    def rows(self) -> Array:
        """The activities in the basis, (samples, samples); those given without a basis."""
        if not self._wide:
            return self.given
        return self._factored[1].T

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

    @cached_property
    def pair_norms(self) -> Array:
        """(pairs,) ||z|| ||c||, the Frobenius norm of each feature."""
        return self.pairs.scores(self.z.norms[:, None], self.c.norms[:, None])

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
        return self.contrasts.apply(self.pairs.scores(self.z.rows @ b, self.c.rows))

    def combine(self, gamma: Array) -> Array:
        """B = Phi^T gamma: the sum of the features, each weighted by its margin's entry of gamma.

        Args:
            gamma: (margins,) weights, dual variables or derivatives by the margins.
        """
        coefficients = self.pairs.coefficient_matrix(self.contrasts.adjoint(gamma))
        return np.asarray(self.z.rows.T @ (coefficients @ self.c.rows))

    def features(self) -> Array:
        """Phi, (margins, entries of B)."""
        entries = self.num_entries * self.pairs.num_pairs
        inputs.room(2 * entries, f"the features of {self.pairs.num_pairs} pairs")
        z = self.z.rows[self.pairs.anchor_index]
        c = self.c.rows[self.pairs.reference_index]
        return self.contrasts.apply(np.einsum("pi,pj->pij", z, c).reshape(len(z), -1))

    def kernel(self) -> Array:
        """Q = T [(Z Z^T) * (C C^T)] T^T, (margins, margins), gathered from two Gram matrices."""
        z, c = self.z.rows, self.c.rows
        return self.kernel_of(z @ z.T, c @ c.T)

    def kernel_of(self, gram_z: Array, gram_c: Array) -> Array:
        """Q, given the Gram matrices Z Z^T and C C^T."""
        inputs.room(
            2 * self.pairs.num_pairs**2,
            f"The kernel of {self.pairs.num_pairs} pairs, which a hinge and the dual method need "
            '(a smooth score like softplus with method="iterative" does not),',
        )
        a, r = self.pairs.anchor_index, self.pairs.reference_index
        # Taking along one axis after the other is several times faster than a table of indices.
        kernel = gram_z.take(a, axis=0).take(a, axis=1)
        kernel *= gram_c.take(r, axis=0).take(r, axis=1)
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
        self,
        b: Array,
        m: Array,
        by_margin: Array,
        curvature: Array | Curvature,
        iterations: int,
        method: str,
    ) -> Projection:
        residual = self.residual(b, by_margin, self.stationarity(b, by_margin))
        slopes = -self.contrasts.adjoint(by_margin)
        return Projection(slopes, m, residual, iterations, method, self, b, curvature)


class NewtonMatrix:
    """lam + Phi^T H Phi, applied to matrices shaped like B.

    Args:
        problem: the score problem.
        curvature: H, at the margins of interest.

    Attributes:
        curvature: T^T H T, the Hessian by the scores.
    """

    def __init__(self, problem: ScoreProblem, curvature: Array | Curvature) -> None:
        self.problem = problem
        self.curvature = Curvature.of(curvature).by_score(problem.contrasts)

    def product(self, d: Array) -> Array:
        """The matrix times ``d``."""
        problem, pairs = self.problem, self.problem.pairs
        z, c = problem.z.rows, problem.c.rows
        pushed = pairs.coefficient_matrix(self.curvature.product(pairs.scores(z @ d, c)))
        return np.asarray(problem.penalty * d + z.T @ (pushed @ c))

    def dense(self) -> Array:
        """The whole matrix, (entries of B, entries of B)."""
        identity = np.eye(self.problem.num_entries).reshape(-1, *self.problem.b_shape)
        return np.array([self.product(d).ravel() for d in identity])

    def largest(self, steps: int = 50) -> float:
        """The largest eigenvalue, from below: Lanczos' method from a fixed random start."""
        q = np.random.default_rng(0).standard_normal(self.problem.b_shape)
        q, before = q / np.linalg.norm(q), np.zeros_like(q)
        on: list[float] = []
        off: list[float] = []
        largest = 0.0
        for _ in range(min(steps, q.size)):
            w = self.product(q) - (off[-1] if off else 0.0) * before
            on.append(float(np.sum(w * q)))
            w -= on[-1] * q
            estimate = float(scipy.linalg.eigvalsh_tridiagonal(on, off)[-1])
            off.append(float(np.linalg.norm(w)))
            if off[-1] <= 1e-12 * estimate or estimate - largest <= 1e-6 * estimate:
                return estimate
            q, before, largest = w / off[-1], q, estimate
        return largest


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
        method: the solver: "closed form", "dual", "primal", "iterative" or "active set".
        products: the products with a Newton matrix that "iterative" took, 0 for the others.
    """

    slopes: Array
    margins: Array
    residual: float
    iterations: int
    method: str
    _problem: ScoreProblem
    _b: Array
    _curvature: Array | Curvature
    products: int = 0

    __repr__ = inputs.brief

    @cached_property
    def matrix(self) -> Array:
        """B, (width, context width)."""
        b = self._problem.z.unrotate(self._problem.c.unrotate(self._b).T).T
        return np.asarray(b * 2.0**-self._problem.exponent)

    @property
    def norm(self) -> float:
        """||B||_F."""
        return float(np.ldexp(np.linalg.norm(self._b), -self._problem.exponent))

    @cached_property
    def projected(self) -> Array:
        """B c for every reference, (references, width)."""
        sent = self._problem.z.unrotate(self._problem.c.rows @ self._b.T)
        return np.asarray(sent * 2.0**-self._problem.z.exponent)

    def through_contexts(self, sent: Array) -> Array:
        """C C^T sent, (references, any), computed in the coordinates of the problem."""
        # C^T sent comes first: what cancels in it would cancel in (C C^T) sent with larger errors.
        c = self._problem.c
        return np.asarray(c.rows @ (c.rows.T @ sent) * 4.0**c.exponent)

    @property
    def relative_gradient(self) -> float:
        """||d energy / d B|| / ||lam B||, which is stricter than `residual` where terms cancel."""
        penalty = self._problem.penalty * self._b
        push = self._problem.z.rows.T @ self.coefficients @ self._problem.c.rows
        size = float(np.linalg.norm(penalty))
        return float(np.linalg.norm(penalty - push)) / size if size > 0 else 0.0

    @cached_property
    def coefficients(self) -> Array | csr_array:
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
        the margins at the kink. With more margins than entries of B the smallest eigenvalue is lam.
        Beyond 2,048 margins (512 where H is not diagonal) we take lam, too, which makes the number
        a bound if the entries are still more; and Lanczos' method finds the largest eigenvalue.
        """
        return self._condition_number()

    def _condition_number(self, kernel: Array | None = None) -> float:
        """The condition number, given the kernel Q where it is known."""
        problem, given = self._problem, self._curvature
        penalty, margins = problem.penalty, problem.contrasts.num_margins
        coupled = isinstance(given, Curvature)
        if not isinstance(given, Curvature) and not given.any():
            return 1.0
        if not isinstance(given, Curvature) and bool(np.isinf(given).any()):
            free = np.flatnonzero(given)
            q = problem.kernel() if kernel is None else kernel
            q = q[np.ix_(free, free)]
            spectrum = scipy.linalg.eigvalsh(q) if free.size else np.ones(1)
            spectrum = spectrum[spectrum > spectrum[-1] * len(spectrum) * np.finfo(float).eps]
            return float(spectrum[-1] / spectrum[0]) if spectrum.size else 1.0
        if problem.num_entries < min(margins, MOST_ENTRIES):
            return float(scipy.linalg.eigvalsh(NewtonMatrix(problem, given).dense())[-1]) / penalty
        if margins > (MOST_COUPLED if coupled else MOST_MARGINS):
            return NewtonMatrix(problem, given).largest() / penalty
        h, q = explicit(given), problem.kernel() if kernel is None else kernel
        if h.ndim == 1:
            root = np.sqrt(h)
            newton = root[:, None] * q
            newton *= root
        else:
            values, vectors = scipy.linalg.eigh(h)
            half = vectors * np.sqrt(np.maximum(values, 0.0))
            newton = half.T @ q @ half
        low, high = extreme_eigenvalues(newton)
        return (penalty + max(high, 0.0)) / (penalty + max(low, 0.0))
