"""Groups of margins: the negatives that are contrasted with one positive pair."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np

from linlocal.inputs import Array, Index


class Groups(ABC):
    """A partition of vectors into groups; each array is (members,) or (groups,)."""

    @abstractmethod
    def total(self, x: Array) -> Array:
        """(groups,) the sum of the members of each group."""

    @abstractmethod
    def largest(self, x: Array) -> Array:
        """(groups,) the largest member of each group."""

    @abstractmethod
    def spread(self, y: Array) -> Array:
        """(members,) the number of its group, for every member."""

    def inner(self, x: Array, y: Array) -> Array:
        """(groups,) the sum of x y over the members of each group."""
        return self.total(x * y)

    def subtract(self, y: Array, x: Array) -> None:
        """Subtract from every member in ``x`` the number of its group, in place."""
        x -= self.spread(y)


class Labelled(Groups):
    """Groups by a label for each member.

    Args:
        labels: (members,) any whole numbers; equal ones make a group.
    """

    def __init__(self, labels: Index) -> None:
        found, self.index = np.unique(labels, return_inverse=True)
        self.count = len(found)

    @cached_property
    def _sorted(self) -> tuple[Index, Index]:
        order = np.argsort(self.index, kind="stable")
        return order, np.searchsorted(self.index[order], np.arange(self.count))

    def total(self, x: Array) -> Array:
        total = np.bincount(self.index, x, minlength=self.count)
        return np.asarray(total, dtype=np.float64)

    def largest(self, x: Array) -> Array:
        order, starts = self._sorted
        return np.asarray(np.maximum.reduceat(x[order], starts))

    def spread(self, y: Array) -> Array:
        return np.asarray(y[self.index])


class Equal(Groups):
    """Groups of one size, one after the other.

    Args:
        size: the members of each group.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def total(self, x: Array) -> Array:
        return np.asarray(x.reshape(-1, self.size).sum(axis=1))

    def largest(self, x: Array) -> Array:
        return np.asarray(x.reshape(-1, self.size).max(axis=1))

    def spread(self, y: Array) -> Array:
        return np.repeat(y, self.size)

    def inner(self, x: Array, y: Array) -> Array:
        rows = (each.reshape(-1, self.size) for each in (x, y))
        return np.asarray(np.einsum("ij,ij->i", *rows))

    def subtract(self, y: Array, x: Array) -> None:
        table = x.reshape(-1, self.size)
        table -= y[:, None]
