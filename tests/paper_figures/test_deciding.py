"""Laws of decisions: inside, outside or open; together they are wrong as rarely as they say."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import ttest_1samp

from paper_figures.claims import (
    Claim,
    Question,
    both,
    decide,
    decided,
    of_bounds,
    of_cases,
    of_networks,
)

ALPHA = 0.05
NETWORKS = 5
TRIALS = 4000
# What a share of TRIALS may differ from a probability of 0.05, by chance.
CHANCE = 4 * np.sqrt(ALPHA * (1 - ALPHA) / TRIALS)


def networks(values, **coordinates):
    """Numbers over network and layer."""
    values = np.asarray(values, float)
    layers = np.arange(values.shape[1]) + 1
    return xr.DataArray(values, {"layer": layers} | coordinates, ("network", "layer"))


def drawn(rng, layers, shared, mean=0.0):
    """Questions whether means of normal networks exceed 0, which they do by ``mean``."""
    own = rng.standard_normal((TRIALS, NETWORKS, layers))
    common = rng.standard_normal((TRIALS, NETWORKS, 1))
    values = np.sqrt(1 - shared) * own + np.sqrt(shared) * common + np.asarray(mean)
    estimate = values.mean(1)
    error = values.std(1, ddof=1) / np.sqrt(NETWORKS)
    freedom, names = np.full(layers, NETWORKS - 1.0), ("",) * layers
    return [
        Question(e, e, s, freedom, e, -e, names, NETWORKS, "networks")
        for e, s in zip(estimate, error, strict=True)
    ]


@pytest.mark.parametrize("shared", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("layers", [1, 8])
def test_intervals_of_all_layers_hold_together(shared, layers):
    questions = drawn(np.random.default_rng(layers), layers, shared)

    def missed(alpha):
        halves = np.array([question.at(alpha).half for question in questions])
        estimates = np.array([question.low for question in questions])
        return (np.abs(estimates) > halves).any(1).mean()

    assert missed(ALPHA) < ALPHA + CHANCE
    if layers == 1:
        assert missed(ALPHA) > ALPHA - CHANCE
    if layers == 8 and shared < 0.9:  # each layer by itself is too often wrong
        assert missed(layers * ALPHA) > 2 * ALPHA


@pytest.mark.parametrize("layers", [1, 6])
def test_a_claim_is_decided_wrongly_as_rarely_as_it_says(layers):
    """One layer at the edge, the others far inside: the claim is neither true nor false."""
    mean = np.array([0.0, *[9.0] * (layers - 1)])
    found = [q.at(ALPHA).holds for q in drawn(np.random.default_rng(0), layers, 0.3, mean)]
    assert np.mean([holds is not None for holds in found]) < ALPHA + CHANCE
    if layers == 1:
        assert np.mean([holds is not None for holds in found]) > ALPHA - CHANCE


def test_the_questions_of_a_figure_are_rarely_wrong_together_but_often_one_by_one():
    rng = np.random.default_rng(2)
    edge = [drawn(rng, 1, 0.0) for _ in range(6)]
    certain = [drawn(rng, 1, 0.0, 50.0) for _ in range(3)]
    figures = list(zip(*edge, *certain, strict=True))[: TRIALS // 2]
    together = [[d.holds for d in decide(questions)] for questions in figures]
    alone = [[question.at(ALPHA).holds for question in questions] for questions in figures]
    wrong, single = (
        np.mean([any(h is not None for h in found[:6]) for found in each])
        for each in (together, alone)
    )
    assert wrong < ALPHA + 2 * CHANCE
    assert single > 3 * ALPHA
    # What is certain is decided, and costs the others nothing.
    assert all(found[6:] == [True] * 3 for found in together)


def test_holm_asks_one_question_after_the_other():
    """Against the procedure as it is usually written, by p values of scipy."""
    rng = np.random.default_rng(3)
    decisions = set()
    for _ in range(30):
        values = rng.standard_normal((NETWORKS, 4)) + rng.choice([0, 1, 3], 4)
        p = ttest_1samp(values, 0).pvalue
        rejected = np.zeros(4, bool)
        for place, index in enumerate(np.argsort(p)):
            if p[index] > ALPHA / (4 - place):
                break
            rejected[index] = True
        asked = [of_networks(networks(values[:, [k]]), "network", above=0) for k in range(4)]
        assert [d.holds is not None for d in decide(asked)] == rejected.tolist()
        np.testing.assert_allclose([question.p for question in asked], p, rtol=1e-9)
        decisions.add(tuple(rejected))
    assert len(decisions) > 4


def test_the_interval_is_students_and_decides_by_where_it_lies():
    values = np.random.default_rng(1).standard_normal(NETWORKS)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    array = networks(values[:, None])
    inside = decide([of_networks(array, "network", low - 0.01, high + 0.01)])[0]
    np.testing.assert_allclose(inside.intervals, [(low, high)], rtol=1e-9)
    for edges, holds in (
        ((low - 0.01, high + 0.01), True),
        ((low + 0.01, high + 1.0), None),
        ((low - 1.0, high - 0.01), None),
        ((high + 0.01, np.inf), False),
        ((-np.inf, low - 0.01), False),
    ):
        assert decide([of_networks(array, "network", *edges)])[0].holds is holds


def test_p_is_the_alpha_at_which_the_intervals_begin_to_decide():
    rng = np.random.default_rng(4)
    for _ in range(30):
        values = networks(rng.standard_normal((4, 3)) + rng.normal(0, 2, 3))
        question = of_networks(values, "network", -2, 2)
        if question.p < 1:
            assert question.at(question.p * 1.001).holds is not None
            assert question.at(question.p * 0.999).holds is None


def test_layers_are_named_with_what_became_of_them():
    spread = np.array([-1.0, 0.0, 1.0])[:, None]
    values = networks(0.01 * spread + [1.0, 0.0, -1.0])
    decision = decide([of_networks(values, "network", above=0)])[0]
    assert decision.holds is False
    assert str(decision).endswith("outside: layer 3; undecided: layer 2")
    assert decision.units == "3 networks"
    assert decision.correction == "Bonferroni over 3 intervals"


def test_a_single_network_and_an_undefined_layer_decide_nothing():
    one = of_networks(networks([[5.0, 6.0]]), "network", above=0)
    assert decide([one])[0].holds is None
    assert str(decide([one])[0]) == "no interval"
    values = networks([[5.0, np.nan], [5.1, np.nan], [5.2, np.nan]])
    assert decide([of_networks(values, "network", above=0)])[0].holds is None
    # A layer outside is enough all the same.
    assert decide([of_networks(-values, "network", above=0)])[0].holds is False


@pytest.mark.parametrize("count", [3, 20])
def test_a_difference_from_one_network_of_another_holds_as_often_as_it_says(count):
    rng = np.random.default_rng(count)
    seen, other = rng.standard_normal((count, TRIALS)), rng.standard_normal(TRIALS)
    shares = {}
    for one_more in (True, False):
        apart = networks(seen - other)
        question = of_networks(apart, "network", above=0, one_more=one_more)
        halves = question.error * np.sqrt(1.0)
        t = abs(question.low) / halves
        alone = of_networks(apart.isel(layer=[0]), "network", above=0, one_more=one_more)
        critical = alone.at(ALPHA).half[0] / alone.error[0]
        shares[one_more] = float((t > critical).mean())
    assert abs(shares[True] - ALPHA) < CHANCE
    assert shares[False] > 2 * ALPHA


def test_a_number_between_bounds_lies_inside_only_if_both_do():
    low, high = (xr.DataArray([value, value], dims="size") for value in (1.0, 3.0))
    inside = {"above": 0.0, "below": 4.0}

    def asked(low, high, error=0.1, **region):
        return decide([of_bounds(low, high, error, 4, 5, **region)])[0]

    assert asked(low, high, **inside).holds is True
    assert asked(low, high, error=1.0, **inside).holds is None
    assert asked(low, high, above=2.0).holds is None
    assert asked(low, high, above=5.0).holds is False
    assert asked(low, high, below=0.5).holds is False
    assert asked(low, low, above=0.5).holds is True
    unbounded = xr.full_like(high, np.inf)
    assert asked(low, unbounded, above=0.0).holds is True
    assert asked(low, unbounded, below=2.0).holds is None
    assert asked(low, unbounded, below=0.0).holds is False
    assert asked(-unbounded, high, below=4.0).holds is True
    assert asked(-unbounded, high, above=4.0).holds is False
    # On the edge itself, without any error, nothing is decided.
    assert asked(low, high, error=0.0, above=1.0).holds is None
    assert asked(low.where([True, False]), high.where([True, False]), above=0.0).holds is None


@pytest.mark.parametrize("region", [{"above": 0.0}, {"above": 5.0}, {"below": 0.5}])
def test_p_of_a_number_between_bounds_is_the_alpha_at_which_it_is_decided(region):
    low, high = (xr.DataArray([value], dims="size") for value in (1.0, 3.0))
    question = of_bounds(low, high, 0.5, 4, 5, **region)
    assert question.at(1.01 * question.p).holds is ("above" in region and region["above"] == 0)
    assert question.at(0.99 * question.p).holds is None


def test_intervals_of_factors_are_told_as_factors():
    low, high = (xr.DataArray([value], dims="size") for value in (1.0, 3.0))
    told = str(decide([of_bounds(low, high, 0.0, 4, 5, above=0.0, factors=True)])[0])
    assert told == "interval 2 to 8"
    two = xr.DataArray([1.0, np.nan], {"grammar": ["v=4", "v=6"]}, ("grammar",))
    told = str(decide([of_bounds(two, two + 2, 0.0, 4, 5, above=0.0, factors=True)])[0])
    assert told == "intervals 2 to 8, unknown; undecided: v=6"


def test_of_cases_one_outside_is_enough():
    assert decide([of_cases([1e-12, 1e-11], most=1e-11)])[0].holds is True
    assert decide([of_cases([1e-12, 1e-11], below=1e-11)])[0].holds is False
    assert decide([of_cases([True, True], least=1)])[0].holds is True
    assert decide([of_cases([True, False], least=1)])[0].holds is False
    assert decide([of_cases([0.5, np.nan], most=1)])[0].holds is None
    assert decide([of_cases([], most=1)])[0].holds is None
    found = decide([of_cases([0.5, 2.0, 1.0])])[0]
    assert found.intervals == [(0.5, 2.0)]
    assert (found.units, found.correction, str(found)) == ("3 cases", "", "")


def test_two_questions_hold_together_only_if_both_do():
    values = networks(np.array([[1.0], [1.1], [0.9]]))
    yes, no = (of_networks(values, "network", above=edge) for edge in (0, 3))
    for first, holds in ((yes, True), (no, False)):
        assert decide([both(first, of_cases(0.5, most=1))])[0].holds is holds
        assert decide([both(first, of_cases(0.5, most=0.1))])[0].holds is False


def test_claims_of_a_figure_are_decided_together():
    values = networks(np.random.default_rng(0).standard_normal((6, 5)) * 0.5 + 0.7)
    claims = [
        Claim(f"layer {l}", of_networks(values.sel(layer=[l]), "network", above=0), "1")
        for l in values["layer"].values
    ]
    found = decided([*claims, Claim("identity", of_cases(0, most=1), "0"), Claim("?", None, "-")])
    alone, together = ([c.holds for c in each] for each in (claims, found[:5]))
    assert alone.count(True) > together.count(True) > 0
    assert [c.decision.correction for c in found[:5]] == ["Holm over 5 questions"] * 5
    assert found[5].verdict == "holds"
    assert (found[6].verdict, found[6].decision) == ("undecided", None)
