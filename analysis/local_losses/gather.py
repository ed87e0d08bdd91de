"""Losses of the joined batch of all processes, with the gradient that one process would compute.

A loss that compares samples (negatives, variances, correlations) is not a mean over samples. The
mean of the gradients of R processes is then not the gradient of the loss of their joined batch.
Here every process gathers the rows of all processes and computes the loss of the joined batch, and
the gradient runs back through the gather.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.local_losses.contract import LocalLoss, LocalRule, contracted, views_of
from linlocal.analysis.local_losses.network_rule import on_network
from linlocal.analysis.local_losses.pooling import Shape
from linlocal.rules import Rule


def gather(rows: Tensor) -> Tensor:
    """The rows of all R processes, one process after the other, differentiably.

    The gradient by the rows of a process is the sum of the gradients of all processes' losses by
    them. All processes must run the same backward passes through the gather, because their
    collectives wait for each other.

    Args:
        rows: (N, ...) the rows of this process. N must be the same on all processes, so drop the
            last incomplete batch.

    Returns:
        (R N, ...) all rows; ``rows`` itself if there is one process or none was set up.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows
    return _applied(_Gather, rows)


def gather_views(stacked: Tensor) -> Tensor:
    """The first views of all R processes, then their second views in the same order.

    Args:
        stacked: (2N, ...) both views of this process.

    Returns:
        (2 R N, ...) the joined batch.

    Raises:
        ValueError: an odd number of rows, or fewer than 2 samples.
    """
    first, second = views_of(stacked)
    gathered = gather(first)
    if gathered is first:
        return stacked
    return torch.cat([gathered, gather(second)])


class Gathered(LocalLoss):
    """A local loss L of the joined batch of all R processes.

    Every process computes the same L(z_1, ..., z_R). The gradient by its rows is a sum over
    processes, R dL/dz_r. Data-parallel training takes the mean of the processes' gradients by a
    parameter theta of the network,

        1/R sum_r R dL/dz_r dz_r/dtheta = dL/dtheta,

    which is the gradient that one process would compute on the joined batch: the factor R cancels.
    A parameter of L itself (a projection, a head) has the gradient dL/dtheta on every process, and
    the mean leaves it as it is. With a gather that is not differentiated, the gradient by the
    network's parameters would be R times too small. Batch normalisation before the gather must be
    synchronised on its own.

    Whole outputs are sent, so pool maps or put a head before the loss where that is possible.

    Args:
        loss: the loss of the joined batch, one of `local_losses` or your own.
    """

    def __init__(self, loss: LocalLoss) -> None:
        super().__init__()
        self.loss = loss
        self.reads_top, self.needs_global_error = loss.reads_top, loss.needs_global_error
        self.compares, self.is_loss = loss.compares, loss.is_loss

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        """The loss of the joined batch; ``batch`` is that of this process alone."""
        joined = gather_views(top) if self.reads_top and top is not None else top
        return self.loss(gather_views(here), joined, batch)


@dataclass(frozen=True)
class GatheredRule:
    """A local rule with each of its losses `Gathered`.

    Attributes:
        rule: the rule whose losses are gathered, one of `local_losses` or your own.
    """

    rule: Rule | LocalRule

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """One gathered loss for each block; see `local_losses.LocalRule`."""
        seed = inputs.whole(seed, "seed", 0)
        losses = contracted(on_network(self.rule).build(shapes, seed))
        if any(loss.num_views != 2 or loss.remembers for loss in losses):
            raise ValueError(
                "Only losses of two views that remember nothing are gathered: take the rule as it "
                "is."
            )
        return nn.ModuleList(Gathered(cast(LocalLoss, loss)) for loss in losses)


class _Gather(torch.autograd.Function):
    """From the rows of this process to the rows of all processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _applied(_SumOfOwn, gradient)


class _SumOfOwn(torch.autograd.Function):
    """The transpose of `_Gather`: the rows of this process in the sum over processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        # gloo does not have reduce_scatter in every version of torch.
        total = rows.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _applied(_Gather, gradient)


def _applied(function: type[torch.autograd.Function], rows: Tensor) -> Tensor:
    result: Tensor = function.apply(rows)
    return result
