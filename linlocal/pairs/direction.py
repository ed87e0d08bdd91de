"""One view direction: who is compared with whom, and with which sign."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from linlocal import inputs
from linlocal.inputs import Array, Index
from linlocal.pairs.contrasts import Differences, Signed


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
    def signed(self) -> Signed:
        """The contrasts of a type-2 loss: sign times score."""
        return Signed(self.sign)

    @cached_property
    def differences(self) -> Differences:
        """The contrasts of a type-1 loss: score of the positive pair minus that of the negative."""
        return Differences(self.positive_of, np.flatnonzero(self.sign < 0), len(self.sign))

    @cached_property
    def num_negatives(self) -> int:
        """How many pairs are negative."""
        return int((self.sign < 0).sum())

    def coefficient_matrix(self, coefficients: Array) -> Array:
        """sum_p coefficients[p] e_anchor e_reference^T, (anchor rows, reference rows)."""
        shape = (len(self.anchor_rows), len(self.reference_rows))
        table = np.bincount(self._place, coefficients, minlength=shape[0] * shape[1])
        return np.asarray(table, dtype=np.float64).reshape(shape)

    @cached_property
    def _place(self) -> Index:
        """(pairs,) flat index of each pair in a table (anchor rows, reference rows)."""
        return self.anchor_index * len(self.reference_rows) + self.reference_index
