"""Networks on images are reported at the rate that a search encloses, on seeds of their own."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from experiments.catalogue import blockwise_ssl, local_rules, trained_windows
from experiments.runner import Sweep
from experiments.training import SEARCH_SEED, Search, with_best_rate

RATES = (1e-3, 3.16e-3, 1e-2)
CELLS = [{"rule": "low"}, {"rule": "middle"}]
BEST = {"low": 1e-4, "middle": 3.16e-3}


class Measure:
    """The rates of `BEST` validate best; test accuracy would choose the other way round."""

    def __init__(self):
        self.asked = []

    def __call__(self, rule, learning_rate, seed):
        self.asked.append((rule, learning_rate, seed))
        found = 0.9 - 0.1 * abs(np.log10(learning_rate / BEST[rule]))
        return xr.Dataset({"validation_accuracy": found, "test_accuracy": 1 - found, "seed": seed})


def asked_of(extensions, rates=RATES, seed=0):
    measure = Measure()
    search = Search(rates, extensions, 1)
    return with_best_rate(Sweep(), measure, CELLS, search, 2, "x", seed), measure.asked


@pytest.mark.parametrize("seed", [0, 7])
def test_what_is_reported_has_the_best_rate_and_seeds_of_its_own(seed):
    results, asked = asked_of(3, seed=seed)
    reported = [each for each in asked if each[2] < seed + SEARCH_SEED]
    assert reported == [(c["rule"], BEST[c["rule"]], seed + k) for c in CELLS for k in range(2)]
    assert {each for *_, each in asked if each >= seed + SEARCH_SEED} == {seed + SEARCH_SEED}
    for cell, result in zip(CELLS, results, strict=True):
        assert float(result["learning_rate"]) == BEST[cell["rule"]]
        assert result["seed"].values.tolist() == [seed, seed + 1]
        np.testing.assert_allclose(result["test_accuracy"], 0.1)


@pytest.mark.parametrize(
    ("extensions", "rate", "inside"), [(0, 1e-3, 0), (1, 3.16e-4, 0), (2, 1e-4, 0), (3, 1e-4, 1)]
)
def test_a_search_goes_on_below_its_lowest_rate(extensions, rate, inside):
    (low, middle), asked = asked_of(extensions)
    assert float(low["learning_rate"]) == rate
    assert (float(low["inside"]), float(middle["inside"])) == (inside, 1)
    tried = [len({r for rule, r, _ in asked if rule == cell["rule"]}) for cell in CELLS]
    assert tried == [3 + extensions, 3]
    counts = [int(each["search_accuracy"].notnull().sum()) for each in (low, middle)]
    assert counts == tried


def test_one_rate_is_taken_without_a_search():
    results, asked = asked_of(3, rates=RATES[:1])
    assert [seed for *_, seed in asked] == [0, 1, 0, 1]
    for result in results:
        assert result.sizes["candidate"] == 0
        assert np.isnan(result["inside"])


class Played:
    """A sweep in which every training validates best at 1e-4; it remembers what was asked."""

    def __init__(self, variables):
        self.variables, self.asked = variables, []

    def __call__(self, function, points, description):
        self.asked += points
        return [self.trained(point["learning_rate"]) for point in points]

    def trained(self, learning_rate):
        score = 0.9 - 0.1 * abs(np.log10(learning_rate / 1e-4))
        return self.variables.assign(validation_accuracy=score, accuracy=("layer", [score] * 4))


@pytest.mark.parametrize(
    ("module", "changed", "variables", "cells"),
    [
        (
            local_rules,
            {"rules": ("VICReg", "LPL")},
            {"block_accuracy": 0.5, "cosine": ("step", [0.5])},
            {"data": 1, "credit": 2, "rule": 2},
        ),
        (
            blockwise_ssl,
            {"variants": ("Barlow Twins, simultaneous", "VICReg, end to end")},
            {"corrupted_accuracy": 0.5, "cosine": ("step", [0.5])},
            {"variant": 2},
        ),
    ],
)
def test_results_say_which_rates_their_searches_enclosed(module, changed, variables, cells):
    small = replace(module.PRESETS["smoke"], learning_rates=RATES, extensions=3, **changed)
    sweep = Played(xr.Dataset(variables))
    result = module.run(small, sweep)
    assert dict(result["inside"].sizes) == cells
    assert (result["inside"] == 1).all()
    assert (result["learning_rate"] == 1e-4).all()
    np.testing.assert_allclose(result["accuracy"], 0.9)
    reported = {point["learning_rate"] for point in sweep.asked if point["seed"] < SEARCH_SEED}
    assert reported == {1e-4}


def test_windows_are_trained_at_rates_that_their_searches_enclosed(monkeypatch):
    sweep, asked = Played(xr.Dataset({"cosine": ("time", [0.5, 0.5]), "joint_accuracy": 0.5})), []

    def trained(config, rule, window, learning_rate, seed):
        asked.append((learning_rate, seed))
        return sweep.trained(learning_rate)

    def probed(config, network, seed):
        return xr.Dataset({"accuracy": ("layer", [0.1] * 4)})

    monkeypatch.setattr(trained_windows, "trained", trained)
    monkeypatch.setattr(trained_windows, "probed", probed)
    monkeypatch.setattr(trained_windows, "costs", lambda *point: {"bytes": 1, "multiplications": 1})
    small = replace(trained_windows.PRESETS["smoke"], learning_rates=RATES, extensions=3)
    result = trained_windows.run(small)
    assert dict(result["inside"].sizes) == {"rule": 2, "window": 6}
    assert (result["inside"] == 1).all()
    assert (result["learning_rate"] == 1e-4).all()
    np.testing.assert_allclose(result["accuracy"], 0.9)
    assert {rate for rate, seed in asked if seed < SEARCH_SEED} == {1e-4}
