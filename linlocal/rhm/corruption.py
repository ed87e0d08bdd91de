"""Symbols replaced by others: leaves of data, or symbols of every level while data are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from linlocal import inputs
from linlocal.rhm import sampling, trees as t
from linlocal.rhm.encoding import checked_leaves
from linlocal.rhm.grammar import Array, Grammar, Symbols
from linlocal.rhm.trees import Trees
from linlocal.seeds import generator_for


def corrupt(grammar: Grammar, leaves: ArrayLike, fraction: float, seed: int) -> Symbols:
    """Replace each leaf with a given probability by another symbol; blanks stay.

    Args:
        grammar: the rules.
        leaves: (data, d).
        fraction: probability of a replacement.
        seed: seeds the replacements.

    Raises:
        ValueError: not a probability, no other symbol, or not (data, d) symbols of the grammar.
    """
    fraction = inputs.share(fraction, "fraction")
    if grammar.num_values(0) == 1:
        raise ValueError("With num_symbols=1 a leaf cannot be another symbol.")
    old = checked_leaves(grammar, leaves)
    return _replaced(grammar, old, 0, fraction, generator_for("corrupt", seed))


def sample_corrupted(
    grammar: Grammar, num: int, corruption: float | Sequence[float], *seed: int
) -> Trees:
    """Independent draws in which symbols are replaced by others as soon as they are written.

    A symbol that was replaced at an inner node is written on as the other symbol. `Trees.symbols`
    are those after the replacement, so a tuple need not be one of the symbol above it, and `parse`
    finds no tree; `posterior` with the same ``corruption`` says what the leaves tell.

    Args:
        grammar: the rules.
        num: the number of data.
        corruption: the probability of a replacement on each level 0..L-1; one number is that of the
            leaves.
        seed: seeds the draws, by one number or several.

    Raises:
        ValueError: not a probability below 1 for each level, or no other symbol on a level.
    """
    num = inputs.whole(num, "num", 0)
    shares = probabilities(grammar, corruption)
    rng = generator_for("sample corrupted", *seed)
    trees = t.empty(grammar, num)
    for rows in t.chunks(num, grammar.num_nodes(0)):
        sampling.draw(
            grammar,
            trees[rows],
            rng,
            lambda symbols, level: _replaced(grammar, symbols, level, shares[level], rng),
        )
    return trees


def probabilities(grammar: Grammar, corruption: float | Sequence[float]) -> tuple[float, ...]:
    """The probability of a replacement on each level 0..L-1.

    Args:
        grammar: the rules.
        corruption: that of the leaves, or one for each level.

    Raises:
        ValueError: not a probability below 1, another number of them, or no other symbol on a
            level.
    """
    top = grammar.num_levels
    one = not inputs.is_several(corruption)
    given = (
        (corruption, *(0.0,) * (top - 1))
        if one
        else inputs.sequence(corruption, "corruption", "probabilities")
    )
    if len(given) != top:
        raise ValueError(
            f"corruption must hold one probability for each of the levels 0..{top - 1}, or be that "
            f"of the leaves, got {len(given)} numbers."
        )
    shares = tuple(inputs.real(each, "corruption") for each in given)
    for level, each in enumerate(shares):
        if not 0 <= each < 1:
            raise ValueError(f"corruption must be a probability below 1, got {each}.")
        if each and grammar.num_values(level) == 1:
            raise ValueError(f"Level {level} has one symbol, which no other can replace.")
    return shares


def channel(grammar: Grammar, level: int, probability: float) -> Array:
    """(symbols, symbols) p(replacement | symbol), symmetric; a blank, the last, stays.

    Args:
        grammar: the rules.
        level: the level, 0..L-1.
        probability: that another symbol, each equally probable, takes its place.

    Raises:
        ValueError: no probability.
    """
    probability, v = inputs.share(probability, "probability"), grammar.num_values(level)
    table = np.eye(v + grammar.sparse)
    if probability:
        table[:v, :v] = probability / (v - 1)
        np.fill_diagonal(table[:v, :v], 1 - probability)
    return table


def _replaced(
    grammar: Grammar, old: Symbols, level: int, probability: float, rng: np.random.Generator
) -> Symbols:
    if probability == 0:
        return old
    # Wide, because a symbol plus its shift may not fit into the integers of the symbols.
    v, wide = grammar.num_values(level), old.astype(np.int64)
    hit = (rng.random(old.shape) < probability) & (wide >= 0)
    shift = rng.integers(1, v, size=old.shape)
    return np.where(hit, (wide + shift) % v, wide).astype(grammar.dtype)
