"""The optimal projection at any size of its input: the same problem has the same answer."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

import linlocal as ll
from linlocal import losses, testing
from linlocal.losses import scores
from linlocal.pairs import Pairs
from linlocal.projection import optimal_projection
from linlocal.projection.optimal import ConvergenceError

SCORES = {
    "linear": scores.Linear(),
    "softplus": scores.Softplus(1.0),
    "hinge": scores.Hinge(1.0),
    "smoothed hinge": scores.SmoothedHinge(1.0, 0.5),
}
LOSSES = {
    **{f"type 2, {k}": losses.TypeTwo(s) for k, s in SCORES.items()},
    **{f"type 1, {k}": losses.TypeOne(s) for k, s in SCORES.items()},
    "InfoNCE": losses.InfoNCE(0.7),
}
PENALTY = 0.05


def problem(seed=0, n=8, width=5):
    z, c = testing.samples(n, width, seed)
    pairs = Pairs.from_views(z, c, num_negatives=2, directions="forward")
    return z, c, pairs.directions[0]


def energy(b, z, c, d, loss, penalty):
    u = np.einsum("pi,ij,pj->p", z[d.anchor_index], b, c[d.reference_index])
    return loss.value(loss.contrasts(d).apply(u), d) + 0.5 * penalty * np.sum(b**2)


@pytest.mark.parametrize("name", LOSSES)
@given(s=st.integers(-80, 80), t=st.integers(-80, 80), seed=st.integers(0, 20))
def test_powers_of_two_change_no_digit(name, s, t, seed):
    """z -> s z, c -> t c, lam -> lam (s t)^2 has B -> B / (s t)."""
    (z, c, d), loss = problem(seed), LOSSES[name]
    one = optimal_projection(z, c, d, loss, PENALTY)
    other = optimal_projection(
        np.ldexp(z, s), np.ldexp(c, t), d, loss, float(np.ldexp(PENALTY, 2 * (s + t)))
    )
    np.testing.assert_array_equal(other.slopes, one.slopes)
    np.testing.assert_array_equal(np.ldexp(other.matrix, s + t), one.matrix)
    np.testing.assert_array_equal(np.ldexp(other.projected, s), one.projected)
    assert other.residual == one.residual
    assert other.condition_number == one.condition_number
    assert other.cancellation == one.cancellation


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("power", range(-8, 9, 2))
def test_powers_of_ten_change_rounding_alone(name, power):
    (z, c, d), loss, size = problem(3), LOSSES[name], 10.0**power
    one = optimal_projection(z, c, d, loss, PENALTY)
    other = optimal_projection(size * z, size * c, d, loss, PENALTY * size**4)
    allowed = testing.tolerance(condition_number=max(one.condition_number, one.cancellation))
    testing.assert_same_update(other.matrix * size**2, one.matrix, allowed)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("power", [*range(-8, 9, 2), -60, -20, 20])
def test_with_one_penalty_it_is_a_minimum(name, power):
    """Judged from outside: at B no step along B or across it lowers the energy."""
    (z, c, d), loss, size = problem(1), LOSSES[name], 10.0**power
    b = optimal_projection(size * z, size * c, d, loss, PENALTY).matrix
    assert b.any()
    rng = np.random.default_rng(0)
    here = energy(b, size * z, size * c, d, loss, PENALTY)
    # Of the energy, and of the margins in it, which are of size one on a hinge.
    noise = 1e-12 * abs(here) + 1e-14
    for factor in (0.0, 0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
        assert energy(factor * b, size * z, size * c, d, loss, PENALTY) >= here - noise
    for _ in range(20):
        step = rng.standard_normal(b.shape) * np.linalg.norm(b) * 10.0 ** -rng.uniform(1, 6)
        assert energy(b + step, size * z, size * c, d, loss, PENALTY) >= here - noise


@pytest.mark.parametrize("power", [-8, -3, 4, 8])
@pytest.mark.parametrize("score", ["hinge", "softplus"])
def test_updates_of_an_input_in_other_units(power, score):
    """x -> s x with lam -> lam s^4 leaves the scores, so updates grow as x does: by s^0."""
    x, view = testing.samples(8, 6, 0)
    network, size = ll.DeepLinear.uniform((6, 5, 4), 1), 10.0**power
    one = ll.local_update(
        network, Pairs.from_views(x, view), ll.rules.CLAPP(score, penalty=PENALTY)
    )
    other = ll.local_update(
        network,
        Pairs.from_views(size * x, size * view),
        ll.rules.CLAPP(score, penalty=PENALTY * size**4),
    )
    testing.assert_same_update(other, one, 1e-10)


@pytest.mark.parametrize(("power", "penalty"), [(60, 0.1), (100, 0.1), (70, 1e-150), (-70, 1e150)])
@pytest.mark.parametrize("name", LOSSES)
def test_what_float64_cannot_hold_is_refused_in_words(name, power, penalty):
    z, c, d = problem()
    with pytest.raises(ConvergenceError, match=r"beyond what float64 resolves: scale the input"):
        optimal_projection(10.0**power * z, 10.0**power * c, d, LOSSES[name], penalty)
