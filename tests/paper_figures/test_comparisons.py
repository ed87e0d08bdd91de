"""Laws of claims that compare two rules: the paired differences decide, layer by layer."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import ttest_1samp

from paper_figures.look import comparisons

REPETITIONS = 5


def spread(layers=1):
    """Of mean 0, of the size at which the intervals of so many layers have half width 1."""
    values = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    return values / ttest_1samp(values, 0).confidence_interval(1 - 0.05 / layers).high


def rules(gains, common=100.0):
    """Two rules that differ by these gains, in units of the half width; all else is common."""
    noise = common * np.random.default_rng(0).standard_normal((REPETITIONS, len(gains)))
    coordinates = {"layer": np.arange(len(gains)) + 1}
    worse = xr.DataArray(noise, coordinates, ("draw", "layer"))
    return worse + spread(len(gains))[:, None] + np.array(gains), worse


def raised(gains):
    return comparisons.raises("better", *rules(gains), "draw")


@pytest.mark.parametrize("others", [[], [2.0], [1.01, 5.0]])
def test_a_rise_counts_where_the_interval_lies_above_0_in_every_layer(others):
    assert raised([*others, 1.01]).here == "holds"
    for gain in (0.99, 0.0, -0.99):
        within = raised([*others, gain])
        assert within.here == "undecided"
        assert not others or within.evidence.endswith(f"; undecided: layer {len(others) + 1}")
    lower = raised([*others, -1.01])
    assert lower.here == "fails"
    assert not others or lower.evidence.endswith(f"; outside: layer {len(others) + 1}")


def test_layers_are_named_with_what_became_of_them():
    claim = raised([-2.0, 0.5, 3.0, -0.5, -3.0])
    assert claim.measured == "-2.000 +0.500 +3.000 -0.500 -3.000 in layers 1-5"
    assert claim.numbers == (
        f"{claim.measured}; half intervals up to 1; outside: layer 1, layer 5; "
        "undecided: layer 2, layer 4"
    )
    assert claim.published == "as curves only"


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
    assert claim.numbers.endswith("in layers 1-2; no interval")


def test_equal_rules_do_not_raise_each_other():
    """Without any spread the interval is the point 0, which is neither above nor below."""
    better, _ = rules([1.0, 2.0])
    assert comparisons.raises("x", better, better, "draw").here == "undecided"


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
    assert claim.numbers.endswith(f"; interval {low:+.3g} to {high:+.3g}")
    means = [float(values.sel(variant=name).mean()) for name in ("new", "base")]
    assert claim.measured.startswith("{:.3f} against {:.3f},".format(*means))
    assert claim.published == "y"


def test_a_difference_of_one_repetition_is_open():
    values = variants(1e6).isel(repetition=[0])
    assert comparisons.difference(values, "new", "base", "x", 0.0, "y").here == "undecided"


@pytest.mark.parametrize(("gain", "sign"), [(1.01, 1), (-1.01, -1), (0.9, 0), (-0.9, 0)])
def test_a_sign_is_that_of_the_whole_interval(gain, sign):
    values = variants(gain)
    assert comparisons.sign(values.sel(variant="new") - values.sel(variant="base")) == sign


def test_parts_go_together_by_their_names():
    parts = {"one": xr.DataArray([1.0, 2.0], dims="repetition").assign_coords(level=1)}
    parts["two"] = 2 * parts["one"].assign_coords(level=2)
    found = comparisons.together(parts)
    assert found["part"].values.tolist() == ["one", "two"]
    np.testing.assert_array_equal(found, [[1, 2], [2, 4]])


@pytest.mark.parametrize("lowest", [True, False])
@pytest.mark.parametrize(
    ("inside", "edge", "verdict"), [(19, 1, "holds"), (18, 1, "fails"), (0, 3, "fails")]
)
def test_the_best_rate_is_to_lie_inside_its_grid(inside, edge, verdict, lowest):
    peaks = [[0.1 + k / 100, 0.9, np.nan] for k in range(inside)]
    slopes = [[0.1, 0.2 + k / 100, 0.9][:: -1 if lowest else 1] for k in range(edge)]
    once = [peaks[0] if peaks else slopes[0]]  # a training that two cells share
    nothing = [[np.nan] * 3, [0.3] * 3]  # not searched; not trained
    scores = xr.DataArray([*peaks, *slopes, *once, *nothing], dims=("rule", "candidate"))
    (claim,) = comparisons.rates_inside(xr.Dataset({"search_accuracy": scores.T}))
    assert claim.here == verdict
    assert claim.measured == f"{inside} of {inside + edge} cells; 3 rates were tried"


def test_a_search_that_went_on_says_itself_whether_it_ended_inside():
    # The second is as good as the best, and in the middle: chosen, though the best lies below it.
    scores = [[np.nan, 0.1, 0.9, 0.2], [0.9, 0.899, 0.1, np.nan], [0.1, 0.2, 0.3, 0.9]]
    alone = [[np.nan, 0.5, np.nan, np.nan]]
    data = xr.Dataset(
        {
            "search_accuracy": (("candidate", "rule"), np.transpose(scores + alone)),
            "inside": ("rule", [1.0, 1.0, 0.0, np.nan]),
        }
    )
    (claim,) = comparisons.rates_inside(data)
    assert claim.here == "fails"
    assert claim.measured == "2 of 3 cells; 3 to 4 rates were tried"
    (claim,) = comparisons.rates_inside(data.isel(rule=[0, 1]))
    assert claim.here == "holds"
    assert claim.measured == "2 of 2 cells; 3 rates were tried"


@pytest.mark.parametrize("candidates", [0, 1])
def test_where_nothing_was_searched_nothing_is_claimed(candidates):
    scores = xr.DataArray(np.full((2, candidates), np.nan), dims=("rule", "candidate"))
    assert comparisons.rates_inside(xr.Dataset({"search_accuracy": scores})) == []
