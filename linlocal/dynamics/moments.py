"""Second moments of two views: all that a quadratic loss of a linear network sees of its data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.pairs import Pairs

ROUNDING = 1e-10
"""Relative size below which a moment counts as zero."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Second moments of two views x, x' and of their negative pairs; each is (width, width).

    Attributes:
        first: E[x x^T].
        second: E[x' x'^T].
        positive: ``S_+`` = E[x x'^T] of positive pairs.
        contrasts: for each view direction D = ``S_+ - S_-``, the cross-moment of anchor and
            reference of its positive pairs less that of its negative pairs.

    Raises:
        ValueError: shapes differ, an entry is not finite, or no data have these moments.
        TypeError: not real numbers.
    """

    first: Array
    second: Array
    positive: Array
    contrasts: tuple[Array, ...]

    __repr__ = inputs.brief

    def __post_init__(self) -> None:
        for name in ("first", "second", "positive"):
            object.__setattr__(self, name, _square(getattr(self, name), name))
        contrasts = inputs.sequence(self.contrasts, "contrasts", "matrices, one a view direction")
        kept = tuple(_square(each, "a contrast") for each in contrasts)
        if not kept:
            raise ValueError("Moments need the contrast of at least one view direction, got none.")
        object.__setattr__(self, "contrasts", kept)
        shapes = {m.shape for m in (self.first, self.second, self.positive, *kept)}
        if len(shapes) > 1:
            raise ValueError(
                f"All moments must have the same shape (width, width), got {sorted(shapes)}."
            )
        joint = np.block([[self.first, self.positive], [self.positive.T, self.second]])
        if not np.allclose(joint, joint.T, rtol=0, atol=ROUNDING * np.abs(joint).max()):
            raise ValueError("first and second must be symmetric: they are E[x x^T] of one view.")
        lowest, largest = np.linalg.eigvalsh(joint)[[0, -1]]
        if lowest < -ROUNDING * largest:
            raise ValueError(
                "No two views have these moments: [[first, positive], [positive^T, second]] has "
                f"the eigenvalue {lowest:.2g}, and a matrix of second moments has none below 0. "
                "The usual cause is a correlation above 1; scale positive down."
            )

    @classmethod
    def of_views(
        cls,
        first: ArrayLike,
        positive: ArrayLike,
        second: ArrayLike | None = None,
        negative: ArrayLike | None = None,
    ) -> Moments:
        """The moments of a population of view pairs, each view the anchor once.

        Args:
            first: E[x x^T], (width, width).
            positive: ``S_+`` = E[x x'^T].
            second: E[x' x'^T], by default as ``first``.
            negative: ``S_-`` = E[x x'^T] of negative pairs. By default 0, as for independent
                negatives of centred data; else theirs is E[x] E[x']^T.

        Raises:
            ValueError, TypeError: as the constructor.
        """
        cross = _square(positive, "positive")
        apart = np.zeros_like(cross) if negative is None else _square(negative, "negative")
        if apart.shape != cross.shape:
            raise ValueError(
                f"negative has shape {apart.shape} and positive {cross.shape}; both are "
                "(width, width)."
            )
        contrast = cross - apart
        other = first if second is None else second
        return cls(first, other, cross, (contrast, contrast.T))  # type: ignore[arg-type]

    @classmethod
    def of_batch(cls, pairs: Pairs) -> Moments:
        """The empirical moments of a batch.

        Raises:
            ValueError: the batch has no two views, or no negative pairs.
            TypeError: no `Pairs`.
        """
        inputs.instance(pairs, Pairs, "pairs", "a `Pairs`, made by Pairs.from_views or its like")
        if pairs.views is None:
            raise ValueError(
                "Moments are those of two views, which this batch has not; build it with "
                "Pairs.from_views."
            )
        pairs.require_negatives("A contrast of positive and negative pairs")
        x, view = (pairs.samples[rows] for rows in pairs.views)
        contrasts = tuple(
            (pairs.samples[d.anchor] * (d.sign * d.weights)[:, None]).T @ pairs.samples[d.reference]
            for d in pairs.directions
        )
        n = len(x)
        return cls(x.T @ x / n, view.T @ view / n, x.T @ view / n, contrasts)

    @property
    def width(self) -> int:
        """n_0, the number of features."""
        return len(self.first)

    @cached_property
    def modes(self) -> tuple[Array, Array]:
        """Eigenvalues, descending, and eigenvectors (width, modes) of the symmetric part of D.

        D is averaged over the view directions.
        """
        contrast = np.mean(self.contrasts, axis=0)
        values, vectors = np.linalg.eigh((contrast + contrast.T) / 2.0)
        return inputs.frozen(values[::-1]), inputs.frozen(vectors[:, ::-1])


def _square(value: ArrayLike, name: str) -> Array:
    matrix = inputs.matrix(value, name, "(width, width)")
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} must be square, (width, width), got shape {matrix.shape}.")
    return matrix
