"""The averaged Jacobian of the top by each block: the downstream map of any network.

In a linear network it is V_l = W_L ... W_{l+1}. Elsewhere every sample has its own, and this is
their mean over a batch, the one map that is nearest to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.block import Block, resolve
from linlocal.analysis.local_losses import ScoredPairs
from linlocal.analysis.watching.restore import own_pass, untouched
from linlocal.analysis.watching.window import gated, one_pass


def averaged_jacobians(outputs: Sequence[Tensor], top: Tensor) -> list[Tensor]:
    """How the top changes with each output z_l: the mean over samples k of d top_k / d z_l,k.

    It takes a backward pass for each feature of the top, and keeps the graph.

    Args:
        outputs: (samples, ...) outputs of blocks with their graph, in forward order.
        top: (samples, features) a function of the last output, such as the pooled one.

    Returns:
        For each output (features, ...), zero where nothing leads from it to the top.

    Raises:
        ValueError: the rows of a batch depend on each other, as through batch normalisation in
            training mode; the Jacobian of a sample is then not defined.
    """
    wanted = [z for z in outputs if z.requires_grad]
    found: list[list[Tensor]] = [[] for _ in wanted]

    def sent(error: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(top, wanted, error, retain_graph=True, materialize_grads=True)

    if wanted:
        _refuse_dependent_rows(top, sent)
    for feature in range(top.shape[1] if wanted else 0):
        error = torch.zeros_like(top)
        error[:, feature] = 1
        for rows, gradient in zip(found, sent(error), strict=True):
            rows.append(gradient.mean(0))
    stacked = iter([torch.stack(rows) for rows in found])
    nothing = top.shape[1]
    return [
        next(stacked) if z.requires_grad else z.new_zeros(nothing, *z.shape[1:]) for z in outputs
    ]


def measure_downstream(
    model: nn.Module, blocks: Any, losses: Sequence[nn.Module] | nn.ModuleList, views: Tensor
) -> None:
    """Measure the averaged Jacobian and set it in the losses whose penalty is in its metric.

    Runs one forward pass in the model's present mode and changes nothing of the model.

    Args:
        model: the network.
        blocks: the names of its blocks, as for `linlocal.analysis.blocks`.
        losses: the local losses of the blocks, as ``rule.build`` returned them; those that need no
            Jacobian stay as they are.
        views: (2N, ...) a batch with both views stacked.

    Raises:
        TypeError: an argument is no module or tensor.
        ValueError: not one loss for each block; or as `averaged_jacobians`.
    """
    inputs.instance(views, Tensor, "views", "a tensor (2N, ...) with both views")
    found = resolve(model, blocks)
    if len(losses) != len(found):
        raise ValueError(
            f"There must be one local loss for each block: {len(losses)} losses for {len(found)} "
            "blocks."
        )
    with torch.inference_mode(False):
        for loss, *measured in downstream(model, found, [*losses], views):
            loss.set_downstream(*measured)


def downstream(
    model: nn.Module, blocks: Sequence[Block], losses: Sequence[nn.Module], views: Tensor
) -> list[tuple[ScoredPairs, Tensor, Tensor, Tensor]]:
    """The losses that need an averaged Jacobian, with the arguments of their `set_downstream`.

    The arguments are those of `measure_downstream`, checked before.

    Raises:
        ValueError: as `averaged_jacobians`.
    """
    last = losses[-1]
    reading = [
        (l, loss)
        for l, loss in enumerate(losses)
        if isinstance(loss, ScoredPairs) and loss.reads_downstream
    ]
    if not reading or not isinstance(last, ScoredPairs):
        return []
    outputs: list[Tensor] = []

    def look(position: int, z: Tensor) -> Tensor:
        z = z if z.requires_grad else z.requires_grad_()  # of frozen blocks the map counts too
        outputs.append(z)
        return z.clone()  # what follows may work on it in place

    alone = gated(model.parameters(), lambda: True)
    with own_pass(), untouched(model), torch.enable_grad(), alone:
        with one_pass(blocks, look):
            model(views.clone())
        top = last.pool(outputs[-1])
        jacobians = averaged_jacobians([outputs[l] for l, _ in reading], top)
    means = [outputs[l].detach().mean(0) for l, _ in reading]
    return [
        (loss, jacobian, mean, top.detach().mean(0))
        for (_, loss), jacobian, mean in zip(reading, jacobians, means, strict=True)
    ]


def _refuse_dependent_rows(top: Tensor, sent: Callable[[Tensor], tuple[Tensor, ...]]) -> None:
    error = torch.zeros_like(top)
    error[0] = 1
    if any(bool(gradient[1:].any()) for gradient in sent(error)):
        raise ValueError(
            "Rows of a batch depend on each other on the way to the top, as through batch "
            "normalisation in training mode, so no sample has a Jacobian of its own: use group or "
            "layer normalisation, put batch normalisations in evaluation mode, or take the metric "
            '"frobenius".'
        )
