"""Every named rule builds; a rule of one's own takes ten lines; what does not fit is refused."""

from dataclasses import replace

import numpy as np
import pytest

import linlocal as ll
from linlocal import losses, rules, testing
from linlocal.losses import scores
from linlocal.rules import NAMES, Penalty, Rule
from linlocal.testing import Exponential

KINDS = {
    "pair": ("CLAPP", "CLAPP_DFB", "CLAPP_BOTH", "CLAPP_EACH", "PhyLL", "GreedyInfoMax"),
    "goodness": ("ForwardForward", "SCFF"),
    "view": (
        "SimCLR",
        "CosineInfoNCE",
        "SpectralContrastive",
        "Whitening",
        "LogDet",
        "SIGReg",
        "VICReg",
        "VISReg",
        "BarlowTwins",
        "LPL",
    ),
}
TWO = losses.TypeTwo(scores.Softplus())


def views(width=4, n=8):
    return ll.Pairs.from_views(*testing.samples(n, width, 0))


@pytest.mark.parametrize("name", NAMES)
def test_every_named_rule_builds_and_runs(name):
    rule = rules.from_name(name)
    assert isinstance(rule, Rule)
    assert name in KINDS[rule.kind]
    x, view = testing.samples(8, 4, 0)
    pairs = views() if name != "ForwardForward" else ll.Pairs.from_positive_negative(x, view)
    network = ll.DeepLinear.uniform([4, 3, 3, 3], 0)
    for update in (ll.local_update, ll.global_update):
        for weight, dw in zip(network.weights, update(network, pairs, rule), strict=True):
            assert dw.shape == weight.shape
            assert np.isfinite(dw).all()
            assert np.abs(dw).max() > 0
    ds = ll.compare(network, pairs, rule)
    assert ds.attrs["rule"] == rule.name
    assert list(ds.layer) == [1, 2, 3]


def test_names_are_complete():
    assert sorted(NAMES) == sorted(name for names in KINDS.values() for name in names)
    assert len({rules.from_name(name).name for name in NAMES}) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_updates_go_downhill(name):
    """A small step along every local update lowers that layer's loss, contexts and B fixed."""
    rule = rules.from_name(name, **({"score": "softplus"} if "CLAPP" in name else {}))
    if rule.kind != "view":
        return  # compared to autograd elsewhere; view losses can be evaluated directly
    network, pairs = ll.DeepLinear.uniform([4, 3], 0), views()
    (update,) = ll.local_update(network, pairs, rule)
    moved = network.with_weights([network.matrix(1) + 1e-6 * update / np.linalg.norm(update)])
    first, second = pairs.views

    def loss(net):
        z = net.activities(pairs.samples).z[1]
        return rule.loss.value(z[first], z[second])

    # LPL detaches the partner of each view and VISReg the standard deviations of its shape term, so
    # their updates are not the gradients of their values.
    if name not in ("LPL", "VISReg"):
        assert (loss(moved) - loss(network)) / 1e-6 == pytest.approx(
            -np.linalg.norm(update), rel=1e-3
        )


def test_options_reach_the_rule():
    rule = rules.CLAPP("smoothed_hinge", margin=0.4, penalty=0.2)
    assert rule.loss.score == scores.SmoothedHinge(0.4)
    assert rule.penalty == Penalty(0.2)
    assert rules.CLAPP_DFB().context == "top"
    assert rules.CLAPP_BOTH().context == "both"
    assert rules.PhyLL().projection == "identity"
    assert rules.ForwardForward(2.0).loss.threshold == 2.0
    assert rules.GreedyInfoMax(0.3).loss.temperature == 0.3
    assert rules.SimCLR(0.3).loss.temperature == 0.3
    assert rules.VICReg(covariance=9.0).loss.covariance == 9.0
    assert rules.from_name("LPL", hebbian=3.0).loss.hebbian == 3.0


def test_penalties():
    rule = rules.CLAPP(penalty=0.3)
    assert rule.penalty.at(2, 5) == 0.3
    per_layer = rule.with_penalty((0.1, 0.2))
    assert (per_layer.penalty.at(1, 2), per_layer.penalty.at(2, 2)) == (0.1, 0.2)
    downstream = rule.with_penalty(0.5, "downstream")
    assert downstream.with_penalty(0.7).penalty == Penalty(0.7, "downstream")
    assert Penalty([0.1, 0.2]) == Penalty((0.1, 0.2))  # a list of the caller's may change


def test_a_random_projection_is_random_below_the_top_and_repeats():
    network, pairs = ll.DeepLinear.uniform([4, 3, 3], 0), views()
    rule = replace(rules.CLAPP("softplus"), projection="random", seed=3)
    once, again = (ll.local_update(network, pairs, rule) for _ in range(2))
    other = ll.local_update(network, pairs, replace(rule, seed=4))
    optimal = ll.local_update(network, pairs, rules.CLAPP("softplus"))
    np.testing.assert_array_equal(once[0], again[0])
    assert np.linalg.norm(once[0] - other[0]) > 0.1 * np.linalg.norm(once[0])
    np.testing.assert_array_equal(once[-1], optimal[-1])


# -- a rule of one's own ---------------------------------------------------------------------


def test_a_rule_of_ones_own_obeys_the_laws():
    rule = Rule("mine", losses.TypeTwo(Exponential()), context="top", penalty=0.1)
    generic, rigid = ll.DeepLinear.uniform([4, 3, 5], 0), ll.DeepLinear.orthogonal([4, 3, 5], 0)
    assert ll.compare(rigid, views(), rule).relative_error.max() <= 1e-12
    assert ll.compare(generic, views(), rule).relative_error[0] > 1e-2
    metric = rule.with_penalty(0.1, "downstream")
    assert ll.compare(generic, views(), metric).relative_error.max() <= 1e-12


class Cubic:
    """A pair loss of one's own: mean |m - 1|^3 below the margin; contrasts as in type 1."""

    def contrasts(self, pairs):
        return pairs.differences

    def value(self, m, pairs):
        return float(np.mean(np.maximum(0, 1 - m) ** 3))

    def gradient(self, m, pairs):
        return -3 * np.maximum(0, 1 - m) ** 2 / len(m)

    def curvature(self, m, pairs):
        return 6 * np.maximum(0, 1 - m) / len(m)


def test_a_pair_loss_of_ones_own_obeys_the_laws():
    rule = Rule("mine", Cubic(), penalty=0.1)
    rigid = ll.DeepLinear.orthogonal([4, 3, 5], 0)
    assert ll.compare(rigid, views(), rule).relative_error.max() <= 1e-12
    assert ll.compare(ll.DeepLinear.uniform([4, 3, 5], 0), views(), rule).relative_error[0] > 1e-2


# -- parts that do not fit ---------------------------------------------------------------------

MISFITS = {
    "unknown context": (
        lambda: Rule("r", TWO, "above"),
        "context must be one of same, top, both, each, self, sum, views, got 'above'",
    ),
    "unknown projection": (
        lambda: Rule("r", TWO, projection="best"),
        "projection must be one of optimal, identity, random, matched, none, got 'best'",
    ),
    "pair loss without projection": (
        lambda: Rule("r", TWO, projection="none"),
        "loss goes with context same or top or both or each and projection optimal or identity",
    ),
    "pair loss of oneself": (lambda: Rule("r", TWO, "self"), "A pair loss goes with context same"),
    "goodness with projection": (
        lambda: Rule("r", losses.Goodness(), "self"),
        "A goodness loss goes with context self or sum and projection none",
    ),
    "view loss in the same layer": (
        lambda: Rule("r", losses.VICReg(), "same", "none"),
        "A view loss goes with context views and projection none",
    ),
    "identity with two contexts": (
        lambda: Rule("r", TWO, "both", "identity"),
        'An identity projection needs one context: "same" or "top"',
    ),
    "penalty of zero": (lambda: rules.CLAPP(penalty=0.0), r"positive and finite, got 0\.0"),
    "penalty of nan": (lambda: rules.CLAPP(penalty=float("nan")), "positive and finite, got nan"),
    "negative penalty in one layer": (lambda: Penalty((0.1, -1.0)), "positive and finite"),
    "no penalty": (lambda: Penalty(()), "positive and finite"),
    "unknown metric": (
        lambda: Penalty(0.1, "euclidean"),
        "metric must be one of frobenius, downstream, got 'euclidean'",
    ),
    "unknown rule": (
        lambda: rules.from_name("BackProp"),
        "Unknown rule 'BackProp'; known rules are CLAPP, CLAPP_DFB",
    ),
    "unknown score": (lambda: rules.CLAPP("relu"), "Unknown score 'relu'; known scores are linear"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_misfits(case):
    build, message = MISFITS[case]
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("loss", [None, scores.Softplus(), "clapp"])
def test_what_is_no_loss(loss):
    with pytest.raises(TypeError, match="is no loss: it needs contrasts, value, gradient and"):
        Rule("r", loss)
