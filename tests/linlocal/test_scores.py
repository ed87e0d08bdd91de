"""Score functions: derivatives, convexity, limits."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from linlocal import testing
from linlocal.losses import scores

CASES = {
    "linear": scores.Linear(),
    "softplus": scores.Softplus(0.7),
    "hinge": scores.Hinge(0.7),
    "smoothed hinge": scores.SmoothedHinge(0.7, 0.4),
}
# No point is at a kink of f' (0.3 and 0.7).
POINTS = np.linspace(-5, 5, 102)


@pytest.mark.parametrize("name", CASES)
def test_slope_and_curvature_are_the_derivatives(name):
    f, h = CASES[name], 1e-6
    slope = (f.value(POINTS + h) - f.value(POINTS - h)) / (2 * h)
    np.testing.assert_allclose(f.slope(POINTS), slope, atol=1e-8)
    curvature = (f.slope(POINTS + h) - f.slope(POINTS - h)) / (2 * h)
    np.testing.assert_allclose(f.curvature(POINTS), curvature, atol=1e-8)


@given(f=testing.score_functions(hinge=True), a=st.floats(-50, 50), b=st.floats(-50, 50))
def test_scores_are_convex_decreasing_and_of_slope_at_most_one(f, a, b):
    m = np.array([a, b, (a + b) / 2])
    value = f.value(m)
    assert value[2] <= (value[0] + value[1]) / 2 + 1e-12
    assert (f.slope(m) <= 0).all()
    assert (f.slope(m) >= -1).all()
    assert (f.curvature(m) >= 0).all()
    # The tangent lies below.
    assert value[1] >= value[0] + f.slope(m)[0] * (b - a) - 1e-12


def test_values_by_hand():
    m = np.array([-1.0, 0.0, 1.0, 3.0])
    np.testing.assert_array_equal(scores.Linear().value(m), -m)
    np.testing.assert_array_equal(scores.Hinge(1.0).value(m), [2, 1, 0, 0])
    np.testing.assert_array_equal(scores.Hinge(1.0).slope(m), [-1, -1, 0, 0])
    np.testing.assert_allclose(scores.SmoothedHinge(1.0, 1.0).value(m), [1.5, 0.5, 0, 0])
    np.testing.assert_allclose(scores.Softplus(1.0).value(m), np.log1p(np.exp(1.0 - m)))


def test_softplus_neither_overflows_nor_loses_its_tail():
    f, far = scores.Softplus(0.0), np.array([-1e4, -700.0, 700.0, 1e4])
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_allclose(f.value(far), [1e4, 700, np.exp(-700), 0])
        np.testing.assert_allclose(f.slope(far), [-1, -1, -np.exp(-700), 0])
        assert np.isfinite(f.curvature(far)).all()


def test_the_smoothed_hinge_tends_to_the_hinge():
    sharp = scores.Hinge(0.7)
    for width in (1e-1, 1e-3, 1e-5):
        smooth = scores.SmoothedHinge(0.7, width)
        gap = np.abs(smooth.value(POINTS) - sharp.value(POINTS)).max()
        assert gap <= width / 2 * (1 + 1e-9)
    assert np.abs(scores.SmoothedHinge(0.7, 1.0).value(POINTS) - sharp.value(POINTS)).max() > 0.4


@pytest.mark.parametrize("name", ["linear", "softplus", "hinge", "smoothed_hinge"])
def test_names(name):
    f = scores.from_name(name, 0.3)
    assert isinstance(f, scores.Score)
    assert getattr(f, "margin", 0.3) == 0.3
    assert scores.from_name(f) is f
