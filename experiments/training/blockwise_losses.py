"""The losses of blockwise training, by name: each behind the heads of its blocks."""

from __future__ import annotations

from linlocal.analysis.local_losses import (
    HeadedClasses,
    HeadedRule,
    HeadedViews,
    HeadKind,
    Labels,
    view_losses,
)

SUPERVISED = "supervised"
VIEW_LOSSES: dict[str, view_losses.ViewLoss] = {
    "Barlow Twins": view_losses.BarlowTwins(weight=0.0051),
    "VICReg": view_losses.VICReg(),
    "SimCLR": view_losses.NTXent(0.2),
}
# The published factor on a loss, where there is one.
_SCALES = {"Barlow Twins": 0.024}


def headed(
    loss: str,
    num_classes: int,
    labels: Labels,
    *,
    width: int,
    projector: tuple[int, ...],
    kind: HeadKind = "expansion",
    gathered: bool = False,
) -> HeadedRule:
    """The loss of each block behind a head and a projector of its own.

    Args:
        loss: a name in `VIEW_LOSSES`, or "supervised".
        num_classes: of the supervised loss.
        labels: of the batch, for the supervised loss.
        width: of the expansion in the head.
        projector: its widths; the last layer of a supervised one has a unit for each class.
        kind: of head.
        gathered: of the joined batch of all processes.
    """
    if loss == SUPERVISED:
        widths = (*projector[:-1], num_classes)
        return HeadedClasses(kind=kind, width=width, widths=widths, labels=labels)
    return HeadedViews(
        kind=kind,
        width=width,
        widths=projector,
        loss=VIEW_LOSSES[loss],
        scale=_SCALES.get(loss, 1.0),
        gathered=gathered,
    )
