"""The Random Hierarchy Model as one object: a grammar and what one asks of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from linlocal.rhm import (
    corruption as corrupting,
    encoding,
    inference,
    sampling,
    shallow,
    trees as t,
)
from linlocal.rhm.grammar import Grammar, Symbols
from linlocal.rhm.inference import Posterior
from linlocal.rhm.shallow import ShallowTrees
from linlocal.rhm.trees import Trees


@dataclass(frozen=True, kw_only=True, repr=False)
class RandomHierarchyModel(Grammar):
    """A grammar that samples, splits, parses and encodes its data.

    Every function of `linlocal.rhm` that takes a grammar takes this. Seeds are separate: that of
    the rules is the model's, each method has its own. Arguments are those of `Grammar`:

    >>> rhm = RandomHierarchyModel(num_classes=16, num_symbols=16, num_synonyms=8, num_levels=4)
    >>> train, test = rhm.split(train=10_000, test=2_000, seed=1)
    >>> rhm.parse(test.leaves).labels.tolist() == test.labels.tolist()
    True
    """

    def sample(self, num: int, *, seed: int) -> Trees:
        """``num`` independent draws, see `sampling.sample`."""
        return sampling.sample(self, num, seed)

    def split(self, *, train: int, test: int, seed: int) -> tuple[Trees, Trees]:
        """A training and a test set without any datum twice, see `sampling.split`."""
        return sampling.split(self, train, test, seed)

    def enumerate(self, batch_size: int = 1024, start: int = 0) -> Iterator[Trees]:
        """All data in order, lazily, see `sampling.enumerate_data`."""
        return sampling.enumerate_data(self, batch_size, start)

    def index(self, trees: Trees) -> NDArray[Any]:
        """The number of each datum in 0..P_max-1, see `trees.index_of`."""
        return t.index_of(self, trees)

    def data(self, index: Iterable[int] | NDArray[Any]) -> Trees:
        """The data with these numbers, see `trees.data_at`."""
        return t.data_at(self, index)

    def exchange(self, trees: Trees, level: int, node: int | None = None, *, seed: int) -> Trees:
        """Tuples of a level exchanged for synonyms, see `sampling.exchange`."""
        return sampling.exchange(self, trees, level, node, seed)

    def resample(self, trees: Trees, level: int, node: int | None = None, *, seed: int) -> Trees:
        """Everything below symbols of a level drawn anew, see `sampling.resample`."""
        return sampling.resample(self, trees, level, node, seed)

    def corrupt(self, leaves: ArrayLike, fraction: float, *, seed: int) -> Symbols:
        """Leaves replaced by wrong ones, see `corruption.corrupt`."""
        return corrupting.corrupt(self, leaves, fraction, seed)

    def sample_corrupted(
        self, num: int, corruption: float | Sequence[float], *, seed: int
    ) -> Trees:
        """Draws with wrong symbols inside the tree, see `corruption.sample_corrupted`."""
        return corrupting.sample_corrupted(self, num, corruption, seed)

    def sample_shallow(self, num: int, stop: float | Sequence[float], *, seed: int) -> ShallowTrees:
        """Draws whose branches end on different levels, see `shallow.sample_shallow`."""
        return shallow.sample_shallow(self, num, stop, seed)

    def parse(self, leaves: ArrayLike, *, strict: bool = True) -> Trees:
        """The trees of leaves, see `inference.parse`."""
        return inference.parse(self, leaves, strict=strict)

    def posterior(
        self,
        leaves: ArrayLike | None = None,
        visible: ArrayLike | None = None,
        *,
        corruption: float | Sequence[float] = 0.0,
        likelihood: ArrayLike | None = None,
        inside: Mapping[int, ArrayLike] | None = None,
        strict: bool = True,
    ) -> Posterior:
        """What leaves or soft evidence tell about every symbol, see `inference.posterior`."""
        return inference.posterior(
            self,
            leaves,
            visible,
            corruption=corruption,
            likelihood=likelihood,
            inside=inside,
            strict=strict,
        )

    def one_hot(
        self, leaves: ArrayLike, *, centred: bool = False, dtype: DTypeLike = np.float32
    ) -> NDArray[Any]:
        """(data, v, d), see `encoding.one_hot`."""
        return encoding.one_hot(self, leaves, centred=centred, dtype=dtype)
