"""How much data layer-local self-supervised learning needs for the Random Hierarchy Model.

CLAPP, InfoNCE, VICReg, LPL and Barlow Twins in every layer, with no gradient between layers, beside
the same losses backpropagated from the top, and supervised backpropagation. A linear classifier
that is trained on other, labelled data reads what each has learned from its layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from experiments.runner import Sweep, searched, stack, words
from experiments.training import (
    LOSS_CANDIDATES,
    NetworkRecipe,
    PairSource,
    Task,
    accuracy,
    class_labels,
    fit_labels,
    fit_pairs,
    layer_activities,
    one_hot_leaves,
)
from linlocal.analysis.hierarchy import HierarchicalNet
from linlocal.analysis.probing import linear_probe, synonymic_sensitivity


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        grammars: triples (v = n, m, L); m = v is the control without a signal between siblings.
        multiples: numbers of data that a rule sees, views included, in units of P* = n m^L.
        end_to_end: losses that are also backpropagated from the top.
        fresh: losses that also learn from fresh views.
        siblings: losses that also learn from siblings.
        masked: losses that also learn from masked halves.
        width: units per position.
        learning_rates: rates that the search tries, with either value of the loss's own parameter.
        steps: steps of self-supervised training; supervised training takes no more.
        num_labelled: number of held-out labelled data for the readouts.
        repetitions: number of grammars and networks that are reported.
        seed: seeds the grammars, the splits, the networks and the search.
    """

    grammars: tuple[tuple[int, int, int], ...] = ((8, 4, 3), (8, 8, 2))
    multiples: tuple[float, ...] = (1.0, 4.0)
    end_to_end: tuple[str, ...] = ("InfoNCE", "VICReg")
    fresh: tuple[str, ...] = ("VICReg",)
    siblings: tuple[str, ...] = ("InfoNCE", "VICReg")
    masked: tuple[str, ...] = ("InfoNCE", "VICReg")
    width: int = 64
    learning_rates: tuple[float, ...] = (3e-3,)
    steps: int = 600
    num_labelled: int = 256
    repetitions: int = 3
    seed: int = 0


PRESETS = {
    "smoke": Config(
        grammars=((4, 2, 3),),
        multiples=(1.0,),
        end_to_end=("VICReg",),
        siblings=("InfoNCE",),
        masked=("VICReg",),
        width=8,
        steps=5,
        num_labelled=64,
    ),
    "cpu": Config(
        grammars=((6, 3, 3), (6, 6, 2)),
        multiples=(4.0,),
        end_to_end=("VICReg",),
        fresh=(),
        siblings=("InfoNCE",),
        masked=("VICReg",),
        steps=200,
        repetitions=5,
    ),
    "paper": Config(
        grammars=((8, 4, 3), (8, 4, 4), (8, 8, 2)),
        multiples=(0.5, 1.0, 4.0),
        steps=1000,
        repetitions=3,
    ),
}
PUBLISHED = "arXiv 2605.18557 (abstract only)"


def cells_of(config: Config) -> list[dict[str, Any]]:
    """The rules that are compared, each by its loss, credit and positives.

    The label of a rule is these three words together.
    """
    cells = [{"loss": loss, "credit": "local", "positives": "views"} for loss in LOSS_CANDIDATES]
    cells += [
        {"loss": loss, "credit": "end to end", "positives": "views"} for loss in config.end_to_end
    ]
    cells += [
        {"loss": loss, "credit": "local", "positives": "fresh views"} for loss in config.fresh
    ]
    cells += [
        {"loss": loss, "credit": "local", "positives": "siblings"} for loss in config.siblings
    ]
    cells += [
        {"loss": loss, "credit": "local", "positives": "masked halves"} for loss in config.masked
    ]
    cells += [
        {"loss": "supervised backpropagation", "credit": "", "positives": "labels"},
        {"loss": "untrained", "credit": "", "positives": ""},
    ]
    return cells


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train every rule on every grammar with every number of data.

    Returns:
        Over grammar, rule (with coordinates loss, credit, positives), multiple and repetition:
        ``test_accuracy`` of a linear readout of the top layer, ``hidden_accuracy`` when the top
        layer is trained on the labelled data together with its readout, ``own_accuracy`` of the
        supervised network's own output (NaN for others), ``sensitivity`` of layer 1 to synonyms of
        level 1, and ``search_accuracy`` over candidate.
    """

    def measure(
        grammar: list[int],
        loss: str,
        credit: str,
        positives: str,
        multiple: float,
        learning_rate: float,
        variant: int,
        seed: int,
    ) -> xr.Dataset:
        v, m, levels = grammar
        task = Task(v, m, levels, multiple, seed)
        recipe = NetworkRecipe(
            width=config.width, normalise=True, learning_rate=learning_rate, steps=config.steps
        )
        return learned(task, recipe, loss, variant, credit, positives, config.num_labelled, seed)

    rules = cells_of(config)
    # Rules that see no fixed set do not depend on its size.
    sizes = [
        config.multiples if rule["positives"] not in ("", "fresh views") else config.multiples[-1:]
        for rule in rules
    ]
    cells = [
        {"grammar": list(grammar), **rule, "multiple": multiple}
        for grammar in config.grammars
        for rule, multiples in zip(rules, sizes, strict=True)
        for multiple in multiples
    ]
    candidates = [
        {"learning_rate": rate, "variant": variant}
        for rate in config.learning_rates
        for variant in (0, 1)
    ]
    parts = iter(
        searched(sweep, measure, cells, candidates, range(config.repetitions), "SSL", config.seed)
    )
    result = stack(
        [
            stack(
                [
                    _over_multiples([next(parts) for _ in multiples], config.multiples)
                    for multiples in sizes
                ],
                "rule",
                [" ".join(filter(None, rule.values())) for rule in rules],
            )
            for _ in config.grammars
        ],
        "grammar",
        [f"v={v} m={m} L={levels}" for v, m, levels in config.grammars],
    )
    labels = {key: ("rule", [rule[key] for rule in rules]) for key in rules[0]}
    return result.assign_coords(labels | {"candidate": words(candidates)})


def _over_multiples(parts: list[xr.Dataset], multiples: Sequence[float]) -> xr.Dataset:
    """A result for each multiple; a single one stands for all of them."""
    if len(parts) == 1:
        parts = parts * len(multiples)
    return stack(parts, "multiple", multiples)


def learned(
    task: Task,
    recipe: NetworkRecipe,
    loss: str,
    variant: int,
    credit: str,
    positives: Any,
    num_labelled: int,
    seed: int,
) -> xr.Dataset:
    """Train one network and read it out."""
    rhm = task.rhm
    share = rhm.num_data // 8
    num_test = min(2000, share)
    num_labelled = min(num_labelled, share)
    num_validation = min(1000, share)
    num_train = min(task.num_train, rhm.num_data // 2)
    train, rest = rhm.split(
        train=num_train, test=num_test + num_labelled + num_validation, seed=seed
    )
    test, labelled = rest[:num_test], rest[num_test : num_test + num_labelled]
    validation = rest[num_test + num_labelled :]
    net = recipe.network(rhm, seed)
    own = np.nan
    if positives == "labels":
        fit_labels(net, recipe, one_hot_leaves(rhm, train.leaves), class_labels(train), seed)
        own = accuracy(net, one_hot_leaves(rhm, test.leaves), class_labels(test))
    elif positives:
        source = PairSource(rhm, train, positives, rest, seed)
        fit_pairs(
            net, recipe, LOSS_CANDIDATES[loss][variant], source, local=credit == "local", seed=seed
        )
    layers = layer_activities(net, rhm)
    *_, below, top = layers(labelled.leaves)
    head = HierarchicalNet(
        recipe.width,
        rhm.tuple_sizes[-1:],
        recipe.width,
        rhm.num_classes,
        below.shape[1],
        normalise=True,
        seed=seed,
    )
    fit_labels(head, recipe, below, class_labels(labelled), seed)
    linear, hidden = {}, {}
    features = top.flatten(1)
    for name, trees in (("validation", validation), ("test", test)):
        *_, below, top = layers(trees.leaves)
        found = linear_probe(features, labelled.labels, top.flatten(1), trees.labels, seed=seed)
        linear[name] = found.accuracy
        hidden[name] = accuracy(head, below, class_labels(trees))
    synonyms = synonymic_sensitivity(layers, rhm, test, seed=seed)
    judged = hidden if positives == "siblings" else linear
    return xr.Dataset(
        {
            "test_accuracy": linear["test"],
            "hidden_accuracy": hidden["test"],
            "own_accuracy": own,
            "sensitivity": float(synonyms.sel(layer=1, level=1)),
            "validation_accuracy": judged["validation"],
        }
    )
