"""Local gradients from the graph of a running network: pure functions, without hooks.

Symbols: z_l output of block l, theta_l its parameters, delta_l = dLoss_l/dz_l the error signal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from linlocal.analysis.local_losses import Activity, LocalLoss

Rescale = Callable[[Tensor], Tensor]


def error_signal(
    loss: LocalLoss, here: Activity, top: Activity | None, rescale: Rescale, batch: Any = None
) -> Activity:
    """The error of a block's local loss at its output: dLoss_l/dz_l, in the shape of z_l.

    The loss sees a copy of the output without its graph, so no gradient leaves the block whatever
    the loss does. Only the part of the loss that depends on the activity is computed, because a
    penalty on large projections costs as much as the pairs.

    Args:
        loss: the local loss of the block.
        here: the block's output; of several passes, if they give other shapes.
        top: the last block's output, detached.
        rescale: scales the loss.
        batch: the batch as the loader gave it.

    Raises:
        ValueError: the loss is no scalar.
    """
    leaves = [z.detach().requires_grad_() for z in ([here] if isinstance(here, Tensor) else here)]
    top = top if loss.reads_top else None
    leaf: Activity = leaves[0] if isinstance(here, Tensor) else tuple(leaves)
    # A loss says by ``per_pass`` whether it takes several tensors.
    value = loss.activity_loss(cast(Tensor, leaf), cast(Tensor, top), batch)
    errors = tuple(map(torch.zeros_like, leaves))
    if value.requires_grad:
        errors = torch.autograd.grad(rescale(value), leaves, materialize_grads=True)
    return errors[0] if isinstance(here, Tensor) else errors


def local_gradient(
    here: Tensor, parameters: Sequence[nn.Parameter], error: Tensor
) -> tuple[Tensor, ...]:
    """Gradient of a block's parameters from the error at its own output: (dz_l/dtheta_l)^T error.

    Nothing below the block is computed, because none of the parameters lies there. The graph is
    kept.

    Args:
        here: z_l with its graph.
        parameters: the block's parameters that require a gradient.
        error: the error signal, in the shape of z_l.

    Returns:
        One tensor per parameter, zero if the parameter was not used.

    Raises:
        RuntimeError: the block ran without a graph.
    """
    if not parameters:
        return ()
    if not here.requires_grad:
        raise RuntimeError(
            "A block with trainable parameters ran without a graph, so it has no gradient: its "
            "output was detached or computed under no_grad. Run it with gradients enabled, or "
            "freeze its parameters."
        )
    return torch.autograd.grad(
        here, parameters, error, retain_graph=True, allow_unused=True, materialize_grads=True
    )


def errors_below(outputs: Sequence[Tensor], error: Tensor) -> tuple[Tensor, ...]:
    """Errors of a loss at earlier outputs of a pass, J^T e; the graph is kept.

    Args:
        outputs: the outputs of blocks in forward order, the last block's last.
        error: dLoss/dz_L, in the shape of the last output.

    Returns:
        The errors at all outputs but the last, zero where nothing leads there.
    """
    *below, top = outputs
    wanted = [z for z in below if z.requires_grad]
    if not wanted:
        return tuple(map(torch.zeros_like, below))
    found = iter(torch.autograd.grad(top, wanted, error, retain_graph=True, materialize_grads=True))
    return tuple(next(found) if z.requires_grad else torch.zeros_like(z) for z in below)


def windowed(
    passes: Sequence[Sequence[Tensor]], errors: Sequence[Sequence[Tensor]], window: int
) -> list[Sequence[Tensor]]:
    """The error signal of every block when losses are backpropagated through ``window`` blocks.

    Block l takes the loss of block e = min(l + window - 1, L): window 1 is local learning, window L
    backpropagation (statement 12 of docs/theory.md). The graphs are kept.

    Args:
        passes: the outputs of all blocks with their graph, from one pass or several.
        errors: the error signal of each block's own loss, for each pass, from block ``window`` on:
            those below teach no block.
        window: the number of blocks, 1..L.

    Returns:
        For each block one tensor for each pass.
    """
    through: list[Sequence[Tensor]] = []
    blocks = len(passes[0])
    for l in range(blocks):
        end = min(l + window, blocks) - 1
        error = errors[end - window + 1]
        if end == l:
            through.append(error)
            continue
        parts = [
            errors_below((outputs[l], outputs[end]), part)[0]
            for outputs, part in zip(passes, error, strict=True)
        ]
        through.append(parts)
    return through
