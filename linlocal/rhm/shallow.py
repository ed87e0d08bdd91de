"""Leaves at different depths: data whose branches end above level 0, some here, some there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from linlocal import inputs
from linlocal.rhm import inference, sampling, theory
from linlocal.rhm.grammar import BLANK, Array, Grammar, Index
from linlocal.rhm.inference import Mask, Posterior
from linlocal.rhm.trees import Trees
from linlocal.seeds import generator_for


@dataclass(frozen=True, eq=False)
class ShallowTrees:
    """Data with leaves on several levels.

    Attributes:
        trees: the data with all that could have been written below the leaves.
        leaf: (data, nodes) whether a node is a leaf of its datum, for each level 0..L-1. From the
            class down, every path meets one leaf.
    """

    trees: Trees
    leaf: tuple[Mask, ...]

    __repr__ = inputs.brief

    def __len__(self) -> int:
        return len(self.trees)

    def __getitem__(self, rows: slice | NDArray[Any] | Sequence[int]) -> ShallowTrees:
        return ShallowTrees(self.trees[rows], tuple(level[rows] for level in self.leaf))

    @property
    def labels(self) -> Index:
        """(data,) the classes."""
        return self.trees.labels


def sample_shallow(
    grammar: Grammar, num: int, stop: float | Sequence[float], *seed: int
) -> ShallowTrees:
    """Independent draws in which every symbol of an inner level may be a leaf.

    A symbol of level l = 1..L-1 that is written at all is written no further with probability q_l,
    independently of everything else: the leaf is then the symbol of level l itself.

    Args:
        grammar: the rules, without blanks.
        num: the number of data.
        stop: q_l of the levels 1..L-1, or one q for all.
        seed: seeds the draws, by one number or several.

    Raises:
        ValueError: not a probability for each level 1..L-1, or a grammar with blanks.
    """
    shares = probabilities(grammar, stop)
    trees = sampling.sample(grammar, num, *seed)
    rng = generator_for("shallow", *seed)
    written = np.ones((len(trees), 1), dtype=bool)
    leaf = []
    for l in range(grammar.num_levels - 1, 0, -1):
        written = np.repeat(written, grammar.tuple_sizes[l], axis=1)
        ends = written & (rng.random(written.shape) < shares[l - 1])
        leaf.append(ends)
        written = written & ~ends
    leaf.append(np.repeat(written, grammar.tuple_sizes[0], axis=1))
    return ShallowTrees(trees, tuple(reversed(leaf)))


def probabilities(grammar: Grammar, stop: float | Sequence[float]) -> tuple[float, ...]:
    """q_l of the levels 1..L-1.

    Args:
        grammar: the rules, without blanks.
        stop: one for each of these levels, or one for all.

    Raises:
        ValueError: not a probability for each level, or a grammar with blanks.
    """
    theory.require_dense(grammar, "What is written no further")
    inner = grammar.num_levels - 1
    if inputs.is_several(stop):
        given = inputs.sequence(stop, "stop", "probabilities")
    else:
        given = (inputs.share(stop, "stop"),) * inner
    if len(given) != inner:
        raise ValueError(
            f"stop must hold one probability for each of the levels 1..{inner}, or be one number, "
            f"got {len(given)} numbers."
        )
    return tuple(inputs.share(each, "stop") for each in given)


def tokens(grammar: Grammar, data: ShallowTrees) -> Index:
    """(data, d) whole numbers: each leaf at the first of the places below it, else `BLANK`.

    Symbol x of level l is the number x + v_0 + ... + v_(l-1), since symbols of different levels are
    not the same.

    Args:
        grammar: the rules.
        data: its data.
    """
    result = np.full((len(data), grammar.num_leaves), BLANK, dtype=np.int64)
    first = 0
    for l, leaf in enumerate(data.leaf):
        here = result[:, :: grammar.num_leaves // grammar.num_nodes(l)]
        here[leaf] = data.trees.symbols[l][leaf].astype(np.int64) + first
        first += grammar.num_values(l)
    return result


def one_hot(grammar: Grammar, data: ShallowTrees, *, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """(data, v_0 + ... + v_(L-1), d): a channel for each of the `tokens`; a blank is 0 in all.

    Args:
        grammar: the rules.
        data: its data.
        dtype: the dtype of the result.
    """
    values = sum(grammar.symbol_counts)
    code = np.eye(values + 1, values, dtype=dtype)  # the last row is the blank, index -1
    return np.ascontiguousarray(code[tokens(grammar, data)].swapaxes(1, 2))


def posterior(grammar: Grammar, data: ShallowTrees) -> Posterior:
    """What the leaves, wherever they are, tell about every symbol, those below them included.

    Where the branches end says nothing about symbols, so these are the probabilities of the whole
    tree given the symbols that are seen.

    Args:
        grammar: the rules.
        data: its data.
    """
    symbols = data.trees.symbols
    return inference.posterior(
        grammar,
        symbols[0],
        data.leaf[0],
        inside={
            l: _certain(symbols[l], data.leaf[l], grammar.num_values(l))
            for l in range(1, grammar.num_levels)
        },
    )


def _certain(symbols: NDArray[Any], seen: Mask, values: int) -> Array:
    """(data, nodes, symbols) 1 for the symbol of a node that is seen, and for all of another."""
    return np.where(seen[..., None], np.eye(values)[symbols], 1.0)


def sample_complexity(grammar: Grammar, stop: float | Sequence[float]) -> float:
    """n m^L / prod_l (1 - q_l): how many data show a deep network the rules of level 1.

    A place of level 0 is written in a share prod_l (1 - q_l) of the data. Cov(class, tuple of
    leaves) falls by that share and its sampling noise by the root of it. Derived here, from n m^L
    of Cagnetta et al. 2024 (arXiv 2307.02129); not measured on networks.

    Args:
        grammar: a grammar with uniform rules, without blanks.
        stop: as in `sample_shallow`.

    Raises:
        ValueError: not probabilities, rules that are not uniform, or blanks.
    """
    written = math.prod(1 - q for q in probabilities(grammar, stop))
    whole = theory.sample_complexity(grammar)
    return whole / written if written else math.inf
