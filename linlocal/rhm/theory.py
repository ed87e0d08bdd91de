"""How much data it takes, and the covariances that decide it: exact, expected, and measured.

Exact covariances are those of a grammar's own rules; they are computed level by level, so their
cost does not grow with the number of data. Expected covariances are root mean squares over the draw
of the rules.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from linlocal.inputs import flag, numbers, rows, whole, wholes
from linlocal.rhm.grammar import Array, Grammar


def sample_complexity(grammar: Grammar) -> float:
    """P* = n m^L: how many data a deep network needs to learn the classes.

    What blanks cost is not in this number, see `sparse_sample_complexity`; rules that are not
    equally frequent have one each, see `rule_sample_complexity`.

    Args:
        grammar: a grammar with uniform rules.

    Raises:
        ValueError: the rules are not uniform.

    References:
        arXiv 2307.02129.
    """
    require_uniform(grammar, "P*")
    return float(grammar.num_classes * grammar.synonym_counts[0] ** grammar.num_levels)


def token_sample_complexity(grammar: Grammar, level: int) -> float:
    """P_l = v m^(2l-1) / (1 - m/v^(s-1)): how many data show covariances of leaves l levels apart.

    There the sampling noise (1/v) P^(-1/2) of a covariance equals `published_token_covariance`. In
    general P_l = 1/(v^2 C_l^2); it is infinite where the tuples of a level are used up.

    Args:
        grammar: a grammar with uniform rules.
        level: the level of the lowest common ancestor, in 1..L.

    Raises:
        ValueError: the rules are not uniform, or no such level.

    References:
        arXiv 2406.00048.
    """
    covariance = published_token_covariance(grammar, level)
    return math.inf if covariance == 0 else (grammar.num_values(0) * covariance) ** -2


def latent_sample_complexity(grammar: Grammar) -> float:
    """v m^3: how many data it takes to learn a level by predicting latents, whatever the depth.

    Args:
        grammar: a grammar with uniform rules.

    Raises:
        ValueError: the rules are not uniform.

    References:
        arXiv 2605.27734.
    """
    require_uniform(grammar, "v m^3")
    return float(grammar.num_values(0) * grammar.synonym_counts[0] ** 3)


def sparse_sample_complexity(grammar: Grammar, *, shared: bool) -> float:
    """(s_0 + 1)^k n m^L: how many data a deep network needs to learn the classes among blanks.

    A locally connected network has k = L: a symbol lies at a given place in one of (s_0 + 1)^L
    data, so Cov(class, leaf) falls by that factor, and the sampling noise by its root. For a
    convolutional network k = 2 is measured, and not derived.

    Args:
        grammar: a grammar with uniform rules and placement "blocks".
        shared: whether weights are shared between the patches of a level.

    Raises:
        ValueError: the rules are not uniform, or symbols lie otherwise.
        TypeError: ``shared`` is no truth value.

    References:
        Tomasini and Wyart 2024, arXiv 2404.10727.
    """
    power = 2 if flag(shared, "shared") else grammar.num_levels
    if grammar.sparse and grammar.placement != "blocks":
        raise ValueError(
            'What blanks cost is known for placement="blocks", where each symbol has s_0 + 1 '
            f"places of its own; this grammar has {grammar.placement!r}."
        )
    return sample_complexity(grammar) * float(grammar.num_blanks + 1) ** power


def rule_sample_complexity(grammar: Grammar) -> Array:
    """(m,) P_k = n / (f_k prod_{l >= 2} sum_j f_lj^2): how many data show the k-th rule of level 1.

    f_lj is the probability of the j-th rule of a symbol of level l, and f_k that of level 1. At P_k
    the covariance of the class and a tuple, f_k Cov(class, symbol of level 1), equals its sampling
    noise (f_k / (n v P))^(1/2). Uniform rules have P_k = n m^L for every k. With Zipf's law at
    level 1, f_k ~ k^-(1 + a), the rare rules take most data; see `predicted_error`.

    Args:
        grammar: a grammar whose symbols of one level share their probabilities, without blanks.

    Raises:
        ValueError: there are blanks, or weights of classes or of the rules of single symbols.

    References:
        Cagnetta, Kang and Wyart 2025, arXiv 2505.07067, for level 1; here for laws on all levels.
    """
    require_dense(grammar, "P_k")
    probabilities = grammar.rule_probabilities
    if grammar.class_weights is not None or any(each.ndim > 1 for each in probabilities):
        raise ValueError(
            "P_k is known for equally probable classes and one law for all symbols of a level: use "
            "rule_exponent, or rule_weights with one vector for each level."
        )
    above = math.prod(float((each**2).sum()) for each in probabilities[1:])
    return np.asarray(grammar.num_classes / (probabilities[0] * above))


def predicted_error(grammar: Grammar, num_data: ArrayLike) -> Array:
    """1 - (sum of f_k over the k with P_k <= P)^(d/s): the share of data with an unknown tuple.

    A datum counts as told if all its d/s tuples of level 1 come from rules that P data show. For
    many rules under Zipf's law f_k ~ k^-(1 + a) it falls as (d/s) P^(-a/(1 + a)): the law sets the
    exponent, the hierarchy the factor.

    Args:
        grammar: as for `rule_sample_complexity`.
        num_data: P, numbers of data of any shape.

    Returns:
        Of the same shape.

    Raises:
        ValueError: as `rule_sample_complexity`, or negative numbers.

    References:
        Cagnetta, Kang and Wyart 2025, arXiv 2505.07067: each rule is learned when the data show it.
    """
    count = numbers(num_data, "num_data")
    if count.size and not count.min() >= 0:
        raise ValueError(f"num_data must not be negative or NaN, got {count.min()}.")
    needed = rule_sample_complexity(grammar)
    order = np.argsort(needed, kind="stable")
    known = np.concatenate([[0.0], np.cumsum(grammar.rule_probabilities[0][order])])
    shown = np.searchsorted(needed[order], count, side="right")
    return np.asarray(1 - np.minimum(known[shown], 1.0) ** grammar.num_nodes(1))


# -- expected over the draw of the rules -----------------------------------------------------------


def expected_class_covariance(grammar: Grammar) -> float:
    """Root mean square of Cov(class, leaf) over the draw of the rules, exact at every size.

    Its square is (1/n^2) (1 - 1/n) (1/v) prod_l kappa_l with kappa = (1 - 1/v) v^s / ((v^s - 1) m),
    1/(n^2 v m^L) to leading order: relative to P(class) P(leaf) = 1/(n v) it is sqrt(v/m^L),
    against a sampling noise of sqrt(n v/P); they are equal at P* = n m^L.

    Args:
        grammar: a grammar with uniform rules and without blanks.

    Raises:
        ValueError: the rules are not uniform, or there are blanks.

    References:
        arXiv 2307.02129 has the leading order; derivation in the code.
    """
    # Let D(c, b) = P(b at a place | class c) - its mean over the classes. Down one level,
    # D'(c, b') = sum_b D(c, b) T(b, b') with T(b, b') = (rules of b with b' there) / m. The counts
    # are hypergeometric: tuples are drawn without replacement. As the rows of D sum to 0,
    # E[D'^2] = sum_b D^2 (var T - cov(T of two owners)), and that difference is kappa/v. At the
    # top, D = (identity - 1/n) T.
    require_uniform(grammar, "The expected covariance")
    require_dense(grammar, "The expected covariance")
    n, v = grammar.num_classes, grammar.num_values(0)
    if v == 1:
        return 0.0
    square = (1 - 1 / n) / (n**2 * v)
    for l in grammar.levels:
        square *= _shrinkage(grammar, l)
    return math.sqrt(square)


def expected_class_tuple_covariance(grammar: Grammar) -> float:
    """Root mean square of Cov(class, tuple of leaves) over the draw of the rules and owned tuples.

    A tuple is one of m synonyms of a symbol of level 1, so this is 1/m times the covariance of the
    class and that symbol, which is that of class and leaf in the grammar without level 1. For L = 1
    it is the deviation sqrt((1 - 1/n) / n) / (n m) of an owner from the other classes.

    Args:
        grammar: a grammar with uniform rules and without blanks.

    Raises:
        ValueError: the rules are not uniform, or there are blanks.
    """
    covariance = expected_class_covariance(grammar)
    n, v, m = grammar.num_classes, grammar.num_values(0), grammar.synonym_counts[0]
    if grammar.num_levels == 1:
        return math.sqrt((1 - 1 / n) / n) / (n * m)
    return 0.0 if v == 1 else covariance / math.sqrt(_shrinkage(grammar, 1)) / m


def published_token_covariance(grammar: Grammar, level: int) -> float:
    """C_l: root mean square of Cov(leaf, leaf) over the draw of the rules, to leading order.

    With q symbols at that level (v, or n at level L), which own q m tuples,
    C_l^2 = (1 - q m/v^s) / (v^2 q m^(2l-1)), which for q = v is (1 - m/v^(s-1)) / (v^3 m^(2l-1)).

    Args:
        grammar: a grammar with uniform rules and without blanks.
        level: the level of the lowest common ancestor, in 1..L.

    Raises:
        ValueError: the rules are not uniform, there are blanks, or no such level.

    References:
        arXiv 2406.00048, there for q = v.
    """
    require_uniform(grammar, "C_l")
    require_dense(grammar, "C_l")
    v, m = grammar.num_values(0), grammar.synonym_counts[0]
    level = grammar.check_level(level)
    q, s = grammar.num_values(level), grammar.tuple_sizes[level - 1]
    return math.sqrt((1 - q * m / v**s) / (v**2 * q * float(m) ** (2 * level - 1)))


def expected_token_covariance(grammar: Grammar, level: int) -> float:
    """Root mean square of Cov(leaf, leaf) over the draw of the rules, with finite m, v and n.

    The published C_l takes the symbols of every level to be equally frequent and v, m to be large;
    this does not. The difference matters where all tuples are owned, m = v^(s-1): unless n = v,
    some symbols are more frequent than others, and leaves are dependent although C_l = 0.

    Args:
        grammar: a grammar with uniform rules and without blanks.
        level: the level of the lowest common ancestor, in 1..L.

    Raises:
        ValueError: the rules are not uniform, there are blanks, or no such level.

    References:
        Derivation in the code. Checked against exact covariances: within some percent.
    """
    # 1. Let 1 + rho_l = v sum_a P_l(a)^2 over the symbols a of level l; rho_L = 0. Down one level
    #    P'(b) = sum_a P(a) T(a, b). A deviation of P from 1/v shrinks in square by kappa (see
    #    `_shrinkage`), and the frequencies of equally frequent owners of q m of v^s tuples vary by
    #    (v - 1) (v^s - q m) / ((v^s - 1) q m): rho' = kappa rho + this.
    # 2. At the ancestor, f(b, b') = sum_r w_r [r_i = b, r_j = b'] with sum_r w_r^2 =
    #    (1 + rho) / (q m). Tuples are drawn without replacement and a pair is in v^-2 of them, so
    #    var f = v^-2 (1 - v^-2) (v^s sum w^2 - 1) / (v^s - 1).
    # 3. Cov = f - (its marginals) keeps (v - 1)^2 of the v^2 - 1 degrees of freedom of f.
    #    The product of the marginals' deviations from 1/v is left out: second order, 6 to 19 % of
    #    the square at v = 3 and 4.
    # 4. Each level below multiplies the square by kappa on either side, if the two sides had tables
    #    of their own; that they share them is left out, of relative order 1/v.
    published_token_covariance(grammar, level)  # checks
    level = grammar.check_level(level)
    n_of, v, m = grammar.num_values, grammar.num_values(0), grammar.synonym_counts[0]
    if v == 1:
        return 0.0
    rho = 0.0
    for l in range(grammar.num_levels, level, -1):
        tuples, owned = v ** grammar.tuple_sizes[l - 1], n_of(l) * m
        rho = _shrinkage(grammar, l) * rho + (v - 1) * (tuples - owned) / ((tuples - 1) * owned)
    tuples, owned = v ** grammar.tuple_sizes[level - 1], n_of(level) * m
    square = (1 - v**-2) / v**2 * (tuples * (1 + rho) / owned - 1) / (tuples - 1)
    square *= (v - 1) / (v + 1)
    for l in range(1, level):
        square *= _shrinkage(grammar, l) ** 2
    return math.sqrt(max(0.0, square))


def _shrinkage(grammar: Grammar, level: int) -> float:
    """kappa_l = (1 - 1/v) v^s / ((v^s - 1) m): E |D T|^2 / |D|^2 of a row D of sum 0, v > 1."""
    v, s = grammar.num_values(0), grammar.tuple_sizes[level - 1]
    return (1 - 1 / v) * v**s / ((v**s - 1) * grammar.synonym_counts[0])


# -- exact, for the rules that are there -----------------------------------------------------------


def leaf_path(grammar: Grammar, leaf: int) -> tuple[int, ...]:
    """For the levels 1..L: which child one goes to, on the way from the class down to a leaf.

    Args:
        grammar: the rules.
        leaf: 0..d-1.

    Raises:
        ValueError: no such leaf.
    """
    leaf = whole(leaf, "leaf")
    if not 0 <= leaf < grammar.num_leaves:
        raise ValueError(f"Leaves are numbered 0..{grammar.num_leaves - 1}, got {leaf}.")
    path = []
    for size in grammar.patch_sizes:
        leaf, child = divmod(leaf, size)
        path.append(child)
    return tuple(path)


def transition(grammar: Grammar, level: int, child: int) -> Array:
    """(symbols of the level, symbols below) probability of each symbol at a place of a patch.

    A sparse grammar has the blank as last symbol, both here and there; a class is never blank.

    Args:
        grammar: the rules.
        level: 1..L.
        child: 0..S-1.

    Raises:
        ValueError: no such level or child.
    """
    level = grammar.check_level(level)
    child, size = whole(child, "child"), grammar.patch_sizes[level - 1]
    if not 0 <= child < size:
        raise ValueError(f"Children of level {level} are numbered 0..{size - 1}, got {child}.")
    rules = grammar.productions[level - 1]
    result = np.zeros((int(rules.owner[-1]) + 1, grammar.num_values(level - 1) + grammar.sparse))
    np.add.at(result, (rules.owner, rules.patches[:, child]), rules.probability)
    return result


def leaf_probability(grammar: Grammar, leaf: int) -> Array:
    """(v,) P(leaf), exact; with blanks, v + 1 numbers.

    Args:
        grammar: the rules.
        leaf: 0..d-1.
    """
    down = _symbol_given_class(grammar, leaf_path(grammar, leaf), 0)
    return np.asarray(grammar.class_probabilities @ down)


def class_covariance(grammar: Grammar, leaf: int) -> Array:
    """(n, v) P(class, leaf) - P(class) P(leaf), exact; with blanks, v + 1 columns.

    Args:
        grammar: the rules.
        leaf: 0..d-1.
    """
    return _with_class(grammar, _symbol_given_class(grammar, leaf_path(grammar, leaf), 0))


def class_tuple_covariance(grammar: Grammar, node: int) -> Array:
    """(n, rules of level 1) P(class, patch) - P(class) P(patch), exact.

    Args:
        grammar: the rules.
        node: which patch of leaves, 0..d/S-1.

    Returns:
        Columns in the order of ``grammar.productions[0]``.
    """
    path = leaf_path(grammar, whole(node, "node") * grammar.patch_sizes[0])
    rules = grammar.productions[0]
    down = _symbol_given_class(grammar, path, 1)[:, rules.owner] * rules.probability
    return _with_class(grammar, down)


def _with_class(grammar: Grammar, down: Array) -> Array:
    """P(class, a) - P(class) P(a) from P(a | class)."""
    p = grammar.class_probabilities
    return np.asarray(p[:, None] * (down - p @ down))


def token_covariance(grammar: Grammar, first: int, second: int) -> Array:
    """(v, v) P(leaf, other leaf) - P(leaf) P(other leaf), exact; with blanks, (v + 1, v + 1).

    Args:
        grammar: the rules.
        first: 0..d-1.
        second: another leaf.

    Raises:
        ValueError: no such leaf, or twice the same.
    """
    first, second = whole(first, "first"), whole(second, "second")
    path, other = leaf_path(grammar, first), leaf_path(grammar, second)
    level = common_ancestor(grammar, first, second)
    ancestor = grammar.class_probabilities @ _symbol_given_class(grammar, path, level)
    rules = grammar.productions[level - 1]
    weight = ancestor[rules.owner] * rules.probability
    left, right = (
        _symbols_below(grammar, p, level)[rules.patches[:, p[level - 1]]] for p in (path, other)
    )
    joint = np.einsum("r,ra,rb->ab", weight, left, right)
    return np.asarray(joint - np.outer(joint.sum(axis=1), joint.sum(axis=0)))


def common_ancestor(grammar: Grammar, first: int, second: int) -> int:
    """Level of the lowest common ancestor of two leaves, 1..L.

    Args:
        grammar: the rules.
        first: 0..d-1.
        second: another leaf.

    Raises:
        ValueError: no such leaf, or twice the same.
    """
    first, second = whole(first, "first"), whole(second, "second")
    if first == second:
        raise ValueError(f"Give two different leaves, got {first} twice.")
    pairs = zip(leaf_path(grammar, first), leaf_path(grammar, second), strict=True)
    return max(l for l, (a, b) in enumerate(pairs, start=1) if a != b)


def _symbol_given_class(grammar: Grammar, path: tuple[int, ...], level: int) -> Array:
    """(n, symbols of the level) of the node of a level on a path."""
    result = np.eye(grammar.num_classes)
    for l in range(grammar.num_levels, level, -1):
        result = result @ transition(grammar, l, path[l - 1])
    return result


def _symbols_below(grammar: Grammar, path: tuple[int, ...], level: int) -> Array:
    """(symbols of level - 1, symbols of level 0) of the leaf of a path, given its ancestor."""
    result = np.eye(grammar.num_values(level - 1) + grammar.sparse)
    for l in range(level - 1, 0, -1):
        result = result @ transition(grammar, l, path[l - 1])
    return result


# -- measured --------------------------------------------------------------------------------------


def measured_covariance(first: ArrayLike, second: ArrayLike, shape: tuple[int, int]) -> Array:
    """``shape``: frequency of each pair of values minus the product of their frequencies.

    Args:
        first: (data,) values 0..shape[0]-1, for example classes.
        second: (data,) values 0..shape[1]-1, for example a leaf; -1 counts as the last value, so
            that blanks are where the exact covariances have them.
        shape: how many values there are.

    Raises:
        ValueError: vectors of different lengths, or other values.
        TypeError: values that are not whole.
    """
    a, b, sizes = rows(first, "first"), rows(second, "second"), wholes(shape, "shape", 1)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"Two vectors of the same length are needed, got {a.shape}, {b.shape}.")
    if len(sizes) != 2:
        raise ValueError(f"shape must be two whole numbers, got {sizes}.")
    for values, size, name in ((a, sizes[0], "first"), (b, sizes[1], "second")):
        if values.size and not -1 <= values.min() <= values.max() < size:
            raise ValueError(
                f"{name} must hold values 0..{size - 1}, or -1 for the last, got values from "
                f"{values.min()} to {values.max()}."
            )
    code = (a % sizes[0]) * sizes[1] + b % sizes[1]
    joint = np.bincount(code, minlength=sizes[0] * sizes[1]).reshape(sizes) / len(a)
    return np.asarray(joint - np.outer(joint.sum(axis=1), joint.sum(axis=0)))


def require_uniform(grammar: Grammar, what: str) -> None:
    """Raise a ValueError unless all data are equally probable and all levels have one v and m."""
    if not grammar.uniform:
        raise ValueError(
            f"{what} is known for uniform rules and classes; this grammar has rule_exponent="
            f"{grammar.rule_exponent}, or weights of rules or classes."
        )
    if len(set(grammar.symbol_counts)) > 1 or len(set(grammar.synonym_counts)) > 1:
        raise ValueError(
            f"{what} is known for levels that are alike; this grammar has num_symbols="
            f"{grammar.num_symbols} and num_synonyms={grammar.num_synonyms}."
        )


def require_dense(grammar: Grammar, what: str) -> None:
    """Raise a ValueError if there are blanks; ``what`` is not known with them."""
    if grammar.sparse:
        raise ValueError(
            f"{what} is known without blanks; this grammar has num_blanks={grammar.num_blanks}."
        )
