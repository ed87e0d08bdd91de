"""The exact condition for a linear score counts all view directions together (statement 6)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linlocal as ll
from linlocal import autodiff, rules, testing
from linlocal.rules import Penalty

MAKERS = (rules.CLAPP, rules.CLAPP_DFB, rules.CLAPP_BOTH, rules.CLAPP_EACH)


def closed_form(network, pairs, rule, layer=1):
    found = ll.explain(network, pairs, rule).layers[layer - 1]
    return next(c for c in found.conditions if c.name == "closed form"), found


def opposed():
    """Two directions whose differences cancel: G M_d G N_d - M_d N_d is 3 and -3 at one entry."""
    network = ll.DeepLinear([np.eye(2), np.diag([np.sqrt(2.0), 0.5])])
    samples = np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, np.sqrt(6.0)]])
    ways = [
        ll.Direction(
            np.array([0, 1]), np.array([reference, 1]), np.array([1.0, -1.0]), np.array([0, 0])
        )
        for reference in (2, 3)
    ]
    return network, samples, ways


def test_two_directions_can_be_equal_together_where_neither_is_alone():
    network, samples, ways = opposed()
    rule = rules.CLAPP("linear")
    for way in ways:
        condition, found = closed_form(network, ll.Pairs(samples, (way,)), rule)
        assert not condition.holds
        assert not found.exact
    condition, found = closed_form(network, ll.Pairs(samples, tuple(ways)), rule)
    assert condition.holds
    assert found.exact
    # The sufficient conditions fail: this one is necessary too.
    assert not all(c.holds for c in found.conditions)
    both = ll.Pairs(samples, tuple(ways))
    local, top = (
        u(network, both, rule)[0] for u in (autodiff.local_update, autodiff.global_update)
    )
    np.testing.assert_allclose(local, top, atol=1e-10 * np.linalg.norm(top))


@settings(max_examples=40)
@given(data=st.data(), network=testing.networks(width=(2, 8), depth=(2, 4)))
def test_it_holds_exactly_where_the_updates_are_equal(data, network):
    make = data.draw(st.sampled_from(MAKERS))
    strength = data.draw(
        st.one_of(st.just(0.1), st.tuples(*[st.sampled_from([0.1, 0.3])] * network.depth))
    )
    rule = make("linear", penalty=Penalty(strength))
    pairs = data.draw(testing.pairs(network, num_pairs=(4, 24)))
    compared = ll.compare(network, pairs, rule)
    for layer in range(1, network.depth):
        condition, _ = closed_form(network, pairs, rule, layer)
        error = float(compared.relative_error.sel(layer=layer))
        assert condition.distance == pytest.approx(error, rel=1e-6, abs=1e-11)


def test_who_has_the_condition():
    network = ll.DeepLinear.gaussian([6, 5, 4], seed=0)
    x, view = testing.samples(8, 6, 0)
    pairs = ll.Pairs.from_views(x, view)
    for rule in (
        rules.CLAPP("softplus"),
        rules.CLAPP("linear", penalty=Penalty(0.1, "downstream")),
        rules.PhyLL("linear"),
    ):
        names = [c.name for c in ll.explain(network, pairs, rule).layers[0].conditions]
        assert "closed form" not in names
