"""Why a local error signal departs from the backpropagated one: masks, feedback, slopes.

For a loss of scored pairs the error signals of sample k at block l are

    local  =  g_l[k] B_l c_l[k],        global  =  J_l[k]^T g_L[k] B_L c_L[k]

with g the slopes of the loss and J_l the map downstream. With J' the downstream map whose
elementwise derivatives are averaged over the batch, three steps lead from local to global:

    hybrid  =  g_L[k] B_l c_l[k]            "slopes": the pairs are weighted as the top weights them
    masked  =  J'^T g_L[k] B_L c_L[k]       "feedback": what B_l sends back is what comes back
    global                                  "masks": every sample gets its own derivatives

    global - local = (global - masked) + (masked - s hybrid) + (s hybrid - local)

where s brings the hybrid as near as possible to the local signal (statement 15 of docs/theory.md).
Everything that is reported follows from the inner products of these signals, which add over
samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linlocal.analysis.alignment.products import divide
from linlocal.analysis.local_losses import LocalLoss, ScoredPairs
from linlocal.analysis.watching import Rescale, averaged_errors, errors_below

TERMS = ("slopes", "feedback", "masks")
SIGNALS = {"ordered": 4, "all orders": 6}
"""How many signals are needed for one order of the steps, and for all."""


def between(
    losses: Sequence[LocalLoss],
    passes: Sequence[Sequence[Tensor]],
    error: Tensor,
    rescale: Rescale,
    orders: str,
) -> list[list[Tensor]]:
    """The signals between the local and the global one, for every block.

    Args:
        losses: the local loss of every block; the last one is the global loss.
        passes: the outputs of all blocks with their graph, from one pass or one for each view.
        error: dLoss/dz_L of both views, stacked.
        rescale: scales the losses.
        orders: "ordered" or "all orders".

    Returns:
        For every block the hybrid and the masked signal; for all orders also what the slopes of the
        block bring when they are backpropagated from the last block, with averaged derivatives and
        with those of the sample. Both views are stacked.

    Raises:
        ValueError: a loss scores no pairs; or as `averaged_errors`.
    """
    scored = [_scored(loss) for loss in losses]
    outputs = [joined(z).detach() for z in zip(*passes, strict=True)]
    top, of_top = outputs[-1], scored[-1]
    slopes = of_top.slopes(top, top)
    masked = averaged_errors(passes, error.chunk(len(passes)))
    found = []
    for l, (loss, z) in enumerate(zip(scored[:-1], outputs[:-1], strict=True)):
        signals = [_pulled(loss, z, top, slopes, rescale), joined([each[l] for each in masked])]
        if orders == "all orders":
            own = _pulled(of_top, top, top, loss.slopes(z, top), rescale).chunk(len(passes))
            ends = [(outputs_of[l], outputs_of[-1]) for outputs_of in passes]
            averaged = [below for (below,) in averaged_errors(ends, own)]
            full = [errors_below(*each)[0] for each in zip(ends, own, strict=True)]
            signals += [joined(averaged), joined(full)]
        found.append(signals)
    return [*found, [error] * (SIGNALS[orders] - 2)]


def joined(views: Sequence[Tensor]) -> Tensor:
    """The rows of all passes, stacked; those of a single one are not copied."""
    return views[0] if len(views) == 1 else torch.cat([*views])


def _scored(loss: LocalLoss) -> ScoredPairs:
    if not isinstance(loss, ScoredPairs):
        raise ValueError(
            f"masks, feedback and slopes are defined for losses of scored pairs, and {loss.title} "
            "is none: take a rule such as CLAPP, or leave the terms out."
        )
    return loss


def _pulled(
    loss: ScoredPairs,
    here: Tensor,
    top: Tensor,
    slopes: Sequence[tuple[Tensor, Tensor]],
    rescale: Rescale,
) -> Tensor:
    leaf = here.detach().requires_grad_()
    with torch.enable_grad():
        (error,) = torch.autograd.grad(rescale(loss.pulled(leaf, top, slopes)), leaf)
    return error


def signals(local: Tensor, others: Sequence[Tensor], global_: Tensor) -> list[Tensor]:
    """What `explained` needs the inner products of.

    The difference global - masked stands for the global signal, because the masks term would lose
    its digits where it is small.
    """
    hybrid, masked, *own = others
    return [local, hybrid, masked, global_ - masked, *own]


def explained(grams: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The terms, and what each takes from the cosine.

    Args:
        grams: (..., signals, signals), the inner products of `signals`.

    Returns:
        Arrays (...) by name. ``slopes``, ``feedback`` and ``masks`` are the norms of the terms over
        that of the global signal. ``slopes_share``, ``feedback_share`` and ``masks_share`` add up
        to 1 - cosine: how much nearer, in cosine, each step brings the signal to the global one, in
        this order. ``slopes_shapley`` and so on, where the signals allow it, are these shares
        averaged over all orders of the steps. Values are NaN where a norm is 0.
    """
    count = grams.shape[-1]
    local, hybrid, masked = np.eye(count)[:3]
    global_ = masked + np.eye(count)[3]

    def dot(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.einsum("...i,...ij,...j->...", a, grams, b)

    def norm(a: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.sqrt(np.maximum(dot(a, a), 0.0))

    def nearness(a: NDArray[np.float64]) -> NDArray[np.float64]:
        return divide(dot(a, global_), norm(a) * norm(global_))

    nearest = divide(dot(hybrid, local), dot(hybrid, hybrid))[..., None] * hybrid
    steps = (nearest - local, masked - nearest, np.broadcast_to(global_ - masked, nearest.shape))
    found = {t: divide(norm(step), norm(global_)) for t, step in zip(TERMS, steps, strict=True)}
    path = [nearness(a) for a in (local, hybrid, masked, global_)]
    gains = np.diff(path, axis=0)
    found |= {f"{t}_share": gain for t, gain in zip(TERMS, gains, strict=True)}
    if count == SIGNALS["all orders"]:
        own, own_full = np.eye(count)[4:]
        # By the steps taken: where nothing is backpropagated, masks make no difference.
        reached = {
            frozenset[str](): local,
            frozenset({"slopes"}): hybrid,
            frozenset({"masks"}): local,
            frozenset({"slopes", "masks"}): hybrid,
            frozenset({"feedback"}): own,
            frozenset({"slopes", "feedback"}): masked,
            frozenset({"feedback", "masks"}): own_full,
            frozenset(TERMS): global_,
        }
        at = {taken: nearness(signal) for taken, signal in reached.items()}
        orders = [*permutations(TERMS)]
        for t in TERMS:
            before = [frozenset(order[: order.index(t)]) for order in orders]
            added = [at[taken | {t}] - at[taken] for taken in before]
            found[f"{t}_shapley"] = np.mean(added, axis=0)
    return found
