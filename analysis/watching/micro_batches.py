"""Blocks that run on a few rows of a batch at a time, and hold the activities of those rows only.

The output of a block is put together from all micro-batches, so a loss may couple the rows of a
batch (negatives, statistics). In the backward pass each micro-batch runs once more, from the same
random state, and the gradient by its own rows is sent back. This is recomputation (Chen et al.
2016, arXiv 1604.06174), used as in gradient caching (Gao et al. 2021, arXiv 2101.06983).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from linlocal.analysis.block import Block
from linlocal.analysis.random_states import drawing
from linlocal.analysis.watching.restore import untouched
from linlocal.inputs import whole

# Large, so statistics of a batch move far more than by rounding; multiplying by a power of two is
# exact.
_CHANGE = -8
_Key = tuple[str, int, tuple[bool, ...]]


class MicroBatches:
    """Runs blocks on a few rows at a time; the gradients are those of the whole batch.

    The module that a block is named after runs on micro-batches. What lies between two such modules
    runs on the whole batch, and so does a block whose batch has no more than ``rows`` rows.

    The batch is the first tensor among a block's arguments. Other tensors whose first axis is as
    long as the batch are cut with it, also those inside tuples, lists and dicts; each micro-batch
    gets the rest as it is. A block that works on the batch in place works on a copy, which is then
    written back.

    Args:
        blocks: the blocks, as `block.resolve` returns them.
        rows: the number of rows of a micro-batch; the last one may have fewer.

    Raises:
        ValueError: ``rows`` is less than 1.
    """

    def __init__(self, blocks: Sequence[Block], rows: int) -> None:
        self.blocks, self.rows = (
            blocks,
            whole(rows, "micro_batch, the number of rows of a micro-batch", 1),
        )
        # Whether a block works on its input in place, once it was checked.
        self._in_place: dict[_Key, bool] = {}

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Run the blocks on micro-batches in all forward passes inside.

        Raises:
            ValueError: a block takes no tensor, returns something else than one tensor, or
                computes something else on micro-batches than on the batch: its rows depend on each
                other (`nn.BatchNorm2d` in training), it changes its buffers, or an argument that
                is as long as the batch does not belong to its rows.
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
            call = _Call(block, forward, args, options, _batch(block, args, options))
            if len(call.batch) <= self.rows:
                return forward(*args, **options)
            starts = range(0, len(call.batch), self.rows)
            parts = [slice(start, start + self.rows) for start in starts]
            # If autocast kept its cast weights, the gradients of all micro-batches would be summed
            # in 16 bits.
            with _casts_not_kept():
                if self._works_in_place(call):
                    return _on_copies(call, parts)
                return torch.cat(
                    [checkpoint(call.on, call.batch[p], p, use_reentrant=False) for p in parts]
                )

        return run

    def _works_in_place(self, call: _Call) -> bool:
        """Whether a block changes its input; raise if micro-batches change what it computes.

        Checked once for each setting of train and eval modes, on values that make it visible.
        """
        modes = tuple(m.training for m in call.block.module.modules())
        key = (call.block.name, len(call.tensors()), modes)
        if key in self._in_place or call.batch.is_meta:
            return self._in_place.get(key, False)
        if any(_is_cut(t, call.batch) for t in call.tensors()):
            _check_arguments(call)
        ends = torch.tensor([0, -1], device=call.batch.device)
        rows = call.batch.detach()[ends]
        changed = rows.clone()
        changed[1] = _CHANGE * rows[1] if rows.is_floating_point() else rows[0]
        seen = not torch.equal(rows, changed)
        first, what, in_place = _first_row(call, rows, ends)
        again, _, _ = _first_row(call, changed, ends)
        if _apart(first, again):
            what = "gives a row an output that depends on the other rows of the batch"
        if what:
            raise ValueError(
                f"{call.title} {what}, so micro-batches would change what is computed. Likely "
                "causes: BatchNorm in training (put it into eval mode or use GroupNorm), noise "
                'with a standard deviation per "channel" or "tensor" (use "map"), spectral '
                "normalisation. Or train with micro_batch=None."
            )
        if seen:
            self._in_place[key] = in_place
        return in_place


@dataclass(frozen=True)
class _Call:
    """A call of a block, which can be made again on some of the rows.

    Attributes:
        block: the block.
        forward: its own forward function.
        args: the arguments of the call.
        options: its keyword arguments.
        batch: the tensor among them whose rows are cut.
    """

    block: Block
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]
    batch: Tensor

    @property
    def title(self) -> str:
        """What messages call the block."""
        return f"Block {self.block.name!r} ({type(self.block.module).__name__})"

    def on(self, batch: Tensor, rows: slice | Tensor) -> Tensor:
        """The output for other values of the batch, which stand at ``rows`` of the whole one."""

        def put(value: Tensor) -> Tensor:
            if value is self.batch:
                return batch
            return value[rows] if _is_cut(value, self.batch) else value

        output = self.forward(*_mapped(self.args, put), **_mapped(self.options, put))
        if not isinstance(output, Tensor):
            raise ValueError(
                f"Block {self.block.name!r} returned {type(output).__name__}, expected one tensor: "
                "choose a module that returns its activity alone."
            )
        return output

    def tensors(self) -> list[Tensor]:
        """The other tensors among the arguments."""
        return [t for t in _tensors((self.args, self.options)) if t is not self.batch]


def _batch(block: Block, args: tuple[Any, ...], options: dict[str, Any]) -> Tensor:
    first = next(_tensors((args, options)), None)
    if first is None or first.ndim == 0:
        raise ValueError(
            f"Block {block.name!r} must be called with a tensor of rows to be cut into "
            "micro-batches. Train it with micro_batch=None."
        )
    return first


def _is_cut(value: Tensor, batch: Tensor) -> bool:
    return value is not batch and value.ndim > 0 and len(value) == len(batch)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each)


def _mapped(value: Any, put: Callable[[Tensor], Tensor]) -> Any:
    """The same nested arguments with other tensors."""
    if isinstance(value, Tensor):
        return put(value)
    if isinstance(value, tuple | list):
        items = [_mapped(v, put) for v in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {k: _mapped(v, put) for k, v in value.items()}
    return value


def _on_copies(call: _Call, parts: Sequence[slice]) -> Tensor:
    """The output of a block that changes its input, which is changed in the same way."""

    def both(batch: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        own = batch.clone()
        return call.on(own, rows), own

    kept = call.batch.clone()  # the backward pass needs it as it was
    done = [checkpoint(both, kept[p], p, use_reentrant=False) for p in parts]
    outputs, changed = zip(*done, strict=True)
    output = torch.cat(outputs)
    call.batch.copy_(torch.cat(changed))
    return output


def _first_row(call: _Call, batch: Tensor, rows: Tensor) -> tuple[Tensor, str, bool]:
    """The output for row 0, what the call changed, and whether it changed its input.

    The random state is the same in each call.
    """
    module, own, others = call.block.module, batch.clone(), call.tensors()
    version, versions = own._version, [t._version for t in others]
    with untouched(module), drawing(batch.device, 0), torch.no_grad():
        before = [buffer.clone() for buffer in module.buffers()]
        output = call.on(own, rows)[0]
        kept = all(map(torch.equal, module.buffers(), before))
    what = "" if kept else "changes its buffers"
    if [t._version for t in others] != versions:
        what = "changes an argument in place that is not its first tensor"
    return output, what, own._version != version


def _check_arguments(call: _Call) -> None:
    """Raise if tensors that are as long as the batch do not belong to its rows.

    The rows of the whole batch are compared with single ones, in eval mode and without a graph.
    """
    module, batch = call.block.module, call.batch.detach()
    with untouched(module), drawing(batch.device, 0), torch.no_grad():
        module.eval()
        together = call.on(batch.clone(), slice(None))
        try:
            for row in (0, len(batch) - 1):
                alone = call.on(batch[row : row + 1].clone(), slice(row, row + 1))
                if alone.shape[1:] != together.shape[1:] or _apart(together[row], alone[0]):
                    break
            else:
                return
        except RuntimeError:  # torch's own, about shapes that do not fit
            pass
    raise ValueError(
        f"{call.title} got a tensor with as many entries as the batch has rows ({len(batch)}), but "
        "cutting it with the batch changes what is computed, so it does not belong to the rows (a "
        "mask or an embedding of places of the same number, say). Give it another axis in front, "
        "use another batch size, or train with micro_batch=None."
    )


def _apart(first: Tensor, second: Tensor) -> bool:
    tolerance = torch.finfo(first.dtype).eps ** 0.5
    return bool((first - second).double().norm() > tolerance * first.double().norm())


@contextmanager
def _casts_not_kept() -> Iterator[None]:
    kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(kept)
