"""Local training whose projections are matched to the backpropagated error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from linlocal.analysis.local_losses import ScoredPairs
from linlocal.analysis.training import LocalTrainer
from linlocal.analysis.watching import capture, own_pass, untouched


class MatchingTrainer(LocalTrainer):
    """Local training in which B learns from the backpropagated error only, ten times as fast.

    It stands for the "theoretical optimum" of Wu et al. 2026 (arXiv 2601.21683): the network is
    trained by local losses, and each B moves to where the local error is nearest to the
    backpropagated one. That takes the gradient of the last block's loss, which no local rule has.
    """

    knows_global_error = True

    def match(self, learning_rate: float) -> None:
        """Let each B below the last block learn at a rate of its own."""
        (optimiser,) = self.optimisers
        optimiser.add_param_group({"params": self._matched(), "lr": learning_rate})

    def _matched(self) -> list[nn.Parameter]:
        return [p for loss in self.losses[:-1] for p in loss.parameters() if p.requires_grad]

    def _parameters(
        self, parameters: Sequence[Sequence[nn.Parameter]]
    ) -> tuple[list[nn.Parameter], ...]:
        (*_, last) = super()._parameters(parameters)
        return (*(list(group) for group in parameters[:-1]), last)

    def backward(self, views: Tensor, batch: Any = None) -> dict[int, Tensor]:
        values = super().backward(views, batch)
        names = [block.name for block in self.blocks]
        # A second pass, of whose statistics nothing may stay.
        with own_pass(), untouched(self.model), capture(self.model, names) as outputs:
            self.model(views)
            matching_loss([*outputs.values()], self.losses).backward()
        return values


def matching_loss(activities: Sequence[Tensor], losses: nn.ModuleList) -> Tensor:
    """The sum of ||dL_global/dz_l - dL_l/dz_l||^2 over the blocks below the last.

    Its gradient reaches the projections alone.

    Args:
        activities: z_1..z_L, with their graph.
        losses: the local losses of the blocks.
    """
    top = activities[-1].detach()
    (*below, last) = losses
    errors = torch.autograd.grad(last(activities[-1], top), activities[:-1])
    parts = [
        loss.matching_loss(z, top, error)
        for loss, z, error in zip(below, activities[:-1], errors, strict=True)
        if isinstance(loss, ScoredPairs)
    ]
    return torch.stack(parts).sum()
