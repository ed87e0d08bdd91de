"""The optimal projection: three ways to one minimiser, certified from outside."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings, strategies as st

import linlocal as ll
from linlocal import autodiff, losses, testing
from linlocal.losses import scores
from linlocal.pairs import Direction, Pairs
from linlocal.projection import Rows, ScoreProblem, box as hinge, newton, optimal_projection
from linlocal.projection.optimal import ConvergenceError
from linlocal.testing import Exponential

SMOOTH = {
    "linear": scores.Linear(),
    "softplus": scores.Softplus(1.0),
    "smoothed hinge": scores.SmoothedHinge(1.0, 0.5),
}
LOSSES = {
    **{f"type 2, {k}": losses.TypeTwo(s) for k, s in SMOOTH.items()},
    **{f"type 1, {k}": losses.TypeOne(s) for k, s in SMOOTH.items()},
    "InfoNCE": losses.InfoNCE(0.7),
}
HINGES = {"type 2": losses.TypeTwo(scores.Hinge(1.0)), "type 1": losses.TypeOne(scores.Hinge(1.0))}


def problem(width=4, context_width=3, n=10, seed=0, num_negatives=2, size=1.5):
    """z, c, pairs: activities of different widths, read off one batch."""
    pairs = Pairs.from_views(
        *testing.samples(n, 3, seed), num_negatives=num_negatives, directions="forward"
    )
    (d,) = pairs.directions
    z, _ = testing.samples(n, width, seed + 1)
    c, _ = testing.samples(n, context_width, seed + 2)
    return size * z, size * c, d


def features(z, c, d, loss):
    """Phi with margins m = Phi vec(B), sample by sample: the sign times z c^T, or differences."""
    outer = np.array(
        [
            np.outer(z[a], c[r]).ravel()
            for a, r in zip(d.anchor_index, d.reference_index, strict=True)
        ]
    )
    if isinstance(loss, losses.TypeTwo):
        return d.sign[:, None] * outer
    rows = []
    for j in np.flatnonzero(d.sign < 0):
        (partner,) = np.flatnonzero((d.sign > 0) & (d.group == d.group[j]))
        rows.append(outer[partner] - outer[j])
    return np.array(rows)


def weights(d, loss):
    """Of each margin in the mean."""
    positive = d.sign > 0
    if isinstance(loss, losses.TypeTwo):
        return np.where(positive, 1 / positive.sum(), 1 / (~positive).sum())
    return np.full((~positive).sum(), 1 / (~positive).sum())


def residual(z, c, d, loss, penalty, b):
    """Relative stationarity, by the derivatives of `linlocal.losses` but nothing else."""
    phi = features(z, c, d, loss)
    push = loss.gradient(phi @ b.ravel(), d)
    terms = penalty * np.linalg.norm(b) + np.abs(push) @ np.linalg.norm(phi, axis=1)
    return np.linalg.norm(penalty * b.ravel() + phi.T @ push) / terms


@settings(max_examples=60)
@given(data=st.data())
def test_both_methods_reach_the_minimum_however_large_the_scores(data):
    """Whole Newton steps overshoot there; by strong convexity both are near the minimum."""
    name = data.draw(st.sampled_from(["type 2, softplus", "type 1, softplus", "InfoNCE"]))
    size = 10.0 ** data.draw(st.floats(-1.0, 1.5))
    penalty = 10.0 ** data.draw(st.floats(-4.0, 0.5))
    z, c, d = problem(size=size, seed=data.draw(st.integers(0, 1000)))
    found = {
        method: optimal_projection(z, c, d, LOSSES[name], penalty, method)
        for method in ("dual", "primal")
    }
    phi, loss = features(z, c, d, LOSSES[name]), LOSSES[name]
    slopes = {}
    for method, solved in found.items():
        assert solved.method == method
        assert solved.iterations < 60
        b = solved.matrix.ravel()
        slopes[method] = np.linalg.norm(penalty * b + phi.T @ loss.gradient(phi @ b, d))
        assert residual(z, c, d, loss, penalty, solved.matrix) <= 2e-13
    apart = np.linalg.norm(found["dual"].matrix - found["primal"].matrix)
    rounding = 1e-14 * np.linalg.norm(found["dual"].matrix)
    assert apart <= sum(slopes.values()) / penalty + rounding


@pytest.mark.parametrize("length", [1.0, 0.25])
def test_dual_variables_keep_step_with_the_projection_that_they_make(length):
    z, c, d = problem()
    loss = losses.TypeTwo(scores.Softplus(1.0))
    posed = ScoreProblem(Rows(z), Rows(c), d, loss, 0.1)
    steps = newton.DualSteps(posed)
    b = posed.combine(steps.gamma)
    for _ in range(2):
        m = posed.margins(b)
        change = steps.step(b, loss.gradient(m, d), loss.curvature(m, d))
        steps.accept(length)
        b = b + length * change
        assert np.linalg.norm(change) > 1e-3
        np.testing.assert_allclose(posed.combine(steps.gamma), b, atol=1e-13)


@pytest.mark.parametrize("penalty", [1e-2, 1.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_dual_primal_and_autograd_find_the_same_minimiser(loss, penalty):
    z, c, d = problem()
    dual, primal = (
        optimal_projection(z, c, d, LOSSES[loss], penalty, method) for method in ("dual", "primal")
    )
    oracle = autodiff.optimal_projection(z, c, d, LOSSES[loss], penalty)
    for found in (dual.matrix, primal.matrix):
        np.testing.assert_allclose(found, oracle, rtol=0, atol=1e-12 * np.abs(oracle).max())
    if "linear" not in loss and "hinge" not in loss:
        assert (dual.method, primal.method) == ("dual", "primal")


@settings(max_examples=100)
@given(data=st.data())
def test_the_residual_is_small_when_recomputed(data):
    rule = data.draw(testing.pair_rules())
    sizes = st.integers(1, 12)
    z, c, d = problem(
        data.draw(sizes),
        data.draw(sizes),
        data.draw(st.integers(2, 20)),
        data.draw(st.integers(0, 1000)),
        1,
    )
    solved = optimal_projection(z, c, d, rule.loss, rule.penalty.strength)
    assert solved.residual <= 1e-13
    assert residual(z, c, d, rule.loss, rule.penalty.strength, solved.matrix) <= 2e-13
    # What comes with B belongs to it.
    phi = features(z, c, d, rule.loss)
    scale = np.linalg.norm(phi, axis=1).max() * np.linalg.norm(solved.matrix)
    np.testing.assert_allclose(
        solved.margins, phi @ solved.matrix.ravel(), rtol=0, atol=1e-13 * scale + 1e-300
    )
    np.testing.assert_allclose(solved.projected, c @ solved.matrix.T, atol=1e-12 * scale + 1e-300)
    pulled = z.T @ solved.coefficients @ c / rule.penalty.strength
    np.testing.assert_allclose(pulled, solved.matrix, rtol=0, atol=1e-9 * scale + 1e-300)


def test_the_residual_would_notice_a_wrong_projection():
    z, c, d = problem()
    loss = LOSSES["type 2, softplus"]
    b = optimal_projection(z, c, d, loss, 0.1).matrix
    assert residual(z, c, d, loss, 0.1, b * (1 + 1e-10)) > 1e-12
    assert residual(z, c, d, loss, 0.1 * (1 + 1e-10), b) > 1e-12


@pytest.mark.parametrize("loss", [losses.TypeTwo, losses.TypeOne])
def test_a_linear_score_has_a_closed_form(loss):
    z, c, d = problem()
    solved = optimal_projection(z, c, d, loss(scores.Linear()), 0.2)
    phi, w = features(z, c, d, loss(scores.Linear())), weights(d, loss(scores.Linear()))
    np.testing.assert_allclose(solved.matrix.ravel(), phi.T @ w / 0.2, rtol=1e-13, atol=1e-15)
    assert (solved.method, solved.iterations) == ("closed form", 0)
    assert solved.condition_number == 1.0


def test_it_is_a_minimum():
    z, c, d = problem()
    rng = np.random.default_rng(0)
    for loss in (*LOSSES.values(), *HINGES.values()):
        phi = features(z, c, d, loss)

        def energy(b, loss=loss, phi=phi):
            return loss.value(phi @ b.ravel(), d) + 0.05 * np.sum(b**2)

        b = optimal_projection(z, c, d, loss, 0.1).matrix
        for size in (1e-3, 1e-1, 10.0):
            step = size * rng.standard_normal(b.shape)
            # Strong convexity, with the modulus of the penalty.
            assert energy(b + step) - energy(b) >= 0.05 * np.sum(step**2) * (1 - 1e-9)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(4, 3, 10), (2, 2, 15), (9, 8, 5)])
def test_the_condition_number_is_that_of_the_newton_matrix(loss, shape):
    z, c, d = problem(*shape)
    solved = optimal_projection(z, c, d, LOSSES[loss], 0.05)
    phi = features(z, c, d, LOSSES[loss])
    curvature = losses.explicit(LOSSES[loss].curvature(solved.margins, d))
    curvature = np.diag(curvature) if curvature.ndim == 1 else curvature
    values, vectors = np.linalg.eigh(curvature)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    newton = 0.05 * np.eye(len(phi)) + root @ phi @ phi.T @ root
    assert solved.condition_number == pytest.approx(np.linalg.cond(newton), rel=1e-8)


@pytest.mark.parametrize("loss", ["type 2, softplus", "type 1, smoothed hinge", "InfoNCE"])
def test_wide_activities_are_rotated_into_the_span_of_the_batch(loss):
    """60 x 50 unknowns, but 6 samples only: the answer is that of the rotated problem."""
    z, c, d = problem(60, 50, 6)
    solved = optimal_projection(z, c, d, LOSSES[loss], 0.1)
    assert solved.matrix.shape == (60, 50)
    assert residual(z, c, d, LOSSES[loss], 0.1, solved.matrix) <= 2e-13
    q_z, r_z = np.linalg.qr(z.T)
    q_c, r_c = np.linalg.qr(c.T)
    small = autodiff.optimal_projection(r_z.T, r_c.T, d, LOSSES[loss], 0.1)
    np.testing.assert_allclose(solved.matrix, q_z @ small @ q_c.T, atol=1e-12)


# -- hinge -----------------------------------------------------------------------------------------


def kkt_violation(z, c, d, loss, penalty, solved):
    """How far slopes and B are from the Karush-Kuhn-Tucker conditions of the hinge."""
    phi, w, margin = features(z, c, d, loss), weights(d, loss), loss.score.margin
    b = solved.matrix.ravel()
    m = phi @ b
    # Slopes per margin from the slopes per pair: type 1 counts each negative once.
    if isinstance(loss, losses.TypeTwo):
        dual = solved.slopes * d.sign
    else:
        dual = -solved.slopes[d.sign < 0]
    stationarity = np.abs(penalty * b - phi.T @ dual).max()
    box = max(0.0, -dual.min(), (dual - w).max())
    unit = max(1.0, margin)
    below, above = m < margin - 1e-9 * unit, m > margin + 1e-9 * unit
    slack = max(np.abs(dual - w)[below].max(initial=0.0), np.abs(dual)[above].max(initial=0.0))
    return max(stationarity, box, slack), int((~below & ~above).sum())


@settings(max_examples=100)
@given(data=st.data())
def test_hinge_satisfies_the_kkt_conditions(data):
    loss = data.draw(st.sampled_from([losses.TypeTwo, losses.TypeOne]))
    loss = loss(scores.Hinge(data.draw(st.floats(0.1, 2.0))))
    sizes, penalty = st.integers(1, 8), 10.0 ** data.draw(st.floats(-3, 0))
    seed = data.draw(st.integers(0, 1000))
    z, c, d = problem(data.draw(sizes), data.draw(sizes), data.draw(st.integers(3, 15)), seed)
    solved = optimal_projection(z, c, d, loss, penalty)
    violation, _ = kkt_violation(z, c, d, loss, penalty, solved)
    assert violation <= 1e-11


def test_margins_do_sit_on_the_kink():
    """Else the tests of the hinge would test a linear score."""
    counts = []
    for loss in HINGES.values():
        for penalty in (1e-2, 0.1):
            z, c, d = problem()
            solved = optimal_projection(z, c, d, loss, penalty)
            counts.append(kkt_violation(z, c, d, loss, penalty, solved)[1])
    assert min(counts) >= 2


@pytest.mark.parametrize("penalty", [1e-2, 0.1, 1.0])
@pytest.mark.parametrize("loss", HINGES)
def test_hinge_against_an_independent_solver(loss, penalty):
    """SLSQP on the dual: min 1/2 g^T Q g - sum g, 0 <= g <= w/lam, then B = Phi^T g."""
    z, c, d = problem(n=7)
    phi, w = features(z, c, d, HINGES[loss]), weights(d, HINGES[loss])
    kernel, upper = phi @ phi.T, w / penalty
    found = scipy.optimize.minimize(
        lambda g: 0.5 * g @ kernel @ g - g.sum(),
        np.zeros_like(upper),
        jac=lambda g: kernel @ g - 1.0,
        bounds=[(0, high) for high in upper],
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 2000},
    )
    assert found.success
    solved = optimal_projection(z, c, d, HINGES[loss], penalty)
    np.testing.assert_allclose(solved.matrix.ravel(), phi.T @ found.x, atol=2e-6)
    b = solved.matrix.ravel()
    value = HINGES[loss].value(phi @ b, d) + penalty / 2 * b @ b
    # Strong duality closes the gap to rounding.
    dual = penalty * (solved.margins @ np.zeros_like(upper))
    if loss == "type 2":
        g = solved.slopes * d.sign / penalty
    else:
        g = -solved.slopes[d.sign < 0] / penalty
    dual = penalty * (g.sum() - 0.5 * g @ kernel @ g)
    assert value == pytest.approx(dual, rel=1e-11)


@pytest.mark.parametrize("loss", HINGES)
def test_hinge_is_the_limit_of_the_smoothed_hinge(loss):
    z, c, d = problem()
    kind = type(HINGES[loss])
    limit = optimal_projection(z, c, d, HINGES[loss], 0.05)
    errors = []
    for width in (1e-1, 1e-2, 1e-3, 1e-4):
        smooth = optimal_projection(z, c, d, kind(scores.SmoothedHinge(1.0, width)), 0.05)
        errors.append(np.linalg.norm(smooth.matrix - limit.matrix))
        slopes = np.linalg.norm(smooth.slopes - limit.slopes)
    assert errors[0] > 1e-3
    assert errors[-1] < 3e-3 * errors[0]
    assert slopes < 1e-3


def test_hinge_slopes_are_unique_where_the_dual_is_not():
    """Two copies of each pair: B is unique, slopes are shared evenly, as in the smooth limit."""
    z, c, d = problem(n=6, num_negatives=1)
    twice = Direction(
        np.concatenate([d.anchor, d.anchor + 100]),
        np.concatenate([d.reference, d.reference + 100]),
        np.tile(d.sign, 2),
        np.concatenate([d.group, d.group + 100]),
    )
    once = optimal_projection(z, c, d, HINGES["type 2"], 0.05)
    both = optimal_projection(np.vstack([z, z]), np.vstack([c, c]), twice, HINGES["type 2"], 0.05)
    np.testing.assert_allclose(both.matrix, once.matrix, atol=1e-12)
    np.testing.assert_allclose(both.slopes, np.tile(once.slopes / 2, 2), atol=1e-11)


# -- degenerate cases ------------------------------------------------------------------------------

ALL = {**LOSSES, **{f"hinge, {k}": v for k, v in HINGES.items()}}


@pytest.mark.parametrize("loss", ALL)
def test_duplicate_samples(loss):
    z, c, d = problem(n=8)
    z[4:], c[4:] = z[:4], c[:4]
    solved = optimal_projection(z, c, d, ALL[loss], 0.05)
    assert solved.residual <= 1e-13
    assert np.isfinite(solved.matrix).all()


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("dead", ["z", "c", "both"])
def test_zero_activities_have_a_zero_projection(loss, dead):
    z, c, d = problem()
    if dead in ("z", "both"):
        z = np.zeros_like(z)
    if dead in ("c", "both"):
        c = np.zeros_like(c)
    solved = optimal_projection(z, c, d, ALL[loss], 0.05)
    np.testing.assert_array_equal(solved.matrix, 0.0)
    assert solved.residual == 0.0
    assert np.isfinite(solved.condition_number)


@pytest.mark.parametrize("loss", ALL)
def test_some_dead_samples(loss):
    z, c, d = problem()
    z[::2], c[1] = 0.0, 0.0
    solved = optimal_projection(z, c, d, ALL[loss], 0.05)
    assert solved.residual <= 1e-13


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 1, 12), (1, 5, 7), (5, 1, 7)])
def test_width_one_and_two_samples(loss, shape):
    for seed in range(3):
        z, c, d = problem(*shape, seed=seed, num_negatives=1)
        solved = optimal_projection(z, c, d, ALL[loss], 0.05)
        assert solved.matrix.shape == shape[:2]
        assert solved.residual <= 1e-13


@pytest.mark.parametrize("loss", ALL)
def test_one_positive_and_one_negative_pair(loss):
    d = Direction(np.array([0, 1]), np.array([2, 2]), np.array([1.0, -1.0]), np.array([0, 0]))
    z, c = np.array([[1.0, 0.5], [-0.3, 0.8]]), np.array([[0.7, 0.2, -0.5]])
    solved = optimal_projection(z, c, d, ALL[loss], 0.05)
    assert solved.residual <= 1e-13
    if "hinge" not in loss or "smoothed" in loss:
        oracle = autodiff.optimal_projection(z, c, d, ALL[loss], 0.05)
        np.testing.assert_allclose(solved.matrix, oracle, rtol=1e-11)


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("penalty", [1e-8, 1e-5, 1e3, 1e8])
def test_tiny_and_large_penalties(loss, penalty):
    z, c, d = problem()
    solved = optimal_projection(z, c, d, ALL[loss], penalty)
    assert solved.residual <= 1e-13
    if penalty >= 1e3:
        # To first order in 1/lam: one gradient step from B = 0.
        phi = features(z, c, d, ALL[loss])
        first = -phi.T @ ALL[loss].gradient(np.zeros(len(phi)), d) / penalty
        np.testing.assert_allclose(solved.matrix.ravel(), first, rtol=0.1, atol=1e-4 / penalty)


@pytest.mark.parametrize("score", [scores.Hinge(0.0), scores.SmoothedHinge(0.0, 0.5)])
def test_a_margin_of_zero_is_satisfied_by_nothing(score):
    z, c, d = problem()
    for loss in (losses.TypeTwo(score), losses.TypeOne(score)):
        solved = optimal_projection(z, c, d, loss, 0.05)
        np.testing.assert_allclose(solved.matrix, 0.0, atol=1e-12)


@pytest.mark.parametrize("iterations", [0, 1])
@pytest.mark.parametrize("loss", ["type 2, softplus", "InfoNCE", "hinge, type 2"])
def test_too_few_iterations_raise(monkeypatch, loss, iterations):
    for solver in (newton, hinge):
        monkeypatch.setattr(solver, "MAX_ITERATIONS", iterations)
    z, c, d = problem()
    with pytest.raises(ConvergenceError, match="raise the penalty, or scale the input down"):
        optimal_projection(z, c, d, ALL[loss], 0.01)


@pytest.mark.parametrize("method", ["dual", "primal"])
def test_a_score_of_ones_own(method):
    z, c, d = problem()
    loss = losses.TypeTwo(Exponential())
    solved = optimal_projection(z, c, d, loss, 0.01, method)
    assert residual(z, c, d, loss, 0.01, solved.matrix) <= 2e-13


@pytest.mark.slow
@pytest.mark.parametrize("loss", ALL)
def test_two_hundred_pairs_at_full_width(loss):
    z, c, d = problem(64, 64, 100, num_negatives=1)
    for penalty in (1e-4, 1e-2, 1.0):
        solved = ll.optimal_projection(z, c, d, ALL[loss], penalty)
        assert solved.residual <= 1e-13
