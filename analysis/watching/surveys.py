"""Shapes and parameters of blocks, found by one forward pass that leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from linlocal.analysis.block import Block
from linlocal.analysis.watching.restore import own_pass, untouched
from linlocal.analysis.watching.window import cut, rows_of


@dataclass(frozen=True)
class Survey:
    """What a forward pass that is cut after each block shows of the blocks.

    Attributes:
        shapes: the shapes of the blocks' outputs in standard form, without the axis of samples.
        dtypes: their dtypes.
        parameters: the parameters that a loss on each block's output can train, which are those of
            the block and of what lies between it and the block below.
    """

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    parameters: tuple[tuple[nn.Parameter, ...], ...]


def survey(model: nn.Module, blocks: Sequence[Block], inputs: Tensor) -> Survey:
    """Shapes and parameters of the blocks, from one forward pass that leaves no trace.

    Args:
        model: the network.
        blocks: the blocks, as `block.resolve` returns them.
        inputs: a batch.

    Raises:
        RuntimeError, ValueError: as `cut` and `untouched`, or two blocks use a parameter outside
            the blocks.
    """
    shapes: list[tuple[int, ...]] = []
    dtypes: list[torch.dtype] = []
    owners: dict[int, int] = {
        id(p): position for position, b in enumerate(blocks) for p in b.parameters.values()
    }

    def visit(position: int, z: Tensor) -> None:
        shapes.append(tuple(z.shape[1:]))
        dtypes.append(z.dtype)
        for leaf in leaves(z):
            if owners.setdefault(id(leaf), position) != position:
                name = next((n for n, p in model.named_parameters() if p is leaf), "a tensor")
                first, second = blocks[owners[id(leaf)]].name, blocks[position].name
                raise ValueError(
                    f"{name} is used by the blocks {first!r} and {second!r}, so it belongs to "
                    "neither: make one block of both, or freeze it."
                )

    with own_pass(), untouched(model), torch.inference_mode(False), torch.enable_grad():
        x = inputs.detach().clone()  # the network may begin with an operation in place
        with cut(blocks, visit, rows_of(inputs)):
            model(x)
    trained = [p for p in model.parameters() if p.requires_grad]
    return Survey(
        tuple(shapes),
        tuple(dtypes),
        tuple(tuple(p for p in trained if owners.get(id(p)) == l) for l in range(len(blocks))),
    )


def leaves(z: Tensor) -> Iterator[Tensor]:
    """The leaves of a tensor's graph: what its gradient would reach."""
    for node in nodes(z):
        if type(node).__name__ == "AccumulateGrad":
            yield node.variable


def nodes(z: Tensor) -> Iterator[Any]:
    """The nodes of a tensor's graph."""
    seen: set[Any] = set()
    stack: list[Any] = [z.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            stack += [following for following, _ in node.next_functions]
