"""The graphs of neighbouring blocks, and errors that are sent down through several of them.

In a network that is cut after every block, the graph of a block begins at its input, a leaf. A
backward pass goes on in the graph below from the gradient of the leaf between them. So the graph of
the lowest block is freed as soon as it is let go, while those above stay for later passes.

Symbols: z_l output of block l, theta_l its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from linlocal.analysis.watching import leaves


@dataclass(frozen=True)
class _Segment:
    """The graph of a block.

    Attributes:
        output: z_l with its graph.
        above: the same values without it: the leaf at which the graph above begins.
        below: the leaves at which this graph begins, by the position of the block they come from.
        trained: the parameters in this graph.
    """

    output: Tensor
    above: Tensor
    below: dict[int, Tensor]
    trained: list[Tensor]


class Segments:
    """The graphs of the blocks of one forward pass, added in forward order."""

    def __init__(self) -> None:
        self._held: dict[int, _Segment] = {}
        self._places: dict[int, int] = {}  # id of a leaf between two blocks: position of the lower
        self._count = 0

    def add(self, z: Tensor) -> Tensor:
        """Take the graph of the next block.

        Args:
            z: z_l with its graph.

        Returns:
            What the rest of the network goes on with: z_l in the same memory, which it may change
            in place as it may z_l.
        """
        above = z.detach()
        if z.requires_grad:
            above.requires_grad_()
        below, trained = {}, []
        for leaf in leaves(z):
            place = self._places.get(id(leaf))
            if place is None:
                trained.append(leaf)
            else:
                below[place] = leaf
        self._places[id(above)] = self._count
        self._held[self._count] = _Segment(z, above, below, trained)
        self._count += 1
        if not above.requires_grad:
            return above
        passed: Tensor = _Passed.apply(above)  # type: ignore[no-untyped-call]
        return passed

    def send(
        self, loss: Tensor, own: Sequence[Tensor], pupils: range, backward: Callable[..., None]
    ) -> Iterator[int]:
        """Add dLoss/dtheta_l of every pupil l to ``.grad``, and let its graph go.

        Args:
            loss: the loss of the block that was added last, with its graph.
            own: the parameters of the loss itself, which learn as well.
            pupils: the positions of the blocks that learn, from 0, without a gap.
            backward: runs the backward pass of the loss, with the options of
                `torch.autograd.backward`.

        Yields:
            The position of a pupil whose gradient is complete, from the highest to the lowest.
        """
        last, lowest = self._count - 1, pupils[0]
        for position in range(last, lowest - 1, -1):
            segment = self._held[position]
            wanted = [leaf for place, leaf in segment.below.items() if place >= lowest]
            if position in pupils:
                wanted += segment.trained
            # Later losses go through the graph again, or graphs below share a part of it.
            options: dict[str, Any] = {"retain_graph": position > lowest}
            if position == last:
                wanted += own
                if wanted and loss.requires_grad:
                    backward(loss, inputs=wanted, **options)
            else:
                error, segment.above.grad = [segment.above.grad], None
                if wanted and error[0] is not None:
                    start: Tensor = _Error.apply(segment.output, error)  # type: ignore[no-untyped-call]
                    start.backward(inputs=wanted, **options)
            if position in pupils:
                del self._held[position], segment
                yield position


class _Passed(torch.autograd.Function):
    """The identity, in the same memory. Unlike a leaf, its output may be changed in place."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor) -> Tensor:
        return leaf.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _Error(torch.autograd.Function):
    """A scalar whose gradient by z_l is the error in a list, which is taken out and held no longer.

    An error that is given to `torch.autograd.backward` stays until the end of the pass.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, error: list[Tensor]) -> Tensor:
        ctx.error = error
        return z.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.error.pop(), None
