"""Losses over the batches of all processes, with the gradient of one process on the joined batch.

A loss that compares samples (negatives, variances, correlations) is no mean over samples, so the
mean of the gradients of R processes is not its gradient on their joined batch. Here every process
gathers the rows of all and computes the loss of the joined batch; the gather is differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from linlocal.analysis.local_losses.contract import LocalLoss, LocalRule, contracted, views_of
from linlocal.analysis.local_losses.network_rule import on_network
from linlocal.analysis.local_losses.pooling import Shape
from linlocal.rules import Rule


def gather(rows: Tensor) -> Tensor:
    """(R N, ...) the rows of all R processes, one process after the other, differentiably.

    The gradient of process r's rows is the sum over processes of what their losses say about them.
    Backward passes through it must be the same on all processes, as their collectives wait for
    each other.

    Args:
        rows: (N, ...) of this process; equally many on each, so drop the last odd batch.

    Returns:
        ``rows`` itself where there is one process, or none was set up.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows
    return _applied(_Gather, rows)


def gather_views(stacked: Tensor) -> Tensor:
    """(2 R N, ...) the first views of all processes, then the second ones in the same order.

    Args:
        stacked: (2N, ...) both views of this process.

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

    Every process computes the same L(z_1, ..., z_R), so that the gradient of its rows, a sum over
    processes, is R dL/dz_r. Data-parallel training takes the mean of the processes' gradients by a
    parameter theta of the network,

        1/R sum_r R dL/dz_r dz_r/dtheta = dL/dtheta,

    the gradient of one process on the joined batch: the factor R cancels, and no factor is needed
    here. A parameter of L itself (a projection, a head) has the gradient dL/dtheta on every
    process, which the mean leaves as it is. A gather without derivative would make the first one R
    times too small. Batch normalisation before the gather must be synchronised on its own.

    Whole outputs are sent, so put a loss on maps behind its pooling or head where that is possible.

    Args:
        loss: of `local_losses`, or your own.
    """

    def __init__(self, loss: LocalLoss) -> None:
        super().__init__()
        self.loss = loss
        self.reads_top, self.needs_global_error = loss.reads_top, loss.needs_global_error

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        """The loss of the joined batch; of a batch with labels only those of this process."""
        joined = gather_views(top) if self.reads_top and top is not None else top
        return self.loss(gather_views(here), joined, batch)


@dataclass(frozen=True)
class GatheredRule:
    """A local rule with each of its losses `Gathered`.

    Attributes:
        rule: of `local_losses`, or your own.
    """

    rule: Rule | LocalRule

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """One loss for each block; see `local_losses.LocalRule`."""
        losses = contracted(on_network(self.rule).build(shapes, seed))
        return nn.ModuleList(Gathered(cast(LocalLoss, loss)) for loss in losses)


class _Gather(torch.autograd.Function):
    """Rows of one process to rows of all."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _applied(_SumOfOwn, gradient)


class _SumOfOwn(torch.autograd.Function):
    """The transpose of `_Gather`: the sum over processes, of it the rows of this one."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        # Not reduce_scatter, which gloo does not have in every version of torch.
        total = rows.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _applied(_Gather, gradient)


def _applied(function: type[torch.autograd.Function], rows: Tensor) -> Tensor:
    result: Tensor = function.apply(rows)
    return result
