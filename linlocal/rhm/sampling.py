"""Drawing data: with replacement, without, all of them in order; and changing parts of a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from linlocal.inputs import whole
from linlocal.rhm import trees as t
from linlocal.rhm.grammar import Grammar, Index, Symbols
from linlocal.rhm.trees import Trees
from linlocal.seeds import generator_for

EXACT_ORDER = 2**22
"""Up to so many data, drawing without replacement puts all of them in a random order."""

_FIRST_ROUND, _LAST_ROUND = 2**12, 2**20


def sample(grammar: Grammar, num: int, *seed: int) -> Trees:
    """Independent draws, with replacement.

    Args:
        grammar: the rules.
        num: the number of data.
        seed: seeds the draws, by one number or several; independent of the seed of the rules.
    """
    num = whole(num, "num", 0)
    return _sample(grammar, num, generator_for("sample", *seed))


def _sample(
    grammar: Grammar, num: int, rng: np.random.Generator, keys: t.Keys | None = None
) -> Trees:
    """Independent draws; their keys are written to ``keys``."""
    # In pieces that stay in the cache; what is drawn between two levels never exceeds a piece.
    trees = t.empty(grammar, num)
    for rows in t.chunks(num, grammar.num_nodes(0)):
        size = rows.stop - rows.start
        labels = _labels(grammar, size, rng)
        choices = _all_choices(grammar, grammar.num_levels, labels[:, None], rng)
        placements = _placements(grammar, size, rng)
        t.derive(grammar, labels, choices, placements, out=trees[rows])
        if keys is not None:
            keys[rows] = t.keys_of_choices(grammar, labels, choices, placements)
    return trees


def _labels(grammar: Grammar, num: int, rng: np.random.Generator) -> Index:
    if grammar.class_weights is None:
        return rng.integers(grammar.num_classes, size=num)
    below = np.cumsum(grammar.class_probabilities)[:-1]
    return np.asarray(np.searchsorted(below, rng.random(num), side="right"))


def _all_choices(
    grammar: Grammar, top: int, symbols: Symbols, rng: np.random.Generator
) -> list[NDArray[np.integer]]:
    """The rules that write the symbols (data, nodes) of level ``top`` and all below, 1..top."""
    if grammar.rule_weights is None:  # no choice depends on a symbol
        return [_choices(grammar, l, len(symbols), rng) for l in range(1, top + 1)]
    choices: list[NDArray[np.integer]] = []
    for l in range(top, 0, -1):
        choice = _weighted_choices(grammar, l, symbols, rng)
        choices.insert(0, choice)
        symbols = grammar.rules[l - 1][symbols, choice].reshape(len(symbols), -1)
    return choices


def _weighted_choices(
    grammar: Grammar, level: int, symbols: Symbols, rng: np.random.Generator
) -> NDArray[np.integer]:
    p, rules = grammar.rule_probabilities[level - 1], grammar.rules[level - 1]
    below = np.cumsum(np.broadcast_to(p, rules.shape[:2]), axis=1)[:, :-1]
    return np.asarray((below[symbols] <= rng.random(symbols.shape)[..., None]).sum(axis=-1))


def draw(
    grammar: Grammar,
    out: Trees,
    rng: np.random.Generator,
    change: Callable[[Symbols, int], Symbols],
) -> None:
    """Fill ``out`` with draws, level by level, where each level is changed before it is written on.

    Args:
        grammar: the rules.
        out: the trees to write to.
        rng: draws.
        change: takes the symbols of a level 0..L-1 and the level, returns others.
    """
    out.symbols[-1][:, 0] = _labels(grammar, len(out), rng)
    for l in reversed(grammar.levels):
        above, rules = out.symbols[l], grammar.rules[l - 1]
        written = rules[above, _weighted_choices(grammar, l, above, rng)]
        out.symbols[l - 1][...] = change(written.reshape(len(out), -1), l - 1)
    t.place(grammar, out, _placements(grammar, len(out), rng))


def _choices(
    grammar: Grammar, level: int, num: int, rng: np.random.Generator
) -> NDArray[np.integer]:
    shape, m = (num, grammar.num_nodes(level)), grammar.synonym_counts[level - 1]
    if m == 1 or grammar.rule_exponents[level - 1] == 0:
        return rng.integers(m, size=shape, dtype=np.min_scalar_type(m))
    below = np.cumsum(grammar.rule_probabilities[level - 1])[:-1]
    return np.searchsorted(below, rng.random(shape), side="right")


def _placements(grammar: Grammar, num: int, rng: np.random.Generator) -> list[NDArray[np.integer]]:
    if not grammar.sparse:
        return []
    return [
        rng.integers(len(grammar.placements[l - 1]), size=(num, grammar.num_nodes(l)))
        for l in grammar.levels
    ]


def enumerate_data(grammar: Grammar, batch_size: int = 1024, start: int = 0) -> Iterator[Trees]:
    """All data in the order of their index, made when asked for.

    Args:
        grammar: the rules.
        batch_size: the number of data made at a time.
        start: the index of the first.

    Raises:
        ValueError: no data at a time, or a negative start.
        TypeError: a number that is not whole.
    """
    # Here and not in the generator, so a wrong number is refused by the call itself.
    batch_size, start = whole(batch_size, "batch_size", 1), whole(start, "start", 0)
    return _enumerated(grammar, batch_size, start)


def _enumerated(grammar: Grammar, batch_size: int, start: int) -> Iterator[Trees]:
    for first in range(start, grammar.num_data, batch_size):
        yield t.data_at(grammar, range(first, min(first + batch_size, grammar.num_data)))


# -- without replacement ---------------------------------------------------------------------------


def split(grammar: Grammar, train: int, test: int, seed: int) -> tuple[Trees, Trees]:
    """A training and a test set, all of whose data are different from each other.

    Data are drawn one after the other, each from those that are left, with probability proportional
    to their own (uniform, unless the rules are not); the first ``test`` are the test set. One seed
    thus gives the same test set for every size of the training set, and training sets that contain
    each other: always if P_max <= 2^22 or the rules are not uniform, else while train + test <=
    P_max / 2.

    With rules that are not uniform the sets hold more rare data than independent draws would.

    Args:
        grammar: the rules.
        train: size of the training set.
        test: size of the test set.
        seed: seeds the split, independently of all other seeds.

    Raises:
        ValueError: negative sizes, more data than there are, or so many of a grammar with unequal
            rules that the rest is too rare to be met.
    """
    train, test = whole(train, "train", 0), whole(test, "test", 0)
    if train + test > grammar.num_data:
        raise ValueError(
            f"train + test <= P_max is broken: {train + test} > {grammar.num_data}. Ask for fewer "
            "data, or use more synonyms, classes or levels."
        )
    trees = draw_distinct(grammar, train + test, seed)
    return trees[test:], trees[:test]


def draw_distinct(grammar: Grammar, num: int, *seed: int) -> Trees:
    """The first ``num`` data of a random order without repetition, see `split`."""
    num = whole(num, "num", 0)
    rng = generator_for("split", *seed)
    if grammar.num_data <= EXACT_ORDER or (grammar.uniform and 2 * num > grammar.num_data):
        return t.data_at(grammar, _random_order(grammar, num, rng))
    # To draw with replacement and drop what was drawn before is to draw without replacement.
    # The rounds do not depend on num, so a larger set begins with the data of a smaller one.
    trees = t.empty(grammar, num)
    seen = np.empty(0, dtype=np.uint64)
    size = _FIRST_ROUND
    while (start := len(seen)) < num:
        drawn_keys = np.empty(size, dtype=np.uint64)
        drawn = _sample(grammar, size, rng, drawn_keys)
        keys, first = np.unique(drawn_keys, return_index=True)
        new = ~np.isin(keys, seen, assume_unique=True)
        if new.sum() < 1e-3 * size:
            raise ValueError(
                f"Drew {start} different data; of the last {size} draws only {int(new.sum())} were "
                f"new, so {num} would take very long. Rules this unequal leave few data that are "
                "likely: ask for fewer, or lower rule_exponent."
            )
        trees[start:].write(drawn[np.sort(first[new])])
        seen = np.concatenate([seen, keys[new]])
        size = min(2 * size, _LAST_ROUND)
    return trees


def _random_order(grammar: Grammar, num: int, rng: np.random.Generator) -> Index:
    if grammar.uniform:
        return rng.permutation(grammar.num_data)[:num]
    # The largest of log p + Gumbel noise is a draw from p, the next one a draw from the rest.
    score = np.concatenate(
        [t.log_probability(grammar, part) for part in enumerate_data(grammar, 2**14)]
    )
    score += rng.gumbel(size=len(score))
    return np.argsort(-score)[:num]


# -- changes ---------------------------------------------------------------------------------------


def exchange(grammar: Grammar, trees: Trees, level: int, node: int | None, seed: int) -> Trees:
    """Write symbols of a level as another of their own tuples; every other choice stays.

    The symbols above do not change; those below do, as the children are others. This is the
    operator P_l of the synonymic sensitivity (arXiv 2307.02129).

    Args:
        grammar: the rules.
        trees: the data.
        level: the level, in 1..L, of the symbols whose tuples are exchanged.
        node: which symbol of the level, or None for all of them.
        seed: seeds the new tuples, which are drawn from the other synonyms by their probabilities.

    Raises:
        ValueError: no such level or node, or m = 1: there is no other tuple.
    """
    level = grammar.check_level(level)
    m = grammar.synonym_counts[level - 1]
    if m == 1:
        raise ValueError("With num_synonyms=1 no tuple has a synonym to be exchanged with.")
    columns = _columns(grammar, level, level, node)
    choices = t.choices_of(grammar, trees)
    old = choices[level - 1][:, columns]
    owners = trees.symbols[level][:, columns]
    tables = np.atleast_2d(grammar.rule_probabilities[level - 1])
    u = generator_for("exchange", seed).random(old.shape)
    new = np.empty_like(old)
    for symbol, probability in enumerate(tables):
        weight = np.tile(probability, (m, 1))
        np.fill_diagonal(weight, 0.0)
        below = np.cumsum(weight / weight.sum(axis=1, keepdims=True), axis=1)
        for rule in range(m):
            here = (old == rule) & ((owners == symbol) if len(tables) > 1 else True)
            new[here] = np.searchsorted(below[rule], u[here], side="right")
    choices[level - 1][:, columns] = new
    return t.derive(grammar, trees.labels, choices, trees.placements)


def resample(grammar: Grammar, trees: Trees, level: int, node: int | None, seed: int) -> Trees:
    """Draw anew everything below symbols of a level; all that is above or beside them stays.

    Args:
        grammar: the rules.
        trees: the data.
        level: the level, in 1..L, of the symbols that are written anew.
        node: which symbol of the level, or None for all of them.
        seed: seeds the draws.

    Raises:
        ValueError: no such level or node.
    """
    rng, level = generator_for("resample", seed), grammar.check_level(level)
    choices = t.choices_of(grammar, trees)
    placements = [level_.copy() for level_ in trees.placements]
    drawn_choices = _all_choices(grammar, level, trees.symbols[level], rng)
    for l, each in enumerate(drawn_choices, start=1):
        columns = _columns(grammar, l, level, node)
        choices[l - 1][:, columns] = each[:, columns]
    for l, drawn in enumerate(_placements(grammar, len(trees), rng)[:level], start=1):
        columns = _columns(grammar, l, level, node)
        placements[l - 1][:, columns] = drawn[:, columns]
    return t.derive(grammar, trees.labels, choices, placements)


def _columns(grammar: Grammar, level: int, top: int, node: int | None) -> slice:
    """The symbols of ``level`` that are below symbol ``node`` of level ``top``, or it itself."""
    count = grammar.num_nodes(grammar.check_level(top))
    if node is None:
        return slice(None)
    node = whole(node, "node")
    if not 0 <= node < count:
        raise ValueError(f"Level {top} has symbols 0..{count - 1}, got node {node}.")
    share = grammar.num_nodes(level) // count
    return slice(node * share, (node + 1) * share)
