"""Leaves at different depths, and evidence inside the tree, against sums over all data."""

from itertools import product

import numpy as np
import pytest
from scipy.stats import chisquare

from linlocal.rhm import RandomHierarchyModel, inference, shallow, theory

DEEP = {"num_classes": 2, "num_symbols": 3, "num_synonyms": 2, "num_levels": 3, "seed": 1}
SMALL = DEEP | {"num_levels": 2}


def values_of(rhm, level):
    return rhm.num_values(level) + (rhm.sparse and level < rhm.num_levels)


def summed(oracle, rhm, evidence):
    """Sum over all data: for each level (data, places, symbols and blank), and the evidence.

    ``evidence`` has the likelihoods (data, places, symbols and blank) of some levels.
    """
    codes = [np.where(s < 0, values_of(rhm, l) - 1, s) for l, s in enumerate(oracle.levels)]
    num = len(next(iter(evidence.values())))
    weight = np.tile(oracle.probability, (num, 1))
    for l, table in evidence.items():
        for place in range(table.shape[1]):
            weight *= table[:, place][:, codes[l][:, place]]
    total = weight.sum(axis=1)
    marginals = [
        np.einsum("np,pja->nja", weight, code[:, :, None] == np.arange(values_of(rhm, l)))
        for l, code in enumerate(codes)
    ]
    return [each / total[:, None, None] for each in marginals], total


def same(found, wanted, total):
    for here, there in zip(found.levels, wanted, strict=True):
        np.testing.assert_allclose(here, there, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.log_evidence, np.log(total), rtol=0, atol=1e-10)


def test_evidence_inside_the_tree_is_that_of_the_sum_over_all_data(rhm, written):
    oracle, rng = written(rhm), np.random.default_rng(0)
    tables = {
        l: rng.exponential(size=(15, level.shape[1], values_of(rhm, l))) + 0.01
        for l, level in enumerate(oracle.levels)
    }
    wanted, total = summed(oracle, rhm, tables)
    likelihood = tables.pop(0)
    same(rhm.posterior(likelihood=likelihood, inside=tables), wanted, total)
    without = rhm.posterior(likelihood=likelihood)
    assert np.abs(without.classes - wanted[-1][:, 0]).max() > 0.01


def test_evidence_inside_goes_with_symbols_that_were_replaced(written):
    rhm = RandomHierarchyModel(**SMALL)
    rng = np.random.default_rng(1)
    inner = rng.random((6, 2, 3)) + 0.01
    leaves = rhm.sample_corrupted(6, (0.0, 0.3), seed=0).leaves
    wanted, total = summed(written(rhm, {1: 0.3}), rhm, {0: np.eye(3)[leaves], 1: inner})
    same(rhm.posterior(leaves, corruption=(0.0, 0.3), inside={1: inner}), wanted, total)


def test_the_class_may_be_told():
    rhm = RandomHierarchyModel(**DEEP)
    data = rhm.sample(9, seed=0)
    hidden = np.zeros(8, dtype=bool)
    told = np.eye(2)[data.symbols[-1]]
    found = rhm.posterior(data.leaves, hidden, inside={3: told})
    np.testing.assert_array_equal(found.classes.argmax(axis=1), data.labels)
    np.testing.assert_allclose(found.log_evidence, np.log(0.5), rtol=1e-12)


def test_many_data_are_taken_in_parts(monkeypatch):
    rhm = RandomHierarchyModel(**DEEP)
    data = rhm.sample(50, seed=0)
    inner = np.random.default_rng(0).random((50, 4, 3))
    seen = np.random.default_rng(1).random(data.leaves.shape) < 0.3
    whole = rhm.posterior(data.leaves, seen, inside={1: inner})
    monkeypatch.setattr(
        inference, "_parts", lambda *_: [slice(0, 20), slice(20, 40), slice(40, 50)]
    )
    parts = rhm.posterior(data.leaves, seen, inside={1: inner})
    for one, other in zip(parts.levels, whole.levels, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ({4: np.ones((3, 1, 2))}, "numbered 1..3"),
        ({0: np.ones((3, 8, 3))}, "the leaves are level 0"),
        ({1: np.ones((3, 4, 2))}, r"inside\[1\] must have the shape \(data, 4 nodes, 3 symbols\)"),
        ({1: np.ones((2, 4, 3))}, r"inside\[1\] must have 3 data as the leaves, got 2"),
        ({2: -np.ones((3, 2, 3))}, r"inside\[2\] must not be negative"),
        ({2: np.full((3, 2, 3), np.nan)}, r"inside\[2\]"),
        ({3: np.zeros((3, 1, 2))}, "cannot generate"),
    ],
)
def test_wrong_evidence_inside_is_answered(inside, words):
    rhm = RandomHierarchyModel(**DEEP)
    with pytest.raises(ValueError, match=words):
        rhm.posterior(rhm.sample(3, seed=0).leaves, inside=inside)
    with pytest.raises(TypeError, match="inside must be"):
        rhm.posterior(rhm.sample(3, seed=0).leaves, inside=[inside])


# -- leaves at different depths --------------------------------------------------------------------


def test_every_path_meets_one_leaf_as_often_on_each_level_as_it_should():
    rhm = RandomHierarchyModel(**DEEP)
    data = rhm.sample_shallow(4000, (0.2, 0.5), seed=0)
    over_places = [
        np.repeat(leaf, 8 // leaf.shape[1], axis=1) for leaf in data.leaf
    ]  # of one node, for each place of level 0 below it
    assert (np.sum(over_places, axis=0) == 1).all()
    shares = [each.mean() for each in over_places]
    np.testing.assert_allclose(shares, [0.5 * 0.8, 0.5 * 0.2, 0.5], atol=0.02)
    assert len(data[:10]) == 10
    np.testing.assert_array_equal(data[:10].leaf[0], data.leaf[0][:10])
    np.testing.assert_array_equal(data.labels, data.trees.labels)


def test_without_ends_the_data_are_those_of_the_grammar():
    rhm = RandomHierarchyModel(**DEEP)
    data = rhm.sample_shallow(30, 0.0, seed=3)
    plain = rhm.sample(30, seed=3)
    np.testing.assert_array_equal(shallow.tokens(rhm, data), plain.leaves)
    np.testing.assert_array_equal(shallow.one_hot(rhm, data)[:, :3], rhm.one_hot(plain.leaves))
    assert shallow.one_hot(rhm, data)[:, 3:].sum() == 0
    for one, other in zip(
        shallow.posterior(rhm, data).levels, rhm.posterior(plain.leaves).levels, strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_where_all_ends_at_once_the_tuple_of_the_class_is_seen():
    rhm = RandomHierarchyModel(**DEEP)
    data = rhm.sample_shallow(50, (0.0, 1.0), seed=0)
    seen = shallow.tokens(rhm, data)
    np.testing.assert_array_equal(seen[:, [0, 4]] - 6, data.trees.symbols[2])
    assert (np.delete(seen, [0, 4], axis=1) == -1).all()
    assert shallow.posterior(rhm, data).classes.max(axis=1) == pytest.approx(1)


@pytest.mark.parametrize("stop", [0.3, (0.5, 0.2)])
def test_what_shallow_leaves_tell_is_the_sum_over_the_trees_that_agree(written, stop):
    rhm = RandomHierarchyModel(**DEEP)
    data = rhm.sample_shallow(40, stop, seed=2)
    evidence = {
        l: np.where(leaf[..., None], np.eye(3)[data.trees.symbols[l]], 1.0)
        for l, leaf in enumerate(data.leaf)
    }
    same(shallow.posterior(rhm, data), *summed(written(rhm), rhm, evidence))


def every_shallow_datum(oracle, stop):
    """(tokens, label, probability) of all trees of SMALL and all ends of their branches."""
    for leaves, inner, (label,), p in zip(*oracle.levels, oracle.probability, strict=True):
        for ends in product((False, True), repeat=2):
            row = [-1] * 4
            for node, end in enumerate(ends):
                row[2 * node : 2 * node + 2] = (
                    (inner[node] + 3, -1) if end else leaves[2 * node : 2 * node + 2]
                )
            yield tuple(map(int, row)), label, p * np.prod([stop if e else 1 - stop for e in ends])


def test_shallow_draws_are_as_frequent_as_in_the_sum_over_all_data(written):
    rhm, num = RandomHierarchyModel(**SMALL), 20_000
    wanted = {}
    for row, label, p in every_shallow_datum(written(rhm), 0.3):
        wanted[row, label] = wanted.get((row, label), 0) + p
    data = rhm.sample_shallow(num, 0.3, seed=0)
    counts = dict.fromkeys(wanted, 0)
    for row, label in zip(shallow.tokens(rhm, data).tolist(), data.labels.tolist(), strict=True):
        counts[tuple(row), label] += 1
    expected = num * np.array(list(wanted.values()))
    assert expected.sum() == pytest.approx(num)
    assert chisquare(list(counts.values()), expected).pvalue > 1e-3


def test_ends_thin_the_covariance_that_shows_the_rules_of_level_1(written):
    rhm, stop = RandomHierarchyModel(**SMALL), 0.3
    oracle = written(rhm)

    def covariance(rows, labels, p):
        here = (rows[:, 0] == rhm.rules[0][0, 0, 0]) & (rows[:, 1] == rhm.rules[0][0, 0, 1])
        return p @ (here * (labels == 0)) - (p @ here) * (p @ (labels == 0)), p @ here

    whole, often = covariance(oracle.leaves, oracle.labels, oracle.probability)
    rows, labels, p = map(np.array, zip(*every_shallow_datum(oracle, stop), strict=True))
    some, seldom = covariance(rows, labels, p)
    # A covariance is seen where it exceeds its noise, the root of (frequency / data).
    needed = (seldom / some**2) / (often / whole**2)
    assert needed == pytest.approx(1 / 0.7, rel=1e-12)
    assert shallow.sample_complexity(rhm, stop) == pytest.approx(
        needed * theory.sample_complexity(rhm), rel=1e-12
    )
    assert shallow.sample_complexity(rhm, 1.0) == np.inf
    deep = RandomHierarchyModel(**DEEP)
    assert shallow.sample_complexity(deep, (0.5, 0.2)) == pytest.approx(2 * 8 / (0.5 * 0.8))


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        (1.5, "stop"),
        (-0.1, "stop"),
        ((0.1,), r"one probability for each of the levels 1\.\.2, .* got 1 numbers"),
        ((0.1, np.nan), "stop"),
    ],
)
def test_a_wrong_stop_is_answered(stop, words):
    rhm = RandomHierarchyModel(**DEEP)
    with pytest.raises(ValueError, match=words):
        rhm.sample_shallow(3, stop, seed=0)
    with pytest.raises(ValueError, match=words):
        shallow.sample_complexity(rhm, stop)


def test_a_grammar_with_blanks_has_no_shallow_leaves():
    rhm = RandomHierarchyModel(**DEEP | {"num_blanks": 1})
    with pytest.raises(ValueError, match="without blanks"):
        rhm.sample_shallow(3, 0.1, seed=0)


def test_one_level_has_no_inner_symbols_to_end_at():
    rhm = RandomHierarchyModel(**DEEP | {"num_levels": 1})
    data = rhm.sample_shallow(5, 0.9, seed=0)
    np.testing.assert_array_equal(shallow.tokens(rhm, data), data.trees.leaves)
