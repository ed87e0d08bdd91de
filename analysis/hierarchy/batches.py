"""Batches of a Random Hierarchy Model for torch, made when they are asked for.

The items of a data set here are whole batches. Item i is a function of the seed, the epoch and i
alone, so any number of workers gives the same batches in the same order.

>>> from torch.utils.data import DataLoader
>>> batches = FreshBatches(rhm, batch_size=128, num_batches=1000, seed=0)
>>> loader = DataLoader(batches, batch_size=None, num_workers=2)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from linlocal import inputs
from linlocal.rhm import RandomHierarchyModel, Trees, sampling, trees
from linlocal.seeds import generator_for

Encode = Callable[[NDArray[Any]], NDArray[Any]]
Task = Callable[[NDArray[Any], int], tuple[NDArray[Any], NDArray[Any]]]
"""From leaves and a seed to what a network reads and what it shall say, as `linlocal.rhm.tokens`
has them."""
Batch = tuple[Tensor, Tensor]


class Epochs(Dataset[Batch], ABC):
    """Batches of epochs; the epoch is told to workers that already run (persistent_workers=True).

    A batch is a function of the seed, the epoch and its number.
    """

    def __init__(self) -> None:
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy has an epoch of its own, shared with its own workers.
        self.__dict__.update(state)
        self._epoch.share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch whose batches are given."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Other batches, or another order, in another epoch; call it before the loader is iterated.

        Raises:
            ValueError: a negative epoch.
            TypeError: no whole number.
        """
        self._epoch.fill_(inputs.whole(epoch, "epoch", 0))

    def __getitem__(self, batch: int) -> Batch:
        if not 0 <= batch < len(self):
            raise IndexError(f"Batches are numbered 0..{len(self) - 1}, got {batch}.")
        return self.at(self.epoch, batch)

    @abstractmethod
    def __len__(self) -> int:
        """The number of batches in an epoch."""

    @abstractmethod
    def at(self, epoch: int, batch: int) -> Batch:
        """A batch of any epoch."""


class FreshBatches(Epochs):
    """Independent draws, new in every batch.

    Args:
        rhm: the model to draw from.
        batch_size: the number of data in a batch.
        num_batches: the number of batches in an epoch.
        seed: seeds the draws.
        encode: turns leaves (batch, d) into what the network reads; one-hot (batch, v, d) by
            default.
        task: gives the network's input and its target from the leaves and a seed, instead of the
            encoded leaves and the class; for example ``tokens.NextToken(rhm)``.
        exclude: data that must not be drawn, for example the test set.

    Raises:
        ValueError: sizes below 1, both an encode and a task, or ``exclude`` leaves nothing to draw.
        TypeError: a number that is not whole.
    """

    def __init__(
        self,
        rhm: RandomHierarchyModel,
        *,
        batch_size: int,
        num_batches: int,
        seed: int,
        encode: Encode | None = None,
        task: Task | None = None,
        exclude: Trees | None = None,
    ) -> None:
        super().__init__()
        inputs.instance(rhm, RandomHierarchyModel, "rhm", "a `RandomHierarchyModel`")
        self._rhm, self._maker = rhm, _Maker(encode, task, rhm.one_hot)
        self._batch_size = inputs.whole(batch_size, "batch_size", 1)
        self._num_batches = inputs.whole(num_batches, "num_batches", 1)
        self._seed = inputs.whole(seed, "seed")
        self._excluded = None if exclude is None else np.unique(trees.keys_of(rhm, exclude))
        if self._excluded is not None and len(self._excluded) >= rhm.num_data:
            raise ValueError(f"exclude holds all {rhm.num_data} data of the model.")

    def __len__(self) -> int:
        return self._num_batches

    def at(self, epoch: int, batch: int) -> Batch:
        """The batch of that number in an epoch.

        Args:
            epoch: at least 0.
            batch: 0..num_batches-1.
        """
        seed = self._seed, epoch, batch
        return self._maker(self._draw(*seed), *seed)

    def _draw(self, *seed: int) -> Trees:
        if self._excluded is None:
            return sampling.sample(self._rhm, self._batch_size, *seed)
        parts: list[Trees] = []
        while sum(map(len, parts)) < self._batch_size:
            drawn = sampling.sample(self._rhm, self._batch_size, *seed, len(parts))
            parts.append(drawn[~np.isin(trees.keys_of(self._rhm, drawn), self._excluded)])
        return Trees.concatenate(parts)[: self._batch_size]


class StoredBatches(Epochs):
    """A fixed set, shuffled in every epoch; kept as small integers and encoded batch by batch.

    Args:
        data: the data of the set.
        batch_size: the number of data in a batch; the last batch of an epoch may be smaller.
        encode: turns leaves (batch, d) into what the network reads, for example ``rhm.one_hot``.
        task: gives the network's input and its target from the leaves and a seed, instead of the
            encoded leaves and the class; for example ``tokens.NextToken(rhm)``.
        seed: seeds the order and the task; None keeps the order of the data, and seeds the task
            by 0.

    Raises:
        ValueError: no data, a batch_size below 1, or not one of encode and task.
        TypeError: a number that is not whole, or data that are no `Trees`.
    """

    def __init__(
        self,
        data: Trees,
        *,
        batch_size: int,
        encode: Encode | None = None,
        task: Task | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        inputs.instance(data, Trees, "data", "`Trees`, as sample and split make them")
        if not len(data):
            raise ValueError("Batches need at least 1 datum, got none.")
        self._data, self._maker = data, _Maker(encode, task, None)
        self._batch_size = inputs.whole(batch_size, "batch_size", 1)
        self._seed = None if seed is None else inputs.whole(seed, "seed")
        self._ordered: tuple[int, NDArray[np.int64]] | None = None

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self._ordered is None or self._ordered[0] != epoch:
            order = np.arange(len(self._data))
            if self._seed is not None:
                generator_for("order", self._seed, epoch).shuffle(order)
            self._ordered = epoch, order
        return self._ordered[1]

    def __len__(self) -> int:
        return -(-len(self._data) // self._batch_size)

    def at(self, epoch: int, batch: int) -> Batch:
        """The batch of that number in an epoch.

        Args:
            epoch: at least 0.
            batch: from 0 up to the number of batches.
        """
        start = batch * self._batch_size
        rows = self._order(epoch)[start : start + self._batch_size]
        return self._maker(self._data[rows], self._seed or 0, epoch, batch)


class EndlessBatches(IterableDataset[Batch]):
    """All batches of epoch 0, then of epoch 1, and so on without end.

    Worker k of w makes the batches k, k + w, ...; a loader takes one of each worker in turn, so any
    number of workers gives the same batches in the same order.

    Args:
        batches: `FreshBatches` or `StoredBatches`, whose own epoch plays no part.
        start: the number of the first batch, to go on where a training stopped.

    Raises:
        ValueError: a negative start.
        TypeError: no such batches, or a start that is not whole.
    """

    def __init__(self, batches: Epochs, start: int = 0) -> None:
        inputs.instance(batches, Epochs, "batches", "`FreshBatches` or `StoredBatches`")
        self._batches, self._start = batches, inputs.whole(start, "start", 0)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number in count(self._start + first, step):
            yield self._batches.at(*divmod(number, len(self._batches)))


class _Maker:
    """Tensors from trees: encoded leaves and classes, or what a task makes of the leaves."""

    def __init__(self, encode: Encode | None, task: Task | None, default: Encode | None) -> None:
        if task is None:
            encode = encode or default
        if (encode is None) == (task is None):
            raise ValueError(
                "Give either encode, to learn the classes, or task, such as tokens.NextToken(rhm), "
                "got " + ("neither." if task is None else "both.")
            )
        for each, name, hint in (
            (encode, "encode", "rhm.one_hot"),
            (task, "task", "NextToken(rhm)"),
        ):
            if each is not None and not callable(each):
                raise TypeError(
                    f"{name} must be a function of leaves, as {hint}, got {inputs.described(each)}."
                )
        self._encode, self._task = encode, task

    def __call__(self, data: Trees, *seed: int) -> Batch:
        if self._encode is not None:
            pair = self._encode(data.leaves), data.labels
        else:
            assert self._task is not None
            pair = self._task(data.leaves, int(generator_for("task", *seed).integers(2**62)))
        return torch.from_numpy(pair[0]), torch.from_numpy(pair[1])
