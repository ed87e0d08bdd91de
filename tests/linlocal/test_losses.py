"""Losses in numpy: gradients by finite differences, curvature by the gradient; torch elsewhere."""

import numpy as np
import pytest

import linlocal as ll
from linlocal import losses, testing
from linlocal.losses import scores
from linlocal.pairs import Direction, Pairs

PAIR_LOSSES = {
    "type 2, linear": losses.TypeTwo(scores.Linear()),
    "type 2, softplus": losses.TypeTwo(scores.Softplus(0.4)),
    "type 2, smoothed hinge": losses.TypeTwo(scores.SmoothedHinge(0.4, 3.0)),
    "type 2, hinge": losses.TypeTwo(scores.Hinge(0.4)),
    "type 1, softplus": losses.TypeOne(scores.Softplus(0.4)),
    "type 1, smoothed hinge": losses.TypeOne(scores.SmoothedHinge(0.4, 3.0)),
    "InfoNCE": losses.InfoNCE(0.6),
}
VIEW_LOSSES = {
    "NTXent": losses.NTXent(0.5),
    "CosineInfoNCE": losses.CosineInfoNCE(0.3),
    "SpectralContrastive": losses.SpectralContrastive(),
    "Whitening": losses.Whitening(0.7),
    "LogDet": losses.LogDet(0.3, 0.4),
    "SlicedNormality": losses.SlicedNormality(0.7),
    "SlicedNormality, slices": losses.SlicedNormality(0.7, 5, 4, 9, 5.0),
    "VICReg": losses.VICReg(3.0, 5.0, 0.7, 0.8, 1e-3),
    "BarlowTwins": losses.BarlowTwins(0.02, 1e-3),
    "LPL": losses.LPL(0.5, 0.7, 3.0, 1e-3),
    "LPL, released": losses.LPL(0.5, 0.7, 3.0, 1e-3, "released"),
}


def direction(num_negatives=3, n=7):
    x, view = testing.samples(n, 2, 0)
    rng = np.random.default_rng(1)
    pairs = Pairs.from_views(
        x, view, negatives="random", num_negatives=num_negatives, rng=rng, directions="forward"
    )
    return pairs.directions[0]


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_gradient_and_curvature_of_pair_losses(name):
    loss, d = PAIR_LOSSES[name], direction()
    rng = np.random.default_rng(0)
    m = 2 * rng.standard_normal(loss.contrasts(d).num_margins)
    h, identity = 1e-5, np.eye(len(m))
    gradient = [(loss.value(m + h * e, d) - loss.value(m - h * e, d)) / (2 * h) for e in identity]
    np.testing.assert_allclose(loss.gradient(m, d), gradient, atol=1e-9)
    curvature = losses.explicit(loss.curvature(m, d))
    hessian = [
        (loss.gradient(m + h * e, d) - loss.gradient(m - h * e, d)) / (2 * h) for e in identity
    ]
    full = np.diag(curvature) if curvature.ndim == 1 else curvature
    np.testing.assert_allclose(full, hessian, atol=1e-8)
    assert np.linalg.eigvalsh(full).min() >= -1e-15


def test_contrasts_are_a_matrix_and_its_transpose():
    d = direction()
    for loss in PAIR_LOSSES.values():
        contrasts = loss.contrasts(d)
        matrix = contrasts.apply(np.eye(len(d.sign)))
        assert matrix.shape == (contrasts.num_margins, len(d.sign))
        g = np.arange(1.0, contrasts.num_margins + 1)
        np.testing.assert_array_equal(contrasts.adjoint(g), matrix.T @ g)
        kernel = np.random.default_rng(0).standard_normal((len(d.sign),) * 2)
        kernel = kernel + kernel.T
        np.testing.assert_allclose(contrasts.conjugate(kernel.copy()), matrix @ kernel @ matrix.T)


def test_type_two_by_hand():
    d = Direction(np.arange(4), np.arange(4), np.array([1.0, 1, 1, -1]), np.array([0, 1, 2, 0]))
    u = np.array([0.5, 2.0, -1.0, 0.25])
    loss = losses.TypeTwo(scores.Hinge(1.0))
    assert loss.value(d.sign * u, d) == pytest.approx((0.5 + 0 + 2) / 3 + 1.25)
    one = losses.TypeOne(scores.Hinge(1.0))
    assert one.value(one.contrasts(d).apply(u), d) == pytest.approx(1 - (0.5 - 0.25))


def test_info_nce_by_hand():
    """Two groups of unequal size: the mean of two cross-entropies."""
    d = Direction(
        np.arange(5), np.arange(5), np.array([1.0, 1, -1, -1, -1]), np.array([0, 1, 0, 1, 1])
    )
    u, loss = np.array([0.5, 2.0, -1.0, 0.25, 1.0]), losses.InfoNCE(0.5)
    e = np.exp(u / 0.5)
    first, second = -np.log(e[0] / (e[0] + e[2])), -np.log(e[1] / (e[1] + e[3] + e[4]))
    assert loss.value(loss.contrasts(d).apply(u), d) == pytest.approx((first + second) / 2)


def test_a_positive_pair_without_negatives_counts_in_the_mean_of_info_nce():
    d = Direction(
        np.array([0, 1, 2, 3]),
        np.array([1, 2, 3, 0]),
        np.array([1.0, 1, -1, -1]),
        np.array([0, 1, 0, 0]),
    )
    m = np.array([0.3, -0.2])
    one = np.log1p(np.exp(-m / 0.7).sum())
    assert losses.InfoNCE(0.7).value(m, d) == pytest.approx(one / 2)


def test_info_nce_does_not_overflow():
    d, loss = direction(), losses.InfoNCE(1e-3)
    m = np.linspace(-30, 30, loss.contrasts(d).num_margins)
    with np.errstate(over="raise", invalid="raise"):
        assert np.isfinite(loss.value(m, d))
        assert np.isfinite(loss.gradient(m, d)).all()
        assert np.isfinite(loss.curvature(m, d)).all()


@pytest.mark.parametrize("name", VIEW_LOSSES)
def test_gradients_of_view_losses_by_finite_differences(name):
    loss, h = VIEW_LOSSES[name], 1e-6
    z, view = testing.samples(6, 3, 3)
    step = np.random.default_rng(0).standard_normal((2, 6, 3))
    first, second = loss.gradients(z, view)
    slope = loss.value(z + h * step[0], view + h * step[1])
    slope = (slope - loss.value(z - h * step[0], view - h * step[1])) / (2 * h)
    expected = np.sum(first * step[0]) + np.sum(second * step[1])
    if name == "LPL":  # each view predicts the other, detached: half the attached gradient
        expected += 0.5 * loss.predictive * 2 * np.sum((z - view) * (step[0] - step[1])) / z.size
    assert slope == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("score", [scores.Softplus(0.0), scores.Linear(), scores.Hinge(0.5)])
def test_goodness_gradient(score):
    loss, d, h = losses.Goodness(0.8, score), direction(), 1e-6
    goodness = np.random.default_rng(0).uniform(0, 3, len(d.sign))
    expected = [
        (loss.value(goodness + h * e, d) - loss.value(goodness - h * e, d)) / (2 * h)
        for e in np.eye(len(goodness))
    ]
    np.testing.assert_allclose(loss.gradient(goodness, d), expected, atol=1e-9)
    # Positive samples should be good.
    assert (loss.gradient(goodness, d)[d.sign > 0] <= 0).all()
    assert (loss.gradient(goodness, d)[d.sign < 0] >= 0).all()


def test_a_dead_sample_has_no_direction_and_no_gradient():
    """Regression: the cosine of a zero activity once had the gradient of an inner product."""
    z, view = testing.samples(5, 3, 0)
    z[1] = 0.0
    first, second = losses.NTXent().gradients(z, view)
    np.testing.assert_array_equal(first[1], 0.0)
    assert np.isfinite(first).all()
    assert (np.abs(second).sum(axis=1) > 0).all()


@pytest.mark.parametrize("loss", ["VICReg", "BarlowTwins", "LPL"])
def test_covariances_need_two_samples(loss):
    one = np.ones((1, 3))
    with pytest.raises(ValueError, match="needs at least 2 samples, got 1"):
        VIEW_LOSSES[loss].gradients(one, one)


def test_the_protocols_tell_the_kinds_apart():
    for loss in PAIR_LOSSES.values():
        assert isinstance(loss, losses.PairLoss)
        assert not isinstance(loss, losses.ViewLoss)
    for loss in VIEW_LOSSES.values():
        assert isinstance(loss, losses.ViewLoss)
        assert not isinstance(loss, losses.PairLoss)
    assert not isinstance(ll.losses.Goodness(), losses.PairLoss | losses.ViewLoss)
