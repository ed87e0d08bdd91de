"""Losses over random slices, which a training draws anew in every step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from linlocal.autodiff import view_formula
from linlocal.losses import SlicedNormality, ViewLoss, VISReg


def sliced(loss: Any) -> SlicedNormality | VISReg:
    """A loss over random slices.

    Raises:
        ValueError: it has none.
    """
    if not isinstance(loss, SlicedNormality | VISReg) or loss.slices is None:
        raise ValueError(
            f"{type(loss).__name__} has no random slices that could be drawn anew in each step: "
            "take rules.SIGReg(slices=256), or leave fresh_slices out."
        )
    return loss


class FreshSlices(nn.Module):
    """A loss of two views over random slices, those of ``seed + t`` in step t = 0, 1, ...

    A step is a call in training mode with gradients. The number of steps is a buffer, so it goes
    into checkpoints, comes back after a step that fails, and is the same in all processes. What
    measures a network leaves it as it is: a recorder that is given the losses of the training sees
    the slices of the step that it measures.

    Args:
        loss: the loss; its own slices are those of step 0.

    Raises:
        ValueError: the loss has no random slices.
    """

    step: Tensor

    def __init__(self, loss: ViewLoss) -> None:
        super().__init__()
        self.loss = sliced(loss)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        loss = replace(self.loss, seed=self.loss.seed + int(self.step))
        if self.training and torch.is_grad_enabled():
            self.step += 1
        return view_formula(loss)(first, second)
