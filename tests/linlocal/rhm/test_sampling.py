"""Draws have the distribution of the grammar; a split never holds a datum twice."""

import time
import tracemalloc

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, strategies as st

from linlocal import testing
from linlocal.rhm import RandomHierarchyModel, Trees, inference, sampling, trees
from linlocal.seeds import generator_for

ALMOST_NEVER = 1e-4
"""A p-value below this is a wrong distribution: the draws are fixed by their seeds."""


def plain_sampler(rhm, num, seed):
    """What one writes first: ancestral sampling, one gather per level, leaves only."""
    rng = np.random.default_rng(seed)
    x = rng.integers(rhm.num_classes, size=(num, 1), dtype=np.int8)
    for rules in reversed(rhm.rules):
        choice = rng.integers(rhm.num_synonyms, size=x.shape, dtype=np.int8)
        x = rules[x, choice].reshape(num, -1)
    return x


def assert_distributed(index, probability):
    counts = np.bincount(index.astype(np.int64), minlength=len(probability))
    p = scipy.stats.chisquare(counts, probability * len(index)).pvalue
    assert p > ALMOST_NEVER, f"chi-square p = {p:.1e}"


def probabilities(rhm):
    every = Trees.concatenate(list(rhm.enumerate()))
    return np.exp(trees.log_probability(rhm, every))


# -- sample ----------------------------------------------------------------------------------------


def test_samples_have_the_probability_of_each_datum(rhm):
    """Uniform over all data for uniform rules, Zipf for Zipf; the oracle knows the rest."""
    index = rhm.index(rhm.sample(100 * rhm.num_data, seed=1))
    assert_distributed(index, probabilities(rhm))


def test_chi_square_sees_a_wrong_distribution():
    model = RandomHierarchyModel(
        num_classes=2, num_symbols=3, num_synonyms=2, num_levels=3, rule_exponent=0.2
    )
    index = model.index(model.sample(25_600, seed=1))
    assert_distributed(index, probabilities(model))
    with pytest.raises(AssertionError, match="chi-square"):
        assert_distributed(index, np.full(256, 1 / 256))


def test_zipf_rules_have_their_frequencies_at_every_level():
    model = RandomHierarchyModel(
        num_classes=8, num_symbols=8, num_synonyms=8, num_levels=3, rule_exponent=(0.0, 1.0, 2.0)
    )
    data = model.sample(20_000, seed=0)
    for l, choice in zip(model.levels, trees.choices_of(model, data), strict=True):
        assert_distributed(choice.ravel(), model.rule_probabilities[l - 1])
        measured = np.bincount(choice.ravel(), minlength=8) / choice.size
        slope = np.polyfit(np.log(np.arange(1, 9)), np.log(measured), 1)[0]
        assert slope == pytest.approx(-model.rule_exponents[l - 1], abs=0.1)


def test_seeds_are_separate(rhm):
    assert (rhm.sample(50, seed=1).leaves == rhm.sample(50, seed=1).leaves).all()
    assert (rhm.sample(50, seed=1).leaves != rhm.sample(50, seed=2).leaves).any()


def test_every_purpose_and_every_list_of_seeds_is_another_stream():
    """numpy takes (5,), (5, 0) and (5, 0, 0) for the same seed: a test set of seed 5 then was the
    first batch of epoch 0 of a loader with seed 5."""
    names = [
        ("sample", 5),
        ("sample", 5, 0),
        ("sample", 5, 0, 0),
        ("sample", 0, 5),
        ("sample", 5 + 2**32),
        ("sample", 5, 1),
        ("split", 5),
        ("rules", 5),
        ("sample", -5),
    ]
    assert len({generator_for(*name).integers(2**62) for name in names}) == len(names)
    assert generator_for("sample", np.int64(5)).random() == generator_for("sample", 5).random()
    with pytest.raises(TypeError):
        generator_for("sample", 0.5)


def test_no_data_are_no_error(rhm):
    assert rhm.sample(0, seed=0).leaves.shape == (0, rhm.num_leaves)
    train, test = rhm.split(train=0, test=0, seed=0)
    assert len(train) == len(test) == 0
    with pytest.raises(ValueError, match="num must be at least 0"):
        rhm.sample(-1, seed=0)


def test_sampling_is_as_fast_as_a_plain_sampler_and_lean(standard):
    """100,000 data with all latents: at most 3x the time, and at the peak 3x the bytes kept."""

    def fastest(call):
        times = []
        for _ in range(5):
            start = time.process_time()
            call()
            times.append(time.process_time() - start)
        return min(times)

    standard.rules  # noqa: B018 - made before the clock starts
    ours = fastest(lambda: standard.sample(100_000, seed=0))
    assert ours < 3 * fastest(lambda: plain_sampler(standard, 100_000, 0))
    tracemalloc.start()
    data = standard.sample(100_000, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert data.nbytes == 100_000 * (16 + 8 + 4 + 2 + 1)
    assert peak < 3 * data.nbytes


# -- split -----------------------------------------------------------------------------------------


def assert_split(rhm, train, test, sizes):
    assert (len(train), len(test)) == sizes
    both = np.concatenate([train.leaves, test.leaves])
    rows = np.ascontiguousarray(both).view(np.dtype((np.void, both.itemsize * both.shape[1])))
    assert len(np.unique(rows)) == len(both)
    for part in (train, test):
        parsed = rhm.parse(part.leaves)
        for a, b in zip(part.symbols, parsed.symbols, strict=True):
            assert (a == b).all()


def test_a_split_can_hold_all_data(rhm):
    test = rhm.num_data // 5
    train = rhm.num_data - test
    assert_split(rhm, *rhm.split(train=train, test=test, seed=0), (train, test))
    with pytest.raises(ValueError, match=r"train \+ test <= P_max is broken"):
        rhm.split(train=train, test=test + 1, seed=0)


def test_a_split_of_80_percent_of_131072_data():
    model = RandomHierarchyModel(num_classes=8, num_symbols=8, num_synonyms=4, num_levels=3)
    assert model.num_data == 2**17
    train = int(0.8 * model.num_data)
    assert_split(model, *model.split(train=train, test=20_000, seed=0), (train, 20_000))


@given(rhm=testing.hierarchies(max_leaves=32), data=st.data())
def test_splits_of_all_kinds_of_grammars(rhm, data):
    rare = not rhm.uniform and rhm.num_data > sampling.EXACT_ORDER
    most = min(rhm.num_data, 50 if rare else 3000)
    test = data.draw(st.integers(0, most))
    train = data.draw(st.integers(0, most - test))
    parts = rhm.split(train=train, test=test, seed=data.draw(st.integers(0, 99)))
    assert_split(rhm, *parts, (train, test))


@pytest.mark.slow
def test_a_split_of_80_percent_of_16_million_data():
    """Above the number of data that are put in order for every split."""
    model = RandomHierarchyModel(num_classes=8, num_symbols=8, num_synonyms=8, num_levels=3)
    assert model.num_data == 2**24 > sampling.EXACT_ORDER
    train = int(0.8 * model.num_data)
    train_set, test_set = model.split(train=train, test=100_000, seed=0)
    index = np.concatenate([model.index(train_set), model.index(test_set)])
    seen = np.zeros(model.num_data, dtype=bool)
    seen[index] = True
    assert seen.sum() == train + 100_000


def test_a_split_where_the_index_has_3000_bits():
    deep = RandomHierarchyModel(num_classes=16, num_symbols=16, num_synonyms=8, num_levels=10)
    assert_split(deep, *deep.split(train=500, test=100, seed=0), (500, 100))


def models_for_both_ways(monkeypatch, way):
    if way == "rejection":
        monkeypatch.setattr(sampling, "EXACT_ORDER", 0)


@pytest.mark.parametrize("way", ["order", "rejection"])
@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_the_first_and_second_datum_of_a_split_have_the_law_of_drawing_without_replacement(
    monkeypatch, way, exponent
):
    """P(first = i) = p_i, P(second = j | first = i) = p_j / (1 - p_i)."""
    models_for_both_ways(monkeypatch, way)
    monkeypatch.setattr(sampling, "_FIRST_ROUND", 8)
    model = RandomHierarchyModel(
        num_classes=2, num_symbols=2, num_synonyms=2, num_levels=1, rule_exponent=exponent
    )
    p = probabilities(model)
    pairs = np.array(
        [
            model.index(Trees.concatenate(model.split(train=1, test=1, seed=seed)[::-1]))
            for seed in range(3000)
        ]
    )
    joint = np.outer(p, p) / (1 - p)[:, None]
    np.fill_diagonal(joint, 0)
    code = pairs[:, 0] * len(p) + pairs[:, 1]
    possible = np.flatnonzero(joint.ravel() > 0)
    assert np.isin(code, possible).all()
    assert_distributed(np.searchsorted(possible, code), joint.ravel()[possible])


@pytest.mark.parametrize("way", ["order", "rejection"])
def test_a_larger_training_set_contains_the_smaller_and_keeps_the_test_set(monkeypatch, way):
    models_for_both_ways(monkeypatch, way)
    model = RandomHierarchyModel(num_classes=8, num_symbols=8, num_synonyms=4, num_levels=3)
    small, test = model.split(train=100, test=300, seed=5)
    large, same = model.split(train=30_000, test=300, seed=5)
    assert (test.leaves == same.leaves).all()
    assert (large.leaves[:100] == small.leaves).all()
    assert (model.split(train=100, test=300, seed=6)[0].leaves != small.leaves).any()


def test_a_split_of_too_rare_data_says_so():
    model = RandomHierarchyModel(
        num_classes=2, num_symbols=16, num_synonyms=16, num_levels=3, rule_exponent=9.0
    )
    with pytest.raises(ValueError, match="lower rule_exponent"):
        model.split(train=1_000_000, test=0, seed=0)


# -- changes ---------------------------------------------------------------------------------------


@given(rhm=testing.hierarchies(max_leaves=32), data=st.data())
def test_exchange_changes_the_asked_choices_and_no_other(rhm, data):
    trees_before = rhm.sample(30, seed=0)
    level = data.draw(st.sampled_from(list(rhm.levels)))
    node = data.draw(st.none() | st.integers(0, rhm.num_nodes(level) - 1))
    if rhm.num_synonyms == 1:
        with pytest.raises(ValueError, match="no tuple has a synonym"):
            rhm.exchange(trees_before, level, node, seed=1)
        return
    after = rhm.exchange(trees_before, level, node, seed=1)
    rhm.parse(after.leaves)
    for l in range(level, rhm.num_levels + 1):
        assert (after.symbols[l] == trees_before.symbols[l]).all()
    old, new = trees.choices_of(rhm, trees_before), trees.choices_of(rhm, after)
    for l in rhm.levels:
        changed = old[l - 1] != new[l - 1]
        wanted = np.zeros_like(changed)
        if l == level:
            wanted[:, slice(None) if node is None else node] = True
        assert (changed == wanted).all()
    assert all(
        (a == b).all() for a, b in zip(trees_before.placements, after.placements, strict=True)
    )


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("exponent", [0.0, (1.5, 0.5)])
def test_an_exchange_draws_from_the_other_synonyms_by_their_probabilities(exponent, level):
    model = RandomHierarchyModel(
        num_classes=4, num_symbols=4, num_synonyms=4, num_levels=2, rule_exponent=exponent
    )
    data = model.sample(20_000, seed=0)
    old = trees.choices_of(model, data)[level - 1].ravel()
    new = trees.choices_of(model, model.exchange(data, level, seed=0))[level - 1].ravel()
    p = model.rule_probabilities[level - 1]
    for rule in range(4):
        others = np.delete(p, rule) / (1 - p[rule])
        drawn = new[old == rule]
        assert_distributed(drawn - (drawn > rule), others)


@given(rhm=testing.hierarchies(max_leaves=32), data=st.data())
def test_resampling_keeps_what_is_not_below(rhm, data):
    before = rhm.sample(200, seed=0)
    level = data.draw(st.sampled_from(list(rhm.levels)))
    node = data.draw(st.none() | st.integers(0, rhm.num_nodes(level) - 1))
    after = rhm.resample(before, level, node, seed=1)
    rhm.parse(after.leaves)
    count = rhm.num_nodes(level)
    for l in range(rhm.num_levels + 1):
        if l >= level:
            assert (after.symbols[l] == before.symbols[l]).all()
        elif node is not None:
            beside = np.arange(rhm.num_nodes(l)) // (rhm.num_nodes(l) // count) != node
            assert (after.symbols[l][:, beside] == before.symbols[l][:, beside]).all()
    if rhm.num_synonyms > 1:
        assert (after.symbols[0] != before.symbols[0]).any()


def test_resampling_is_a_fresh_draw_given_the_symbol(rhm):
    """Below the class: the result is distributed as the data are, whatever was there before."""
    one = rhm.data([0])[np.zeros(50 * rhm.num_data, dtype=int)]
    index = rhm.index(rhm.resample(one, rhm.num_levels, seed=3))
    p = probabilities(rhm)
    own = slice(0, rhm.num_data // rhm.num_classes)  # the class is the first digit
    assert_distributed(index, p[own] / p[own].sum())


def test_changes_and_inference_draw_by_their_seed_and_nothing_else():
    model = RandomHierarchyModel(
        num_classes=4, num_symbols=4, num_synonyms=3, num_levels=2, num_blanks=1
    )
    data = model.sample(200, seed=0)
    hidden = np.zeros(data.leaves.shape[1], dtype=bool)
    draws = {
        "exchange": lambda seed: model.exchange(data, 1, seed=seed).leaves,
        "resample": lambda seed: model.resample(data, 2, seed=seed).leaves,
        "places": lambda seed: model.resample(data, 2, seed=seed).placements[0],
        "corrupt": lambda seed: model.corrupt(data.leaves, 0.5, seed=seed),
        "posterior": lambda seed: (
            inference.sample_posterior(model, data.leaves, hidden, seed=seed).leaves
        ),
        "Bayes error": lambda seed: inference.bayes_error(model, 0.5, num_samples=50, seed=seed),
    }
    for name, draw in draws.items():
        assert np.array_equal(draw(1), draw(1)), name
        assert not np.array_equal(draw(1), draw(2)), name


def test_nodes_and_levels_are_checked(rhm):
    data = rhm.sample(2, seed=0)
    for change in (rhm.exchange, rhm.resample):
        with pytest.raises(ValueError, match="got level 0"):
            change(data, 0, seed=0)
        with pytest.raises(
            ValueError, match=f"Level {rhm.num_levels} has symbols 0..0, got node 1"
        ):
            change(data, rhm.num_levels, 1, seed=0)


# -- encoding --------------------------------------------------------------------------------------


@given(rhm=testing.hierarchies(max_leaves=32), centred=st.booleans())
def test_one_hot_is_what_it_says(rhm, centred):
    leaves = rhm.sample(50, seed=0).leaves
    x = rhm.one_hot(leaves, centred=centred, dtype=np.float64)
    v = rhm.num_values(0)
    assert x.shape == (50, v, rhm.num_leaves)
    if centred and v > 1:
        # Mean 0 and variance 1 over equally frequent symbols: sum 0, sum of squares v at a leaf.
        assert x.sum(axis=1) == pytest.approx(0, abs=1e-12)
        assert (x**2).sum(axis=1) == pytest.approx(np.where(leaves >= 0, v, 0), rel=1e-12)
        assert (x.argmax(axis=1)[leaves >= 0] == leaves[leaves >= 0]).all()
    else:
        wanted = leaves[:, None, :] == np.arange(v)[None, :, None]
        assert (x == wanted).all()
    assert rhm.one_hot(leaves).dtype == np.float32
