"""CLAPP's update as a three-factor Hebbian rule, written by hand without autograd.

For a layer a = W x with z = rho(a) and the scores u_p = P z . B P' c of its pairs, the update is

    -dL/dW_ij = sum over anchors and places of   pre_j  x  rho'(a_i) d_i
    d = P^T sum over the anchor's pairs of   gate_p  x  B P' c,   gate_p = -y_p f'(y_p u_p) / count

so a synapse needs three factors: its presynaptic activity pre_j, the dendritic prediction B c that
reaches its postsynaptic neuron, and one number for each pair that is broadcast to the whole layer.
Illing et al. 2021 (arXiv 2010.08262). The reference c is detached, and each view is anchor once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from linlocal.analysis.local_losses.pooling import as_map
from linlocal.analysis.local_losses.scored_pairs import Negatives, ScoredPairs
from linlocal.autodiff import slope
from linlocal.losses import Score, TypeTwo


@torch.no_grad()
def hebbian_update(
    block: nn.Module, below: Tensor, loss: ScoredPairs, top: Tensor
) -> dict[str, Tensor]:
    """-dL/dW of one block's CLAPP loss: pre x rho'(a) (gate B c), summed over pairs and places.

    Args:
        block: a Linear or Conv2d, or a Sequential that starts with one (a Flatten may come before
            it) and goes on with ReLU and MaxPool2d in any order.
        below: (2N, ...) the block's input, both views stacked.
        loss: the block's local loss, of a `CLAPP` rule.
        top: (2N, ...) the last block's output.

    Returns:
        The updates, which are minus the gradients of ``loss``, by the names "weight" and, if the
        layer has one, "bias".

    Raises:
        TypeError: the loss is not of type 2.
        ValueError: a block of other layers, or a convolution with groups or padding by name.
    """
    # A subclass of TypeTwo may have another formula, and so other gates.
    if not isinstance(loss, ScoredPairs) or type(loss.loss) is not TypeTwo:
        judged = type(loss.loss if isinstance(loss, ScoredPairs) else loss).__name__
        raise TypeError(
            "The three-factor form exists for scored pairs of type 2; build the loss with "
            f"linlocal.analysis.local_losses.CLAPP, got {judged}."
        )
    layer, rest, below = _parts(block, below)
    here, backwards = as_map(layer(below)), []
    for module in rest:
        here, backward = _forward(module, here)
        backwards.append(backward)
    post = _dendritic_prediction(here, loss, loss.loss.score, top)
    for backward in reversed(backwards):
        post = backward(post)
    post = post.flatten(2)
    update = torch.einsum("nip,njp->ij", post, _presynaptic(layer, below)).view_as(layer.weight)
    return {"weight": update} | ({} if layer.bias is None else {"bias": post.sum((0, 2))})


def gates(u: Tensor, score: Score, negatives: Negatives) -> Tensor:
    """gate_p = -y_p f'(y_p u_p) / (number of pairs of that sign), 0 where there is no pair.

    Args:
        u: (anchors, references) scores, of one direction, or of both stacked if ``negatives`` is
            "stacked".
        score: f.
        negatives: which pairs are negative, see `local_losses.scored_pairs.pair_scores`.
    """
    positive = torch.eye(len(u), dtype=u.dtype, device=u.device)
    negative = 1.0 - positive if negatives == "all" else positive.roll(1, 0)
    pull = -slope(score, u) * positive / positive.sum()
    push = slope(score, -u) * negative / negative.sum()
    return pull + push


def _dendritic_prediction(here: Tensor, loss: ScoredPairs, score: Score, top: Tensor) -> Tensor:
    """The gated P^T B P' c of every anchor, in the shape of the map ``here``."""
    z, sent = loss.directions(here, top)
    parts = torch.stack([_gated(z, each, score, loss.negatives) for each in sent]).sum(0)
    rows, columns = (loss.pool.along(n).to(here) for n in here.shape[2:])
    features = here.shape[1] * len(rows) * len(columns)  # without a constant one
    pooled = parts[:, :features].view(len(here), here.shape[1], len(rows), len(columns))
    return torch.einsum("ncrs,rh,sw->nchw", pooled, rows, columns)


def _gated(z: Tensor, sent: Tensor, score: Score, negatives: Negatives) -> Tensor:
    """What anchors get from their references, gated and summed, (2N, features)."""
    if negatives == "stacked":
        # One stack of both directions, whose losses are means over N pairs each.
        anchors, references = z.flatten(0, 1), sent.flatten(0, 1)
        return len(z) * gates(anchors @ references.T, score, negatives) @ references
    return torch.cat([gates(a @ b.T, score, negatives) @ b for a, b in zip(z, sent, strict=True)])


def _parts(
    block: nn.Module, below: Tensor
) -> tuple[nn.Linear | nn.Conv2d, list[nn.Module], Tensor]:
    modules = list(block) if isinstance(block, nn.Sequential) else [block]
    if isinstance(modules[0], nn.Flatten):
        below = modules.pop(0)(below)
    layer, rest = modules[0], modules[1:]
    if not isinstance(layer, nn.Linear | nn.Conv2d) or not all(
        isinstance(m, nn.ReLU | nn.MaxPool2d) for m in rest
    ):
        raise ValueError(
            "A block must be a Linear or Conv2d, followed by ReLU and MaxPool2d only, got "
            f"{', '.join(type(m).__name__ for m in modules)}; use autograd for others."
        )
    if isinstance(layer, nn.Conv2d) and (
        layer.groups > 1 or isinstance(layer.padding, str) or layer.padding_mode != "zeros"
    ):
        raise ValueError(
            "A convolution must have one group and padding with zeros, given in numbers, got "
            f"{layer}; use autograd for others."
        )
    return layer, rest, below


def _forward(module: nn.Module, z: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """The output of a ReLU or MaxPool2d and the way back through it."""
    if isinstance(module, nn.ReLU):
        open_ = (z > 0).to(z)
        return z * open_, open_.mul
    pool = cast(nn.MaxPool2d, module)
    pooled, winners = functional.max_pool2d(
        z,
        pool.kernel_size,
        pool.stride,
        pool.padding,
        pool.dilation,
        ceil_mode=pool.ceil_mode,
        return_indices=True,
    )
    return pooled, partial(_to_winners, winners, z)


def _to_winners(winners: Tensor, z: Tensor, signal: Tensor) -> Tensor:
    """The signal of each pooling window at the place of its maximum."""
    places = torch.zeros_like(z).flatten(2)
    return places.scatter_add(2, winners.flatten(2), signal.flatten(2)).view_as(z)


def _presynaptic(layer: nn.Linear | nn.Conv2d, below: Tensor) -> Tensor:
    """(samples, synapses of a neuron, places)."""
    if isinstance(layer, nn.Linear):
        return as_map(below).flatten(2)
    padding = cast(tuple[int, int], layer.padding)
    kernel, dilation, stride = layer.kernel_size, layer.dilation, layer.stride
    return functional.unfold(
        below,
        cast(tuple[int, int], kernel),
        cast(tuple[int, int], dilation),
        padding,
        cast(tuple[int, int], stride),
    )
