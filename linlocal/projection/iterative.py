"""Newton's method with conjugate gradients: for problems too large for a dense Newton matrix.

A Newton step solves (lam + Phi^T H Phi) step = -gradient over all entries of B. One product with
this matrix is

    lam D + Z^T K C,    K = sum over pairs of (T^T H T t)[p] e_a e_r^T,    t[p] = z_a^T D c_r,

two products of matrices over the rows of Z and C and one pass over the pairs. For a table of all
in-batch pairs K is a matrix (anchors, references). For a list it is sparse.

The preconditioner writes D in the eigenbases of the weighted second moments of Z and of C (the
Kronecker basis). Entry by entry the diagonal of the Newton matrix is known there exactly (as in
EKFAC, George et al. 2018, arXiv 1806.03884). On the entries with the largest diagonal it is
replaced by a dense block, which is estimated from some thousand pairs. They are drawn by their
leverage with a fixed seed, so the answer is the same in every run. Only the number of products
depends on the draw. Small problems have no block: there the draw costs more than it saves.

Where a score that depends on the reference alone does not change the loss (all differences of pairs
with the same reference), neither does a shift of all anchors. The preconditioner then measures them
from their mean, which would else be by far its largest entry.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg

from linlocal.inputs import Array, Index
from linlocal.losses import Curvature
from linlocal.projection.problem import NewtonMatrix, ScoreProblem

SMALLEST_BLOCK = 512  # entries below which no block is drawn
LARGEST_BLOCK = 1024  # entries of B in the dense block of the preconditioner
DRAWN = 4  # pairs drawn for each entry of the block
CHUNK = 1024  # of them whose features are formed at once
MOST_PRODUCTS = 500  # of one Newton step
REBUILT = 0.2  # relative change of the weights of the pairs after which it is built anew


class Preconditioner:
    """About the inverse of the Newton matrix; see the module.

    Args:
        matrix: the Newton matrix.
        weights: (pairs,) about the diagonal of T^T H T.
    """

    def __init__(self, matrix: NewtonMatrix, weights: Array) -> None:
        problem = matrix.problem
        z, c = problem.z.rows, problem.c.rows
        self.weights = weights
        table = problem.pairs.coefficient_matrix(weights)
        by_anchor, by_reference = (np.asarray(table.sum(axis=axis)).ravel() for axis in (1, 0))
        if by_anchor.sum() > 0 and _ignores_references(matrix):
            z = z - by_anchor @ z / by_anchor.sum()
        self.left = scipy.linalg.eigh(z.T @ (by_anchor[:, None] * z))[1]
        self.right = scipy.linalg.eigh(c.T @ (by_reference[:, None] * c))[1]
        z, c = z @ self.left, c @ self.right
        known = np.asarray((z**2).T @ (table @ c**2))
        self.diagonal = problem.penalty + known
        size = _block_size(problem)
        self.block = np.sort(np.argpartition(known.ravel(), -size)[-size:]) if size else None
        if self.block is not None:
            newton = self._drawn(problem, z, c, self.block)
            # The diagonal is known exactly; the draw only says how the entries are correlated.
            drawn = newton.diagonal()
            right = np.sqrt(known.ravel()[self.block] / np.where(drawn > 0, drawn, 1.0))
            newton *= right[:, None]
            newton *= right
            np.fill_diagonal(newton, self.diagonal.ravel()[self.block])
            self.factor = scipy.linalg.cho_factor(newton, lower=True, overwrite_a=True)

    def _drawn(self, problem: ScoreProblem, z: Array, c: Array, block: Index) -> Array:
        """sum_p weights[p] f_p f_p^T on average; f_p are the entries of z c^T in the block."""
        pairs, size = problem.pairs, len(block)
        rows, columns = np.divmod(block, c.shape[1])
        leverage = self.weights * pairs.scores(z**2 @ (1.0 / self.diagonal), c**2)
        steps = np.cumsum(leverage)
        points = np.random.default_rng(0).random(DRAWN * size) * steps[-1]
        drawn = np.minimum(np.searchsorted(steps, points, side="right"), len(steps) - 1)
        del steps
        total = np.zeros((size, size))
        probable = leverage[drawn] > 0
        drawn = drawn[probable]
        scale = np.sqrt(self.weights[drawn] * leverage.sum() / (leverage[drawn] * len(points)))
        anchor, reference = pairs.ends(drawn)
        for start in range(0, len(drawn), CHUNK):
            part = slice(start, start + CHUNK)
            f = z[anchor[part]][:, rows] * c[reference[part]][:, columns]
            f *= scale[part, None]
            total += f.T @ f
        return total

    def solve(self, gradient: Array) -> Array:
        """About the inverse of the Newton matrix, times ``gradient``."""
        turned = self.left.T @ gradient @ self.right
        solved = turned / self.diagonal
        if self.block is not None:
            inside = scipy.linalg.cho_solve(self.factor, turned.ravel()[self.block])
            solved.ravel()[self.block] = inside
        return np.asarray(self.left @ solved @ self.right.T)


def _ignores_references(matrix: NewtonMatrix) -> bool:
    """Whether scores that depend on the reference alone have no curvature."""
    problem = matrix.problem
    rng = np.random.default_rng(0)
    anchors, references = (rng.random((len(a.rows), 1)) for a in (problem.z, problem.c))

    def pushed(left: Array, right: Array) -> float:
        u = problem.pairs.scores(left, right)
        return float(np.linalg.norm(matrix.curvature.product(u)))

    return pushed(np.ones_like(anchors), references) <= 1e-10 * pushed(anchors, references)


def _block_size(problem: ScoreProblem) -> int:
    """So many entries that the block costs about as much as a few products with the matrix."""
    pairs = problem.pairs
    (n, width), (k, context) = problem.z.rows.shape, problem.c.rows.shape
    dense = pairs.num_pairs == n * k
    product = 2.0 * (n + k) * width * context + pairs.num_pairs * (4.0 * width if dense else 40.0)
    size = min(int((product / DRAWN) ** (1.0 / 3.0)), LARGEST_BLOCK)
    return size if SMALLEST_BLOCK <= size < problem.num_entries else 0


class KrylovSteps:
    """Newton steps of B by preconditioned conjugate gradients.

    A step is solved to the relative gradient eta = min(1/10, the gradient over that of the first
    step), at least 1e-3: the steps then converge faster than linearly, and none is solved to
    digits that the next one changes.

    Attributes:
        products: how many products with a Newton matrix were taken.
    """

    def __init__(self, problem: ScoreProblem) -> None:
        self.problem, self.products = problem, 0
        self._first = np.nan
        self._preconditioner: Preconditioner | None = None

    def step(self, b: Array, by_margin: Array, curvature: Array | Curvature) -> Array:
        """The step of B."""
        matrix = NewtonMatrix(self.problem, curvature)
        gradient = self.problem.stationarity(b, by_margin)
        size = float(np.linalg.norm(gradient))
        if np.isnan(self._first):
            self._first = size
        goal = min(0.1, max(size / self._first, 1e-3)) * size
        preconditioner = self._prepared(matrix)
        step, rest = np.zeros_like(b), -gradient
        towards = preconditioner.solve(rest)
        along = float(np.sum(rest * towards))
        for _ in range(MOST_PRODUCTS):
            pushed = matrix.product(towards)
            self.products += 1
            curved = float(np.sum(towards * pushed))
            if not (curved > 0 and math.isfinite(along)):  # the gradient is zero, or rounding
                break
            length = along / curved
            step += length * towards
            rest -= length * pushed
            if np.linalg.norm(rest) <= goal:
                break
            solved = preconditioner.solve(rest)
            before, along = along, float(np.sum(rest * solved))
            towards = solved + (along / before) * towards
        return step

    def _prepared(self, matrix: NewtonMatrix) -> Preconditioner:
        weights = matrix.curvature.diagonal
        old = self._preconditioner
        if old is None or np.abs(weights - old.weights).sum() > REBUILT * old.weights.sum():
            self._preconditioner = old = Preconditioner(matrix, weights)
        return old

    def accept(self, length: float) -> None:
        """Do nothing: B is the only unknown, and the caller moves it."""
