"""All in-batch pairs: a view direction that is a table and not a list.

Entry (k, j) of the table is the score of anchor j with reference k. The diagonal holds the positive
pairs, and all other entries are negative. The list of the n^2 pairs is made only for who asks for
it; sums over it are products of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from linlocal import inputs
from linlocal.inputs import Array, Index
from linlocal.pairs.contrasts import Contrasts
from linlocal.pairs.direction import Direction
from linlocal.pairs.groups import Equal, Groups


class Table(Direction):
    """The direction in which every anchor is paired with every reference.

    Pair ``k * n + j`` is (anchor j, reference k); it is positive where j = k. A negative is
    contrasted with the positive pair of its reference.

    Args:
        anchors: (n,) rows of the batch, ascending, n >= 2.
        references: (n,) rows of the batch, ascending; those of the partners of the anchors.

    Raises:
        ValueError: fewer than two anchors, unequal numbers, or rows that do not ascend.
    """

    def __init__(self, anchors: Index, references: Index) -> None:
        rows = {}
        for name, given in (("anchors", anchors), ("references", references)):
            rows[name] = inputs.rows(given, name)
            if rows[name].ndim != 1 or (np.diff(rows[name]) <= 0).any():
                raise ValueError(f"{name} of a table must be a vector of rows that ascend.")
        if rows["anchors"].shape != rows["references"].shape or len(rows["anchors"]) < 2:
            raise ValueError(
                "A table of all pairs needs as many anchors as references, and at least 2, got "
                f"{len(rows['anchors'])} and {len(rows['references'])}."
            )
        self.__dict__["anchor_rows"] = rows["anchors"]
        self.__dict__["reference_rows"] = rows["references"]

    def __repr__(self) -> str:
        return f"Table of {self.n} anchors and {self.n} references"

    @property
    def n(self) -> int:
        """How many anchors there are, and how many references."""
        return len(self.anchor_rows)

    @property
    def num_pairs(self) -> int:
        """n^2."""
        return self.n**2

    @cached_property
    def num_negatives(self) -> int:
        """n (n - 1)."""
        return self.n * (self.n - 1)

    # -- the list, for who asks for it ------------------------------------------------------------

    def _listed(self) -> None:
        inputs.room(4 * self.num_pairs, f"the list of {self.num_pairs} pairs of a table")

    @cached_property
    def anchor(self) -> Index:
        """(pairs,) row of the anchor of each pair."""
        self._listed()
        return np.tile(self.anchor_rows, self.n)

    @cached_property
    def reference(self) -> Index:
        """(pairs,) row of the reference of each pair."""
        self._listed()
        return np.repeat(self.reference_rows, self.n)

    @cached_property
    def sign(self) -> Array:
        """(pairs,) +1 on the diagonal of the table, -1 elsewhere."""
        self._listed()
        return (2.0 * np.eye(self.n) - 1.0).ravel()

    @cached_property
    def group(self) -> Index:
        """(pairs,) the number of the reference."""
        self._listed()
        return np.repeat(np.arange(self.n), self.n)

    # -- what a list does by indices --------------------------------------------------------------

    def ends(self, pairs: Index) -> tuple[Index, Index]:
        reference, anchor = np.divmod(pairs, self.n)
        return anchor, reference

    def scores(self, left: Array, right: Array) -> Array:
        return np.asarray(right @ left.T).ravel()

    def coefficient_matrix(self, coefficients: Array) -> Array:
        return coefficients.reshape(self.n, self.n).T

    @cached_property
    def weights(self) -> Array:
        weights = np.full(self.num_pairs, 1.0 / self.num_negatives)
        weights[:: self.n + 1] = 1.0 / self.n
        return weights

    @cached_property
    def positive_mask(self) -> NDArray[np.bool_]:
        return np.eye(self.n, dtype=bool).ravel()

    @cached_property
    def signed(self) -> Contrasts:
        return _Signed(self.n)

    @cached_property
    def differences(self) -> Contrasts:
        return _Differences(self.n)

    @cached_property
    def negative_groups(self) -> Groups:
        return Equal(self.n - 1)

    @cached_property
    def reference_groups(self) -> Groups:
        return Equal(self.n)

    @cached_property
    def groups(self) -> Groups:
        return Equal(self.n)


@dataclass(frozen=True, eq=False)
class _Signed(Contrasts):
    """m = u on the diagonal of the table, -u elsewhere."""

    n: int

    @property
    def num_margins(self) -> int:
        return self.n**2

    @property
    def only_signs(self) -> bool:
        return True

    def apply(self, u: Array) -> Array:
        m = -u
        m[:: self.n + 1] = u[:: self.n + 1]
        return m

    def adjoint(self, g: Array) -> Array:
        return self.apply(g)

    def weigh(self, h: Array) -> Array:
        return h


@dataclass(frozen=True, eq=False)
class _Differences(Contrasts):
    """m = (diagonal entry of the row) - u, for all entries off the diagonal, row by row."""

    n: int

    @property
    def num_margins(self) -> int:
        return self.n * (self.n - 1)

    def _off(self, u: Array) -> Array:
        """The entries off the diagonal, as a view: after the first, each n are followed by one."""
        return u[1:].reshape(self.n - 1, self.n + 1, *u.shape[1:])[:, :-1]

    def apply(self, u: Array) -> Array:
        off = self._off(u).reshape(self.n, self.n - 1, *u.shape[1:])
        m = u[:: self.n + 1, None] - off
        return m.reshape(self.num_margins, *u.shape[1:])

    def _collect(self, negative: Array, positive: Array) -> Array:
        total = np.empty(self.n**2)
        self._off(total)[:] = negative.reshape(self.n - 1, self.n)
        total[:: self.n + 1] = positive
        return total

    def adjoint(self, g: Array) -> Array:
        return self._collect(-g, g.reshape(self.n, -1).sum(axis=1))

    def weigh(self, h: Array) -> Array:
        return self._collect(h, h.reshape(self.n, -1).sum(axis=1))
