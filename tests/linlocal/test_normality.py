"""Sliced normality (statement 13): Omega_D, the statistic, and when its updates are equal."""

import mpmath
import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings, strategies as st

import linlocal as ll
from linlocal import losses, testing
from linlocal.autodiff.views import view_formula
from linlocal.losses.normality import sphere_mean
from linlocal.testing import assert_same_update

EXACT = testing.TOLERANCES["float64"]
VISIBLE = 1e-2


def views(width, n=12, seed=0, size=2.0):
    return tuple(size * a for a in testing.samples(n, width, seed))


def relative_errors(network, rule, n=12):
    pairs = ll.Pairs.from_views(*views(network.widths[0], n))
    return ll.compare(network, pairs, rule).relative_error.values


def statistic(loss, z):
    """T(z): the loss of two equal views, which have no distance, is twice its weight times T."""
    return loss.value(z, z) / (2 * loss.weight)


# -- the mean of a cosine over the sphere ----------------------------------------------------------


@pytest.mark.parametrize("dimension", [1, 2, 3, 4, 5, 17, 64, 513, 4096])
def test_sphere_mean_is_the_hypergeometric_function(dimension):
    """0F1(D/2, -x^2/4) to 60 digits: near 0, where it oscillates, and where J underflows."""
    x = np.array([0.0, 1e-9, 1e-3, 0.5, 3.0, 10.0, 37.0, 100.0, 511.0, 513.0, 1500.0])
    with mpmath.workdps(60):
        expected = [
            float(mpmath.hyp0f1(mpmath.mpf(dimension) / 2, -(mpmath.mpf(a) ** 2) / 4)) for a in x
        ]
    np.testing.assert_allclose(sphere_mean(x, dimension), expected, rtol=0, atol=2e-14)


def test_sphere_mean_by_hand():
    x = np.linspace(0.0, 40.0, 81)
    np.testing.assert_allclose(sphere_mean(x, 1), np.cos(x), atol=1e-15)
    np.testing.assert_allclose(sphere_mean(x, 2), scipy.special.j0(x), atol=1e-14)
    np.testing.assert_allclose(sphere_mean(x, 3), np.sinc(x / np.pi), atol=1e-14)
    # Of many dimensions one unit is normal.
    np.testing.assert_allclose(sphere_mean(x, 10**6), np.exp(-(x**2) / 2e6), atol=1e-6)


@given(dimension=st.integers(1, 200), x=st.floats(0.01, 60.0))
def test_its_derivative_is_that_of_two_dimensions_more(dimension, x):
    h = 1e-4
    above, below = sphere_mean(np.array([x + h, x - h]), dimension)
    expected = -x / dimension * float(sphere_mean(np.array(x), dimension + 2))
    assert (above - below) / (2 * h) == pytest.approx(expected, abs=2e-8)


# -- the statistic ---------------------------------------------------------------------------------


def test_it_is_the_mean_over_slices():
    """Monte Carlo over 20 sets of slices, within 4 standard errors."""
    z, _ = views(5)
    sets = [statistic(losses.SlicedNormality(slices=2000, seed=seed), z) for seed in range(20)]
    error = np.std(sets, ddof=1) / np.sqrt(len(sets))
    exact = statistic(losses.SlicedNormality(), z)
    assert abs(np.mean(sets) - exact) < 4 * error
    assert error < 0.01 * exact


def test_the_trapezoid_rule_finds_the_integral():
    """With all t, E_a int cos(t a.d) exp(-t^2/2) dt = sqrt(2 pi) 1F1(1/2; D/2; -||d||^2/2)."""
    z, _ = views(6)
    n, d = z.shape

    def kernel(r, width):
        scale = np.sqrt(2 * np.pi / width)
        return scale * scipy.special.hyp1f1(0.5, d / 2, -(r**2) / (2 * width))

    apart = np.linalg.norm(z[:, None] - z[None], axis=2)
    alone = np.linalg.norm(z, axis=1)
    expected = n * (kernel(apart, 1).mean() - 2 * kernel(alone, 2).mean() + kernel(0.0, 3))
    fine = losses.SlicedNormality(nodes=60, limit=10.0)
    assert statistic(fine, z) == pytest.approx(expected, rel=1e-12)
    # The nodes of the released code and those of the article are coarser.
    for nodes, limit, close in ((17, 3.0, 1e-2), (9, 5.0, 1e-2)):
        assert statistic(losses.SlicedNormality(nodes=nodes, limit=limit), z) == pytest.approx(
            expected, rel=close
        )


def test_it_tells_normal_samples_from_others():
    rng = np.random.default_rng(0)
    loss = losses.SlicedNormality()
    normal = statistic(loss, rng.standard_normal((150, 4)))
    collapsed, stretched, shifted = (
        statistic(loss, z)
        for z in (
            np.zeros((150, 4)),
            rng.standard_normal((150, 4)) * [2, 2, 0.3, 0.3],
            rng.standard_normal((150, 4)) + 0.5,
        )
    )
    assert 0 < 5 * normal < min(collapsed, stretched, shifted)


def test_the_published_sum_over_two_views():
    """LeJEPA: (1 - l) mean-square(views - their mean) + l mean over views of T."""
    (z, view), share = views(4), 0.05
    dimension = z.shape[1]
    loss = losses.SlicedNormality(weight=2 * dimension * share / (1 - share))
    mean = (z + view) / 2
    pull = np.mean((np.stack([z, view]) - mean) ** 2)
    published = (1 - share) * pull + share * (statistic(loss, z) + statistic(loss, view)) / 2
    scale = (1 - share) / (4 * dimension)
    assert scale * loss.value(z, view) == pytest.approx(published, rel=1e-12)


@settings(max_examples=30)
@given(data=st.data())
def test_no_isometry_changes_the_average_over_all_slices(data):
    width = data.draw(st.integers(1, 12))
    space = data.draw(st.integers(width, 40))
    z, view = views(width, data.draw(st.integers(2, 12)), data.draw(st.integers(0, 99)))
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((space, width)))[0].T
    loss = losses.SlicedNormality(0.7, dimension=space + data.draw(st.integers(0, 5)))
    assert loss.value(z @ rotation, view @ rotation) == pytest.approx(
        loss.value(z, view), rel=1e-12
    )
    plain, turned = loss.gradients(z, view), loss.gradients(z @ rotation, view @ rotation)
    for a, b in zip(plain, turned, strict=True):
        assert np.linalg.norm(a @ rotation - b) <= 1e-12 * np.linalg.norm(a) + 1e-14


def test_slices_are_the_same_in_each_call_and_more_keep_those_of_fewer():
    few, more = (losses.SlicedNormality(slices=k, seed=3) for k in (4, 9))
    np.testing.assert_array_equal(few.directions(5), more.directions(5)[:4])
    np.testing.assert_allclose(np.linalg.norm(more.directions(5), axis=1), 1.0)
    z, view = views(5)
    assert few.value(z, view) == losses.SlicedNormality(slices=4, seed=3).value(z, view)
    assert few.value(z, view) != losses.SlicedNormality(slices=4, seed=4).value(z, view)
    wide = losses.SlicedNormality(dimension=8, slices=4, seed=3)
    np.testing.assert_array_equal(wide.directions(5), wide.directions(8)[:, :5])
    with pytest.raises(ValueError, match="there are none to list"):
        losses.SlicedNormality().directions(5)


@pytest.mark.parametrize("slices", [None, 3])
def test_a_layer_wider_than_the_dimension_is_refused(slices):
    loss, (z, view) = losses.SlicedNormality(dimension=3, slices=slices), views(4)
    for use in (loss.value, loss.gradients):
        with pytest.raises(ValueError, match=r"dimension=3 met a layer of width 4.*at least"):
            use(z, view)
    with pytest.raises(ValueError, match=r"dimension=3 met a layer of width 4"):
        view_formula(loss)(torch.tensor(z), torch.tensor(view))


def test_equal_and_dead_samples_have_a_gradient():
    z, view = views(4)
    z[1], z[2] = 0.0, z[3]
    loss = losses.SlicedNormality()
    tensors = [torch.tensor(a, requires_grad=True) for a in (z, view)]
    got = torch.autograd.grad(view_formula(loss)(*tensors), tensors)
    for a, b in zip(got, loss.gradients(z, view), strict=True):
        np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("width", [2, 3, 40])
def test_samples_far_apart(width):
    """x = t ||d|| far beyond D: Bessel functions in numpy, and numpy in torch."""
    z, view = views(width, size=2000.0)
    loss = losses.SlicedNormality()
    value = view_formula(loss)(torch.tensor(z), torch.tensor(view)).item()
    assert value == pytest.approx(loss.value(z, view), rel=1e-10)
    slices = losses.SlicedNormality(slices=20000)
    assert statistic(loss, z) == pytest.approx(statistic(slices, z), rel=0.05)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("slices", [None, 3])
def test_a_network_that_diverged_has_a_loss_that_is_not_finite(bad, slices):
    z, view = views(4)
    z[1, 2] = bad
    loss = losses.SlicedNormality(slices=slices)
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(loss.value(z, view))
    assert not view_formula(loss)(torch.tensor(z), torch.tensor(view)).isfinite()


# -- both sides of the statement -------------------------------------------------------------------

SQUARE = ll.DeepLinear.orthogonal([6, 8, 8, 8], 1)
WIDENING = ll.DeepLinear.orthogonal([6, 4, 5, 8], 1)


@settings(max_examples=40)
@given(data=st.data())
def test_13_all_slices_of_one_dimension_are_exact_above_an_isometry(data):
    network = data.draw(testing.networks(kind="orthogonal", shape="widening", width=(1, 24)))
    largest = max(network.widths[1:])
    rule = ll.rules.SIGReg(
        weight=data.draw(st.floats(0.1, 10.0)),
        dimension=data.draw(st.integers(largest, 2 * largest)),
    )
    pairs = data.draw(testing.pairs(network, rule=rule, num_pairs=(2, 60)))
    local, goal = (f(network, pairs, rule) for f in (ll.local_update, ll.global_update))
    assert_same_update(local, goal, 64 * EXACT, f"{rule.name} on {network!r}")


def test_13_equal():
    assert relative_errors(SQUARE, ll.rules.SIGReg()).max() <= EXACT
    for dimension in (8, 9, 100):
        errors = relative_errors(WIDENING, ll.rules.SIGReg(dimension=dimension))
        assert errors.max() <= EXACT


UNEQUAL = {
    "each layer's own dimension": (WIDENING, ll.rules.SIGReg()),
    "few slices": (SQUARE, ll.rules.SIGReg(slices=10)),
    "many slices": (SQUARE, ll.rules.SIGReg(slices=1000)),
    "narrowing": (ll.DeepLinear.orthogonal([8, 8, 5, 3], 1), ll.rules.SIGReg(dimension=8)),
    "no isometry": (ll.DeepLinear.gaussian([6, 8, 8, 8], 1), ll.rules.SIGReg(dimension=8)),
    "VICReg": (SQUARE, ll.rules.VICReg()),
    "Barlow Twins": (SQUARE, ll.rules.BarlowTwins()),
}


@pytest.mark.parametrize("case", UNEQUAL)
def test_13_unequal(case):
    network, rule = UNEQUAL[case]
    assert relative_errors(network, rule)[:-1].min() > VISIBLE


def test_13_the_deviation_falls_like_the_root_of_the_number_of_slices():
    counts = np.array([30, 300, 3000])
    errors = [
        np.mean(
            [relative_errors(SQUARE, ll.rules.SIGReg(slices=int(k), seed=s))[0] for s in range(6)]
        )
        for k in counts
    ]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(-0.5, abs=0.1)


def test_13_slices_pulled_back_through_the_network_are_exact():
    """Random slices deviate because each layer has its own: those of the top layer are V^T a."""

    def pulled_back(v):
        class PulledBack(losses.SlicedNormality):
            def directions(self, width):
                return super().directions(len(v)) @ v

        return PulledBack(slices=5)

    z = WIDENING.activities(np.vstack(views(6))).z
    top = losses.SlicedNormality(slices=5).gradients(z[-1][:12], z[-1][12:])
    for layer in WIDENING.layers:
        v = WIDENING.downstream(layer)
        here = pulled_back(v).gradients(z[layer][:12], z[layer][12:])
        for local, above in zip(here, top, strict=True):
            assert np.linalg.norm(local - above @ v) <= EXACT * np.linalg.norm(above)


def test_explain_finds_that_the_width_counts():
    """An own dimension is a hypothesis that fails, and no isometry mends it; one for all does."""
    pairs = ll.Pairs.from_views(*views(6))
    own = ll.explain(WIDENING, pairs, ll.rules.SIGReg())
    assert not own.exact
    assert own.remedies == ()
    conditions = {c.name: c for c in own.layers[0].conditions}
    assert not conditions["invariant loss"].holds
    assert conditions["isometry"].holds
    rule = ll.rules.SIGReg(dimension=8)
    assert ll.explain(WIDENING, pairs, rule).exact
    generic = ll.explain(ll.DeepLinear.gaussian([6, 4, 5, 8], 1), pairs, rule)
    mended = ll.compare(*generic.remedy("isometry").apply())
    assert mended.relative_error.max() <= EXACT
