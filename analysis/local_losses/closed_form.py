"""Projections in closed form: nearest to the backpropagated error, or optimal for their own loss.

With the slopes g_L of the last block's loss, the error signal that a block sends is linear in its
projection, P^T B S^T: row k of S is the sum of the contexts that are paired with anchor k, each
times its slope (statement 16 of docs/theory.md). So the B that brings it nearest to the
backpropagated error E is a problem of least squares,

    min_B  ||E - S B^T P||_F^2 + ridge ||B^T P||_F^2,      B^T = (S^T S + ridge I)^-1 S^T E P^+ .

Rows (S, E P^+) of earlier batches may stay, with less and less weight. No more of them are kept
than S has columns: a QR decomposition of S leaves the solution as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.local_losses.projections import ProjectionModule
from linlocal.analysis.local_losses.scored_pairs import ScoredPairs

Rows = tuple[Tensor, Tensor]


@dataclass
class LeastSquares:
    """The B of one block that best matches the backpropagated error, per batch or over time.

    Attributes:
        loss: the local loss of the block, whose projections `solve` sets.
        ridge: a penalty on what B sends, relative to the mean squared singular value of S.
        decay: the weight that earlier batches keep when one is added; 0 keeps the last batch only.

    Raises:
        ValueError: the loss has no projection or one in the downstream metric, ridge is negative,
            or decay is not in [0, 1).
    """

    loss: ScoredPairs
    ridge: float = 1e-6
    decay: float = 0.0
    _rows: list[Rows] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.not_negative, "ridge")
        inputs.keep(self, inputs.share, "decay")
        if self.decay == 1:
            raise ValueError("decay must be below 1: with 1 no batch would ever count.")
        if not self.loss.projections:
            raise ValueError("An identity projection has no B to be solved for.")
        if self.loss.reads_downstream:
            raise ValueError(
                "B is bound by its penalty in the downstream metric, so it cannot be solved for: "
                'take the metric "frobenius".'
            )

    def add(
        self,
        here: Tensor,
        top: Tensor,
        slopes: Sequence[tuple[Tensor, Tensor]],
        global_error: Tensor,
    ) -> None:
        """Take a batch into account.

        Args:
            here: (2N, ...) the block's output.
            top: (2N, ...) the last block's output.
            slopes: those of the last block's loss, `ScoredPairs.slopes`.
            global_error: dL_global/dz_l, shaped like ``here``.
        """
        design = self.loss.design(here.detach(), top.detach(), slopes)
        target = self.loss.pool.lifted(global_error.to(design)).view(2, len(design[0]), -1)
        by_direction = list(zip(design, target, strict=True))
        if len(self.loss.projections) == 1:
            by_direction = [(design.flatten(0, 1), target.flatten(0, 1))]
        old = self._rows if self.decay else []
        self._rows = [
            _joined(self.decay, before, new) for before, new in zip_longest(old, by_direction)
        ]

    def solve(self) -> None:
        """Set the projections of the loss.

        Raises:
            RuntimeError: no batch was added.
        """
        if not self._rows:
            raise RuntimeError("Add a batch before solving for the projection.")
        for contexts, (design, target) in zip(self.loss.projections, self._rows, strict=True):
            modules = [b for b in contexts.modules() if isinstance(b, ProjectionModule)]
            u, s, vt = torch.linalg.svd(design, full_matrices=False)
            strength = self.ridge * s.square().mean()
            real = s > s[0] * max(design.shape) * torch.finfo(s.dtype).eps
            gains = torch.where(real, s / (s.square() + strength), 0)
            transposed = vt.T @ (gains[:, None] * (u.T @ target))
            widths = [_context_width(b) for b in modules]
            for b, part in zip(modules, transposed.split_with_sizes(widths), strict=True):
                b.set_to(part.T)


def _joined(decay: float, old: Rows | None, new: Rows) -> Rows:
    """Rows whose squares are decay times the old ones plus 1 - decay times the new ones."""
    if old is None:
        return new
    weights = ((old, decay**0.5), (new, (1 - decay) ** 0.5))
    design, target = (torch.cat([rows[k] * w for rows, w in weights]) for k in (0, 1))
    if len(design) <= design.shape[1]:
        return design, target
    q, r = torch.linalg.qr(design)
    return r, q.T @ target


def _scored(loss: nn.Module) -> ScoredPairs:
    if not isinstance(loss, ScoredPairs):
        raise TypeError(f"{type(loss).__name__} scores no pairs, so it has no projection.")
    return loss


def _context_width(b: ProjectionModule) -> int:
    return (b.left if b.right is None else b.right).shape[1]


def least_squares(
    losses: nn.ModuleList,
    outputs: Sequence[Tensor],
    global_errors: Sequence[Tensor],
    ridge: float = 1e-6,
) -> None:
    """Set the projections of all blocks below the last to those nearest to the global error.

    Args:
        losses: the local losses of the blocks, of scored pairs.
        outputs: (2N, ...) the outputs of the blocks.
        global_errors: dL_global/dz_l of all blocks below the last, for the loss of the last block.
        ridge: as for `LeastSquares`.

    Raises:
        TypeError: a loss scores no pairs.
    """
    top = outputs[-1].detach()
    *below, last = (_scored(loss) for loss in losses)
    slopes = last.slopes(top, top)
    for loss, here, error in zip(below, outputs[:-1], global_errors, strict=True):
        match = LeastSquares(loss, ridge)
        match.add(here, top, slopes, error)
        match.solve()
