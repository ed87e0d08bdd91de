"""Exact inference against sums over all data."""

from itertools import pairwise, permutations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, strategies as st

from linlocal import testing
from linlocal.rhm import RandomHierarchyModel, Trees, bayes_error, sample_posterior
from linlocal.rhm.inference import UNKNOWN


def assert_same(a, b):
    for first, second in zip(
        (a.leaves, *a.symbols, *a.placements), (b.leaves, *b.symbols, *b.placements), strict=True
    ):
        assert (first == second).all()


# -- parse -----------------------------------------------------------------------------------------


@given(rhm=testing.hierarchies(), seed=st.integers(0, 99))
def test_parse_recovers_every_latent(rhm, seed):
    data = rhm.sample(100, seed=seed)
    assert_same(rhm.parse(data.leaves), data)


@pytest.mark.parametrize("num", [100_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_parse_recovers_every_latent_of_many_data(standard, num):
    data = standard.sample(num, seed=1)
    assert_same(standard.parse(data.leaves), data)
    assert_same(standard.parse(data.leaves.astype(np.int64)), data)


def test_parse_accepts_what_the_grammar_generates_and_nothing_else(rhm, written):
    """Every other row of leaves, drawn at random, is refused; so are blanks in wrong places."""
    generated = {tuple(row) for row in written(rhm).leaves.tolist()}
    low = -1 if rhm.sparse else 0
    shape = (3000, rhm.num_leaves)
    drawn = np.random.default_rng(0).integers(low, rhm.num_values(0), size=shape)
    some = np.concatenate([list(generated)[:100], drawn])
    some[:50, 0] = drawn[:50, 0]  # nearly right
    labels = rhm.parse(some, strict=False).labels
    known = [tuple(row) in generated for row in some.tolist()]
    assert ((labels != UNKNOWN) == known).all()
    assert sum(known) > 0
    assert sum(known) < len(known) or rhm.num_data == rhm.num_values(0) ** rhm.num_leaves


@pytest.mark.parametrize("placement", ["blocks", "ordered"])
@pytest.mark.parametrize("tuple_size", [2, (2, 3), (1, 3)])
def test_symbols_in_places_where_no_tuple_puts_them_are_refused(placement, tuple_size):
    """A symbol moved to a blank that no other symbol is before: symbols and order stay."""
    sparse = RandomHierarchyModel(
        num_classes=2,
        num_symbols=2,
        num_synonyms=1,
        num_levels=2,
        tuple_size=tuple_size,
        num_blanks=1,
        placement=placement,
    )
    every = Trees.concatenate(list(sparse.enumerate())).leaves
    generated = {row.tobytes() for row in every}
    for a, b in permutations(range(sparse.num_leaves), 2):
        between = every[:, min(a, b) : max(a, b) + 1] >= 0
        moved = every[(every[:, a] >= 0) & (between.sum(axis=1) == 1)].copy()
        moved[:, [a, b]] = moved[:, [b, a]]
        labels = sparse.parse(moved, strict=False).labels
        known = np.array([row.tobytes() in generated for row in moved], dtype=bool)
        assert ((labels != UNKNOWN) == known).all()
        if not known.all():
            with pytest.raises(ValueError, match="its blanks or symbols are in no possible place"):
                sparse.parse(moved[~known])


def test_what_cannot_be_parsed_is_unknown_and_the_rest_is_not():
    model = RandomHierarchyModel(num_classes=4, num_symbols=4, num_synonyms=2, num_levels=3)
    data = model.sample(200, seed=0)
    parsed = model.parse(model.corrupt(data.leaves, 0.1, seed=0), strict=False)
    for l in model.levels:
        s = model.tuple_sizes[l - 1]
        below = parsed.symbols[l - 1].reshape(200, -1, s)
        owner = parsed.symbols[l]
        assert (owner[(below == UNKNOWN).any(axis=-1)] == UNKNOWN).all()
        found = owner != UNKNOWN
        owned = model.rules[l - 1][owner[found].astype(int)]
        assert (owned == below[found][:, None, :]).all(axis=-1).any(axis=-1).all()
    unknown = [(level == UNKNOWN).mean() for level in parsed.symbols]
    assert unknown[0] == 0
    assert all(a < b for a, b in pairwise([*unknown, 1]))


def test_a_failed_parse_says_where():
    model = RandomHierarchyModel(num_classes=4, num_symbols=4, num_synonyms=2, num_levels=2)
    leaves = model.sample(5, seed=0).leaves.copy()
    owned = {tuple(t) for t in model.rules[0].reshape(-1, 2).tolist()}
    foreign = next((a, b) for a in range(4) for b in range(4) if (a, b) not in owned)
    leaves[3, 2:] = foreign
    message = rf"1 of 5 data .* datum 3: no symbol of level 1 owns \({foreign[0]}, {foreign[1]}\)"
    with pytest.raises(ValueError, match=message + r" \(node 1\)"):
        model.parse(leaves)
    leaves[1, :2] = foreign
    message = rf"2 of 5 data .* datum 1: no symbol of level 1 owns \({foreign[0]}, {foreign[1]}\)"
    with pytest.raises(ValueError, match=message + r" \(node 0\)"):
        model.parse(leaves)
    with pytest.raises(ValueError, match=r"leaves must be whole numbers \(data, 4\), got shape"):
        model.parse(leaves[:, :3])
    with pytest.raises(ValueError, match=r"symbols 0\.\.3, got numbers from 0 to [4-7]"):
        model.parse(leaves % 4 + np.array([0, 0, 0, 4]))
    sparse = RandomHierarchyModel(
        num_classes=4, num_symbols=4, num_synonyms=2, num_levels=2, num_blanks=1
    )
    leaves = sparse.sample(5, seed=0).leaves.copy()
    leaves[1] = -1
    with pytest.raises(ValueError, match="datum 1: its blanks"):
        sparse.parse(leaves)
    assert len(model.parse(np.empty((0, 4), dtype=np.int8))) == 0


# -- belief propagation ----------------------------------------------------------------------------


def exact_posterior(oracle, rhm, leaves, visible, corruption=0.0):
    """Sum over all data: for each level (data, places, symbols and blank), and the evidence."""
    v = rhm.num_values(0)
    same = oracle.leaves[None] == leaves[:, None]
    swapped = (oracle.leaves[None] >= 0) & (leaves[:, None] >= 0)
    right = np.where(oracle.leaves[None] >= 0, 1 - corruption, 1.0)
    factor = np.where(same, right, np.where(swapped, corruption / max(1, v - 1), 0.0))
    factor = np.where(visible[:, None], factor, 1.0)
    weight = oracle.probability * factor.prod(axis=-1)
    evidence = weight.sum(axis=1)
    levels = []
    for l, level in enumerate(oracle.levels):
        values = rhm.num_values(l) + (rhm.sparse and l < rhm.num_levels)
        index = np.where(level < 0, values - 1, level)
        is_symbol = index[:, :, None] == np.arange(values)
        levels.append(np.einsum("np,pja->nja", weight, is_symbol) / evidence[:, None, None])
    return levels, evidence


@pytest.mark.parametrize(("at_leaves", "inside"), [(0.0, 0.0), (0.2, 0.0), (0.0, 0.3), (0.2, 0.3)])
def test_posteriors_are_those_of_the_sum_over_all_data(rhm, written, at_leaves, inside):
    top = rhm.num_levels - 1  # the highest level whose symbols can be replaced
    corruption = [at_leaves, *[0.0] * top]
    if top and rhm.num_values(top) > 1:
        corruption[top] = inside
    oracle = written(rhm, dict(enumerate(corruption[1:], start=1)))
    leaves = rhm.sample_corrupted(40, corruption, seed=0).leaves
    visible = np.random.default_rng(0).random(leaves.shape) < np.linspace(0, 1, 40)[:, None]
    wanted, evidence = exact_posterior(oracle, rhm, leaves, visible, at_leaves)
    got = rhm.posterior(leaves, visible, corruption=corruption)
    assert len(got.levels) == rhm.num_levels + 1
    for a, b in zip(got.levels, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    np.testing.assert_allclose(got.log_evidence, np.log(evidence), atol=1e-10)
    assert (got.classes == got.levels[-1][:, 0]).all()


def test_symbols_may_be_replaced_on_all_levels(written):
    rhm = RandomHierarchyModel(num_classes=2, num_symbols=2, num_synonyms=1, num_levels=3, seed=2)
    corruption = (0.1, 0.3, 0.2)
    oracle = written(rhm, {1: 0.3, 2: 0.2})
    leaves = rhm.sample_corrupted(30, corruption, seed=0).leaves
    visible = np.random.default_rng(0).random(leaves.shape) < 0.7
    wanted, evidence = exact_posterior(oracle, rhm, leaves, visible, corruption[0])
    got = rhm.posterior(leaves, visible, corruption=corruption)
    for a, b in zip(got.levels, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    np.testing.assert_allclose(got.log_evidence, np.log(evidence), atol=1e-10)
    other = rhm.posterior(leaves, visible, corruption=(0.1, 0.2, 0.3))
    assert np.abs(other.levels[1] - got.levels[1]).max() > 0.01


@given(rhm=testing.hierarchies(max_leaves=27), seed=st.integers(0, 99))
def test_posteriors_are_probabilities_and_certain_where_all_is_seen(rhm, seed):
    data = rhm.sample(8, seed=seed)
    full = rhm.posterior(data.leaves)
    assert (full.classes.argmax(axis=1) == data.labels).all()
    assert full.classes.max(axis=1) == pytest.approx(1, abs=1e-12)
    visible = np.random.default_rng(seed).random(data.leaves.shape) < 0.5
    for level in rhm.posterior(data.leaves, visible).levels:
        assert level.sum(axis=-1) == pytest.approx(1, abs=1e-12)
        assert level.min() >= 0


def test_with_all_hidden_the_posterior_is_the_prior(rhm, written):
    oracle = written(rhm)
    nothing = np.zeros((1, rhm.num_leaves), dtype=bool)
    got = rhm.posterior(oracle.leaves[:1], nothing)
    assert got.log_evidence == pytest.approx(0, abs=1e-12)
    assert got.classes[0] == pytest.approx(rhm.class_probabilities)
    # What stands at a hidden leaf is not read, even nonsense.
    again = rhm.posterior(np.full((1, rhm.num_leaves), 99), nothing[0])
    assert all((a == b).all() for a, b in zip(got.levels, again.levels, strict=True))


def test_messages_do_not_underflow_in_deep_trees():
    deep = RandomHierarchyModel(num_classes=4, num_symbols=4, num_synonyms=2, num_levels=10)
    data = deep.sample(2, seed=0)
    got = deep.posterior(data.leaves, np.random.default_rng(0).random(1024) < 0.9)
    assert (got.classes.argmax(axis=1) == data.labels).all()
    whole = deep.posterior(data.leaves).log_evidence
    assert whole == pytest.approx(-np.log(4) - 1023 * np.log(2), rel=1e-12)


def test_impossible_evidence_is_refused():
    model = RandomHierarchyModel(num_classes=2, num_symbols=4, num_synonyms=2, num_levels=2)
    owned = {tuple(t) for t in model.rules[0].reshape(-1, 2).tolist()}
    a, b = next((a, b) for a in range(4) for b in range(4) if (a, b) not in owned)
    leaves = np.array([[a, b, 0, 0]])
    seen = np.array([True, True, False, False])
    with pytest.raises(ValueError, match=rf"cannot generate the visible leaves \[{a}, {b}\]"):
        model.posterior(leaves, seen)
    with pytest.raises(ValueError, match="cannot generate the visible leaves"):
        sample_posterior(model, leaves, seen, seed=0)
    model.posterior(leaves, seen, corruption=0.1)
    with pytest.raises(ValueError, match=r"booleans of shape \(1, 4\) or \(4,\)"):
        model.posterior(leaves, [1, 0, 1, 0])
    with pytest.raises(ValueError, match="corruption must be a probability"):
        model.posterior(leaves, seen, corruption=1.0)


def test_draws_from_the_posterior_have_its_probabilities(rhm, written):
    """The law of whole trees given half the leaves, by chi-square."""
    oracle = written(rhm)
    data = rhm.sample(1, seed=4)
    visible = np.arange(rhm.num_leaves) % 2 == 0
    agrees = (oracle.leaves == data.leaves)[:, visible].all(axis=1)
    wanted = oracle.probability[agrees] / oracle.probability[agrees].sum()
    num = max(1000, 30 * len(wanted))
    drawn = sample_posterior(rhm, np.repeat(data.leaves, num, axis=0), visible, seed=0)
    rows = {tuple(row): k for k, row in enumerate(oracle.leaves[agrees].tolist())}
    counts = np.bincount([rows[tuple(row)] for row in drawn.leaves.tolist()], minlength=len(wanted))
    if len(wanted) > 1:
        assert scipy.stats.chisquare(counts, wanted * num).pvalue > 1e-4
    assert_same(drawn, rhm.parse(drawn.leaves))


# -- the best possible classifier ------------------------------------------------------------------


def exact_bayes_error(oracle, rhm, visible):
    """1 - sum over what can be seen of the largest joint probability with a class."""
    best = {}
    for row, label, p in zip(
        oracle.leaves[:, visible].tolist(), oracle.labels, oracle.probability, strict=True
    ):
        joint = best.setdefault(tuple(row), np.zeros(rhm.num_classes))
        joint[label] += p
    return 1 - sum(joint.max() for joint in best.values())


def test_bayes_error_is_that_of_the_sum_over_all_data(rhm, written):
    oracle = written(rhm)
    for shown in (1, rhm.num_leaves // 2, rhm.num_leaves):
        visible = np.arange(rhm.num_leaves) < shown
        wanted = exact_bayes_error(oracle, rhm, visible)
        got = bayes_error(rhm, visible, num_samples=4000, seed=1)
        assert abs(got.value - wanted) <= 3 * got.standard_error + 1e-12


def test_the_standard_error_of_a_bayes_error_is_that_of_its_repetition():
    model = RandomHierarchyModel(num_classes=4, num_symbols=4, num_synonyms=2, num_levels=2)
    found = [bayes_error(model, 0.5, num_samples=100, seed=seed) for seed in range(200)]
    spread = np.std([each.value for each in found], ddof=1)
    said = np.mean([each.standard_error for each in found])
    assert said == pytest.approx(spread, rel=4 / np.sqrt(2 * len(found)))


def test_bayes_error_goes_from_none_to_chance_and_no_guess_is_better():
    model = RandomHierarchyModel(num_classes=4, num_symbols=4, num_synonyms=2, num_levels=3)
    errors = [bayes_error(model, p, num_samples=2000) for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    values = [e.value for e in errors]
    assert values[0] == pytest.approx(0.75, abs=1e-12)
    assert values[-1] == pytest.approx(0, abs=1e-12)
    assert all(a > b + 0.05 for a, b in pairwise(values))
    # The posterior's best guess, counted: the same error within sampling.
    data = model.sample(4000, seed=9)
    seen = np.random.default_rng(2).random(data.leaves.shape) < 0.5
    wrong = model.posterior(data.leaves, seen).classes.argmax(axis=1) != data.labels
    spread = np.hypot(errors[2].standard_error, wrong.std() / np.sqrt(len(wrong)))
    assert abs(wrong.mean() - values[2]) < 3 * spread
    with pytest.raises(ValueError, match="probability or booleans"):
        bayes_error(model, 1.5)


def test_empty_input(rhm):
    none = rhm.posterior(np.empty((0, rhm.num_leaves), dtype=np.int8))
    assert none.classes.shape == (0, rhm.num_classes)
    assert isinstance(rhm.parse(np.empty((0, rhm.num_leaves), dtype=int)), Trees)


# -- symbols at the edge of small integers ---------------------------------------------------------


def of_one_level(symbols, blanks):
    return RandomHierarchyModel(
        num_classes=3,
        num_symbols=symbols,
        num_synonyms=2,
        num_levels=1,
        num_blanks=blanks,
        rule_exponent=1.0,
        seed=5,
    )


@pytest.mark.parametrize("dtype", [None, np.uint8, np.int16, np.int64])
@pytest.mark.parametrize("blanks", [0, 1])
@pytest.mark.parametrize("symbols", [126, 127, 128, 129, 255, 256, 257])
def test_posteriors_at_the_edge_of_small_integers(written, symbols, blanks, dtype):
    """The integers that hold the leaves, the smallest or the user's, do not hold v and v + 1."""
    rhm = of_one_level(symbols, blanks)
    oracle = written(rhm)
    leaves = oracle.leaves.astype(rhm.dtype if dtype is None else dtype)
    if not (leaves == oracle.leaves).all():
        with pytest.raises(ValueError, match=r"are symbols|not of this grammar"):
            rhm.parse(leaves)  # blanks, or symbols from 256 on, as unsigned integers of 8 bits
        return
    visible = np.random.default_rng(0).random(leaves.shape) < 0.6
    for corruption in (0.0, 0.2):
        wanted, evidence = exact_posterior(oracle, rhm, oracle.leaves, visible, corruption)
        found = rhm.posterior(leaves, visible, corruption=corruption)
        for here, there in zip(found.levels, wanted, strict=True):
            np.testing.assert_allclose(here, there, rtol=0, atol=1e-13)
        np.testing.assert_allclose(found.log_evidence, np.log(evidence), rtol=0, atol=1e-12)


@pytest.mark.parametrize("blanks", [0, 1])
@pytest.mark.parametrize("symbols", [127, 128, 32767, 32768])
def test_draws_and_bayes_errors_at_the_edge_of_small_integers(written, symbols, blanks):
    rhm = of_one_level(symbols, blanks)
    leaves = rhm.sample(50, seed=0).leaves
    seen = np.arange(rhm.num_leaves) < 1 + blanks
    drawn = sample_posterior(rhm, leaves, seen, seed=1).leaves
    assert (drawn[:, seen] == leaves[:, seen]).all()
    assert set(map(bytes, drawn)) <= set(map(bytes, written(rhm).leaves.astype(rhm.dtype)))
    assert (sample_posterior(rhm, leaves, seed=2).leaves == leaves).all()
