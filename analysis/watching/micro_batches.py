"""Blocks that run on a few rows of a batch at a time, and hold the activities of those rows only.

The output of a block is put together from all micro-batches, so a loss may couple the rows of a
batch (negatives, statistics). In the backward pass each micro-batch runs once more, from the same
random state, and the gradient by its own rows is sent back. This is recomputation (Chen et al.
2016, arXiv 1604.06174), used as in gradient caching (Gao et al. 2021, arXiv 2101.06983).
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

# Large, so statistics of a batch move far more than by rounding; multiplying by a power of two is
# exact.
_CHANGE = -8


class MicroBatches:
    """Runs blocks on a few rows at a time; the gradients are those of the whole batch.

    The module that a block is named after runs on micro-batches. What lies between two such modules
    runs on the whole batch, and so does a block whose batch has no more than ``rows`` rows.

    Args:
        blocks: the blocks, as `block.resolve` returns them.
        rows: the number of rows of a micro-batch; the last one may have fewer.

    Raises:
        ValueError: ``rows`` is less than 1.
    """

    def __init__(self, blocks: Sequence[Block], rows: int) -> None:
        self.blocks, self.rows = blocks, whole(rows, "The number of rows of a micro-batch", 1)
        self._checked: set[tuple[str, tuple[bool, ...]]] = set()

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Run the blocks on micro-batches in all forward passes inside.

        Raises:
            ValueError: a block takes more than one tensor, or computes something else on
                micro-batches than on the batch: its rows depend on each other (`nn.BatchNorm2d` in
                training), or it changes its buffers or its input.
        """
        # Not by setattr, because modules may define their own.
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
                    f"Block {block.name!r} must be called with one tensor, its first argument, to "
                    "be cut into micro-batches: how to cut other arguments is not known. Train it "
                    "with micro_batch=None."
                )
            if len(x) <= self.rows:
                return forward(*args, **options)

            def part(rows: Tensor) -> Tensor:
                output: Tensor = forward(rows, *args[1:], **options)
                return output

            # If autocast kept its cast weights, the gradients of all micro-batches would be summed
            # in 16 bits.
            with _casts_not_kept():
                self._check(block, part, x)
                return torch.cat(
                    [checkpoint(part, rows, use_reentrant=False) for rows in x.split(self.rows)]
                )

        return run

    def _check(self, block: Block, part: Callable[[Tensor], Tensor], x: Tensor) -> None:
        """Raise if micro-batches change what a block computes.

        Checked once for each setting of train and eval modes, on values that make it visible.
        """
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
                f"Block {block.name!r} ({type(block.module).__name__}) {what}, so micro-batches "
                "would change what is computed. Likely causes: BatchNorm in training "
                "(put it into eval mode or use GroupNorm), noise with a standard deviation per "
                '"channel" or "tensor" (use "map"), spectral normalisation, an operation with '
                "inplace=True at the block's beginning. Or train with micro_batch=None."
            )
        self._checked.add(key)


def _first_row(
    module: nn.Module, part: Callable[[Tensor], Tensor], rows: Tensor
) -> tuple[Tensor, str]:
    """The output for row 0, from the same random state in each call, and what the call changed."""
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
