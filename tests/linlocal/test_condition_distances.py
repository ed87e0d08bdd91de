"""The distances that `explain` gives, computed once more from the words of its conditions."""

from dataclasses import replace

import numpy as np
import pytest

import linlocal as ll
from linlocal import losses, rules
from linlocal.losses import scores
from linlocal.networks import Convolution, average_pooling
from linlocal.rules import Penalty
from linlocal.updates import Signals


def views(width, samples=10, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, width))
    return ll.Pairs.from_views(x, x + 0.5 * rng.standard_normal(x.shape))


def convolutional(first=(2, 1), seed=0):
    """Three layers on 4x4 maps, of which the last two are dense or convolutions."""
    rng = np.random.default_rng(seed)
    kernels = [(3, 2, 3, 3), (2, 3, 1, 1), (4, 2, 1, 1)]
    made = [Convolution(rng.standard_normal(kernels[0]) / 4, (2, 4, 4), padding=(1, 1))]
    made += [Convolution(rng.standard_normal(k), (k[1], 4, 4)) for k in kernels[1:]]
    return ll.DeepLinear(made)


NETWORKS = {
    "dense": lambda: ll.DeepLinear.gaussian([6, 5, 7, 4], seed=1),
    "orthogonal": lambda: ll.DeepLinear.orthogonal([6, 6, 6, 6], seed=1),
    "scaled": lambda: ll.DeepLinear.conformal([6, 5, 6, 7], scale=1.5),
    "convolutional": convolutional,
}
WINDOWS = (1, 2, 4)
PAIR_RULES = {
    "same": rules.CLAPP("softplus"),
    "top": rules.CLAPP_DFB("softplus"),
    "both": rules.CLAPP_BOTH("softplus"),
    "penalties": rules.CLAPP("softplus").with_penalty((0.3, 0.02, 0.1)),
    "downstream": replace(rules.CLAPP("softplus"), penalty=Penalty(0.05, "downstream")),
    "weak": rules.CLAPP("softplus", penalty=50.0),
    "random": replace(rules.CLAPP("softplus"), projection="random"),
    "PhyLL": rules.PhyLL(),
}


def pooling(network, rule, layer):
    """P_l as a matrix, by the definition of the read-out."""
    shape = network.map_shape(layer)
    window = 1 if rule.pooling is None else rule.pooling[layer - 1]
    own = np.eye(network.widths[layer]) if window == 1 else average_pooling(shape, window)
    if rule.penalty.metric == "downstream" and layer < network.depth:
        return pooling(network, rule, network.depth) @ network.downstream(layer)
    return own


def nearest(actual, reference):
    """The factor and the relative distance of the best multiple, by least squares."""
    (factor,), *_ = np.linalg.lstsq(reference.reshape(-1, 1), actual.ravel(), rcond=None)
    return factor, np.linalg.norm(actual - factor * reference) / np.linalg.norm(actual)


def measured(network, pairs, rule, layer=1):
    found = ll.explain(network, pairs, rule).layers[layer - 1]
    return {condition.name: condition for condition in found.conditions}


def isometry(network, pairs, layer):
    z = network.activities(pairs.samples).z[layer]
    v = network.downstream(layer)
    factor, distance = nearest(z @ v.T @ v, z)
    return np.sqrt(distance**2 + (factor - 1) ** 2)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", PAIR_RULES)
@pytest.mark.parametrize("layer", [1, 2])
def test_conditions_of_scored_pairs(network, name, layer):
    net, rule = NETWORKS[network](), PAIR_RULES[name]
    if network == "convolutional" and name != "PhyLL":
        rule = replace(rule, pooling=WINDOWS)
    pairs, top = views(net.widths[0]), net.depth
    z = net.activities(pairs.samples).z
    p, p_top, v = (pooling(net, rule, layer), pooling(net, rule, top), net.downstream(layer))
    through = p_top @ v
    found = measured(net, pairs, rule, layer)
    scored = {l: Signals(net, pairs, rule).scored(l) for l in (layer, top)}

    sent = np.concatenate([s.projected for s in scored[layer]])
    wanted = np.concatenate([s.projected for s in scored[top]]) @ v
    gap = np.linalg.norm(sent - wanted) / np.linalg.norm(wanted)
    assert found.pop("score matching").distance == pytest.approx(gap, rel=1e-10, abs=1e-14)
    if rule.projection != "optimal":
        assert found == {}
        return

    anchors = np.unique(np.concatenate([d.anchor for d in pairs.directions]))
    a, distance = nearest(z[layer][anchors] @ through.T @ through, z[layer][anchors] @ p.T @ p)
    got = found.pop("proportional anchors")
    assert got.distance == pytest.approx(distance, rel=1e-8, abs=1e-13)
    assert got.meaning.endswith(f"nearest a = {a:.4g}")

    own, highest = z[layer] @ p.T, z[top] @ p_top.T
    c = {"same": own, "top": highest, "both": np.hstack([own, highest])}[rule.context]
    rows = [d.reference_rows for d in pairs.directions]
    here, above = (np.concatenate([(x[r] @ x[r].T).ravel() for r in rows]) for x in (c, highest))
    e, distance = nearest(here, above)
    got = found.pop("proportional contexts")
    assert got.distance == pytest.approx(distance, rel=1e-8, abs=1e-13)
    assert got.meaning.endswith(f"nearest e = {e:.4g}")

    strength = rule.penalty.strength
    lam = strength if isinstance(strength, tuple) else (strength,) * top
    off = abs(lam[layer - 1] / (lam[-1] * e / a) - 1)
    assert found.pop("matching penalty").distance == pytest.approx(off, rel=1e-8, abs=1e-12)
    assert found == {}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ["ForwardForward", "SCFF", "SimCLR", "VICReg"])
def test_rules_of_whole_activities_ask_for_an_isometry(network, name):
    net, rule = NETWORKS[network](), rules.from_name(name)
    pairs = views(net.widths[0])
    if rule.context == "self":
        pairs = ll.Pairs.from_positive_negative(pairs.samples[:8], pairs.samples[8:16])
    found = measured(net, pairs, rule)
    expected = isometry(net, pairs, 1)
    got = found["isometry"]
    assert got.distance == pytest.approx(expected, rel=1e-10, abs=1e-13)
    assert got.meaning == "G_l z = z for all z of the batch"
    assert set(found) == {"isometry"} | ({"invariant loss"} if rule.kind == "view" else set())


@pytest.mark.parametrize("name", ["SimCLR", "VICReg", "BarlowTwins", "LPL"])
@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_invariance_does_not_depend_on_the_size_of_the_loss(name, scale):
    class Scaled(losses.ViewLoss):
        def __init__(self, loss):
            self.loss = loss

        def value(self, z, z_view):
            return scale * self.loss.value(z, z_view)

        def gradients(self, z, z_view):
            return tuple(scale * g for g in self.loss.gradients(z, z_view))

    rule, net = rules.from_name(name), NETWORKS["dense"]()
    plain, scaled = (
        measured(net, views(6), r)["invariant loss"].distance
        for r in (rule, replace(rule, loss=Scaled(rule.loss)))
    )
    assert scaled == pytest.approx(plain, rel=1e-10, abs=1e-13)
    assert plain > 0.1 or plain < 1e-10


def test_a_loss_without_slope_is_invariant():
    class Constant(losses.ViewLoss):
        def value(self, z, z_view):
            return 1.0

        def gradients(self, z, z_view):
            return np.zeros_like(z), np.zeros_like(z_view)

    rule = replace(rules.SimCLR(), loss=Constant())
    explanation = ll.explain(NETWORKS["dense"](), views(6), rule)
    assert all(c.distance == 0 for e in explanation.layers for c in e.conditions if "inv" in c.name)
    assert explanation.exact


def test_masks_of_a_relu_network_are_compared_with_their_mean():
    net, pairs = ll.DeepReLU.orthogonal([6, 6, 6, 6], seed=1), views(6)
    explanation = ll.explain(net, pairs, rules.CLAPP("softplus"))
    for layer in (1, 2):
        (condition,) = explanation.layers[layer - 1].conditions
        maps = net.downstream(layer, pairs.samples)
        mean = sum(maps) / len(maps)
        off = np.sqrt(sum(np.sum((each - mean) ** 2) for each in maps))
        size = np.sqrt(sum(np.sum(each**2) for each in maps))
        assert condition.distance == pytest.approx(off / size, rel=1e-12)
        assert condition.meaning == "V_l(x) the same for all x"
    assert explanation.layers[2].conditions == ()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
def test_the_bound_on_the_cosine_depends_on_condition_numbers_only(scale):
    pairs, rule = views(6), rules.CLAPP_DFB("linear")
    net = ll.DeepLinear.gaussian([6, 5, 7, 7], seed=1)
    first, *above = (net.matrix(l) for l in net.layers)
    scaled = ll.DeepLinear([first, *(scale * w for w in above)])
    for layer in ll.explain(scaled, pairs, rule).layers[:2]:
        k = np.linalg.cond(net.gram(layer.layer))
        assert layer.cosine_bound == pytest.approx(2 * np.sqrt(k) / (1 + k), rel=1e-9)
        assert layer.cosine >= layer.cosine_bound - 1e-12
        assert layer.bound_source == "statement 7: 2 sqrt(k) / (1 + k), k = cond(G_l)"


@pytest.mark.parametrize("factor", [1.0, 1e-4, 30.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 0.0])
def test_the_bound_of_a_projection_is_attained_at_any_size(scale, factor):
    x = scale * views(6).samples
    pairs = ll.Pairs.from_views(x[:10], x[10:])
    plain = ll.DeepLinear.orthogonal([6, 6, 5, 3], seed=1)
    net = ll.DeepLinear([plain.matrix(1), plain.matrix(2), factor * plain.matrix(3)])
    explanation = ll.explain(net, pairs, rules.CLAPP_DFB("linear"))
    for layer in explanation.layers[:2]:
        local = ll.local_update(net, pairs, rules.CLAPP_DFB("linear"))[layer.layer - 1]
        if scale:
            v = net.downstream(layer.layer)
            kept = np.linalg.norm(v.T @ v @ local) / np.linalg.norm(local) / factor**2
            assert layer.cosine_bound == pytest.approx(kept, rel=1e-9)
            assert layer.cosine == pytest.approx(kept, rel=1e-9)
            assert kept < 0.999
        else:
            assert layer.cosine_bound == 1.0


# -- where something is zero -----------------------------------------------------------------------


def test_no_update_anywhere_is_equal_everywhere():
    net = ll.DeepLinear([np.eye(4), np.zeros((3, 4)), np.ones((2, 3))])
    explanation = ll.explain(net, views(4), rules.CLAPP_DFB("softplus"))
    assert explanation.exact
    assert np.isnan(explanation.comparison["relative_error"]).all()
    assert explanation.remedies == ()


def test_a_local_update_without_a_global_one_is_not_equal():
    net = ll.DeepLinear([np.eye(4), np.zeros((3, 4)), np.ones((2, 3))])
    pairs, rule = views(4), rules.CLAPP("softplus")
    assert np.linalg.norm(ll.local_update(net, pairs, rule)[0]) > 0
    assert np.linalg.norm(ll.global_update(net, pairs, rule)[0]) == 0
    explanation = ll.explain(net, pairs, rule)
    assert [layer.exact for layer in explanation.layers] == [False, True, True]
    found = {c.name: c for c in explanation.layers[0].conditions}
    # The context of the top is zero, that of the layer is not: no multiple is near.
    assert found["proportional contexts"].distance == 1.0
    assert not found["score matching"].holds


def test_no_bound_is_claimed_where_there_is_no_global_update():
    net = ll.DeepLinear([np.eye(4), np.eye(4), np.zeros((2, 4))])
    for layer in ll.explain(net, views(4), rules.CLAPP_DFB("linear")).layers[:2]:
        assert layer.cosine_bound is None
        assert layer.bound_source == "V_l = 0, the global update is zero"


def test_contexts_that_are_zero_in_both_layers_are_proportional():
    net = ll.DeepLinear([np.eye(4), np.zeros((3, 4)), np.ones((2, 3))])
    found = measured(net, views(4), rules.CLAPP_DFB("softplus"))
    assert found["proportional contexts"].distance == 0.0
    assert found["proportional contexts"].holds
    assert found["score matching"].distance == 0.0
    # V_1 = 0, so G_1 z is zero and z is not.
    assert found["proportional anchors"].distance == 1.0


# -- what is offered -------------------------------------------------------------------------------


@pytest.mark.parametrize("convolutions", [1, 2, 3])
def test_isometries_replace_dense_weights_only(convolutions):
    rng = np.random.default_rng(0)
    shapes = [(2, 2, 1, 1)] * convolutions
    weights = [Convolution(rng.standard_normal(s), (2, 2, 2)) for s in shapes]
    weights += [rng.standard_normal((8, 8)) for _ in range(3 - convolutions)]
    net, rule = ll.DeepLinear(weights), rules.PhyLL()
    explanation = ll.explain(net, views(8), rule)
    names = [remedy.name for remedy in explanation.remedies]
    assert names == (["isometry"] if convolutions == 1 else [])
    for remedy in explanation.remedies:
        assert ll.explain(*remedy.apply()).exact


def test_a_pooled_projection_is_not_mended_by_isometries():
    rng = np.random.default_rng(0)
    net = ll.DeepLinear([Convolution(rng.standard_normal((2, 2, 1, 1)), (2, 2, 2))] * 3)
    for windows, offered in (
        ((1, 1, 1), {"metric penalty", "matched projection"}),
        ((1, 1, 2), {"metric penalty", "matched projection"}),
        ((1, 2, 1), {"metric penalty"}),
        ((2, 1, 1), {"metric penalty"}),
    ):
        rule = replace(rules.CLAPP("softplus"), pooling=windows)
        explanation = ll.explain(net, views(8), rule)
        assert {remedy.name for remedy in explanation.remedies} == offered
        for remedy in explanation.remedies:
            assert ll.explain(*remedy.apply()).exact, remedy.name


def test_penalties_that_differ_are_rescaled_in_the_metric_in_which_they_are_taken():
    net, pairs = NETWORKS["dense"](), views(6)
    rule = replace(rules.CLAPP("softplus"), penalty=Penalty((0.3, 0.02, 0.1), "downstream"))
    explanation = ll.explain(net, pairs, rule)
    assert not explanation.exact
    *_, new = explanation.remedy("rescaled penalty").apply()
    assert new.penalty.metric == "downstream"
    np.testing.assert_allclose(new.penalty.strength, 0.1, rtol=1e-10)
    assert ll.explain(net, pairs, new).exact
    *_, new = explanation.remedy("matched projection").apply()
    assert new.penalty == Penalty(0.1)


def test_direct_feedback_of_a_map_that_is_conformal_for_the_anchors_takes_its_factor():
    # Layer 2 keeps the first 6 of 10 units, 1.5 times; references have others as well.
    rng = np.random.default_rng(3)
    anchors = np.hstack([rng.standard_normal((12, 6)), np.zeros((12, 4))])
    pairs = ll.Pairs.from_views(anchors, rng.standard_normal((12, 10)), directions="forward")
    net = ll.DeepLinear([np.eye(10), 1.5 * np.eye(6, 10)])
    remedy = ll.explain(net, pairs, rules.CLAPP("softplus", penalty=0.2)).remedy("direct feedback")
    assert remedy.action.startswith("take the top layer as context")
    _, _, new = remedy.apply()
    np.testing.assert_allclose(new.penalty.strength, [0.2 / 1.5**2, 0.2])
    assert ll.explain(net, pairs, new).exact


def test_a_rule_without_an_optimal_projection_stays_as_it_is_on_isometries():
    net, rule = NETWORKS["scaled"](), rules.PhyLL()
    mended, _, same = ll.explain(net, views(6), rule).remedy("isometry").apply()
    assert same == rule
    assert mended.widths == net.widths


# -- what is compared ------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_norms_are_compared_at_any_size_of_the_update(scale):
    net = ll.DeepLinear.gaussian([6, 5, 4], seed=1)
    rule = ll.Rule("linear", losses.TypeTwo(scores.Linear()), penalty=1 / scale)
    pairs = views(6)
    ds = ll.compare(net, pairs, rule)
    local, goal = (
        [np.linalg.norm(u) for u in f(net, pairs, rule)]
        for f in (ll.local_update, ll.global_update)
    )
    np.testing.assert_allclose(ds["norm_ratio"], np.divide(local, goal), rtol=1e-10)
    assert ds.attrs == {
        "rule": "linear",
        "context": "same",
        "projection": "optimal",
        "window": 1,
        "goal": "linear",
        "network": repr(net),
        "pairs": pairs.num_pairs,
    }


@pytest.mark.parametrize("name", ["same", "PhyLL"])
def test_the_worst_view_direction_is_reported(name):
    net, pairs, rule = NETWORKS["dense"](), views(6), PAIR_RULES[name]
    ds = ll.compare(net, pairs, rule)
    signals = Signals(net, pairs, rule)
    for l in net.layers:
        solved = [s.projection for s in signals.scored(l) if s.projection is not None]
        row = ds.sel(layer=l)
        for column, found in (
            ("residual", [p.residual for p in solved]),
            ("iterations", [p.iterations for p in solved]),
            ("condition_number", [max(p.condition_number, p.cancellation) for p in solved]),
        ):
            assert row[column].dtype == np.float64
            expected = max(found) if found else np.nan
            np.testing.assert_equal(float(row[column]), expected)
    assert bool(ds["residual"].isnull().all()) == (name == "PhyLL")
