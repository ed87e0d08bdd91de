"""Laws of claims that compare two rules: the paired interval decides, layer by layer."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import ttest_1samp

from paper_figures.look import comparisons

REPETITIONS = 5
# Of mean 0 and of the size at which Student's 95 % interval of the mean has half width 1.
SPREAD = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
SPREAD *= 1 / ttest_1samp(SPREAD, 0).confidence_interval(0.95).high


def rules(gains, common=100.0):
    """Two rules that differ by these gains, in units of the half width; all else is common."""
    noise = common * np.random.default_rng(0).standard_normal((REPETITIONS, len(gains)))
    coordinates = {"layer": np.arange(len(gains)) + 1}
    worse = xr.DataArray(noise, coordinates, ("draw", "layer"))
    return worse + SPREAD[:, None] + np.array(gains), worse


def raised(gains):
    return comparisons.raises("better", *rules(gains), "draw")


@pytest.mark.parametrize("others", [[], [2.0], [1.01, 5.0]])
def test_a_rise_counts_where_the_interval_lies_above_0_in_every_layer(others):
    assert raised([*others, 1.01]).here == "holds"
    for gain in (0.99, 0.0, -0.99):
        within = raised([*others, gain])
        assert within.here == "undecided"
        assert within.measured.endswith(f"; undecided in layer {len(others) + 1}")
    lower = raised([*others, -1.01])
    assert lower.here == "fails"
    assert lower.measured.endswith(f"; lower in layer {len(others) + 1}")


def test_layers_are_named_with_what_became_of_them():
    claim = raised([-2.0, 0.5, 3.0, -0.5, -3.0])
    assert claim.measured == (
        "-2.000 +0.500 +3.000 -0.500 -3.000 in layers 1-5, half intervals up to 1.000; "
        "lower in layers 1, 5, undecided in layers 2, 4"
    )
    assert claim.published == "as curves only"
    assert raised([2.0, 3.0]).measured == "+2.000 +3.000 in layers 1-2, half intervals up to 1.000"


def test_what_the_repetitions_share_does_not_widen_the_interval():
    better, worse = rules([1.5])
    assert comparisons.raises("x", better, worse, "draw").here == "holds"
    # The same numbers in another order are not paired.
    other = worse.copy(data=np.roll(worse.values, 1, axis=0))
    assert comparisons.raises("x", better, other, "draw").here != "holds"


def test_a_single_repetition_raises_nothing():
    better, worse = (each.isel(draw=[0]) for each in rules([1e6, 1e6]))
    claim = comparisons.raises("x", better, worse, "draw")
    assert claim.here == "undecided"
    assert claim.measured.endswith("in layers 1-2; undecided in layers 1, 2")


def test_equal_rules_do_not_raise_each_other():
    """Without any spread the interval is the point 0, which is neither above nor below."""
    better, _ = rules([1.0, 2.0])
    claim = comparisons.raises("x", better, better, "draw")
    assert claim.here == "undecided"
    assert claim.measured.endswith("half intervals up to 0.000; undecided in layers 1, 2")


def variants(gain):
    better, worse = rules([gain])
    both = xr.concat([worse, better], xr.DataArray(["base", "new"], dims="variant"))
    return both.isel(layer=0, drop=True).rename(draw="repetition")


@pytest.mark.parametrize("least", [0.0, -0.5, 20.0])
@pytest.mark.parametrize(
    ("beyond", "verdict"),
    [
        (1.01, "holds"),
        (0.99, "undecided"),
        (0.0, "undecided"),
        (-0.99, "undecided"),
        (-1.01, "fails"),
    ],
)
def test_a_difference_is_decided_by_its_interval_and_open_within(least, beyond, verdict):
    values = variants(least + beyond)
    claim = comparisons.difference(values, "new", "base", "x", least, "y")
    assert claim.here == verdict
    low, high = least + beyond - 1, least + beyond + 1
    assert claim.measured.endswith(f", difference {low:+.3f} to {high:+.3f}")
    means = [float(values.sel(variant=name).mean()) for name in ("new", "base")]
    assert claim.measured.startswith("{:.3f} against {:.3f},".format(*means))
    assert claim.published == "y"


def test_a_difference_of_one_repetition_is_open():
    values = variants(1e6).isel(repetition=[0])
    assert comparisons.difference(values, "new", "base", "x", 0.0, "y").here == "undecided"


def test_bounds_are_those_of_students_interval():
    rng = np.random.default_rng(1)
    for count in (2, 3, 10):
        values = rng.standard_normal(count)
        expected = ttest_1samp(values, 0).confidence_interval(0.95)
        found = comparisons.bounds(xr.DataArray(values, dims="repetition"))
        np.testing.assert_allclose(found, expected, rtol=1e-9)
