"""Every loss is written twice, in numpy with its derivatives and in torch: both say the same."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from linlocal import losses
from linlocal.autodiff import (
    goodness_formula,
    pair_formula,
    score_formula,
    slope,
    view_formula,
)
from linlocal.autodiff.tensors import judged
from linlocal.losses import scores
from linlocal.pairs import Direction
from linlocal.testing import Exponential


class Steeper(scores.Hinge):
    """A subclass of a named score, and another function: softplus of twice the margin."""

    def value(self, m):
        return np.logaddexp(0.0, 2.0 * (self.margin - m))

    def slope(self, m):
        return -2.0 / (1.0 + np.exp(-2.0 * (self.margin - m)))

    def curvature(self, m):
        p = 1.0 / (1.0 + np.exp(-2.0 * (self.margin - m)))
        return 4.0 * p * (1.0 - p)


@dataclass(frozen=True)
class Ranking:
    """log-sum-exp over margins, each weighed by its anchor: its curvature is no diagonal."""

    def contrasts(self, pairs):
        return pairs.differences

    def _exponents(self, m, pairs):
        return 0.1 * pairs.anchor[pairs.sign < 0] - m

    def value(self, m, pairs):
        return float(np.logaddexp.reduce(self._exponents(m, pairs)))

    def gradient(self, m, pairs):
        x = self._exponents(m, pairs)
        return -np.exp(x - np.logaddexp.reduce(x))

    def curvature(self, m, pairs):
        p = -self.gradient(m, pairs)
        return np.diag(p) - np.outer(p, p)


class Twice(losses.TypeTwo):
    """A subclass of a named loss is what its own methods say."""

    def weights(self, pairs):
        return 2.0 * super().weights(pairs)


class Cubes:
    """A loss of two views of one's own."""

    def value(self, z, z_view):
        return float(np.sum((z - z_view) ** 3))

    def gradients(self, z, z_view):
        slopes = 3 * (z - z_view) ** 2
        return slopes, -slopes


class Farther(losses.Whitening):
    """A subclass of a named loss of two views."""

    def value(self, z, z_view):
        return 3.0 * super().value(z, z_view)

    def gradients(self, z, z_view):
        return tuple(3.0 * g for g in super().gradients(z, z_view))


# -- scores ----------------------------------------------------------------------------------------

NAMED_SCORES = {
    "linear": scores.Linear(),
    "softplus": scores.Softplus(0.3),
    "hinge": scores.Hinge(0.7),
    "smoothed hinge": scores.SmoothedHinge(0.7, 0.4),
}
OWN_SCORES = {"exponential": Exponential(), "subclass of a hinge": Steeper(0.7)}
SCORES = NAMED_SCORES | OWN_SCORES


@pytest.mark.parametrize("name", SCORES)
def test_a_score_and_its_derivatives_are_those_of_numpy(name):
    score, f = SCORES[name], score_formula(SCORES[name])
    largest = 20 if name in OWN_SCORES else 60
    m = torch.linspace(-largest, largest, 4001, dtype=torch.float64)
    # Where the smoothed hinge changes its formula; at its kink a hinge has no derivative.
    m = torch.cat([m, torch.tensor([0.7] * (name != "hinge") + [0.3], dtype=m.dtype)])
    m.requires_grad_()
    value, array = f(m), m.detach().numpy()
    np.testing.assert_allclose(value.detach(), score.value(array), rtol=1e-12, atol=0)
    (first,) = torch.autograd.grad(value.sum(), m, create_graph=True)
    np.testing.assert_allclose(first.detach(), score.slope(array), rtol=1e-10, atol=1e-20)
    np.testing.assert_allclose(slope(score, m), score.slope(array), rtol=1e-15)
    if name in ("softplus", *OWN_SCORES):
        (second,) = torch.autograd.grad(first.sum(), m)
        np.testing.assert_allclose(second, score.curvature(array), rtol=1e-10, atol=1e-15)


def test_a_subclass_of_a_score_is_not_taken_for_its_parent():
    m = torch.zeros(1, dtype=torch.float64)
    assert score_formula(Steeper(0.7))(m) != score_formula(scores.Hinge(0.7))(m)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_score_keeps_the_dtype(name, dtype):
    m = torch.linspace(-2, 2, 9, dtype=dtype, requires_grad=True)
    value = score_formula(SCORES[name])(m)
    (first,) = torch.autograd.grad(value.sum(), m)
    assert value.dtype == first.dtype == slope(SCORES[name], m).dtype == dtype
    exact = torch.tensor(SCORES[name].value(m.detach().double().numpy()))
    assert (value - exact).norm() < 4 * torch.finfo(dtype).eps * exact.norm()


def test_a_third_derivative_of_ones_own_score_is_asked_for_in_vain():
    m = torch.ones(2, dtype=torch.float64, requires_grad=True)
    value = score_formula(Exponential())(m).sum()
    for _ in range(2):
        (value,) = torch.autograd.grad(value.sum(), m, create_graph=True)
    with pytest.raises(NotImplementedError, match="a third was asked for"):
        torch.autograd.grad(value.sum(), m)


@pytest.mark.parametrize("name", ["ranking", "subclass of type 2"])
def test_a_third_derivative_of_ones_own_loss_of_pairs_is_asked_for_in_vain(name):
    d = direction(COUNTS["equal"])
    u = torch.tensor(scored(d), requires_grad=True)
    value = judged(pair_formula(PAIR_LOSSES[name]), u, d)
    for _ in range(2):
        (value,) = torch.autograd.grad(value.square().sum(), u, create_graph=True)
    with pytest.raises(NotImplementedError, match="a third was asked for"):
        torch.autograd.grad(value.sum(), u)


# -- losses of scored pairs ------------------------------------------------------------------------

PAIR_LOSSES = {
    **{f"type 2, {name}": losses.TypeTwo(score) for name, score in SCORES.items()},
    **{f"type 1, {name}": losses.TypeOne(score) for name, score in SCORES.items()},
    "InfoNCE": losses.InfoNCE(0.6),
    "ranking": Ranking(),
    "subclass of type 2": Twice(scores.Softplus(0.4)),
}
OWN_LOSSES = ("ranking", "subclass of type 2")
# The negatives of each reference, as many or not; one may have none.
COUNTS = {"equal": (3, 3, 3, 3), "unequal": (2, 4, 1, 3), "one without": (3, 0, 2, 1)}


def direction(counts):
    """Negatives in no order of their groups."""
    n = len(counts)
    group = np.random.default_rng(2).permutation(np.repeat(np.arange(n), counts))
    anchor = (group + 1 + np.arange(len(group)) % (n - 1)) % n
    own, sign = np.arange(n), np.repeat([1.0, -1.0], [n, len(group)])
    return Direction(*(np.concatenate([own, a]) for a in (anchor, group)), sign, np.r_[own, group])


def scored(d, seed=0):
    return np.random.default_rng(seed).standard_normal(len(d.sign))


def in_numpy(loss, u, d):
    """The value and, by the chain rule through T, the gradient by the scores."""
    contrasts = loss.contrasts(d)
    m = contrasts.apply(u)
    return loss.value(m, d), contrasts.adjoint(loss.gradient(m, d))


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_a_loss_of_pairs_and_its_gradient_are_those_of_numpy(name, counts):
    loss, d = PAIR_LOSSES[name], direction(COUNTS[counts])
    u = torch.tensor(scored(d), requires_grad=True)
    value = judged(pair_formula(loss), u, d)
    (gradient,) = torch.autograd.grad(value, u)
    expected, slopes = in_numpy(loss, u.detach().numpy(), d)
    assert value.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(gradient, slopes, rtol=0, atol=1e-12 * np.abs(slopes).max())


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("name", [n for n in PAIR_LOSSES if "hinge" not in n])
def test_the_hessian_of_a_loss_of_pairs_is_that_of_numpy(name, counts):
    """By forward over reverse and by reverse over reverse: T^T phi'' T."""
    loss, d = PAIR_LOSSES[name], direction(COUNTS[counts])
    u = torch.tensor(scored(d))
    matrix = loss.contrasts(d).apply(np.eye(len(u)))
    curvature = losses.explicit(loss.curvature(matrix @ u.numpy(), d))
    full = np.diag(curvature) if curvature.ndim == 1 else curvature
    expected = matrix.T @ full @ matrix

    def value(scores):
        return judged(pair_formula(loss), scores, d)

    twice = torch.func.jacrev(torch.func.jacrev(value))
    for hessian in (torch.func.hessian(value), twice):
        np.testing.assert_allclose(hessian(u), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["type 2, exponential", *OWN_LOSSES])
def test_derivatives_of_ones_own_are_mapped_over_batches_of_scores(name):
    d = direction(COUNTS["unequal"])
    batch = torch.stack([torch.tensor(scored(d, seed)) for seed in range(3)])

    def value(scores):
        return judged(pair_formula(PAIR_LOSSES[name]), scores, d)

    for derivative in (value, torch.func.grad(value), torch.func.hessian(value)):
        together = torch.func.vmap(derivative)(batch)
        torch.testing.assert_close(together, torch.stack([derivative(u) for u in batch]))


@pytest.mark.parametrize("name", OWN_LOSSES)
def test_a_product_with_the_hessian_is_linear_in_its_vector(name):
    """As in the matching of errors: d/dv of w . H v is H w, without a third derivative."""
    d, w = direction(COUNTS["unequal"]), torch.tensor(scored(direction(COUNTS["unequal"]), 1))
    u = torch.tensor(scored(d))

    def gradient(scores):
        return torch.func.grad(lambda s: judged(pair_formula(PAIR_LOSSES[name]), s, d))(scores)

    def product(vector):
        return torch.func.jvp(gradient, (u,), (vector,))[1] @ w

    got = torch.func.grad(product)(torch.zeros_like(u))
    torch.testing.assert_close(got, torch.func.jvp(gradient, (u,), (w,))[1])


@pytest.mark.parametrize("name", OWN_LOSSES)
def test_a_loss_of_ones_own_has_the_derivatives_of_its_finite_differences(name):
    loss, d, h = PAIR_LOSSES[name], direction(COUNTS["unequal"]), 1e-5
    u, formula = torch.tensor(scored(d)), pair_formula(PAIR_LOSSES[name])
    identity = h * torch.eye(len(u), dtype=torch.float64)

    def gradient(scores):
        return torch.func.grad(lambda s: judged(formula, s, d))(scores)

    value = lambda scores: in_numpy(loss, scores.numpy(), d)[0]  # noqa: E731
    slopes = [(value(u + e) - value(u - e)) / (2 * h) for e in identity]
    np.testing.assert_allclose(gradient(u), slopes, atol=1e-9)
    hessian = torch.func.hessian(lambda s: judged(formula, s, d))(u)
    by_differences = torch.stack([(gradient(u + e) - gradient(u - e)) / (2 * h) for e in identity])
    np.testing.assert_allclose(hessian, by_differences, atol=1e-8)
    assert loss.contrasts(d).num_margins > 1
    assert name != "ranking" or (hessian - hessian.diag().diag()).abs().max() > 1e-2


@pytest.mark.parametrize("name", OWN_LOSSES)
@pytest.mark.parametrize("number", [1, 4])
def test_a_table_of_scores_names_the_anchors_that_are_compared(name, number):
    """The next sample as anchor, or all others: row i is that of reference i."""
    n, rng = 5, np.random.default_rng(0)
    k = rng.standard_normal((n, n))  # references, anchors
    own = np.arange(n)
    reference = np.repeat(own, number)
    others = {1: (own + 1) % n, 4: np.concatenate([np.delete(own, i) for i in own])}[number]
    d = Direction(
        np.concatenate([own, others]),
        np.concatenate([own, reference]),
        np.repeat([1.0, -1.0], [n, len(others)]),
        np.concatenate([own, reference]),
    )
    loss, table = PAIR_LOSSES[name], torch.tensor(k[reference, others].reshape(n, number))
    value = pair_formula(loss)(torch.tensor(k.diagonal().copy()), table)
    assert value.item() == pytest.approx(in_numpy(loss, k[d.reference, d.anchor], d)[0], rel=1e-12)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_a_loss_of_pairs_keeps_float32(name):
    loss, d = PAIR_LOSSES[name], direction(COUNTS["unequal"])
    u = torch.tensor(scored(d), dtype=torch.float32, requires_grad=True)
    value = judged(pair_formula(loss), u, d)
    (gradient,) = torch.autograd.grad(value, u)
    assert value.dtype == gradient.dtype == torch.float32
    exact = in_numpy(loss, u.detach().double().numpy(), d)[0]
    assert value.item() == pytest.approx(exact, rel=1e-5)


def test_pairs_without_negatives_are_refused():
    d = Direction(*(np.arange(2),) * 2, np.ones(2), np.arange(2))
    with pytest.raises(ValueError, match="no negatives, but the rule needs them"):
        judged(pair_formula(losses.InfoNCE()), torch.zeros(2), d)


@pytest.mark.parametrize("name", [n for n in SCORES if "hinge" not in n])
def test_goodness_and_its_gradient_are_those_of_numpy(name):
    loss = losses.Goodness(0.8, SCORES[name])
    d = direction(COUNTS["equal"])
    goodness = torch.tensor(np.abs(scored(d)), requires_grad=True)
    good, bad = (torch.tensor(d.sign) == sign for sign in (1.0, -1.0))
    value = goodness_formula(loss)(goodness[good], goodness[bad])
    value.backward()
    array = goodness.detach().numpy()
    assert value.item() == pytest.approx(loss.value(array, d), rel=1e-12)
    np.testing.assert_allclose(goodness.grad, loss.gradient(array, d), atol=1e-14)


# -- losses of two views ---------------------------------------------------------------------------

OPTIONS = {
    losses.NTXent: {"temperature": 0.3},
    losses.SpectralContrastive: {},
    losses.Whitening: {"weight": 0.7},
    losses.LogDet: {"weight": 0.2, "epsilon": 0.3},
    losses.SlicedNormality: {
        "weight": 0.7,
        "dimension": 40,
        "slices": 6,
        "nodes": 9,
        "limit": 5.0,
    },
    losses.VICReg: {
        "invariance": 2.0,
        "variance": 3.0,
        "covariance": 0.5,
        "target_std": 1.2,
        "epsilon": 1e-3,
    },
    losses.VISReg: {
        "trade_off": 0.4,
        "scale": 2.0,
        "shape": 3.0,
        "center": 0.5,
        "slices": 7,
        "seed": 2,
    },
    losses.BarlowTwins: {"weight": 0.1, "epsilon": 1e-3},
    losses.LPL: {"predictive": 0.5, "hebbian": 2.0, "decorrelation": 3.0, "epsilon": 1e-3},
}
VIEW_LOSSES = {
    **{f"{kind.__name__}, defaults": kind() for kind in OPTIONS},
    **{f"{kind.__name__}, options": kind(**options) for kind, options in OPTIONS.items()},
    "SlicedNormality, all slices of one dimension": losses.SlicedNormality(0.7, 600),
    "LPL, released": losses.LPL(0.5, 2.0, 3.0, form="released"),
    "LPL, article": losses.LPL(0.5, 2.0, 3.0, form="article"),
    "of one's own": Cubes(),
    "subclass of Whitening": Farther(0.7),
}


def views(samples=7, width=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, width))
    return 0.9 * x, x + 0.5 * rng.standard_normal((samples, width))


def value_and_gradients(loss, x, view):
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, view)]
    value = view_formula(loss)(*tensors)
    return value.item(), [g.numpy() for g in torch.autograd.grad(value, tensors)]


# More samples than features and fewer: sums are taken over the smaller side.
@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6), (9, 1), (4, 1), (2, 30)])
@pytest.mark.parametrize("name", VIEW_LOSSES)
def test_a_loss_of_views_and_its_gradients_are_those_of_numpy(name, shape):
    loss, (x, view) = VIEW_LOSSES[name], views(*shape)
    value, gradients = value_and_gradients(loss, x, view)
    assert value == pytest.approx(loss.value(x, view), rel=1e-12)
    for got, expected in zip(gradients, loss.gradients(x, view), strict=True):
        # The absolute part is for gradients that are 0, as that of a cosine of one feature.
        error = np.linalg.norm(got - expected)
        assert error <= 1e-10 * np.linalg.norm(expected) + 1e-14


@pytest.mark.parametrize("kind", OPTIONS)
def test_every_option_matters(kind):
    x, view = views()
    plain, _ = value_and_gradients(kind(), x, view)
    for option, value in OPTIONS[kind].items():
        assert value_and_gradients(kind(**{option: value}), x, view)[0] != plain


def test_a_dead_sample_has_no_gradient_in_ntxent():
    x, view = views()
    x[2] = 0.0
    value, (by_first, by_second) = value_and_gradients(losses.NTXent(), x, view)
    assert np.isfinite(value)
    assert (by_first[2] == 0).all()
    for got, expected in zip(
        (by_first, by_second), losses.NTXent().gradients(x, view), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", VIEW_LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised_to_float32_inside_autocast_too(name, dtype):
    x, view = (torch.tensor(10 * a, dtype=dtype) for a in views(12, 8))
    formula = view_formula(VIEW_LOSSES[name])
    expected = formula(x.double(), view.double()).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = formula(x.requires_grad_(), view)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(expected, rel=1e-4)
    (gradient,) = torch.autograd.grad(got, x)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", VIEW_LOSSES)
def test_views_that_do_not_belong_together_are_refused(name):
    loss, (x, view) = VIEW_LOSSES[name], map(torch.tensor, views())
    formula = view_formula(loss)
    with pytest.raises(ValueError, match=r"same shape .* got \(7, 5\) and \(6, 5\)"):
        formula(x, view[:6])
    with pytest.raises(ValueError, match=r"got \(7, 5, 1\) and \(7, 5, 1\); pool or flatten"):
        formula(x[..., None], view[..., None])
    message = rf"{type(loss).__name__} compares samples.* got 1; .*drop_last"
    with pytest.raises(ValueError, match=message):
        formula(x[:1], view[:1])


def test_a_loss_of_views_of_ones_own_brings_one_derivative_and_no_second():
    x, view = (torch.tensor(a) for a in views())
    step = torch.tensor(np.random.default_rng(1).standard_normal(x.shape))
    formula, h = view_formula(Cubes()), 1e-6
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(formula(x, view), x, create_graph=True)
    slope = (formula(x + h * step, view) - formula(x - h * step, view)) / (2 * h)
    assert (gradient * step).sum().item() == pytest.approx(slope.item(), rel=1e-8)
    with pytest.raises(NotImplementedError, match="one derivative; a second was asked for"):
        torch.autograd.grad(gradient.sum(), x)
