"""Statement 14: what holds with links and biases, and how near isometry residual networks are."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import linlocal as ll
from linlocal import losses, rules, testing
from linlocal.losses import scores
from linlocal.networks import nearest_isometry
from linlocal.rules import Penalty, Rule

EXACT = testing.TOLERANCES["float64"]
VISIBLE = 1e-2

SCORES = {
    "linear": scores.Linear(),
    "softplus": scores.Softplus(1.0),
    "hinge": scores.Hinge(1.0),
}
WAYS = {
    "matched": ("matched", "frobenius"),
    "metric penalty": ("optimal", "downstream"),
}


def views(width=5, n=12, seed=0, **options):
    x, view = testing.samples(n, width, seed)
    return ll.Pairs.from_views(2 * x, 2 * view, **options)


def rule_of(score, context="same", projection="optimal", penalty=0.1):
    return Rule("r", losses.TypeTwo(score), context, projection, penalty)


def relative_errors(network, pairs, rule):
    return ll.compare(network, pairs, rule).relative_error.values


def isometric(widths=(5, 5, 5, 5), links="residual", biases=None, seed=1):
    """Every layer above the first is an isometry of the one below, by a link and a weight."""
    drawn = ll.DeepLinear.gaussian(widths, seed, links="residual").isometric()
    return ll.DeepLinear(drawn.weights, biases, links)


# -- 1 and 4: matched scores and the metric penalty need nothing -----------------------------------


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("way", WAYS)
def test_matched_scores_and_the_metric_penalty_are_exact_on_every_graph(way, data):
    network = data.draw(testing.networks((1, 16), (1, 8), links="any", biases=True))
    projection, metric = WAYS[way]
    contexts = ("same", "top", "both", "each") if way == "matched" else ("same", "top")
    rule = data.draw(testing.pair_rules(contexts, projection, metric=metric))
    compared = ll.compare(network, data.draw(testing.pairs(network)), rule)
    worst = float(np.nan_to_num(compared.condition_number).max())
    allowed = testing.tolerance(condition_number=worst, multiple=64)
    assert np.nan_to_num(compared.relative_error).max() <= allowed


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("context", ["same", "top"])
def test_1_and_4_both_sides(context, score, way):
    links = {2: [1], 3: {0: 0.5}, 4: [1, 2]}
    drawn = ll.DeepLinear.uniform([4, 4, 4, 4, 4], 1, links, bias_std=0.5)
    projection, metric = WAYS[way]
    rule = rule_of(SCORES[score], context, projection, Penalty(0.1, metric))
    assert relative_errors(drawn, views(4), rule).max() <= EXACT
    plain = replace(rule, projection="optimal", penalty=Penalty(0.1))
    assert relative_errors(drawn, views(4), plain)[:-1].min() > VISIBLE


# -- 2, 3 and 5: isometry --------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data())
def test_a_link_from_the_layer_below_leaves_room_for_an_isometry(data):
    drawn = data.draw(testing.networks((1, 16), (1, 8), links="residual", shape="widening"))
    network = drawn.isometric()
    for l in network.layers:
        np.testing.assert_allclose(network.gram(l), np.eye(network.widths[l]), atol=1e-12)
    rule = data.draw(testing.pair_rules())
    if rule.context in ("both", "each"):
        rule = replace(rule, context="same")
    compared = ll.compare(network, data.draw(testing.pairs(network)), rule)
    worst = float(np.nan_to_num(compared.condition_number).max())
    allowed = testing.tolerance(condition_number=worst, multiple=64)
    assert np.nan_to_num(compared.relative_error).max() <= allowed


def test_the_isometry_is_that_nearest_to_the_map_of_the_layer():
    network = ll.DeepLinear.gaussian([5, 5, 5, 7, 7], 1, links={2: {1: 0.5}, 4: [3]})
    rigid = network.isometric()
    np.testing.assert_array_equal(rigid.matrix(1), network.matrix(1))
    assert rigid.links == network.links
    skip = {2: 0.5 * np.eye(5), 3: 0.0, 4: np.eye(7)}
    for l, s in skip.items():
        np.testing.assert_allclose(
            s + rigid.matrix(l), nearest_isometry(s + network.matrix(l)), atol=1e-14
        )
    with pytest.raises(ValueError, match="The link from layer 1 to layer 3 skips a layer"):
        ll.DeepLinear.gaussian([5, 5, 5, 5], 1, links={3: [1]}).isometric()


HOLDS = {
    "residual": lambda: isometric(),
    "a bias in the first layer": lambda: isometric(biases=[np.ones(5), None, None]),
    "a link from the input to layer 1": lambda: isometric(links={1: [0], 2: [1], 3: [2]}),
}
BROKEN = {
    "no links": lambda: isometric(links=None),
    "a bias on the way": lambda: isometric(biases=[None, None, np.ones(5)]),
    "half the link": lambda: isometric(links={2: [1], 3: {2: 0.5}}),
}


@pytest.mark.parametrize("context", ["same", "top"])
@pytest.mark.parametrize("score", ["softplus", "hinge"])
def test_2_both_sides(score, context):
    rule = rule_of(SCORES[score], context)
    for build in HOLDS.values():
        assert relative_errors(build(), views(), rule).max() <= EXACT
    for build in BROKEN.values():
        assert relative_errors(build(), views(), rule).max() > VISIBLE


def around(seed=1):
    """G_2 = I, but layer 2 is bypassed: z_3 = z_2 + W_3 z_2 + z_1 / 2."""
    q = ll.DeepLinear.orthogonal([5, 5, 5, 5], seed)
    return ll.DeepLinear(q.weights, links={3: {1: 0.5}})


@pytest.mark.parametrize("name", ["CLAPP", "PhyLL", "SCFF", "SimCLR", "SpectralContrastive"])
def test_an_isometry_is_not_enough_for_a_layer_that_a_link_leads_around(name):
    """A counterexample to statements 2 and 5 as they stand for chains."""
    network = around()
    np.testing.assert_allclose(network.gram(2), np.eye(5), atol=1e-14)
    rule = rules.from_name(name, **({"score": "softplus"} if name == "CLAPP" else {}))
    assert relative_errors(network, views(), rule)[1] > VISIBLE
    chain = ll.DeepLinear(network.weights)
    assert relative_errors(chain, views(), rule)[1] <= EXACT


@pytest.mark.parametrize("context", ["same", "top"])
def test_3_a_multiple_of_an_isometry_asks_for_a_rescaled_penalty(context):
    scale, power = 1.2, 2 if context == "same" else 1
    q = ll.DeepLinear.orthogonal([5, 5, 5, 5], 1)
    weights = [q.matrix(1), *(scale * q.matrix(l) - np.eye(5) for l in (2, 3))]
    network = ll.DeepLinear(weights, links={2: [1], 3: [2]})
    right = Penalty(tuple(0.1 / scale ** (2 * power * (3 - l)) for l in (1, 2, 3)))
    rule = rule_of(scores.Softplus(), context, penalty=right)
    assert relative_errors(network, views(), rule).max() <= EXACT
    assert relative_errors(network, views(), rule.with_penalty(0.1))[0] > VISIBLE


INVARIANT = ("SimCLR", "CosineInfoNCE", "SpectralContrastive", "LogDet", "SCFF", "PhyLL")


@pytest.mark.parametrize("name", INVARIANT)
def test_5_invariant_rules_on_residual_isometries(name):
    rule = rules.from_name(name)
    for build in HOLDS.values():
        assert relative_errors(build(), views(), rule).max() <= EXACT
    if name != "PhyLL":
        assert relative_errors(BROKEN["no links"](), views(), rule)[:-1].max() > VISIBLE


@dataclass(frozen=True)
class Centred:
    """A loss of two views after the mean of each view is taken away."""

    loss: losses.ViewLoss

    def value(self, z, z_view):
        return self.loss.value(centred(z), centred(z_view))

    def gradients(self, z, z_view):
        by, by_view = self.loss.gradients(centred(z), centred(z_view))
        return centred(by), centred(by_view)


def centred(z):
    return z - z.mean(axis=0)


def test_5_a_bias_on_the_way_needs_a_rule_that_translations_do_not_change_either():
    network = BROKEN["a bias on the way"]()
    for name in ("SimCLR", "CosineInfoNCE", "SpectralContrastive", "Whitening", "LogDet"):
        rule = rules.from_name(name)
        assert relative_errors(network, views(), rule).max() > VISIBLE
        shiftless = replace(rule, loss=Centred(rule.loss))
        assert relative_errors(network, views(), shiftless).max() <= EXACT


# -- 6 and 7: linear f -----------------------------------------------------------------------------


def test_6_and_7_biases_do_not_matter_to_a_linear_score_with_balanced_pairs():
    """As many positive as negative pairs, of equal weight, for each reference: sum y c = 0."""
    rule = rule_of(scores.Linear(), "top")
    network = ll.DeepLinear.gaussian([5, 5, 5, 5], 1, links="residual")
    biased = ll.DeepLinear(network.weights, [np.ones(5)] * 3, "residual")
    for net in (network, biased):
        data = ll.compare(net, views(), rule)
        for l in net.layers:
            k = np.linalg.cond(net.gram(l))
            assert float(data.cosine[l - 1]) >= 2 * np.sqrt(k) / (1 + k) - 1e-12
            assert distance_from_metric(net, views(), rule, l) <= EXACT
    # All negatives have the reference of sample 0, so nothing cancels.
    n = np.arange(12)
    one = ll.Direction(
        np.concatenate([n, n]),
        np.concatenate([n + 12, np.full(12, 12)]),
        np.repeat([1.0, -1.0], 12),
        np.concatenate([n, n]),
    )
    unbalanced = ll.Pairs(views().samples, (one,))
    assert distance_from_metric(network, unbalanced, rule, 1) <= EXACT
    assert distance_from_metric(biased, unbalanced, rule, 1) > VISIBLE


def distance_from_metric(network, pairs, rule, layer):
    """The relative distance of the global update from G_l times the local one."""
    local, goal = (f(network, pairs, rule)[layer - 1] for f in (ll.local_update, ll.global_update))
    return np.linalg.norm(goal - network.gram(layer) @ local) / np.linalg.norm(goal)


# -- 14: near an isometry --------------------------------------------------------------------------


def spectral(network, layer):
    return [np.linalg.norm(network.matrix(l), 2) for l in range(layer + 1, network.depth + 1)]


@settings(max_examples=80)
@given(
    width=st.integers(1, 12),
    depth=st.integers(1, 12),
    scale=st.floats(0.01, 1.5),
    seed=st.integers(0, 999),
)
def test_14_the_bounds_hold(width, depth, scale, seed):
    network = ll.DeepLinear.conformal([width] * (depth + 1), scale, seed, links="residual")
    for l in network.layers:
        bound, gram = network.isometry_bound(l), network.gram(l)
        norms = np.array(spectral(network, l))
        assert bound.deviation == pytest.approx(np.prod(1 + norms) ** 2 - 1, rel=1e-10, abs=1e-12)
        deviation = np.linalg.norm(gram - np.eye(width), 2)
        assert deviation <= bound.deviation * (1 + 1e-10) + 1e-12
        if scale < 1:
            formula = np.prod((1 + norms) / (1 - norms)) ** 2
            assert bound.condition_number == pytest.approx(formula, rel=1e-8)
            assert np.linalg.cond(gram) <= formula * (1 + 1e-8)
        elif l < network.depth:
            assert bound.condition_number == np.inf


def test_14_the_bounds_are_attained():
    weights = [np.eye(2), np.diag([0.3, -0.3]), np.diag([0.2, -0.2])]
    network = ll.DeepLinear(weights, links={2: [1], 3: [2]})
    bound, gram = network.isometry_bound(1), network.gram(1)
    assert np.linalg.norm(gram - np.eye(2), 2) == pytest.approx(bound.deviation, rel=1e-13)
    assert np.linalg.cond(gram) == pytest.approx(bound.condition_number, rel=1e-12)


def test_14_with_a_branch_of_norm_1_or_more_the_condition_number_has_no_bound():
    """||W|| = 2: the formula of the second bound says 9, and the condition number is 1e8."""
    network = ll.DeepLinear([np.eye(2), np.diag([0.0, -1 + 1e-4])], links={2: [1]})
    wide = ll.DeepLinear([np.eye(2), np.diag([2.0, -1 + 1e-4])], links={2: [1]})
    assert np.linalg.cond(network.gram(1)) <= network.isometry_bound(1).condition_number
    formula = ((1 + 2.0) / (1 - 2.0)) ** 2
    assert np.linalg.cond(wide.gram(1)) > 1e8 * formula / 9
    assert wide.isometry_bound(1).condition_number == np.inf


def test_14_without_the_link_small_weights_are_no_isometry():
    """||W|| = 0.1: with the link G is within 0.21 of the identity, without it 0.99 away."""
    weights = ll.DeepLinear.conformal([4, 4, 4], 0.1).weights
    linked, chain = ll.DeepLinear(weights, links={2: [1]}), ll.DeepLinear(weights)
    bound = linked.isometry_bound(1).deviation
    assert bound == pytest.approx(0.21, rel=1e-12)
    gaps = [np.linalg.norm(n.gram(1) - np.eye(4), 2) for n in (linked, chain)]
    assert gaps[0] <= bound < gaps[1]
    assert gaps[1] <= chain.isometry_bound(1).deviation


@settings(max_examples=40)
@given(network=testing.networks((1, 6), (1, 8), ("uniform",), "square", links="any"))
def test_14_blocks_of_any_shape(network):
    """Links over several layers and of any scale: a block ends where all paths meet."""
    for l in network.layers:
        bound, gram = network.isometry_bound(l), network.gram(l)
        assert np.linalg.norm(gram - np.eye(len(gram)), 2) <= bound.deviation * (1 + 1e-9) + 1e-12
        if np.isfinite(bound.condition_number):
            assert np.linalg.cond(gram) <= bound.condition_number * (1 + 1e-6)


def test_14_the_bound_of_two_weights_in_each_branch_is_that_of_their_product():
    weights = [np.eye(4), *ll.DeepLinear.conformal([4, 6, 4, 6, 4], 0.4, 1).weights]
    network = ll.DeepLinear(weights, links={3: [1], 5: [3]})
    norms = [np.linalg.norm(network.matrix(l + 1) @ network.matrix(l), 2) for l in (2, 4)]
    bound = network.isometry_bound(1)
    assert bound.deviation == pytest.approx(np.prod(1 + np.array(norms)) ** 2 - 1, rel=1e-12)
    assert np.linalg.norm(network.gram(1) - np.eye(4), 2) <= bound.deviation
    with pytest.raises(ValueError, match="layer 2 and the top layer to be equally wide, got 6 and"):
        network.isometry_bound(2)


# -- depth-scaled branches as a remedy -------------------------------------------------------------


def test_14_branches_scaled_by_the_depth_stay_near_at_any_depth():
    rule, pairs = rule_of(scores.Softplus()), views(8)
    smallest = {}
    for depth in (4, 16):
        network = ll.DeepLinear.orthogonal([8] * (depth + 1), 0, links="residual")
        scaled = network.with_scaled_branches()
        np.testing.assert_array_equal(scaled.matrix(1), network.matrix(1))
        np.testing.assert_allclose(scaled.matrix(2), network.matrix(2) / depth, rtol=1e-15)
        assert scaled.isometry_bound(1).deviation <= np.exp(2) - 1
        assert network.isometry_bound(1).deviation > 50
        smallest[depth] = [
            float(ll.compare(n, pairs, rule)["cosine"].min()) for n in (network, scaled)
        ]
    for plain, scaled in smallest.values():
        assert scaled > plain + 0.2
    assert smallest[16][1] > smallest[4][1] - 0.1


def test_explain_offers_scaled_branches_and_says_what_they_give():
    network = ll.DeepLinear.orthogonal([8] * 6, 0, links="residual")
    pairs, rule = views(8), rules.CLAPP("softplus")
    explanation = ll.explain(network, pairs, rule)
    assert {"metric penalty", "matched projection", "isometry"} <= {
        r.name for r in explanation.remedies
    }
    for remedy in explanation.remedies:
        assert ll.explain(*remedy.apply()).exact, remedy.name
    (offer,) = explanation.nearer
    assert explanation.remedy("scaled branches") is offer
    given = float(ll.compare(*offer.apply())["cosine"].min())
    assert given > float(explanation.comparison["cosine"].min())
    assert f"{given:.4f}" in offer.action
    assert offer.action in str(explanation)
    assert ll.explain(ll.DeepLinear.uniform([8] * 4), pairs, rule).nearer == ()
    assert ll.explain(network.isometric(), pairs, rule).nearer == ()


def test_explain_names_what_leads_past_a_layer():
    pairs, rule = views(), rules.CLAPP("softplus")
    explanation = ll.explain(BROKEN["a bias on the way"](), pairs, rule)
    conditions = {c.name: c for c in explanation.layers[0].conditions}
    assert conditions["proportional anchors"].holds
    assert not conditions["no other way to the top"].holds
    assert {r.name for r in explanation.remedies} == {"metric penalty", "matched projection"}
    for remedy in explanation.remedies:
        assert ll.explain(*remedy.apply()).exact, remedy.name
    assert "no other way to the top" not in str(ll.explain(isometric(), pairs, rule))
    bounded = ll.explain(around(), pairs, rules.CLAPP_DFB("linear")).layers
    assert bounded[1].cosine_bound is None
    assert bounded[0].cosine_bound is not None
