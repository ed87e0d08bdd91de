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

from linlocal.rhm import RandomHierarchyModel, Trees, sampling, trees
from linlocal.seeds import generator_for

Encode = Callable[[NDArray[Any]], NDArray[Any]]
Batch = tuple[Tensor, Tensor]


class FreshBatches(Dataset[Batch]):
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
        if batch_size < 1 or num_batches < 1:
            raise ValueError(
                f"batch_size and num_batches must be positive, got {batch_size} and {num_batches}."
            )
        self._rhm, self._batch_size, self._num_batches = rhm, batch_size, num_batches
        self._seed, self._encode = seed, encode or rhm.one_hot
        self._excluded = None if exclude is None else np.unique(trees.keys_of(rhm, exclude))
        if self._excluded is not None and len(self._excluded) >= rhm.num_data:
            raise ValueError(f"exclude holds all {rhm.num_data} data of the model.")
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Other batches for another epoch; call it before the loader is iterated."""
        self.epoch = epoch

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


class StoredBatches(Dataset[Batch]):
    """A fixed set, shuffled in every epoch; kept as small integers and encoded batch by batch.

    Args:
        data: the data of the set.
        batch_size: the number of data in a batch; the last batch of an epoch may be smaller.
        encode: turns leaves (batch, d) into what the network reads, for example ``rhm.one_hot``.
        seed: seeds the order; None keeps the order of the data.

    Raises:
        ValueError: no data, or a batch_size below 1.
    """

    def __init__(
        self, data: Trees, *, batch_size: int, encode: Encode, seed: int | None = None
    ) -> None:
        if batch_size < 1 or not len(data):
            raise ValueError(
                f"Batches need a batch_size of at least 1 and at least 1 datum, got "
                f"batch_size={batch_size} and {len(data)} data."
            )
        self._data, self._batch_size, self._encode = data, batch_size, encode
        self._seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Another order for another epoch; call it before the loader is iterated."""
        self.epoch = epoch
        self._order = np.arange(len(self._data))
        if self._seed is not None:
            generator_for("order", self._seed, epoch).shuffle(self._order)

    def __len__(self) -> int:
        return -(-len(self._data) // self._batch_size)

    def __getitem__(self, batch: int) -> Batch:
        if not 0 <= batch < len(self):
            raise IndexError(f"Batches are numbered 0..{len(self) - 1}, got {batch}.")
        start = batch * self._batch_size
        return _encoded(self._data[self._order[start : start + self._batch_size]], self._encode)


def _encoded(data: Trees, encode: Encode) -> Batch:
    return torch.from_numpy(encode(data.leaves)), torch.from_numpy(data.labels)
