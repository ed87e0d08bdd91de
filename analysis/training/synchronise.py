"""Means of gradients over processes, sent block by block while other blocks are still trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class GradientMeans:
    """g <- 1/R sum_r g_r for the gradients of R processes, one flat buffer per block and dtype.

    If a parameter has a gradient on some processes only, its gradient counts as zero on the others.
    If it has none on any process, it keeps none. To tell the two cases apart, each buffer also
    counts the processes on which a parameter has a gradient. All processes send the same buffers,
    whichever parameters they used.

    Args:
        groups: the parameters of each block; a parameter in several blocks gets the sum of what
            each of them sent.
    """

    def __init__(self, groups: Sequence[Sequence[nn.Parameter]]) -> None:
        self._blocks = [_buckets(group) for group in groups]
        self._sent: dict[int, list[tuple[Tensor, Any]]] = {}
        self._open = False

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Enclose the backward passes; afterwards ``.grad`` holds the means of their gradients.

        Raises:
            RuntimeError: a parameter got a gradient after the gradients of its block were sent.
        """
        self._sent, self._open = {}, True
        try:
            yield
            self._finish()
        finally:
            self._open = False

    def start(self, position: int) -> None:
        """Send the gradients of a block, which must be complete; outside `sending`, do nothing.

        The call frees the gradients and returns while they are summed, so the gradients of at most
        one block are held twice. All processes must send the blocks in the same order.

        Args:
            position: the position of the block, from 0.

        Raises:
            RuntimeError: the gradients of this block were sent already.
        """
        if not self._open:
            return
        if position in self._sent:
            raise RuntimeError(
                f"The gradients of block {position + 1} were sent twice in one step: report them "
                "once, when they are complete."
            )
        self._sent[position] = sent = []
        for bucket in self._blocks[position]:
            flat = bucket.filled()
            sent.append((flat, dist.all_reduce(flat, async_op=True)))

    def _finish(self) -> None:
        late = [tuple(p.shape) for l in self._sent for b in self._blocks[l] for p in b.late()]
        for position in range(len(self._blocks)):
            if position not in self._sent:
                self.start(position)
        for position, sent in self._sent.items():
            for bucket, (flat, work) in zip(self._blocks[position], sent, strict=True):
                work.wait()
                bucket.read(flat)
        if late:
            raise RuntimeError(
                f"Parameters of shapes {late} got a gradient after those of their block had been "
                "averaged: the network computes with them before the block below has run. Use "
                "them where their block runs."
            )


class _Bucket:
    """The parameters of one block, dtype and device, as they are laid out in a flat buffer.

    Each parameter keeps its memory format there; the counts come after all of them.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self.strides = [torch.empty_like(p, device="meta").stride() for p in parameters]
        self.size = sum(p.numel() for p in parameters)
        self._lent: list[bool] = []

    def filled(self) -> Tensor:
        """A buffer with the gradients, which are removed from the parameters."""
        first, gradients = self.parameters[0], [p.grad for p in self.parameters]
        flat = first.new_zeros(self.size + len(self.parameters))
        self._lent = [g is not None for g in gradients]
        for k, (part, gradient) in enumerate(zip(self._parts(flat), gradients, strict=True)):
            if gradient is not None:
                part.copy_(gradient)
                flat[self.size + k] = 1
                self.parameters[k].grad = None
        return flat

    def late(self) -> list[nn.Parameter]:
        """The parameters that got a gradient after `filled`."""
        return [p for p in self.parameters if p.grad is not None]

    def read(self, flat: Tensor) -> None:
        """Add the means to the gradients.

        Args:
            flat: the sums over processes, laid out like the buffer of `filled`.
        """
        # Waiting for the counts pays only where a gradient is missing on this process.
        counts = self._lent if all(self._lent) else flat[self.size :].tolist()
        flat[: self.size].div_(dist.get_world_size())
        for parameter, part, count in zip(self.parameters, self._parts(flat), counts, strict=True):
            if count:
                parameter.grad = part if parameter.grad is None else parameter.grad + part

    def _parts(self, flat: Tensor) -> Iterator[Tensor]:
        offset = 0
        for parameter, stride in zip(self.parameters, self.strides, strict=True):
            yield flat.as_strided(parameter.shape, stride, offset)
            offset += parameter.numel()


def _buckets(group: Sequence[nn.Parameter]) -> list[_Bucket]:
    kinds: dict[Any, list[nn.Parameter]] = {}
    for parameter in group:
        kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    return [_Bucket(parameters) for parameters in kinds.values()]
