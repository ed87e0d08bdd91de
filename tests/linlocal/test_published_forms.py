"""What published scripts use: a loss of each context, stacked negatives, InfoNCE of cosines."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import linlocal as ll
from linlocal import autodiff, losses, rules, testing
from linlocal.autodiff import view_formula
from linlocal.losses import scores
from linlocal.rules import Penalty
from linlocal.testing import assert_same_update

EXACT, VISIBLE = 1e-12, 1e-3
SAMPLES, WIDTHS = 6, (5, 4, 3, 3)


def views(samples=SAMPLES, width=WIDTHS[0]):
    return [2 * a for a in testing.samples(samples, width, 0)]


def distance(a, b):
    """The largest relative distance of two updates, layer by layer."""
    return max(np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in zip(a, b, strict=True))


# -- a loss of each context ------------------------------------------------------------------------

NETWORKS = {
    "linear": ll.DeepLinear.uniform(WIDTHS, seed=1),
    "relu": ll.DeepReLU.gaussian(WIDTHS, seed=2),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("update", [ll.local_update, ll.global_update])
@pytest.mark.parametrize("projection", ["optimal", "random"])
def test_a_loss_of_each_context_is_the_sum_of_clapp_and_direct_feedback(
    network, update, projection
):
    network, pairs = NETWORKS[network], ll.Pairs.from_views(*views())
    same, top, each, both = (
        replace(rule("softplus"), projection=projection)
        for rule in (rules.CLAPP, rules.CLAPP_DFB, rules.CLAPP_EACH, rules.CLAPP_BOTH)
    )
    if projection == "optimal":
        parts = zip(update(network, pairs, same), update(network, pairs, top), strict=True)
        assert_same_update(update(network, pairs, each), [a + b for a, b in parts], EXACT)
    oracle = getattr(autodiff, update.__name__)(network, pairs, each)
    assert_same_update(update(network, pairs, each), oracle, 1e-9)
    # The sum of both scores under one loss is something else, but for the top layer's.
    gap = distance(update(network, pairs, each), [2 * u for u in update(network, pairs, both)])
    assert (gap > VISIBLE) == (update is ll.local_update)


def test_the_top_layer_has_one_context_and_counts_it_twice():
    network, pairs = NETWORKS["linear"], ll.Pairs.from_views(*views())
    each, same = rules.CLAPP_EACH("softplus"), rules.CLAPP("softplus")
    for update in (ll.local_update, autodiff.local_update):
        np.testing.assert_allclose(
            update(network, pairs, each)[-1], 2 * update(network, pairs, same)[-1], rtol=1e-9
        )
    assert autodiff.loss(network, pairs, each, 3) == pytest.approx(
        2 * autodiff.loss(network, pairs, same, 3)
    )


@pytest.mark.parametrize("score", ["linear", "softplus", "hinge"])
def test_both_losses_are_exact_for_an_isometry_a_matched_projection_and_the_metric_penalty(score):
    pairs = ll.Pairs.from_views(*views())
    isometric = ll.DeepLinear.orthogonal([5, 4, 4, 6], seed=3)
    rule, any_map = rules.CLAPP_EACH(score), NETWORKS["linear"]
    exact = (
        (isometric, rule),
        (any_map, replace(rule, projection="matched")),
        (any_map, replace(rule, penalty=Penalty(0.01, "downstream"))),
    )
    for network, changed in exact:
        explained = ll.explain(network, pairs, changed)
        assert explained.exact
    explained = ll.explain(isometric, pairs, rule)
    assert all(c.holds for layer in explained.layers for c in layer.conditions)
    broken = ll.explain(any_map, pairs, rule)
    assert not broken.exact
    assert not any(c.holds for c in broken.layers[0].conditions)
    # One penalty cannot serve both losses under a conformal map.
    conformal = ll.DeepLinear.conformal([5, 4, 4, 6], 1.5, seed=3)
    found = ll.explain(conformal, pairs, rule)
    assert not found.exact
    assert "rescaled penalty" not in [r.name for r in found.remedies]
    for remedy in found.remedies:
        assert ll.explain(*remedy.apply()).exact


def test_the_terms_of_the_mismatch_add_up():
    network, pairs, rule = NETWORKS["linear"], ll.Pairs.from_views(*views()), rules.CLAPP_EACH()
    local, goal = ll.local_update(network, pairs, rule), ll.global_update(network, pairs, rule)
    for l in network.layers:
        terms = ll.mismatch(network, pairs, rule, l)
        gap = goal[l - 1] - local[l - 1]
        np.testing.assert_allclose(sum(terms.values()), gap, atol=1e-12 * np.abs(goal[l - 1]).max())


def test_an_identity_needs_one_context():
    with pytest.raises(ValueError, match="identity projection needs one context"):
        replace(rules.CLAPP_EACH(), projection="identity")


# -- negatives in the stack of both views ----------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_stacked_negatives_are_the_next_anchors_in_the_stack_of_both_views(count):
    x, view = views()
    stacked = ll.Pairs.from_views(x, view, negatives="stacked", num_negatives=count)
    stack = np.arange(2 * SAMPLES)
    for direction, anchors in zip(stacked.directions, np.split(stack, 2), strict=True):
        for group, first in enumerate(anchors):
            mine = direction.group == group
            expected = [(first + shift) % (2 * SAMPLES) for shift in range(count + 1)]
            assert direction.anchor[mine].tolist() == expected
            assert set(direction.reference[mine]) == {(first + SAMPLES) % (2 * SAMPLES)}
    np.testing.assert_array_equal(stacked.samples, np.vstack([x, view]))


@pytest.mark.parametrize("name", ["CLAPP", "CLAPP_EACH", "PhyLL", "GreedyInfoMax", "SCFF"])
def test_stacked_negatives_are_those_of_the_next_sample_if_and_only_if_both_views_are_one(name):
    rule = rules.from_name(name, **({"score": "softplus"} if "CLAPP" in name else {}))
    network, (x, view) = NETWORKS["relu"], views()

    def updates(second, negatives, update=ll.local_update):
        return update(network, ll.Pairs.from_views(x, second, negatives=negatives), rule)

    assert_same_update(updates(x, "stacked"), updates(x, "next"), 1e-10)
    assert distance(updates(view, "stacked"), updates(view, "next")) > VISIBLE
    oracle = updates(view, "stacked", autodiff.local_update)
    assert_same_update(updates(view, "stacked"), oracle, 1e-9)


def test_a_stack_of_views_needs_both_as_anchors():
    with pytest.raises(ValueError, match='"stacked" runs over the anchors of both views'):
        ll.Pairs.from_views(*views(), negatives="stacked", directions="forward")


# -- InfoNCE of cosines ----------------------------------------------------------------------------


def by_hand(z, view, temperature):
    """The cross-entropy, sample by sample."""
    total = 0.0
    for k, anchor in enumerate(z):
        cosines = [anchor @ v / np.linalg.norm(anchor) / np.linalg.norm(v) for v in view]
        weights = np.exp(np.array(cosines) / temperature)
        total -= np.log(weights[k] / weights.sum())
    return total / len(z)


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_cosine_infonce_in_numpy_in_torch_and_by_hand(temperature):
    loss, (z, view) = losses.CosineInfoNCE(temperature), views()
    tensors = [torch.tensor(a, requires_grad=True) for a in (z, view)]
    value = view_formula(loss)(*tensors)
    assert value.item() == pytest.approx(by_hand(z, view, temperature), rel=1e-12)
    assert loss.value(z, view) == pytest.approx(by_hand(z, view, temperature), rel=1e-12)
    for mine, theirs in zip(
        loss.gradients(z, view), torch.autograd.grad(value, tensors), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)


def test_cosine_infonce_knows_directions_only_and_one_view_asks_the_other():
    loss, (z, view) = losses.CosineInfoNCE(), views()
    lengths = np.random.default_rng(0).uniform(0.5, 2.0, (SAMPLES, 1))
    assert loss.value(lengths * z, view / lengths) == pytest.approx(loss.value(z, view))
    assert losses.CosineInfoNCE(1.0).value(z, view) != pytest.approx(loss.value(z, view))
    assert loss.value(view, z) != pytest.approx(loss.value(z, view), rel=VISIBLE)
    # NT-Xent has the negatives of both views.
    assert losses.NTXent(0.1).value(z, view) > loss.value(z, view)


def test_a_dead_sample_has_no_gradient_and_no_nan():
    loss, (z, view) = losses.CosineInfoNCE(), views()
    z[1] = view[2] = 0.0
    first, second = loss.gradients(z, view)
    assert not first[1].any()
    assert not second[2].any()
    tensors = [torch.tensor(a, requires_grad=True) for a in (z, view)]
    for mine, theirs in zip(
        (first, second), torch.autograd.grad(view_formula(loss)(*tensors), tensors), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)


def test_cosine_infonce_is_exact_for_an_isometry_and_not_the_bilinear_one():
    pairs = ll.Pairs.from_views(*views(), num_negatives=SAMPLES - 1)
    isometric = ll.DeepLinear.orthogonal([5, 4, 4, 6], seed=3)
    for rule in (rules.CosineInfoNCE(), rules.CosineInfoNCE(0.5)):
        assert ll.explain(isometric, pairs, rule).exact
        assert not ll.explain(NETWORKS["linear"], pairs, rule).exact
    bilinear = ll.local_update(isometric, pairs, rules.GreedyInfoMax(0.1))
    cosine = ll.local_update(isometric, pairs, rules.CosineInfoNCE(0.1))
    a, b = bilinear[0], cosine[0]
    assert np.vdot(a, b) < 0.99 * np.linalg.norm(a) * np.linalg.norm(b)


def test_a_smooth_hinge_tends_to_the_published_hinge():
    """The published score is a hinge with margin 1; the oracle differentiates its neighbour."""
    network, pairs = NETWORKS["linear"], ll.Pairs.from_views(*views())
    hinge = ll.local_update(network, pairs, rules.CLAPP_EACH("hinge"))
    gaps = [
        distance(
            ll.local_update(network, pairs, rules.CLAPP_EACH(scores.SmoothedHinge(1.0, width))),
            hinge,
        )
        for width in (0.1, 0.01)
    ]
    assert gaps[1] < gaps[0] / 5


# -- VICReg ----------------------------------------------------------------------------------------


def vicreg_as_printed(z, view):
    """Eqs. 1-6 of Bardes et al. 2022 (arXiv 2105.04906), sum by sum."""
    n, d = z.shape

    def variance(a):
        return sum(max(0.0, 1.0 - np.sqrt(np.var(a[:, j], ddof=1) + 1e-4)) for j in range(d)) / d

    def covariance(a):
        mean = sum(a) / n
        c = sum(np.outer(row - mean, row - mean) for row in a) / (n - 1)
        return sum(c[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d

    pull = sum(np.sum((a - b) ** 2) for a, b in zip(z, view, strict=True)) / n
    spread = variance(z) + variance(view)
    return 25.0 * pull + 25.0 * spread + 1.0 * (covariance(z) + covariance(view))


def vicreg_as_released(x, y):
    """The lines of ``main_vicreg.py`` of the authors, without gathering."""
    batch, features = x.shape
    repr_loss = torch.nn.functional.mse_loss(x, y)
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    std_x, std_y = torch.sqrt(x.var(dim=0) + 0.0001), torch.sqrt(y.var(dim=0) + 0.0001)
    std_loss = torch.mean(torch.relu(1 - std_x)) / 2 + torch.mean(torch.relu(1 - std_y)) / 2
    cov_x, cov_y = (x.T @ x) / (batch - 1), (y.T @ y) / (batch - 1)
    off = ~torch.eye(features, dtype=torch.bool)
    cov_loss = cov_x[off].pow(2).sum() / features + cov_y[off].pow(2).sum() / features
    return 25.0 * repr_loss + 25.0 * std_loss + 1.0 * cov_loss


def some_views():
    """Some units with a standard deviation below 1, and some above."""
    spread = np.array([0.2, 0.5, 1.0, 2.0, 3.0])
    return [spread * a for a in testing.samples(9, 5, 4)]


@pytest.mark.parametrize("form", ["article", "released", "mixed"])
def test_the_forms_of_vicreg_in_numpy_in_torch_and_from_scratch(form):
    z, view = some_views()
    loss = losses.VICReg(form=form)
    tensors = [torch.tensor(a, requires_grad=True) for a in (z, view)]
    value = view_formula(loss)(*tensors)
    article, released = vicreg_as_printed(z, view), vicreg_as_released(*tensors).item()
    parts = {"article": article, "released": released}
    # The distance of the released code and the variance of the article.
    pull = 25.0 * np.sum((z - view) ** 2) * (1.0 / 9 - 1.0 / z.size)
    expected = parts.get(form, article - pull)
    assert loss.value(z, view) == pytest.approx(expected, rel=1e-12)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    assert rules.VICReg(form=form).loss == loss
    for mine, theirs in zip(
        loss.gradients(z, view), torch.autograd.grad(value, tensors), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-13)


def test_no_form_of_vicreg_is_a_multiple_of_another():
    z, view = some_views()
    gradients = {
        form: np.concatenate(losses.VICReg(form=form).gradients(z, view)).ravel()
        for form in ("article", "released", "mixed")
    }
    for a, b in (("article", "released"), ("article", "mixed"), ("released", "mixed")):
        x, y = gradients[a], gradients[b]
        assert x @ y / np.linalg.norm(x) / np.linalg.norm(y) < 1.0 - VISIBLE


def test_the_mixed_form_is_the_released_one_with_twice_the_variance():
    z, view = some_views()
    mixed, released = losses.VICReg(), losses.VICReg(variance=50.0, form="released")
    assert mixed.value(z, view) == released.value(z, view)


def test_an_unknown_form_of_vicreg_is_refused():
    with pytest.raises(ValueError, match="form must be one of article, released, mixed"):
        rules.VICReg(form="paper")


# -- LPL -------------------------------------------------------------------------------------------


def moments_by_sums(a):
    n, d = a.shape
    mean = sum(a) / n
    c = sum(np.outer(row - mean, row - mean) for row in a) / (n - 1)
    log_variance = sum(np.log(c[i, i] + 1e-4) for i in range(d)) / d
    covariance = sum(c[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / (d * d - d)
    return mean, log_variance, covariance


def lpl_as_released(z, view):
    """Mean square, log-variances and covariances of Halvagal & Zenke's code, by sums."""
    pull = sum(np.sum((a - b) ** 2) for a, b in zip(z, view, strict=True)) / z.size
    (_, v, c), (_, v_view, c_view) = moments_by_sums(z), moments_by_sums(view)
    return pull - 0.5 * (v + v_view) + 10.0 * 0.5 * (c + c_view)


def lpl_as_printed(present, past):
    """Halvagal & Zenke 2023 with eq. 6 as printed, before the erratum; one present view."""
    n, d = present.shape
    mean, log_variance, _ = moments_by_sums(present)
    pull = sum(np.sum((a - b) ** 2) for a, b in zip(present, past, strict=True)) / (2 * d * n)
    decorrelation = sum(
        (row[i] - mean[i]) ** 2 * (row[k] - mean[k]) ** 2
        for row in present
        for i in range(d)
        for k in range(d)
        if k != i
    ) / ((n - 1) * (d * d - d))
    return pull - 0.5 * log_variance + 10.0 * decorrelation


def lpl_update(present, past):
    """The activity's part of the learning rule, eq. 7 with the printed decorrelation, times -1."""
    n, d = present.shape
    centred = present - present.mean(0)
    variance = np.sum(centred**2, 0) / (n - 1) + 1e-4
    others = np.sum(centred**2, 1, keepdims=True) - centred**2
    alpha, beta = n / (n - 1), 4 * n / ((n - 1) * (d - 1))
    rule = past - present + alpha * centred / variance - 10.0 * beta * centred * others
    return -rule / (d * n)


def test_the_forms_of_lpl_are_those_of_the_code_and_of_the_article():
    z, view = some_views()
    released, article = (losses.LPL(form=form) for form in ("released", "article"))
    assert released.value(z, view) == pytest.approx(lpl_as_released(z, view), rel=1e-12)
    printed = 0.5 * (lpl_as_printed(z, view) + lpl_as_printed(view, z))
    assert article.value(z, view) == pytest.approx(printed, rel=1e-12)
    for mine, update in zip(
        article.gradients(z, view), (lpl_update(z, view), lpl_update(view, z)), strict=True
    ):
        np.testing.assert_allclose(mine, update / 2, rtol=1e-11, atol=1e-14)
    for form in ("released", "article", "mixed"):
        assert rules.LPL(form, hebbian=2.0).loss == losses.LPL(hebbian=2.0, form=form)


def test_no_form_of_lpl_is_a_multiple_of_another():
    z, view = some_views()
    gradients = {
        form: np.concatenate(losses.LPL(form=form).gradients(z, view)).ravel()
        for form in ("article", "released", "mixed")
    }
    for a, b in (("article", "released"), ("article", "mixed"), ("released", "mixed")):
        x, y = gradients[a], gradients[b]
        assert x @ y / np.linalg.norm(x) / np.linalg.norm(y) < 1.0 - VISIBLE


def test_the_mixed_form_of_lpl_is_twice_the_released_one_with_a_quarter_of_the_prediction():
    z, view = some_views()
    mixed = losses.LPL(predictive=3.0).gradients(z, view)
    released = losses.LPL(predictive=0.75, form="released").gradients(z, view)
    for a, b in zip(mixed, released, strict=True):
        np.testing.assert_allclose(a, 2.0 * b, rtol=1e-12, atol=1e-15)


def test_without_decorrelation_the_article_has_half_of_the_released_prediction():
    z, view = some_views()
    article = losses.LPL(predictive=2.0, decorrelation=0.0, form="article").gradients(z, view)
    released = losses.LPL(decorrelation=0.0, form="released").gradients(z, view)
    for a, b in zip(article, released, strict=True):
        np.testing.assert_allclose(2.0 * a, b, rtol=1e-12, atol=1e-15)


def test_only_the_printed_decorrelation_pushes_at_independent_units():
    """All sign patterns of three units, the same number of times: no covariance at all."""
    z = np.array([[a, b, c] for a in (-1.0, 1.0) for b in (-1.0, 1.0) for c in (-1.0, 1.0)])
    for form, pushes in (("released", False), ("mixed", False), ("article", True)):
        (gradient, _) = losses.LPL(0.0, 0.0, 1.0, form=form).gradients(z, z)
        assert (np.linalg.norm(gradient) > VISIBLE) == pushes


def test_an_unknown_form_of_lpl_is_refused():
    with pytest.raises(ValueError, match="form must be one of article, released, mixed"):
        rules.LPL("erratum")


# -- the penalty -----------------------------------------------------------------------------------


def test_the_published_loss_is_half_of_ours_at_twice_its_decay():
    """The mean over rows of both directions plus b_decay/2 times both squared norms."""
    decay, network, pairs = 0.03, NETWORKS["linear"], ll.Pairs.from_views(*views())
    rule = rules.CLAPP("softplus", penalty=2.0 * decay)
    z = network.activities(pairs.samples).z[-1]
    found = [
        ll.optimal_projection(z[d.anchor_rows], z[d.reference_rows], d, rule.loss, 2.0 * decay)
        for d in pairs.directions
    ]
    rows, norms = [], 0.0
    for d, projection in zip(pairs.directions, found, strict=True):
        u = np.einsum("pi,ij,pj->p", z[d.anchor], projection.matrix, z[d.reference])
        # A positive and a negative pair for each row.
        each = np.logaddexp(0.0, 1.0 - d.sign * u)
        rows += list(each[d.sign > 0] + each[d.sign < 0])
        norms += np.sum(projection.matrix**2)
    published = np.mean(rows) + decay / 2.0 * norms
    assert autodiff.loss(network, pairs, rule, network.depth) == pytest.approx(2.0 * published)
