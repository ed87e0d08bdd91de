"""What experiments on hierarchies report was trained with what their searches chose."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from experiments.catalogue import rhm_images, rhm_local_ssl
from experiments.training import LOSS_CANDIDATES

RATES = (1e-3, 3.16e-3, 1e-2)
BEST = {"learning_rate": 3.16e-4, "variant": 1}
VARIABLES = {
    rhm_local_ssl: dict.fromkeys(rhm_local_ssl.VARIABLES, 0.5),
    rhm_images: {
        "accuracy": ("layer", [0.5, 0.5]),
        **dict.fromkeys(
            ("pixel_accuracy", "own_accuracy", "validation_accuracy", "steps", "finished"), 0.5
        ),
    },
}


class Played:
    """A sweep in which rate and variant of `BEST` validate best; it remembers what was asked."""

    def __init__(self, variables):
        self.variables, self.asked = variables, {}

    def __call__(self, function, points, description):
        self.asked[description] = list(points)
        return [self.trained(**point) for point in points]

    def trained(self, learning_rate, variant, **_):
        far = abs(np.log10(learning_rate / BEST["learning_rate"]))
        score = 0.9 - 0.1 * far - 0.01 * (variant != BEST["variant"])
        return xr.Dataset({**self.variables, "validation_accuracy": score})


@pytest.fixture(params=[rhm_local_ssl, rhm_images], ids=lambda module: module.__name__)
def played(request):
    """The result of a preset with a search, and the points of each of its sweeps."""
    module = request.param
    small = replace(
        module.PRESETS["smoke"],
        learning_rates=RATES,
        extensions=2,
        searches=2,
        variants=(0, 1),
        repetitions=3,
    )
    sweep = Played(VARIABLES[module])
    return module.run(small, sweep), sweep.asked


def reported(asked):
    (points,) = (points for name, points in asked.items() if "search" not in name)
    return points


def learns(point):
    return point["loss"] in LOSS_CANDIDATES


def test_reported_networks_have_what_was_chosen_and_other_seeds(played):
    _, asked = played
    chosen = [point for point in reported(asked) if learns(point)]
    assert chosen
    assert {(point["learning_rate"], point["variant"]) for point in chosen} == {
        (BEST["learning_rate"], BEST["variant"])
    }
    searched = {point["seed"] for name in asked if "search" in name for point in asked[name]}
    assert len(searched) == 2
    assert searched.isdisjoint(point["seed"] for point in reported(asked))


def test_rates_are_extended_until_others_enclose_the_best(played):
    result, asked = played
    tried = {point["learning_rate"] for name in asked if "search" in name for point in asked[name]}
    assert tried == {*RATES, 3.16e-4, 1e-4}
    assert set(np.unique(result["inside"].values[~np.isnan(result["inside"].values)])) == {1.0}


def test_what_has_no_parameter_of_its_own_tries_each_rate_once(played):
    _, asked = played
    others = [
        point for name in asked if "search" in name for point in asked[name] if not learns(point)
    ]
    assert others
    assert {point["variant"] for point in others} == {0}
    assert not any(point["loss"] in ("untrained", "clustering") for point in others)


def test_the_result_says_what_was_tried_and_chosen(played):
    result, _ = played
    measured = result["inside"].notnull()
    rates = result["learning_rate"].where(measured).values
    assert set(rates[~np.isnan(rates)]) == {BEST["learning_rate"]}
    assert result.sizes["candidate"] == 5 * 2
    score = result["search_accuracy"].sel(candidate="learning_rate 0.000316, variant 1")
    np.testing.assert_allclose(score.where(score.notnull(), 0.9), 0.9)
    assert bool(score.notnull().any())
