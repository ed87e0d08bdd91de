"""How much data layer-local self-supervised learning needs for the Random Hierarchy Model.

CLAPP, InfoNCE, VICReg, LPL and Barlow Twins in every layer, with no gradient between layers, beside
the same losses backpropagated through more layers, supervised backpropagation, and clustering of
tuples by counts. Every training runs until it is finished by one criterion. The same two heads,
trained on the same other, labelled data, read what each network has learned; the labels of the
heads and of the search are part of what a rule is charged for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from experiments.runner import Sweep, stack
from experiments.training import (
    LOSS_CANDIDATES,
    Convergence,
    NetworkRecipe,
    PairSource,
    Search,
    Task,
    accuracy,
    chosen,
    class_labels,
    fit_labels,
    fit_pairs,
    fit_told,
    layer_activities,
    one_hot_leaves,
    own_parameters,
    table,
    unsearched,
)
from linlocal.analysis.hierarchy import HierarchicalNet
from linlocal.analysis.probing import linear_probe, synonymic_sensitivity
from linlocal.rhm import Trees, clustering

SUPERVISED = "supervised backpropagation"
COUNTS = "clustering"
# Half octaves between 1 and 8 P*.
DENSE = tuple(round(2 ** (k / 2), 3) for k in range(7))


@dataclass(frozen=True)
class Config:
    """What is measured.

    The first grammar is asked everything. The others are asked about the losses ``elsewhere``;
    where m = v, the control without a signal between siblings, about rules without side
    information.

    Attributes:
        grammars: triples (v = n, m, L).
        grids: for each grammar, numbers of data that a rule sees, views included, in units of
            P* = n m^L.
        sparse: the same for windows, controls and printed forms.
        alone_grid: the same for siblings, masked halves and the clustering of siblings.
        losses: local losses.
        elsewhere: those of them for the other grammars.
        windowed: losses that are also backpropagated through windows of 2..L layers.
        controlled: losses that also learn from usable, noisy and fresh views and from data of one
            class.
        alone: losses that also learn from siblings and from masked halves.
        width: units per position.
        learning_rates: rates that the search tries first.
        extensions: how often it tries a further rate where the best lies at the edge.
        searches: number of grammars by which it chooses.
        variants: values of the loss's own parameter that it tries with each, by their numbers.
        search_multiple: the number of data at which it tries them.
        cap, least: largest and smallest number of steps of a training, see `Convergence`.
        num_labelled: number of held-out labelled data for the heads.
        num_validation: number of held-out labelled data for the search.
        repetitions: number of grammars and networks that are reported.
        seed: seeds the grammars, the splits, the networks and the search.
    """

    grammars: tuple[tuple[int, int, int], ...] = ((6, 3, 3), (6, 6, 2))
    grids: tuple[tuple[float, ...], ...] = ((2.0, 4.0), (2.0,))
    sparse: tuple[float, ...] = (4.0,)
    alone_grid: tuple[float, ...] = (2.0,)
    losses: tuple[str, ...] = ("CLAPP", "InfoNCE", "VICReg", "LPL", "Barlow Twins")
    elsewhere: tuple[str, ...] = ("CLAPP",)
    windowed: tuple[str, ...] = ("InfoNCE",)
    controlled: tuple[str, ...] = ("CLAPP",)
    alone: tuple[str, ...] = ("VICReg",)
    width: int = 32
    learning_rates: tuple[float, ...] = (3e-3,)
    extensions: int = 0
    searches: int = 1
    variants: tuple[int, ...] = (0,)
    search_multiple: float = 4.0
    cap: int = 300
    least: int = 200
    num_labelled: int = 256
    num_validation: int = 256
    repetitions: int = 2
    seed: int = 0


PRESETS = {
    "smoke": Config(
        grammars=((4, 2, 3),),
        grids=((1.0,),),
        sparse=(1.0,),
        alone_grid=(1.0,),
        losses=("CLAPP", "VICReg"),
        windowed=("VICReg",),
        alone=("InfoNCE",),
        width=8,
        search_multiple=1.0,
        cap=5,
        num_labelled=64,
        num_validation=64,
    ),
    "cpu": Config(),
    "workstation": Config(
        grammars=((8, 4, 3), (8, 4, 4), (8, 8, 2)),
        grids=(DENSE[1:6], DENSE[1:5], (1.0, 4.0)),
        sparse=(4.0,),
        alone_grid=(4.0, 64.0),
        windowed=("InfoNCE",),
        alone=("InfoNCE", "VICReg"),
        width=64,
        learning_rates=(1e-3, 3.16e-3, 1e-2),
        extensions=2,
        searches=2,
        variants=(0, 1),
        search_multiple=DENSE[3],
        cap=20_000,
        least=2000,
        repetitions=8,
    ),
    "paper": Config(
        grammars=((8, 4, 3), (8, 4, 4), (8, 8, 2)),
        grids=(DENSE, DENSE, (1.0, 4.0)),
        sparse=DENSE[1::2],
        alone_grid=(1.0, 4.0, 16.0, 64.0),
        elsewhere=("CLAPP", "InfoNCE", "VICReg", "LPL", "Barlow Twins"),
        windowed=("InfoNCE", "VICReg"),
        controlled=("CLAPP", "InfoNCE", "VICReg"),
        alone=("InfoNCE", "VICReg"),
        width=64,
        learning_rates=(1e-3, 3.16e-3, 1e-2),
        extensions=2,
        searches=2,
        variants=(0, 1),
        search_multiple=DENSE[3],
        cap=30_000,
        least=2000,
        repetitions=8,
    ),
}
PUBLISHED = "arXiv 2605.18557 (abstract only)"


def cells_of(config: Config) -> list[dict[str, Any]]:
    """The rules that are compared, each by its loss, credit and positives.

    The label of a rule is these three words together.
    """
    depth = max(levels for *_, levels in config.grammars)
    local = [(loss, "local", "views") for loss in config.losses]
    local += [(f"{loss} as printed", "local", "views") for loss in ("VICReg", "LPL")]
    for w in range(2, depth + 1):
        local += [(loss, f"window {w}", "views") for loss in config.windowed]
    for positives in ("usable views", "noisy views", "fresh views", "same class"):
        local += [(loss, "local", positives) for loss in config.controlled]
    for positives in ("siblings", "masked halves"):
        local += [(loss, "local", positives) for loss in config.alone]
    every = [
        *local,
        (COUNTS, "", "siblings"),
        (COUNTS, "", "labels"),
        (SUPERVISED, "", "labels"),
        (SUPERVISED, "", "labels and views"),
        ("untrained", "", ""),
    ]
    return [dict(zip(("loss", "credit", "positives"), rule, strict=True)) for rule in every]


def grid_of(config: Config, grammar: int, rule: dict[str, Any]) -> tuple[float, ...]:
    """The multiples at which a rule is measured on a grammar; none where it is not."""
    v, m, levels = config.grammars[grammar]
    loss, credit, positives = rule.values()
    dense = config.grids[grammar]
    if loss == COUNTS:
        return dense if m == v else tuple(sorted({*dense, *config.alone_grid}))
    if loss == SUPERVISED:
        return dense if positives == "labels" else (() if grammar or m == v else config.sparse)
    if not positives:
        return dense[-1:]
    if positives in ("siblings", "masked halves"):
        return dense if m == v else (() if grammar else config.alone_grid)
    if m == v:
        return ()
    if positives == "views" and credit == "local" and loss in config.losses:
        return dense if not grammar or loss in config.elsewhere else ()
    if grammar or int(credit.removeprefix("window ").replace("local", "1")) > levels:
        return ()
    return config.sparse[-1:] if positives == "fresh views" else config.sparse


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train every rule on every grammar with every number of data.

    Returns:
        Over grammar, rule (with coordinates loss, credit, positives), multiple and repetition:
        ``test_accuracy`` of a linear readout of the top layer, ``hidden_accuracy`` when the top
        layer is trained on the labelled data together with its readout, ``own_accuracy`` of the
        output of networks with labels (NaN for others) and of a clustering, ``sensitivity`` of
        layer 1 to synonyms of level 1, ``steps`` of training, and ``finished``, whether it was
        before the cap; ``search_accuracy`` over candidate, the ``learning_rate`` and ``variant``
        that were chosen, and whether the rate lies ``inside`` those that were tried. All are NaN
        where a rule was not measured or searched; a rule that sees no fixed set stands at the
        largest multiple alone.
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
        if loss == COUNTS:
            return counted(config, task, positives, seed)
        recipe = NetworkRecipe(width=config.width, normalise=True, learning_rate=learning_rate)
        return learned(config, task, recipe, loss, variant, credit, positives, seed)

    rules = cells_of(config)
    pairs = [
        (number, rule, grid_of(config, number, rule))
        for number in range(len(config.grammars))
        for rule in rules
    ]
    # What is chosen for one number of data serves for all of them.
    cells = [
        {"grammar": list(config.grammars[number]), **rule, "multiple": config.search_multiple}
        for number, rule, _ in pairs
    ]

    def others(cell: Mapping[str, Any]) -> list[dict[str, int]]:
        return own_parameters(cell["loss"], config.variants)

    searched = [bool(grid) and _has_candidates(rule) for _, rule, grid in pairs]
    search = Search(config.learning_rates, config.extensions, config.searches)
    asked = [cell for cell, asks in zip(cells, searched, strict=True) if asks]
    found = iter(chosen(sweep, measure, asked, others, search, "SSL", config.seed))
    first = unsearched(search, {"variant": config.variants[0]})
    choices = [next(found) if asks else first for asks in searched]
    points = [
        {**cell, "multiple": multiple, **choice.candidate, "seed": config.seed + repetition}
        for cell, choice, (_, _, grid) in zip(cells, choices, pairs, strict=True)
        for multiple in grid
        for repetition in range(config.repetitions)
    ]
    measured = iter(sweep(measure, points, "SSL"))
    axis = sorted({multiple for *_, multiples in pairs for multiple in multiples})
    rows = []
    for (_, _, multiples), choice in zip(pairs, table(choices), strict=True):
        parts = {
            multiple: xr.concat([next(measured) for _ in range(config.repetitions)], "repetition")
            for multiple in multiples
        }
        row = _over_multiples(parts, axis, config.repetitions)
        rows.append(row.merge(choice))
    names = [" ".join(filter(None, rule.values())) for rule in rules]
    result = stack(
        [
            stack(rows[first : first + len(rules)], "rule", names)
            for first in range(0, len(rows), len(rules))
        ],
        "grammar",
        [f"v={v} m={m} L={levels}" for v, m, levels in config.grammars],
    )
    labels = {key: ("rule", [rule[key] for rule in rules]) for key in rules[0]}
    return result.assign_coords(labels)


def _has_candidates(rule: dict[str, Any]) -> bool:
    return rule["positives"] != "" and rule["loss"] != COUNTS


VARIABLES = (
    "test_accuracy",
    "hidden_accuracy",
    "own_accuracy",
    "sensitivity",
    "validation_accuracy",
    "steps",
    "finished",
)


def _over_multiples(
    parts: dict[float, xr.Dataset], axis: Sequence[float], repetitions: int
) -> xr.Dataset:
    """The parts along all multiples, NaN where there is none."""
    nothing = xr.Dataset({name: ("repetition", np.full(repetitions, np.nan)) for name in VARIABLES})
    return stack([parts.get(multiple, nothing) for multiple in axis], "multiple", axis)


def data_of(config: Config, task: Task, seed: int) -> tuple[Trees, Trees, Trees, Trees]:
    """Training data, data for the heads, for the search, and for the test; all are different."""
    rhm = task.rhm
    share = rhm.num_data // 8
    sizes = [min(2000, share), min(config.num_labelled, share), min(config.num_validation, share)]
    num_train = min(task.num_train, rhm.num_data // 2)
    train, rest = rhm.split(train=num_train, test=sum(sizes), seed=seed)
    ends = np.cumsum(sizes)
    return train, rest[ends[0] : ends[1]], rest[ends[1] :], rest[: ends[0]]


def counted(config: Config, task: Task, positives: str, seed: int) -> xr.Dataset:
    """Cluster tuples by counts: by their siblings, or by the classes that they are met with."""
    rhm = task.rhm
    train, labelled, _, test = data_of(config, task, seed)
    if positives == "siblings":
        data = Trees.concatenate([labelled, train])
        found = clustering.cluster(rhm, data.leaves, data.labels, labelled=len(labelled))
    else:
        found = clustering.cluster(rhm, train.leaves, train.labels, context="classes")
    right = float((found.classes(test.leaves) == test.labels).mean())
    here = {"own_accuracy": right, "test_accuracy": right if positives == "siblings" else np.nan}
    return xr.Dataset({name: here.get(name, np.nan) for name in VARIABLES})


def learned(
    config: Config,
    task: Task,
    recipe: NetworkRecipe,
    loss: str,
    variant: int,
    credit: str,
    positives: Any,
    seed: int,
) -> xr.Dataset:
    """Train one network until it is finished, and read it out."""
    rhm = task.rhm
    train, labelled, validation, test = data_of(config, task, seed)
    seen = [labelled, validation, test]
    net = recipe.network(rhm, seed)
    own, steps, finished = np.nan, 0, True
    fitting = Convergence(config.cap, config.least)
    if loss == SUPERVISED:
        if positives == "labels":
            fit: Any = fit_labels(
                net, recipe, one_hot_leaves(rhm, train.leaves), class_labels(train), seed, fitting
            )
        else:
            source = PairSource(rhm, train, "views", Trees.concatenate(seen), seed)
            fit = fit_told(net, recipe, source, seed=seed, until=fitting)
        steps, finished = fit.steps, fit.finished
        own = accuracy(net, one_hot_leaves(rhm, test.leaves), class_labels(test))
    elif positives:
        source = PairSource(rhm, train, positives, Trees.concatenate(seen), seed)
        # The hinges of CLAPP have the smallest value 0, the other losses do not reach theirs.
        floor = fitting.floor if loss == "CLAPP" else -math.inf
        until = replace(fitting, floor=floor)
        window = int(credit.removeprefix("window ").replace("local", "1"))
        rule = LOSS_CANDIDATES[loss][variant]
        course = fit_pairs(net, recipe, rule, source, window=window, seed=seed, until=until)
        steps, finished = course.steps, course.finished
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
    fit_labels(head, recipe, below, class_labels(labelled), seed, fitting)
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
            "steps": float(steps),
            "finished": float(finished),
        }
    )
