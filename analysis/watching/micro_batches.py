"""Blocks that run on a few rows of a batch at a time, and hold the activities of those alone.

The output of a block is put together from all micro-batches, so that a loss may couple the rows of
a batch (negatives, statistics). In the backward pass each micro-batch runs once more, from the same
random state, and the rows of the gradient that are its own are sent back: recomputation (Chen et
al. 2016, arXiv 1604.06174), as in gradient caching (Gao et al. 2021, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from linlocal.analysis.block import Block
from linlocal.analysis.random_states import drawing
from linlocal.analysis.watching.restore import untouched
from linlocal.inputs import whole

# Large, so that statistics of a batch move far more than by rounding; a power of two is exact.
_CHANGE = -8


class MicroBatches:
    """Runs blocks on so many rows at a time; gradients are those of the whole batch.

    The inside of a block is cut, the module of its name. What lies between two of them runs whole,
    and so does a block on no more rows than that.

    Args:
        blocks: of `block.resolve`.
        rows: of a micro-batch; the last one may have fewer.

    Raises:
        ValueError: less than one row.
    """

    def __init__(self, blocks: Sequence[Block], rows: int) -> None:
        self.blocks, self.rows = blocks, whole(rows, "The number of rows of a micro-batch", 1)
        self._checked: set[tuple[str, tuple[bool, ...]]] = set()

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Inside, forward passes run the blocks so.

        Raises:
            ValueError: a block that takes more than one tensor, or that gives on micro-batches what
                it does not give on the batch: rows that depend on each other (`nn.BatchNorm2d` in
                training), buffers or an input that it changes.
        """
        # Not by setattr, which modules may have of their own.
        attributes = [vars(block.module) for block in self.blocks]
        kept = [own.get("forward") for own in attributes]
        try:
            for block, own in zip(self.blocks, attributes, strict=True):
                own["forward"] = self._by_rows(block, block.module.forward)
            yield
        finally:
            for own, forward in zip(attributes, kept, strict=True):
                own.pop("forward", None)
                if forward is not None:
                    own["forward"] = forward

    def _by_rows(self, block: Block, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            x = args[0] if args else None
            others = (*args[1:], *options.values())
            if not isinstance(x, Tensor) or any(isinstance(other, Tensor) for other in others):
                raise ValueError(
                    f"Block {block.name!r} was not called with one tensor, its first argument: how "
                    "to cut the others into micro-batches is not known. Train it without."
                )
            if len(x) <= self.rows:
                return forward(*args, **options)

            def part(rows: Tensor) -> Tensor:
                output: Tensor = forward(rows, *args[1:], **options)
                return output

            # A cast of weights that is kept for all micro-batches sums their gradients in 16 bits.
            with _casts_not_kept():
                self._check(block, part, x)
                return torch.cat(
                    [checkpoint(part, rows, use_reentrant=False) for rows in x.split(self.rows)]
                )

        return run

    def _check(self, block: Block, part: Callable[[Tensor], Tensor], x: Tensor) -> None:
        """Once for each setting of train and eval modes, on values in which it can be seen."""
        key = (block.name, tuple(m.training for m in block.module.modules()))
        if key in self._checked or x.is_meta:
            return
        rows = x.detach()[[0, -1]]
        changed = rows.clone()
        changed[1] = _CHANGE * rows[1] if x.is_floating_point() else rows[0]
        if torch.equal(rows, changed):
            return
        first, what = _first_row(block.module, part, rows)
        again, _ = _first_row(block.module, part, changed)
        tolerance = torch.finfo(first.dtype).eps ** 0.5
        if (first - again).double().norm() > tolerance * first.double().norm():
            what = "gives a row an output that depends on the other rows of the batch"
        if what:
            raise ValueError(
                f"Block {block.name!r} ({type(block.module).__name__}) {what}, so that "
                "micro-batches would change what is computed. Likely causes: BatchNorm in training "
                "(put it into eval mode or use GroupNorm), noise with a standard deviation per "
                '"channel" or "tensor" (use "map"), spectral normalisation, an operation with '
                "inplace=True at the block's beginning. Or train with micro_batch=None."
            )
        self._checked.add(key)


def _first_row(
    module: nn.Module, part: Callable[[Tensor], Tensor], rows: Tensor
) -> tuple[Tensor, str]:
    """The output for row 0, from the same random state in each call, and what else was changed."""
    version = rows._version
    with untouched(module), drawing(rows.device, 0), torch.no_grad():
        before = [buffer.clone() for buffer in module.buffers()]
        output = part(rows)[0]
        if not all(map(torch.equal, module.buffers(), before)):
            return output, "changes its buffers"
    return output, "changes its input in place" if rows._version != version else ""


@contextmanager
def _casts_not_kept() -> Iterator[None]:
    kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(kept)
