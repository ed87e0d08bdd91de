"""What each layer knows of the hidden hierarchy, and when it becomes invariant to synonyms.

Synonymic sensitivity S_{k,l} and linear decodability of the symbols of level l from layer k, for
networks trained by backpropagation, direct feedback and layer-local self-supervised rules, against
the number of data.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Literal

import xarray as xr

from experiments.runner import Sweep, grid
from experiments.training import (
    LOSS_CANDIDATES,
    Convergence,
    NetworkRecipe,
    PairSource,
    Positives,
    Task,
    class_labels,
    fit_labels,
    fit_pairs,
    layer_activities,
    one_hot_leaves,
)
from linlocal.analysis.hierarchy import Feedback
from linlocal.analysis.probing import decodability, synonymic_sensitivity


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        num_symbols: v = n.
        num_synonyms: m.
        num_levels: L.
        multiples: numbers of training data in units of P* = n m^L.
        width: units per position.
        cap, least: largest and smallest number of steps of a training, see `Convergence`.
        num_probe: number of data to which the classifiers are fitted.
        repetitions: number of grammars and networks.
        seed: seeds the grammars, the splits and the networks.
    """

    num_symbols: int = 8
    num_synonyms: int = 4
    num_levels: int = 3
    multiples: tuple[float, ...] = (0.5, 2.0, 8.0)
    width: int = 64
    cap: int = 300
    least: int = 200
    num_probe: int = 1000
    repetitions: int = 3
    seed: int = 0


PRESETS = {
    "smoke": Config(
        num_symbols=4,
        num_synonyms=2,
        num_levels=3,
        multiples=(1.0,),
        width=8,
        cap=5,
        num_probe=60,
    ),
    "cpu": Config(),
    "workstation": Config(multiples=(1.0, 4.0), cap=20_000, least=2000, repetitions=4),
    "paper": Config(
        multiples=(0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
        cap=30_000,
        least=2000,
        num_probe=2000,
        repetitions=8,
    ),
}
PUBLISHED = "arXiv 2307.02129, synonymic sensitivity"


@dataclass(frozen=True)
class Rule:
    """How a network learns.

    Attributes:
        credit: how the error reaches a layer: "backpropagation", "direct feedback", "local" (no
            error crosses layers), or "" for a network that is not trained.
        positives: what a loss pulls together, "views" or "siblings"; "labels" for supervised
            training, "" for none.
        loss: a name in `LOSS_CANDIDATES` for training without labels, else "".
    """

    credit: Literal["backpropagation", "direct feedback", "local", ""] = ""
    positives: Positives | Literal["labels", ""] = ""
    loss: str = ""


RULES = {
    "untrained": Rule(),
    "backpropagation": Rule("backpropagation", "labels"),
    "direct feedback alignment": Rule("direct feedback", "labels"),
    "local VICReg": Rule("local", "views", "VICReg"),
    "local InfoNCE": Rule("local", "views", "InfoNCE"),
    "local InfoNCE, siblings": Rule("local", "siblings", "InfoNCE"),
}


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train by every rule with every number of data, and ask every layer.

    Returns:
        ``sensitivity`` and ``decodability`` over rule (with coordinates credit, positives, loss),
        multiple, repetition, layer and level; ``steps`` of training, and ``finished``, whether it
        was before the cap.
    """

    def measure(rule: str, multiple: float, repetition: int) -> xr.Dataset:
        how, seed = RULES[rule], config.seed + repetition
        task = Task(config.num_symbols, config.num_synonyms, config.num_levels, multiple, seed)
        rhm = task.rhm
        num_test = min(config.num_probe, rhm.num_data // 8)
        train, rest = rhm.split(train=task.num_train, test=2 * num_test, seed=seed)
        recipe = NetworkRecipe(width=config.width, normalise=True, learning_rate=3e-3)
        until, steps, finished = Convergence(config.cap, config.least), 0, True
        feedback = Feedback("direct" if how.credit == "direct feedback" else "transposed")
        net = recipe.network(rhm, seed, feedback)
        if how.positives == "labels":
            inputs, labels = one_hot_leaves(rhm, train.leaves), class_labels(train)
            fit = fit_labels(net, recipe, inputs, labels, seed, until)
            steps, finished = fit.steps, fit.finished
        elif how.positives:
            source = PairSource(rhm, train, how.positives, rest, seed)
            chosen, until = LOSS_CANDIDATES[how.loss][0], replace(until, floor=-math.inf)
            course = fit_pairs(net, recipe, chosen, source, window=1, seed=seed, until=until)
            steps, finished = course.steps, course.finished
        test, probe = rest[:num_test], rest[num_test:]
        layers = layer_activities(net, rhm)
        return xr.Dataset(
            {
                "sensitivity": synonymic_sensitivity(layers, rhm, test, seed=seed),
                "decodability": decodability(layers, rhm, probe, test, seed=seed),
                "steps": float(steps),
                "finished": float(finished),
            }
        )

    result = grid(
        sweep,
        measure,
        "representations",
        rule=tuple(RULES),
        multiple=config.multiples,
        repetition=range(config.repetitions),
    )
    ways = [asdict(rule) for rule in RULES.values()]
    return result.assign_coords({key: ("rule", [way[key] for way in ways]) for key in ways[0]})
