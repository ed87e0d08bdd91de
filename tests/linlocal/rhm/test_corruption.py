"""Symbols replaced by others, at the leaves and inside the tree."""

import numpy as np
import pytest
from scipy.stats import chisquare

from linlocal.rhm import RandomHierarchyModel, bayes_error, corruption


def test_corruption_replaces_the_given_fraction_by_other_symbols():
    model = RandomHierarchyModel(
        num_classes=4, num_symbols=4, num_synonyms=2, num_levels=3, num_blanks=1
    )
    leaves = model.sample(2000, seed=0).leaves
    wrong = model.corrupt(leaves, 0.25, seed=1)
    assert ((wrong == -1) == (leaves == -1)).all()
    seen = leaves >= 0
    replaced = (wrong != leaves)[seen]
    assert abs(replaced.mean() - 0.25) < 3 * np.sqrt(0.25 * 0.75 / seen.sum())
    shift = (wrong[seen] - leaves[seen])[replaced] % 4
    assert chisquare(np.bincount(shift - 1, minlength=3)).pvalue > 1e-4
    assert (model.corrupt(leaves, 0.0, seed=1) == leaves).all()
    assert (model.corrupt(leaves, 1.0, seed=1) != leaves)[seen].all()
    assert wrong.dtype == leaves.dtype
    with pytest.raises(ValueError, match=r"fraction must be in 0\.\.1"):
        model.corrupt(leaves, 1.1, seed=0)


def test_of_two_symbols_corruption_takes_the_other_one():
    model = RandomHierarchyModel(num_classes=2, num_symbols=2, num_synonyms=2, num_levels=2)
    leaves = model.sample(20, seed=0).leaves
    assert (model.corrupt(leaves, 1.0, seed=0) == 1 - leaves).all()
    alone = RandomHierarchyModel(num_classes=1, num_symbols=1, num_synonyms=1, num_levels=2)
    with pytest.raises(ValueError, match="With num_symbols=1 a leaf cannot be another symbol"):
        alone.corrupt(alone.sample(2, seed=0).leaves, 0.5, seed=0)


def test_corruption_of_small_and_unsigned_integers_and_of_foreign_leaves():
    for symbols in (127, 128, 200, 256):
        model = RandomHierarchyModel(
            num_classes=2, num_symbols=symbols, num_synonyms=2, num_levels=1
        )
        leaves = model.sample(500, seed=0).leaves
        wanted = model.corrupt(leaves.astype(np.int64), 0.5, seed=1)
        assert wanted.min() >= 0
        assert wanted.max() < symbols
        assert (model.corrupt(leaves, 0.5, seed=1) == wanted).all()
        assert (model.corrupt(leaves.astype(np.uint8), 0.5, seed=1) == wanted).all()
        with pytest.raises(ValueError, match=f"Leaves are symbols 0..{symbols - 1}"):
            model.corrupt(leaves.astype(int) + symbols, 0.5, seed=1)


INSIDE = {
    "num_classes": 2,
    "num_symbols": 3,
    "num_synonyms": 2,
    "num_levels": 2,
    "class_weights": (1.0, 2.0),
    "rule_exponent": (1.0, 0.5),
    "seed": 1,
}


def test_corrupted_draws_are_as_frequent_as_their_evidence():
    model = RandomHierarchyModel(**INSIDE)
    shares = (0.2, 0.3)
    leaves = model.sample_corrupted(20_000, shares, seed=0).leaves
    every = np.indices((3,) * 4).reshape(4, -1).T
    probability = np.exp(model.posterior(every, corruption=shares).log_evidence)
    assert probability.sum() == pytest.approx(1, abs=1e-12)
    counts = np.bincount(np.ravel_multi_index(leaves.T, (3,) * 4), minlength=81)
    assert chisquare(counts, 20_000 * probability).pvalue > 1e-3
    wrong = np.exp(model.posterior(every, corruption=shares[::-1]).log_evidence)
    assert chisquare(counts, 20_000 * wrong).pvalue < 1e-9


def test_a_replaced_symbol_is_written_on_as_the_other_one():
    model = RandomHierarchyModel(**INSIDE | {"num_levels": 3, "rule_exponent": 0.0})
    trees = model.sample_corrupted(3000, (0.0, 0.4, 0.0), seed=0)
    owned = [
        model.rule_tables[l - 1].find(trees.symbols[l - 1].reshape(*trees.symbols[l].shape, 2)) // 2
        == trees.symbols[l]
        for l in model.levels
    ]
    assert owned[0].all()
    assert owned[2].all()
    # Both symbols stay, or the new tuple is by chance another one of the owner.
    assert 0.3 < owned[1].mean() < 0.7
    assert len(np.unique(trees.leaves, axis=0)) > 100


def test_without_corruption_there_are_only_data_of_the_grammar(rhm):
    trees = rhm.sample_corrupted(200, 0.0, seed=4)
    parsed = rhm.parse(trees.leaves)
    for drawn, found in zip(trees.arrays, parsed.arrays, strict=True):
        np.testing.assert_array_equal(drawn, found)


def test_blanks_stay_where_symbols_are_replaced():
    model = RandomHierarchyModel(
        num_classes=2, num_symbols=4, num_synonyms=2, num_levels=2, num_blanks=1
    )
    trees = model.sample_corrupted(500, (0.5, 0.5), seed=0)
    assert ((trees.leaves >= 0).sum(axis=1) == 4).all()
    assert (model.parse(trees.leaves, strict=False).labels == -1).any()
    model.posterior(trees.leaves, corruption=(0.5, 0.5))


def test_one_number_is_the_corruption_of_the_leaves():
    model = RandomHierarchyModel(**INSIDE)
    one, several = (model.sample_corrupted(50, each, seed=0) for each in (0.2, (0.2, 0.0)))
    np.testing.assert_array_equal(one.leaves, several.leaves)
    np.testing.assert_array_equal(one.symbols[1], model.sample_corrupted(50, 0, seed=0).symbols[1])


def test_the_bayes_error_counts_wrong_symbols_inside():
    model = RandomHierarchyModel(**INSIDE | {"class_weights": None, "rule_exponent": 0.0})
    none, some, many = (
        bayes_error(model, 1.0, corruption=(0.0, p), num_samples=4000).value
        for p in (0.0, 0.1, 0.3)
    )
    assert none == pytest.approx(0, abs=1e-12)
    assert 0.01 < some < many - 0.01


def test_the_channel_is_a_symmetric_stochastic_matrix_and_keeps_blanks(rhm):
    for level in range(rhm.num_levels):
        if rhm.num_values(level) > 1:
            table = corruption.channel(rhm, level, 0.3)
            np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-15)
            np.testing.assert_array_equal(table, table.T)
            np.testing.assert_allclose(np.diag(table)[: rhm.num_values(level)], 0.7)
            assert (table[-1, -1] == 1) == rhm.sparse


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((0.1,), "one probability for each of the levels 0..1, .* got 1 numbers"),
        ((0.1, 1.0), "a probability below 1, got 1.0"),
        (-0.1, "a probability below 1, got -0.1"),
        ((0.1, float("nan")), "a probability below 1, got nan"),
    ],
)
def test_a_wrong_corruption_is_answered(given, words):
    model = RandomHierarchyModel(**INSIDE)
    with pytest.raises(ValueError, match=words):
        model.sample_corrupted(3, given, seed=0)
    with pytest.raises(ValueError, match=words):
        model.posterior(model.sample(3, seed=0).leaves, corruption=given)


def test_a_level_of_one_symbol_cannot_be_corrupted():
    alone = RandomHierarchyModel(num_classes=1, num_symbols=1, num_synonyms=1, num_levels=2)
    with pytest.raises(ValueError, match="Level 1 has one symbol, which no other can replace"):
        alone.sample_corrupted(2, (0.0, 0.1), seed=0)
