"""The losses of blockwise training, by name: each behind the heads of its blocks."""

from __future__ import annotations

from linlocal import losses
from linlocal.analysis.local_losses import HeadedClasses, HeadedRule, HeadedViews, HeadKind
from linlocal.losses import ViewLoss

SUPERVISED = "supervised"
VIEW_LOSSES: dict[str, ViewLoss] = {
    "Barlow Twins": losses.BarlowTwins(weight=0.0051),
    "VICReg": losses.VICReg(),
    "SimCLR": losses.NTXent(0.2),
}
# The published factor on a loss, where there is one.
_SCALES = {"Barlow Twins": 0.024}


def headed_rule(
    loss: str,
    num_classes: int,
    *,
    width: int,
    projector: tuple[int, ...],
    kind: HeadKind = "expansion",
    gathered: bool = False,
) -> HeadedRule:
    """The rule that puts each block's loss behind a head and a projector of its own.

    Args:
        loss: a name in `VIEW_LOSSES`, or "supervised", which reads the labels of the batch.
        num_classes: number of classes that the supervised loss tells apart.
        width: width of the expansion in the head.
        projector: widths of the projector; the last layer of a supervised one has a unit for each
            class instead.
        kind: the kind of head.
        gathered: whether the loss reads the joined batch of all processes.
    """
    if loss == SUPERVISED:
        return HeadedClasses(kind=kind, width=width, widths=(*projector[:-1], num_classes))
    return HeadedViews(
        kind=kind,
        width=width,
        widths=projector,
        loss=VIEW_LOSSES[loss],
        scale=_SCALES.get(loss, 1.0),
        gathered=gathered,
    )
