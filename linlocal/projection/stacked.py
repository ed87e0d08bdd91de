"""Optimal projections of many small problems of one shape, side by side.

The problems have the same pairs, loss and penalty on different activities, as the batches of a
network have. Whatever is linear in the number of margins is done for the whole stack at once. Only
factorisations and spectra go from one problem to the next.

Newton's method takes two phases, as in `projection.newton`:

* `_approach` works on gamma alone, with margins m = Q gamma. The rounding errors of Q limit its
  answer to about eps times the condition number.
* `_polish` computes the margins from B = Phi^T gamma, in the coordinates of the activities, until
  the residual is that of `optimal_projection`.

Both keep a factorised Newton matrix for as long as each step shrinks the gradient enough (chord
steps): a factorisation costs several steps. A problem starts from the solution of a similar one,
and if the two are equal up to rounding, as in all layers of an orthogonal network, it takes over
the factorisation and the condition number as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from linlocal.inputs import Array, Index
from linlocal.losses import PairLoss
from linlocal.losses.shape import shape_of, summand_of
from linlocal.pairs import Direction
from linlocal.projection.factors import extreme_eigenvalues, factorise, solve
from linlocal.projection.problem import TOLERANCE
from linlocal.projection.scratch import Scratch
from linlocal.threads import LARGEST

Mask = NDArray[np.bool_]

SAME = 64 * np.finfo(float).eps  # kernels that differ by less are equal up to rounding
GUESS = 4.0  # the margins at which grad phi is linearised first: those of pairs that fit well
LONGEST = 60  # the most steps of the first phase
CHORD = 0.25  # a factorisation serves again while the gradient shrinks by this factor
FLAT = 1e-6  # the relative gradient below which the energy no longer resolves progress
BOTTOM = 1e-7  # the relative gradient at which the first phase ends
_RANGE = 1e90  # penalties on activities of size one that are as large or as small are left out


@dataclass(frozen=True, eq=False)
class StackedRows:
    """Activities of a stack of problems, each over its own 2^exponent, in a basis of their span.

    Attributes:
        exponent: (problems,).
        norms: (problems, samples).
        rows: (problems, samples, coordinates).
        gram: (problems, samples, samples), their inner products.
    """

    exponent: Index
    norms: Array
    rows: Array
    gram: Array

    @classmethod
    def of(cls, z: Array, scratch: Scratch) -> StackedRows:
        """The activities z, (problems, samples, width)."""
        count, samples, width = z.shape
        exponent = np.frexp(np.maximum(z.max(axis=(1, 2)), -z.min(axis=(1, 2))))[1]
        scale = np.ldexp(1.0, -exponent)[:, None, None]
        rows = scratch.empty(count, samples, min(samples, width))
        gram = scratch.empty(count, samples, samples)
        if width <= samples:
            np.multiply(z, scale, out=rows)
            norms = _sizes(rows)
        else:
            with scratch.frame():
                scaled = np.multiply(z, scale, out=scratch.empty(count, samples, width))
                norms = _sizes(scaled)
                for into, each in zip(rows, scaled, strict=True):
                    into.T[:] = np.asarray(np.linalg.qr(each.T, "r"))
        np.matmul(rows, rows.swapaxes(1, 2), out=gram)
        return cls(exponent, norms, rows, gram)

    def take(self, samples: Index, scratch: Scratch) -> StackedRows:
        """Some of the samples, in the same coordinates."""
        count, few = len(self.rows), len(samples)
        rows = scratch.empty(count, few, self.rows.shape[2])
        gram = scratch.empty(count, few, few)
        for i, each in enumerate(self.gram):
            self.rows[i].take(samples, 0, out=rows[i], mode="clip")
            each.take(samples, 0).take(samples, 1, out=gram[i], mode="clip")
        return StackedRows(self.exponent, self.norms[:, samples], rows, gram)


@dataclass(frozen=True, eq=False)
class StackedProjections:
    """The minimisers B of a stack of problems; see `projection.Projection`.

    Attributes:
        found: (problems,) whether the residual is small enough. What follows means nothing else.
        slopes: (problems, pairs) beta.
        margins: (problems, pairs).
        norm: (problems,) ||B||_F.
        residual, condition_number, cancellation, iterations: (problems,), as in `Projection`.
    """

    found: Mask
    slopes: Array
    margins: Array
    norm: Array
    residual: Array
    condition_number: Array
    cancellation: Array
    iterations: Array
    _problem: _Problem
    _steps: _Steps


class StackedLoss:
    """A loss on many problems at once, which have the same pairs.

    Args:
        loss: phi.
        pairs: who is scored against whom.
    """

    def __init__(self, loss: PairLoss, pairs: Direction) -> None:
        self.pairs, self.loss = pairs, loss
        self._score, self._weights = summand_of(loss), cast(Any, loss).weights(pairs)

    @staticmethod
    def suits(loss: PairLoss, pairs: Direction) -> bool:
        """Whether the loss is a smooth sum of scores of few pairs, each for itself."""
        return (
            len(pairs.sign) <= LARGEST
            and loss.contrasts(pairs) is pairs.signed
            and summand_of(loss) is not None
            and shape_of(summand_of(loss)) is None
        )

    def margins(self, scores: Array) -> Array:
        """m, (problems, pairs), of scores of all anchors with all references."""
        pairs = self.pairs
        return np.asarray(scores[:, pairs.anchor_index, pairs.reference_index] * pairs.sign)

    def value(self, m: Array) -> Array:
        """phi(m), (problems,)."""
        return _each(self._score.value, m) @ self._weights

    def gradient(self, m: Array) -> Array:
        """d phi / d m, (problems, pairs)."""
        return _each(self._score.slope, m) * self._weights

    def curvature(self, m: Array) -> Array:
        """The diagonal of the Hessian of phi, (problems, pairs)."""
        return _each(self._score.curvature, m) * self._weights

    def coefficients(self, values: Array) -> Array:
        """sum_p values[p] e_anchor e_reference^T, (problems, anchors, references)."""
        shape = (len(values), len(self.pairs.anchor_rows), len(self.pairs.reference_rows))
        place = self.pairs.anchor_index * shape[2] + self.pairs.reference_index
        places = np.arange(shape[0])[:, None] * (shape[1] * shape[2]) + place
        total = np.bincount(places.ravel(), values.ravel(), shape[0] * shape[1] * shape[2])
        return np.asarray(total, np.float64).reshape(shape)

    def kernel(self, z: StackedRows, c: StackedRows, scratch: Scratch) -> Array:
        """Q of every problem, (problems, margins, margins)."""
        a, r, sign = self.pairs.anchor_index, self.pairs.reference_index, self.pairs.sign
        q = scratch.empty(len(z.rows), len(sign), len(sign))
        signs = np.outer(sign, sign)
        for into, gram_z, gram_c in zip(q, z.gram, c.gram, strict=True):
            np.multiply(gram_z.take(a, 0).take(a, 1), gram_c.take(r, 0).take(r, 1), out=into)
            into *= signs
        return q

    def solve(
        self,
        z: StackedRows,
        c: StackedRows,
        penalty: float,
        kernel: Array,
        scratch: Scratch,
        near: StackedProjections | None = None,
    ) -> StackedProjections:
        """The optimal projections of all problems.

        Args:
            z: the activities of the anchors.
            c: the contexts of the references.
            penalty: lam > 0.
            kernel: Q of every problem.
            scratch: memory for what the next call with ``near`` needs, too.
            near: solved problems whose margins may be near those of these.
        """
        problem = _Problem(self, z, c, penalty, kernel, scratch)
        steps = _Steps(problem)
        gamma, twin = _start(problem, steps, near)
        m = _times(kernel, gamma)
        gamma = _approach(problem, steps, gamma, m, ~twin)
        steps.last = np.where(twin, np.inf, 0.0)  # those that are not twins factorise once more
        with scratch.frame():
            b, m = _polish(problem, steps, gamma)
            by_margin = self.gradient(m)
            size = _norms(b)
            b *= problem.penalty[:, None, None]
            b += problem.combine(by_margin)
            rest = _norms(b)
        terms = problem.penalty * size + problem.terms(by_margin)
        residual = rest / np.where(terms > 0, terms, 1.0)
        in_range = np.abs(np.log(problem.penalty)) < np.log(_RANGE)
        found = steps.able & in_range & (residual <= TOLERANCE) & (size > 0)
        root = np.sqrt(self.curvature(m))
        condition_number, newton = np.ones(len(kernel)), np.empty_like(kernel[0])
        for i in np.flatnonzero(found):
            if twin[i] and near is not None:
                condition_number[i] = near.condition_number[i]
                continue
            low, high = extreme_eigenvalues(_weighted(kernel[i], root[i], newton))
            lam = problem.penalty[i]
            condition_number[i] = (lam + max(high, 0.0)) / (lam + max(low, 0.0))
        return StackedProjections(
            found,
            -self.pairs.sign * by_margin,
            m,
            np.ldexp(size, -problem.exponent),
            residual,
            condition_number,
            problem.terms(by_margin) / np.where(found, problem.penalty * size, 1.0),
            steps.taken.astype(float),
            problem,
            steps,
        )


class _Problem:
    """The problems, in the scale and coordinates of their rows."""

    def __init__(
        self,
        loss: StackedLoss,
        z: StackedRows,
        c: StackedRows,
        penalty: float,
        kernel: Array,
        scratch: Scratch,
    ) -> None:
        self.loss, self.z, self.c, self.kernel, self.scratch = loss, z, c, kernel, scratch
        self.exponent = z.exponent + c.exponent
        self.penalty = np.ldexp(penalty, -2 * self.exponent)
        pairs = loss.pairs
        self.pair_norms = z.norms[:, pairs.anchor_index] * c.norms[:, pairs.reference_index]

    def combine(self, gamma: Array) -> Array:
        """Phi^T gamma of every problem."""
        z, c, table = self.z.rows, self.c.rows, self.loss.coefficients(self.loss.pairs.sign * gamma)
        b = self.scratch.empty(len(z), z.shape[2], c.shape[2])
        with self.scratch.frame():
            half = np.matmul(table, c, out=self.scratch.empty(*z.shape[:2], c.shape[2]))
            return np.matmul(z.swapaxes(1, 2), half, out=b)

    def margins(self, b: Array) -> Array:
        """m of every B."""
        z, c = self.z.rows, self.c.rows
        with self.scratch.frame():
            half = np.matmul(z, b, out=self.scratch.empty(*z.shape[:2], c.shape[2]))
            scores = self.scratch.empty(*z.shape[:2], c.shape[1])
            return self.loss.margins(np.matmul(half, c.swapaxes(1, 2), out=scores))

    def terms(self, by_margin: Array) -> Array:
        """sum_p |beta_p| ||z|| ||c||."""
        return np.einsum("np,np->n", np.abs(by_margin), self.pair_norms)


class _Steps:
    """Newton and chord steps of gamma: (lam I + H Q) step = -(lam gamma + grad phi).

    Attributes:
        factors: the factorised Newton matrix of each problem, where ``factorised``.
        root: (problems, margins) H^(1/2) of that matrix.
        scale: (problems,) the Newton matrix over the factorised one.
        able: (problems,) whether no factorisation has failed.
        taken: (problems,) the number of steps.
    """

    def __init__(self, problem: _Problem) -> None:
        count = len(problem.kernel)
        self.problem = problem
        self.slots = problem.scratch.empty(*problem.kernel.shape)
        self.factors = list(self.slots)
        self.factorised = np.zeros(count, bool)
        self.root = np.ones(problem.kernel.shape[:2])
        self.scale = np.ones(count)
        self.able = np.ones(count, bool)
        self.taken = np.zeros(count, int)
        self.last = np.full(count, np.inf)

    def step(self, going: Mask, m: Array, equation: Array, size: Array) -> Array:
        """The steps of those problems that are still ``going``, 0 of the others.

        Args:
            going: (problems,).
            m: (problems, margins), where a new factorisation takes H.
            equation: lam gamma + grad phi.
            size: (problems,) its norm, which tells whether the old factorisation serves.
        """
        problem = self.problem
        step = np.zeros_like(equation)
        anew = going & (~self.factorised | (size > CHORD * self.last))
        self.last = np.where(going, size, self.last)
        if anew.any():
            self.root[anew] = np.sqrt(problem.loss.curvature(m[anew]))
            self.scale[anew] = 1.0
            self.able &= ~anew | (self.root.all(axis=1) & np.isfinite(self.root).all(axis=1))
        load = equation / np.where(self.root > 0, self.root, 1.0)
        for i in np.flatnonzero(going & self.able):
            if anew[i]:
                # A twin's factors are those of the problem that it starts from.
                self.factors[i] = self.slots[i]
                newton = _weighted(problem.kernel[i], self.root[i], self.factors[i])
                newton.reshape(-1)[:: len(newton) + 1] += problem.penalty[i]
                self.factorised[i] = True
                if not factorise(newton):
                    self.able[i] = False
                    continue
            step[i] = solve(self.factors[i], load[i])
        self.taken += going
        # (lam I + H Q)^-1 = H^(1/2) (lam I + H^(1/2) Q H^(1/2))^-1 H^(-1/2)
        return np.asarray(self.root * step / -self.scale[:, None])


def _weighted(kernel: Array, root: Array, out: Array) -> Array:
    """H^(1/2) Q H^(1/2), written into ``out``."""
    np.multiply(kernel, root, out=out)
    out *= root[:, None]
    return out


def _start(problem: _Problem, steps: _Steps, near: StackedProjections | None) -> tuple[Array, Mask]:
    """Where each problem starts, and whether it is the one that was solved before.

    A twin starts at the solution itself: lam gamma is the same for equal problems whatever their
    scale. Others take a Newton step with grad phi linearised at the margins of the solution.
    """
    q, twin = problem.kernel, np.zeros(len(steps.root), bool)
    m = np.full_like(steps.root, GUESS)
    gamma = np.zeros_like(m)
    if near is not None:
        before = near._problem
        scale = problem.penalty / before.penalty
        m[near.found] = near.margins[near.found]
        allowed = SAME * q.diagonal(axis1=1, axis2=2).max(axis=1)
        # Most others differ in the first row already.
        gap = np.abs(scale[:, None] * before.kernel[:, 0] - q[:, 0]).max(axis=1)
        rest = np.empty_like(q[0])
        for i in np.flatnonzero(near.found & (gap <= allowed)):
            np.multiply(before.kernel[i], scale[i], out=rest)
            np.subtract(rest, q[i], out=rest)
            if max(rest.max(), -rest.min()) <= allowed[i]:
                twin[i] = True
                steps.factors[i] = near._steps.factors[i]
                steps.factorised[i] = True
                steps.root[i] = near._steps.root[i]
                steps.scale[i] = near._steps.scale[i] * scale[i]
        told = problem.loss.pairs.sign * near.slopes / problem.penalty[:, None]
        gamma[twin] = told[twin]
    if not twin.all():
        equation = problem.loss.gradient(m) - problem.loss.curvature(m) * m
        gamma += steps.step(~twin, m, equation, np.full(len(m), np.inf))
    return gamma, twin


def _approach(problem: _Problem, steps: _Steps, gamma: Array, m: Array, going: Mask) -> Array:
    """Damped Newton and chord steps with margins Q gamma, until rounding stops them."""
    penalty = problem.penalty

    def energy_of(gamma: Array, m: Array) -> Array:
        return problem.loss.value(m) + 0.5 * penalty * np.einsum("np,np->n", gamma, m)

    energy = energy_of(gamma, m)
    for _ in range(LONGEST):
        by_margin = problem.loss.gradient(m)
        equation = penalty[:, None] * gamma + by_margin
        size, scale = _norms(equation), _norms(by_margin)
        flat = size < FLAT * scale
        going = going & steps.able & (size > BOTTOM * scale) & ~(flat & (size > 0.5 * steps.last))
        if not going.any():
            break
        step = steps.step(going, m, equation, size)
        m_step = _times(problem.kernel, step)
        descent = np.einsum("np,np->n", equation, m_step)
        length = np.ones(len(m))
        while True:
            trial = gamma + length[:, None] * step
            m_trial = m + length[:, None] * m_step
            then = energy_of(trial, m_trial)
            halve = going & ~flat & ~(then <= energy + 1e-4 * length * descent) & (length > 1e-6)
            if not halve.any():
                break
            length[halve] *= 0.5
        gamma, m, energy = trial, m_trial, then
    return gamma


def _polish(problem: _Problem, steps: _Steps, gamma: Array) -> tuple[Array, Array]:
    """Chord steps with margins computed from B.

    B = Phi^T gamma is formed once and then moved by the steps. Formed anew, it would carry another
    rounding error each time, which Phi^T H Phi / lam magnifies.
    """
    b, going = problem.combine(gamma), steps.able.copy()
    while True:
        m = problem.margins(b)
        by_margin = problem.loss.gradient(m)
        equation = problem.penalty[:, None] * gamma + by_margin
        # The norm of Phi^T equation, the gradient but for the rounding error of B.
        inner = np.einsum("np,np->n", equation, _times(problem.kernel, equation))
        size = np.sqrt(np.maximum(inner, 0.0))
        enough = size <= 1e-2 * TOLERANCE * problem.terms(by_margin)
        shrinks = (size <= 0.5 * steps.last) | ((steps.last == 0.0) & np.isfinite(size))
        going &= steps.able & ~enough & shrinks
        if not going.any():
            return b, m
        change = steps.step(going, m, equation, size)
        gamma = gamma + change
        with problem.scratch.frame():
            b += problem.combine(change)


def _each(function: Any, m: Array) -> Array:
    return np.asarray(function(m.ravel()), np.float64).reshape(m.shape)


def _times(matrices: Array, vectors: Array) -> Array:
    return np.asarray((matrices @ vectors[:, :, None])[:, :, 0])


def _norms(stack: Array) -> Array:
    """The norm of each entry of a stack of vectors or matrices."""
    flat = stack.reshape(len(stack), -1)
    return np.asarray(np.sqrt(np.einsum("np,np->n", flat, flat)))


def _sizes(rows: Array) -> Array:
    """The norm of each row of each matrix."""
    return np.asarray(np.sqrt(np.einsum("nsi,nsi->ns", rows, rows)))
