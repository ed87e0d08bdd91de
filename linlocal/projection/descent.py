"""A projection after some steps of gradient descent on the penalised loss."""

from __future__ import annotations

import numpy as np

from linlocal.inputs import Array
from linlocal.losses import PairLoss
from linlocal.losses.shape import Line, shape_of, summand_of
from linlocal.pairs import Direction
from linlocal.projection.problem import ConvergenceError


def descend(
    z: Array,
    c: Array,
    pairs: Direction,
    loss: PairLoss,
    penalty: float,
    steps: int,
    rate: float,
    start: Array,
) -> Array:
    """B after ``steps`` times B <- B - rate (lam B + d phi / d B).

    The gradient of a linear score is constant, so the steps are a geometric sum:
    B = q B_start + (1 - q) B*, q = (1 - rate lam)^steps, B* = -(d phi / d B) / lam.

    Args:
        z: (anchors, width) activities of ``pairs.anchor_rows``, in that order.
        c: (references, context width) contexts of ``pairs.reference_rows``, in that order.
        pairs: who is scored against whom.
        loss: gives phi; at a kink of a hinge its own slope counts.
        penalty: lam > 0.
        steps: the number of steps.
        rate: the learning rate.
        start: B_start, (width, context width).

    Returns:
        B, (width, context width).

    Raises:
        ConvergenceError: B grows beyond float64.
    """
    a, r, contrasts = pairs.anchor_index, pairs.reference_index, loss.contrasts(pairs)

    def push(b: Array) -> Array:
        """-d phi / d B."""
        u = np.einsum("pj,pj->p", (z @ b)[a], c[r])
        by_score = contrasts.adjoint(loss.gradient(contrasts.apply(u), pairs))
        return np.asarray(-z.T @ (pairs.coefficient_matrix(by_score) @ c))

    b = start
    with np.errstate(over="ignore", invalid="ignore"):
        if isinstance(shape_of(summand_of(loss)), Line):
            kept = _power(1.0 - rate * penalty, steps, rate * penalty)
            b = kept[0] * start + rate * kept[1] * push(start)
        else:
            for _ in range(steps):
                b = (1.0 - rate * penalty) * b + rate * push(b)
    if not np.isfinite(b).all():
        raise ConvergenceError(
            f"The projection grows beyond float64 in {steps} steps of rate {rate:g}: lower the "
            "rate below 2 over the largest curvature of the penalised loss."
        )
    return b


def _power(factor: float, steps: int, less: float) -> tuple[float, float]:
    """q = factor^steps and the sum of factor^i over i < steps, where factor = 1 - less."""
    if less < 1.0:
        decay = float(steps * np.log1p(-less))
        return float(np.exp(decay)), float(-np.expm1(decay) / less)
    q = float(np.float64(factor) ** steps)
    return q, (1.0 - q) / less
