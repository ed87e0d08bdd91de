"""Questions about B: given, trained, how near to backpropagation's, and what the losses are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import linlocal as ll
from linlocal import autodiff, losses, rules, testing
from linlocal.losses import scores
from linlocal.projection import ConvergenceError
from linlocal.rules import Given, Penalty, Trained

WIDTHS = (6, 5, 4, 3)
GENERIC = ll.DeepLinear.uniform(WIDTHS, seed=1)
ISOMETRIC = ll.DeepLinear.orthogonal((6, 4, 5, 5), seed=2)
RELU = ll.DeepReLU.gaussian(WIDTHS, seed=3)
CONTEXTS = {
    "same": rules.CLAPP,
    "top": rules.CLAPP_DFB,
    "both": rules.CLAPP_BOTH,
    "each": rules.CLAPP_EACH,
}


def pairs(samples=7):
    return ll.Pairs.from_views(*(1.5 * a for a in testing.samples(samples, 6, 0)))


def assert_same(one, other, allowed=1e-12):
    testing.assert_same_update(one, other, allowed)


def both_updates(network, rule, package=ll):
    return [
        package.local_update(network, pairs(), rule),
        package.global_update(network, pairs(), rule),
    ]


# -- given -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["frobenius", "downstream"])
@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("kind", ["optimal", "random", Trained(3, 0.1, "random")])
def test_the_projections_of_a_rule_handed_in_give_its_updates(name, metric, kind):
    rule = replace(CONTEXTS[name]("softplus", penalty=Penalty(0.1, metric)), projection=kind)
    found = ll.projections(GENERIC, pairs(), rule).matrices
    given = replace(rule, projection=Given(found))
    for mine, theirs in zip(both_updates(GENERIC, given), both_updates(GENERIC, rule), strict=True):
        assert_same(mine, theirs)
    for mine, theirs in zip(
        both_updates(GENERIC, given), both_updates(GENERIC, given, autodiff), strict=True
    ):
        assert_same(mine, theirs)
    again = ll.projections(GENERIC, pairs(), given).matrices
    for b, c in zip(sum(found, ()), sum(again, ()), strict=True):
        np.testing.assert_array_equal(b, c)


def test_other_projections_give_other_updates():
    rule = rules.CLAPP("softplus", penalty=0.1)
    found = ll.projections(GENERIC, pairs(), rule).matrices
    twice = replace(rule, projection=Given([[2.0 * b for b in of_layer] for of_layer in found]))
    for mine, theirs in zip(both_updates(GENERIC, twice), both_updates(GENERIC, rule), strict=True):
        assert np.linalg.norm(mine[0] - theirs[0]) > 0.1 * np.linalg.norm(theirs[0])


@pytest.mark.parametrize("network", [GENERIC, RELU])
def test_one_matrix_serves_all_directions(network):
    rng = np.random.default_rng(0)
    shared = [rng.standard_normal((n, n)) for n in network.widths[1:]]
    one, two = (
        ll.Rule("given", losses.TypeOne(scores.Softplus()), "same", Given(matrices))
        for matrices in (shared, [[b, b] for b in shared])
    )
    for mine, theirs, oracle in zip(
        both_updates(network, one),
        both_updates(network, two),
        both_updates(network, one, autodiff),
        strict=True,
    ):
        assert_same(mine, theirs)
        assert_same(mine, oracle)


def test_matching_projections_handed_in_make_it_exact():
    """Statement 1, whatever B_L is: no orthogonality and no optimum."""
    top = np.random.default_rng(0).standard_normal((3, 3))
    down = [GENERIC.downstream(l) for l in GENERIC.layers]
    for context, carried in (
        ("same", [v.T @ top @ v for v in down]),
        ("top", [v.T @ top for v in down]),
    ):
        rule = ll.Rule("given", losses.TypeTwo(scores.Softplus()), context, Given(carried))
        explained = ll.explain(GENERIC, pairs(), rule)
        assert explained.exact
        assert [c.name for c in explained.layers[0].conditions] == ["score matching"]
        alignment = ll.projections(GENERIC, pairs(), rule).alignment
        assert (alignment.relative_distance < 1e-12).all()
        moved = [b + 0.1 * (l == 0) for l, b in enumerate(carried)]
        assert not ll.explain(GENERIC, pairs(), replace(rule, projection=Given(moved))).exact


EYES = [np.eye(n) for n in WIDTHS[1:]]


@pytest.mark.parametrize(
    ("matrices", "error", "words"),
    [
        (EYES[:2], ValueError, "Projections of 2 layers are given for a network of 3 layers"),
        (
            [EYES[0], np.eye(5), EYES[2]],
            ValueError,
            r"The projection of layer 2 must be \(4, 4\) .* got \(5, 5\)",
        ),
        ([EYES[0], EYES[1], [EYES[2]] * 3], ValueError, "3 projections are given for layer 3"),
        ([], ValueError, "need at least one matrix for every layer"),
        ([EYES[0], [], EYES[2]], ValueError, "need at least one matrix for every layer"),
        ([EYES[0], EYES[1], np.eye(3) * np.nan], ValueError, "each of the projections of layer 3"),
        ([EYES[0], [[1.0, 2.0]], EYES[2]], ValueError, "projections of layer 2 must be a matrix"),
        (3, TypeError, "matrices must be a sequence of matrices"),
        ([EYES[0], 1.0, EYES[2]], TypeError, "projections of layer 2 must be a sequence"),
    ],
)
def test_bad_projections_are_refused_with_their_layer(matrices, error, words):
    with pytest.raises(error, match=words):
        ll.compare(GENERIC, pairs(), replace(rules.CLAPP("softplus"), projection=Given(matrices)))


# -- trained ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["frobenius", "downstream"])
@pytest.mark.parametrize("start", ["zero", "random"])
@pytest.mark.parametrize("score", ["linear", "softplus", "smoothed_hinge", "hinge"])
@pytest.mark.parametrize("name", CONTEXTS)
def test_trained_projections_in_numpy_and_by_autograd(name, score, start, metric):
    rule = replace(
        CONTEXTS[name](score, penalty=Penalty(0.2, metric)), projection=Trained(6, 0.15, start)
    )
    for mine, oracle in zip(
        both_updates(GENERIC, rule), both_updates(GENERIC, rule, autodiff), strict=True
    ):
        assert_same(mine, oracle)


@pytest.mark.parametrize("loss", [losses.TypeOne(scores.Softplus()), losses.InfoNCE(0.7)])
def test_trained_projections_of_other_losses_and_networks(loss):
    rule = ll.Rule("trained", loss, "same", Trained(5, 0.2, "random"), 0.1)
    for mine, oracle in zip(
        both_updates(RELU, rule), both_updates(RELU, rule, autodiff), strict=True
    ):
        assert_same(mine, oracle)


@pytest.mark.parametrize("steps", [0, 1, 7, 400])
@pytest.mark.parametrize("rate", [0.3, 4.0, 5.5])
def test_the_closed_form_of_a_linear_score_is_its_steps(steps, rate):
    """One subclass declares nothing, so it is iterated."""

    class Plain(scores.Linear):
        def slope(self, m):
            return np.full_like(m, -1.0)

    of = {
        score: replace(
            rules.CLAPP(score, penalty=0.2), projection=Trained(steps, rate, "random"), seed=4
        )
        for score in ("linear", Plain())
    }
    closed, iterated = (ll.projections(GENERIC, pairs(), rule).matrices for rule in of.values())
    for b, c in zip(sum(closed, ()), sum(iterated, ()), strict=True):
        np.testing.assert_allclose(b, c, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("start", ["zero", "random"])
def test_many_steps_lead_to_the_optimum(name, start):
    optimal = CONTEXTS[name]("softplus", penalty=0.3)
    wanted = ll.compare(GENERIC, pairs(), optimal).cosine.values
    distances = []
    for steps in (10, 2000):
        rule = replace(optimal, projection=Trained(steps, 0.1, start))
        distances.append(np.abs(ll.compare(GENERIC, pairs(), rule).cosine.values - wanted).max())
    assert distances[-1] < 1e-10
    assert distances[0] > 1e-4
    trained, exact = (ll.projections(GENERIC, pairs(), r).matrices for r in (rule, optimal))
    for b, c in zip(sum(trained, ()), sum(exact, ()), strict=True):
        np.testing.assert_allclose(b, c, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_from_zero_every_number_of_steps_keeps_what_makes_it_exact(steps):
    """The steps of both layers are the same under an isometry and under the metric penalty."""
    from_zero, random = Trained(steps, 0.1), Trained(steps, 0.1, "random")
    for name, make in CONTEXTS.items():
        if name in ("same", "top"):
            rule = replace(make("softplus", penalty=0.2), projection=from_zero)
            assert ll.explain(ISOMETRIC, pairs(), rule).exact
            assert not ll.explain(ISOMETRIC, pairs(), replace(rule, projection=random)).exact
            assert not ll.explain(GENERIC, pairs(), rule).exact
            metric = replace(rule, penalty=Penalty(0.2, "downstream"))
            assert ll.explain(GENERIC, pairs(), metric).exact
            assert not ll.explain(GENERIC, pairs(), replace(metric, projection=random)).exact


def test_for_a_linear_score_from_zero_the_steps_change_no_direction():
    """B is a multiple of the optimum, the same one in every layer; for softplus it is not."""
    for score, same in (("linear", True), ("softplus", False)):
        optimal = rules.CLAPP(score, penalty=0.2)
        few = replace(optimal, projection=Trained(3, 0.1))
        one, other = (ll.compare(GENERIC, pairs(), r).cosine.values[0] for r in (few, optimal))
        assert (abs(one - other) < 1e-12) == same
        assert same or abs(one - other) > 1e-3


def test_a_rate_that_is_too_large_is_refused():
    for score in ("linear", "softplus"):
        rule = replace(rules.CLAPP(score, penalty=1.0), projection=Trained(5000, 3.0))
        with pytest.raises(ConvergenceError, match="lower the rate below 2 over the largest"):
            ll.compare(GENERIC, pairs(), rule)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((-1, 0.1), ValueError, "steps must be at least 0"),
        ((1.5, 0.1), TypeError, "steps must be a whole number"),
        ((1, 0.0), ValueError, "rate must be positive"),
        ((1, 0.1, "one"), ValueError, 'start must be "zero" or "random"'),
    ],
)
def test_bad_training_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        Trained(*arguments)


def test_given_and_trained_projections_belong_to_pairs_and_to_the_theory():
    for kind in (Given(EYES), Trained(3, 0.1)):
        with pytest.raises(ValueError, match="A view loss goes with"):
            replace(rules.SimCLR(), projection=kind)
        rule = replace(rules.CLAPP("softplus"), projection=kind)
        with pytest.raises(ValueError, match="On a network the optimiser trains B"):
            ll.analysis.local_losses.NetworkRule(rule=rule)
        with pytest.raises(ll.symbolic.NotApplicable, match=rule.projection_name):
            ll.symbolic.derive(rule)
        with pytest.raises(ll.symbolic.NotApplicable, match=rule.projection_name):
            ll.symbolic.prove("isometry", rule=rule)


# -- alignment -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTEXTS)
def test_alignment_against_its_definition(name):
    """From the matrices and the weights alone."""
    rule = CONTEXTS[name]("softplus", penalty=0.1)
    found = ll.projections(GENERIC, pairs(), rule)
    weights = [np.asarray(w) for w in GENERIC.weights]
    names = ["same", "top"] if name == "each" else [name]
    for l in range(1, 4):
        down = np.eye(WIDTHS[l])
        for w in weights[l:]:
            down = w @ down
        for number, b in enumerate(found.matrices[l - 1]):
            top, context = found.matrices[-1][number], names[number % len(names)]
            carried = {
                "same": down.T @ top @ down,
                "top": down.T @ top,
                "both": np.hstack([down.T @ top @ down, down.T @ top]) / 2.0,
            }[context if l < 3 else "top"]
            row = found.alignment.sel(layer=l, direction=number)
            distance = np.linalg.norm(b - carried) / np.linalg.norm(carried)
            assert float(row.relative_distance) == pytest.approx(distance, rel=1e-10, abs=1e-14)
            s = np.linalg.lstsq(carried.reshape(-1, 1), b.ravel(), rcond=None)[0][0]
            assert float(row.multiple) == pytest.approx(s)
            left = np.linalg.norm(b - s * carried) / np.linalg.norm(b)
            assert float(row.distance_of_multiple) == pytest.approx(left, abs=1e-12)
            assert float(row.cosine) ** 2 + left**2 == pytest.approx(1.0)
            ratio = np.linalg.norm(b) / np.linalg.norm(carried)
            assert float(row.norm_ratio) == pytest.approx(ratio)


def test_projections_are_aligned_where_updates_are_equal():
    for network, rule in (
        (GENERIC, replace(rules.CLAPP("softplus"), projection="matched")),
        (GENERIC, replace(rules.CLAPP_BOTH("softplus"), projection="matched")),
        (GENERIC, rules.CLAPP("softplus", penalty=Penalty(0.1, "downstream"))),
        (GENERIC, rules.CLAPP_DFB("softplus", penalty=Penalty(0.1, "downstream"))),
        (GENERIC, rules.CLAPP_EACH("softplus", penalty=Penalty(0.1, "downstream"))),
    ):
        alignment = ll.projections(network, pairs(), rule).alignment
        assert (alignment.relative_distance < 1e-10).all()
        assert (alignment.cosine > 1.0 - 1e-12).all()
    plain = ll.projections(GENERIC, pairs(), rules.CLAPP("softplus")).alignment
    assert (plain.relative_distance.sel(layer=[1, 2]) > 1e-2).all()


def test_a_conformal_network_is_aligned_up_to_a_multiple():
    """Of a linear score: B_l is proportional to V^T B_L V on the span of the batch."""
    network = ll.DeepLinear.conformal((6, 4, 4, 4), 0.5, seed=0)
    for rule in (rules.CLAPP("linear"), rules.CLAPP_DFB("linear")):
        alignment = ll.projections(network, pairs(), rule).alignment
        assert (alignment.distance_of_multiple < 1e-7).all()
        assert (alignment.cosine > 1.0 - 1e-12).all()
        assert (alignment.relative_distance.sel(layer=1) > 0.1).all()


def test_pooled_maps_are_compared_unpooled():
    rng = np.random.default_rng(0)
    network = ll.DeepLinear(
        [
            ll.Convolution(rng.standard_normal((3, 2, 1, 1)), (2, 4, 4)),
            ll.Convolution(
                np.linalg.qr(rng.standard_normal((3, 3)))[0][..., None, None], (3, 4, 4)
            ),
        ]
    )
    x, view = testing.samples(7, 32, 0)
    batch = ll.Pairs.from_views(x, view)
    rule = replace(rules.CLAPP("softplus", penalty=0.1), pooling=(2, 2))
    # The upper layer is an isometry that commutes with pooling.
    found = ll.projections(network, batch, rule)
    assert found.matrices[0][0].shape == (12, 12)
    assert (found.alignment.relative_distance < 1e-9).all()
    other = ll.projections(network, batch, replace(rule, pooling=(1, 2)))
    assert (other.alignment.relative_distance.sel(layer=1) > 1e-2).all()


def test_what_has_no_downstream_map_or_no_projection_is_told():
    rule = rules.CLAPP("softplus")
    found = ll.projections(RELU, pairs(), rule)
    assert [b.shape for b, _ in found.matrices] == [(5, 5), (4, 4), (3, 3)]
    with pytest.raises(ValueError, match="linear network, got a DeepReLU"):
        found.alignment  # noqa: B018
    for rule in (rules.SimCLR(), rules.SCFF()):
        with pytest.raises(TypeError, match="has no projections: its loss is of"):
            ll.projections(GENERIC, pairs(), rule)


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", [GENERIC, RELU], ids=["linear", "relu"])
@pytest.mark.parametrize(
    "rule",
    [
        *(make("softplus", penalty=0.1) for make in CONTEXTS.values()),
        replace(rules.CLAPP("softplus"), projection="random"),
        replace(rules.CLAPP("softplus"), projection=Trained(3, 0.1)),
        rules.PhyLL(),
        rules.GreedyInfoMax(penalty=0.1),
        rules.SCFF(),
        rules.SimCLR(),
        rules.VICReg(),
        rules.LPL(),
    ],
    ids=lambda rule: f"{rule.name}, {rule.projection_name}",
)
def test_values_of_losses_are_those_of_the_oracle(network, rule):
    values = ll.loss_values(network, pairs(), rule)
    for l in network.layers:
        row, expected = values.sel(layer=l), autodiff.loss(network, pairs(), rule, l)
        assert float(row.penalised_loss) == pytest.approx(expected, rel=1e-10)
        penalised = rule.projection == "optimal" or isinstance(rule.projection, Trained)
        penalised |= rule.projection == "random" and l == network.depth
        assert (float(row.penalised_loss) > float(row.loss)) == penalised


@pytest.mark.parametrize("metric", ["frobenius", "downstream"])
def test_the_penalty_is_that_of_the_projections(metric):
    rule = rules.CLAPP("softplus", penalty=Penalty((0.1, 0.2, 0.3), metric))
    values, found = (call(GENERIC, pairs(), rule) for call in (ll.loss_values, ll.projections))
    for l, of_layer in enumerate(found.matrices, start=1):
        expected = sum(0.05 * l * np.sum(b**2) for b in of_layer)
        row = values.sel(layer=l)
        assert float(row.penalised_loss - row.loss) == pytest.approx(expected, rel=1e-9)


def test_the_optimum_has_the_smallest_penalised_loss_and_each_layer_its_rule():
    optimal = rules.CLAPP("softplus", penalty=0.1)
    trained = [replace(optimal, projection=Trained(n, 0.05)) for n in (0, 5, 50)]
    values = [ll.loss_values(GENERIC, pairs(), r).penalised_loss.values for r in trained]
    best = ll.loss_values(GENERIC, pairs(), optimal).penalised_loss.values
    assert (values[0] > values[1]).all()
    assert (values[1] > values[2]).all()
    assert (values[2] > best).all()
    mixed = ll.loss_values(GENERIC, pairs(), [optimal, rules.PhyLL(), optimal])
    assert mixed.penalised_loss.values[0] == best[0]
    phyll = ll.loss_values(GENERIC, pairs(), rules.PhyLL())
    assert mixed.loss.values[1] == phyll.loss.values[1]


def test_torch_matrices_can_be_given():
    found = ll.projections(GENERIC, pairs(), rules.CLAPP("softplus")).matrices
    rule = replace(
        rules.CLAPP("softplus"), projection=Given([[torch.tensor(b) for b in of] for of in found])
    )
    for mine, theirs in zip(
        both_updates(GENERIC, rule), both_updates(GENERIC, rules.CLAPP("softplus")), strict=True
    ):
        assert_same(mine, theirs)
