"""Hierarchy results made up for tests, and the verdict of a claim."""

import json

import numpy as np
import xarray as xr

HOLDS, FAILS, OPEN = "holds", "fails", "undecided"


def verdict(module, dataset, words):
    """The verdict of the one claim with these words."""
    (name,) = module.INPUTS
    (claim,) = (claim for claim in module.claims({name: dataset}) if words in claim.text)
    return claim.here


def assigned(dataset, variable, numbers, default, dim="rule"):
    """``variable`` set to a number for each label of a dimension."""
    values = xr.DataArray(
        [float(numbers.get(str(label), default)) for label in dataset[dim].values],
        {dim: dataset[dim].values},
    )
    full = xr.full_like(dataset[variable].astype(float), 0.0) + values
    return dataset.assign({variable: full.transpose(*dataset[variable].dims)})


GRID = [1.0, 2.0, 4.0, 8.0, 16.0]
NEVER = float("nan")


def learned_from(needs, dims, repetitions=4):
    """Accuracies 1 from the given multiples on and .25 below, in every repetition."""
    values = np.where(np.asarray(needs, float)[..., None] <= np.array(GRID), 1.0, 0.25)
    return ((*dims, "multiple", "repetition"), np.repeat(values[..., None], repetitions, -1))


def feedback(default=NEVER, settings=1, **rules):
    """Rules that learn from so many multiples of P*; underscores are blanks."""
    numbers = {name.replace("_", " "): value for name, value in rules.items()}
    names = [name.replace("  ", ", ") for name in numbers]
    needs = [[value] * settings for value in numbers.values()]
    data = xr.Dataset(
        {"test_accuracy": learned_from(needs, ("rule", "setting"))},
        {
            "rule": names,
            "setting": range(settings),
            "multiple": GRID,
            **{key: ("setting", [4] * settings) for key in ("num_symbols", "num_synonyms")},
            "num_levels": ("setting", [3] * settings),
        },
        {"config": json.dumps({"error": 0.1})},
    )
    return searched(data)


def searched(data):
    """The same after five steps each, finished, with rates inside their grids."""
    every = xr.ones_like(data["test_accuracy"])
    return data.assign(finished=every, steps=5 * every, inside=every.isel(repetition=0, drop=True))


def unfinished(data, share):
    """The same with this share of the trainings at the cap."""
    count = data.sizes["repetition"]
    done = xr.DataArray(np.arange(count) >= share * count, dims="repetition")
    return data.assign(finished=data["finished"] * done)


SIZES = (1.0, 1.4, 2.0, 2.8, 4.0)
REPETITIONS = 3


def ssl(stored, grammar=(4, 2, 3), finished=1.0, spread=0.0, **learned_at):
    """Rules of the smoke result, each perfect from some size on and .3 below it.

    Names are those of rules with underscores for blanks, or "local" and "other" for the rest.
    """
    data = stored("rhm_local_ssl").isel(repetition=0, multiple=0)
    config = json.loads(data.attrs["config"]) | {"grammars": [list(grammar)]}
    sizes = xr.DataArray(list(SIZES), {"multiple": list(SIZES)}, dims="multiple")
    tilt = spread * xr.DataArray(np.linspace(-1, 1, REPETITIONS), dims="repetition")
    parts = []
    for rule in data["rule"].values:
        credit = str(data["credit"].sel(rule=rule).values)
        start = learned_at.get(rule.replace(" ", "_"), learned_at["local" if credit else "other"])
        parts.append(xr.where(sizes >= start, 1.0, 0.3) + tilt)
    accuracy = xr.concat(parts, "rule").expand_dims("grammar")
    names = {"test_accuracy", "hidden_accuracy", "own_accuracy"}
    data = data.drop_vars([*names, "finished", "steps"]).drop_vars("multiple")
    fresh = dict.fromkeys(names, accuracy)
    fresh |= {"finished": 0 * accuracy + finished, "steps": 0 * accuracy + 5}
    return data.assign(fresh).assign_attrs(config=json.dumps(config))


def blocks(stored, finished=1.0, **numbers):
    """Accuracies of the blocks by rule, with a small spread over repetitions."""
    data = stored("rhm_images")
    named = {name.replace("_", " "): value for name, value in numbers.items()}
    for rule in data["rule"].values:
        word = str(rule).removeprefix("cross-entropy ").removesuffix(" local")
        data["accuracy"].loc[{"rule": rule}] = np.array(named.get(word, (0.2, 0.3)))
    data["accuracy"] += xr.DataArray([-1e-4, 1e-4], dims="repetition")
    data["finished"][...] = finished
    return data


def complexity(deep, shallow, power=1.0):
    """Grammars that the networks learn from so many multiples of P*, NaN for never.

    P* grows with the multiples that deep networks need so that their data grow with this power.
    """
    count = len(deep)
    stars = 32.0 * 4.0 ** np.arange(count)
    if power != 1:
        stars = np.array(deep, float) ** (1 / (power - 1))
    data = xr.Dataset(
        {"test_accuracy": learned_from([deep, shallow], ("architecture", "grammar"))},
        {
            "architecture": ["convolutional", "shallow"],
            "grammar": [f"grammar {k}" for k in range(count)],
            "multiple": GRID,
            "num_symbols": ("grammar", [4] * count),
            "P_star": ("grammar", stars),
            "P_max": ("grammar", [1e6] * count),
        },
        {"config": json.dumps({"error": 0.1})},
    )
    return searched(data)
