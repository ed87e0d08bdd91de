"""The strategies generate what they promise, and the assertion says where and by how much."""

import numpy as np
import pytest
from hypothesis import find, given, settings, strategies as st

import linlocal as ll
from linlocal import testing
from linlocal.losses import scores
from linlocal.testing import assert_same_update


@settings(max_examples=60)
@given(data=st.data())
def test_widths_have_the_shape_asked_for(data):
    shape = data.draw(st.sampled_from(["any", "widening", "narrowing", "square"]))
    sizes = data.draw(testing.widths((2, 9), (1, 5), shape))
    assert 2 <= len(sizes) <= 6
    assert all(2 <= n <= 9 for n in sizes)
    if shape == "widening":
        assert sizes[1:] == sorted(sizes[1:])
    if shape == "narrowing":
        assert sizes == sorted(sizes, reverse=True)
    if shape == "square":
        assert len(set(sizes[1:])) == 1


@settings(max_examples=60)
@given(network=testing.networks())
def test_networks_are_finite_and_within_bounds(network):
    assert 1 <= network.depth <= 16
    assert all(1 <= n <= 64 for n in network.widths)
    assert all(np.isfinite(network.matrix(l)).all() for l in network.layers)
    assert isinstance(network, ll.DeepLinear)


@settings(max_examples=60)
@given(network=testing.networks(kind="orthogonal", shape="widening"))
def test_widening_orthogonal_networks_are_isometric_downstream(network):
    for l in network.layers:
        np.testing.assert_allclose(network.gram(l), np.eye(network.widths[l]), atol=1e-12)


@settings(max_examples=60)
@given(network=testing.networks(kind="conformal", shape="widening"))
def test_widening_conformal_networks_have_a_multiple_of_the_identity(network):
    for l in network.layers:
        gram = network.gram(l)
        assert 1 / 16.1 <= gram[0, 0] <= 16.1
        np.testing.assert_allclose(gram, gram[0, 0] * np.eye(len(gram)), atol=1e-11)


@settings(max_examples=60)
@given(data=st.data())
def test_condition_numbers_are_as_prescribed(data):
    low = data.draw(st.sampled_from([1.0, 10.0, 1e5]))
    network = data.draw(
        testing.networks(kind="conditioned", width=(2, 30), condition_number=(low, 10 * low))
    )
    assert network.depth >= 2
    s = np.linalg.svd(network.downstream(1), compute_uv=False)
    s = s[: min(network.widths[1:])]
    assert low * (1 - 1e-6) <= s[0] / s[-1] <= 10 * low * (1 + 1e-6)


@pytest.mark.parametrize(
    ("strategy", "goal"),
    [
        (testing.networks(), lambda n: n.depth == 16),
        (testing.networks(), lambda n: 1 in n.widths),
        (testing.networks(), lambda n: max(n.widths) > 48),
        (testing.networks(activation="relu"), lambda n: isinstance(n, ll.DeepNonlinear)),
        (testing.networks(activation="gelu"), lambda n: n.readout == "linear"),
        (testing.networks(biases=True), lambda n: {b.size > 0 for b in n.biases} == {True, False}),
        (testing.networks(biases=True), lambda n: n.depth > 4 and not n.has_biases),
        (testing.networks(links="any"), lambda n: n.depth > 4 and not n.only_through(2)),
        (testing.networks(links="any"), lambda n: n.depth > 4 and not n.links),
        (testing.networks(links="residual", shape="widening"), lambda n: len(n.links) > 4),
        (testing.pairs(3), lambda p: p.num_pairs > 150),
        (testing.pairs(3), lambda p: p.num_pairs == 4),
        (testing.pairs(3, negatives=(None,)), lambda p: p.num_pairs == 1),
        (testing.pairs(3), lambda p: len(p.directions) == 1),
        (testing.score_functions(hinge=True), lambda s: isinstance(s, scores.Hinge)),
        (testing.pair_rules(), lambda r: type(r.loss).__name__ == "InfoNCE"),
        (testing.pair_rules(), lambda r: r.context == "both"),
        (testing.named_rules(), lambda r: r.name == "LPL"),
    ],
)
def test_the_corners_are_reached(strategy, goal):
    find(strategy, goal, settings=settings(max_examples=2000, database=None))


@given(score=testing.score_functions())
def test_hinges_come_on_request_only(score):
    assert not isinstance(score, scores.Hinge)


@given(rule=testing.pair_rules(("top",), "random", (0.1, 0.2), "downstream"))
def test_pair_rules_are_as_prescribed(rule):
    assert (rule.context, rule.projection) == ("top", "random")
    assert rule.penalty.metric == "downstream"
    assert 0.1 * (1 - 1e-12) <= rule.penalty.strength <= 0.2 * (1 + 1e-12)


@settings(max_examples=60)
@given(data=st.data())
def test_pairs_fit_the_network_and_the_rule(data):
    rule = data.draw(testing.named_rules())
    network = data.draw(testing.networks(width=(2, 8), depth=(1, 3), kind="orthogonal"))
    pairs = data.draw(testing.pairs(network, num_pairs=(1, 30), rule=rule))
    assert pairs.samples.shape[1] == network.widths[0]
    assert np.isfinite(pairs.samples).all()
    assert all(np.isfinite(u).all() for u in ll.local_update(network, pairs, rule))


@settings(max_examples=60)
@given(data=st.data())
def test_pairs_are_well_conditioned_and_few_enough(data):
    pairs = data.draw(testing.pairs(6, num_pairs=(20, 50), scale=(2.0, 2.0)))
    assert pairs.num_pairs <= 50
    s = np.linalg.svd(pairs.samples, compute_uv=False)
    assert s[0] / s[-1] <= 10 * (1 + 1e-9)
    assert np.mean(np.sum(pairs.samples**2, axis=1)) == pytest.approx(4.0)


def test_samples_repeat_with_their_seed_and_views_are_related():
    x, view = testing.samples(200, 4, 7)
    again, _ = testing.samples(200, 4, 7)
    np.testing.assert_array_equal(x, again)
    assert np.corrcoef(x.ravel(), view.ravel())[0, 1] > 0.5
    assert not np.allclose(x, testing.samples(200, 4, 8)[0])


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match=r"Unknown kinds \['diagonal'\]; known are orthogonal"):
        find(testing.networks(kind="diagonal"), lambda n: True)


# -- assertion and tolerances ----------------------------------------------------------------------


def test_equal_updates_pass_and_so_do_zeros():
    a = [np.ones((2, 3)), np.zeros((2, 2))]
    assert_same_update(a, a, 0.0)
    assert_same_update([0 * u for u in a], [0 * u for u in a], 0.0)
    assert_same_update(a[0], a[0] * (1 + 1e-14))
    assert_same_update([a[0], a[1] + 1e-14], a)


def test_the_message_says_where_and_by_how_much():
    desired = [np.ones((2, 3)), np.full((3, 2), 2.0), np.ones(1)]
    actual = [u.copy() for u in desired]
    actual[1][2, 1] += 0.5
    with pytest.raises(AssertionError) as caught:
        assert_same_update(actual, desired, 1e-3, "my rule")
    message = str(caught.value)
    assert message.startswith("my rule: updates differ most in layer 2, by 1.02e-01 of its norm")
    assert "(allowed: 1.0e-03)" in message
    assert "entry (2, 1) is 2.5 against 2.0" in message
    assert "1: 0.0e+00, 2: 1.0e-01, 3: 0.0e+00" in message


@pytest.mark.parametrize(
    ("actual", "message"),
    [
        ([np.ones(2), np.ones(2)], "2 layers against 1"),
        ([np.ones(3)], r"layer 1: shape \(3,\) against \(2,\)"),
        ([np.array([np.nan, 1.0])], "by nan of its norm"),
        ([np.array([np.inf, 1.0])], "by inf of its norm"),
        ([np.array([1.0, 1.0 + 1e-11])], r"entry \(1,\)"),
    ],
)
def test_what_differs_fails(actual, message):
    with pytest.raises(AssertionError, match=message):
        assert_same_update(actual, [np.ones(2)])


def test_a_layer_that_should_vanish_must():
    desired = [np.ones(4), np.zeros(2)]
    with pytest.raises(AssertionError, match="layer 2"):
        assert_same_update([np.ones(4), np.full(2, 1e-6)], desired)
    with pytest.raises(AssertionError, match="layer 1"):
        assert_same_update([np.full(4, 1e-100)], [np.zeros(4)])


def test_tolerances():
    assert testing.tolerance() == testing.TOLERANCES["float64"] == 1e-12
    assert testing.tolerance("float32") == testing.TOLERANCES["float32"]
    assert testing.tolerance(condition_number=1e8, multiple=2) == pytest.approx(4.44e-8, rel=1e-2)
    with pytest.raises(ValueError, match="Unknown dtype 'int8'; known are float64"):
        testing.tolerance("int8")
