"""global - local as a sum of three terms, each with one cause."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import linlocal as ll
from linlocal import losses, testing
from linlocal.losses import scores
from linlocal.rules import Penalty, Rule

TERMS = ("dual", "context", "metric")
VISIBLE = 1e-2


def views(width, seed=0, **options):
    x, view = testing.samples(12, width, seed)
    return ll.Pairs.from_views(2 * x, 2 * view, **options)


def sizes(network, pairs, rule, layer=1):
    """Norms of the three terms relative to the global update."""
    goal = np.linalg.norm(ll.global_update(network, pairs, rule)[layer - 1])
    terms = ll.mismatch(network, pairs, rule, layer)
    assert tuple(terms) == TERMS
    return {k: np.linalg.norm(v) / goal for k, v in terms.items()}


def assert_terms_sum(network, pairs, rule):
    local, goal = (f(network, pairs, rule) for f in (ll.local_update, ll.global_update))
    for l in network.layers:
        terms = ll.mismatch(network, pairs, rule, l)
        total = sum(terms.values())
        scale = sum(np.linalg.norm(t) for t in terms.values())
        scale += np.linalg.norm(local[l - 1]) + np.linalg.norm(goal[l - 1])
        assert total.shape == goal[l - 1].shape
        assert np.linalg.norm(total - (goal[l - 1] - local[l - 1])) <= 1e-13 * scale


@settings(max_examples=60)
@given(data=st.data())
def test_the_terms_sum_to_the_difference(data):
    network = data.draw(testing.networks(width=(1, 16), depth=(1, 5)))
    rule = data.draw(
        st.one_of(
            testing.pair_rules(),
            testing.pair_rules(projection="random"),
            testing.pair_rules(projection="matched"),
            testing.pair_rules(metric="downstream"),
            testing.named_rules(("ForwardForward", "SCFF", "PhyLL")),
        )
    )
    if rule.projection == "identity" and rule.context == "top":
        return
    assert_terms_sum(network, data.draw(testing.pairs(network, (2, 40), rule=rule)), rule)


@pytest.mark.parametrize("name", ["CLAPP", "CLAPP_DFB", "CLAPP_BOTH", "PhyLL", "SCFF"])
def test_the_terms_sum_with_convolutions_pooling_and_relu(name):
    rng = np.random.default_rng(0)
    layers = [
        ll.Convolution(rng.standard_normal((3, 2, 3, 3)) / 4, (2, 4, 4), padding=(1, 1)),
        ll.Convolution(rng.standard_normal((2, 3, 2, 2)) / 3, (3, 4, 4), stride=(2, 2)),
    ]
    rule = ll.rules.from_name(name)
    for cls in (ll.DeepLinear, ll.DeepReLU):
        assert_terms_sum(cls(layers), views(32), rule)
        if rule.kind == "pair":
            assert_terms_sum(cls(layers), views(32), replace(rule, pooling=(2, 1)))


def rule_of(score, context):
    return Rule("r", losses.TypeTwo(score), context, "optimal", 0.1)


def generic():
    return ll.DeepLinear.uniform([6, 5, 4, 5], 1)


def test_all_causes_present():
    got = sizes(generic(), views(6), rule_of(scores.Softplus(), "same"))
    assert min(got.values()) > VISIBLE


def test_linear_f_removes_the_dual_term_and_nothing_else():
    got = sizes(generic(), views(6), rule_of(scores.Linear(), "same"))
    assert got["dual"] <= 1e-12
    assert min(got["context"], got["metric"]) > VISIBLE


def test_direct_feedback_removes_the_context_term_and_nothing_else():
    got = sizes(generic(), views(6), rule_of(scores.Softplus(), "top"))
    assert got["context"] <= 1e-12
    assert min(got["dual"], got["metric"]) > VISIBLE


def test_both_leave_the_metric():
    got = sizes(generic(), views(6), rule_of(scores.Linear(), "top"))
    assert max(got["dual"], got["context"]) <= 1e-12
    assert got["metric"] > VISIBLE


@pytest.mark.parametrize("context", ["same", "top"])
def test_an_isometry_removes_all(context):
    network = ll.DeepLinear.orthogonal([6, 5, 5, 7], 0)
    got = sizes(network, views(6), rule_of(scores.Softplus(), context))
    assert max(got.values()) <= 1e-12


@pytest.mark.parametrize("context", ["same", "top"])
def test_conformal_with_rescaled_penalty_removes_all(context):
    network = ll.DeepLinear.conformal([6, 5, 5, 7], 1.3, 0)
    power = 4 if context == "same" else 2
    strengths = tuple(0.1 / 1.3 ** (power * (3 - l)) for l in network.layers)
    rule = replace(rule_of(scores.Softplus(), context), penalty=Penalty(strengths))
    assert max(sizes(network, views(6), rule).values()) <= 1e-12
    # With equal penalties it is not the context that differs; its kernel is a multiple.
    got = sizes(network, views(6), rule_of(scores.Softplus(), context))
    assert got["context"] <= 1e-12
    assert got["dual"] > 1e-3


def test_the_top_layer_has_no_mismatch():
    for context in ("same", "top", "both"):
        got = sizes(generic(), views(6), rule_of(scores.Softplus(), context), layer=3)
        assert max(got.values()) <= 1e-12


def test_compare_reports_the_norms():
    network, pairs, rule = generic(), views(6), rule_of(scores.Softplus(), "same")
    ds = ll.compare(network, pairs, rule)
    for l in network.layers:
        for name, size in sizes(network, pairs, rule, l).items():
            assert float(ds[f"{name}_mismatch"].sel(layer=l)) == pytest.approx(size, abs=1e-12)
    local, goal = (f(network, pairs, rule) for f in (ll.local_update, ll.global_update))
    a, b = local[0].ravel(), goal[0].ravel()
    assert float(ds.cosine[0]) == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)))
    assert float(ds.relative_error[0]) == pytest.approx(np.sqrt(((a - b) @ (a - b)) / (b @ b)))
    assert float(ds.norm_ratio[0]) == pytest.approx(np.sqrt((a @ a) / (b @ b)))
    assert (ds.residual <= 1e-13).all()
    assert (ds.condition_number >= 1).all()


def test_losses_of_two_views_have_no_dual_form():
    rule = ll.rules.VICReg()
    with pytest.raises(ValueError, match="VICReg is a loss of two views, which has no dual form"):
        ll.mismatch(generic(), views(6), rule, 1)
    assert np.isnan(ll.compare(generic(), views(6), rule).dual_mismatch).all()


def test_a_vanishing_update_has_no_cosine():
    pairs = ll.Pairs.from_views(np.zeros((3, 6)), np.zeros((3, 6)))
    ds = ll.compare(generic(), pairs, rule_of(scores.Softplus(), "same"))
    assert np.isnan(ds.cosine).all()
    assert np.isnan(ds.relative_error).all()


def test_a_sample_that_opens_no_unit_does_not_hide_the_others():
    """Its activities are zero, not nearly zero: they are no rounding noise."""
    network = ll.DeepReLU([np.eye(3), np.diag([1.0, 2.0, 3.0])])
    x = np.abs(np.random.default_rng(0).standard_normal((6, 3)))
    x[0] = -1.0
    pairs = ll.Pairs.from_views(x, np.abs(x[::-1]))
    assert not network.activities(pairs.samples).z[1][0].any()
    ds = ll.compare(network, pairs, rule_of(scores.Softplus(), "same"))
    assert np.isfinite(ds.cosine).all()
