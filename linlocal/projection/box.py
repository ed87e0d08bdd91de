"""The score problem of a hinge, plain or smoothed: a quadratic problem over a box."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import scipy.linalg
import scipy.linalg.lapack
from numpy.typing import NDArray

from linlocal.inputs import Array
from linlocal.losses import TypeTwo
from linlocal.losses.shape import Bend
from linlocal.projection.problem import MAX_ITERATIONS, TOLERANCE, Projection, ScoreProblem


def solve(problem: ScoreProblem, shape: Bend) -> Projection:
    """The dual is a box problem: min 1/2 g^T (Q + width/U) g - margin sum g, 0 <= g <= U = w/lam.

    Here g is gamma, the dual variables by margin, and w the weights of the margins in the loss.
    An interior-point method tells which margins lie below the kink or parabola (g = U), above it
    (g = 0) and on it. Given these three sets, the g of the margins on it solve a linear system. A
    margin found on the wrong side changes its set.

    For the hinge proper (width 0) that system may be singular: several g then make the same B
    stationary. We take the limit of smoothed hinges, which has the smallest norm weighted by 1/U;
    the answer is then unique although the dual is not. For this limit the sets are found at a
    small width. An answer counts only if it satisfies the Karush-Kuhn-Tucker conditions at the
    width asked for.
    """
    # Whoever has a summand has weights.
    upper = cast(TypeTwo, problem.loss).weights(problem.pairs) / problem.penalty
    box = Box(problem, problem.kernel(), shape.margin, shape.width, upper)
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
class Box:
    """min 1/2 g^T (Q + width/U) g - margin sum g over 0 <= g <= U.

    Attributes:
        problem: the score problem whose dual this is.
        kernel: Q, (margins, margins).
        margin: the margin of the hinge.
        width: the width of its parabola, 0 for the hinge proper.
        upper: (margins,) U, the upper bounds of g.
    """

    problem: ScoreProblem
    kernel: Array
    margin: float
    width: float
    upper: Array

    def solve(
        self, above: NDArray[np.bool_], below: NDArray[np.bool_], iterations: int
    ) -> tuple[Projection, Array, NDArray[np.bool_]]:
        """Solve for g, given which margins are above (g = 0) and below (g = U) the kink.

        (Q_ff + width/U) g_f = margin - Q_fb U_b, refined with the margins that are computed from
        B itself.

        Returns:
            The projection; +1 or -1 where g left the box upwards or downwards, else 0; and whether
            each margin is on the wrong side of the kink for its set.
        """
        problem, upper = self.problem, self.upper
        gamma = np.where(below, upper, 0.0)
        free = np.flatnonzero(~below & ~above)
        b = problem.combine(gamma)
        if free.size:
            # Weighted by U, so the norm that is smallest is weighted too.
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
        # The violations are relative to the box and to the rounding error of a margin.
        over = np.maximum(gamma / upper - 1.0, -gamma / upper)
        slack = self.margin - m - self.width * gamma / upper
        beyond = np.where(below, -slack, np.where(above, slack, np.abs(slack)))
        size = abs(self.margin) + float(np.max(problem.pair_norms) * np.linalg.norm(b))
        beyond /= size if size > 0 else 1.0
        violation = max(float(np.max(over)), float(np.max(beyond)), 0.0)
        outside = np.where(over > 0, np.where(gamma > 0, 1.0, -1.0), 0.0)
        outside[~(over > TOLERANCE)] = 0.0
        found = replace(found, residual=max(found.residual, violation))
        return found, outside, beyond > TOLERANCE

    def interior_point(self, softness: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_], int]:
        """Mehrotra's method at a width that is larger by ``softness`` times the largest Q U.

        Returns:
            Whether g = 0 and whether g = U for each margin (where the multiplier exceeds the
            distance to the bound), and the number of steps.
        """
        matrix = self.kernel.copy()
        # A pair without activity scores 0, whatever B is.
        silent = matrix.diagonal() <= 1e-14 * np.max(matrix.diagonal())
        width = self.width + softness * np.max(matrix.diagonal() * self.upper)
        np.fill_diagonal(matrix, matrix.diagonal() + width / self.upper)
        above, below = silent & (self.margin <= 0), silent & (self.margin > 0)
        active = np.flatnonzero(~silent)
        matrix, upper = matrix[np.ix_(active, active)], self.upper[active]
        n = len(active)
        if n == 0:
            return above, below, 0
        # In these units x = 1 solves the problem of a single margin, if the box allows it.
        target = max(abs(self.margin), np.finfo(float).eps)
        unit = np.minimum(upper, target / matrix.diagonal())
        matrix = unit[:, None] * matrix * unit / target
        pull = np.sign(self.margin) * unit
        # The distance to the upper bound is a variable of its own, because the difference
        # upper - x loses its digits where it is small.
        x, low, high = np.full(n, 0.5), unit, unit
        rest = upper / unit - x
        gap = np.inf
        steps = 0
        while steps < MAX_ITERATIONS:
            last, gap = gap, float((low / unit) @ x + (high / unit) @ rest) / (2 * n)
            force = pull - matrix @ x
            # Only the sets are needed: stop once they are plain, or rounding stops the progress.
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
