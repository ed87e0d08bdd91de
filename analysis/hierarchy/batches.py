"""Batches of a Random Hierarchy Model for torch, made when they are asked for.

The items of a data set here are whole batches. Item i is a function of the seed, the epoch and i
alone, so any number of workers gives the same batches in the same order.

>>> from torch.utils.data import DataLoader
>>> batches = FreshBatches(rhm, batch_size=128, num_batches=1000, seed=0)
>>> loader = DataLoader(batches, batch_size=None, num_workers=2)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from linlocal import inputs
from linlocal.rhm import RandomHierarchyModel, Trees, sampling, trees
from linlocal.seeds import generator_for

Encode = Callable[[NDArray[Any]], NDArray[Any]]
Batch = tuple[Tensor, Tensor]


class _Epochs(Dataset[Batch]):
    """A data set whose epoch is told to workers that already run (``persistent_workers=True``)."""

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


class FreshBatches(_Epochs):
    """Independent draws, new in every batch.

    Args:
        rhm: the model to draw from.
        batch_size: the number of data in a batch.
        num_batches: the number of batches in an epoch.
        seed: seeds the draws.
        encode: turns leaves (batch, d) into what the network reads; one-hot (batch, v, d) by
            default.
        exclude: data that must not be drawn, for example the test set.

    Raises:
        ValueError: sizes below 1, or ``exclude`` leaves nothing to draw.
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
        exclude: Trees | None = None,
    ) -> None:
        super().__init__()
        inputs.instance(rhm, RandomHierarchyModel, "rhm", "a `RandomHierarchyModel`")
        self._rhm, self._encode = rhm, _callable(encode or rhm.one_hot)
        self._batch_size = inputs.whole(batch_size, "batch_size", 1)
        self._num_batches = inputs.whole(num_batches, "num_batches", 1)
        self._seed = inputs.whole(seed, "seed")
        self._excluded = None if exclude is None else np.unique(trees.keys_of(rhm, exclude))
        if self._excluded is not None and len(self._excluded) >= rhm.num_data:
            raise ValueError(f"exclude holds all {rhm.num_data} data of the model.")

    def __len__(self) -> int:
        return self._num_batches

    def __getitem__(self, batch: int) -> Batch:
        if not 0 <= batch < self._num_batches:
            raise IndexError(f"Batches are numbered 0..{self._num_batches - 1}, got {batch}.")
        return _encoded(self._draw(batch), self._encode)

    def _draw(self, batch: int) -> Trees:
        seed = (self._seed, self.epoch, batch)
        if self._excluded is None:
            return sampling.sample(self._rhm, self._batch_size, *seed)
        parts: list[Trees] = []
        while sum(map(len, parts)) < self._batch_size:
            drawn = sampling.sample(self._rhm, self._batch_size, *seed, len(parts))
            parts.append(drawn[~np.isin(trees.keys_of(self._rhm, drawn), self._excluded)])
        return Trees.concatenate(parts)[: self._batch_size]


class StoredBatches(_Epochs):
    """A fixed set, shuffled in every epoch; kept as small integers and encoded batch by batch.

    Args:
        data: the data of the set.
        batch_size: the number of data in a batch; the last batch of an epoch may be smaller.
        encode: turns leaves (batch, d) into what the network reads, for example ``rhm.one_hot``.
        seed: seeds the order; None keeps the order of the data.

    Raises:
        ValueError: no data, or a batch_size below 1.
        TypeError: a number that is not whole, or data that are no `Trees`.
    """

    def __init__(
        self, data: Trees, *, batch_size: int, encode: Encode, seed: int | None = None
    ) -> None:
        super().__init__()
        inputs.instance(data, Trees, "data", "`Trees`, as sample and split make them")
        if not len(data):
            raise ValueError("Batches need at least 1 datum, got none.")
        self._data, self._encode = data, _callable(encode)
        self._batch_size = inputs.whole(batch_size, "batch_size", 1)
        self._seed = None if seed is None else inputs.whole(seed, "seed")
        self._ordered: tuple[int, NDArray[np.int64]] | None = None

    def _order(self) -> NDArray[np.int64]:
        epoch = self.epoch
        if self._ordered is None or self._ordered[0] != epoch:
            order = np.arange(len(self._data))
            if self._seed is not None:
                generator_for("order", self._seed, epoch).shuffle(order)
            self._ordered = epoch, order
        return self._ordered[1]

    def __len__(self) -> int:
        return -(-len(self._data) // self._batch_size)

    def __getitem__(self, batch: int) -> Batch:
        if not 0 <= batch < len(self):
            raise IndexError(f"Batches are numbered 0..{len(self) - 1}, got {batch}.")
        start = batch * self._batch_size
        return _encoded(self._data[self._order()[start : start + self._batch_size]], self._encode)


def _callable(encode: Encode) -> Encode:
    if not callable(encode):
        raise TypeError(
            f"encode must be a function of leaves, as rhm.one_hot, got {inputs.described(encode)}."
        )
    return encode


def _encoded(data: Trees, encode: Encode) -> Batch:
    return torch.from_numpy(encode(data.leaves)), torch.from_numpy(data.labels)
