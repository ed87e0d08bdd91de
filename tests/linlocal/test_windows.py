"""Who teaches layer l: windows, one rule for each layer, and another global loss."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import linlocal as ll
from linlocal import autodiff, losses, rules, testing
from linlocal.losses import scores
from linlocal.rules import NAMES, Penalty, Rule
from linlocal.testing import assert_same_update
from linlocal.updates import Signals

TOLERANCE = testing.TOLERANCES["float64"]
VISIBLE = 1e-2
MASKS = ("sample", "batch", "none")


def views(width=6, n=8, seed=0):
    x, view = testing.samples(n, width, seed)
    return ll.Pairs.from_views(2 * x, 2 * view)


def named(name, width=6):
    """The rule with a smooth score, and pairs that fit it."""
    rule = rules.from_name(name, **({"score": "softplus"} if "CLAPP" in name else {}))
    if rule.context != "self":
        return rule, views(width)
    x, view = testing.samples(8, width, 0)
    return rule, ll.Pairs.from_positive_negative(2 * x, 2 * view)


def softplus(context="same", strength=0.05, metric="frobenius", **parts):
    loss = losses.TypeTwo(scores.Softplus())
    return Rule("r", loss, context, penalty=Penalty(strength, metric), **parts)


def errors(network, pairs, rule, window=1, goal=None):
    return ll.compare(network, pairs, rule, window, goal)["relative_error"].values


LINEAR = ll.DeepLinear.uniform([6, 5, 5, 5, 5], 1)
RELU = ll.DeepReLU.gaussian([6, 7, 7, 7, 7], 2)

# -- windows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [1, 2, 3, 4])
@pytest.mark.parametrize("network", [LINEAR, RELU], ids=["linear", "relu"])
@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_agrees_in_every_window(name, network, window):
    rule, pairs = named(name)
    assert_same_update(
        ll.local_update(network, pairs, rule, window),
        autodiff.local_update(network, pairs, rule, window=window),
        TOLERANCE,
        f"{name}, window {window}",
    )


def convolutional(kind):
    rng = np.random.default_rng(0)
    first = ll.Convolution(rng.standard_normal((3, 2, 3, 3)) / 4, (2, 4, 4), padding=(1, 1))
    second = ll.Convolution(rng.standard_normal((2, 3, 2, 2)) / 3, (3, 4, 4), stride=(2, 2))
    return kind([first, second, rng.standard_normal((6, 8)) / 3])


POOLED = {
    "same": replace(softplus("same"), pooling=(2, 1, 1)),
    "top": replace(softplus("top"), pooling=(2, 2, 1)),
    "metric": softplus("same", metric="downstream"),
}


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize(
    ("kind", "name"),
    [*product([ll.DeepLinear, ll.DeepReLU], ["same", "top"]), (ll.DeepLinear, "metric")],
)
def test_the_oracle_agrees_on_convolutions_and_pooling(kind, name, window):
    network, pairs = convolutional(kind), views(32)
    assert_same_update(
        ll.local_update(network, pairs, POOLED[name], window),
        autodiff.local_update(network, pairs, POOLED[name], window=window),
        TOLERANCE,
    )


@pytest.mark.parametrize("network", [LINEAR, RELU], ids=["linear", "relu"])
@pytest.mark.parametrize("name", NAMES)
def test_the_largest_window_is_backpropagation_to_the_last_bit(name, network):
    rule, pairs = named(name)
    local = ll.local_update(network, pairs, rule, window=network.depth)
    for l, goal in zip(local, ll.global_update(network, pairs, rule), strict=True):
        np.testing.assert_array_equal(l, goal)
    # A smaller one is not: layer 1 learns from layer 3.
    assert errors(network, pairs, rule, window=3)[0] > VISIBLE


def test_a_window_is_the_loss_of_the_teacher_sent_down():
    pairs, rule = views(), softplus()
    signals = Signals(LINEAR, pairs, rule, window=3)
    assert [signals.teacher(l) for l in LINEAR.layers] == [3, 4, 4, 4]
    for l in LINEAR.layers:
        teacher = signals.teacher(l)
        expected = signals.local_error(teacher) @ LINEAR.downstream(l, teacher)
        np.testing.assert_allclose(signals.taught_error(l), expected, rtol=1e-12, atol=1e-15)


def isometric_above(window, scale=1.0, widths=(6, 5, 4, 6, 6, 7), seed=3):
    """A network that is conformal above layer ``window``, and arbitrary, even narrowing, below."""
    below = ll.DeepLinear.uniform(widths, seed)
    above = ll.DeepLinear.conformal(widths, scale, seed)
    return ll.DeepLinear([*below.weights[:window], *above.weights[window:]])


@pytest.mark.parametrize("context", ["same", "top", "each"])
def test_an_isometry_is_needed_above_the_window_only(context):
    pairs, rule, network = views(), softplus(context), isometric_above(3)
    assert errors(network, pairs, rule, window=3).max() <= TOLERANCE
    # The window ends too early for layer 1, whose teacher 2 lies below a layer that is none.
    got = errors(network, pairs, rule, window=2)
    assert got[0] > VISIBLE
    assert got[1:].max() <= TOLERANCE
    # One layer above the window that is no isometry.
    broken = ll.DeepLinear([*network.weights[:4], 1.3 * network.matrix(5)])
    assert errors(broken, pairs, rule, window=3)[:2].min() > VISIBLE


@pytest.mark.parametrize("name", ["SimCLR", "SpectralContrastive", "ForwardForward", "SCFF"])
def test_invariant_losses_need_it_above_the_window_only(name):
    (rule, pairs), network = named(name), isometric_above(3)
    assert errors(network, pairs, rule, window=3).max() <= TOLERANCE
    assert errors(network, pairs, rule, window=2)[0] > VISIBLE


@pytest.mark.parametrize(("context", "power"), [("same", 4), ("top", 2)])
def test_a_conformal_map_above_the_window_and_the_penalty_rescaled_there(context, power):
    network, pairs = isometric_above(3, scale=1.3), views()
    above = [0.05 / 1.3 ** (power * (5 - l)) for l in (3, 4, 5)]
    # What layers 1 and 2 would have is never asked.
    rescaled = softplus(context, (7.0, 0.2, *above))
    assert errors(network, pairs, rescaled, window=3).max() <= TOLERANCE
    assert errors(network, pairs, softplus(context), window=3)[:2].min() > VISIBLE


@pytest.mark.parametrize("context", ["same", "top", "each"])
def test_the_metric_penalty_is_needed_above_the_window_only(context):
    plain, metric = softplus(context), softplus(context, metric="downstream")
    each = [plain, plain, metric, metric]
    assert errors(LINEAR, views(), each, window=3).max() <= TOLERANCE
    got = errors(LINEAR, views(), each, window=2)
    assert got[0] > VISIBLE
    assert got[1:].max() <= TOLERANCE


@settings(max_examples=30)
@given(data=st.data())
def test_metric_penalty_and_matched_projection_are_exact_in_every_window(data):
    network = data.draw(testing.networks(width=(1, 8), depth=(1, 5), condition_number=(1, 1e2)))
    rule = data.draw(
        st.one_of(
            testing.pair_rules(("same", "top", "each"), metric="downstream", penalty=(0.03, 1.0)),
            testing.pair_rules(projection="matched", penalty=(0.03, 1.0)),
        )
    )
    pairs = data.draw(testing.pairs(network, (2, 30), rule=rule))
    window = data.draw(st.integers(1, network.depth))
    ds = ll.compare(network, pairs, rule, window)
    worst = float(np.nan_to_num(ds["condition_number"], nan=1.0).max())
    assert_same_update(
        ll.local_update(network, pairs, rule, window),
        ll.global_update(network, pairs, rule),
        testing.tolerance(condition_number=worst),
    )


def test_a_larger_window_need_not_be_nearer():
    """Two layers that undo each other: together an isometry, cut between them none.

    V_1 = W_3 W_2 = I, so layer 1 alone is exact. In a window of two its teacher is layer 2, and
    G_2 = W_3^T W_3 is not the identity.
    """
    w = np.diag([1.0, 1.0, 4.0])
    network, pairs = ll.DeepLinear([np.eye(3), w, np.linalg.inv(w)]), views(3)
    for context in ("same", "top"):
        for score in (scores.Linear(), scores.Softplus()):
            rule = Rule("r", losses.TypeTwo(score), context, penalty=0.05)
            cosines = [float(ll.compare(network, pairs, rule, w)["cosine"][0]) for w in (1, 2, 3)]
            assert cosines[0] == pytest.approx(1.0, abs=1e-12)
            assert cosines[1] < 0.95
            assert cosines[2] == pytest.approx(1.0, abs=1e-12)


SIZES = [6, 5, 5, 5, 5]
KINDS = {
    "biases": ll.DeepLinear.uniform(SIZES, 1, bias_std=0.3),
    "residual": ll.DeepLinear.uniform(SIZES, 1, "residual", 0.3),
    "a link over two layers": ll.DeepLinear.uniform(SIZES, 1, {4: [1], 3: {2: 0.5}}),
    "residual tanh": ll.DeepLinear.uniform(SIZES, 1, "residual", 0.3).with_activation("tanh"),
}


@pytest.mark.parametrize(
    "window",
    [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow), 4],
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_agrees_on_biases_and_links(kind, window):
    network, pairs = KINDS[kind], views()
    for rule in (softplus("same"), softplus("top"), rules.SimCLR()):
        for of in ("weights", "biases") if network.has_biases else ("weights",):
            got = ll.local_update(network, pairs, rule, window, of)
            wanted = autodiff.local_update(network, pairs, rule, window=window, of=of)
            assert_same_update(got, wanted, TOLERANCE, f"{kind}, {rule.name}, {of}")
            if window == network.depth:
                for local, top in zip(
                    got, ll.global_update(network, pairs, rule, of=of), strict=True
                ):
                    np.testing.assert_array_equal(local, top)


def test_a_link_around_the_teacher_breaks_even_the_metric_penalty():
    """The top layer sends layer 1 an error past its teacher, which no loss of the teacher holds."""
    network, pairs = KINDS["a link over two layers"], views()
    for rule in (softplus(metric="downstream"), softplus(projection="matched")):
        for window, around in ((1, []), (2, [1]), (3, [1]), (4, [])):
            got = ll.explain(network, pairs, rule, window)
            for layer in got.layers:
                if layer.layer in around:
                    assert layer.relative_error > VISIBLE
                    assert failing(got, layer.layer) == {"no way around the window"}
                else:
                    assert layer.relative_error <= TOLERANCE
                    assert "no way around the window" not in failing(got, layer.layer)
            assert got.remedies == ()
    # Without the link over two layers the metric penalty is exact again.
    network = KINDS["residual"]
    assert errors(network, pairs, softplus(metric="downstream"), 2).max() <= TOLERANCE


# -- the difference as a sum -----------------------------------------------------------------------


@settings(max_examples=40)
@given(data=st.data())
def test_the_terms_sum_to_the_difference_in_every_window_and_below_every_goal(data):
    network = data.draw(
        testing.networks(
            width=(1, 10),
            depth=(1, 5),
            kind=("orthogonal", "uniform", "gaussian"),
            activation=data.draw(st.sampled_from([None, "relu", "tanh"])),
            links="any",
            biases=data.draw(st.booleans()),
        )
    )
    kind = st.one_of(testing.pair_rules(), testing.pair_rules(projection="random"))
    rule, goal = data.draw(kind), data.draw(st.one_of(st.none(), kind))
    pairs = data.draw(testing.pairs(network, (2, 30), rule=rule))
    window = data.draw(st.integers(1, network.depth))
    signals = Signals(network, pairs, rule, window, goal)
    local, wanted = (
        [network.joint_update(l, signals.activities, e) for l, e in enumerate(found, start=1)]
        for found in ([*map(signals.taught_error, network.layers)], signals.global_errors)
    )
    for l in network.layers:
        terms = ll.mismatch(network, pairs, rule, l, window, goal)
        assert tuple(terms) == ("dual", "context", "metric")
        scale = sum(np.linalg.norm(t) for t in (*terms.values(), local[l - 1], wanted[l - 1]))
        gap = sum(terms.values()) - (wanted[l - 1] - local[l - 1])
        assert np.linalg.norm(gap) <= 1e-13 * scale


def test_each_cause_alone_in_a_window():
    pairs = views()
    linear = replace(softplus("same"), loss=losses.TypeTwo(scores.Linear()))

    def sizes(network, rule):
        row = ll.compare(network, pairs, rule, window=2).sel(layer=1)
        return {name: float(row[f"{name}_mismatch"]) for name in ("dual", "context", "metric")}

    got = sizes(LINEAR, softplus("same"))
    assert min(got.values()) > VISIBLE
    got = sizes(LINEAR, linear)
    assert got["dual"] <= TOLERANCE
    assert min(got["context"], got["metric"]) > VISIBLE
    got = sizes(LINEAR, softplus("top"))
    assert got["context"] <= TOLERANCE
    assert min(got["dual"], got["metric"]) > VISIBLE
    assert max(sizes(isometric_above(2), softplus("same")).values()) <= TOLERANCE


# -- one rule for each layer -----------------------------------------------------------------------


def test_equal_rules_are_one_rule():
    pairs = views()
    for name in ("CLAPP", "CLAPP_EACH", "SimCLR"):
        rule, _ = named(name)
        one, several = ll.compare(LINEAR, pairs, rule), ll.compare(LINEAR, pairs, [rule] * 4)
        assert one.identical(several)


MIXED = [
    softplus("top"),
    rules.SimCLR(),
    Rule("fixed", losses.TypeOne(scores.Softplus()), "same", "identity"),
    rules.GreedyInfoMax(penalty=0.1),
]


@pytest.mark.parametrize("network", [LINEAR, RELU], ids=["linear", "relu"])
def test_each_layer_has_its_own_rule(network):
    pairs = views()
    mixed = ll.local_update(network, pairs, MIXED)
    for l, rule in enumerate(MIXED, start=1):
        np.testing.assert_array_equal(mixed[l - 1], ll.local_update(network, pairs, rule)[l - 1])
    for got, wanted in zip(
        ll.global_update(network, pairs, MIXED),
        ll.global_update(network, pairs, MIXED[-1]),
        strict=True,
    ):
        np.testing.assert_array_equal(got, wanted)
    ds = ll.compare(network, pairs, MIXED)
    assert ds.attrs["rule"] == "r, SimCLR, fixed, Greedy InfoMax"
    assert ds.attrs["goal"] == "Greedy InfoMax"
    # A common dual form with the goal: two rules of scored pairs, but no loss of views.
    assert np.isfinite(ds["dual_mismatch"]).values.tolist() == [True, False, True, True]
    assert np.isfinite(ds["residual"]).values.tolist() == [True, False, False, True]


@pytest.mark.parametrize("window", [1, 2, 3, 4])
@pytest.mark.parametrize("network", [LINEAR, RELU], ids=["linear", "relu"])
def test_the_oracle_agrees_on_mixed_rules(network, window):
    pairs = views()
    assert_same_update(
        ll.local_update(network, pairs, MIXED, window),
        autodiff.local_update(network, pairs, MIXED, window=window),
        TOLERANCE,
    )
    for masks in MASKS:
        assert_same_update(
            ll.global_update(network, pairs, MIXED, masks),
            autodiff.global_update(network, pairs, MIXED, masks=masks),
            TOLERANCE,
        )


# -- another global loss ---------------------------------------------------------------------------

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 16)
READOUTS = {width: RNG.standard_normal((3, width)) for width in (5, 7)}


class Cubes:
    """A supervised loss of one's own: mean sum (z - t)^4 / 4."""

    def __init__(self, targets):
        self.targets = targets

    def value(self, z):
        return float(np.sum((z - self.targets) ** 4)) / (4 * len(z))

    def gradient(self, z):
        return (z - self.targets) ** 3 / len(z)


def supervised(width):
    readout = READOUTS[width]
    targets = np.random.default_rng(1).standard_normal((16, width))
    return {
        "cross-entropy of the units": losses.CrossEntropy(LABELS),
        "cross-entropy of a readout": losses.CrossEntropy(LABELS, readout),
        "squared error of the units": losses.SquaredError(targets),
        "squared error of a readout": losses.SquaredError(targets[:, :3], readout),
        "masked reconstruction": losses.SquaredError(
            targets[:, :3], readout, np.arange(3 * len(targets)).reshape(-1, 3) % 4 == 0
        ),
        "one's own": Cubes(targets),
    }


@pytest.mark.parametrize("network", [LINEAR, RELU], ids=["linear", "relu"])
@pytest.mark.parametrize("name", supervised(5))
def test_the_oracle_agrees_on_supervised_goals(name, network):
    goal = supervised(network.widths[-1])[name]
    for masks in MASKS:
        assert_same_update(
            ll.global_update(network, views(), softplus(), masks, goal),
            autodiff.global_update(network, views(), softplus(), masks=masks, goal=goal),
            TOLERANCE,
            f"{name}, masks {masks}",
        )


@pytest.mark.parametrize("name", supervised(5))
def test_gradients_of_supervised_losses_are_derivatives_of_their_values(name):
    loss, z = supervised(5)[name], np.random.default_rng(2).standard_normal((16, 5))
    along = np.random.default_rng(3).standard_normal(z.shape)
    slope = (loss.value(z + 1e-6 * along) - loss.value(z - 1e-6 * along)) / 2e-6
    assert np.sum(loss.gradient(z) * along) == pytest.approx(slope, rel=1e-7)
    formula = autodiff.supervised_formula(loss)
    assert float(formula(torch.tensor(z))) == pytest.approx(loss.value(z), rel=1e-14)


class Halved(losses.CrossEntropy):
    def value(self, z):
        return 0.5 * super().value(z)

    def gradient(self, z):
        return 0.5 * super().gradient(z)


def test_a_subclass_of_a_named_loss_is_what_its_methods_say():
    goal = Halved(LABELS)
    assert_same_update(
        ll.global_update(LINEAR, views(), softplus(), goal=goal),
        autodiff.global_update(LINEAR, views(), softplus(), goal=goal),
    )
    assert_same_update(
        ll.global_update(LINEAR, views(), softplus(), goal=goal),
        [
            0.5 * u
            for u in ll.global_update(LINEAR, views(), softplus(), goal=losses.CrossEntropy(LABELS))
        ],
    )


@pytest.mark.parametrize("network", [LINEAR, RELU], ids=["linear", "relu"])
def test_another_rule_is_the_goal(network):
    pairs, rule, goal = views(), softplus(), rules.SimCLR()
    wanted = ll.global_update(network, pairs, goal)
    got = ll.global_update(network, pairs, rule, goal=goal)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert_same_update(got, autodiff.global_update(network, pairs, rule, goal=goal))
    ds = ll.compare(network, pairs, rule, goal=goal)
    assert (ds["cosine"] < 0.99).all()
    assert np.isnan(ds["dual_mismatch"]).all()
    assert ds.attrs["goal"] == "SimCLR"
    # The largest window is then backpropagation of the local rule, and not of the goal.
    assert errors(network, pairs, rule, network.depth, goal).min() > VISIBLE
    assert errors(network, pairs, goal, network.depth, goal).max() == 0.0


def test_a_goal_with_the_same_loss_is_exact_above_an_isometry():
    """Neither the object nor its penalty counts, but what it says of the top layer."""
    pairs, network = views(), ll.DeepLinear.orthogonal([6, 5, 5, 7], 0)
    assert errors(network, pairs, softplus(), goal=softplus()).max() <= TOLERANCE
    got = ll.explain(network, pairs, softplus(), goal=softplus())
    assert got.exact
    assert all(c.holds for layer in got.layers for c in layer.conditions)
    other = softplus(strength=0.2)
    assert errors(network, pairs, softplus(), goal=other).min() > VISIBLE


# -- explanations ----------------------------------------------------------------------------------


def failing(explanation, layer):
    return {c.name for c in explanation.layers[layer - 1].conditions if not c.holds}


def test_conditions_are_asked_above_the_window():
    network, pairs = isometric_above(3), views()
    for rule in (softplus("same"), softplus("top"), rules.SimCLR()):
        got = ll.explain(network, pairs, rule, window=3)
        assert got.exact
        assert not any(failing(got, l) for l in network.layers)
        assert "windows of 3 layers" in str(got)
        got = ll.explain(network, pairs, rule, window=2)
        assert not got.exact
        assert failing(got, 1)
        assert not any(failing(got, l) for l in (2, 3, 4, 5))


@pytest.mark.parametrize("window", [1, 2, 3])
@pytest.mark.parametrize("context", ["same", "top", "both", "each"])
def test_the_closed_form_of_linear_f_is_the_error_in_every_window(context, window):
    """Statement 6 with V_{l..e} to the left: both sides, and by how much."""
    rule = replace(softplus(context), loss=losses.TypeTwo(scores.Linear()))
    for network in (LINEAR, isometric_above(3)):
        got = ll.explain(network, views(), rule, window)
        for layer in got.layers[: network.depth - window]:
            (closed,) = (c for c in layer.conditions if c.name == "closed form")
            assert closed.distance == pytest.approx(layer.relative_error, rel=1e-9, abs=1e-12)


def test_no_cosine_is_below_the_bound_of_its_window():
    rule = replace(softplus("top"), loss=losses.TypeTwo(scores.Linear()))
    for seed in range(5):
        network = ll.DeepLinear.with_condition_number([6, 5, 5, 5, 5], 1.5, seed)
        for window in (2, 3):
            for layer in ll.explain(network, views(), rule, window).layers:
                assert layer.cosine >= layer.cosine_bound - 1e-12
                top = layer.layer + window > network.depth
                assert ("statement 12" in layer.bound_source) != top
                assert top or 0.1 < layer.cosine_bound < 1
    got = ll.explain(LINEAR, views(), softplus("top"), window=2)
    assert got.layers[0].cosine_bound is None


@pytest.mark.parametrize("context", ["same", "top", "both"])
def test_remedies_restore_exactness_in_the_window(context):
    for network in (LINEAR, isometric_above(2, scale=1.3)):
        got = ll.explain(network, views(), softplus(context), window=2)
        assert {"metric penalty", "matched projection"} <= {r.name for r in got.remedies}
        for remedy in got.remedies:
            assert errors(*remedy.apply(), window=2).max() <= 1e-10, remedy.name
    names = {r.name for r in ll.explain(network, views(), softplus("top"), window=2).remedies}
    assert "rescaled penalty" in names
    assert "isometry" in names


def test_a_narrowing_inside_the_window_forbids_no_isometry():
    """Layer 2 is narrower than layer 1, and above the window nothing narrows."""
    network, pairs, rule = isometric_above(3, scale=1.3), views(), softplus()
    names = {w: {r.name for r in ll.explain(network, pairs, rule, w).remedies} for w in (1, 3)}
    assert "isometry" not in names[1]
    assert "isometry" in names[3]
    assert errors(*ll.explain(network, pairs, rule, 3).remedy("isometry").apply(), 3).max() < 1e-10


@pytest.mark.parametrize(
    "goal", [rules.SimCLR(), losses.CrossEntropy(LABELS), rules.CLAPP("linear")]
)
def test_another_goal_is_named_as_the_reason(goal):
    got = ll.explain(LINEAR, views(), softplus(), goal=goal)
    assert all(failing(got, l) == {"same loss"} for l in LINEAR.layers)
    assert got.remedies == ()
    assert all(layer.cosine_bound is None for layer in got.layers)
    name = goal.name if isinstance(goal, Rule) else "CrossEntropy"
    assert f"below {name}" in str(got)


def test_rules_that_differ_are_asked_for_their_loss_first():
    got = ll.explain(LINEAR, views(), MIXED)
    assert [failing(got, l) for l in LINEAR.layers] == [{"same loss"}] * 3 + [set()]
    assert [layer.exact for layer in got.layers] == [False, False, False, True]
    assert got.remedies == ()
    # The same loss with other penalties is one loss, whose penalties are compared.
    network = ll.DeepLinear.orthogonal([6, 5, 5, 7], 0)
    got = ll.explain(network, views(), [softplus(strength=s) for s in (0.05, 0.2, 0.05)])
    assert [failing(got, l) for l in (1, 2, 3)] == [
        set(),
        {"matching penalty", "score matching"},
        set(),
    ]


def test_a_loss_of_each_context_is_another_loss_than_one():
    """At the top, where both contexts are one, "each" counts twice."""
    network = ll.DeepLinear.orthogonal([6, 5, 5, 7], 0)
    got = ll.explain(network, views(), softplus("each"), goal=softplus("same"))
    assert failing(got, 1) == {"same loss"}
    assert got.layers[0].relative_error == pytest.approx(1.0)


# -- bad input -------------------------------------------------------------------------------------

CALLS = {
    "compare": ll.compare,
    "explain": ll.explain,
    "local_update": ll.local_update,
    "oracle": autodiff.local_update,
    "mismatch": lambda *arguments, **options: ll.mismatch(*arguments, 1, **options),
}


@pytest.mark.parametrize("call", CALLS)
def test_windows_that_do_not_fit(call):
    for window, message in (
        (0, "window must be at least 1, got 0"),
        (5, r"window must be in 1\.\.4 in this network, got 5; 1 is local learning and 4 is back"),
    ):
        with pytest.raises(ValueError, match=message):
            CALLS[call](LINEAR, views(), softplus(), window=window)
    with pytest.raises(TypeError, match=r"window must be a whole number, got 2\.5"):
        CALLS[call](LINEAR, views(), softplus(), window=2.5)


@pytest.mark.parametrize("call", CALLS)
def test_rules_that_do_not_fit(call):
    with pytest.raises(ValueError, match="3 rules for a network of 4 layers; give one, or 4"):
        CALLS[call](LINEAR, views(), [softplus()] * 3)
    with pytest.raises(TypeError, match=r"an entry of rule must be a `Rule`.*got 'CLAPP'"):
        CALLS[call](LINEAR, views(), [softplus(), softplus(), softplus(), "CLAPP"])
    with pytest.raises(TypeError, match=r"rule must be a `Rule`.*got 'CLAPP'"):
        CALLS[call](LINEAR, views(), "CLAPP")


def test_pairs_that_fit_one_rule_and_not_another():
    x, view = testing.samples(6, 6, 0)
    single = ll.Pairs.from_positive_negative(x, view)
    forward = rules.ForwardForward()
    message = r"The rule of layer 3: SimCLR compares two views; build the pairs with Pairs.from_v"
    with pytest.raises(ValueError, match=message):
        ll.compare(LINEAR, single, [forward, forward, rules.SimCLR(), forward])
    with pytest.raises(ValueError, match="The rule of layer 2: Forward-Forward judges single"):
        ll.compare(LINEAR, views(), [softplus(), forward, softplus(), softplus()])
    with pytest.raises(ValueError, match="The goal: SimCLR compares two views"):
        ll.compare(LINEAR, single, forward, goal=rules.SimCLR())
    # One rule is not numbered.
    with pytest.raises(ValueError, match=r"^SimCLR compares two views"):
        ll.compare(LINEAR, single, rules.SimCLR())


def test_an_identity_onto_the_top_needs_the_width_of_its_own_layer_only():
    network, pairs = ll.DeepLinear.uniform([6, 4, 5, 5], 0), views()
    onto_top = Rule("onto", losses.TypeOne(scores.Softplus()), "top", "identity")
    ll.compare(network, pairs, [softplus(), onto_top, onto_top])
    with pytest.raises(ValueError, match=r"The rule of layer 1: An identity projection onto"):
        ll.compare(network, pairs, [onto_top, softplus(), softplus()])


def test_a_matched_projection_needs_its_own_goal():
    matched = softplus(projection="matched")
    with pytest.raises(ValueError, match=r"matched projection of layer 1.*give one matched rule"):
        ll.compare(LINEAR, views(), [matched, softplus(), softplus(), softplus()])
    with pytest.raises(ValueError, match=r"matched projection of layer 1.*no goal"):
        ll.compare(LINEAR, views(), matched, goal=rules.SimCLR())


@pytest.mark.parametrize("call", [ll.global_update, autodiff.global_update, ll.compare])
def test_goals_that_do_not_fit(call):
    for goal, message in (
        (losses.NTXent(), "goal must be a `Rule` or a supervised loss.*got a NTXent"),
        (losses.TypeTwo(scores.Softplus()), r"got a TypeTwo; a loss of pairs.*goes into a Rule"),
        (losses.Goodness(), r"got a Goodness"),
        ("SimCLR", r"got 'SimCLR'"),
        (LABELS, r"got a ndarray"),
    ):
        with pytest.raises(TypeError, match=message):
            call(LINEAR, views(), softplus(), goal=goal)


def test_labels_and_targets_that_do_not_fit():
    width = LINEAR.widths[-1]
    for goal, message in (
        (losses.CrossEntropy(LABELS[:8]), r"8 labels for 16 samples.*both views, one after the"),
        (losses.SquaredError(np.ones((8, width))), r"8 targets for 16 samples"),
        (losses.CrossEntropy(LABELS + 4), r"Label \d needs \d logits, but there are 5"),
        (losses.SquaredError(np.ones((16, 3))), r"3 columns, but there are 5 outputs"),
        (losses.CrossEntropy(LABELS, READOUTS[7]), r"readout reads 7 units, but the layer has 5"),
    ):
        with pytest.raises(ValueError, match=message):
            ll.compare(LINEAR, views(), softplus(), goal=goal)
    for bad in ([-1, 0], [[0, 1]], np.empty(0, int)):
        with pytest.raises(ValueError, match="labels must be a vector of class numbers from 0"):
            losses.CrossEntropy(bad)
    with pytest.raises(TypeError, match="labels must hold whole numbers"):
        losses.CrossEntropy([0.5, 1.0])
    with pytest.raises(ValueError, match=r"targets must be a matrix \(samples, outputs\)"):
        losses.SquaredError([1.0, 2.0])
    with pytest.raises(ValueError, match="readout has 1 non-finite entries"):
        losses.SquaredError(np.ones((2, 2)), [[1.0, np.nan]])
    for mask in (np.ones((2, 3)), np.full((2, 2), 0.5)):
        with pytest.raises(ValueError, match=r"mask must be of 0 and 1 in the shape .*\(2, 2\)"):
            losses.SquaredError(np.ones((2, 2)), mask=mask)


def test_losses_without_a_common_dual_form():
    with pytest.raises(ValueError, match=r"r and the goal are of different kinds.*`compare`"):
        ll.mismatch(LINEAR, views(), softplus(), 1, goal=rules.SimCLR())
    with pytest.raises(ValueError, match="SimCLR is a loss of two views, which has no dual form"):
        ll.mismatch(LINEAR, views(), [softplus(), rules.SimCLR(), *[softplus()] * 2], 1, window=2)
