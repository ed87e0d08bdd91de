"""Bounds on cosines: they hold, they are attained, and the naive bound of a window is false."""

import math
from itertools import pairwise

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import linlocal as ll
from linlocal import rules, testing
from linlocal.conditions import cosine_bound, residual_bounds, window_bound
from linlocal.updates import Signals

KAPPAS = st.floats(1.0, 1e4)
SEEDS = st.integers(0, 2**32 - 1)


def spd(rng, width, condition_number):
    q = np.linalg.qr(rng.standard_normal((width, width)))[0]
    return q * np.geomspace(1.0, condition_number, width) @ q.T


def window_cosine(inside, metric, x):
    a, b = inside.T @ x, inside.T @ metric @ x
    return float(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))


def cosine(a, b):
    return float(np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b))


# -- the identities behind the bound, in exact algebra --------------------------------------------


def test_a_metric_widens_an_angle_by_no_more_than_its_condition_number():
    # In the plane of x and g, with eigenvalues 1 and kappa of the metric there and an angle theta
    # of tangent T of its half: cot of the new angle is <x, M g>/(sqrt(kappa) sin theta).
    kappa, t = sp.symbols("kappa T", positive=True)
    alpha = sp.Symbol("alpha", real=True)
    theta = 2 * sp.atan(t)
    metric = sp.diag(1, kappa)
    x, g = (sp.Matrix([sp.cos(a), sp.sin(a)]) for a in (alpha, alpha + theta))
    area = x[0] * g[1] - x[1] * g[0]
    inner, first, second = ((a.T * metric * b)[0] for a, b in ((x, g), (x, x), (g, g)))
    # Lagrange: sin^2 of the new angle is det M sin^2 theta over the squared lengths.
    assert sp.simplify(first * second - inner**2 - metric.det() * area**2) == 0
    # <x, M g> is smallest where cos(2 alpha + theta) = 1, symmetric about the first axis.
    between = (1 + kappa) / 2 * sp.cos(theta) + (1 - kappa) / 2 * sp.cos(2 * alpha + theta)
    assert sp.simplify(sp.expand_trig(inner - between)) == 0
    smallest = (1 + kappa) / 2 * sp.cos(theta) + (1 - kappa) / 2
    widened = sp.sqrt(kappa) * t
    cot = smallest / (sp.sqrt(kappa) * sp.sin(theta))
    assert sp.simplify(cot - (1 - widened**2) / (2 * widened)) == 0


def test_the_half_angle_of_kantorovich():
    root = sp.Symbol("r", positive=True)
    half = (root - 1) / (root + 1)
    assert sp.simplify((1 - half**2) / (1 + half**2) - 2 * root / (1 + root**2)) == 0


def test_the_naive_bound_of_a_window_is_false_exactly():
    # kappa(G) = 9 promises a cosine of 3/5 without a window; inside one it is -5/13, as proved.
    inside, above = sp.diag(1, 3), sp.Matrix([[1, 2], [2, 1]])
    metric, x = above.T * above, sp.Matrix([2, -1])
    assert metric.eigenvals() == {1: 1, 9: 1}
    local, top = inside.T * x, inside.T * metric * x
    value = (local.T * top)[0] / sp.sqrt((local.T * local)[0] * (top.T * top)[0])
    assert value == sp.Rational(-5, 13)
    assert cosine_bound(9.0) == pytest.approx(3 / 5, abs=1e-15)
    assert cosine_bound(9.0, 9.0) == pytest.approx(-5 / 13, abs=1e-15)


def test_that_network_trains_its_window_away_from_backpropagation():
    net = ll.DeepLinear([np.eye(2), np.diag([1.0, 3.0]), np.array([[1.0, 2.0], [2.0, 1.0]])])
    x = np.array([[2.0, -1.0 / 3.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    way = ll.Direction(
        np.array([0, 1]), np.array([2, 3]), np.array([1.0, -1.0]), np.zeros(2, dtype=int)
    )
    signals = Signals(net, ll.Pairs(x, (way,)), rules.CLAPP_DFB("linear"))
    errors = net.backpropagate(signals.activities, signals.local_error(2), source=2)
    window = net.update(1, signals.activities, errors[0])
    top = net.update(1, signals.activities, signals.global_errors[0])
    assert cosine(window, top) == pytest.approx(-5 / 13, abs=1e-12)
    # A wider window is no nearer: that of one layer points the right way.
    own = net.update(1, signals.activities, signals.local_error(1))
    assert cosine(own, top) > 0.0 > cosine(window, top)


# -- both sides, numerically ----------------------------------------------------------------------


@settings(max_examples=60)
@given(above=KAPPAS, inside=KAPPAS)
def test_the_bound_by_condition_numbers_is_attained(above, inside):
    # x and G x are symmetric about the first axis; the metric stretches the second.
    half = math.atan(math.tanh(math.log(above) / 4.0))
    r = math.sqrt(above)
    q = np.array([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2.0)
    metric = q @ np.diag([above, 1.0]) @ q.T
    x = q @ np.array([1.0, r]) / math.hypot(1.0, r)
    assert math.isclose(math.atan2(abs(x[1]), x[0]), half, abs_tol=1e-9)
    v = np.diag([1.0, math.sqrt(inside)])
    found, bound = window_cosine(v, metric, x[:, None]), cosine_bound(above, inside)
    assert found == pytest.approx(bound, abs=1e-9)
    assert window_bound(v, metric) <= found + 1e-9


@settings(max_examples=60)
@given(seed=SEEDS, above=KAPPAS, inside=KAPPAS, width=st.integers(1, 6), extra=st.integers(-3, 3))
def test_no_update_of_a_window_is_below_the_bound(seed, above, inside, width, extra):
    rng = np.random.default_rng(seed)
    start = max(1, width + extra)
    v = drawn_map(rng, width, start, inside)
    metric = spd(rng, width, above)
    bound = window_bound(v, metric)
    assert -1.0 <= bound <= 1.0 + 1e-12
    assert bound >= cosine_bound(above, inside) - 1e-9
    for columns in (1, 3):
        x = v @ rng.standard_normal((start, columns))
        assert window_cosine(v, metric, x) >= bound - 1e-9


def drawn_map(rng, rows, columns, condition_number):
    """A map whose M = V V^T has this condition number on its range."""
    rank = min(rows, columns)
    u = np.linalg.qr(rng.standard_normal((rows, rank)))[0]
    w = np.linalg.qr(rng.standard_normal((columns, rank)))[0]
    return u * np.sqrt(np.geomspace(1.0, condition_number, rank)) @ w.T


@pytest.mark.parametrize("seed", range(4))
def test_an_adversary_reaches_the_bound_of_the_matrices(seed):
    rng = np.random.default_rng(seed)
    v, metric = drawn_map(rng, 3, 3, 1.5), spd(rng, 3, 3.0)
    bound = window_bound(v, metric)
    assert bound > 0.0

    def loss(entries):
        return window_cosine(v, metric, entries.reshape(3, 2))

    worst = min(float(minimize(loss, rng.standard_normal(6)).fun) for _ in range(6))
    assert bound - 1e-9 <= worst <= bound + 1e-5
    # Condition numbers alone know less.
    assert cosine_bound(3.0, 1.5) < bound


@settings(max_examples=30)
@given(seed=SEEDS, above=KAPPAS, inside=st.floats(1.0, 1e3))
def test_kantorovich_holds_as_it_stands_if_the_metrics_commute(seed, above, inside):
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.standard_normal((4, 4)))[0]
    metric = q * np.geomspace(1.0, above, 4) @ q.T
    v = q * np.sqrt(rng.permutation(np.geomspace(1.0, inside, 4)))
    assert window_bound(v, metric) == pytest.approx(cosine_bound(above), abs=1e-6)


@settings(max_examples=25)
@given(data=st.data(), network=testing.networks(width=(2, 8), depth=(3, 5)))
def test_windows_of_networks_keep_the_bound(data, network):
    pairs = data.draw(testing.pairs(network, num_pairs=(4, 24)))
    signals = Signals(network, pairs, rules.CLAPP_DFB("linear"))
    for e in range(1, network.depth):
        errors = network.backpropagate(signals.activities, signals.local_error(e), source=e)
        for l in range(1, e + 1):
            window = network.update(l, signals.activities, errors[l - 1])
            top = network.update(l, signals.activities, signals.global_errors[l - 1])
            scale = np.linalg.norm(window) * np.linalg.norm(top)
            bound = window_bound(network.downstream(l, e), network.gram(e))
            if scale > 1e-12 * max(1.0, np.linalg.norm(window), np.linalg.norm(top)):
                assert cosine(window, top) >= bound - 1e-8


def test_a_window_that_widens_costs_nothing():
    rng = np.random.default_rng(0)
    v = np.linalg.qr(rng.standard_normal((6, 3)))[0]
    metric = spd(rng, 6, 4.0)
    assert window_bound(v, metric) >= cosine_bound(4.0) - 1e-9
    assert math.isnan(window_bound(np.zeros((2, 2)), np.eye(2)))
    assert math.isnan(window_bound(np.eye(2)[:, :1], np.diag([0.0, 1.0])))
    assert window_bound(np.diag([1.0, 2.0]), np.diag([0.0, 1.0])) <= 0.0
    assert cosine_bound(math.inf) == 0.0
    assert cosine_bound(1.0, math.inf) == 1.0
    assert cosine_bound(2.0, math.inf) == -1.0


# -- residual networks ----------------------------------------------------------------------------


def residual(rng, width, norms):
    weights = [rng.standard_normal((width, width)) for _ in norms]
    return [np.eye(width) + x * w / np.linalg.norm(w, 2) for x, w in zip(norms, weights)]


@settings(max_examples=40)
@given(seed=SEEDS, width=st.integers(1, 6), norms=st.lists(st.floats(0.0, 0.9), max_size=6))
def test_residual_networks_keep_their_bounds(seed, width, norms):
    rng = np.random.default_rng(seed)
    network = ll.DeepLinear([rng.standard_normal((width, 5)), *residual(rng, width, norms)])
    found = residual_bounds(norms)
    gram = network.gram(1)
    spectrum = np.linalg.eigvalsh(gram)
    rounding = 1e-12 * (1.0 + found.metric_distance)
    assert np.linalg.norm(gram - np.eye(width), 2) <= found.metric_distance + rounding
    assert spectrum[-1] <= found.condition_number * spectrum[0] + rounding
    assert found.cosine == pytest.approx(cosine_bound(found.condition_number), abs=1e-9)
    x, view = testing.samples(6, 5, seed % 1000)
    compared = ll.compare(network, ll.Pairs.from_views(x, view), rules.CLAPP_DFB("linear"))
    assert float(compared.cosine[0]) >= found.cosine - 1e-9


@pytest.mark.parametrize("norms", [(0.3,), (0.1, 0.5), (0.2, 0.2, 0.6)])
def test_the_bounds_of_residual_networks_are_attained(norms):
    net = ll.DeepLinear([np.eye(2), *(np.diag([1.0 + x, 1.0 - x]) for x in norms)])
    found, gram = residual_bounds(norms), net.gram(1)
    assert np.linalg.norm(gram - np.eye(2), 2) == pytest.approx(found.metric_distance, rel=1e-12)
    assert np.linalg.cond(gram) == pytest.approx(found.condition_number, rel=1e-10)


@settings(max_examples=40)
@given(c=st.floats(0.01, 1.5), start=st.integers(2, 20))
def test_depth_scaled_branches_are_bounded_at_every_depth(c, start):
    depths = [start * 2**k for k in range(8)]
    found = [residual_bounds([c / depth] * depth) for depth in depths]
    limit = math.exp(4.0 * c)
    for shallow, deep in pairwise(found):
        assert limit * (1 - 1e-9) <= deep.condition_number <= shallow.condition_number * (1 + 1e-9)
        assert deep.cosine >= shallow.cosine - 1e-12
    # Branches that do not shrink lose it.
    assert residual_bounds([c / start] * 8 * start).cosine < found[0].cosine


def test_bad_bounds_say_what_they_want():
    assert residual_bounds([]).cosine == 1.0
    assert residual_bounds([1.0]).condition_number == math.inf
    assert residual_bounds([0.999] * 500).cosine == 0.0
    with pytest.raises(ValueError, match="a norm must"):
        residual_bounds([-0.1])
    with pytest.raises(ValueError, match="at least 1, got 0.5"):
        cosine_bound(0.5)
    with pytest.raises(ValueError, match="must be 3 x 3"):
        window_bound(np.ones((3, 2)), np.eye(2))
    with pytest.raises(ValueError, match="symmetric and positive"):
        window_bound(np.eye(2), np.array([[1.0, 1.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="symmetric and positive"):
        window_bound(np.eye(2), -np.eye(2))
