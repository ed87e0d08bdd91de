"""An update that is no larger than the rounding of its own terms is no update."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

import linlocal as ll
from linlocal import losses, rules, testing
from linlocal.updates import Signals, vanishing_updates
from linlocal.updates.rounding import Rounding

RULES = {
    "CLAPP, softplus": rules.CLAPP("softplus"),
    "CLAPP, linear": rules.CLAPP("linear"),
    "CLAPP": rules.CLAPP("hinge"),
    "direct feedback": rules.CLAPP_DFB("linear"),
    "matched": ll.Rule("m", losses.TypeTwo(losses.Softplus()), "top", "matched"),
    "each": rules.CLAPP_EACH("softplus"),
    "metric": rules.CLAPP("softplus").with_penalty(0.1, "downstream"),
    "Greedy InfoMax": rules.GreedyInfoMax(),
    "PhyLL": rules.PhyLL(),
    "SimCLR": rules.SimCLR(),
    "VICReg": rules.VICReg(),
}


def equal_samples(seed):
    """All samples are one, so whatever pulls also pushes: every update is zero."""
    x = np.random.default_rng(seed).standard_normal((1, 6)).repeat(7, axis=0)
    return ll.Pairs.from_views(x, x)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_to_compare_where_all_terms_cancel(name, seed):
    network = ll.DeepLinear.uniform((6, 5, 5, 4), seed)
    explained = ll.explain(network, equal_samples(seed), RULES[name])
    compared = explained.comparison
    for layer in explained.layers:
        assert layer.vanishing == ("local", "global")
        assert np.isnan(layer.cosine)
        assert np.isnan(layer.relative_error)
    for variable in ("cosine", "relative_error", "norm_ratio"):
        assert np.isnan(compared[variable]).all()
    assert explained.details().count("there is no update to compare") == network.depth
    assert "cosine" not in explained.details()
    assert str(explained).startswith("Nothing is learned here")


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("size", [1e-3, 1.0, 5.0])
def test_what_does_not_cancel_is_an_update(name, seed, size):
    """Its rounding is many digits below it, however deep the network and whatever the size."""
    network = ll.DeepLinear.gaussian((6, *(8,) * 9), seed)
    x, view = testing.samples(9, 6, seed)
    signals = Signals(network, ll.Pairs.from_views(size * x, size * view), RULES[name])
    assert not any(vanishing_updates(signals).values())


def test_a_local_update_where_the_global_one_vanishes():
    """W_2 W_1 = 0, so all that reaches the layers above the first is rounding."""
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    rng = np.random.default_rng(1)
    network = ll.DeepLinear(
        [basis[:3].T @ basis[:3], rng.standard_normal((4, 3)) @ basis[3:], np.eye(3, 4)]
    )
    x, view = testing.samples(9, 6, 2)
    for rule in (rules.CLAPP("softplus", penalty=1.0), rules.PhyLL(), rules.SimCLR()):
        explained = ll.explain(network, ll.Pairs.from_views(x, view), rule)
        first, *others = explained.layers
        assert first.vanishing == ("global",)
        assert not first.exact
        sentence = "layer 1: the global update is zero up to rounding, the other one is not"
        assert sentence in explained.details()
        assert np.isnan(first.cosine)
        assert all(layer.vanishing == ("local", "global") for layer in others)


@pytest.mark.parametrize("name", ["CLAPP", "CLAPP, softplus", "PhyLL"])
def test_a_silent_sample_makes_no_noise_of_the_others(name):
    """One sample drives no unit of a ReLU: it is 0, and exactly so."""
    x, view = testing.samples(9, 6, 2)
    weights = [np.abs(w) for w in ll.DeepReLU.gaussian((6, 5, 5, 4), 1).weights]
    x[3] = -np.abs(x[3])
    network = ll.DeepReLU(weights)
    signals = Signals(network, ll.Pairs.from_views(x, view), RULES[name])
    assert not signals.activities.z[1][3].any()
    assert not any(vanishing_updates(signals).values())


def test_a_small_update_is_no_rounding():
    network = ll.DeepLinear.uniform((6, 5, 4), 0)
    x, view = testing.samples(9, 6, 2)
    rule = rules.CLAPP("linear", penalty=(1e100, 0.1))
    first = ll.explain(network, ll.Pairs.from_views(x, view), rule).layers[0]
    assert first.vanishing == ()
    assert first.cosine > 0


@given(seed=st.integers(0, 30))
def test_the_rounding_of_an_update_covers_what_another_order_of_the_samples_changes(seed):
    """The same update from permuted samples differs by rounding, and by no more than the bound."""
    network = ll.DeepLinear.gaussian((6, 7, 5, 4), seed)
    x, view = testing.samples(12, 6, seed)
    order = np.random.default_rng(seed).permutation(12)
    rule = rules.PhyLL()
    pairs = ll.Pairs.from_views(x, view, num_negatives=11)
    permuted = ll.Pairs.from_views(x[order], view[order], num_negatives=11)
    rounding = Rounding(Signals(network, pairs, rule))
    for update, bound in (
        (ll.local_update, rounding.of_local),
        (ll.global_update, rounding.of_global),
    ):
        one, other = update(network, pairs, rule), update(network, permuted, rule)
        for l in network.layers:
            assert np.linalg.norm(one[l - 1] - other[l - 1]) <= bound(l)
