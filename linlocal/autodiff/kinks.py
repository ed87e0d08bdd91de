"""Where a hinge has no derivative, and autograd's is arbitrary."""

from __future__ import annotations

import torch

from linlocal.autodiff.tensors import tensor
from linlocal.losses import Goodness, Hinge, PairLoss
from linlocal.pairs import Direction

_KINK = 1e-9
"""A margin this near to a hinge's kink counts as on it."""


def has_kink(loss: PairLoss | Goodness) -> bool:
    """Whether the loss is that of a hinge."""
    return type(getattr(loss, "score", None)) is Hinge


def refuse_kink(loss: PairLoss, u: torch.Tensor, d: Direction) -> None:
    """Raise a ValueError where the scores (pairs,) of a direction lie on the kink of a hinge."""
    score = getattr(loss, "score", None)
    if type(score) is not Hinge:
        return
    margins = tensor(loss.contrasts(d).apply(u.numpy()))
    nearest = float((margins - score.margin).abs().min())
    if nearest <= _KINK:
        raise ValueError(
            f"A margin lies within {nearest:.0e} of the kink of the hinge, where autograd's slope "
            "is arbitrary; the optimal projection of linlocal.optimal_projection finds the one "
            "that makes B stationary. Use SmoothedHinge to compare."
        )
