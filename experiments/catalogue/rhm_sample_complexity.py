"""How many labels backpropagation needs to learn the Random Hierarchy Model.

Test error of hierarchical networks (convolutional, locally connected), of fully connected and of
shallow ones against the size of the training set in units of P* = n m^L, for several grammars.
"""

from __future__ import annotations

from dataclasses import dataclass

import xarray as xr

from experiments.runner import Sweep, searched, stack, words
from experiments.training import Architecture, NetworkRecipe, Task, learn_task
from linlocal.rhm import theory


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        grammars: triples (v = n, m, L).
        multiples: sizes of the training set in units of P* = n m^L.
        architectures: kinds of network, see `experiments.training.Architecture`.
        width: units per position.
        learning_rates: rates that the search tries.
        steps: largest number of steps of training.
        repetitions: number of grammars and networks that are reported.
        seed: seeds the grammars, the splits, the networks and the search.
    """

    grammars: tuple[tuple[int, int, int], ...] = ((8, 2, 3), (8, 3, 3), (6, 4, 3), (8, 2, 4))
    multiples: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    architectures: tuple[Architecture, ...] = ("convolutional", "shallow")
    width: int = 64
    learning_rates: tuple[float, ...] = (3e-3,)
    steps: int = 1000
    repetitions: int = 3
    seed: int = 0


PRESETS = {
    "smoke": Config(
        grammars=((4, 2, 2),),
        multiples=(0.5, 1.0),
        architectures=("convolutional", "shallow"),
        width=8,
        steps=30,
    ),
    "cpu": Config(grammars=((8, 2, 3), (8, 3, 3), (6, 4, 3)), steps=600),
    "paper": Config(
        grammars=(
            (8, 2, 3),
            (8, 3, 3),
            (6, 4, 3),
            (8, 4, 3),
            (12, 4, 3),
            (8, 2, 4),
            (8, 3, 4),
            (8, 2, 5),
        ),
        multiples=(0.5, 1.0, 2.0, 4.0, 8.0),
        architectures=("convolutional", "locally connected", "fully connected", "shallow"),
        steps=3000,
        repetitions=3,
    ),
}
PUBLISHED = "arXiv 2307.02129, sample complexity"


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train every architecture on every grammar with every number of data.

    Returns:
        ``test_accuracy`` and the other results of training over architecture, grammar, multiple
        and repetition, NaN where the multiple exceeds 80 % of all data; ``search_accuracy`` over
        candidate; per grammar v, m, L, ``P_star`` and ``P_max`` (NaN above 1e300).
    """

    def measure(
        architecture: Architecture,
        grammar: list[int],
        multiple: float,
        learning_rate: float,
        normalise: bool,
        seed: int,
    ) -> xr.Dataset:
        recipe = NetworkRecipe(
            architecture, config.width, 0, normalise, "adam", learning_rate, config.steps
        )
        return learn_task(_task(grammar, multiple, seed), recipe, seed=seed)

    keys = [
        (architecture, grammar, multiple)
        for architecture in config.architectures
        for grammar in config.grammars
        for multiple in config.multiples
    ]
    possible = [key for key in keys if _task(key[1], key[2], config.seed).possible]
    cells = [
        {"architecture": architecture, "grammar": list(grammar), "multiple": multiple}
        for architecture, grammar, multiple in possible
    ]
    candidates = [
        {"learning_rate": rate, "normalise": normalise}
        for rate in config.learning_rates
        for normalise in (False, True)
    ]
    seeds = range(config.repetitions)
    found = searched(sweep, measure, cells, candidates, seeds, "sample complexity", config.seed)
    done = dict(zip(possible, found, strict=True))
    nothing = xr.full_like(found[0].astype(float), float("nan"))
    result = stack(
        [
            stack(
                [
                    stack(
                        [done.get((a, g, m), nothing).astype(float) for m in config.multiples],
                        "multiple",
                        config.multiples,
                    )
                    for g in config.grammars
                ],
                "grammar",
                [name(g) for g in config.grammars],
            )
            for a in config.architectures
        ],
        "architecture",
        config.architectures,
    )
    models = [_task(grammar, 1.0, config.seed).rhm for grammar in config.grammars]
    return result.assign_coords(
        {
            "candidate": words(candidates),
            "num_symbols": ("grammar", [model.num_symbols for model in models]),
            "num_synonyms": ("grammar", [model.num_synonyms for model in models]),
            "num_levels": ("grammar", [model.num_levels for model in models]),
            "P_star": ("grammar", [theory.sample_complexity(model) for model in models]),
            "P_max": ("grammar", [float(model.num_data) for model in models]),
        }
    )


def name(grammar: tuple[int, int, int]) -> str:
    """A grammar as a label."""
    v, m, levels = grammar
    return f"v={v} m={m} L={levels}"


def _task(grammar: tuple[int, int, int] | list[int], multiple: float, seed: int) -> Task:
    v, m, levels = grammar
    return Task(v, m, levels, multiple, seed)
