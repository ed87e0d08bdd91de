"""Score functions f in torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from linlocal.autodiff.numpy_only import by_numpy, elementwise
from linlocal.losses import Hinge, Linear, Score, SmoothedHinge, Softplus

Elementwise = Callable[[Tensor], Tensor]


def score_formula(score: Score) -> Elementwise:
    """A score f as a torch function of margins, elementwise and twice differentiable.

    A score of one's own, a subclass of a named one included, is evaluated by its numpy methods: f
    by ``value``, its derivatives by ``slope`` and ``curvature``.

    Args:
        score: one of `linlocal.scores`, or your own.
    """
    known = _FORMULAS.get(type(score))
    if known is None:
        return partial(elementwise, (score.value, score.slope, score.curvature))
    return partial(known, score)


def slope(score: Score, m: Tensor) -> Tensor:
    """Derivative f'(m) of a score, elementwise, by its own formula and without a graph."""
    return by_numpy(score.slope, m)


def _linear(score: Linear, m: Tensor) -> Tensor:
    return -m


def _softplus(score: Softplus, m: Tensor) -> Tensor:
    # threshold: torch's own switch to the identity would cut the tail at 2e-9.
    return F.softplus(score.margin - m, threshold=50.0)


def _hinge(score: Hinge, m: Tensor) -> Tensor:
    return (score.margin - m).relu()


def _smoothed_hinge(score: SmoothedHinge, m: Tensor) -> Tensor:
    gap = ((score.margin - m) / score.width).clamp(0.0, 1.0)
    return 0.5 * score.width * gap.square() + (score.margin - score.width - m).relu()


_FORMULAS: dict[type, Callable[..., Tensor]] = {
    Linear: _linear,
    Softplus: _softplus,
    Hinge: _hinge,
    SmoothedHinge: _smoothed_hinge,
}
