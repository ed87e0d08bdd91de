"""The dual form in numpy and autograd in torch are two programs for the same updates."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import linlocal as ll
from linlocal import autodiff, losses, testing
from linlocal.losses import scores
from linlocal.networks import Convolution
from linlocal.rules import NAMES, Penalty, Rule
from linlocal.testing import Exponential, assert_same_update

TOLERANCE = testing.TOLERANCES["float64"]
MASKS = ("sample", "batch", "none")


def convolutions(seed=0):
    rng = np.random.default_rng(seed)
    return [
        Convolution(rng.standard_normal((3, 2, 3, 3)) / 4, (2, 4, 4), padding=(1, 1)),
        Convolution(rng.standard_normal((2, 3, 2, 2)) / 3, (3, 4, 4), stride=(2, 2)),
    ]


NETWORKS = {
    "linear": lambda: ll.DeepLinear.uniform([6, 5, 4, 3], seed=1),
    "relu": lambda: ll.DeepReLU.gaussian([6, 7, 6, 7], seed=1),
    "linear convolution": lambda: ll.DeepLinear(convolutions()),
    "relu convolution": lambda: ll.DeepReLU(convolutions()),
}


def named_rule(name, network=None, pooled=True):
    """The rule with a smooth score, pooled where a convolution allows it."""
    rule = ll.rules.from_name(name, **({"score": "softplus"} if "CLAPP" in name else {}))
    if network is not None and network.map_shape(1) and rule.kind == "pair" and pooled:
        rule = replace(rule, pooling=(2, 1))
    return rule


def views(width, n=9, seed=0):
    x, view = testing.samples(n, width, seed)
    return 2 * x, 2 * view


def fitting_pairs(rule, width, **options):
    x, view = views(width)
    if rule.context == "self":
        return ll.Pairs.from_positive_negative(x, view)
    return ll.Pairs.from_views(x, view, **options)


def assert_oracle_agrees(network, pairs, rule, tolerance=TOLERANCE, masks=MASKS, **oracle):
    assert_same_update(
        ll.local_update(network, pairs, rule),
        autodiff.local_update(network, pairs, rule, **oracle),
        tolerance,
        f"local {rule.name} on {network!r}",
    )
    for kind in masks:
        assert_same_update(
            ll.global_update(network, pairs, rule, masks=kind),
            autodiff.global_update(network, pairs, rule, masks=kind, **oracle),
            tolerance,
            f"global {rule.name} on {network!r}, masks {kind}",
        )


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", NAMES)
def test_every_named_rule_in_every_network(name, network):
    net = NETWORKS[network]()
    rule = named_rule(name, net)
    assert_oracle_agrees(net, fitting_pairs(rule, net.widths[0], num_negatives=2), rule)


@pytest.mark.parametrize("directions", ["both", "forward"])
@pytest.mark.parametrize("name", NAMES)
def test_every_named_rule_in_both_view_directions(name, directions):
    net, rule = NETWORKS["relu"](), named_rule(name)
    rng = np.random.default_rng(3)
    options = {"directions": directions, "negatives": "random", "num_negatives": 3, "rng": rng}
    assert_oracle_agrees(net, fitting_pairs(rule, 6, **options), rule)


@pytest.mark.parametrize("score", [scores.Linear(), scores.Softplus(0.3), scores.SmoothedHinge()])
@pytest.mark.parametrize("loss", [losses.TypeTwo, losses.TypeOne])
@pytest.mark.parametrize("context", ["same", "top", "both", "each"])
def test_every_score_and_context(score, loss, context):
    net = NETWORKS["relu"]()
    rule = Rule("r", loss(score), context, penalty=0.05)
    assert_oracle_agrees(net, fitting_pairs(rule, 6, num_negatives=2), rule)


@pytest.mark.parametrize("score", [scores.Linear(), scores.Softplus(0.3), scores.SmoothedHinge()])
def test_goodness_with_every_score(score):
    net = NETWORKS["relu"]()
    for context in ("self", "sum"):
        rule = Rule("r", losses.Goodness(0.7, score), context, "none")
        assert_oracle_agrees(net, fitting_pairs(rule, 6), rule)


@pytest.mark.parametrize("context", ["same", "top", "both", "each"])
@pytest.mark.parametrize("projection", ["random", "matched"])
def test_fixed_projections(context, projection):
    net = NETWORKS["linear"]()
    loss = losses.TypeTwo(scores.Softplus())
    rule = Rule("r", loss, context, projection, penalty=0.05, seed=4)
    assert_oracle_agrees(net, fitting_pairs(rule, 6), rule)


@pytest.mark.parametrize("context", ["same", "top"])
def test_identity_projection(context):
    net = ll.DeepReLU.gaussian([6, 5, 5, 5], seed=2)
    rule = Rule("r", losses.TypeOne(scores.Softplus()), context, "identity")
    assert_oracle_agrees(net, fitting_pairs(rule, 6), rule)


@pytest.mark.parametrize("context", ["same", "top", "both", "each"])
@pytest.mark.parametrize("network", ["linear", "linear convolution"])
def test_a_penalty_in_the_downstream_metric(context, network):
    net = NETWORKS[network]()
    loss = losses.TypeTwo(scores.Softplus())
    rule = Rule("r", loss, context, penalty=Penalty(0.05, "downstream"))
    if net.map_shape(1):
        rule = replace(rule, pooling=(1, 2))
    assert_oracle_agrees(net, fitting_pairs(rule, net.widths[0]), rule)


@pytest.mark.parametrize("context", ["same", "top", "both", "each"])
@pytest.mark.parametrize("network", ["linear", "linear convolution"])
def test_a_matched_projection_in_the_downstream_metric(context, network):
    net = NETWORKS[network]()
    loss, penalty = losses.TypeTwo(scores.Softplus()), Penalty(0.05, "downstream")
    rule = Rule("r", loss, context, "matched", penalty=penalty)
    if net.map_shape(1):
        rule = replace(rule, pooling=(1, 2))
    pairs = fitting_pairs(rule, net.widths[0])
    assert_oracle_agrees(net, pairs, rule)
    assert float(ll.compare(net, pairs, rule)["relative_error"].max()) < TOLERANCE


def test_a_matched_projection_with_pooling_at_the_top():
    net = NETWORKS["linear convolution"]()
    rule = Rule(
        "r", losses.TypeTwo(scores.Softplus()), "same", "matched", penalty=0.05, pooling=(1, 2)
    )
    assert_oracle_agrees(net, fitting_pairs(rule, net.widths[0]), rule)


def test_one_penalty_for_each_layer():
    net = NETWORKS["linear"]()
    rule = ll.rules.CLAPP("softplus", penalty=Penalty((0.1, 0.02, 0.3)))
    assert_oracle_agrees(net, fitting_pairs(rule, 6), rule)


@settings(max_examples=25)
@given(data=st.data())
def test_drawn_networks_pairs_and_rules(data):
    network = data.draw(
        testing.networks(
            width=(1, 6),
            depth=(1, 4),
            activation=data.draw(st.sampled_from([None, "relu"])),
            kind=("orthogonal", "uniform", "gaussian"),
        )
    )
    rule = data.draw(st.one_of(testing.named_rules(), testing.pair_rules(penalty=(0.03, 1.0))))
    pairs = data.draw(testing.pairs(network, num_pairs=(1, 30), rule=rule))
    if any((np.abs(z).sum(axis=0) == 0).any() for z in network.activities(pairs.samples).z):
        return  # A dead layer: both updates are zero, or a loss of views divides by a norm of zero.
    if min(network.widths) == 1 and isinstance(rule.loss, losses.NTXent | losses.CosineInfoNCE):
        return  # All cosines are 1 or -1, so both updates are zero.
    assert_oracle_agrees(network, pairs, rule, tolerance=1e-10)


def test_directions_may_share_anchors_and_references():
    """Hand-made pairs: the updates of all directions add up in every sample."""
    net, (x, _) = NETWORKS["relu"](), views(6)
    rng = np.random.default_rng(5)
    directions = []
    for _ in range(3):
        anchor, reference = rng.integers(0, 9, (2, 12))
        sign, group = np.repeat([1.0, -1.0], 6), np.tile(np.arange(6), 2)
        directions.append(ll.Direction(anchor, reference, sign, group))
    pairs = ll.Pairs(x, tuple(directions))
    for name in ("CLAPP", "CLAPP_DFB", "CLAPP_BOTH", "PhyLL", "SCFF", "GreedyInfoMax"):
        assert_oracle_agrees(net, pairs, named_rule(name), masks=("sample",))


# -- hinge and losses of one's own -----------------------------------------------------------------


def test_the_oracle_refuses_an_optimal_projection_of_a_hinge():
    net, rule = NETWORKS["linear"](), ll.rules.CLAPP("hinge")
    with pytest.raises(ValueError, match=r"no derivative at its kink.*SmoothedHinge"):
        autodiff.local_update(net, fitting_pairs(rule, 6), rule)


def test_the_oracle_refuses_a_margin_on_the_kink():
    net, rule = NETWORKS["linear"](), ll.rules.CLAPP("hinge", margin=0.0)
    pairs = fitting_pairs(rule, 6)
    nothing = [[np.zeros((n, n))] * 2 for n in net.widths[1:]]
    with pytest.raises(ValueError, match=r"kink of the hinge.*SmoothedHinge"):
        autodiff.local_update(net, pairs, rule, projections=nothing)


def test_a_hinge_away_from_its_kink():
    net = ll.DeepLinear.uniform([6, 5, 5, 5], seed=1)
    for loss in (losses.TypeTwo, losses.TypeOne):
        rule = Rule("r", loss(scores.Hinge(0.5)), "same", "identity")
        assert_oracle_agrees(net, fitting_pairs(rule, 6), rule)


def test_given_projections_are_used():
    net, rule = NETWORKS["linear"](), named_rule("CLAPP")
    pairs = fitting_pairs(rule, 6)
    rng = np.random.default_rng(0)
    projections = [[rng.standard_normal((n, n)) for _ in range(2)] for n in net.widths[1:]]
    got = autodiff.local_update(net, pairs, rule, projections=projections)
    # By hand: for each direction -sum_p (d loss / d u_p) B c z_below^T.
    z = net.activities(pairs.samples).z
    for l in net.layers:
        expected = np.zeros_like(net.matrix(l))
        for b, d in zip(projections[l - 1], pairs.directions, strict=True):
            for a, r, y in zip(d.anchor, d.reference, d.sign, strict=True):
                margin = y * z[l][a] @ b @ z[l][r]
                push = y / (1 + np.exp(margin - 1)) / len(pairs.samples) * 2
                expected += push * np.outer(b @ z[l][r], z[l - 1][a])
        np.testing.assert_allclose(got[l - 1], expected, rtol=1e-12, atol=1e-14)
    with pytest.raises(ValueError, match=r"projection of layer 1 must be \(5, 5\)"):
        autodiff.local_update(net, pairs, rule, projections=[[np.eye(2)] * 2] * 3)


def torch_exponential(u, direction):
    sign = torch.tensor(direction.sign)
    return torch.exp(-u[sign > 0]).mean() + torch.exp(u[sign < 0]).mean()


@pytest.mark.parametrize("loss", [None, torch_exponential], ids=["its numpy", "a torch loss"])
@pytest.mark.parametrize("kind", ["pairs", "goodness"])
def test_a_score_of_ones_own(kind, loss):
    """Told by its derivatives in numpy, or, sharing nothing with them, by a torch function."""
    rule = Rule("mine", losses.TypeTwo(Exponential()), penalty=0.1)
    if kind == "goodness":
        rule = Rule("mine", losses.Goodness(0.0, Exponential()), "sum", "none")
    net = NETWORKS["linear"]()
    options = {} if loss is None else {"loss": loss}
    assert_oracle_agrees(net, fitting_pairs(rule, 6), rule, **options)


class Steeper(scores.Hinge):
    """A subclass of a named score is what its own methods say."""

    def value(self, m):
        return np.logaddexp(0.0, 2.0 * (self.margin - m))

    def slope(self, m):
        return -2.0 / (1.0 + np.exp(-2.0 * (self.margin - m)))

    def curvature(self, m):
        p = 1.0 / (1.0 + np.exp(-2.0 * (self.margin - m)))
        return 4.0 * p * (1.0 - p)


class Ranking:
    """log-sum-exp over margins: a loss of pairs of one's own, its curvature no diagonal."""

    def contrasts(self, pairs):
        return pairs.differences

    def value(self, m, pairs):
        return float(np.logaddexp.reduce(-m))

    def gradient(self, m, pairs):
        return -np.exp(-m - np.logaddexp.reduce(-m))

    def curvature(self, m, pairs):
        p = -self.gradient(m, pairs)
        return np.diag(p) - np.outer(p, p)


def torch_ranking(u, direction):
    negative = direction.sign < 0
    return torch.logsumexp(u[negative] - u[torch.tensor(direction.positive_of)], 0)


@pytest.mark.parametrize("options", [{}, {"loss": torch_ranking}], ids=["its numpy", "torch"])
def test_a_loss_of_pairs_of_ones_own(options):
    rule = Rule("mine", Ranking(), penalty=0.1)
    assert_oracle_agrees(NETWORKS["linear"](), fitting_pairs(rule, 6), rule, **options)


def test_a_subclass_of_a_named_score_is_what_its_methods_say():
    rule = Rule("mine", losses.TypeTwo(Steeper()), penalty=0.1)
    plain = Rule("hinge", losses.TypeTwo(scores.Hinge()), penalty=0.1)
    net = NETWORKS["linear"]()
    pairs = fitting_pairs(rule, 6)
    assert_oracle_agrees(net, pairs, rule)
    mine, named = (ll.compare(net, pairs, each)["cosine"] for each in (rule, plain))
    assert (abs(mine - named)[:-1] > 1e-6).all()


class Distance:
    """A loss of two views of one's own."""

    def value(self, z, z_view):
        return float(np.sum((z - z_view) ** 2))

    def gradients(self, z, z_view):
        return 2 * (z - z_view), 2 * (z_view - z)


@pytest.mark.parametrize(
    "options", [{}, {"loss": lambda z, v: torch.sum((z - v) ** 2)}], ids=["its numpy", "torch"]
)
def test_a_view_loss_of_ones_own(options):
    rule = Rule("mine", Distance(), "views", "none")
    assert_oracle_agrees(NETWORKS["relu"](), fitting_pairs(rule, 6), rule, **options)


# -- the oracle's own parts ------------------------------------------------------------------------


def test_the_oracle_knows_its_limit():
    net = ll.DeepLinear.uniform([4, 40], seed=0)
    rule = named_rule("CLAPP")
    with pytest.raises(ValueError, match="affordable up to 1024 of them; got 40 x 40"):
        autodiff.local_update(net, fitting_pairs(rule, 4), rule)


def test_unknown_masks_are_refused():
    net, rule = NETWORKS["relu"](), named_rule("PhyLL")
    with pytest.raises(ValueError, match='"sample", "batch" or "none"'):
        autodiff.global_update(net, fitting_pairs(rule, 6), rule, masks="all")


def test_loss_is_the_function_whose_derivative_the_update_is():
    """Finite differences of `loss` along the update, B fixed and B optimal (envelope theorem)."""
    net, rule = NETWORKS["linear"](), named_rule("CLAPP_DFB")
    pairs = fitting_pairs(rule, 6)
    top = net.depth
    update = ll.global_update(net, pairs, rule)[top - 1]
    step = 1e-5 * update / np.linalg.norm(update)

    def at(sign, detached):
        moved = net.with_weights([*net.weights[:-1], net.matrix(top) + sign * step])
        if not detached:
            return autodiff.loss(moved, pairs, rule, top)
        # The anchor moves, the context does not: score with B' = B c c'^+ is not at hand, so
        # write the loss here.
        z, c = moved.activities(pairs.samples).z[top], net.activities(pairs.samples).z[top]
        total = 0.0
        for d in pairs.directions:
            solved = ll.optimal_projection(
                z[d.anchor_rows], c[d.reference_rows], d, rule.loss, rule.penalty.strength
            )
            total += rule.loss.value(solved.margins, d)
            total += rule.penalty.strength / 2 * np.sum(solved.matrix**2)
        return total

    slope = (at(1, True) - at(-1, True)) / (2 * np.linalg.norm(step))
    assert slope == pytest.approx(-np.linalg.norm(update), rel=1e-6)
    # The context counts: with it attached the slope is another one.
    attached = (at(1, False) - at(-1, False)) / (2 * np.linalg.norm(step))
    assert abs(attached / slope - 1) > 0.1
    assert at(0, False) == pytest.approx(at(0, True), rel=1e-12)
    with pytest.raises(ValueError, match=r"numbered 1..3"):
        autodiff.loss(net, pairs, rule, 0)


def test_the_context_is_detached_and_the_input_of_a_layer_is_a_wall():
    """A change of the oracle that attaches the context must be seen by the comparison above."""
    net, rule = NETWORKS["linear"](), named_rule("CLAPP")
    pairs = fitting_pairs(rule, 6)
    local = autodiff.local_update(net, pairs, rule)
    everything = autodiff.global_update(net, pairs, rule)
    assert np.linalg.norm(local[0] - everything[0]) > 1e-2 * np.linalg.norm(local[0])
    assert_same_update(local[-1], everything[-1])


def test_importing_linlocal_does_not_import_torch():
    code = (
        "import sys, linlocal as ll; ll.DeepLinear, ll.compare, ll.rules.CLAPP(), ll.Pairs;"
        "heavy = {'torch', 'hypothesis', 'sympy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
