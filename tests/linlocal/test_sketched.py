"""VISReg: the published formula, its invariances, and what it does at a collapse."""

import numpy as np
import pytest
import scipy.stats
import torch

import linlocal as ll
from linlocal import losses, testing
from linlocal.autodiff import view_formula

VISIBLE = 1e-2


def views(width=5, n=12, seed=0):
    return tuple(2.0 * a + 0.3 for a in testing.samples(n, width, seed))


def as_published(z, view, loss):
    """Wu, Balestriero & Levine 2026, sum by sum."""

    def regulariser(a):
        n, d = a.shape
        mean = sum(a) / n
        std = np.sqrt(sum((row - mean) ** 2 for row in a) / n)
        scale = sum((1 - s) ** 2 for s in std) / d
        center = sum(m**2 for m in mean) / d
        shape = 0.0
        for direction in loss.directions(d):
            sliced = sorted(((row - mean) / std) @ direction for row in a)
            for k, x in enumerate(sliced, start=1):
                shape += (x - scipy.stats.norm.ppf(k / (n + 1))) ** 2
        return loss.scale * scale + loss.center * center + loss.shape * shape / (n * loss.slices)

    middle = (z + view) / 2
    pull = (np.mean((z - middle) ** 2) + np.mean((view - middle) ** 2)) / 2
    reg = (regulariser(z) + regulariser(view)) / 2
    return (1 - loss.trade_off) * pull + loss.trade_off * reg


def test_it_is_the_published_sum():
    loss = losses.VISReg(0.7, 2.0, 3.0, 0.5, slices=4, seed=1)
    assert loss.value(*views()) == pytest.approx(as_published(*views(), loss), rel=1e-12)


def test_its_gradient_is_that_of_constant_standard_deviations_in_the_shape():
    """Of S and C the derivative; of P that of the same sum with the present s_j."""
    z, view = views()
    step = np.random.default_rng(0).standard_normal(z.shape)
    without = losses.VISReg(shape=0.0)
    h = 1e-6
    slope = (without.value(z + h * step, view) - without.value(z - h * step, view)) / (2 * h)
    assert np.sum(without.gradients(z, view)[0] * step) == pytest.approx(slope, rel=1e-7)
    shape = losses.VISReg(1.0, 0.0, 1.0, 0.0, slices=9)
    std = z.std(axis=0)

    def frozen(a):
        sliced = np.sort((a - a.mean(axis=0)) / std @ shape.directions(5).T, axis=0)
        return np.mean((sliced - shape.quantiles(len(a))[:, None]) ** 2) / 2

    along = np.sum(shape.gradients(z, view)[0] * step)
    assert along == pytest.approx((frozen(z + h * step) - frozen(z - h * step)) / (2 * h), rel=1e-7)
    whole = (shape.value(z + h * step, view) - shape.value(z - h * step, view)) / (2 * h)
    assert abs(along - whole) > VISIBLE * abs(along)


def test_the_shape_alone_does_not_see_shifts_and_scalings_of_units():
    z, view = views()
    scales, shift = np.array([0.1, 0.5, 1.0, 3.0, 10.0]), np.arange(5.0)
    shape, whole = losses.VISReg(1.0, 0.0, 1.0, 0.0), losses.VISReg()
    assert shape.value(scales * z + shift, view) == pytest.approx(shape.value(z, view), rel=1e-12)
    assert abs(whole.value(scales * z + shift, view) - whole.value(z, view)) > VISIBLE
    order = np.random.default_rng(0).permutation(len(z))
    assert whole.value(z[order], view[order]) == pytest.approx(whole.value(z, view), rel=1e-12)


@pytest.mark.parametrize("slices", [10, 5000])
def test_it_is_not_exact_above_an_isometry(slices):
    """The slices are not to blame: units are standardised one by one. SIGReg is exact."""
    network = ll.DeepLinear.orthogonal([6, 8, 8, 8], 1)
    pairs = ll.Pairs.from_views(*views(6))
    rule = ll.rules.VISReg(slices=slices)
    assert ll.compare(network, pairs, rule).relative_error[:-1].min() > 0.1
    assert ll.compare(network, pairs, ll.rules.SIGReg()).relative_error.max() < 1e-12
    assert not ll.explain(network, pairs, rule).exact


def relabelled_error(rule):
    """Of layers that permute units with signs, which other losses per unit do not feel."""
    rng = np.random.default_rng(0)
    signed = [np.eye(5)[rng.permutation(5)] * rng.choice([-1, 1], 5) for _ in range(2)]
    first = rng.standard_normal((5, 6)) / 2
    pairs = ll.Pairs.from_views(*views(6))
    return ll.compare(ll.DeepLinear([first, *signed]), pairs, rule).relative_error.values


class Axes(losses.VISReg):
    """One slice along each unit: relabelled with the units."""

    def directions(self, width):
        return np.eye(width)


def test_units_may_be_relabelled_only_if_the_slices_are():
    few, many = (relabelled_error(ll.rules.VISReg(slices=k))[:-1] for k in (10, 10_000))
    assert few.min() > VISIBLE
    assert many.max() < few.min() / 5
    assert relabelled_error(ll.rules.VICReg()).max() < 1e-12
    axes = ll.Rule("axes", Axes(), "views", "none")
    assert relabelled_error(axes).max() < 1e-12


def test_at_a_collapse_its_gradient_stays_and_that_of_sigreg_vanishes():
    z, view = testing.samples(40, 5, 0)
    sizes = {}
    for name, loss in (("VISReg", losses.VISReg()), ("SIGReg", losses.SlicedNormality(slices=64))):
        sizes[name] = [
            np.linalg.norm(np.concatenate(loss.gradients(e * z, e * view))) for e in (1e-2, 1e-4)
        ]
    assert sizes["VISReg"][1] > 0.9 * sizes["VISReg"][0]
    assert sizes["SIGReg"][1] < 0.02 * sizes["SIGReg"][0]


def test_it_tells_normal_samples_from_others():
    rng, loss = np.random.default_rng(0), losses.VISReg(trade_off=1.0)
    normal = rng.standard_normal((400, 4))
    others = (normal**3 / np.sqrt(15), 2.0 * normal, normal + 0.5, np.sign(normal))
    assert 0 < 4 * loss.value(normal, normal) < min(loss.value(z, z) for z in others)


def test_dead_units_and_equal_samples_have_a_finite_gradient():
    z, view = views()
    z[:, 2], z[3] = 1.5, z[4]
    loss = losses.VISReg()
    tensors = [torch.tensor(a, requires_grad=True) for a in (z, view)]
    got = torch.autograd.grad(view_formula(loss)(*tensors), tensors)
    for a, b in zip(got, loss.gradients(z, view), strict=True):
        assert np.isfinite(b).all()
        np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=1e-9 * np.abs(b).max())
