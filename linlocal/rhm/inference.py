"""From leaves back to latents: exact parsing, and belief propagation where leaves are hidden."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linlocal import inputs
from linlocal.rhm import corruption as corrupting, trees as t
from linlocal.rhm.encoding import checked_leaves
from linlocal.rhm.grammar import Array, Grammar, Index, Productions, Symbols
from linlocal.rhm.trees import Trees
from linlocal.seeds import generator_for

Mask = NDArray[np.bool_]

UNKNOWN = -1
"""The symbol of a node whose tuple nobody owns."""

# For each inner level where symbols are replaced, the probabilities, which are symmetric.
Channels = Mapping[int, Array]

# For each level 1..L of which something was seen, (data, nodes, symbols) p(what was seen | symbol).
Inside = Mapping[int, Array]


def parse(grammar: Grammar, leaves: ArrayLike, *, strict: bool = True) -> Trees:
    """The one tree of each datum, found from the leaves up, since every tuple has one owner.

    Args:
        grammar: the rules.
        leaves: (data, d), `BLANK` where a sparse grammar has no symbol.
        strict: whether to raise for leaves that the grammar does not generate. Otherwise a symbol
            whose tuple nobody owns is `UNKNOWN`, with all above it, and a datum whose blanks are
            wrong is `UNKNOWN` throughout.

    Raises:
        ValueError: the wrong number of leaves, or with ``strict``, a datum that cannot be parsed.
    """
    given = checked_leaves(grammar, leaves).astype(grammar.dtype, copy=False)
    trees = t.empty(grammar, len(given))
    trees.leaves[...] = given
    for rows in t.chunks(len(given), grammar.num_leaves):
        part = trees[rows]
        if grammar.sparse:
            _find_places(grammar, part)
        for l in grammar.levels:
            owner = part.symbols[l]
            tuples = part.symbols[l - 1].reshape(*owner.shape, grammar.tuple_sizes[l - 1])
            # By floor division a tuple that is in no row, -1, has the owner -1.
            owner[...] = grammar.rule_tables[l - 1].find(tuples) // grammar.synonym_counts[l - 1]
    if strict and len(trees) and (bad := trees.symbols[-1][:, 0] == UNKNOWN).any():
        _explain(grammar, trees, int(np.argmax(bad)), int(bad.sum()))
    return trees


def _find_places(grammar: Grammar, part: Trees) -> None:
    """Fill the placements and the leaves without blanks of data of a sparse grammar."""
    count = part.symbols[0].shape[1]
    is_symbol = part.leaves >= 0
    good = is_symbol.sum(axis=1) == count
    place = np.zeros((len(part), count), dtype=np.int64)
    place[good] = np.nonzero(is_symbol[good])[1].reshape(-1, count)
    symbols = np.take_along_axis(part.leaves, place, axis=1)
    for l in grammar.levels:
        s, size = grammar.tuple_sizes[l - 1], grammar.patch_sizes[l - 1]
        patch, offset = np.divmod(place.reshape(len(place), place.shape[1] // s, s), size)
        number = grammar.placement_tables[l - 1].find(offset)
        good &= (number >= 0).all(axis=1) & (patch == patch[..., :1]).all(axis=(1, 2))
        part.placements[l - 1][...] = number
        place = patch[..., 0]
    for placement in part.placements:
        placement[~good] = UNKNOWN
    part.symbols[0][...] = np.where(good[:, None], symbols, UNKNOWN)


def _explain(grammar: Grammar, trees: Trees, row: int, count: int) -> None:
    """Raise a ValueError that says where the parse of datum ``row`` fails first."""
    about = f"{count} of {len(trees)} data are not of this grammar, the first is datum {row}: "
    hint = " Pass strict=False to parse what can be, or use `posterior` with a corruption."
    for l, level in enumerate(trees.symbols):
        if (unknown := level[row] == UNKNOWN).any():
            node = int(np.argmax(unknown))
            if l == 0:
                raise ValueError(about + "its blanks or symbols are in no possible place." + hint)
            s = grammar.tuple_sizes[l - 1]
            below = trees.symbols[l - 1][row, node * s : (node + 1) * s].tolist()
            raise ValueError(
                f"{about}no symbol of level {l} owns {tuple(below)} (node {node}).{hint}"
            )


# -- belief propagation ----------------------------------------------------------------------------
#
# The factor graph is a tree, so one pass up and one pass down are exact. Let r be the rules of a
# level, a(r) the owner of a rule, r_i the i-th symbol of its patch, and i = 1..S the children of a
# node. Then
#
#   up(a)        = sum_{r: a(r) = a} p(r | a) prod_i up_i(r_i)                  p(leaves below | a)
#   down_i(b)    = sum_{r: r_i = b}  p(r | a(r)) down(a(r)) prod_{j != i} up_j(r_j)
#   posterior(b) ~ up(b) down(b)
#
# Where something was seen of an inner node, up(a) and what is sent down from it have that factor.
# Messages are kept at a maximum (up) or sum (down) of 1; the logarithms of what was divided out of
# the messages up, with the prior of the classes, make log p(leaves). The blank is the symbol v.


@dataclass(frozen=True, eq=False)
class Posterior:
    """What the visible leaves tell about everything else.

    Attributes:
        levels: the probabilities, (data, nodes, symbols of the level) for each level 0..L. A sparse
            grammar counts every place of a level as a node, and has the blank as last symbol of all
            levels but L.
        log_evidence: (data,) the log probability of the visible leaves.
    """

    levels: tuple[Array, ...]
    log_evidence: Array

    __repr__ = inputs.brief

    @property
    def classes(self) -> Array:
        """(data, n) probability of each class."""
        return self.levels[-1][:, 0]


def posterior(
    grammar: Grammar,
    leaves: ArrayLike | None = None,
    visible: ArrayLike | None = None,
    *,
    corruption: float | Sequence[float] = 0.0,
    likelihood: ArrayLike | None = None,
    inside: Mapping[int, ArrayLike] | None = None,
    strict: bool = True,
) -> Posterior:
    """Exact probabilities of every symbol of the tree, given the visible leaves or soft evidence.

    Args:
        grammar: the rules.
        leaves: (data, d); what stands at a hidden leaf is not read.
        visible: (data, d) or (d,) booleans, True where a leaf is seen; all of them by default.
        corruption: probability with which a leaf was replaced by another symbol, as by `corrupt`,
            or one for each level 0..L-1, as by `sample_corrupted`. The posterior of a leaf is that
            of the symbol before the replacement; that of an inner node, of the one after it.
        likelihood: instead of the leaves, (data, d, symbols) p(what was seen | symbol of the leaf)
            up to a factor for each datum, with the blank as last symbol of a sparse grammar. What
            was seen at one leaf may depend on the symbol of that leaf alone.
        inside: the same of inner symbols: for some of the levels 1..L, (data, nodes, symbols)
            p(what was seen of the node | its symbol), in the form of `Posterior.levels`; 1 for all
            symbols of a node of which nothing was seen.
        strict: whether to raise for data that the grammar cannot have generated. Otherwise they
            have the log evidence -inf, and NaN for all probabilities.

    Raises:
        ValueError: wrong shapes, both leaves and a likelihood or neither, a likelihood that is
            negative or not finite, no such level, or with ``strict``, evidence that is impossible.
    """
    strict = inputs.flag(strict, "strict")
    at_leaves, *shares = corrupting.probabilities(grammar, corruption)
    evidence = _evidence(grammar, leaves, visible, at_leaves, likelihood)
    seen_inside = _checked_inside(grammar, inside or {}, len(evidence))
    channels = {
        l: corrupting.channel(grammar, l, p) for l, p in enumerate(shares, start=1) if p > 0
    }
    slices = list(_parts(grammar, len(evidence))) or [slice(0)]
    parts = [
        _posterior(
            grammar, evidence, rows, strict, channels, {l: e[rows] for l, e in seen_inside.items()}
        )
        for rows in slices
    ]
    levels = tuple(map(np.concatenate, zip(*(p.levels for p in parts), strict=True)))
    return Posterior(levels, np.concatenate([p.log_evidence for p in parts]))


@dataclass(frozen=True, eq=False)
class _Seen:
    """Leaves, some of them hidden, some perhaps wrong."""

    grammar: Grammar
    leaves: Symbols
    visible: Mask
    corruption: float

    def __len__(self) -> int:
        return len(self.leaves)

    def likelihood(self, rows: slice) -> tuple[Array, Array]:
        """p(leaf as seen | symbol), where a blank is never taken for a symbol; 1 at a hidden leaf.

        (data, d, symbols) and (data,) the logarithm of the factor that it lacks.
        """
        v = self.grammar.num_values(0)
        # In 64 bits: the integers of the leaves hold the symbols up to v - 1, but not always v.
        symbol = self.leaves[rows].astype(np.int64)
        blank = symbol < 0
        symbol[blank] = v
        likelihood = np.zeros((*symbol.shape, v + self.grammar.sparse))
        likelihood[..., :v] = self.corruption / max(1, v - 1)
        likelihood[blank] = 0.0
        hit = np.where(blank, 1.0, 1 - self.corruption)
        np.put_along_axis(likelihood, symbol[..., None], hit[..., None], axis=-1)
        likelihood[~self.visible[rows]] = 1.0
        return likelihood, np.zeros(len(symbol))

    def described(self, row: int) -> str:
        leaves = self.leaves[row][self.visible[row]].tolist()
        return f"visible leaves {leaves} of datum {row}"

    hint = "hide wrong leaves, or give the probability of a wrong one as corruption"


@dataclass(frozen=True, eq=False)
class _Soft:
    """A likelihood of each symbol at each leaf."""

    values: Array

    def __len__(self) -> int:
        return len(self.values)

    def likelihood(self, rows: slice) -> tuple[Array, Array]:
        """The likelihood over its maximum at each leaf, and the logarithm of what was divided."""
        values = self.values[rows]
        scale = values.max(axis=-1, keepdims=True)
        with np.errstate(divide="ignore"):
            missing = np.log(scale).sum(axis=(1, 2))
        return values / np.where(scale > 0, scale, 1.0), missing

    def described(self, row: int) -> str:
        return f"evidence of datum {row}"

    hint = "no datum of the grammar has a likelihood above 0"


def _evidence(
    grammar: Grammar,
    leaves: ArrayLike | None,
    visible: ArrayLike | None,
    corruption: float,
    likelihood: ArrayLike | None,
) -> _Seen | _Soft:
    if (leaves is None) == (likelihood is None):
        raise ValueError(
            "Give either the leaves or a likelihood of their symbols, got "
            + ("neither." if leaves is None else "both.")
        )
    if likelihood is None:
        return _Seen(grammar, *_visible(grammar, leaves, visible), corruption)
    if visible is not None or corruption:
        raise ValueError(
            "A likelihood says by itself what is visible and how sure it is: give no visible and "
            "no corruption with it. A hidden leaf has the likelihood 1 for all symbols."
        )
    return _Soft(checked_likelihood(grammar, likelihood))


def _checked_inside(grammar: Grammar, inside: Mapping[int, ArrayLike], num: int) -> Inside:
    """Likelihoods of inner symbols of ``num`` data as arrays."""
    inputs.instance(inside, Mapping, "inside", "a dict of likelihoods by level")
    checked = {}
    for level, values in inside.items():
        number, name = grammar.check_level(level), f"inside[{level}]"
        checked[number] = checked_likelihood(grammar, values, name, number)
        if len(checked[number]) != num:
            raise ValueError(
                f"{name} must have {num} data as the leaves, got {len(checked[number])}."
            )
    return checked


def checked_likelihood(
    grammar: Grammar, likelihood: ArrayLike, name: str = "likelihood", level: int = 0
) -> Array:
    """``likelihood`` as a float64 array (data, nodes, symbols of the level, blank included).

    Args:
        grammar: the rules.
        likelihood: numbers of at least 0.
        name: the name of the argument, for the message.
        level: of which level they are.

    Raises:
        ValueError: another shape, or numbers that are negative or not finite.
        TypeError: no real numbers.
    """
    values, level = inputs.numbers(likelihood, name), inputs.whole(level, "level", 0)
    blank = grammar.sparse and level < grammar.num_levels
    wanted = (math.prod(grammar.patch_sizes[level:]), grammar.num_values(level) + blank)
    if values.ndim != 3 or values.shape[1:] != wanted:
        raise ValueError(
            f"{name} must have the shape (data, {wanted[0]} {'nodes' if level else 'leaves'}, "
            f"{wanted[1]} symbols"
            + (", the blank last" if blank else "")
            + f"), got {values.shape}. A one-hot code (data, v, d) needs its axes swapped."
        )
    inputs.all_finite(values, name)
    if values.size and values.min() < 0:
        raise ValueError(
            f"{name} must not be negative, got {values.min()}; take the exponential of logarithms."
        )
    return values


def _posterior(
    grammar: Grammar,
    evidence: _Seen | _Soft,
    rows: slice,
    strict: bool,
    channels: Channels,
    inside: Inside,
) -> Posterior:
    up, log_evidence = _upward(grammar, *evidence.likelihood(rows), channels, inside)
    impossible = np.isneginf(log_evidence)
    if strict:
        _refuse(evidence, impossible, rows.start or 0)
    down = np.broadcast_to(grammar.class_probabilities, up[-1].shape)
    levels = [_normalised(up[-1] * down)]
    for l in reversed(grammar.levels):
        sent = _through(channels, l - 1, up[l - 1])
        down = down * inside[l] if l in inside else down
        down = _downward(grammar.productions[l - 1], _children(grammar, sent, l), down)
        down = _through(channels, l - 1, down)
        levels.append(_normalised(up[l - 1] * down))
    for level in levels:
        level[impossible] = np.nan
    return Posterior(tuple(reversed(levels)), log_evidence)


def _refuse(evidence: _Seen | _Soft, impossible: Mask, first: int) -> None:
    if impossible.any():
        raise ValueError(
            "The grammar cannot generate the "
            f"{evidence.described(first + int(np.argmax(impossible)))}; {evidence.hint}."
        )


def _through(channels: Channels, level: int, messages: Array) -> Array:
    """The messages of symbols before their replacement from those after it, or the reverse."""
    return messages @ channels[level] if level in channels else messages


def _upward(
    grammar: Grammar, leaves: Array, log_scale: Array, channels: Channels, inside: Inside
) -> tuple[list[Array], Array]:
    """Messages up of the levels 0..L, (data, nodes, symbols), and log p(evidence).

    ``leaves`` are the messages of level 0, ``log_scale`` (data,) what was divided out of them.
    """
    up = [leaves]
    log_evidence = log_scale
    for l in grammar.levels:
        rules = grammar.productions[l - 1]
        sent = _through(channels, l - 1, up[-1])
        message = _sum_by_owner(rules, _product(_gather(rules, _children(grammar, sent, l))))
        message = message * inside[l] if l in inside else message
        scale = message.max(axis=-1, keepdims=True)
        with np.errstate(divide="ignore"):
            log_evidence = log_evidence + np.log(scale).sum(axis=(1, 2))
        up.append(message / np.where(scale > 0, scale, 1.0))
    with np.errstate(divide="ignore"):
        # The mean over classes, each as often as it is; equal classes are weighted by 1.
        weights = grammar.num_classes * grammar.class_probabilities
        if grammar.class_weights is None:
            weights = np.ones_like(weights)
        return up, log_evidence + np.log((up[-1][:, 0] * weights).mean(axis=-1))


def _downward(rules: Productions, children: Array, down: Array) -> Array:
    """Messages to the children, (data, nodes * S, symbols), of sum 1."""
    factors = _gather(rules, children)
    size, values = rules.patches.shape[1], children.shape[-1]
    weight = rules.probability * down[..., rules.owner]
    # prod_{j != i} as what is left of i times what is right of it: no division by zero.
    result = np.empty_like(children)
    before = np.ones_like(weight)
    after = [np.ones_like(weight)]
    for factor in factors[:0:-1]:
        after.append(after[-1] * factor)
    for i in range(size):
        product = weight * before * after[size - 1 - i]
        result[:, :, i] = _sum_by_symbol(product, rules.patches[:, i], values)
        before = before * factors[i]
    data, nodes = result.shape[:2]
    return _normalised(result.reshape(data, nodes * size, values))


_INDICATOR = 64
"""Up to so many symbols a product with an indicator is faster than counting."""


def _sum_by_symbol(weights: Array, symbols: Index, values: int) -> Array:
    """(..., values): the sum of the weights (..., rules) of the rules with each symbol."""
    if values <= _INDICATOR:
        return np.asarray(weights @ np.eye(values)[symbols])
    rows = weights.reshape(-1, len(symbols))
    cell = np.arange(len(rows))[:, None] * values + symbols
    total = np.bincount(cell.ravel(), rows.ravel(), minlength=len(rows) * values)
    return np.asarray(total, dtype=np.float64).reshape(*weights.shape[:-1], values)


def _gather(rules: Productions, children: Array) -> list[Array]:
    """For each place i of a patch, (data, nodes, rules): the message up_i(r_i)."""
    return [children[:, :, i][..., column] for i, column in enumerate(rules.patches.T)]


def _product(factors: list[Array]) -> Array:
    result = factors[0].copy()
    for factor in factors[1:]:
        result *= factor
    return result


def _sum_by_owner(rules: Productions, values: Array) -> Array:
    first = np.flatnonzero(np.diff(rules.owner, prepend=-1))
    return np.add.reduceat(values * rules.probability, first, axis=-1)


def _children(grammar: Grammar, messages: Array, level: int) -> Array:
    """(data, nodes of the level, S, symbols of the level below)."""
    data, nodes, values = messages.shape
    size = grammar.patch_sizes[level - 1]
    return messages.reshape(data, nodes // size, size, values)


def _normalised(values: Array) -> Array:
    total = values.sum(axis=-1, keepdims=True)
    return np.asarray(values / np.where(total > 0, total, 1.0))


def _visible(
    grammar: Grammar, leaves: ArrayLike | None, visible: ArrayLike | None
) -> tuple[Symbols, Mask]:
    array = np.asarray(inputs.plain(leaves, "leaves"))
    if array.dtype.kind not in "iu":
        checked_leaves(grammar, array)  # raises
    seen = np.ones(array.shape[-1:], dtype=bool) if visible is None else np.asarray(visible)
    if seen.dtype != np.bool_ or seen.shape not in (array.shape, array.shape[-1:]):
        raise ValueError(
            f"visible must be booleans of shape {array.shape} or {array.shape[-1:]}, got shape "
            f"{seen.shape} of {seen.dtype}."
        )
    seen = np.broadcast_to(seen, array.shape)
    return checked_leaves(grammar, np.where(seen, array, 0)), seen


def _parts(grammar: Grammar, num: int) -> Iterator[slice]:
    widest = max(rules.patches.size for rules in grammar.productions)
    return t.chunks(num, widest * grammar.num_leaves // grammar.patch_sizes[0], 2**22)


def sample_posterior(
    grammar: Grammar,
    leaves: ArrayLike | None = None,
    visible: ArrayLike | None = None,
    *,
    seed: int,
    corruption: float = 0.0,
    likelihood: ArrayLike | None = None,
) -> Trees:
    """One tree for each datum, drawn from all trees given its visible leaves or soft evidence.

    With leaves hidden below one symbol these are its synonyms; with all hidden, any data.

    Args:
        grammar: the rules.
        leaves: as in `posterior`.
        visible: as in `posterior`.
        seed: seeds the draws.
        corruption: probability with which a leaf was replaced; the drawn leaves are those before.
        likelihood: as in `posterior`.

    Raises:
        ValueError: as `posterior`.
    """
    (at_leaves, *_) = corrupting.probabilities(grammar, inputs.real(corruption, "corruption"))
    evidence = _evidence(grammar, leaves, visible, at_leaves, likelihood)
    rng = generator_for("sample posterior", seed)
    drawn = np.empty((len(evidence), grammar.num_leaves), dtype=grammar.dtype)
    for rows in _parts(grammar, len(evidence)):
        up, log_evidence = _upward(grammar, *evidence.likelihood(rows), {}, {})
        _refuse(evidence, np.isneginf(log_evidence), rows.start)
        symbols = draw_index(rng, up[-1] * grammar.class_probabilities)
        for l in reversed(grammar.levels):
            rules = grammar.productions[l - 1]
            weight = rules.probability * _product(_gather(rules, _children(grammar, up[l - 1], l)))
            rule = draw_index(rng, weight * (rules.owner == symbols[..., None]))
            symbols = rules.patches[rule].reshape(len(rule), rule.shape[1] * rules.patches.shape[1])
        drawn[rows] = np.where(symbols == grammar.num_values(0), -1, symbols)
    return parse(grammar, drawn)


def draw_index(rng: np.random.Generator, weights: Array) -> Index:
    """(...,) an index of the last axis of (..., k) weights, with probability in proportion."""
    below = np.cumsum(weights, axis=-1)
    u = rng.random(weights.shape[:-1]) * below[..., -1]
    return np.asarray((below <= u[..., None]).sum(axis=-1))


# -- the best possible classifier ------------------------------------------------------------------


@dataclass(frozen=True)
class BayesError:
    """Probability that the best guess of the class is wrong.

    Attributes:
        value: the mean over data (and over masks, if they are random) of 1 - max_c p(c | leaves).
        standard_error: the standard error of that mean.
    """

    value: float
    standard_error: float


def bayes_error(
    grammar: Grammar,
    visible: float | ArrayLike,
    *,
    corruption: float | Sequence[float] = 0.0,
    num_samples: int = 10_000,
    seed: int = 0,
) -> BayesError:
    """The error that no classifier of partly hidden or wrong leaves can go below, by Monte Carlo.

    Args:
        grammar: the rules.
        visible: the probability with which each leaf is seen, independently; or (d,) booleans,
            True where a leaf is seen.
        corruption: as in `posterior`.
        num_samples: the number of data drawn.
        seed: seeds the data and the masks.

    Raises:
        ValueError: not a probability, or a mask of the wrong shape.
    """
    num_samples = inputs.whole(num_samples, "num_samples", 2)
    leaves = corrupting.sample_corrupted(grammar, num_samples, corruption, seed).leaves
    seen = np.asarray(visible)
    if seen.ndim == 0:
        share = inputs.share(visible, "visible (a probability or booleans (d,))")
        seen = generator_for("masks", seed).random(leaves.shape) < share
    classes = posterior(grammar, leaves, seen, corruption=corruption).classes
    errors = 1.0 - classes.max(axis=-1)
    return BayesError(float(errors.mean()), float(errors.std(ddof=1) / np.sqrt(num_samples)))
