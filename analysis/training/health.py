"""What a training shows that learns nothing: equal views, outputs that no longer differ."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from linlocal.analysis.block import Block
from linlocal.inputs import warn

EVERY = 25
"""The number of steps between looks at the outputs."""

_SPREAD = 1e-3  # of outputs that have collapsed, relative to what it was
_ROUNDING = 10  # units of rounding by which equal outputs may differ


def warn_of_equal_views(views: Tensor) -> None:
    """Warn if the two halves of a batch, or all of its rows, are equal.

    Args:
        views: (2N, ...) both views.
    """
    half = len(views) // 2
    if len(views) < 4 or len(views) % 2 or views.is_meta:
        return
    if bool((views == views[:1]).all()):
        found = f"All {len(views)} rows of the first batch are equal"
    elif torch.equal(views[:half], views[half:]):
        found = f"Both halves of the first batch are equal, row by row, in all {half} rows"
    else:
        return
    warn(
        f"{found}: positive pairs then say nothing about what views of a datum share. Draw each "
        "view anew in augment, or look at how the batch is stacked."
    )


class Spread:
    """Warns once for each block whose outputs no longer differ between samples.

    Args:
        blocks: the blocks.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self._blocks = blocks
        self._first: dict[int, float] = {}
        self._looked: dict[int, int] = {}
        self._warned: set[int] = set()

    def look(self, position: int, z: Tensor, step: int) -> None:
        """Measure max_i (max_n z_ni - min_n z_ni) of a block, after step 1 and every `EVERY` steps.

        Args:
            position: the position of the block, from 0.
            z: its output.
            step: the number of steps that were taken before.
        """
        due = step == 1 or (step > 0 and step % EVERY == 0)
        if not due or z.is_meta or position in self._warned:
            return
        if self._looked.get(position) == step:  # a backward pass without a step
            return
        self._looked[position] = step
        z = z.detach()
        apart, size = (z.amax(0) - z.amin(0)).max(), z.norm() / z.numel() ** 0.5
        spread, size = torch.stack([apart.double(), size.double()]).tolist()
        first = self._first.setdefault(position, spread)
        rounding = _ROUNDING * torch.finfo(z.dtype).eps * size
        if step == 1 or not spread <= max(_SPREAD * first, rounding):  # nor where it is NaN
            return
        self._warned.add(position)
        warn(
            f"The output of block {position + 1} ({self._blocks[position].name}) has collapsed: at "
            f"step {step} it differs between samples by {spread:.3g} at most, in any of its "
            f"entries (by {first:.3g} at the first look; their size is {size:.3g}). The rule or "
            "its weights do not keep samples apart, the learning rate is too large, or all units "
            "are silent."
        )
