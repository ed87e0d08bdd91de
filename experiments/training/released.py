"""CLAPP++, InfoNCE and matched projections as the code of Wu et al. 2026 trains them (2601.21683).

What our runs still do otherwise is on the page "Departures from published settings" of the docs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from linlocal import losses
from linlocal.analysis.local_losses import (
    CLAPP,
    Cells,
    HeadedViews,
    LeastSquares,
    NetworkRule,
    ScoredPairs,
    Shape,
)

# Windows 12-12-12-6-6-3 on images of 96 pixels, 8-8-8-4-4-2 of 64 and 4-4-4-2-2-1 of 32.
CELLS = (8, 4, 4, 4, 2, 2)
HEAD = 1024


def released_clapp(cells: tuple[int, ...] = CELLS, **options: Any) -> NetworkRule:
    """CLAPP++: hinge, no penalty, negatives next in the stack of both views.

    Args:
        cells: cells of the pooled map along a side, for each block of the encoder.
        options: those of `linlocal.analysis.local_losses.CLAPP`.
    """
    pooling = tuple(Cells(side) for side in cells)
    return CLAPP(pooling=pooling, negatives="stacked", penalty=0.0, **options)


def released_infonce() -> HeadedViews:
    """InfoNCE of cosines at temperature 0.1, of averaged maps behind a bias-free linear layer."""
    return HeadedViews(
        kind="global", widths=(HEAD,), loss=losses.CosineInfoNCE(temperature=0.1), scale=1.0
    )


@dataclass(frozen=True)
class MatchedInTraining:
    """Projections that the optimiser of the network trains to match backpropagation.

    Each step moves B_l against the gradient of ||dL_global/dz_l - dL_l/dz_l||^2 by B_l, while the
    network learns from L_l; the last block's B learns from its loss. The published "theoretical
    optimum" of Fig. 3b; `LeastSquares` solves for such a B, at the slopes of the last block.

    Attributes:
        rule: CLAPP with trained projections.
    """

    rule: NetworkRule

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """As `NetworkRule.build`."""
        *below, last = self.rule.build(shapes, seed)
        return nn.ModuleList([*(_MatchedInTraining(cast(ScoredPairs, b)) for b in below), last])


class _MatchedInTraining(ScoredPairs):
    """The loss of a block below the last.

    Args:
        scored: the same with a B that is trained with the loss.
    """

    global_error: Tensor

    def __init__(self, scored: ScoredPairs) -> None:
        super().__init__(
            scored.loss,
            scored.pool,
            scored.contexts,
            cast(Any, scored.projections),
            negatives=scored.negatives,
            penalty=0.0,
            trained=True,
            matching=LeastSquares(),
        )

    def match(
        self, here: Tensor, top: Tensor, slopes: Any, global_error: Tensor, how: Any = None
    ) -> None:
        """Keep what the next loss is to match."""
        self.global_error = global_error.detach()

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        z = here.detach().requires_grad_()
        by_projection = self._pairs_loss(z, top, through_projections=True)
        (error,) = torch.autograd.grad(by_projection, z, create_graph=True)
        distance = (error - self.global_error).square().sum()
        return self.activity_loss(here, top) + distance
