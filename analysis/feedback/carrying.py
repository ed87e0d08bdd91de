"""Errors that pass back through another matrix than activities passed forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ToInput = Callable[..., Tensor]

# Of the process, because autograd runs the backward passes of a GPU in threads of its own.
_exact = 0


@contextmanager
def backpropagation() -> Iterator[None]:
    """Inside, backward passes of layers with feedback weights use the forward weights.

    The graph may have been made outside: one forward pass gives the gradients of the feedback and
    those of backpropagation. It holds for the whole process.
    """
    global _exact
    _exact += 1
    try:
        yield
    finally:
        _exact -= 1


def is_exact() -> bool:
    """Whether the present code runs inside `backpropagation`."""
    return _exact > 0


def carried(y: Tensor, x: Tensor, to_input: ToInput, *matrices: Tensor) -> Tensor:
    """Carry an error past a layer: it arrives at y, and at x as ``to_input(e, shape, *matrices)``.

    With y = W x of a detached x, and e -> B^T e, the weights W get the gradient of backpropagation
    for the error e, and what lies below gets an error that has passed B instead of W.

    Args:
        y: made from x.detach(), by an operation that is linear in x; it is returned itself.
        x: where the error goes.
        to_input: gets the error, the shape of x and the matrices, these in the error's dtype.
        matrices: what ``to_input`` needs; they get no gradient.
    """
    joined: Tensor = _Carried.apply(y, x, to_input, *matrices)  # type: ignore[no-untyped-call]
    return joined


class _Carried(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, to_input: ToInput, *matrices: Tensor) -> Tensor:
        # y is given back as an operation in place gives it back, because a view could not be
        # worked on in place by what follows.
        ctx.mark_dirty(y)
        ctx.to_input, ctx.shape = to_input, x.shape
        ctx.save_for_backward(*matrices)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *errors: Tensor) -> tuple[Tensor | None, ...]:
        (error,) = errors
        below = None
        if ctx.needs_input_grad[1]:
            # Under autocast the error is narrower than the weights.
            matrices = (m.to(error.dtype) for m in ctx.saved_tensors)
            below = ctx.to_input(error, ctx.shape, *matrices)
        return error, below, None, *(None for _ in ctx.saved_tensors)
