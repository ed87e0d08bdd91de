"""Newton's method for a smooth score problem, in the smaller set of unknowns.

Newton's step is the same whether B or its dual variables gamma are the unknowns; only the size of
the linear system differs. Two loops take such steps. Both start with the full step and halve it
until it lowers the energy enough (`_lowers`); they differ because of rounding:

* `DualSteps.approach` works on gamma alone and never forms B, so an iteration costs one system and
  one product with Q. Its margins Q gamma carry the rounding error of terms that cancel. It stops
  where this error begins to be felt (1e-7), and gives up without an error when no step helps.
* `_descend` goes on from there, in either set of unknowns. It computes the margins from B in each
  iteration, and so reaches `TOLERANCE`. There the energy no longer resolves progress, so a step
  may also be accepted by the norm of the gradient, and the best iterate is remembered.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg.lapack

from linlocal.inputs import Array
from linlocal.projection.problem import (
    MAX_ITERATIONS,
    TOLERANCE,
    ConvergenceError,
    Projection,
    ScoreProblem,
)


class DualSteps:
    """Newton steps of B = Phi^T gamma: (lam I + H Q) step = -(lam gamma + grad phi)."""

    def __init__(self, problem: ScoreProblem) -> None:
        self.problem, self.kernel = problem, problem.kernel()
        self.gamma = np.zeros(len(self.kernel))
        self.change: Array

    def dual_step(self, equation: Array, curvature: Array) -> Array:
        """The step of gamma.

        Args:
            equation: (margins,) lam gamma + grad phi, zero at the optimum.
            curvature: H, its diagonal (margins,) or the whole matrix.
        """
        penalty = self.problem.penalty
        if curvature.ndim == 2:
            newton = curvature @ self.kernel
            np.fill_diagonal(newton, newton.diagonal() + penalty)
            return np.asarray(-np.linalg.solve(newton, equation))
        # Where H is 0 the step is -equation / lam. Elsewhere lam I + H Q is made symmetric by the
        # root of H, so nothing is subtracted and then divided by a small lam.
        step = -equation / penalty
        bent = np.flatnonzero(curvature)
        if not bent.size:
            return step
        step[bent] = 0.0
        root = np.sqrt(curvature[bent])
        load = equation[bent] / root + root * (self.kernel[bent] @ step)
        newton = root[:, None] * self.kernel[np.ix_(bent, bent)]
        newton *= root
        np.fill_diagonal(newton, newton.diagonal() + penalty)
        step[bent] = -root * _solve_positive(newton, load)
        return step

    def approach(self) -> int:
        """Newton's method on gamma alone, until rounding errors in Q gamma begin to be felt.

        Returns:
            The number of steps taken.
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
                if _lowers(now, then, length, descent):
                    break
                length *= 0.5
                if length < 1e-6:
                    return iteration
            self.gamma, m, now = gamma, m_trial, then
        return iteration

    def step(self, b: Array, by_margin: Array, curvature: Array) -> Array:
        """The step of B; `accept` tells how much of it was taken."""
        equation = self.problem.penalty * self.gamma + by_margin
        self.change = self.dual_step(equation, curvature)
        return self.problem.combine(self.change)

    def accept(self, length: float) -> None:
        """Move gamma by ``length`` times the latest step."""
        self.gamma = self.gamma + length * self.change


class PrimalSteps:
    """Newton steps of b = vec(B): (lam I + Phi^T H Phi) step = -(lam b + Phi^T grad phi)."""

    def __init__(self, problem: ScoreProblem) -> None:
        self.problem, self.features = problem, problem.features()

    def step(self, b: Array, by_margin: Array, curvature: Array) -> Array:
        """The step of B."""
        gradient = self.problem.stationarity(b, by_margin)
        weighted = (
            curvature[:, None] * self.features if curvature.ndim == 1 else curvature @ self.features
        )
        newton = self.features.T @ weighted
        np.fill_diagonal(newton, newton.diagonal() + self.problem.penalty)
        return -_solve_positive(newton, gradient.ravel()).reshape(b.shape)

    def accept(self, length: float) -> None:
        """Do nothing: B is the only unknown, and the caller moves it."""


def _lowers(before: float, after: float, length: float, descent: float) -> bool:
    """Armijo's condition: the energy falls by at least 1e-4 of what its slope promises.

    Args:
        before: the energy at the start of the step.
        after: the energy at its end.
        length: the part of Newton's step that is tried.
        descent: the derivative of the energy along Newton's step, negative.
    """
    return after <= before + 1e-4 * length * descent


def _solve_positive(matrix: Array, vector: Array) -> Array:
    """matrix^-1 vector for a symmetric positive definite matrix, which is overwritten."""
    factor, failed = scipy.linalg.lapack.dpotrf(matrix.T, overwrite_a=True, clean=False)
    if failed:
        raise ConvergenceError(
            "The Newton matrix must be positive definite, but is not in float64: the penalty is "
            "too small for activities of this size. Raise the penalty, or scale the input down."
        )
    return np.asarray(scipy.linalg.lapack.dpotrs(factor, vector)[0])


def solve(problem: ScoreProblem, method: str) -> Projection:
    """Solve in the unknowns of ``method``: "dual", "primal", or "auto" for the fewer of the two."""
    if method == "auto":
        few = problem.num_entries < problem.contrasts.num_margins
        method = "primal" if few else "dual"
    if method == "primal":
        b = np.zeros(problem.b_shape)
        return _descend(problem, PrimalSteps(problem), b, 0, method)
    steps = DualSteps(problem)
    taken = steps.approach()
    return _descend(problem, steps, problem.combine(steps.gamma), taken, method)


def _descend(
    problem: ScoreProblem, steps: DualSteps | PrimalSteps, b: Array, taken: int, method: str
) -> Projection:
    """Damped Newton on B, after ``taken`` steps.

    Far from the optimum a step must lower the energy. Near the optimum the energy no longer
    resolves progress, so a step is accepted there if it shrinks the gradient; with the energy
    alone the search would stall eight digits early. Once the required residual is reached, one
    more step is taken and the better of the two iterates kept: the last digits cost little.
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
            if _lowers(energy, trial_energy, length, descent):
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
        # Computed anew and not by adding m_step, whose rounding errors would add up.
        m = problem.margins(b)
    b, m, iteration = best
    by_margin, curvature = loss.gradient(m, pairs), loss.curvature(m, pairs)
    slopes = -problem.contrasts.adjoint(by_margin)
    return Projection(slopes, m, best_residual, iteration, method, problem, b, curvature)
