"""Posteriors of soft evidence against sums over all data, and what impossible evidence does."""

import numpy as np
import pytest
import scipy.stats

from linlocal.rhm import RandomHierarchyModel, inference, sample_posterior


def summed(oracle, rhm, likelihood):
    """Sum over all data: for each level (data, places, symbols and blank), and the evidence."""
    v = rhm.num_values(0)
    index = np.where(oracle.leaves < 0, v, oracle.leaves)
    weight = np.array(
        [
            oracle.probability * np.prod([row[j, index[:, j]] for j in range(row.shape[0])], axis=0)
            for row in likelihood
        ]
    )
    evidence = weight.sum(axis=1)
    levels = []
    for l, level in enumerate(oracle.levels):
        values = rhm.num_values(l) + (rhm.sparse and l < rhm.num_levels)
        index = np.where(level < 0, values - 1, level)
        is_symbol = index[:, :, None] == np.arange(values)
        levels.append(np.einsum("np,pja->nja", weight, is_symbol) / evidence[:, None, None])
    return levels, evidence


def soft(rhm, num, seed):
    """Likelihoods of all sizes, some of them 0, which at least one datum of the model can have."""
    rng = np.random.default_rng(seed)
    shape = (num, rhm.num_leaves, rhm.num_values(0) + rhm.sparse)
    values = rng.exponential(size=shape) ** 3 * (rng.random(shape) < 0.7)
    leaves = rhm.sample(num, seed=seed).leaves.astype(int)
    some = np.where(leaves < 0, rhm.num_values(0), leaves)[..., None]
    np.put_along_axis(values, some, rng.random(some.shape) + 0.1, axis=-1)
    return values


def test_posteriors_of_soft_evidence_are_those_of_the_sum_over_all_data(rhm, written):
    likelihood = soft(rhm, 20, seed=0)
    wanted, evidence = summed(written(rhm), rhm, likelihood)
    got = rhm.posterior(likelihood=likelihood)
    for here, there in zip(got.levels, wanted, strict=True):
        np.testing.assert_allclose(here, there, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.log_evidence, np.log(evidence), rtol=0, atol=1e-10)


def test_leaves_are_a_likelihood_of_0_and_1(rhm):
    data = rhm.sample(10, seed=0)
    leaves = np.where(data.leaves < 0, rhm.num_values(0), data.leaves.astype(int))
    visible = np.random.default_rng(0).random(leaves.shape) < 0.5
    hard = np.eye(rhm.num_values(0) + rhm.sparse)[leaves]
    hard[~visible] = 1.0
    one, other = rhm.posterior(likelihood=hard), rhm.posterior(data.leaves, visible)
    for here, there in zip(one.levels, other.levels, strict=True):
        np.testing.assert_array_equal(here, there)
    np.testing.assert_array_equal(one.log_evidence, other.log_evidence)


def test_the_size_of_a_likelihood_changes_the_evidence_alone(standard):
    likelihood = soft(standard, 4, seed=1)
    size = np.exp(np.random.default_rng(0).uniform(-600, 600, likelihood.shape[:2]))
    one = standard.posterior(likelihood=likelihood)
    other = standard.posterior(likelihood=likelihood * size[..., None])
    for here, there in zip(one.levels, other.levels, strict=True):
        np.testing.assert_allclose(here, there, rtol=0, atol=1e-12)
    gained = other.log_evidence - one.log_evidence
    np.testing.assert_allclose(gained, np.log(size).sum(axis=1), rtol=1e-12)


def test_draws_from_soft_evidence_have_its_probabilities(written):
    rhm = RandomHierarchyModel(num_classes=2, num_symbols=3, num_synonyms=2, num_levels=2, seed=1)
    oracle = written(rhm)
    likelihood = soft(rhm, 1, seed=2)
    index = oracle.leaves
    weight = oracle.probability * np.prod(
        [likelihood[0, j, index[:, j]] for j in range(index.shape[1])], axis=0
    )
    weight /= weight.sum()
    num = 4000
    drawn = sample_posterior(rhm, seed=0, likelihood=np.repeat(likelihood, num, axis=0))
    rows = {tuple(row): k for k, row in enumerate(index.tolist())}
    counts = np.bincount([rows[tuple(r)] for r in drawn.leaves.tolist()], minlength=len(weight))
    assert counts[weight == 0].sum() == 0
    often = weight * num >= 5
    observed = [*counts[often], counts[~often].sum()]
    expected = [*weight[often] * num, weight[~often].sum() * num]
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-4


def impossible_first_tuple(model):
    v = model.num_symbols
    owned = {tuple(t) for t in model.rules[0].reshape(-1, 2).tolist()}
    return next((a, b) for a in range(v) for b in range(v) if (a, b) not in owned)


def test_impossible_data_cost_themselves_alone():
    model = RandomHierarchyModel(num_classes=2, num_symbols=4, num_synonyms=2, num_levels=2)
    leaves = model.sample(5, seed=0).leaves.copy()
    leaves[3, :2] = impossible_first_tuple(model)
    for evidence in ({"leaves": leaves}, {"likelihood": np.eye(4)[leaves]}):
        with pytest.raises(ValueError, match="of datum 3"):
            model.posterior(**evidence)
        with pytest.raises(ValueError, match="of datum 3"):
            sample_posterior(model, **evidence, seed=0)
        got = model.posterior(**evidence, strict=False)
        good = [0, 1, 2, 4]
        alone = model.posterior(leaves[good])
        assert np.isneginf(got.log_evidence).tolist() == [False, False, False, True, False]
        np.testing.assert_array_equal(got.log_evidence[good], alone.log_evidence)
        for level, wanted in zip(got.levels, alone.levels, strict=True):
            assert np.isnan(level[3]).all()
            np.testing.assert_array_equal(level[good], wanted)


def test_a_datum_is_named_by_its_row_in_the_whole_batch(monkeypatch):
    model = RandomHierarchyModel(num_classes=2, num_symbols=4, num_synonyms=2, num_levels=2)
    monkeypatch.setattr(inference, "_parts", lambda grammar, num: [slice(0, 2), slice(2, num)])
    leaves = model.sample(5, seed=0).leaves.copy()
    leaves[3, :2] = impossible_first_tuple(model)
    with pytest.raises(ValueError, match="of datum 3"):
        model.posterior(leaves)


@pytest.mark.parametrize("symbols", [60, 70])
def test_messages_down_are_the_same_for_few_and_many_symbols(symbols, monkeypatch):
    model = RandomHierarchyModel(
        num_classes=symbols, num_symbols=symbols, num_synonyms=3, num_levels=2, rule_exponent=1.0
    )
    leaves = model.sample(6, seed=0).leaves
    seen = np.array([True, False, True, False])
    one = model.posterior(leaves, seen)
    monkeypatch.setattr(inference, "_INDICATOR", 130 - symbols)
    other = model.posterior(leaves, seen)
    for here, there in zip(one.levels, other.levels, strict=True):
        np.testing.assert_allclose(here, there, rtol=0, atol=1e-13)
