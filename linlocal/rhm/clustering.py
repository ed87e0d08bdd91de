"""Learning the hierarchy by counting: tuples that are met in the same contexts are synonyms.

Level by level, from the leaves up, tuples are grouped by the frequencies of what stands around
them, and each tuple is replaced by its group. No network is trained, so these are baselines: how
many data the statistics themselves ask for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import fcluster, ward
from scipy.optimize import linear_sum_assignment

from linlocal import inputs
from linlocal.rhm.encoding import checked_leaves
from linlocal.rhm.grammar import Array, Grammar, Index
from linlocal.rhm.theory import require_dense
from linlocal.rhm.trees import Trees

Context = Literal["siblings", "classes"]

UNKNOWN = -1
"""The latent of a tuple that was never met."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """Which tuples of a level are taken for synonyms.

    Attributes:
        tuples: (tuples, s) those that were met, in lexicographic order.
        groups: (tuples,) the group of each, 0, 1, ...
    """

    tuples: Index
    groups: Index

    def __call__(self, symbols: ArrayLike) -> Index:
        """(data, nodes) the groups of neighbouring tuples of (data, s nodes); else `UNKNOWN`."""
        patches = _patches(np.asarray(symbols), self.tuples.shape[1])
        base = 2 + max(int(self.tuples.max(initial=0)), int(patches.max(initial=0)))
        known, asked = _codes(self.tuples, base), _codes(patches, base)
        place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        return np.where(known[place] == asked, self.groups[place], UNKNOWN)


@dataclass(frozen=True, eq=False)
class Clustering:
    """Groups of tuples for the levels 1..L-1, and the class that each tuple of level L is of.

    Attributes:
        levels: a grouping for each level 1..L; that of level L names classes.
    """

    levels: tuple[Grouping, ...]

    def latents(self, leaves: ArrayLike) -> list[Index]:
        """(data, symbols of the level) for each level 1..L; `UNKNOWN` where a tuple is new."""
        symbols, found = np.asarray(leaves, dtype=np.int64), []
        for level in self.levels:
            symbols = level(symbols)
            found.append(symbols)
        return found

    def classes(self, leaves: ArrayLike) -> Index:
        """(data,) the classes, `UNKNOWN` where a tuple is new."""
        return self.latents(leaves)[-1][:, 0]


def cluster(
    grammar: Grammar,
    leaves: ArrayLike,
    labels: ArrayLike,
    *,
    context: Context = "siblings",
    labelled: int | None = None,
) -> Clustering:
    """Learn all levels from data, given the sizes of the tree and none of its rules.

    "siblings" groups the tuples of level l by how often each symbol of level l - 1 stands at each
    place of the sibling tuples (`contexts`). Synonyms share these frequencies. Those of others
    differ by the fraction sqrt(v)/m, the sampling noise is sqrt(v^2 m/P): equal at P = v m^3 at
    every level, whatever the depth, times 1/(1 - m/v^(s-1)) for rules that fill the space of
    tuples. Labels serve level L only, whose n m tuples get the class most often met with them.

    "classes" groups the tuples by how often each class is met with them at each node. That is one
    gradient step, from small weights, of a network on one-hot tuples, then clustering; level 1
    takes P = n m^L.

    The cost is O(data d) for the counts of all levels and O((v m)^2 v) for the groups of one.

    Args:
        grammar: its sizes are used: tuples, symbols of each level, classes.
        leaves: (data, d).
        labels: (data,) classes.
        context: what tuples are grouped by.
        labelled: how many data, the first ones, tell their class to level L; None for all.

    Raises:
        ValueError: no data, other leaves or labels than the grammar's, an unknown context,
            blanks, or more labelled data than there are.

    References:
        Korchinski, Favero and Wyart 2026, arXiv 2605.27734 (iterative clustering of latents);
        Cagnetta et al. 2024, arXiv 2307.02129 (clustering after one step).
    """
    if not inputs.is_one_of(context, get_args(Context)):
        raise ValueError(f"context must be one of {', '.join(get_args(Context))}, got {context!r}.")
    symbols, classes = _checked(grammar, leaves, labels)
    count = len(symbols) if labelled is None else inputs.whole(labelled, "labelled", 1)
    if count > len(symbols):
        raise ValueError(f"labelled must be at most the {len(symbols)} data, got {count}.")
    found = []
    for l in range(1, grammar.num_levels):
        given = classes if context == "classes" else None
        tuples, features = _contexts(grammar, symbols, l, given)
        found.append(Grouping(tuples, synonyms(features, grammar.num_values(l))))
        symbols = found[-1](symbols)
    top = _patches(symbols[:count], grammar.tuple_sizes[-1])[:, 0]
    tuples, row = np.unique(top, axis=0, return_inverse=True)
    met = np.zeros((len(tuples), grammar.num_classes))
    np.add.at(met, (row.reshape(-1), classes[:count]), 1)
    return Clustering((*found, Grouping(tuples, met.argmax(axis=1))))


def contexts(
    grammar: Grammar, symbols: ArrayLike, level: int, labels: ArrayLike | None = None
) -> tuple[Index, Array]:
    """The tuples that are met at the nodes of a level, and the frequencies around each.

    Row mu holds P(c | mu, p) - P(c | p) for every place p and context c. Without labels p is a
    place among the children of a node of level + 1, and c a symbol at a place of a sibling tuple.
    With labels p is a node of the level and c a class. Where a tuple was not met at p it is 0.

    Args:
        grammar: its sizes are used.
        symbols: (data, symbols of level - 1), whole numbers from 0.
        level: 1..L, below L without labels.
        labels: (data,) classes.

    Returns:
        (tuples, s) in lexicographic order and (tuples, features).

    Raises:
        ValueError: no such level, another shape, no data, or negative symbols.
        TypeError: symbols or labels that are not whole.
    """
    level = grammar.check_level(level)
    require_dense(grammar, "The context of a tuple")
    array = inputs.rows(symbols, "symbols")
    if array.ndim != 2 or array.shape[1] != grammar.num_nodes(level - 1) or not array.size:
        raise ValueError(
            f"symbols must be (data, {grammar.num_nodes(level - 1)}), the symbols of level "
            f"{level - 1} of at least one datum, got shape {array.shape}."
        )
    if array.min() < 0:
        raise ValueError(
            f"symbols must be 0 or more, got {array.min()}: leave out data with unknown latents."
        )
    if labels is None and level == grammar.num_levels:
        raise ValueError(f"Tuples of the top level {level} have no siblings: give labels.")
    return _contexts(grammar, array, level, None if labels is None else _labels(labels, array))


def _contexts(
    grammar: Grammar, symbols: Index, level: int, labels: Index | None
) -> tuple[Index, Array]:
    patches = _patches(symbols, grammar.tuple_sizes[level - 1])
    data, nodes, s = patches.shape
    tuples, row = np.unique(patches.reshape(-1, s), axis=0, return_inverse=True)
    row = row.reshape(data, nodes)
    if labels is not None:
        places = row
        around = np.broadcast_to(labels[:, None, None], (data, nodes, 1))
        values = grammar.num_classes
    else:
        # (parents of all data, children, ...): each child is a place, its siblings the context.
        children = grammar.tuple_sizes[level]
        places = row.reshape(-1, children)
        each = patches.reshape(-1, children, s)
        others = np.array([np.delete(np.arange(children), p) for p in range(children)])
        around = each[:, others].reshape(len(each), children, -1)
        values = int(symbols.max()) + 1
    features = []
    for p in range(places.shape[1]):
        met = np.bincount(places[:, p], minlength=len(tuples))
        for c in range(around.shape[2]):
            code = places[:, p] * values + around[:, p, c]
            joint = np.bincount(code, minlength=len(tuples) * values).reshape(-1, values)
            mean = joint.sum(axis=0) / len(places)
            features.append(
                np.where(met[:, None] > 0, joint / np.maximum(met, 1)[:, None] - mean, 0.0)
            )
    return tuples, np.concatenate(features, axis=1)


def synonyms(features: ArrayLike, num_groups: int) -> Index:
    """(tuples,) groups of rows that are near each other, by Ward's method; at most ``num_groups``.

    Args:
        features: (tuples, features), as `contexts` gives them.
        num_groups: how many groups are asked for.

    Raises:
        ValueError: not a matrix with a row, numbers that are not finite, or no group.
    """
    matrix, count = inputs.numbers(features, "features"), inputs.whole(num_groups, "num_groups", 1)
    if matrix.ndim != 2 or not len(matrix) or not np.isfinite(matrix).all():
        raise ValueError(
            f"features must be finite numbers (tuples, features) with a tuple, got {matrix.shape}."
        )
    if len(matrix) <= count:
        return np.arange(len(matrix))
    return np.asarray(fcluster(ward(matrix), count, "maxclust") - 1, dtype=np.int64)


def recovered(grammar: Grammar, clustering: Clustering, trees: Trees) -> Array:
    """(L,) share of the symbols of each level 1..L that are told right, groups named at best.

    Groups have no names, so below the class each is paired with a symbol, one to one, as makes the
    share largest. It is 1 where all synonym groups that occur are found, and unknown latents are
    wrong.

    Args:
        grammar: the rules.
        clustering: what was learned.
        trees: the data that are asked about, with their true symbols.

    Raises:
        ValueError: no data, or trees of other sizes.
    """
    inputs.instance(trees, Trees, "trees", "`Trees`, made by sample, split, data or parse")
    _checked(grammar, trees.leaves, trees.labels)
    shares = []
    for l, found in enumerate(clustering.latents(trees.leaves), start=1):
        true = trees.symbols[l].astype(np.int64)
        if l == grammar.num_levels:
            shares.append(float((found == true).mean()))
            continue
        known = found != UNKNOWN
        joint = np.zeros((int(found.max(initial=0)) + 1, grammar.num_values(l)))
        np.add.at(joint, (found[known], true[known]), 1)
        shares.append(float(joint[linear_sum_assignment(-joint)].sum() / true.size))
    return np.array(shares)


def _checked(grammar: Grammar, leaves: ArrayLike, labels: ArrayLike) -> tuple[Index, Index]:
    require_dense(grammar, "Clustering")
    symbols = checked_leaves(grammar, leaves).astype(np.int64)
    if not len(symbols):
        raise ValueError("leaves must hold at least one datum.")
    classes = _labels(labels, symbols)
    if classes.max() >= grammar.num_classes:
        raise ValueError(
            f"labels are classes 0..{grammar.num_classes - 1}, got {int(classes.max())}."
        )
    return symbols, classes


def _labels(labels: ArrayLike, symbols: Index) -> Index:
    classes = inputs.rows(labels, "labels")
    if classes.shape != (len(symbols),) or classes.min() < 0:
        raise ValueError(
            f"labels must be classes from 0, one for each of the {len(symbols)} data, got shape "
            f"{classes.shape}" + (f" from {classes.min()}." if classes.size else ".")
        )
    return classes


def _patches(symbols: NDArray[np.integer], size: int) -> Index:
    return symbols.reshape(len(symbols), -1, size).astype(np.int64)


def _codes(tuples: Index, base: int) -> Index:
    """One number for each tuple, in lexicographic order; `UNKNOWN` counts as a digit."""
    return np.asarray((tuples + 1) @ base ** np.arange(tuples.shape[-1])[::-1])
