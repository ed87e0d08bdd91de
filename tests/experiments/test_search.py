"""Laws of a search: equal budgets, chosen by validation, reported on other seeds."""

import numpy as np
import pytest
import xarray as xr

from experiments.runner import Sweep, searched, words

CELLS = [{"rule": "a"}, {"rule": "b"}]
RATES = [{"rate": 0.1}, {"rate": 0.2}, {"rate": 0.3}]
# What each rate reaches; test accuracy would choose the other way round.
VALIDATION = {"a": {0.1: 0.2, 0.2: 0.9, 0.3: 0.5}, "b": {0.1: 0.4, 0.2: 0.3, 0.3: 0.8}}


class Measure:
    """Remembers what was asked."""

    def __init__(self, validation=VALIDATION):
        self.asked, self.validation = [], validation

    def __call__(self, rule, rate, seed):
        self.asked.append((rule, rate, seed))
        found = self.validation[rule][rate]
        return xr.Dataset({"validation_accuracy": found, "test_accuracy": 1 - found, "seed": seed})


def chosen(results):
    return [int(each["chosen"]) for each in results]


def test_validation_decides_and_test_has_no_say():
    results = searched(Sweep(), Measure(), CELLS, RATES, (0, 1), "x")
    assert chosen(results) == [1, 2]
    for result, choice in zip(results, (1, 2), strict=True):
        assert np.argmax(result["search_accuracy"].values) == choice
    np.testing.assert_allclose(results[0]["search_accuracy"], [0.2, 0.9, 0.5])
    np.testing.assert_allclose(results[0]["test_accuracy"], [0.1, 0.1])


def test_every_cell_tries_every_candidate_once():
    measure = Measure()
    searched(Sweep(), measure, CELLS, RATES, (0, 1), "x")
    tried, reported = measure.asked[:6], measure.asked[6:]
    assert sorted((rule, rate) for rule, rate, _ in tried) == sorted(
        (cell["rule"], candidate["rate"]) for cell in CELLS for candidate in RATES
    )
    assert reported == [("a", 0.2, 0), ("a", 0.2, 1), ("b", 0.3, 0), ("b", 0.3, 1)]


@pytest.mark.parametrize("base", [0, 7])
def test_the_search_sees_other_seeds_than_the_report(base):
    measure = Measure()
    results = searched(Sweep(), measure, CELLS, RATES, range(5), "x", base)
    searching = {seed for *_, seed in measure.asked[:6]}
    reporting = {seed for *_, seed in measure.asked[6:]}
    assert len(searching) == 1
    assert searching.isdisjoint(reporting)
    assert reporting == {base + each for each in range(5)}
    assert results[0]["seed"].values.tolist() == sorted(reporting)


def test_where_there_is_nothing_to_choose_there_is_no_search():
    measure = Measure()
    results = searched(Sweep(), measure, CELLS, RATES[:1], (0, 1), "x")
    assert [seed for *_, seed in measure.asked] == [0, 1, 0, 1]
    assert chosen(results) == [0, 0]
    assert all(np.isnan(each["search_accuracy"]).all() for each in results)


def test_an_undefined_accuracy_never_wins():
    nan = float("nan")
    broken = {"a": {0.1: nan, 0.2: nan, 0.3: 0.0}, "b": dict.fromkeys((0.1, 0.2, 0.3), nan)}
    results = searched(Sweep(), Measure(broken), CELLS, RATES, (0,), "x")
    assert chosen(results) == [2, 0]


def test_among_equals_the_first_wins():
    equal = {"a": {0.1: 0.3, 0.2: 0.7, 0.3: 0.7}, "b": {0.1: 0.5, 0.2: 0.5, 0.3: 0.5}}
    assert chosen(searched(Sweep(), Measure(equal), CELLS, RATES, (0,), "x")) == [1, 0]


def test_candidates_are_labelled_by_what_they_set():
    assert words([{"rate": 0.1, "variant": 0}]) == ["rate 0.1, variant 0"]
