"""Optimal projections of many small problems that have activities and pairs in common.

Layers, rules and penalties ask for the same matrices, so a `SharedSolver` keeps them: the Gram
matrices of the activities, the kernels Q and the latest solutions. A problem whose kernel is that
of an earlier one, as in all layers of an orthogonal network, starts from its solution.

Newton's method takes two phases, as in `projection.newton`:

* `_approach` works on gamma alone, with margins m = Q gamma. The rounding errors of Q limit its
  answer to about eps times the condition number.
* `_polish` computes the margins from B = Phi^T gamma, in the coordinates of the activities, until
  the residual is that of `optimal_projection`.

Both keep a factorised Newton matrix for as long as each step shrinks the gradient tenfold (chord
steps): the last digits need no factorisation of their own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.linalg import lapack

from linlocal.inputs import Array
from linlocal.losses import PairLoss
from linlocal.losses.shape import shape_of, summand_of
from linlocal.pairs import Direction
from linlocal.projection.optimal import optimal_projection
from linlocal.projection.problem import TOLERANCE, Projection, Rows, ScoreProblem
from linlocal.threads import LARGEST

SAME = 64 * np.finfo(float).eps  # kernels that differ by less are equal up to rounding
REMEMBERED = 16  # the number of solutions that are kept
LONGEST = 60  # the most steps of the first phase
CHORD = 0.1  # a factorisation serves again while the gradient shrinks by this factor
FLAT = 1e-6  # the relative gradient below which the energy no longer resolves progress
BOTTOM = 1e-12  # the relative gradient at which the first phase ends


class SharedSolver:
    """`optimal_projection`, with what its problems have in common computed once.

    The projections are those of `optimal_projection` up to rounding, and reach the same residual.
    Small problems with a smooth score are solved here, all others by `optimal_projection`.
    """

    def __init__(self) -> None:
        # By the ids of objects, which are kept too, so no others get these ids.
        self._kernels: dict[tuple[int, ...], tuple[Array, object]] = {}
        self._grams: dict[int, tuple[Rows, Array]] = {}
        self._smooth: dict[tuple[int, int], tuple[bool, object]] = {}
        self._solutions: deque[_Solution] = deque(maxlen=REMEMBERED)

    def __call__(
        self, z: Rows, c: Rows | Array, pairs: Direction, loss: PairLoss, penalty: float
    ) -> Projection:
        """As `optimal_projection`.

        Raises:
            ValueError, ConvergenceError: as `optimal_projection`.
        """
        c = c if isinstance(c, Rows) else Rows(c)
        if self._suits(z, c, pairs, loss):
            problem = ScoreProblem(z, c, pairs, loss, penalty)
            solution = _solve(problem, self._kernel(problem), self._solutions)
            if solution is not None:
                self._solutions.appendleft(solution)
                return solution.projection
        return optimal_projection(z, c, pairs, loss, penalty)

    def _suits(self, z: Rows, c: Rows, pairs: Direction, loss: PairLoss) -> bool:
        """Whether the dual is small, no larger than the primal problem, smooth and diagonal."""
        margins = loss.contrasts(pairs).num_margins
        if margins > min(LARGEST, min(z.given.shape) * min(c.given.shape)):
            return False
        key = (id(loss), id(pairs))
        if key not in self._smooth:
            curvature = loss.curvature(np.zeros(margins), pairs)
            diagonal = isinstance(curvature, np.ndarray) and curvature.ndim == 1
            smooth = shape_of(summand_of(loss)) is None and diagonal
            self._smooth[key] = smooth, (loss, pairs)
        return self._smooth[key][0]

    def _kernel(self, problem: ScoreProblem) -> Array:
        z, c, pairs, contrasts = problem.z, problem.c, problem.pairs, problem.contrasts
        parts = (z, c, pairs, contrasts)
        key = tuple(map(id, parts))
        if key not in self._kernels:
            self._kernels[key] = problem.kernel_of(self._gram(z), self._gram(c)), parts
        return self._kernels[key][0]

    def _gram(self, rows: Rows) -> Array:
        if id(rows) not in self._grams:
            self._grams[id(rows)] = rows, rows.rows @ rows.rows.T
        return self._grams[id(rows)][1]


@dataclass(frozen=True, eq=False)
class SharedProjection(Projection):
    """A projection with its kernel at hand, or a twin: the solution of an equal problem."""

    twin: Projection | None = field(kw_only=True)
    kernel: Array = field(kw_only=True)

    @cached_property
    def condition_number(self) -> float:
        """As of every `Projection`, known from the twin if there is one."""
        if self.twin is not None:
            return self.twin.condition_number
        return self._condition_number(self.kernel)


class _Steps:
    """Newton or chord steps of gamma: (lam I + H Q) step = -(lam gamma + grad phi)."""

    def __init__(self, problem: ScoreProblem, kernel: Array) -> None:
        self.problem, self.kernel = problem, kernel
        self.root: Array
        self.factor: Array | None = None
        self.scale = 1.0  # of the Newton matrix, by the one that was factorised

    def factorise(self, m: Array) -> bool:
        """Take H at the margins ``m``; False if that gives no positive definite matrix."""
        problem = self.problem
        self.root = np.sqrt(problem.loss.curvature(m, problem.pairs))
        if not self.root.all():
            return False
        newton = self.root[:, None] * self.kernel
        newton *= self.root
        newton.reshape(-1)[:: len(newton) + 1] += problem.penalty
        self.factor, failed = lapack.dpotrf(newton.T, lower=1, overwrite_a=True, clean=False)
        self.scale = 1.0
        return not failed

    def step(self, equation: Array) -> Array:
        """The step, where ``equation`` is lam gamma + grad phi."""
        # (lam I + H Q)^-1 = H^(1/2) (lam I + H^(1/2) Q H^(1/2))^-1 H^(-1/2)
        inner, _ = lapack.dpotrs(self.factor, equation / self.root, lower=1)
        return np.asarray(self.root * inner / -self.scale)


@dataclass(frozen=True, eq=False)
class _Solution:
    """A solved problem, as a starting point of others."""

    problem: ScoreProblem
    kernel: Array
    gamma: Array
    steps: _Steps
    projection: SharedProjection

    def scale_of(self, problem: ScoreProblem, kernel: Array) -> float | None:
        """s where ``problem`` is this one up to rounding with Q and lam times s; None if it is not.

        s is a power of two: `Rows` divides the activities by one.
        """
        mine = self.problem
        scale = float(np.ldexp(1.0, 2 * (mine.exponent - problem.exponent)))
        if (
            mine.pairs is not problem.pairs
            or mine.penalty * scale != problem.penalty
            or mine.loss != problem.loss
        ):
            return None
        if self.kernel is kernel:
            return scale
        # Most others differ in the first entry already.
        allowed = SAME * float(np.max(kernel.diagonal()))
        if abs(scale * self.kernel[0, 0] - kernel[0, 0]) > allowed:
            return None
        return scale if np.max(np.abs(scale * self.kernel - kernel)) <= allowed else None


def _solve(problem: ScoreProblem, kernel: Array, known: deque[_Solution]) -> _Solution | None:
    """The solution; None if it did not converge."""
    steps = _Steps(problem, kernel)
    for other in known:
        scale = other.scale_of(problem, kernel)
        if scale is not None:
            steps.root, steps.factor = other.steps.root, other.steps.factor
            steps.scale = other.steps.scale * scale
            return _polish(problem, steps, other.gamma / scale, 0, other.projection)
    return _polish(problem, steps, *_approach(problem, steps), None)


def _approach(problem: ScoreProblem, steps: _Steps) -> tuple[Array, int]:
    """Damped Newton and chord steps with margins Q gamma, until rounding stops them.

    Returns:
        gamma and the number of steps.
    """
    loss, pairs, penalty, kernel = problem.loss, problem.pairs, problem.penalty, steps.kernel
    gamma, m = np.zeros(len(kernel)), np.zeros(len(kernel))
    energy, last, taken = loss.value(m, pairs), np.inf, 0
    while taken < LONGEST:
        by_margin = loss.gradient(m, pairs)
        equation = penalty * gamma + by_margin
        size, scale = float(np.linalg.norm(equation)), float(np.linalg.norm(by_margin))
        if size <= BOTTOM * scale or 0.5 * last < size < FLAT * scale:
            break
        if (steps.factor is None or size > CHORD * last) and not steps.factorise(m):
            break
        step = steps.step(equation)
        m_step = kernel @ step
        length, last, taken = 1.0, size, taken + 1
        if size < FLAT * scale:
            gamma, m = gamma + step, m + m_step
            continue
        descent = float(equation @ m_step)
        while True:
            trial, m_trial = gamma + length * step, m + length * m_step
            then = loss.value(m_trial, pairs) + 0.5 * penalty * float(trial @ m_trial)
            if then <= energy + 1e-4 * length * descent or length < 1e-6:
                break
            length *= 0.5
        gamma, m, energy = trial, m_trial, then
    return gamma, taken


def _polish(
    problem: ScoreProblem, steps: _Steps, gamma: Array, taken: int, twin: Projection | None
) -> _Solution | None:
    """Chord steps with margins computed from B; None if `TOLERANCE` is out of reach.

    B = Phi^T gamma is formed once and then moved by the steps. Formed anew, it would carry another
    rounding error each time, which Phi^T H Phi / lam magnifies.
    """
    loss, pairs, penalty = problem.loss, problem.pairs, problem.penalty
    b, last = problem.combine(gamma), np.inf
    while True:
        m = problem.margins(b)
        by_margin = loss.gradient(m, pairs)
        slopes = -problem.contrasts.adjoint(by_margin)
        equation = penalty * gamma + by_margin
        # The norm of Phi^T equation, the gradient but for the rounding error of B.
        size = float(np.sqrt(max(float(equation @ (steps.kernel @ equation)), 0.0)))
        if size <= 1e-2 * TOLERANCE * float(np.abs(slopes) @ problem.pair_norms) or (
            size > 0.5 * last
        ):
            break
        if (steps.factor is None or size > CHORD * last) and not steps.factorise(m):
            return None
        change = steps.step(equation)
        b, gamma, last, taken = b + problem.combine(change), gamma + change, size, taken + 1
    residual = problem.residual(b, by_margin, problem.stationarity(b, by_margin))
    if not residual <= TOLERANCE:
        return None
    curvature = loss.curvature(m, pairs)
    solved = SharedProjection(
        slopes, m, residual, taken, "dual", problem, b, curvature, twin=twin, kernel=steps.kernel
    )
    return _Solution(problem, steps.kernel, gamma, steps, solved)
