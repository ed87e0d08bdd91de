"""Positive and negative pairs of samples: who is compared with whom, and with which sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from linlocal import inputs
from linlocal.inputs import Array, Index
from linlocal.pairs.direction import Direction
from linlocal.pairs.table import Table

Negatives = Literal["next", "stacked", "random", "all"] | None


@dataclass(frozen=True, eq=False)
class Pairs:
    """A batch of samples and the pairs among them.

    Attributes:
        samples: (samples, width) float64, read-only.
        directions: one `Direction` for each view direction; each has a projection of its own.
        views: rows of the first and of the second view, aligned, for losses that compare two
            whole views (VICReg and kin); None where the batch has no two views.
    """

    samples: Array
    directions: tuple[Direction, ...]
    views: tuple[Index, Index] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "samples", inputs.matrix(self.samples, "samples", "(samples, width)")
        )
        directions = inputs.sequence(self.directions, "directions", "`Direction`s")
        object.__setattr__(self, "directions", directions)
        if not self.directions:
            raise ValueError("Pairs need at least one direction.")
        for direction in self.directions:
            inputs.instance(direction, Direction, "a direction", "a `Direction`")
            rows = np.concatenate([direction.anchor_rows, direction.reference_rows])
            if rows.min() < 0 or rows.max() >= len(self.samples):
                raise ValueError(
                    f"A pair names row {int(rows.max())} or below 0, but there are only "
                    f"{len(self.samples)} samples."
                )
        if self.views is not None:
            both = inputs.sequence(self.views, "views", "two vectors of rows")
            views = tuple(inputs.rows(view, "views") for view in both)
            if len({view.shape for view in views}) > 1:
                raise ValueError(
                    "Both views must have the same shape (samples,), got "
                    f"{' and '.join(str(view.shape) for view in views)}."
                )
            rows = np.stack(views) if views else np.empty(0)
            fits = rows.ndim == 2 and len(rows) == 2 and rows.size > 0
            if not fits or rows.min() < 0 or rows.max() >= len(self.samples):
                raise ValueError(
                    f"views must be two vectors of rows among {len(self.samples)} samples."
                )
            object.__setattr__(self, "views", views)

    @property
    def num_pairs(self) -> int:
        """Pairs in all directions together."""
        return sum(d.num_pairs for d in self.directions)

    @classmethod
    def from_views(
        cls,
        x: ArrayLike,
        x_view: ArrayLike,
        *,
        negatives: Negatives = "next",
        num_negatives: int = 1,
        directions: Literal["both", "forward"] = "both",
        rng: np.random.Generator | None = None,
    ) -> Pairs:
        """Pairs of two views: positive (x[k], x_view[k]), negative (x[j], x_view[k]) with j != k.

        Args:
            x: (samples, width) first view.
            x_view: (samples, width) second view of the same samples, row by row.
            negatives: "next" takes the anchors j = k+1, ..., k+num_negatives (cyclic). "stacked"
                takes those that follow the anchor in the stack of both views (cyclic), as the
                released code of Wu et al. 2026 does: at the end of one view they come from the
                other. "random" draws num_negatives different j != k with ``rng``. "all" takes
                every j != k, as a `Table`, which lists no pairs. None makes positive pairs only.
            num_negatives: negatives for each positive pair, at most samples - 1.
            directions: "both" makes each view the anchor once, "forward" only the first.
            rng: the generator for negatives="random"; required there.

        Raises:
            ValueError: shapes differ, non-finite entries, an empty batch, too few samples for the
                negatives, no generator for random ones, or a stack of views of which only one is
                an anchor.
            MemoryError: negatives="all" of more samples than a table fits for.
        """
        first = inputs.matrix(x, "x", "(samples, width)")
        second = inputs.matrix(x_view, "x_view", "(samples, width)")
        if first.shape != second.shape:
            raise ValueError(
                f"Both views must have the same shape (samples, width), got {first.shape} and "
                f"{second.shape}."
            )
        n = len(first)
        if not inputs.is_one_of(directions, ("both", "forward")):
            raise ValueError(f'directions must be "both" or "forward", got {directions!r}.')
        view, other = np.arange(n), np.arange(n, 2 * n)
        if inputs.is_one_of(negatives, ("all",)):
            _check_all(n, num_negatives)
            tables = [Table(view, other)] + [Table(other, view)] * (directions == "both")
            return cls(np.vstack([first, second]), tuple(tables), (view, other))
        forward = _direction(n, negatives, num_negatives, rng)
        if negatives == "stacked" and directions == "forward":
            raise ValueError(
                'negatives="stacked" runs over the anchors of both views, but directions="forward" '
                'has those of the first only; take directions="both", or negatives="next".'
            )
        made = [_shifted(forward, 0, n)]
        if directions == "both":
            backward = _direction(n, negatives, num_negatives, rng)
            made.append(_shifted(backward, n, 0))
        return cls(np.vstack([first, second]), tuple(made), (view, other))

    @classmethod
    def from_image_patches(
        cls,
        images: ArrayLike,
        patch_size: int,
        *,
        negatives: Negatives = "next",
        num_negatives: int = 1,
        directions: Literal["both", "forward"] = "both",
        rng: np.random.Generator | None = None,
    ) -> Pairs:
        """Vertically adjacent patches of one image are a positive pair.

        Images are cut into a grid of patches without overlap; rest at the border is dropped. Every
        patch of one grid row is paired with the patch below it. The samples are ordered so that
        "next" is the same place in the next image (Wu et al. 2026, arXiv 2601.21683).

        Args:
            images: (images, height, width).
            patch_size: side of a patch in pixels; the image must be at least two patches high.
            negatives: as in `from_views`.
            num_negatives: as in `from_views`.
            directions: as in `from_views`.
            rng: as in `from_views`.

        Raises:
            ValueError: not three-dimensional, too small for two patches, and as in `from_views`.
        """
        stack = inputs.numbers(images, "images")
        if stack.ndim != 3 or stack.size == 0:
            raise ValueError(f"images must be (images, height, width), got shape {stack.shape}.")
        patch_size = inputs.whole(patch_size, "patch_size", 1)
        count, height, width = stack.shape
        rows, columns = height // patch_size, width // patch_size
        if rows < 2 or columns < 1:
            raise ValueError(
                f"Images of {height} x {width} pixels hold no two vertically adjacent patches of "
                f"{patch_size} x {patch_size}; use a patch_size of at most {height // 2}."
            )
        grid = stack[:, : rows * patch_size, : columns * patch_size].reshape(
            count, rows, patch_size, columns, patch_size
        )
        patches = grid.transpose(1, 3, 0, 2, 4).reshape(rows, columns * count, patch_size**2)
        upper, lower = np.concatenate(patches[:-1]), np.concatenate(patches[1:])
        del stack, grid, patches  # of a data set, each is as large as the images
        return cls.from_views(
            upper,
            lower,
            negatives=negatives,
            num_negatives=num_negatives,
            directions=directions,
            rng=rng,
        )

    @classmethod
    def from_positive_negative(cls, positive: ArrayLike, negative: ArrayLike) -> Pairs:
        """Positive and negative *samples*, each paired with itself (for Forward-Forward).

        Args:
            positive: (samples, width) real data.
            negative: (samples, width) negative data, as many rows.

        Raises:
            ValueError: shapes differ, non-finite entries or an empty batch.
        """
        good = inputs.matrix(positive, "positive", "(samples, width)")
        bad = inputs.matrix(negative, "negative", "(samples, width)")
        if good.shape != bad.shape:
            raise ValueError(
                "Positive and negative data must have the same shape (samples, width), got "
                f"{good.shape} and {bad.shape}."
            )
        n = len(good)
        rows = np.arange(2 * n)
        sign = np.repeat([1.0, -1.0], n)
        return cls(np.vstack([good, bad]), (Direction(rows, rows.copy(), sign, rows % n),))

    def require_negatives(self, what: str) -> None:
        """Raise if a direction has no negative pair.

        Raises:
            ValueError: naming ``what`` needs them.
        """
        if any(d.num_negatives == 0 for d in self.directions):
            raise ValueError(
                f"{what} needs negative pairs, but this pair set has none; build it with "
                'negatives="next" or negatives="random".'
            )


def _direction(
    n: int, negatives: Negatives, num_negatives: int, rng: np.random.Generator | None
) -> Direction:
    """Pairs among n anchors and n references, both numbered 0..n-1."""
    k = np.arange(n)
    others = _negative_anchors(n, negatives, num_negatives, rng)
    anchor = np.concatenate([k, *others])
    group = np.tile(k, 1 + len(others))
    sign = np.where(np.arange(len(anchor)) < n, 1.0, -1.0)
    return Direction(anchor, group.copy(), sign, group)


def _check_all(n: int, num_negatives: int) -> None:
    if n < 2:
        raise ValueError(
            'negatives="all" takes all other samples of the batch, which needs at least 2, got 1; '
            "use more samples, or negatives=None."
        )
    if inputs.whole(num_negatives, "num_negatives", 1) not in (1, n - 1):
        raise ValueError(
            f'negatives="all" takes {n - 1} negatives for each of {n} samples, got '
            f"num_negatives={num_negatives}; leave it out, or take another kind of negatives."
        )
    inputs.room(8 * n * n, f"the tables of all pairs of {n} samples")


def _negative_anchors(
    n: int, negatives: Negatives, count: int, rng: np.random.Generator | None
) -> Sequence[Index]:
    if negatives is not None and not inputs.is_one_of(negatives, ("next", "stacked", "random")):
        raise ValueError(
            f'negatives must be "next", "stacked", "random", "all" or None, got {negatives!r}.'
        )
    count = inputs.whole(count, "num_negatives", 1)
    if negatives is None:
        return []
    if count > n - 1:
        raise ValueError(
            f"{count} negatives for each pair need a batch of at least {count + 1} samples, got "
            f"{n}; use more samples, fewer negatives, or negatives=None."
        )
    inputs.room(n * (n if negatives == "random" else count), f"the negatives of {n} samples")
    if negatives != "random":
        around = n if negatives == "next" else 2 * n
        return [(np.arange(n) + shift) % around for shift in range(1, count + 1)]
    if rng is None:
        raise ValueError('negatives="random" needs rng=np.random.default_rng(seed).')
    inputs.instance(rng, np.random.Generator, "rng", "a Generator, np.random.default_rng(seed)")
    # A random order of the n - 1 other samples for each sample, cut after `count` of them.
    shifts = rng.permuted(np.tile(np.arange(1, n), (n, 1)), axis=1)[:, :count]
    return list(((np.arange(n)[:, None] + shifts) % n).T)


def _shifted(direction: Direction, anchors: int, references: int) -> Direction:
    """Rows of the stack of both views; an anchor beyond one view is in the other."""
    rows = anchors + references
    return Direction(
        (direction.anchor + anchors) % (2 * rows),
        direction.reference + references,
        direction.sign.copy(),
        direction.group.copy(),
    )
