"""Sliced normality is a function of norms and distances, for one dimension and all slices."""

from dataclasses import dataclass

import numpy as np
import pytest
import sympy as sp

import linlocal as ll
from linlocal.rules import Rule
from linlocal.symbolic import NotApplicable, derive, inner_products, prove, spheres


@pytest.mark.parametrize("dimension", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_powers_of_slices_have_a_radial_mean(k, dimension):
    assert spheres.power_mean_is_radial(k, dimension)


def test_the_moments_are_integrals_over_the_sphere():
    theta, phi = sp.symbols("theta phi")
    d = sp.symbols("d:3")
    circle = sp.cos(phi) * d[0] + sp.sin(phi) * d[1]
    sphere = sp.sin(theta) * circle + sp.cos(theta) * d[2]
    for k in (1, 2):
        mean = sp.integrate(sp.expand(circle ** (2 * k)), (phi, 0, 2 * sp.pi)) / (2 * sp.pi)
        assert sp.expand(mean - spheres.power_mean(k, 2)) == 0
        inner = sp.integrate(sp.expand(sphere ** (2 * k)), (phi, 0, 2 * sp.pi))
        mean = sp.integrate(sp.expand(inner * sp.sin(theta)), (theta, 0, sp.pi)) / (4 * sp.pi)
        assert sp.expand(sp.simplify(mean) - spheres.power_mean(k, 3)) == 0


def test_the_series_of_the_cosine_is_the_bessel_function():
    assert spheres.series_is_that_of_the_cosine()
    for order in range(6):
        half = sp.Rational(1, 2)
        assert sp.rf(half, order) / sp.factorial(2 * order) == 1 / (4**order * sp.factorial(order))
    for dimension in (1, 2, 3, 7):
        for x in (0.3, 2.0, 9.0):
            order = dimension / 2 - 1
            bessel = sp.gamma(dimension / 2) * (2 / x) ** order * sp.besselj(order, x)
            mean = spheres.cosine_mean(sp.Float(x) ** 2, dimension)
            assert float(mean.evalf()) == pytest.approx(float(bessel.evalf()), abs=1e-12)


def test_the_dimension_is_not_in_the_inner_products():
    # So layers of unequal width agree only under one D.
    x = sp.Symbol("x", positive=True)
    two, three = (sp.diff(spheres.cosine_mean(x, n), x).subs(x, 1).evalf() for n in (2, 3))
    assert abs(two - three) > 0.05


@dataclass(frozen=True)
class Sliced:
    """The pull and the sliced statistic, over slices that resolve the circle to rounding."""

    weight: float = 0.5
    dimension: int | None = 2
    slices: int | None = None
    nodes: int = 3
    limit: float = 2.0

    def value(self, z, z_view):
        space = self.dimension or z.shape[1]
        angles = 2 * np.pi * np.arange(64) / 64
        slices = np.stack([np.cos(angles), np.sin(angles)])[:, : self.slices]
        step = self.limit / (self.nodes - 1)
        t = step * np.arange(1, self.nodes)
        weights = 2 * step * np.exp(-(t**2) / 2)
        weights[-1] /= 2
        total = np.mean(np.sum((z - z_view) ** 2, axis=1))
        for a in (z, z_view):
            along = a @ slices[: min(space, a.shape[1])]
            for node, weight in zip(t, weights, strict=True):
                wave = np.exp(1j * node * along).mean(axis=0) - np.exp(-(node**2) / 2)
                total += self.weight * weight * len(a) * np.mean(np.abs(wave) ** 2)
        return float(total)

    def gradients(self, z, z_view):
        both = np.vstack([z, z_view])
        gradient = np.zeros_like(both)
        for index in np.ndindex(both.shape):
            step = np.zeros_like(both)
            step[index] = 1e-5
            above, below = both + step, both - step
            n = len(z)
            rise = self.value(above[:n], above[n:]) - self.value(below[:n], below[n:])
            gradient[index] = rise / 2e-5
        return gradient[: len(z)], gradient[len(z) :]


def test_the_closed_form_is_the_mean_over_all_slices(monkeypatch):
    monkeypatch.setitem(inner_products.FORMS, Sliced, inner_products.sliced_normality)
    loss, n = Sliced(), 3
    form = inner_products.form_of(loss)
    differences = []
    for seed in (0, 1):
        z, view = np.random.default_rng(seed).standard_normal((2, n, 2))
        both = sp.Matrix(np.vstack([z, view]))
        exact = float(form(both * both.T, n, loss).evalf())
        differences.append(loss.value(z, view) - exact)
    # Equal but for the constant that the form leaves out.
    assert differences[0] == pytest.approx(differences[1], abs=1e-10)
    assert prove("invariance", rule=Rule("sliced", loss, "views", "none")).holds is True
    assert prove("window_invariance", rule=Rule("sliced", loss, "views", "none")).holds is True


@pytest.mark.parametrize("loss", [Sliced(slices=3), Sliced(dimension=None)])
def test_some_slices_or_a_dimension_for_each_layer_are_no_inner_products(monkeypatch, loss):
    monkeypatch.setitem(inner_products.FORMS, Sliced, inner_products.sliced_normality)
    assert inner_products.form_of(loss) is None


def test_few_slices_are_refuted():
    class Few(Sliced):
        def value(self, z, z_view):
            return float(sum(np.sum(np.cos(a[:, :1])) for a in (z, z_view)))

        def gradients(self, z, z_view):
            return tuple(-np.sin(a) * (np.arange(a.shape[1]) == 0) for a in (z, z_view))

    with pytest.raises(NotApplicable, match="inner products"):
        derive(Rule("one slice", Few(), "views", "none"))


def test_a_bias_above_a_layer_breaks_its_isometry_exactly():
    # Statement 14 has one matrix V for each layer. A bias downstream makes the map affine.
    z, c = sp.Matrix([[1, 2], [0, 1]]), sp.Matrix([[1, 0], [2, 1]])
    v, slopes = sp.Matrix([[0, -1], [1, 0]]), sp.diag(1, -1)
    assert v.T * v == sp.eye(2)
    for bias, equal in ((sp.zeros(1, 2), True), (sp.Matrix([[1, 1]]), False)):
        top_z, top_c = (a * v.T + sp.ones(2, 1) * bias for a in (z, c))
        local = z.T * slopes * c * c.T * slopes * z
        above = v.T * top_z.T * slopes * top_c * top_c.T * slopes * z
        assert (local == above) == equal


def test_a_residual_network_is_one_matrix_for_each_layer():
    rng = np.random.default_rng(0)
    branches = [0.2 * rng.standard_normal((4, 4)) for _ in range(3)]
    network = ll.DeepLinear([rng.standard_normal((4, 5)), *(np.eye(4) + w for w in branches)])
    x, view = ll.testing.samples(8, 5, 0)
    pairs = ll.Pairs.from_views(x, view)
    exact = ll.rules.CLAPP("softplus", penalty=ll.rules.Penalty(0.1, "downstream"))
    assert float(ll.compare(network, pairs, exact).relative_error.max()) < 1e-10
    plain = ll.rules.CLAPP("softplus", penalty=0.1)
    assert float(ll.compare(network, pairs, plain).relative_error[0]) > 0.01
