"""Where direct-feedback rules fail on the Random Hierarchy Model, and what masks contribute.

Supervised training of hierarchical ReLU networks by backpropagation, by backpropagation whose
downstream masks are averaged over the batch or removed, by feedback alignment with and without
masks, and by direct feedback. Each axis (levels, synonyms, training data, width, extra layers,
optimiser) is varied alone; every rule searches the same hyper-parameters at every point.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import xarray as xr

from experiments.runner import Sweep, searched, stack, words
from experiments.training import NetworkRecipe, Optimiser, Task, learn_task
from linlocal.analysis.hierarchy import Feedback


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        num_symbols: v = n.
        levels: values of L along one axis; here and below, the first value is the reference that
            the other axes keep.
        synonyms: values of m.
        multiples: sizes of the training set in units of P* = n m^L.
        widths: numbers of units per position.
        extras: numbers of layers beyond the hierarchy.
        optimisers: names of optimisers, "adam" or "sgd".
        learning_rates: rates of Adam that the search tries; SGD takes ten times as much.
        steps: largest number of steps of training.
        repetitions: number of grammars and networks that are reported.
        seed: seeds the grammars, the splits, the networks and the search.
    """

    num_symbols: int = 8
    levels: tuple[int, ...] = (4, 3)
    synonyms: tuple[int, ...] = (4,)
    multiples: tuple[float, ...] = (4.0,)
    widths: tuple[int, ...] = (64,)
    extras: tuple[int, ...] = (0,)
    optimisers: tuple[Optimiser, ...] = ("adam",)
    learning_rates: tuple[float, ...] = (3e-3,)
    steps: int = 1500
    repetitions: int = 3
    seed: int = 0


PRESETS = {
    "smoke": Config(
        num_symbols=4,
        levels=(2,),
        synonyms=(2,),
        multiples=(1.5,),
        widths=(16,),
        extras=(0,),
        steps=40,
    ),
    "cpu": Config(levels=(3, 2), steps=800, repetitions=5),
    "paper": Config(
        levels=(4, 2, 3),
        synonyms=(4, 2, 6),
        multiples=(4.0, 1.0, 16.0),
        widths=(64, 32),
        extras=(0, 3),
        optimisers=("adam", "sgd"),
        learning_rates=(1e-3, 3e-3),
        steps=3000,
        repetitions=3,
    ),
}
PUBLISHED = "arXiv 2605.18557 (abstract only)"

RULES = {
    "backpropagation": Feedback(),
    "backpropagation, masks averaged over the batch": Feedback(masks="batch"),
    "backpropagation, masks removed": Feedback(masks="none"),
    "feedback alignment": Feedback("random"),
    "feedback alignment, masks removed": Feedback("random", "none"),
    "direct feedback alignment": Feedback("direct"),
    "direct feedback, no local derivative": Feedback("direct", local_derivative=False),
    "direct random target projection": Feedback("target"),
}
AXES = ("levels", "synonyms", "multiples", "widths", "extras", "optimisers")


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train every rule at every setting.

    Returns:
        Over rule, setting and repetition: ``test_accuracy``, ``validation_accuracy``, ``steps``,
        ``train_loss``; over candidate: ``search_accuracy``; coordinates of the settings are the
        values of the six axes, and ``axis``: which of them differs from the reference.
    """

    def measure(
        rule: str,
        levels: int,
        synonyms: int,
        multiples: float,
        widths: int,
        extras: int,
        optimisers: Optimiser,
        learning_rate: float,
        normalise: bool,
        seed: int,
    ) -> xr.Dataset:
        task = Task(config.num_symbols, synonyms, levels, multiples, seed)
        rate = learning_rate * (10 if optimisers == "sgd" else 1)
        recipe = NetworkRecipe(
            "convolutional", widths, extras, normalise, optimisers, rate, config.steps
        )
        return learn_task(task, recipe, seed, RULES[rule])

    settings = settings_of(config)
    cells = [{"rule": rule, **setting} for rule in RULES for setting in settings]
    candidates = [
        {"learning_rate": rate, "normalise": normalise}
        for rate in config.learning_rates
        for normalise in (False, True)
    ]
    parts = searched(
        sweep, measure, cells, candidates, range(config.repetitions), "feedback", config.seed
    )
    count = len(settings)
    result = stack(
        [
            stack(parts[first : first + count], "setting", range(count))
            for first in range(0, len(parts), count)
        ],
        "rule",
        tuple(RULES),
    )
    axes = {name: ("setting", [setting[name] for setting in settings]) for name in AXES}
    return result.assign_coords(
        axes | {"axis": ("setting", changed(settings)), "candidate": words(candidates)}
    )


def settings_of(config: Config) -> list[dict[str, object]]:
    """The reference, and what differs from it along one axis; impossible ones are left out."""
    values = {name: asdict(config)[name] for name in AXES}
    reference = {name: each[0] for name, each in values.items()}
    settings = [reference]
    for name, each in values.items():
        for value in each[1:]:
            setting = {**reference, name: value}
            task = Task(
                config.num_symbols,
                setting["synonyms"],
                setting["levels"],
                setting["multiples"],
                config.seed,
            )
            if task.possible:
                settings.append(setting)
    return settings


def changed(settings: list[dict[str, object]]) -> list[str]:
    """The axis along which each setting differs from the first."""
    first = settings[0]
    return [
        next((name for name in AXES if setting[name] != first[name]), "reference")
        for setting in settings
    ]
