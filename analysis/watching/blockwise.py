"""A forward pass that is cut after every block, and what it shows of blocks and losses.

The network runs as it is written, so a stem, a flattening or a positional embedding between two
blocks needs no description: it belongs to the block whose output comes next. A forward hook on each
block hands its output out, with the graph of this block alone, and passes it on detached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from linlocal.analysis.block import Block
from linlocal.analysis.watching.window import untouched

Visit = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class Survey:
    """What a cut forward pass shows of each block.

    Attributes:
        shapes: of the outputs, without the axis of samples.
        parameters: that a loss on the output can train: the block's own, and what lies between it
            and the block below.
    """

    shapes: tuple[tuple[int, ...], ...]
    parameters: tuple[tuple[nn.Parameter, ...], ...]


@contextmanager
def walls(blocks: Sequence[Block], visit: Visit) -> Iterator[None]:
    """In a forward pass inside, ``visit(l - 1, z_l)`` is called for every block l as it has run.

    The graph of z_l ends at the input of the block; if the visitor keeps nothing of it, it is freed
    before the next block runs. Without gradients enabled there is no graph.

    Args:
        blocks: of `block.resolve`.
        visit: called in forward order.

    Raises:
        RuntimeError: blocks did not run once each, in this order.
        ValueError: an output is no tensor.
    """
    ran: list[str] = []

    def wall(position: int) -> Callable[[nn.Module, Any, Any], Tensor]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor:
            ran.append(blocks[position].name)
            if position != len(ran) - 1:
                raise RuntimeError(_disorder(blocks, ran))
            if not isinstance(output, Tensor):
                raise ValueError(
                    f"Block {blocks[position].name!r} returned {type(output).__name__}, expected "
                    "one tensor: choose a module that returns its activity alone."
                )
            visit(position, output)
            return output.detach()

        return hook

    handles = [b.module.register_forward_hook(wall(i)) for i, b in enumerate(blocks)]
    try:
        yield
        if len(ran) != len(blocks):
            raise RuntimeError(_disorder(blocks, ran))
    finally:
        for handle in handles:
            handle.remove()


def survey(model: nn.Module, blocks: Sequence[Block], inputs: Tensor) -> Survey:
    """Shapes and parameters of the blocks, from one forward pass that leaves no trace.

    Args:
        model: the network.
        blocks: of `block.resolve`.
        inputs: a batch.

    Raises:
        ValueError: a parameter outside of the blocks is used by two of them.
    """
    shapes: list[tuple[int, ...]] = []
    owners: dict[int, int] = {
        id(p): position for position, b in enumerate(blocks) for p in b.parameters.values()
    }

    def visit(position: int, z: Tensor) -> None:
        shapes.append(tuple(z.shape[1:]))
        for leaf in leaves(z):
            if owners.setdefault(id(leaf), position) != position:
                name = next((n for n, p in model.named_parameters() if p is leaf), "a tensor")
                first, second = blocks[owners[id(leaf)]].name, blocks[position].name
                raise ValueError(
                    f"{name} is used by the blocks {first!r} and {second!r}, so it belongs to "
                    "neither: make one block of both, or freeze it."
                )

    with untouched(model), torch.enable_grad(), walls(blocks, visit):
        model(inputs)
    trained = [p for p in model.parameters() if p.requires_grad]
    return Survey(
        tuple(shapes),
        tuple(tuple(p for p in trained if owners.get(id(p)) == l) for l in range(len(blocks))),
    )


class TopReadError(RuntimeError):
    """A local loss reads the top activity where there is none."""


class NoTop(Tensor):
    """Stands for the top activity where it is not known; any use of it raises `TopReadError`."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise TopReadError(
            "A local loss reads the top activity, which it did not do when the trainer was made, "
            "so it was not computed: read it in every call or never."
        )


def no_top() -> Tensor:
    """A `NoTop`."""
    return torch.empty(0).as_subclass(NoTop)


def reads_top(loss: nn.Module, here: Tensor) -> bool:
    """Whether a local loss reads its argument ``top``: it is run without one.

    Args:
        loss: the local loss of a block.
        here: (2N, ...) an output of the block.
    """
    with untouched(loss), torch.no_grad():
        try:
            loss(here, no_top())
        except TopReadError:
            return True
    return False


def leaves(z: Tensor) -> Iterator[Tensor]:
    """The leaves of a tensor's graph: what its gradient would reach."""
    seen, stack = set(), [z.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            if type(node).__name__ == "AccumulateGrad":
                yield node.variable  # type: ignore[attr-defined]
            stack += [following for following, _ in node.next_functions]


def _disorder(blocks: Sequence[Block], ran: Sequence[str]) -> str:
    return (
        f"Blocks must run once each and in the order {', '.join(b.name for b in blocks)}; they ran "
        f"as {', '.join(ran) or 'none'}. Name them in forward order; a block that runs twice (also "
        "by activation checkpointing around it) must lie inside a larger one."
    )
