"""One view direction: who is compared with whom, and with which sign."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from linlocal import inputs
from linlocal.inputs import Array, Index
from linlocal.pairs.contrasts import Contrasts, Differences, Plain, Signed
from linlocal.pairs.groups import Groups, Labelled

if TYPE_CHECKING:
    from scipy.sparse import csr_array

LARGEST_TABLE = 2**22  # entries of a coefficient matrix that is stored with its zeros
CHUNK = 4096  # pairs whose activities are gathered at once


@dataclass(frozen=True, eq=False)
class Direction:
    """One view direction: a list of (anchor, reference, sign) triples over the rows of a batch.

    Attributes:
        anchor: (pairs,) row of the sample whose activity z is trained.
        reference: (pairs,) row of the sample that gives the context c.
        sign: (pairs,) +1 for a positive pair, -1 for a negative one.
        group: (pairs,) number of the positive pair that a negative is contrasted with.
    """

    anchor: Index
    reference: Index
    sign: Array
    group: Index

    __repr__ = inputs.brief

    def __post_init__(self) -> None:
        # Copies: the arrays of the caller stay writable.
        inputs.keep(self, inputs.rows, "anchor", "reference", "group")
        inputs.keep(self, inputs.numbers, "sign")
        shape = self.anchor.shape
        if len(shape) != 1 or any(
            a.shape != shape for a in (self.reference, self.sign, self.group)
        ):
            raise ValueError(
                "anchor, reference, sign and group must be vectors of the same length, got shapes "
                f"{self.anchor.shape}, {self.reference.shape}, {self.sign.shape}, "
                f"{self.group.shape}."
            )
        if not np.isin(self.sign, (-1.0, 1.0)).all():
            raise ValueError("Every sign must be +1 (positive pair) or -1 (negative pair).")
        if not (self.sign > 0).any():
            raise ValueError("A direction needs at least one positive pair (sign +1).")
        if len(np.unique(self.group[self.sign > 0])) != (self.sign > 0).sum():
            raise ValueError("Every positive pair needs a group number of its own.")
        if not np.isin(self.group[self.sign < 0], self.group[self.sign > 0]).all():
            raise ValueError("The group of every negative pair must be that of a positive pair.")
        for array in (self.anchor, self.reference, self.sign, self.group):
            array.setflags(write=False)

    @cached_property
    def anchor_rows(self) -> Index:
        """Rows of the batch that serve as anchors, each once, ascending."""
        return np.unique(self.anchor)

    @cached_property
    def reference_rows(self) -> Index:
        """Rows of the batch that serve as references, each once, ascending."""
        return np.unique(self.reference)

    @cached_property
    def anchor_index(self) -> Index:
        """(pairs,) position of each anchor in `anchor_rows`."""
        return np.searchsorted(self.anchor_rows, self.anchor)

    @cached_property
    def reference_index(self) -> Index:
        """(pairs,) position of each reference in `reference_rows`."""
        return np.searchsorted(self.reference_rows, self.reference)

    @cached_property
    def positive_of(self) -> Index:
        """(negatives,) for each negative pair the position of the positive pair of its group."""
        positives = np.flatnonzero(self.sign > 0)
        order = np.argsort(self.group[positives])
        found = np.searchsorted(self.group[positives], self.group[self.sign < 0], sorter=order)
        return positives[order[found]]

    @cached_property
    def weights(self) -> Array:
        """(pairs,) 1/(number of positive pairs) or 1/(number of negative pairs)."""
        positive = self.sign > 0
        return np.where(positive, 1.0 / positive.sum(), 1.0 / max(1, (~positive).sum()))

    @cached_property
    def signed(self) -> Contrasts:
        """The contrasts of a type-2 loss: sign times score."""
        return Signed(self.sign)

    @cached_property
    def plain(self) -> Contrasts:
        """The contrasts of a loss that judges the scores themselves, T = I."""
        return Plain(self.num_pairs)

    @cached_property
    def positive_mask(self) -> NDArray[np.bool_]:
        """(pairs,) whether each pair is positive."""
        return self.sign > 0

    @cached_property
    def differences(self) -> Contrasts:
        """The contrasts of a type-1 loss: score of the positive pair minus that of the negative."""
        return Differences(self.positive_of, np.flatnonzero(self.sign < 0), len(self.sign))

    @cached_property
    def num_negatives(self) -> int:
        """How many pairs are negative."""
        return int((self.sign < 0).sum())

    @property
    def num_pairs(self) -> int:
        """How many pairs there are."""
        return len(self.sign)

    @cached_property
    def negative_groups(self) -> Groups:
        """The negatives by the positive pair that they are contrasted with."""
        return Labelled(self.positive_of)

    @cached_property
    def groups(self) -> Groups:
        """The pairs by `group`: a positive pair with its negatives."""
        return Labelled(self.group)

    @cached_property
    def reference_groups(self) -> Groups:
        """The pairs by their reference, in the order of `reference_rows`."""
        return Labelled(self.reference_index)

    def ends(self, pairs: Index) -> tuple[Index, Index]:
        """`anchor_index` and `reference_index` of some pairs."""
        return self.anchor_index[pairs], self.reference_index[pairs]

    def scores(self, left: Array, right: Array) -> Array:
        """(pairs,) inner products of rows.

        Args:
            left: (anchor rows, any) one row for each anchor.
            right: (reference rows, any) one row for each reference.
        """
        u = np.empty(self.num_pairs)
        for start in range(0, len(u), CHUNK):
            part = slice(start, start + CHUNK)
            rows = left[self.anchor_index[part]], right[self.reference_index[part]]
            np.einsum("pj,pj->p", *rows, out=u[part])
        return u

    def coefficient_matrix(self, coefficients: Array) -> Array | csr_array:
        """sum_p coefficients[p] e_anchor e_reference^T, (anchor rows, reference rows).

        A sparse matrix of scipy where it would have more than 2^22 entries.
        """
        shape = (len(self.anchor_rows), len(self.reference_rows))
        if shape[0] * shape[1] > LARGEST_TABLE:
            from scipy.sparse import csr_array

            order, columns, starts = self._sparse
            return csr_array((coefficients[order], columns, starts), shape=shape)
        table = np.bincount(self._place, coefficients, minlength=shape[0] * shape[1])
        return np.asarray(table, dtype=np.float64).reshape(shape)

    @cached_property
    def _place(self) -> Index:
        """(pairs,) flat index of each pair in a table (anchor rows, reference rows)."""
        return self.anchor_index * len(self.reference_rows) + self.reference_index

    @cached_property
    def _sparse(self) -> tuple[Index, NDArray[np.int32], NDArray[np.int32]]:
        """The order of the pairs by anchor, the references in it, and where each anchor starts."""
        order = np.argsort(self.anchor_index, kind="stable")
        counts = np.bincount(self.anchor_index, minlength=len(self.anchor_rows))
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        return order, self.reference_index[order].astype(np.int32), starts
