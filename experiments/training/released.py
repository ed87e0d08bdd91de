"""CLAPP++ and InfoNCE as the released code of Wu et al. 2026 (arXiv 2601.21683) trains them.

What our runs still do otherwise is on the page "Departures from published settings" of the docs.
"""

from __future__ import annotations

from typing import Any

from linlocal import losses
from linlocal.analysis.local_losses import CLAPP, Cells, HeadedViews, NetworkRule

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
