"""A forward and backward pass of a trainer, its blocks run whole or in parts, once or twice."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from lightning_fabric import Fabric
from torch.utils.checkpoint import checkpoint

from experiments.networks import Name, build
from linlocal.analysis.block import Block
from linlocal.analysis.local_losses import LocalRule
from linlocal.analysis.training import Trainer
from linlocal.analysis.watching import MicroBatches

# How blocks run during a pass.
Way = Callable[[Sequence[Block]], AbstractContextManager[None]]


@dataclass(frozen=True)
class Case:
    """A network and a batch.

    Attributes:
        name: name of the network, see `experiments.networks.build`.
        depth: number of blocks; None takes the usual number.
        side: side of the images in pixels.
        batch: number of images; there are two views of each.
        width: factor on the numbers of channels.
    """

    name: Name = "vgg6"
    depth: int | None = None
    side: int = 32
    batch: int = 32
    width: float = 1.0


def whole(blocks: Sequence[Block]) -> AbstractContextManager[None]:
    """Blocks run as they are."""
    return nullcontext()


@contextmanager
def checkpointed(blocks: Sequence[Block]) -> Iterator[None]:
    """Make blocks keep their input alone and run whole once more in the backward pass."""
    modules = [block.module for block in blocks]
    for module in modules:
        vars(module)["forward"] = partial(checkpoint, module.forward, use_reentrant=False)
    try:
        yield
    finally:
        for module in modules:
            del vars(module)["forward"]


def cut(rows: int) -> Way:
    """Make blocks run on a few rows at a time, and once more in the backward pass."""
    return lambda blocks: MicroBatches(blocks, rows).cut()


def prepared(
    trainer: type[Trainer], case: Case, rule: LocalRule, device: str
) -> tuple[Trainer, Callable[[Way], object]]:
    """A trainer whose gradients exist, and its forward and backward pass."""
    network = build(case.name, width=case.width, image_size=case.side, depth=case.depth)
    shape = (3, case.side, case.side)
    fabric = Fabric(accelerator="cuda" if device == "cuda" else "cpu", devices=1)
    made = trainer(network, None, rule, shape=shape, fabric=fabric)
    made.model.to(device)
    made.losses.to(device)
    views = torch.rand(2 * case.batch, *shape, device=device)

    def step(way: Way) -> object:
        with way(made.blocks):
            return made.backward(views)

    step(whole)
    return made, step


def ways(rows: Sequence[int]) -> list[Way]:
    """Blocks run whole, then recomputed whole, then in micro-batches of each of these rows."""
    return [whole, checkpointed, *map(cut, rows)]


def seconds(
    trainer: type[Trainer], case: Case, rule: LocalRule, chosen: Sequence[Way], repetitions: int
) -> list[float]:
    """Median processor time of a pass on the CPU, for each way, in this process alone."""
    _, step = prepared(trainer, case, rule, "cpu")
    times: list[list[float]] = [[] for _ in chosen]
    for _ in range(repetitions):  # in turn, so that a machine that slows down does so for all
        for way, found in zip(chosen, times, strict=True):
            start = time.process_time()
            step(way)
            found.append(time.process_time() - start)
    return [statistics.median(found) for found in times]
