"""Backpropagation without what is specific to an input: elementwise derivatives, averaged.

A nonlinearity multiplies the error of every sample by its own derivative, which for ReLU is a mask.
Here that derivative is replaced by its mean over the batch, so all samples share one downstream map

    J' = W_L Dbar_L ... W_{l+1} Dbar_{l+1},    Dbar = mean over samples of phi'(a).

It works on the graph of a forward pass that has run, whatever its topology. `masked_gradients` asks
more: it vouches for every operation, and gives gradients of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from linlocal.analysis.watching.gradients import errors_below

# Nodes of autograd that multiply an error, entry by entry, by the derivative of a nonlinearity.
_ELEMENTWISE = frozenset({
    "Relu", "LeakyRelu", "PreluKernel", "RreluWithNoise", "Threshold", "Hardtanh", "Clamp",
    "ClampMin", "ClampMax", "Elu", "Gelu", "Silu", "Mish", "Softplus", "LogSigmoid", "Softshrink",
    "Hardshrink", "Hardsigmoid", "Hardswish", "Sigmoid", "Tanh", "Erf", "Abs", "Square", "Sqrt",
    "Rsqrt", "Exp", "Log", "Log1P", "Sin", "Cos", "Pow",
})  # fmt: skip


def averaged_errors(
    passes: Sequence[Sequence[Tensor]], errors: Sequence[Tensor]
) -> list[tuple[Tensor, ...]]:
    """Errors of a loss at earlier outputs, with averaged elementwise derivatives: J'^T e.

    Of operations that are one in torch (ReLU and its kin, GELU, SiLU, tanh, ...), the derivative is
    averaged. Others pass the errors of each sample as usual: max-pooling, attention, normalisation,
    products of two activities. The graph is kept, and no gradient of a parameter is computed.

    Args:
        passes: for each forward pass the outputs of blocks in forward order, the last block's last.
        errors: for each pass dLoss/dz_L, in the shape of its last output.

    Returns:
        For each pass the errors at all outputs but the last, zero where nothing leads there.

    Raises:
        ValueError: an activity does not have its samples along the first axis, or the graph has an
            operation that cannot be looked into (a compiled one, a reentrant checkpoint, a
            `torch.autograd.Function`).
    """
    with ExitStack() as hooks:
        for lowest, *_, top in passes:
            for node in _between(top, lowest):
                mean = _mean_derivative(node, len(top))
                hooks.callback(node.register_hook(_replaced(mean)).remove)
        return [errors_below(*each) for each in zip(passes, errors, strict=True)]


def _between(top: Tensor, lowest: Tensor) -> Iterator[Any]:
    """The elementwise nodes on the way down from one output to another."""
    seen, stack = {lowest.grad_fn}, [top.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        name = node.name().removeprefix("torch::autograd::")
        if isinstance(node, torch.autograd.function.BackwardCFunction) or "::" in name:
            raise ValueError(
                f"The derivative of {name!r} has a form of its own, so masks in it cannot be "
                "averaged: use use_reentrant=False for activation checkpointing, no torch.compile, "
                "and modules written in torch's operations; or leave the terms out."
            )
        if name.rstrip("0123456789").removesuffix("Backward") in _ELEMENTWISE:
            yield node
        stack += [following for following, _ in node.next_functions]


def _mean_derivative(node: Any, rows: int) -> Tensor:
    (output, *_) = node._input_metadata
    shape = tuple(output.shape)
    if not shape or shape[0] != rows:
        raise ValueError(
            f"Masks are averaged over samples, but {node.name()} met an activity of shape {shape} "
            f"in a pass of {rows} samples: put the samples along the first axis, or leave the "
            "terms out."
        )
    derivative = node(torch.ones(shape, dtype=output.dtype, device=output.device))
    derivative = derivative[0] if isinstance(derivative, tuple) else derivative
    return derivative.mean(0, dtype=torch.promote_types(derivative.dtype, torch.float32))


def _replaced(mean: Tensor) -> Callable[..., Any]:
    def hook(into: tuple[Tensor | None, ...], error: tuple[Tensor | None, ...]) -> Any:
        if error[0] is None:
            return None
        return ((error[0] * mean).to(error[0].dtype), *into[1:])

    return hook
