"""Positive and negative pairs of samples: who is compared with whom, and with which sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from linlocal import inputs
from linlocal.inputs import Array, Index
from linlocal.pairs.direction import Direction
from linlocal.pairs.positives import contrasted, of_one_class, of_other_classes, steps_apart
from linlocal.pairs.table import Table

Negatives = Literal["next", "stacked", "random", "all"] | None
End = Literal["anchor", "reference"]

NO_ROWS = np.empty(0, dtype=np.int64)


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

    def __repr__(self) -> str:
        rows, width = self.samples.shape
        count = len(self.directions)
        return (
            f"Pairs({rows} samples of width {width}, {self.num_pairs} pairs in {count} "
            f"direction{'s' if count > 1 else ''})"
        )

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

    @classmethod
    def from_many_views(
        cls,
        views: Sequence[ArrayLike],
        *,
        negatives: Negatives = "next",
        num_negatives: int = 1,
        directions: Literal["all", "star"] = "all",
        replaces: End = "anchor",
        bank: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Pairs:
        """Pairs of any number of views: a direction, with a B of its own, for two of them.

        Args:
            views: two or more views of the same samples, each (samples, width), row by row.
            negatives: as in `from_views`; "stacked" runs over the stack of all views. None leaves
                those of the bank.
            num_negatives: negatives from the batch for each positive pair, at most samples - 1.
            directions: "all" are all ordered pairs of views, (anchor view, reference view).
                "star" are those that hold the first view (Tian et al. 2020, arXiv 1906.05849: full
                graph and core view).
            replaces: the end of the positive pair that a negative replaces. "anchor": another
                anchor with the same reference, as in CLAPP, whose activity is trained.
                "reference": another reference with the same anchor, as InfoNCE has it, which only
                gives a context.
            bank: (bank samples, width) more samples, each a negative of every positive pair and
                part of none (as in He et al. 2020, arXiv 1911.05722, for replaces="reference").
            rng: the generator for negatives="random"; required there.

        Raises:
            ValueError: fewer than two views, unequal shapes, and as in `from_views`.
            TypeError: views that are no sequence.
        """
        stack = [
            inputs.matrix(view, f"view {number}", "(samples, width)")
            for number, view in enumerate(inputs.sequence(views, "views", "matrices"), start=1)
        ]
        if len(stack) < 2:
            raise ValueError(
                f"A pair needs two views, got {len(stack)}; give a list of matrices "
                "(samples, width), one for each view."
            )
        if len({view.shape for view in stack}) > 1:
            raise ValueError(
                "All views must have the same shape (samples, width), got "
                f"{', '.join(str(view.shape) for view in stack)}."
            )
        _check_word(directions, "directions", ("all", "star"))
        _check_word(replaces, "replaces", ("anchor", "reference"))
        n, rows = len(stack[0]), len(stack) * len(stack[0])
        samples, banked = _with_bank(np.vstack(stack), bank, n)
        k, made = np.arange(n), []
        for a, b in permutations(range(len(stack)), 2):
            if directions == "star" and 0 not in (a, b):
                continue
            others = _negative_anchors(n, negatives, num_negatives, rng, len(stack))
            start = n * (a if replaces == "anchor" else b)
            of_batch = [(start + other) % rows for other in others]
            made.append(contrasted(a * n + k, b * n + k, of_batch, banked, replaces))
        return cls(samples, tuple(made), (k, n + k) if len(stack) == 2 else None)

    @classmethod
    def from_sequence(
        cls,
        x: ArrayLike,
        *,
        steps: Sequence[int] = (1,),
        negatives: Literal["next", "time", "random"] | None = "next",
        num_negatives: int = 1,
        directions: Literal["forward", "both"] = "forward",
        replaces: End = "anchor",
        bank: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> Pairs:
        """The past predicts the future: positive (x[s, t + step], x[s, t]), a direction a step.

        The reference, x[s, t], is the context from which a B of its own for each step predicts the
        anchor, as in CPC (van den Oord et al. 2018, arXiv 1807.03748, eq. 3) and Greedy InfoMax.

        Args:
            x: (sequences, time, width). The samples are its rows, time within sequences.
            steps: how far ahead to predict, each below the number of times.
            negatives: "next" takes the same time of the next sequences (cyclic), "time" the next
                times of the same sequence (cyclic, among those that the step reaches), "random"
                any num_negatives other places of any sequence. None leaves those of the bank.
            num_negatives: negatives from the batch for each positive pair.
            directions: "both" adds for each step the direction in which the past is the anchor.
            replaces: as in `from_many_views`; CPC replaces the anchor, the future.
            bank: as in `from_many_views`.
            rng: the generator for negatives="random"; required there.

        Raises:
            ValueError: not three-dimensional or empty, non-finite entries, a step twice or as long
                as the sequences, too few sequences or times for the negatives, no generator for
                random ones.
            TypeError: steps that are no whole numbers.
        """
        array = inputs.numbers(x, "x")
        if array.ndim != 3 or array.size == 0:
            raise ValueError(
                f"x must be (sequences, time, width), got shape {array.shape}; one sequence is "
                "x[None]."
            )
        sequences, times, width = array.shape
        steps = inputs.wholes(steps, "steps", 1)
        if max(steps) >= times or len(set(steps)) < len(steps):
            raise ValueError(
                f"steps must be different numbers below the {times} times of a sequence, got "
                f"{list(steps)}."
            )
        _check_word(directions, "directions", ("forward", "both"))
        _check_word(replaces, "replaces", ("anchor", "reference"))
        if negatives is not None:
            _check_word(negatives, "negatives", ("next", "time", "random"), " or None")
        rows = sequences * times
        samples, banked = _with_bank(array.reshape(rows, width), bank, rows * len(steps))
        made = []
        for step in steps:
            past, future = steps_apart(sequences, times, step)
            ways = [(future, past), (past, future)]
            for anchor, reference in ways[: 1 + (directions == "both")]:
                ends = anchor if replaces == "anchor" else reference
                others = _other_places(ends, negatives, num_negatives, rng)
                flat = anchor.ravel(), reference.ravel()
                made.append(contrasted(*flat, others, banked, replaces))
        return cls(samples, tuple(made))

    @classmethod
    def from_labels(
        cls,
        x: ArrayLike,
        labels: ArrayLike,
        *,
        num_positives: int | None = None,
        negatives: Literal["next", "random"] | None = "next",
        num_negatives: int = 1,
        replaces: End = "anchor",
        rng: np.random.Generator | None = None,
    ) -> Pairs:
        """Supervised contrast: positive pairs within a class, negatives from the others.

        One direction, in which every sample of a class with others is an anchor and a reference
        (Khosla et al. 2020, arXiv 2004.11362). A sample alone in its class is a negative only.

        Args:
            x: (samples, width).
            labels: (samples,) whole numbers, the class of each sample.
            num_positives: references of each anchor, those that follow it in its class (cyclic), at
                most as many as there are; None takes all others of its class.
            negatives: "next" takes the samples of other classes that follow in the batch (cyclic)
                the end that they replace, "random" draws them with ``rng``. None makes positive
                pairs only.
            num_negatives: negatives for each positive pair.
            replaces: as in `from_many_views`.
            rng: the generator for negatives="random"; required there.

        Raises:
            ValueError: shapes that do not fit, non-finite entries, no class with two samples, one
                class only, too few samples of other classes, no generator for random negatives.
            TypeError: labels that are no whole numbers.
        """
        samples = inputs.matrix(x, "x", "(samples, width)")
        classes = inputs.rows(labels, "labels")
        if classes.shape != (len(samples),):
            raise ValueError(
                f"labels must be a vector, one for each of the {len(samples)} samples, got shape "
                f"{classes.shape}."
            )
        if num_positives is not None:
            num_positives = inputs.whole(num_positives, "num_positives", 1)
        _check_word(replaces, "replaces", ("anchor", "reference"))
        count = inputs.whole(num_negatives, "num_negatives", 1)
        sizes = np.unique(classes, return_counts=True)[1]
        if sizes.max() < 2:
            raise ValueError(
                f"No label occurs twice among {len(samples)} samples, so there is no positive "
                "pair; use a batch with two samples of a class at least."
            )
        inputs.room(int(np.sum(sizes * (sizes - 1))) * (1 + count), "the pairs of all classes")
        anchor, reference = of_one_class(classes, num_positives)
        if negatives is None:
            return cls(samples, (contrasted(anchor, reference, [], NO_ROWS, replaces),))
        _check_word(negatives, "negatives", ("next", "random"), " or None")
        if len(sizes) == 1:
            raise ValueError(
                "All samples have the same label, so none is left for negative pairs; use samples "
                "of two classes at least, or negatives=None."
            )
        # A class of one sample has no positive pair to find negatives for.
        fewest = len(samples) - int(sizes[sizes > 1].max())
        if count > fewest:
            raise ValueError(
                f"{count} negatives for each pair, but the largest class leaves {fewest} samples "
                "of other classes; use fewer negatives, or a batch with more classes."
            )
        if negatives == "random":
            _check_generator(rng)
        ends = anchor if replaces == "anchor" else reference
        drawn = of_other_classes(ends, classes, count, rng if negatives == "random" else None)
        return cls(samples, (contrasted(anchor, reference, drawn, NO_ROWS, replaces),))

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
    n: int,
    negatives: Negatives,
    count: int,
    rng: np.random.Generator | None,
    num_views: int = 2,
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
        around = n if negatives == "next" else num_views * n
        return [(np.arange(n) + shift) % around for shift in range(1, count + 1)]
    rng = _check_generator(rng)
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


def _other_places(
    ends: Index, negatives: str | None, count: int, rng: np.random.Generator | None
) -> Sequence[Index]:
    """Rows that replace ends (sequences, times), as vectors (sequences * times,)."""
    if negatives == "random":
        flat = ends.ravel()
        return [flat[other] for other in _negative_anchors(flat.size, "random", count, rng)]
    count = inputs.whole(count, "num_negatives", 1)
    if negatives is None:
        return []
    axis, what = (0, "sequences") if negatives == "next" else (1, "times that a step reaches")
    if count > ends.shape[axis] - 1:
        raise ValueError(
            f"negatives={negatives!r} takes {count} other {what} for each pair, and there are "
            f"{ends.shape[axis] - 1}; use more of them, fewer negatives, or another kind."
        )
    return [np.roll(ends, -shift, axis).ravel() for shift in range(1, count + 1)]


def _with_bank(samples: Array, bank: ArrayLike | None, positives: int) -> tuple[Array, Index]:
    """The samples with those of a bank behind them, and the rows of these."""
    if bank is None:
        return samples, NO_ROWS
    more = inputs.matrix(bank, "bank", "(bank samples, width)")
    if more.shape[1] != samples.shape[1]:
        raise ValueError(
            f"The samples of the bank must be as wide as those of the batch, {samples.shape[1]}, "
            f"got shape {more.shape}."
        )
    inputs.room(positives * len(more), f"a bank of {len(more)} negatives for each pair")
    return np.vstack([samples, more]), len(samples) + np.arange(len(more))


def _check_word(value: object, name: str, words: tuple[str, ...], rest: str = "") -> None:
    if not inputs.is_one_of(value, words):
        known = " or ".join(f'"{word}"' for word in words)
        raise ValueError(f"{name} must be {known}{rest}, got {value!r}.")


def _check_generator(rng: np.random.Generator | None) -> np.random.Generator:
    if rng is None:
        raise ValueError('negatives="random" needs rng=np.random.default_rng(seed).')
    inputs.instance(rng, np.random.Generator, "rng", "a Generator, np.random.default_rng(seed)")
    return rng
