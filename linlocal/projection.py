"""The optimal projection B of a convex pair loss: dual Newton, primal Newton, closed form, hinge.

For anchors z and contexts c the problem is

    min_B  phi(T u) + lam/2 ||B||_F^2,      u[p] = z[a_p]^T B c[r_p].

With Phi the matrix of features (T applied to the outer products z c^T), the margins are m = Phi b,
b = vec(B), and stationarity is lam b = -Phi^T grad phi(m). Hence b = Phi^T gamma (representer
theorem) with

    lam gamma = -grad phi(m),    m = Q gamma,    Q = Phi Phi^T = T [(Z Z^T) * (C C^T)] T^T :

a problem in as many unknowns as there are margins. Newton's step is the same in either set of
unknowns, so it is solved for in the smaller one.

Two things make the answer accurate. Margins are read off B, not off Q gamma, whose terms cancel:
that would square the condition number. And activities wider than the batch are first rotated into
its span (QR), which leaves all scores as they are and makes B as small as the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal

import numpy as np
import scipy.linalg
import scipy.linalg.lapack
from numpy.typing import ArrayLike, NDArray

from linlocal import checks
from linlocal.checks import Array
from linlocal.losses import PairLoss, TypeOne, TypeTwo
from linlocal.pairs import Direction
from linlocal.scores import Hinge, Linear, SmoothedHinge

Method = Literal["auto", "dual", "primal"]

TOLERANCE = 1e-13
MAX_ITERATIONS = 200


class ConvergenceError(RuntimeError):
    """The optimal projection was not found to the demanded residual."""


@dataclass(frozen=True, eq=False)
class Projection:
    """The minimiser B and what certifies it.

    Attributes:
        matrix: B, (width, context width).
        projected: B c for every reference, (references, width).
        slopes: (pairs,) beta = -d phi / d u = lam alpha, the push on each score; at a kink the
            element of the subdifferential that makes B stationary.
        margins: (margins,) m = T u at the optimum.
        residual: relative stationarity residual, the norm of a sum over the sum of the norms of
            its terms, ||lam B - sum_p beta_p z c^T|| / (lam ||B|| + sum_p |beta_p| ||z|| ||c||).
        condition_number: of the Newton matrix lam I + H^(1/2) Q H^(1/2). Rounding changes an
            update by at most about this many times the machine epsilon.
        iterations: Newton steps.
        method: "closed form", "dual", "primal" or "active set".
    """

    slopes: Array
    margins: Array
    residual: float
    iterations: int
    method: str
    _problem: _Problem
    _b: Array
    _curvature: Array

    @cached_property
    def matrix(self) -> Array:
        """B, (width, context width)."""
        return self._problem.z.unrotate(self._problem.c.unrotate(self._b).T).T

    @cached_property
    def projected(self) -> Array:
        """B c for every reference, (references, width)."""
        return self._problem.z.unrotate(self._problem.c.rows @ self._b.T)

    @property
    def relative_gradient(self) -> float:
        """||d energy / d B|| / ||lam B||: stricter than `residual` where terms cancel."""
        penalty = self._problem.penalty * self._b
        push = self._problem.z.rows.T @ self.coefficients @ self._problem.c.rows
        size = float(np.linalg.norm(penalty))
        return float(np.linalg.norm(penalty - push)) / size if size > 0 else 0.0

    @cached_property
    def coefficients(self) -> Array:
        """sum_p beta_p e_a e_r^T, (anchors, references)."""
        return self._problem.pairs.coefficient_matrix(self.slopes)

    @cached_property
    def condition_number(self) -> float:
        """Condition number of the Newton matrix lam I + H^(1/2) Q H^(1/2).

        For the hinge, whose H is infinite on the margin, that of Q among the pairs on it.
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


def optimal_projection(
    z: ArrayLike | Rows,
    c: ArrayLike | Rows,
    pairs: Direction,
    loss: PairLoss,
    penalty: float,
    method: Method = "auto",
) -> Projection:
    """argmin_B phi(T u) + penalty/2 ||B||_F^2 with u[p] = z[a_p]^T B c[r_p].

    Args:
        z: (anchors, width) activities of ``pairs.anchor_rows``, in that order. `Rows` that serve
            several problems need be prepared only once.
        c: (references, context width) contexts of ``pairs.reference_rows``, in that order.
        pairs: who is scored against whom.
        loss: `TypeTwo`, `TypeOne`, `InfoNCE` or a `PairLoss` of your own.
        penalty: lam > 0.
        method: "dual" (unknowns = margins), "primal" (unknowns = width x context width) or
            "auto", the smaller of both. A linear score is solved in closed form and a hinge by its
            dual active set, whatever the method.

    Returns:
        The unique minimiser with its dual variables, residual and condition number.

    Raises:
        ValueError: shapes that do not fit, non-finite input, no negatives, penalty <= 0.
        ConvergenceError: the residual stayed above 1e-13.
    """
    anchors = z if isinstance(z, Rows) else Rows(checks.matrix(z, "z", "(anchors, width)"))
    contexts = c if isinstance(c, Rows) else Rows(checks.matrix(c, "c", "(references, width)"))
    for given, used, name in (
        (anchors, pairs.anchor_rows, "z"),
        (contexts, pairs.reference_rows, "c"),
    ):
        if len(given.rows) != len(used):
            raise ValueError(
                f"{name} has {len(given.rows)} rows, but the pairs use {len(used)} different "
                "samples."
            )
    if not (np.isfinite(penalty) and penalty > 0):
        raise ValueError(
            f"The penalty must be positive and finite, got {penalty}: without it the optimal "
            "projection need not exist."
        )
    if pairs.num_negatives == 0:
        raise ValueError(
            'The pairs have no negatives; build them with negatives="next" or negatives="random".'
        )
    if method not in ("auto", "dual", "primal"):
        raise ValueError(f'method must be "auto", "dual" or "primal", got {method!r}.')

    problem = _Problem(anchors, contexts, pairs, loss, penalty)
    score = getattr(loss, "score", None)
    if isinstance(score, Linear):
        solution = _closed_form(problem)
    elif isinstance(score, Hinge | SmoothedHinge):
        solution = _hinge(problem, score)
    else:
        solution = _newton(problem, method)
    if not solution.residual <= TOLERANCE:
        raise ConvergenceError(
            f"The optimal projection stopped at a residual of {solution.residual:.1e} after "
            f"{solution.iterations} Newton steps (demanded: {TOLERANCE:.0e}). The problem is too "
            "badly conditioned for float64: raise the penalty, or scale the input down."
        )
    return solution


# -- the problem -------------------------------------------------------------------------------


class Rows:
    """Activities, expressed in an orthonormal basis of their span where they are wider than many.

    Args:
        rows: (rows, width), finite.
    """

    def __init__(self, rows: Array) -> None:
        self.basis: Array | None = None
        self.rows = rows
        if rows.shape[1] > rows.shape[0]:
            self.basis, triangle = scipy.linalg.qr(rows.T, mode="economic", check_finite=False)
            self.rows = triangle.T
        self.norms = np.linalg.norm(rows, axis=1)

    def unrotate(self, rows: Array) -> Array:
        """Back to the original coordinates."""
        return rows if self.basis is None else rows @ self.basis.T


class _Problem:
    def __init__(self, z: Rows, c: Rows, pairs: Direction, loss: PairLoss, penalty: float) -> None:
        self.z, self.c, self.pairs, self.loss, self.penalty = z, c, pairs, loss, penalty
        self.contrasts = loss.contrasts(pairs)
        self.pair_norms = z.norms[pairs.anchor_index] * c.norms[pairs.reference_index]

    @property
    def b_shape(self) -> tuple[int, int]:
        """(width, context width) of B in the rotated coordinates."""
        return self.z.rows.shape[1], self.c.rows.shape[1]

    @property
    def num_entries(self) -> int:
        return int(self.b_shape[0] * self.b_shape[1])

    def margins(self, b: Array) -> Array:
        """T u: Phi applied to B."""
        left = (self.z.rows @ b)[self.pairs.anchor_index]
        u = np.einsum("pj,pj->p", left, self.c.rows[self.pairs.reference_index])
        return self.contrasts.apply(u)

    def combine(self, dual: Array) -> Array:
        """sum over margins of dual times feature: Phi^T applied to dual variables."""
        coefficients = self.pairs.coefficient_matrix(self.contrasts.adjoint(dual))
        return self.z.rows.T @ (coefficients @ self.c.rows)

    def features(self) -> Array:
        """Phi, (margins, entries of B)."""
        z = self.z.rows[self.pairs.anchor_index]
        c = self.c.rows[self.pairs.reference_index]
        return self.contrasts.apply(np.einsum("pi,pj->pij", z, c).reshape(len(z), -1))

    def kernel(self) -> Array:
        """Q = T [(Z Z^T) * (C C^T)] T^T, (margins, margins), gathered from two Gram matrices."""
        a, r = self.pairs.anchor_index, self.pairs.reference_index
        # take along one axis after the other is several times faster than a table of indices.
        kernel = (self.z.rows @ self.z.rows.T).take(a, axis=0).take(a, axis=1)
        kernel *= (self.c.rows @ self.c.rows.T).take(r, axis=0).take(r, axis=1)
        return self.contrasts.conjugate(kernel)

    def energy(self, b: Array, m: Array) -> float:
        return self.loss.value(m, self.pairs) + 0.5 * self.penalty * float(np.sum(b**2))

    def stationarity(self, b: Array, by_margin: Array) -> Array:
        """lam B + Phi^T grad phi: the gradient of the energy by B."""
        return self.penalty * b + self.combine(by_margin)

    def residual(self, b: Array, by_margin: Array, gradient: Array) -> float:
        """||gradient|| over the sum of the norms of the terms that it is the sum of."""
        pushes = np.abs(self.contrasts.adjoint(by_margin))
        terms = self.penalty * float(np.linalg.norm(b)) + float(pushes @ self.pair_norms)
        return float(np.linalg.norm(gradient)) / terms if terms > 0 else 0.0

    def solution(
        self, b: Array, m: Array, by_margin: Array, curvature: Array, iterations: int, method: str
    ) -> Projection:
        residual = self.residual(b, by_margin, self.stationarity(b, by_margin))
        slopes = -self.contrasts.adjoint(by_margin)
        return Projection(slopes, m, residual, iterations, method, self, b, curvature)


def _closed_form(problem: _Problem) -> Projection:
    """Linear f: the gradient of phi is constant, so B is known without solving."""
    nothing = np.zeros(problem.contrasts.num_margins)
    by_margin = problem.loss.gradient(nothing, problem.pairs)
    b = -problem.combine(by_margin) / problem.penalty
    return problem.solution(b, problem.margins(b), by_margin, nothing, 0, "closed form")


# -- Newton ------------------------------------------------------------------------------------


class _DualSteps:
    """Steps for B = Phi^T gamma: (lam I + H Q) step = -(lam gamma + grad phi)."""

    def __init__(self, problem: _Problem) -> None:
        self.problem, self.kernel = problem, problem.kernel()
        self.gamma = np.zeros(len(self.kernel))
        self.change = self.gamma

    def dual_step(self, equation: Array, curvature: Array) -> Array:
        penalty = self.problem.penalty
        if curvature.ndim == 2:
            newton = curvature @ self.kernel
            np.fill_diagonal(newton, newton.diagonal() + penalty)
            return np.asarray(-np.linalg.solve(newton, equation))
        # (lam I + H Q)^-1 = (I - H^(1/2) (lam I + H^(1/2) Q H^(1/2))^-1 H^(1/2) Q) / lam
        root = np.sqrt(curvature)
        newton = root[:, None] * self.kernel
        newton *= root
        np.fill_diagonal(newton, newton.diagonal() + penalty)
        inner = _solve_positive(newton, root * (self.kernel @ equation))
        return (root * inner - equation) / penalty

    def approach(self) -> int:
        """Newton on gamma alone, down to where rounding in Q gamma begins to be felt.

        Returns:
            The number of steps.
        """
        loss, pairs, penalty = self.problem.loss, self.problem.pairs, self.problem.penalty
        m = np.zeros_like(self.gamma)

        def energy(gamma: Array, m: Array) -> float:
            return loss.value(m, pairs) + 0.5 * penalty * float(gamma @ m)

        now = energy(self.gamma, m)
        for iteration in range(MAX_ITERATIONS):
            by_margin = loss.gradient(m, pairs)
            equation = penalty * self.gamma + by_margin
            if np.linalg.norm(equation) <= 1e-7 * np.linalg.norm(by_margin):
                break
            step = self.dual_step(equation, loss.curvature(m, pairs))
            m_step = self.kernel @ step
            descent, length = float(equation @ m_step), 1.0
            while True:
                gamma, m_trial = self.gamma + length * step, m + length * m_step
                then = energy(gamma, m_trial)
                if then <= now + 1e-4 * length * descent:
                    break
                length *= 0.5
                if length < 1e-6:
                    return iteration
            self.gamma, m, now = gamma, m_trial, then
        return iteration

    def step(self, b: Array, by_margin: Array, curvature: Array) -> Array:
        equation = self.problem.penalty * self.gamma + by_margin
        self.change = self.dual_step(equation, curvature)
        return self.problem.combine(self.change)

    def accept(self, length: float) -> None:
        self.gamma = self.gamma + length * self.change


class _PrimalSteps:
    """Steps for b = vec(B): (lam I + Phi^T H Phi) step = -(lam b + Phi^T grad phi)."""

    def __init__(self, problem: _Problem) -> None:
        self.problem, self.features = problem, problem.features()

    def step(self, b: Array, by_margin: Array, curvature: Array) -> Array:
        gradient = self.problem.stationarity(b, by_margin)
        weighted = (
            curvature[:, None] * self.features if curvature.ndim == 1 else curvature @ self.features
        )
        newton = self.features.T @ weighted
        np.fill_diagonal(newton, newton.diagonal() + self.problem.penalty)
        return -_solve_positive(newton, gradient.ravel()).reshape(b.shape)

    def accept(self, length: float) -> None:
        pass


def _solve_positive(matrix: Array, vector: Array) -> Array:
    """matrix^-1 vector for a symmetric positive definite matrix, which is overwritten."""
    factor, failed = scipy.linalg.lapack.dpotrf(matrix.T, overwrite_a=True, clean=False)
    if failed:
        raise ConvergenceError(
            "The Newton matrix is not positive definite in float64: raise the penalty, or scale "
            "the input down."
        )
    return np.asarray(scipy.linalg.lapack.dpotrs(factor, vector)[0])


def _newton(problem: _Problem, method: Method) -> Projection:
    if method == "auto":
        few = problem.num_entries < problem.contrasts.num_margins
        method = "primal" if few else "dual"
    if method == "primal":
        b = np.zeros(problem.b_shape)
        return _descend(problem, _PrimalSteps(problem), b, 0, method)
    steps = _DualSteps(problem)
    taken = steps.approach()
    return _descend(problem, steps, problem.combine(steps.gamma), taken, method)


def _descend(
    problem: _Problem, steps: _DualSteps | _PrimalSteps, b: Array, taken: int, method: str
) -> Projection:
    """Damped Newton on B, after ``taken`` steps.

    Far from the optimum a step must lower the energy (Armijo). Near it the energy no longer
    resolves progress, so a step is then judged by the norm of the gradient; judged by the energy
    alone the search stalls eight digits early. One step is taken beyond the demanded residual, and
    the better of the two kept: the last digits are free.
    """
    loss, pairs = problem.loss, problem.pairs
    m = problem.margins(b)
    energy = problem.energy(b, m)
    best, best_residual = (b, m, taken), np.inf
    for iteration in range(taken, MAX_ITERATIONS + 1):
        by_margin = loss.gradient(m, pairs)
        gradient = problem.stationarity(b, by_margin)
        residual = problem.residual(b, by_margin, gradient)
        done = best_residual <= TOLERANCE or residual <= 1e-2 * TOLERANCE
        if residual < best_residual:
            best, best_residual = (b, m, iteration), residual
        if done or iteration == MAX_ITERATIONS:
            break
        step = steps.step(b, by_margin, loss.curvature(m, pairs))
        m_step = problem.margins(step)
        descent, length = float(np.sum(gradient * step)), 1.0
        while length >= 1e-12:
            trial, m_trial = b + length * step, m + length * m_step
            trial_energy = problem.energy(trial, m_trial)
            if trial_energy <= energy + 1e-4 * length * descent:
                break
            if abs(trial_energy - energy) <= 1e-10 * (1.0 + abs(energy)):
                trial_gradient = problem.stationarity(trial, loss.gradient(m_trial, pairs))
                allowed = (1.0 - 1e-4 * length) * np.linalg.norm(gradient)
                if np.linalg.norm(trial_gradient) <= allowed:
                    break
            length *= 0.5
        else:
            break
        steps.accept(length)
        b, energy = trial, trial_energy
        # Afresh, not by the increment: rounding errors of the increments would add up.
        m = problem.margins(b)
    b, m, iteration = best
    by_margin, curvature = loss.gradient(m, pairs), loss.curvature(m, pairs)
    slopes = -problem.contrasts.adjoint(by_margin)
    return Projection(slopes, m, best_residual, iteration, method, problem, b, curvature)


# -- hinges ------------------------------------------------------------------------------------


def _hinge(problem: _Problem, score: Hinge | SmoothedHinge) -> Projection:
    """The dual is a box problem: min 1/2 g^T (Q + width/U) g - margin sum g, 0 <= g <= U = w/lam.

    An interior-point method tells which margins lie below the kink or parabola (g = U), above it
    (g = 0) and on it; given these sets, the slopes on it solve a linear system. A margin found on
    the wrong side changes its set. For the hinge proper (width 0) the system may be singular:
    several slopes then make the same B stationary. The one taken is the limit of smoothed hinges,
    of minimum norm weighted by 1/U, so that the answer is unique although the dual is not; the
    sets are therefore found at a small width. An answer counts only if it satisfies the
    Karush-Kuhn-Tucker conditions at the width asked for.
    """
    assert isinstance(problem.loss, TypeOne | TypeTwo)
    width = score.width if isinstance(score, SmoothedHinge) else 0.0
    upper = problem.loss.weights(problem.pairs) / problem.penalty
    box = _Box(problem, problem.kernel(), score.margin, width, upper)
    best, iterations = box.solve(np.ones(len(upper), bool), np.zeros(len(upper), bool), 0)[0], 0
    # The smallest of these widths is below the rounding of the kernel itself.
    for softness in (1e-9, 1e-7, 1e-11, 1e-13, 1e-5):
        above, below, steps = box.interior_point(softness)
        iterations += steps
        for _ in range(20):
            found, outside, wrong = box.solve(above, below, iterations)
            if found.residual < best.residual:
                best = found
            if best.residual <= TOLERANCE:
                return best
            freed = wrong & (above | below)
            above, below = (above & ~freed) | (outside < 0), (below & ~freed) | (outside > 0)
            if not (freed | (outside != 0)).any():
                break
    return replace(best, iterations=iterations)


@dataclass(frozen=True, eq=False)
class _Box:
    """min 1/2 g^T (Q + width/U) g - margin sum g over 0 <= g <= U."""

    problem: _Problem
    kernel: Array
    margin: float
    width: float
    upper: Array

    def solve(
        self, above: NDArray[np.bool_], below: NDArray[np.bool_], iterations: int
    ) -> tuple[Projection, Array, NDArray[np.bool_]]:
        """The slopes, given which margins are above (g = 0) and below (g = U) the kink.

        (Q_ff + width/U) g_f = margin - Q_fb U_b, refined with the margins of B itself, as
        everywhere.

        Returns:
            The projection; +1 or -1 where g left the box upwards or downwards; where a margin is
            on the wrong side of the kink for its set.
        """
        problem, upper = self.problem, self.upper
        gamma = np.where(below, upper, 0.0)
        free = np.flatnonzero(~below & ~above)
        b = problem.combine(gamma)
        if free.size:
            # Weighted by U, so that the minimum norm is too.
            root = np.sqrt(upper[free])
            system = root[:, None] * self.kernel[np.ix_(free, free)] * root
            np.fill_diagonal(system, system.diagonal() + self.width)
            values, vectors = scipy.linalg.eigh(system)
            kept = values > (0.0 if self.width else 1e-13 * max(values[-1], 0.0))
            inverse = (vectors[:, kept] / values[kept]) @ vectors[:, kept].T
            for _ in range(6):
                soft = self.width * gamma[free] / upper[free]
                gap = self.margin - problem.margins(b)[free] - soft
                change = np.zeros_like(gamma)
                change[free] = root * (inverse @ (root * gap))
                gamma = gamma + change
                b = b + problem.combine(change)
        m = problem.margins(b)
        curvature = np.zeros_like(gamma)
        curvature[free] = problem.penalty * upper[free] / self.width if self.width else np.inf
        found = problem.solution(
            b, m, -problem.penalty * gamma, curvature, iterations, "active set"
        )
        # Relative to the box, and to the rounding of a margin.
        over = np.maximum(gamma / upper - 1.0, -gamma / upper)
        slack = self.margin - m - self.width * gamma / upper
        beyond = np.where(below, -slack, np.where(above, slack, np.abs(slack)))
        beyond /= abs(self.margin) + np.max(problem.pair_norms) * max(1.0, np.linalg.norm(b))
        violation = max(float(np.max(over)), float(np.max(beyond)), 0.0)
        outside = np.where(over > 0, np.where(gamma > 0, 1.0, -1.0), 0.0)
        outside[~(over > TOLERANCE)] = 0.0
        found = replace(found, residual=max(found.residual, violation))
        return found, outside, beyond > TOLERANCE

    def interior_point(self, softness: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
        """Mehrotra's method at a width that is larger by ``softness`` times the largest Q U.

        Returns:
            Where g = 0 and where g = U (there the multiplier exceeds the distance), and the number
            of steps.
        """
        matrix = self.kernel.copy()
        # A pair without activity scores 0, whatever B.
        silent = matrix.diagonal() <= 1e-14 * np.max(matrix.diagonal())
        width = self.width + softness * np.max(matrix.diagonal() * self.upper)
        np.fill_diagonal(matrix, matrix.diagonal() + width / self.upper)
        above, below = silent & (self.margin <= 0), silent & (self.margin > 0)
        active = np.flatnonzero(~silent)
        matrix, upper = matrix[np.ix_(active, active)], self.upper[active]
        n = len(active)
        if n == 0:
            return above, below, 0
        # In units in which a lone margin is solved by x = 1, if the box allows.
        target = max(abs(self.margin), np.finfo(float).eps)
        unit = np.minimum(upper, target / matrix.diagonal())
        matrix = unit[:, None] * matrix * unit / target
        pull = np.sign(self.margin) * unit
        # The distance to the top is a variable of its own: top - x would cancel where it is small.
        x, low, high = np.full(n, 0.5), unit, unit
        rest = upper / unit - x
        gap = np.inf
        steps = 0
        while steps < MAX_ITERATIONS:
            last, gap = gap, float((low / unit) @ x + (high / unit) @ rest) / (2 * n)
            force = pull - matrix @ x
            # The sets are all that is needed: stop where they are plain, or rounding hinders.
            if gap <= 1e-16 or (gap <= 1e-8 and gap > 0.5 * last):
                break
            newton = matrix.copy()
            np.fill_diagonal(newton, newton.diagonal() + low / x + high / rest)
            factor, failed = scipy.linalg.lapack.dpotrf(newton.T, overwrite_a=True, clean=False)
            if failed:
                break
            direction = partial(_box_direction, factor, force, x, rest, low, high)
            dx, dlow, dhigh = direction(0.0, 0.0)
            length = _longest(x, dx, rest, -dx, low, dlow, high, dhigh)
            predicted = ((low + length * dlow) / unit) @ (x + length * dx)
            predicted += ((high + length * dhigh) / unit) @ (rest - length * dx)
            centre = unit * gap * (predicted / (2 * n * gap)) ** 3
            dx, dlow, dhigh = direction(centre - dx * dlow, centre + dx * dhigh)
            length = 0.995 * _longest(x, dx, rest, -dx, low, dlow, high, dhigh)
            x, rest = x + length * dx, rest - length * dx
            low, high = low + length * dlow, high + length * dhigh
            steps += 1
        above[active], below[active] = x < low / unit, rest < high / unit
        return above, below, steps


def _box_direction(
    factor: Array,
    force: Array,
    x: Array,
    rest: Array,
    low: Array,
    high: Array,
    aim_low: Array | float,
    aim_high: Array | float,
) -> tuple[Array, Array, Array]:
    """The step of x and of both multipliers towards low * x = aim_low, high * rest = aim_high."""
    load = force + aim_low / x - aim_high / rest
    dx = np.asarray(scipy.linalg.lapack.dpotrs(factor, load)[0])
    return dx, (aim_low - low * dx) / x - low, (aim_high + high * dx) / rest - high


def _longest(*pairs: Array) -> float:
    """The longest step, at most 1/0.995, that keeps every value + step * change positive."""
    longest = 1.0 / 0.995
    for value, change in zip(pairs[::2], pairs[1::2], strict=True):
        shrinks = change < 0
        if shrinks.any():
            longest = min(longest, float(np.min(-value[shrinks] / change[shrinks])))
    return longest
