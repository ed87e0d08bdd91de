"""Covariances three ways: summed over all data, by the rules alone, and measured."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given

from linlocal import testing
from linlocal.rhm import RandomHierarchyModel, theory

SHAPE = {"num_classes": 4, "num_symbols": 6, "num_synonyms": 3, "num_levels": 3}


def symbols(rhm, level):
    """(data, places) with the blank as last symbol, as theory counts them."""
    return np.where(level < 0, rhm.num_values(0), level)


def summed(first, second, probability, shape):
    joint = np.zeros(shape)
    np.add.at(joint, (first, second), probability)
    return joint - np.outer(joint.sum(axis=1), joint.sum(axis=0))


def standard_errors(covariance, p, q, num):
    """Of a measured covariance: the spread of (1[a] - p_a)(1[b] - q_b), by the delta method."""
    p, q = p[:, None], q[None, :]
    joint = covariance + p * q
    square = (
        joint * (1 - p) ** 2 * (1 - q) ** 2
        + (p - joint) * (1 - p) ** 2 * q**2
        + (q - joint) * p**2 * (1 - q) ** 2
        + (1 - p - q + joint) * p**2 * q**2
    )
    return np.sqrt((square - covariance**2) / num)


def assert_within_three_standard_errors(z):
    """99.7 % of z are, if they are normal: so must be 98.5 % of some hundreds, and their spread."""
    assert (np.abs(z) < 3).mean() > 0.985
    assert np.abs(z).max() < 5
    assert 0.85 < z.std() < 1.15


# -- exact -----------------------------------------------------------------------------------------


def test_exact_covariances_are_those_of_the_sum_over_all_data(rhm, written):
    oracle = written(rhm)
    leaves, n = symbols(rhm, oracle.leaves), rhm.num_classes
    v = rhm.num_values(0) + rhm.sparse
    for leaf in range(rhm.num_leaves):
        wanted = summed(oracle.labels, leaves[:, leaf], oracle.probability, (n, v))
        np.testing.assert_allclose(theory.class_covariance(rhm, leaf), wanted, atol=1e-14)
    for a, b in combinations(range(rhm.num_leaves), 2):
        wanted = summed(leaves[:, a], leaves[:, b], oracle.probability, (v, v))
        np.testing.assert_allclose(theory.token_covariance(rhm, a, b), wanted, atol=1e-14)
        np.testing.assert_allclose(theory.token_covariance(rhm, b, a), wanted.T, atol=1e-14)


def test_exact_class_tuple_covariances_are_those_of_the_sum_over_all_data(rhm, written):
    oracle = written(rhm)
    leaves, size = symbols(rhm, oracle.leaves), rhm.patch_sizes[0]
    patches = rhm.productions[0].patches
    rows = {tuple(patch): k for k, patch in enumerate(patches.tolist())}
    for node in range(rhm.num_leaves // size):
        tuples = leaves[:, node * size : (node + 1) * size].tolist()
        column = np.array([rows[tuple(t)] for t in tuples])
        shape = (rhm.num_classes, len(rows))
        wanted = summed(oracle.labels, column, oracle.probability, shape)
        np.testing.assert_allclose(theory.class_tuple_covariance(rhm, node), wanted, atol=1e-14)


@given(rhm=testing.hierarchies(max_leaves=32))
def test_covariances_sum_to_zero(rhm):
    for leaf in (0, rhm.num_leaves - 1):
        covariance = theory.class_covariance(rhm, leaf)
        assert np.abs(covariance.sum(axis=0)).max() < 1e-14
        assert np.abs(covariance.sum(axis=1)).max() < 1e-14
    if rhm.num_leaves > 1:
        covariance = theory.token_covariance(rhm, 0, rhm.num_leaves - 1)
        assert np.abs(covariance.sum(axis=0)).max() < 1e-14
        assert np.abs(covariance.sum(axis=1)).max() < 1e-14


def test_where_every_tuple_is_owned_leaves_are_independent_but_the_class_is_not():
    """m = v^(s-1), n = v: nothing to learn without labels, everything with them."""
    full = RandomHierarchyModel(num_classes=4, num_symbols=4, num_synonyms=4, num_levels=3)
    for leaf in range(1, 8):
        assert np.abs(theory.token_covariance(full, 0, leaf)).max() < 1e-15
    assert np.abs(theory.class_covariance(full, 0)).max() > 1e-3
    assert all(theory.published_token_covariance(full, l) == 0 for l in full.levels)
    assert all(theory.expected_token_covariance(full, l) < 1e-9 for l in full.levels)
    assert all(theory.token_sample_complexity(full, l) == math.inf for l in full.levels)
    nearly = RandomHierarchyModel(num_classes=4, num_symbols=4, num_synonyms=3, num_levels=3)
    assert np.abs(theory.token_covariance(nearly, 0, 1)).max() > 1e-3


# -- measured --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uniform", "zipf", "sparse"])
def test_measured_covariances_are_within_three_standard_errors(kind):
    options = {"zipf": {"rule_exponent": 1.0}, "sparse": {"num_blanks": 1}}.get(kind, {})
    rhm = RandomHierarchyModel(**SHAPE, **options, seed=2)
    num = 100_000
    data = rhm.sample(num, seed=0)
    v = rhm.num_values(0) + rhm.sparse
    compared = [
        (theory.class_covariance(rhm, leaf), data.labels, np.full(4, 1 / 4), leaf)
        for leaf in (0, 3, rhm.num_leaves - 1)
    ]
    first, p = data.leaves[:, 0], theory.leaf_probability(rhm, 0)
    levels = {theory.common_ancestor(rhm, 0, leaf): leaf for leaf in range(1, rhm.num_leaves)}
    assert set(levels) == set(rhm.levels)
    compared += [
        (theory.token_covariance(rhm, 0, leaf), first, p, leaf) for leaf in levels.values()
    ]
    z = []
    for exact, variable, p, leaf in compared:
        q = theory.leaf_probability(rhm, leaf)
        got = theory.measured_covariance(variable, data.leaves[:, leaf], (len(p), v))
        often = exact + np.outer(p, q) > 10 / num  # the others are not normal
        z.append(((got - exact) / standard_errors(exact, p, q, num))[often])
    assert_within_three_standard_errors(np.concatenate(z))


def test_the_covariance_of_other_rules_is_not_within_three_standard_errors():
    rhm, other = (RandomHierarchyModel(**SHAPE, seed=seed) for seed in (2, 3))
    data = rhm.sample(100_000, seed=0)
    exact = theory.class_covariance(other, 0)
    got = theory.measured_covariance(data.labels, data.leaves[:, 0], exact.shape)
    z = (got - exact) / standard_errors(exact, np.full(4, 0.25), np.full(6, 1 / 6), 100_000)
    with pytest.raises(AssertionError):
        assert_within_three_standard_errors(z.ravel())


# -- expected over the rules -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        SHAPE,
        {"num_classes": 2, "num_symbols": 3, "num_synonyms": 3, "num_levels": 2},
        {
            "num_classes": 5,
            "num_symbols": 3,
            "num_synonyms": 2,
            "num_levels": 3,
            "tuple_size": (2, 2, 3),
        },
        {"num_classes": 8, "num_symbols": 4, "num_synonyms": 2, "num_levels": 1},
    ],
)
def test_the_expected_class_covariance_is_the_mean_over_grammars(shape):
    """The formula is exact: the mean square of 1500 grammars is within three standard errors."""
    grammars = [RandomHierarchyModel(**shape, seed=seed) for seed in range(1500)]
    for expected, exact in (
        (theory.expected_class_covariance, theory.class_covariance),
        (theory.expected_class_tuple_covariance, theory.class_tuple_covariance),
    ):
        squares = np.array([(exact(g, 0) ** 2).mean() for g in grammars])
        if exact is theory.class_tuple_covariance and shape["num_levels"] == 1:
            assert squares == pytest.approx(expected(grammars[0]) ** 2, rel=1e-12)
        else:
            error = squares.std() / np.sqrt(len(squares))
            assert abs(squares.mean() - expected(grammars[0]) ** 2) < 3 * error
            assert error < 0.05 * squares.mean()  # else the test sees nothing


@pytest.mark.parametrize(
    "shape",
    [
        {"num_symbols": 16, "num_synonyms": 8, "num_classes": 16},
        {"num_symbols": 32, "num_synonyms": 4, "num_classes": 32},
        {"num_symbols": 16, "num_synonyms": 8, "num_classes": 4},
        {"num_symbols": 16, "num_synonyms": 16, "num_classes": 4},
        {"num_symbols": 10, "num_synonyms": 6, "num_classes": 10, "tuple_size": (2, 3, 2)},
    ],
)
def test_the_expected_token_covariance_is_the_mean_over_grammars(shape):
    """Within 5 % and the error of the mean."""
    grammars = [RandomHierarchyModel(**shape, num_levels=3, seed=seed) for seed in range(100)]
    one = grammars[0]
    leaves = {theory.common_ancestor(one, 0, leaf): leaf for leaf in range(1, one.num_leaves)}
    for level, leaf in leaves.items():
        squares = np.array([(theory.token_covariance(g, 0, leaf) ** 2).mean() for g in grammars])
        error = squares.std() / squares.mean() / 10 / 2  # of the root, relative
        assert error < 0.05
        measured = np.sqrt(squares.mean())
        expected = theory.expected_token_covariance(one, level)
        assert expected == pytest.approx(measured, rel=0.05 + 3 * error), f"level {level}"


@pytest.mark.parametrize(("v", "m", "sizes"), [(3, 2, (2, 2)), (4, 2, (2, 3)), (3, 2, (3, 2))])
def test_what_the_expected_covariance_leaves_out_is_the_product_of_the_marginals(v, m, sizes):
    """With it added, and an ancestor of height 1 in two levels, small v and m agree as well."""
    shape = {"num_classes": v, "num_symbols": v, "num_synonyms": m, "tuple_size": sizes}
    grammars = [RandomHierarchyModel(**shape, num_levels=2, seed=seed) for seed in range(1500)]
    squares = []
    for each in grammars:
        p, q = (theory.leaf_probability(each, leaf) - 1 / v for leaf in (0, 1))
        squares.append(np.mean((theory.token_covariance(each, 0, 1) + np.outer(p, q)) ** 2))
    error = np.std(squares) / np.sqrt(len(squares))
    assert error < 0.02 * np.mean(squares)
    expected = theory.expected_token_covariance(grammars[0], 1) ** 2
    assert abs(expected - np.mean(squares)) < 3.5 * error


def test_one_symbol_has_no_covariance():
    alone = RandomHierarchyModel(num_classes=1, num_symbols=1, num_synonyms=1, num_levels=2)
    assert [theory.expected_token_covariance(alone, l) for l in alone.levels] == [0, 0]


def test_the_published_token_covariance_is_the_leading_order():
    """For large v and m; and it misses what unequal frequencies of n < v classes leave behind."""
    for m in (64, 128, 192):
        large = RandomHierarchyModel(num_classes=256, num_symbols=256, num_synonyms=m, num_levels=3)
        for l in large.levels:
            published = theory.published_token_covariance(large, l)
            assert published == pytest.approx(theory.expected_token_covariance(large, l), rel=0.03)
    few = RandomHierarchyModel(num_classes=4, num_symbols=16, num_synonyms=16, num_levels=3)
    assert theory.published_token_covariance(few, 1) == 0
    assert np.sqrt((theory.token_covariance(few, 0, 1) ** 2).mean()) > 1e-4


def test_the_published_formulas():
    rhm = RandomHierarchyModel(num_classes=16, num_symbols=16, num_synonyms=8, num_levels=3)
    v, m, n, s = 16, 8, 16, 2
    assert theory.sample_complexity(rhm) == n * m**3
    assert theory.latent_sample_complexity(rhm) == v * m**3
    for l in rhm.levels:
        rest = 1 - m / v ** (s - 1)
        assert theory.published_token_covariance(rhm, l) == pytest.approx(
            math.sqrt(rest / (v**3 * m ** (2 * l - 1))), rel=1e-14
        )
        assert theory.token_sample_complexity(rhm, l) == pytest.approx(
            v * m ** (2 * l - 1) / rest, rel=1e-14
        )
    values = [theory.published_token_covariance(rhm, l) for l in rhm.levels]
    assert values == pytest.approx([3.91e-3, 4.88e-4, 6.10e-5], rel=2e-3)
    # Signal sqrt(v/m^L) against noise sqrt(n v/P), relative to 1/(n v): equal at P = n m^L.
    signal = theory.expected_class_covariance(rhm) * n * v
    assert signal == pytest.approx(math.sqrt(v / m**3), rel=0.15)
    assert math.sqrt(n * v / theory.sample_complexity(rhm)) == pytest.approx(
        math.sqrt(v / m**3), rel=1e-14
    )


def test_what_is_not_known_is_refused():
    zipf = RandomHierarchyModel(**SHAPE, rule_exponent=1.0)
    sparse = RandomHierarchyModel(**SHAPE, num_blanks=1)
    for call in (
        theory.sample_complexity,
        theory.latent_sample_complexity,
        theory.expected_class_covariance,
        lambda g: theory.token_sample_complexity(g, 1),
    ):
        with pytest.raises(ValueError, match="rule_exponent=1"):
            call(zipf)
    with pytest.raises(ValueError, match="num_blanks=1"):
        theory.expected_token_covariance(sparse, 1)
    with pytest.raises(ValueError, match=r"Leaves are numbered 0\.\.7, got 8"):
        theory.class_covariance(zipf, 8)
    with pytest.raises(ValueError, match="two different leaves"):
        theory.token_covariance(zipf, 1, 1)
    with pytest.raises(ValueError, match="same length"):
        theory.measured_covariance([0, 1], [0], (2, 2))
