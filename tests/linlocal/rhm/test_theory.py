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


# -- blanks, and rules that are not equally frequent -----------------------------------------------


def test_blanks_cost_a_local_network_what_they_take_from_the_covariance():
    """The squared signal over the sampling noise of a leaf falls by (s_0 + 1)^L."""
    plain, sparse = (RandomHierarchyModel(**SHAPE, num_blanks=blanks, seed=1) for blanks in (0, 2))

    def needed(rhm, leaf):
        signal = theory.class_covariance(rhm, leaf)[:, :6]
        noise = theory.leaf_probability(rhm, leaf)[:6] / rhm.num_classes
        return noise.sum() / (signal**2).sum()

    # The first place of all blocks, on the way to the first leaf.
    ratio = needed(sparse, 0) / needed(plain, 0)
    wanted = theory.sparse_sample_complexity(sparse, shared=False) / theory.sample_complexity(plain)
    assert ratio == pytest.approx(wanted, rel=1e-12)
    assert wanted == 3**3
    assert theory.sparse_sample_complexity(sparse, shared=True) == 9 * 4 * 3**3
    for shared in (True, False):
        assert theory.sparse_sample_complexity(plain, shared=shared) == 4 * 3**3


ZIPF = {"num_classes": 8, "num_symbols": 8, "num_synonyms": 4, "num_levels": 3}


def test_a_rule_is_shown_where_its_covariance_equals_the_noise():
    laws = (2.0, 1.0, 0.5)
    square = np.zeros(4)
    for seed in range(60):
        rhm = RandomHierarchyModel(**ZIPF, rule_exponent=laws, seed=seed)
        covariance = theory.class_tuple_covariance(rhm, 0)  # (8, 8 symbols x 4 rules)
        square += (covariance.reshape(8, 8, 4) ** 2).mean((0, 1)) / 60
    f = rhm.rule_probabilities[0]
    shown_at = f / 8 / 8 / square
    finite = 1 - 1 / 8, 8 / 9, 8 / 9  # exact factors that n, v and m leave, as in the code
    wanted = theory.rule_sample_complexity(rhm)
    np.testing.assert_allclose(shown_at * np.prod(finite), wanted, rtol=0.1)
    uniform = RandomHierarchyModel(**ZIPF)
    np.testing.assert_allclose(theory.rule_sample_complexity(uniform), 8 * 4**3, rtol=1e-12)
    assert np.abs(wanted / (8 * 4**3) - 1).max() > 0.5


def test_the_predicted_error_steps_down_rule_by_rule():
    rhm = RandomHierarchyModel(**ZIPF, rule_exponent=(2.0, 0.0, 0.0))
    f, needed = rhm.rule_probabilities[0], theory.rule_sample_complexity(rhm)
    assert (np.diff(needed) > 0).all()
    before, after = (theory.predicted_error(rhm, needed * (1 + e)) for e in (-1e-9, 1e-9))
    np.testing.assert_allclose(after, 1 - np.cumsum(f) ** 4, atol=1e-12)
    np.testing.assert_allclose(before, [1, *after[:-1]], atol=1e-12)
    uniform = RandomHierarchyModel(**ZIPF)
    assert theory.predicted_error(uniform, [511, 513]) == pytest.approx([1, 0], abs=1e-12)


@pytest.mark.parametrize("a", [0.5, 1.0])
def test_zipfs_law_sets_the_exponent_and_the_hierarchy_the_factor(a):
    shallow, deep = (
        RandomHierarchyModel(
            num_classes=4,
            num_symbols=64,
            num_synonyms=4000,
            num_levels=levels,
            tuple_size=3,
            rule_exponent=(1 + a, *[0.0] * (levels - 1)),
        )
        for levels in (1, 2)
    )
    f, needed = shallow.rule_probabilities[0], theory.rule_sample_complexity(shallow)
    rank = np.array([20, 60])
    # What the cut at 4000 rules takes from the tail is added again.
    tail = theory.predicted_error(shallow, needed[rank] * 1.000001) + f[-1] * 4000 / a
    exponent = np.diff(np.log(tail)) / np.diff(np.log(needed[rank]))
    assert exponent == pytest.approx(-a / (1 + a), rel=0.03)
    late = np.array([3990])
    ratio = [
        theory.predicted_error(rhm, theory.rule_sample_complexity(rhm)[late] * 1.000001)
        for rhm in (deep, shallow)
    ]
    assert ratio[0] / ratio[1] == pytest.approx(3, rel=1e-2)


def test_theories_of_unequal_rules_say_what_they_need():
    weighted = RandomHierarchyModel(
        num_classes=2,
        num_symbols=2,
        num_synonyms=2,
        num_levels=2,
        rule_weights=((4, 1), ((1, 2), (3, 1))),
    )
    with pytest.raises(ValueError, match="one law for all symbols of a level"):
        theory.rule_sample_complexity(weighted)
    with pytest.raises(ValueError, match="known without blanks"):
        theory.predicted_error(RandomHierarchyModel(**SHAPE, num_blanks=1), 10)
    with pytest.raises(ValueError, match="must not be negative or NaN"):
        theory.predicted_error(RandomHierarchyModel(**SHAPE), [1, -2])
    ordered = RandomHierarchyModel(**SHAPE, num_blanks=1, placement="ordered")
    with pytest.raises(ValueError, match='known for placement="blocks"'):
        theory.sparse_sample_complexity(ordered, shared=True)
