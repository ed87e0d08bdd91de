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
import scipy.linalg.lapack

from linlocal.inputs import Array
from linlocal.losses import Hinge, Linear, PairLoss, SmoothedHinge
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
        self._kernels: dict[tuple[int, ...], _Kernel] = {}
        self._grams: dict[int, tuple[Rows, Array]] = {}
        self._solutions: deque[_Solution] = deque(maxlen=REMEMBERED)

    def forget_rows(self) -> None:
        """Drop the Gram matrices and kernels, but not the latest solutions."""
        self._kernels.clear()
        self._grams.clear()

    def __call__(
        self, z: Rows, c: Rows | Array, pairs: Direction, loss: PairLoss, penalty: float
    ) -> Projection:
        """As `optimal_projection`.

        Raises:
            ValueError, ConvergenceError: as `optimal_projection`.
        """
        c = c if isinstance(c, Rows) else Rows(c)
        if _is_small(z, c, pairs, loss) and _is_smooth(loss, pairs):
            problem = SharedProblem(self._kernel(z, c, pairs, loss), pairs, loss, penalty)
            solution = _solve(problem, self._solutions)
            if solution is not None:
                self._solutions.appendleft(solution)
                return solution.projection
        return optimal_projection(z, c, pairs, loss, penalty)

    def _kernel(self, z: Rows, c: Rows, pairs: Direction, loss: PairLoss) -> _Kernel:
        contrasts = loss.contrasts(pairs)
        key = (id(z), id(c), id(pairs), id(contrasts))
        if key not in self._kernels:
            gram_z, gram_c = self._gram(z), self._gram(c)
            matrix = ScoreProblem(z, c, pairs, loss, 1.0).kernel_of(gram_z, gram_c)
            # The objects are kept with it, so that their numbers stay theirs.
            self._kernels[key] = _Kernel(z, c, matrix, (pairs, contrasts))
        return self._kernels[key]

    def _gram(self, rows: Rows) -> Array:
        if id(rows) not in self._grams:
            self._grams[id(rows)] = rows, rows.rows @ rows.rows.T
        return self._grams[id(rows)][1]


@dataclass(frozen=True, eq=False)
class _Kernel:
    """Q, and the activities that it comes from."""

    z: Rows
    c: Rows
    matrix: Array
    kept: tuple[object, ...]


class SharedProblem(ScoreProblem):
    """A score problem whose kernel is at hand."""

    def __init__(self, kernel: _Kernel, pairs: Direction, loss: PairLoss, penalty: float) -> None:
        super().__init__(kernel.z, kernel.c, pairs, loss, penalty)
        self.matrix = kernel.matrix

    def kernel(self) -> Array:
        """Q, not a copy."""
        return self.matrix


@dataclass(frozen=True, eq=False)
class SharedProjection(Projection):
    """A projection that may have a twin: the solution of a problem equal up to rounding."""

    twin: Projection | None = field(kw_only=True)

    @cached_property
    def condition_number(self) -> float:
        """As of every `Projection`, known from the twin if there is one."""
        return super().condition_number if self.twin is None else self.twin.condition_number


def _is_small(z: Rows, c: Rows, pairs: Direction, loss: PairLoss) -> bool:
    """Whether the dual problem is small, and no larger than the primal one."""
    entries = min(z.given.shape) * min(c.given.shape)
    return loss.contrasts(pairs).num_margins <= min(LARGEST, entries)


def _is_smooth(loss: PairLoss, pairs: Direction) -> bool:
    """Whether Newton's method applies, with a Newton matrix that has a square root in H."""
    if isinstance(getattr(loss, "score", None), Linear | Hinge | SmoothedHinge):
        return False
    nothing = np.zeros(loss.contrasts(pairs).num_margins)
    return loss.curvature(nothing, pairs).ndim == 1


class _Steps:
    """Newton or chord steps of gamma: (lam I + H Q) step = -(lam gamma + grad phi)."""

    def __init__(self, problem: SharedProblem) -> None:
        self.problem = problem
        self.root: Array
        self.factor: Array | None = None

    def factorise(self, m: Array) -> bool:
        """Take H at the margins ``m``; False if the Newton matrix is not positive definite."""
        problem = self.problem
        self.root = np.sqrt(problem.loss.curvature(m, problem.pairs))
        newton = self.root[:, None] * problem.matrix
        newton *= self.root
        newton.reshape(-1)[:: len(newton) + 1] += problem.penalty
        self.factor, failed = scipy.linalg.lapack.dpotrf(
            newton.T, lower=1, overwrite_a=True, clean=False
        )
        return not failed

    def step(self, equation: Array, sent: Array) -> Array:
        """The step.

        Args:
            equation: lam gamma + grad phi.
            sent: Q times it.
        """
        inner, _ = scipy.linalg.lapack.dpotrs(self.factor, self.root * sent, lower=1)
        return np.asarray((self.root * inner - equation) / self.problem.penalty)


@dataclass(frozen=True, eq=False)
class _Solution:
    """A solved problem, as a starting point of others."""

    problem: SharedProblem
    gamma: Array
    steps: _Steps
    projection: SharedProjection

    def is_twin(self, problem: SharedProblem) -> bool:
        """Whether ``problem`` is the same up to rounding."""
        mine = self.problem
        if (
            mine.pairs is not problem.pairs
            or mine.penalty != problem.penalty
            or mine.loss != problem.loss
        ):
            return False
        if mine.matrix is problem.matrix:
            return True
        scale = SAME * max(abs(mine.matrix[0, 0]), np.finfo(float).tiny)
        if abs(mine.matrix[0, 0] - problem.matrix[0, 0]) > scale:
            return False
        difference = float(np.max(np.abs(mine.matrix - problem.matrix)))
        return bool(difference <= SAME * np.max(mine.matrix.diagonal()))


def _solve(problem: SharedProblem, known: deque[_Solution]) -> _Solution | None:
    """The solution; None if it did not converge."""
    twin = next((s for s in known if s.is_twin(problem)), None)
    steps = _Steps(problem)
    if twin is not None:
        steps.root, steps.factor = twin.steps.root, twin.steps.factor
        gamma, taken = twin.gamma, 0
    else:
        gamma, taken = _approach(problem, steps)
    return _polish(problem, steps, gamma, taken, None if twin is None else twin.projection)


def _approach(problem: SharedProblem, steps: _Steps) -> tuple[Array, int]:
    """Damped Newton and chord steps with margins Q gamma, until rounding stops them.

    Returns:
        gamma and the number of steps.
    """
    loss, pairs, penalty, kernel = problem.loss, problem.pairs, problem.penalty, problem.matrix
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
        step = steps.step(equation, kernel @ equation)
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
    problem: SharedProblem, steps: _Steps, gamma: Array, taken: int, twin: Projection | None
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
        sent = problem.matrix @ equation
        # The norm of Phi^T equation, the gradient but for the rounding error of B.
        size = float(np.sqrt(max(float(equation @ sent), 0.0)))
        if size <= 1e-2 * TOLERANCE * float(np.abs(slopes) @ problem.pair_norms) or (
            size > 0.5 * last
        ):
            break
        if (steps.factor is None or size > CHORD * last) and not steps.factorise(m):
            return None
        change = steps.step(equation, sent)
        b, gamma, last, taken = b + problem.combine(change), gamma + change, size, taken + 1
    residual = problem.residual(b, by_margin, problem.stationarity(b, by_margin))
    if not residual <= TOLERANCE:
        return None
    curvature = loss.curvature(m, pairs)
    solved = SharedProjection(slopes, m, residual, taken, "dual", problem, b, curvature, twin=twin)
    return _Solution(problem, gamma, steps, solved)
