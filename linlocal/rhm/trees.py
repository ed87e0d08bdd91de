"""Data of a grammar with all their latent symbols, and the numbers that identify them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linlocal import inputs
from linlocal.rhm.grammar import BLANK, Array, Grammar, Index, Symbols
from linlocal.seeds import generator_for

Keys = NDArray[np.uint64]
Choices = Sequence[NDArray[np.integer[Any]]]

INDEX_LIMIT = 2**63
"""Number of data from which an index no longer fits in 64 bits and is a Python int."""


@dataclass(frozen=True, eq=False)
class Trees:
    """Data of a grammar, each with its whole tree.

    Attributes:
        leaves: (data, d) the symbols of level 0, `BLANK` where a sparse grammar has none.
        symbols: the symbols of each level 0..L, (data, symbols of the level): the leaves without
            blanks come first, the class last. Node j of level l owns the nodes
            s_l j .. s_l j + s_l - 1 of level l - 1.
        placements: the number of the placement of each tuple, (data, symbols of the level) for
            each level 1..L of a sparse grammar; empty for other grammars.
    """

    leaves: Symbols
    symbols: tuple[Symbols, ...]
    placements: tuple[Symbols, ...] = ()

    __repr__ = inputs.brief

    def __len__(self) -> int:
        return len(self.leaves)

    def __getitem__(self, rows: slice | NDArray[Any] | Sequence[int]) -> Trees:
        if isinstance(rows, int | np.integer):
            raise TypeError(
                f"Trees hold several data: take the rows [{rows}:{rows + 1}] or a list."
            )
        symbols = tuple(level[rows] for level in self.symbols)
        return Trees(
            self.leaves[rows] if self.placements else symbols[0],
            symbols,
            tuple(level[rows] for level in self.placements),
        )

    @property
    def labels(self) -> Index:
        """(data,) the classes."""
        return self.symbols[-1][:, 0].astype(np.int64)

    @property
    def nbytes(self) -> int:
        """How many bytes all arrays take together."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def arrays(self) -> tuple[Symbols, ...]:
        """Every array once."""
        return (*self.symbols, *self.placements, *([self.leaves] if self.placements else []))

    def write(self, other: Trees) -> None:
        """Copy the first data of ``other`` over the first of these, as many as both have."""
        for mine, theirs in zip(self.arrays, other.arrays, strict=True):
            mine[: len(theirs)] = theirs[: len(mine)]

    @staticmethod
    def concatenate(parts: Sequence[Trees]) -> Trees:
        """The data of all parts, in order; there must be at least one part."""
        symbols = tuple(map(np.concatenate, zip(*(p.symbols for p in parts), strict=True)))
        placements = tuple(map(np.concatenate, zip(*(p.placements for p in parts), strict=True)))
        leaves = np.concatenate([p.leaves for p in parts]) if placements else symbols[0]
        return Trees(leaves, symbols, placements)


def empty(grammar: Grammar, num: int) -> Trees:
    """Trees for ``num`` data, not yet filled."""
    num = inputs.whole(num, "num", 0)
    top = grammar.num_levels
    symbols = tuple(
        np.empty((num, grammar.num_nodes(l)), dtype=grammar.dtype) for l in range(top + 1)
    )
    if not grammar.sparse:
        return Trees(symbols[0], symbols)
    placements = tuple(
        np.empty(
            (num, grammar.num_nodes(l)),
            dtype=np.min_scalar_type(-len(grammar.placements[l - 1])),
        )
        for l in grammar.levels
    )
    leaves = np.empty((num, grammar.num_leaves), dtype=grammar.dtype)
    return Trees(leaves, symbols, placements)


def derive(
    grammar: Grammar,
    labels: ArrayLike,
    choices: Choices,
    placements: Choices = (),
    out: Trees | None = None,
) -> Trees:
    """Write classes as leaves: the data that follow from the choices of all rules.

    Args:
        grammar: the rules.
        labels: (data,) classes.
        choices: the number 0..m-1 of the rule that each symbol uses, (data, symbols of the level)
            for each level 1..L.
        placements: the number of the placement of each tuple in the same form, for a sparse
            grammar.
        out: the trees to write to; new ones by default.

    Raises:
        ValueError: no such class.
        TypeError: classes that are not whole numbers.
    """
    label = inputs.rows(labels, "labels")
    if label.size and not 0 <= label.min() <= label.max() < grammar.num_classes:
        raise ValueError(
            f"Classes are numbered 0..{grammar.num_classes - 1}, got numbers from {label.min()} to "
            f"{label.max()}."
        )
    trees = empty(grammar, len(label)) if out is None else out
    trees.symbols[-1][:, 0] = label
    for l in reversed(grammar.levels):
        above, below = trees.symbols[l], trees.symbols[l - 1]
        rules = grammar.rules[l - 1]
        row = above.astype(np.int64)
        row *= grammar.synonym_counts[l - 1]
        row += choices[l - 1]
        # mode="clip" saves numpy a copy of the output; every row is in range.
        np.take(
            rules.reshape(-1, rules.shape[-1]),
            row,
            axis=0,
            out=below.reshape(*above.shape, rules.shape[-1]),
            mode="clip",
        )
    place(grammar, trees, placements)
    return trees


def place(grammar: Grammar, trees: Trees, placements: Choices) -> None:
    """Put the symbols of level 0 where the placements of a sparse grammar say, among blanks."""
    if grammar.sparse:
        for chosen, room in zip(placements, trees.placements, strict=True):
            room[...] = chosen
        trees.leaves[...] = BLANK
        np.put_along_axis(
            trees.leaves, leaf_places(grammar, trees.placements), trees.symbols[0], axis=1
        )


def leaf_places(grammar: Grammar, placements: Choices) -> Index:
    """The place of each leaf of a sparse grammar, ascending, (data, leaves without blanks)."""
    place = np.zeros((len(placements[-1]), 1), dtype=np.int64)
    for l in reversed(grammar.levels):
        offset = grammar.placements[l - 1][placements[l - 1]]
        inside = place[..., None] * grammar.patch_sizes[l - 1] + offset
        place = inside.reshape(len(inside), inside.shape[1] * inside.shape[2])
    return place


def choices_of(grammar: Grammar, trees: Trees) -> list[Index]:
    """The number 0..m-1 of the rule that wrote each symbol, for each level 1..L.

    Raises:
        ValueError: the trees are not of this grammar, or have unknown symbols; the message names
            the first datum that is not.
        TypeError: no `Trees`.
    """
    _check_shapes(grammar, trees)
    result = []
    for l in grammar.levels:
        owner = trees.symbols[l]
        row = grammar.rule_tables[l - 1].find(
            trees.symbols[l - 1].reshape(*owner.shape, grammar.tuple_sizes[l - 1])
        )
        m = grammar.synonym_counts[l - 1]
        choice = row - owner.astype(np.int64) * m
        foreign = (choice < 0) | (choice >= m) | (row < 0)
        if foreign.any():
            _explain_foreign(grammar, trees, l, foreign)
        result.append(choice)
    return result


def _check_shapes(grammar: Grammar, trees: Trees) -> None:
    inputs.instance(trees, Trees, "trees", "`Trees`, made by sample, split, data or parse")
    nodes = [grammar.num_nodes(l) for l in range(grammar.num_levels + 1)]
    found = [level.shape[1] for level in trees.symbols]
    if found != nodes or len(trees.placements) != (grammar.num_levels if grammar.sparse else 0):
        raise ValueError(
            f"The trees are of another grammar: they have {found} symbols in the levels 0, 1, ... "
            f"and placements in {len(trees.placements)} levels; this one has {nodes}, and "
            f"placements {'in all levels' if grammar.sparse else 'in none'}."
        )
    for l, placement in enumerate(trees.placements, start=1):
        count = len(grammar.placements[l - 1])
        if placement.size and not 0 <= placement.min() <= placement.max() < count:
            raise ValueError(
                f"Placements of level {l} are numbered 0..{count - 1} in this grammar, got numbers "
                f"from {placement.min()} to {placement.max()}: the trees are of another grammar, "
                "or were parsed with strict=False and have unknown places."
            )


def _explain_foreign(
    grammar: Grammar, trees: Trees, level: int, foreign: NDArray[np.bool_]
) -> None:
    bad = foreign.any(axis=1)
    row = int(np.argmax(bad))
    node = int(np.argmax(foreign[row]))
    s = grammar.tuple_sizes[level - 1]
    below = trees.symbols[level - 1][row, node * s : (node + 1) * s].tolist()
    raise ValueError(
        f"{int(bad.sum())} of {len(trees)} data are not of this grammar, the first is datum {row}: "
        f"no rule writes its symbol {int(trees.symbols[level][row, node])} of level {level} (node "
        f"{node}) as {tuple(below)}. Are these trees of another grammar or seed, or parsed with "
        "strict=False?"
    )


def log_probability(grammar: Grammar, trees: Trees) -> Array:
    """(data,) the log probability of each datum, which is -log P_max for uniform rules."""
    choices = choices_of(grammar, trees)
    total = np.log(grammar.class_probabilities)[trees.labels]
    for l, choice in zip(grammar.levels, choices, strict=True):
        each = np.log(grammar.rule_probabilities[l - 1] / len(grammar.placements[l - 1]))
        drawn = each[choice] if each.ndim == 1 else each[trees.symbols[l], choice]
        total += drawn.sum(axis=1)
    return total


# -- numbers ---------------------------------------------------------------------------------------
#
# A datum is given by its class and its choices, from the top down and from left to right in each
# level. They are the digits of a number in a mixed radix: n, then m K_l for each symbol of level l.
# The grammar is unambiguous, so different numbers in 0..P_max-1 are different data.


def digits_of(grammar: Grammar, trees: Trees) -> Index:
    """The class and the choices as digits, (data, 1 + symbols of all levels 1..L).

    The most significant digit comes first.
    """
    choices = choices_of(grammar, trees)
    return _as_digits(grammar, trees.labels, choices, trees.placements)


def _as_digits(grammar: Grammar, labels: Index, choices: Choices, placements: Choices) -> Index:
    digits = [choice.astype(np.int64, copy=False) for choice in choices]
    for l, placement in enumerate(placements, start=1):
        digits[l - 1] = digits[l - 1] * len(grammar.placements[l - 1]) + placement
    return np.concatenate([labels[:, None], *reversed(digits)], axis=1)


def radices(grammar: Grammar) -> list[int]:
    """The radix of each digit, the most significant first."""
    below = (
        radix
        for l in reversed(grammar.levels)
        for radix in [grammar.radix(l)] * grammar.num_nodes(l)
    )
    return [grammar.num_classes, *below]


def index_of(grammar: Grammar, trees: Trees) -> NDArray[Any]:
    """(data,) the number of each datum in 0..P_max-1; Python ints where int64 is too small."""
    sizes = radices(grammar)
    index = np.zeros(len(trees), dtype=np.int64 if grammar.num_data < INDEX_LIMIT else object)
    for rows in chunks(len(trees), len(sizes)):
        for radix, digit in zip(sizes, digits_of(grammar, trees[rows]).T, strict=True):
            index[rows] = index[rows] * radix + digit.astype(index.dtype)
    return index


def data_at(grammar: Grammar, index: Iterable[int] | NDArray[Any]) -> Trees:
    """The data with the given numbers.

    Args:
        grammar: the rules.
        index: (data,) whole numbers in 0..P_max-1, Python ints where they exceed 64 bits.

    Raises:
        ValueError: a number is out of range.
        TypeError: the numbers are not whole.
    """
    wide = grammar.num_data >= INDEX_LIMIT
    if not isinstance(index, np.ndarray):
        whole = [inputs.whole(i, "an index") for i in inputs.sequence(index, "index", "numbers")]
        index = np.array(whole, dtype=object)
    if index.dtype.kind not in "iuO" or index.ndim != 1:
        raise TypeError(
            f"index must be a vector of whole numbers, got shape {index.shape} of {index.dtype}."
        )
    if len(index) and not 0 <= index.min() <= index.max() < grammar.num_data:
        raise ValueError(
            f"Data are numbered 0..P_max-1 with P_max = {grammar.num_data}, got numbers from "
            f"{index.min()} to {index.max()}."
        )
    sizes = radices(grammar)
    trees = empty(grammar, len(index))
    for rows in chunks(len(index), len(sizes)):
        rest = index[rows].astype(object if wide else np.int64)
        digits = np.empty((len(rest), len(sizes)), dtype=np.int64)
        for k in reversed(range(len(sizes))):
            digits[:, k] = rest % sizes[k]
            rest = rest // sizes[k]
        _from_digits(grammar, digits, trees[rows])
    return trees


def _from_digits(grammar: Grammar, digits: Index, out: Trees) -> None:
    """Write the data with the given digits, as in `digits_of`."""
    ends = np.cumsum([1, *(grammar.num_nodes(l) for l in reversed(grammar.levels))])
    columns = [digits[:, a:b] for a, b in pairwise(ends)][::-1]
    if grammar.sparse:
        parts = zip(columns, grammar.placements, strict=True)
        choices, placements = zip(*(divmod(c, len(k)) for c, k in parts), strict=True)
        derive(grammar, digits[:, 0], choices, placements, out)
    else:
        derive(grammar, digits[:, 0], columns, out=out)


def keys_of(grammar: Grammar, trees: Trees) -> Keys:
    """(data,) keys of 64 bits: equal for equal data, different for different data.

    A key is the index where that fits into 64 bits. Elsewhere it is a random linear hash of the
    digits modulo 2^64, under which two given data collide with a probability of about 2^-60. Code
    that rejects data by their keys then loses a datum that was new, but never keeps one twice.
    """
    weights = _key_weights(grammar)
    keys = np.empty(len(trees), dtype=np.uint64)
    for rows in chunks(len(trees), len(weights)):
        keys[rows] = digits_of(grammar, trees[rows]).astype(np.uint64) @ weights
    return keys


def keys_of_choices(
    grammar: Grammar, labels: Index, choices: Choices, placements: Choices = ()
) -> Keys:
    """The keys of the data that `derive` makes of the same arguments, without making them."""
    digits = _as_digits(grammar, labels, choices, placements)
    return np.asarray(digits.view(np.uint64) @ _key_weights(grammar), dtype=np.uint64)


def _key_weights(grammar: Grammar) -> Keys:
    sizes = radices(grammar)
    if grammar.num_data >= INDEX_LIMIT:
        drawn = generator_for("keys").integers(0, 2**64, size=len(sizes), dtype=np.uint64)
        return np.asarray(drawn | np.uint64(1), dtype=np.uint64)
    places = [1]
    for radix in reversed(sizes[1:]):
        places.append(places[-1] * radix)
    return np.array(places[::-1], dtype=np.uint64)


def chunks(num: int, width: int, entries: int = 2**17) -> Iterator[slice]:
    """Slices of 0..num-1 of about ``entries`` numbers each, if a datum takes ``width`` of them."""
    step = max(1, entries // max(1, width))
    return (slice(start, min(start + step, num)) for start in range(0, num, step))
