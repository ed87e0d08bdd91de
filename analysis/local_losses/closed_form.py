"""Projections in closed form on a batch: nearest to the backpropagated error, or optimal.

The first is linear least squares given the slopes of the last block's loss (`regression`). The
second minimises the block's own penalised loss on the pooled activities of the batch, by the solver
of `linlocal.optimal_projection`. Both set the projections of losses that are built already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.local_losses.contract import LocalLoss
from linlocal.analysis.local_losses.projections import ProjectionModule
from linlocal.analysis.local_losses.regression import LeastSquares
from linlocal.analysis.local_losses.scored_pairs import Negatives, ScoredPairs
from linlocal.inputs import Array, Index
from linlocal.losses import InfoNCE, TypeOne, TypeTwo
from linlocal.pairs import Direction, Pairs
from linlocal.projection import Projection, optimal_projection

# Of these the loss of both directions together is the mean of their losses.
_MEANS = (TypeOne, TypeTwo, InfoNCE)


def _scored(loss: nn.Module) -> ScoredPairs:
    if not isinstance(loss, ScoredPairs):
        raise TypeError(f"{type(loss).__name__} scores no pairs, so it has no projection.")
    return loss


def least_squares(
    losses: nn.ModuleList,
    outputs: Sequence[Tensor],
    global_errors: Sequence[Tensor],
    how: LeastSquares | None = None,
) -> None:
    """Set the projections of all blocks below the last to those nearest to the global error.

    Args:
        losses: the local losses of the blocks, of scored pairs.
        outputs: (2N, ...) the outputs of the blocks.
        global_errors: dL_global/dz_l of all blocks below the last, for the loss of the last block.
        how: how they are solved for, from this batch alone; by default `LeastSquares()`.

    Raises:
        TypeError: a loss scores no pairs.
        ValueError: as `ScoredPairs.match`.
        FloatingPointError: an error or a slope is not finite.
    """
    top = outputs[-1].detach()
    *below, last = (_scored(loss) for loss in losses)
    slopes = last.slopes(top, top)
    for loss, here, error in zip(below, outputs[:-1], global_errors, strict=True):
        loss.match(here, top, slopes, error, how or LeastSquares())


def match(
    losses: Sequence[LocalLoss], outputs: Sequence[Tensor], global_errors: Sequence[Tensor]
) -> None:
    """Let all losses that are matched to the backpropagated error solve for their projections.

    Args:
        losses: the local losses of the blocks.
        outputs: (2N, ...) the outputs of the blocks.
        global_errors: dL_global/dz_l of all blocks below the last, for the loss of the last block.

    Raises:
        TypeError: a loss that needs the global error, or the last one, scores no pairs.
        FloatingPointError: an error or a slope is not finite.
    """
    top = outputs[-1].detach()
    slopes = _scored(losses[-1]).slopes(top, top)
    for loss, here, error in zip(losses[:-1], outputs[:-1], global_errors, strict=True):
        if loss.needs_global_error:
            _scored(loss).match(here, top, slopes, error)


def match_forward(
    losses: Sequence[LocalLoss],
    outputs: Sequence[Tensor],
    product: Callable[[int, Tensor], Tensor],
) -> None:
    """`match` from forward-mode products, without the backpropagated error.

    Args:
        losses: as for `match`.
        outputs: as for `match`.
        product: maps the position of a block, from 0, and a tangent v in the shape of its output
            to (2N,) directional derivatives <dL_global/dz_l[k], v[k]>.

    Raises:
        TypeError, FloatingPointError: as `match`.
        ValueError: a loss was built without tangents.
    """
    top = outputs[-1].detach()
    slopes = _scored(losses[-1]).slopes(top, top)
    for l, (loss, here) in enumerate(zip(losses[:-1], outputs[:-1], strict=True)):
        if loss.needs_global_error:
            _scored(loss).match_forward(here, top, slopes, partial(product, l))


def penalty_optimal(
    loss: nn.Module, here: Tensor, top: Tensor | None = None, penalty: float | None = None
) -> list[Projection]:
    """Set the projections of a block to the optimum of its own penalised loss on a batch.

    That is argmin_B phi + lam/2 ||B||_F^2 on pooled activities, the optimal B of
    `linlocal.compare`, in float64. A B that both directions share is the optimum of their sum.

    Args:
        loss: the local loss of the block, of scored pairs.
        here: (2N, ...) the block's output.
        top: (2N, ...) the last block's output, for losses that read it.
        penalty: lam; by default the loss's own.

    Returns:
        The optimum with its certificate: for each direction, and in it for each context that has a
        loss of its own.

    Raises:
        TypeError: the loss scores no pairs.
        ValueError: the projections are an identity, or products of low rank, over which the problem
            is not convex; lam is 0; or as `linlocal.optimal_projection`.
        ConvergenceError: as `linlocal.optimal_projection`.
    """
    scored = _scored(loss)
    lam = scored.penalty if penalty is None else inputs.not_negative(penalty, "penalty")
    contexts = [
        [b for b in directed.modules() if isinstance(b, ProjectionModule)]
        for directed in scored.projections
    ]
    if not contexts:
        raise ValueError("An identity projection has no B to be solved for.")
    if any(b.right is not None for directed in contexts for b in directed):
        raise ValueError(
            "Over products of low rank the penalised loss is not convex, and its optimum unknown: "
            "build the loss without rank and budget."
        )
    if lam == 0:
        raise ValueError(
            "Without a penalty the optimal projection need not exist, and this loss has none: give "
            "penalty=..., or build the loss with one."
        )
    with torch.no_grad():
        z, *read = (part.double().cpu().numpy() for part in scored.rows(here, top))
    if not scored.separate:
        read = [np.hstack(read)]
    found = []
    for directed, pairs in zip(contexts, _directions(scored, len(z) // 2), strict=True):
        widths = [b.sides[1] for b in directed]
        solved = [
            optimal_projection(
                z[pairs.anchor_rows], c[pairs.reference_rows], pairs, scored.loss, lam
            )
            for c in read
        ]
        joined = torch.from_numpy(np.hstack([each.matrix for each in solved]))
        for b, part in zip(directed, joined.split(widths, 1), strict=True):
            b.set_to(part)
        found += solved
    return found


def _directions(loss: ScoredPairs, samples: int) -> list[Direction]:
    """Who is scored against whom, for each projection: a view direction, or both in one."""
    nothing = np.zeros((samples, 1))
    listed = len(loss.projections) == 1 and loss.negatives == "all"
    negatives: Negatives = "next" if listed else loss.negatives
    count = samples - 1 if listed else 1
    pairs = Pairs.from_views(nothing, nothing, negatives=negatives, num_negatives=count).directions
    if len(loss.projections) > 1:
        return [*pairs]
    if type(loss.loss) not in _MEANS:
        raise ValueError(
            f"{type(loss.loss).__name__} need not be a mean over pairs, so both directions are no "
            "one problem: build the loss with shared=False."
        )
    joined = map(np.concatenate, zip(*map(_listed, pairs), strict=True))
    anchor, reference, sign, group = joined
    group[pairs[0].num_pairs :] += samples
    return [Direction(anchor, reference, sign, group)]


def _listed(direction: Direction) -> tuple[Index, Index, Array, Index]:
    return direction.anchor, direction.reference, direction.sign, direction.group
