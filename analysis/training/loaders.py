"""Batches in an order that is a function of a seed and the epoch, from any batch of it on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from linlocal import inputs
from linlocal.seeds import seed_for


class Loader(Protocol):
    """Anything that gives the batches of an epoch, beginning with a given one."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches ``start``, ``start`` + 1, ... of an epoch."""
        ...


class SeededLoader:
    """Shuffled batches of a data set; an incomplete last batch is left out.

    If the data set draws random numbers in the main process, a resumed training goes on with them,
    because a checkpoint stores the generators' states. Worker processes are seeded by (seed, epoch)
    and start again after a resume; with workers, draw in the trainer's ``augment`` instead.

    Args:
        data: a data set of tensors, or of tuples whose first entry is the input.
        batch_size: the number of rows of a batch on each process.
        seed: seeds the order.
        num_workers: the number of processes that read.
        rank: the number of this process, for data-parallel training.
        world_size: the number of processes; each gets batches of its own.

    Raises:
        ValueError: numbers do not go together.
        TypeError: numbers are not whole, or the data have no length or rows.
    """

    def __init__(
        self,
        data: Dataset[Any],
        batch_size: int,
        *,
        seed: int = 0,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        seed = inputs.whole(seed, "seed", 0)
        num_workers = inputs.whole(num_workers, "num_workers", 0)
        batch_size, rank = inputs.whole(batch_size, "batch_size"), inputs.whole(rank, "rank")
        world_size = inputs.whole(world_size, "world_size")
        if batch_size < 1 or not 0 <= rank < world_size:
            raise ValueError(
                "batch_size must be at least 1 and rank one of 0..world_size - 1, got "
                f"{batch_size}, {rank} and {world_size}."
            )
        if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
            raise TypeError(
                "data must have a length and rows by number, as torch.utils.data.Dataset has, got "
                f"{inputs.described(data)}."
            )
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.num_workers, self.rank, self.world_size = num_workers, rank, world_size

    def __repr__(self) -> str:
        """What decides which rows a batch of all processes holds; checkpoints store it."""
        together = self.batch_size * self.world_size
        return f"SeededLoader({len(self.data)} rows, {together} in a batch, seed {self.seed})"

    def __len__(self) -> int:
        """The number of batches of an epoch on each process."""
        return len(self.data) // (self.batch_size * self.world_size)

    def rows(self, epoch: int) -> list[list[int]]:
        """The rows of the data set in each batch of an epoch."""
        epoch = inputs.whole(epoch, "epoch", 0)
        rng = np.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.data))
        together = self.batch_size * self.world_size
        first = self.rank * self.batch_size
        return [order[b * together + first :][: self.batch_size].tolist() for b in range(len(self))]

    def batches(self, epoch: int, start: int = 0) -> Iterator[Any]:
        """The batches from ``start`` on; those before are not read."""
        epoch, start = inputs.whole(epoch, "epoch", 0), inputs.whole(start, "start", 0)
        yield from DataLoader(
            self.data,
            batch_sampler=self.rows(epoch)[start:],
            num_workers=self.num_workers,
            # Otherwise the workers' seed is drawn from the global generator, again at each resume.
            generator=torch.Generator().manual_seed(seed_for(self.seed, epoch)),
        )
