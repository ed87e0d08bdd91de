"""Learning curves in closed form: against the flow of the weights, and in exact algebra."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings, strategies as st

import linlocal as ll
from linlocal import dynamics, rules
from linlocal.dynamics import Modes, Moments

SPECTRAL = rules.SpectralContrastive()
# The last two: a mode with growth 0, and one that dies.
SETTINGS = {
    "spectral": (SPECTRAL, (0.9, 0.6, 0.3)),
    "spectral, g = h, g = 0, g < 0": (SPECTRAL, (1.0, 0.0, -0.4)),
    "whitening": (rules.Whitening(1.5), (0.9, 0.6, 0.3)),
    "weak whitening": (rules.Whitening(0.3), (0.9, 0.4, 0.1)),
}
TIMES = np.array([0.0, 0.3, 1.0, 3.0, 10.0])


def population(gamma, seed=0, second=1.0):
    n = len(gamma)
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    return Moments.of_views(np.eye(n), q * np.array(gamma) @ q.T, second * np.eye(n))


@pytest.mark.parametrize("learning", ["local", "global"])
@pytest.mark.parametrize(("rule", "gamma"), SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("widths", [[3, 3], [3, 4, 3], [3, 5, 4, 3, 4]], ids=len)
def test_aligned_networks_follow_the_curves(widths, rule, gamma, learning):
    moments = population(gamma)
    start = np.random.default_rng(len(widths)).uniform(0.2, 1.3, (len(widths) - 1, 3))
    network = dynamics.aligned(widths, moments, start, seed=1)
    flow = dynamics.flow(
        network, moments, rule, times=TIMES, learning=learning, tolerance=1e-11
    ).strength
    modes = Modes.of(moments, rule)
    curve = (modes.local_curves if learning == "local" else modes.global_curves)(start, TIMES)
    assert curve.dims == flow.dims
    np.testing.assert_allclose(curve, flow, atol=1e-7)


def test_views_of_different_size_have_curves_too():
    moments = population((0.9, 0.5), second=2.0)
    start = np.full((2, 2), 0.4)
    for rule in (SPECTRAL, rules.Whitening(0.8)):
        flow = dynamics.flow(
            dynamics.aligned([2, 2, 2], moments, start), moments, rule, times=TIMES, tolerance=1e-11
        )
        curve = Modes.of(moments, rule).local_curves(start, TIMES)
        np.testing.assert_allclose(curve, flow.strength, atol=1e-7)


def test_weights_that_are_not_aligned_leave_the_curves_but_not_the_riccati_solution():
    moments, rule = population((0.9, 0.6, 0.3, -0.2)), SPECTRAL
    modes = Modes.of(moments, rule)
    for widths in ([4, 6, 4], [4, 4, 4], [4, 2, 4]):
        network = ll.DeepLinear.gaussian(widths, 1)
        flow = dynamics.flow(network, moments, rule, times=TIMES, tolerance=1e-11).strength
        exact = modes.first_layer(network.matrix(1), moments.modes[1], TIMES)
        np.testing.assert_allclose(exact, flow.sel(layer=1), atol=1e-7)
        start = np.stack([flow[0, 0], flow[0, 1] / flow[0, 0]])
        decoupled = modes.local_curves(start, TIMES)
        assert float(np.abs(decoupled - flow).max()) > 0.01
    # A narrow layer takes the strongest modes: the others are never learned.
    np.testing.assert_allclose(exact[-1] ** 2, [0.9, 0.6, 0, 0], atol=1e-2)


def test_late_times_come_to_rest_without_overflow():
    modes = Modes([3.0, 2.0, 0.0, -1.0], [2.0, 2.0, 2.0, 2.0])
    times = [0, 1e3, 1e6]
    for curves in (modes.local_curves, modes.global_curves):
        end = curves(np.full((3, 4), 0.5), times)[-1]
        np.testing.assert_allclose(end[-1] ** 2, [1.5, 1.0, 0, 0], atol=1e-3)
    single = modes.first_layer(0.5 * np.eye(4), np.eye(4), [0, 1e3])[-1]
    np.testing.assert_allclose(single**2, [1.5, 1.0, 0, 0], atol=1e-3)


@given(
    depth=st.integers(1, 6),
    g=st.floats(0.1, 10),
    h=st.floats(0.1, 10),
    start=st.floats(0.05, 0.8),
    end=st.floats(0.81, 0.999),
)
@settings(max_examples=40, deadline=None)
def test_the_time_of_balanced_backpropagation_is_that_of_the_curve(depth, g, h, start, end):
    modes, rest = Modes([g], [h]), np.sqrt(g / h)
    time = modes.balanced_time(start * rest, end * rest, depth)[0]
    balanced = np.full((depth, 1), (start * rest) ** (1 / depth))
    reached = modes.global_curves(balanced, [0, time])[-1, -1, 0]
    assert float(reached) == pytest.approx(end * rest, rel=1e-6)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_from_a_small_start_backpropagation_waits_like_a_power_and_local_learning_like_a_logarithm(
    depth,
):
    gamma = np.array([0.8, 0.4, 0.2])
    modes = Modes(4 * gamma, np.full(3, 4.0))
    half = np.sqrt(gamma / 2)

    def local_times(a):
        times = np.linspace(0, 600, 3001)
        curves = modes.local_curves(np.full((depth, 3), a), times).sel(layer=depth).values.T
        # Growing curves, so times interpolate their logarithms.
        return [
            np.interp(np.log(end), np.log(curve), times)
            for end, curve in zip(half, curves, strict=True)
        ]

    # Start 100 times smaller: in a deep network backpropagation escapes 100^(2L-2) times later.
    small, smaller = 1e-4, 1e-6
    waits = [modes.balanced_time(a**depth, half, depth) for a in (small, smaller)]
    np.testing.assert_allclose(waits[1] / waits[0], 100.0 ** (2 * depth - 2), rtol=0.01)
    np.testing.assert_allclose(
        waits[1], smaller ** (2 - 2 * depth) / (2 * depth - 2) / (4 * gamma), rtol=0.01
    )
    # Local learning: log(1/start) (1/g + (L-1) h/g^2), so weak modes are late by 1/gamma^2.
    later = np.subtract(local_times(smaller), local_times(small))
    wanted = np.log(100) * (1 / (4 * gamma) + (depth - 1) / (4 * gamma**2))
    np.testing.assert_allclose(later, wanted, rtol=0.01)


# -- rest ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.15])
def test_local_learning_comes_to_its_rest_from_a_small_start(decay):
    gamma = (0.9, 0.5, 0.3, 0.2, -0.1)
    moments = population(gamma)
    modes = Modes.of(moments, SPECTRAL)
    wanted = modes.local_rest(4, decay)
    network = dynamics.aligned([5] * 5, moments, 0.05)
    found = dynamics.flow(network, moments, SPECTRAL, times=[0, 400], decay=decay).strength[-1]
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    learned = (wanted > 0).sum("mode").values.tolist()
    # With decay modes are lost on the way up, without it none.
    assert learned[0] == 4
    assert (np.diff(learned) <= 0).all()
    assert (learned[-1] < 4) == (decay > 0)


def test_backpropagation_with_decay_learns_nothing_from_a_small_start_and_rests_from_a_large_one():
    gamma, decay = (0.9, 0.5, 0.2, -0.1), 0.15
    moments = population(gamma)
    modes = Modes.of(moments, SPECTRAL)
    wanted = modes.global_rest(3, decay)
    assert (wanted > 0).sum("mode").values.tolist() == [2, 2, 2]
    for start, rest in ((0.2, 0 * wanted), (1.0, wanted)):
        found = dynamics.flow(
            dynamics.aligned([4] * 4, moments, start),
            moments,
            SPECTRAL,
            times=[0, 300],
            learning="global",
            decay=decay,
        ).strength[-1]
        np.testing.assert_allclose(found, rest, atol=1e-4)


@given(
    depth=st.integers(1, 12), g=st.floats(0.05, 4), h=st.floats(0.5, 8), decay=st.floats(0.001, 1)
)
@settings(max_examples=60, deadline=None)
def test_a_mode_survives_all_depths_only_above_the_cutoff(depth, g, h, decay):
    modes = Modes([g], [h])
    rests = modes.local_rest(depth, decay), modes.global_rest(depth, decay)
    local, other = (rest.values[:, 0] for rest in rests)
    # All layers move in the direction of the first, down from the input's strength of 1 or up.
    assert (np.diff(local) * np.sign(local[0] - 1) >= -1e-12).all()
    if local[-1] > 0:
        # Each layer is where drive and decay cancel.
        below = np.concatenate([[1.0], local[:-1]])
        np.testing.assert_allclose(below**2 * (g - h * local**2), decay, rtol=1e-9)
    if other[-1] > 0:
        a = other[0]
        drive = a ** (2 * depth - 2) * (g - h * a ** (2 * depth))
        np.testing.assert_allclose(drive, decay, rtol=1e-6)
    if g <= 0.999 * 2 * np.sqrt(h * decay):
        # x -> (g - mu / x) / h has no fixed point: some layer ends it.
        assert Modes([g], [h]).local_rest(2000, decay)[-1, 0] == 0


def test_the_cutoffs_of_local_learning_and_backpropagation_meet_at_infinite_depth():
    """2 sqrt(h mu), from above for local learning from h > g, from below for backpropagation."""
    h, decay, grid = 1.0, 0.01, np.linspace(0.001, 0.6, 6000)
    modes = Modes(grid, np.full(len(grid), h))

    def cutoff(rest):
        return grid[rest[-1].values > 0].min()

    local = [cutoff(modes.local_rest(depth, decay)) for depth in (1, 2, 4, 400)]
    other = [cutoff(modes.global_rest(depth, decay)) for depth in (1, 2, 4, 400)]
    assert local[0] == pytest.approx(decay, abs=2e-4)
    assert local[1] == pytest.approx((decay + np.sqrt(decay**2 + 4 * h * decay)) / 2, abs=2e-4)
    # Closed form of the largest drive, (2/3) g sqrt(g / (3 h)) for two layers.
    assert other[1] == pytest.approx((27 / 4 * h * decay**2) ** (1 / 3), abs=2e-4)
    for found in (local, other):
        assert found[-1] == pytest.approx(2 * np.sqrt(h * decay), rel=0.02)
        assert (np.diff(found) > 0).all()


# -- exact algebra -------------------------------------------------------------------------------

g, h, t, u0, a0, k = sp.symbols("g h t u_0 a_0 kappa", positive=True)
U = g * u0 / (h * u0 + (g - h * u0) * sp.exp(-2 * g * t))


def test_the_first_layer_is_logistic_in_algebra():
    assert sp.simplify(sp.diff(U, t) - 2 * U * (g - h * U)) == 0
    assert sp.simplify(U.subs(t, 0) - u0) == 0


@pytest.mark.parametrize("ratio", [sp.Rational(1, 2), 2, sp.Rational(3, 2)])
def test_the_first_integral_of_two_layers_in_algebra(ratio):
    """kappa = (1/a_2^2 - 1 - y/(h - g)) y^(-g/h) is constant where a_2^2 - a_1^2 is not."""
    u, w = sp.symbols("u w", positive=True)  # w = 1/a_2^2
    y, here = g - h * u, {h: g / ratio}
    first = (w - 1 - y / (h - g)) * y ** (-g / h)
    du, dw = 2 * u * y, -2 * u * (g * w - h * u)
    moved = sp.diff(first, u) * du + sp.diff(first, w) * dw
    assert sp.simplify(moved.subs(here)) == 0
    imbalance = 1 / w - u
    drift = sp.diff(imbalance, u) * du + sp.diff(imbalance, w) * dw
    assert sp.simplify(drift.subs(here)) != 0


def test_the_first_integral_for_equal_growth_and_saturation_in_algebra():
    """The limit h = g, which the curves take: (1/a_2^2 - 1) / y - log(y) / g."""
    u, w = sp.symbols("u w", positive=True)
    y = g - g * u
    first = (w - 1) / y - sp.log(y) / g
    moved = sp.diff(first, u) * 2 * u * y - sp.diff(first, w) * 2 * u * (g * w - g * u)
    assert sp.simplify(moved) == 0


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_balance_of_a_mode_in_algebra(depth):
    """d(a_l^2)/dt is the same for all layers under backpropagation, not under local learning."""
    a = sp.symbols(f"a_1:{depth + 1}", positive=True)
    s = [sp.prod(a[: l + 1]) for l in range(depth)]

    def drive(x):
        return x * (g - h * x**2)

    backpropagated = [2 * x * s[-1] / x * drive(s[-1]) for x in a]
    local = [2 * x * s[l] / x * drive(s[l]) for l, x in enumerate(a)]
    assert all(sp.simplify(each - backpropagated[0]) == 0 for each in backpropagated)
    assert all(sp.simplify(each - local[0]) != 0 for each in local[1:])


def test_the_time_of_two_balanced_layers_in_algebra():
    """t = (artanh(v sqrt(h/g)) sqrt(h/g) - 1/v) / (2 g) with v = s_2 = a^2."""
    v = sp.symbols("v", positive=True)
    time = (sp.atanh(v * sp.sqrt(h / g)) * sp.sqrt(h / g) - 1 / v) / (2 * g)
    # da/dt = a^3 (g - h a^4), so dv/dt = 2 v^2 (g - h v^2).
    assert sp.simplify(sp.diff(time, v) * 2 * v**2 * (g - h * v**2) - 1) == 0
    numbers = {g: 1.7, h: 1.3}
    wanted = float(time.subs({**numbers, v: 0.9}) - time.subs({**numbers, v: 0.1}))
    assert Modes([1.7], [1.3]).balanced_time(0.1, 0.9, 2)[0] == pytest.approx(wanted, rel=1e-12)


def test_backpropagation_conserves_the_imbalance_of_any_matrices_in_algebra():
    """Whatever the error E at the top; with local errors sym((W_2^T E_2 - E_1) A_1^T) remains."""
    w1, w2, e1, e2 = (sp.Matrix(2, 2, sp.symbols(f"{n}_:4")) for n in ("v", "w", "d", "e"))
    rate_2, moved_2 = e2 * w1.T, w2.T * (e2 * w1.T)
    for error, left in ((w2.T * e2, sp.zeros(2)), (e1, (w2.T * e2 - e1) * w1.T)):
        moved = moved_2 + moved_2.T - (error * w1.T + w1 * error.T)
        assert (moved - left - left.T).expand() == sp.zeros(2)
    assert rate_2.shape == (2, 2)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: Modes([1.0], [0.0]), "saturation must be positive"),
        (lambda: Modes([1.0, 2.0], [1.0]), "one entry for each mode"),
        (lambda: Modes([[1.0]], [1.0]), "must be (modes,)"),
        (lambda: Modes([np.nan], [1.0]), "non-finite"),
        (lambda: Modes.of(population((0.5, 0.1)), rules.CLAPP("linear")), "do not saturate"),
        (
            lambda: Modes.of(Moments.of_views([[2, 1], [1, 2]], np.diag([0.5, 0.1])), SPECTRAL),
            "modes mix",
        ),
        (lambda: Modes([1.0], [1.0]).local_curves([[0.0]], [0, 1]), "strengths must be positive"),
        (lambda: Modes([1.0], [1.0]).global_curves([[0.1, 0.1]], [0, 1]), "2 modes"),
        (lambda: Modes([1.0], [1.0]).balanced_time(0.5, 1.5, 2), "below the rest"),
        (lambda: Modes([-1.0], [1.0]).balanced_time(0.5, 0.6, 2), "positive growth"),
        (lambda: Modes([1, 1], [1, 2]).first_layer(np.eye(2), np.eye(2), [0, 1]), "whiten"),
        (lambda: Modes([1, 1], [1, 1]).first_layer(np.eye(2), np.eye(3), [0, 1]), "vectors must"),
        (lambda: Modes([1.0], [1.0]).local_rest(3, -1.0), "decay must not be negative"),
        (lambda: Modes([1.0], [1.0]).global_rest(0), "depth must be at least 1"),
    ],
)
def test_bad_input_is_refused_in_words(ask, words):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        ask()
    assert words in str(refused.value)
