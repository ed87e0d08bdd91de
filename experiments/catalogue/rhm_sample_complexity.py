"""How many labels backpropagation needs to learn the Random Hierarchy Model.

Test error of hierarchical networks (convolutional, locally connected), of fully connected and of
shallow ones, each trained to its end, against the size of the training set in units of P* = n m^L,
for several grammars.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr

from experiments.runner import Sweep, stack
from experiments.training import (
    DAYS,
    HOURS,
    SECONDS,
    Architecture,
    Convergence,
    Effort,
    NetworkRecipe,
    Search,
    Task,
    climb,
    learn_with_best_rate,
)
from linlocal.analysis.hierarchy import Feedback
from linlocal.rhm import theory


@dataclass(frozen=True)
class Config(Effort):
    """What is measured; the rest of it is `Effort`.

    Attributes:
        grammars: triples (v = n, m, L).
        networks: names in `NETWORKS`.
    """

    grammars: tuple[tuple[int, int, int], ...] = ((6, 2, 3), (4, 3, 3), (6, 3, 3))
    networks: tuple[str, ...] = ("convolutional", "shallow")


# The architecture, and whether it has batch normalisation.
NETWORKS: dict[str, tuple[Architecture, bool]] = {
    "convolutional": ("convolutional", False),
    "convolutional, batch normalisation": ("convolutional", True),
    "locally connected": ("locally connected", False),
    "fully connected": ("fully connected", False),
    "shallow": ("shallow", False),
}
PRESETS = {
    "smoke": Config(**SECONDS, grammars=((4, 2, 2),)),
    "cpu": Config(),
    "workstation": Config(
        **HOURS,
        grammars=(
            *((4, 2, 3), (6, 2, 3), (8, 2, 3), (8, 3, 3), (4, 4, 3), (6, 4, 3), (8, 4, 3)),
            *((8, 6, 3), (8, 2, 4), (8, 3, 4)),
        ),
        networks=("convolutional", "convolutional, batch normalisation", "shallow"),
    ),
    "paper": Config(
        **DAYS,
        grammars=(
            *((4, 2, 3), (6, 2, 3), (8, 2, 3), (8, 3, 3), (4, 4, 3), (6, 4, 3), (8, 4, 3)),
            *((8, 6, 3), (8, 2, 4), (8, 3, 4), (8, 8, 3), (12, 4, 3), (8, 4, 4), (8, 2, 5)),
        ),
        networks=tuple(NETWORKS),
    ),
}
PUBLISHED = "arXiv 2307.02129, sample complexity"


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train every network on every grammar with more and more data.

    Returns:
        Over architecture, grammar, multiple and repetition: ``test_accuracy``, ``steps``,
        ``train_loss`` and ``finished``; over all but repetition the ``learning_rate`` and whether
        it lies ``inside`` its grid. NaN where nothing was measured, as the network had learned from
        fewer data, or the grammar has no more. Per grammar v, m, L, ``P_star``, ``P_max`` and the
        ``largest`` possible multiple.
    """
    search = Search(config.learning_rates, config.extensions, config.searches)
    until = Convergence(cap=config.cap)

    def measure(network: str, grammar: list[int], multiple: float) -> xr.Dataset:
        architecture, normalise = NETWORKS[network]
        recipe = NetworkRecipe(architecture, config.width, normalise=normalise)
        task = _task(grammar, multiple, config.seed)
        return learn_with_best_rate(task, recipe, Feedback(), search, config.repetitions, until)

    def largest(cell: Mapping[str, Any]) -> float:
        return _task(cell["grammar"], 1, 0).largest

    def learned(cell: Mapping[str, Any]) -> float:
        return 1 - config.error * (1 - 1 / cell["grammar"][0])

    results = []
    for network in config.networks:
        cells = [{"network": network, "grammar": list(grammar)} for grammar in config.grammars]
        found = climb(
            sweep, measure, cells, config.multiples, largest, learned, "sample complexity"
        )
        results.append(stack(found, "grammar", [name(g) for g in config.grammars]))
    tasks = [_task(grammar, 1, config.seed) for grammar in config.grammars]
    return stack(results, "architecture", config.networks).assign_coords(
        {
            "num_symbols": ("grammar", [task.num_symbols for task in tasks]),
            "num_synonyms": ("grammar", [task.num_synonyms for task in tasks]),
            "num_levels": ("grammar", [task.num_levels for task in tasks]),
            "P_star": ("grammar", [theory.sample_complexity(task.rhm) for task in tasks]),
            "P_max": ("grammar", [float(task.rhm.num_data) for task in tasks]),
            "largest": ("grammar", [task.largest for task in tasks]),
        }
    )


def name(grammar: tuple[int, int, int]) -> str:
    """A grammar as a label."""
    v, m, levels = grammar
    return f"v={v} m={m} L={levels}"


def _task(grammar: tuple[int, int, int] | list[int], multiple: float, seed: int) -> Task:
    v, m, levels = grammar
    return Task(v, m, levels, multiple, seed)
