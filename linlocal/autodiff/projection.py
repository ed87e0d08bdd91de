"""The optimal projection over all entries of B, by Newton's method with autograd's Hessian."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from linlocal import inputs
from linlocal.autodiff.kinks import kink
from linlocal.autodiff.pairs import pair_formula
from linlocal.autodiff.tensors import index, judged, tensor
from linlocal.losses import PairLoss
from linlocal.pairs import Direction
from linlocal.rules import Trained

Judge = Callable[[torch.Tensor, Direction], torch.Tensor]

MAX_ENTRIES = 1024
"""Largest number of entries of B for which the dense Hessian of `optimal_projection` is built."""


def optimal_projection(
    z: ArrayLike, c: ArrayLike, pairs: Direction, loss: PairLoss, penalty: float
) -> NDArray[np.float64]:
    """Find argmin_B loss + penalty/2 ||B||_F^2 by Newton on vec(B) with the Hessian of autograd.

    Args:
        z: (anchors, width) activities of ``pairs.anchor_rows``, in that order.
        c: (references, context width) contexts of ``pairs.reference_rows``, in that order.
        pairs: who is scored against whom.
        loss: a loss of scored pairs.
        penalty: lam > 0.

    Returns:
        B, (width, context width).

    Raises:
        ValueError: more than `MAX_ENTRIES` entries, a hinge, a penalty that is not positive, or
            activities that are no finite matrix.
        RuntimeError: Newton's method did not reach the accuracy of float64.
    """
    penalty = inputs.positive(penalty, "penalty")
    anchors = tensor(inputs.matrix(z, "z", "(anchors, width)"))
    contexts = tensor(inputs.matrix(c, "c", "(references, width)"))
    at = torch.unique(index(pairs.anchor), return_inverse=True)[1]
    referred = torch.unique(index(pairs.reference), return_inverse=True)[1]
    return minimise(anchors[at], contexts[referred], pairs, judge_of(loss), penalty).numpy()


def judge_of(loss: PairLoss) -> Judge:
    """A loss of scored pairs as a function to minimise over B.

    Raises:
        ValueError: a hinge.
    """
    if kink(loss) is not None:
        raise ValueError(
            "The hinge has no derivative at its kink, where margins of the optimum sit, so "
            "autograd can neither find its optimal projection nor differentiate there. Use "
            "SmoothedHinge, or pass projections."
        )
    return partial(judged, pair_formula(loss))


def descend(
    z: torch.Tensor,
    c: torch.Tensor,
    pairs: Direction,
    judge: Judge,
    penalty: float,
    told: Trained,
    start: torch.Tensor,
) -> torch.Tensor:
    """B after steps of gradient descent, for z and c row by row for each pair."""
    b = start
    for _ in range(told.steps):
        leaf = b.clone().requires_grad_(True)
        energy = judge(torch.einsum("pi,ij,pj->p", z, leaf, c), pairs)
        energy = energy + 0.5 * penalty * torch.sum(leaf**2)
        (gradient,) = torch.autograd.grad(energy, leaf)
        b = b - told.rate * gradient
    return b


def minimise(
    z: torch.Tensor, c: torch.Tensor, pairs: Direction, judge: Judge, penalty: float
) -> torch.Tensor:
    """argmin over b = vec(B), for z and c row by row for each pair."""
    shape = (z.shape[1], c.shape[1])
    if shape[0] * shape[1] > MAX_ENTRIES:
        raise ValueError(
            f"The oracle minimises over all entries of B with a dense Hessian, affordable up to "
            f"{MAX_ENTRIES} of them; got {shape[0]} x {shape[1]}. Use smaller widths, or "
            "linlocal.optimal_projection, or pass projections."
        )
    features = torch.einsum("pi,pj->pij", z, c).flatten(1)

    def energy(b: torch.Tensor) -> torch.Tensor:
        return judge(features @ b, pairs) + 0.5 * penalty * torch.sum(b**2)

    slope, hessian = torch.func.grad(energy), torch.func.hessian(energy)
    b = torch.zeros(features.shape[1], dtype=torch.float64)
    best, best_norm, idle = b, float("inf"), 0
    for _ in range(200):
        gradient = slope(b)
        norm = float(gradient.norm())
        improved = norm < 0.5 * best_norm
        if norm < best_norm:
            best, best_norm = b, norm
        if norm == 0.0 or idle > 5:
            break
        step = -torch.linalg.solve(hessian(b), gradient)
        expected = float(gradient @ step)
        here, length = float(energy(b)), 1.0
        noise = 1e-13 * (1.0 + abs(here))
        # Near the optimum, where the energy no longer tells, the gradient shrinks until it is
        # rounding noise and wanders: stop after some steps that are no better, keep the best.
        idle = 0 if improved or -expected > noise else idle + 1
        while float(energy(b + length * step)) > here + 1e-4 * length * expected + noise:
            length *= 0.5
            if length < 1e-12:
                break
        b = b + length * step
    # The gradient is a sum of terms; it is zero when small against them.
    terms = penalty * float(best.norm()) + float((slope(best) - penalty * best).norm())
    if best_norm > 1e-11 * terms + 1e-300:
        raise RuntimeError(
            f"Newton's method by autograd stopped at a gradient of {best_norm:.1e} against terms "
            f"of size {terms:.1e}; raise the penalty or scale the input down."
        )
    return best.reshape(shape)
