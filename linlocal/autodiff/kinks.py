"""Where a hinge has no derivative, and autograd's is arbitrary."""

from __future__ import annotations

import torch

from linlocal.autodiff.tensors import tensor
from linlocal.losses import Goodness, PairLoss
from linlocal.losses.shape import Bend, shape_of, summand_of
from linlocal.pairs import Direction

_KINK = 1e-9
"""A margin this near to a hinge's kink counts as on it."""


def kink(loss: PairLoss | Goodness) -> float | None:
    """The margin at which the slopes of a loss jump, None if they do not."""
    shape = shape_of(summand_of(loss))
    return shape.margin if isinstance(shape, Bend) and shape.width == 0 else None


def refuse_kink(loss: PairLoss, u: torch.Tensor, d: Direction) -> None:
    """Raise a ValueError where the scores (pairs,) of a direction lie on the kink of a hinge."""
    at = kink(loss)
    if at is None:
        return
    margins = tensor(loss.contrasts(d).apply(u.numpy()))
    nearest = float((margins - at).abs().min())
    if nearest <= _KINK:
        raise ValueError(
            f"A margin lies within {nearest:.0e} of the kink of the hinge, where autograd's slope "
            "is arbitrary; the optimal projection of linlocal.optimal_projection finds the one "
            "that makes B stationary. Use SmoothedHinge to compare."
        )
