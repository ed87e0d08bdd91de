"""Images that a network needs all its blocks for: a two-dimensional hierarchy, block by block.

Every symbol of a Random Hierarchy Model is written as a square of b x b symbols of the level below,
every leaf as a small texture. The network has a block for each level, a convolution over squares of
b x b with that stride. A linear probe reads the class from the pixels and from every block, after
training by backpropagation, feedback alignment, direct feedback and layer-local rules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from experiments.data import RHMImages
from experiments.runner import Sweep, stack
from experiments.training import (
    LOSS_CANDIDATES,
    Convergence,
    NetworkRecipe,
    PairSource,
    Search,
    chosen,
    class_labels,
    fit_labels,
    fit_pairs,
    own_parameters,
    table,
    unsearched,
)
from linlocal.analysis.hierarchy import Feedback, HierarchicalNet
from linlocal.analysis.probing import linear_probe
from linlocal.rhm import RandomHierarchyModel, Trees, theory


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        num_symbols: v = n.
        num_synonyms: m; the fewer, the more of the class the pixels alone tell a linear probe.
        num_levels: L; the images are b^L leaves wide.
        block: b.
        patch: side of a leaf in pixels.
        channels: channels of the images.
        multiple: number of training images, views included, in units of P* = n m^L.
        losses: layer-local losses.
        width: channels of a block.
        learning_rates: rates that the search tries first.
        extensions: how often it tries a further rate where the best lies at the edge.
        searches: number of grammars by which it chooses.
        variants: values of the loss's own parameter that it tries with each, by their numbers.
        cap, least: largest and smallest number of steps of a training, see `Convergence`.
        num_labelled: number of other images, with labels, that every probe is fitted to.
        num_validation: number of other images, with labels, for the search.
        num_test: number of test images.
        repetitions: number of grammars, textures and networks that are reported.
        seed: seeds the grammars, the splits, the textures, the networks and the search.
    """

    num_symbols: int = 8
    num_synonyms: int = 8
    num_levels: int = 2
    block: int = 2
    patch: int = 2
    channels: int = 3
    multiple: float = 4.0
    losses: tuple[str, ...] = ("CLAPP", "InfoNCE", "VICReg", "LPL", "Barlow Twins")
    width: int = 32
    learning_rates: tuple[float, ...] = (3e-3,)
    extensions: int = 0
    searches: int = 1
    variants: tuple[int, ...] = (0,)
    cap: int = 250
    least: int = 200
    num_labelled: int = 1000
    num_validation: int = 500
    num_test: int = 1000
    repetitions: int = 2
    seed: int = 0


PRESETS = {
    "smoke": Config(
        num_symbols=4,
        num_synonyms=3,
        multiple=1.0,
        losses=("VICReg",),
        width=8,
        cap=4,
        least=2,
        num_labelled=60,
        num_validation=30,
        num_test=60,
    ),
    "cpu": Config(),
    "workstation": Config(
        num_levels=3,
        width=64,
        learning_rates=(1e-3, 3.16e-3),
        extensions=2,
        variants=(0, 1),
        cap=20_000,
        least=2000,
        num_labelled=2000,
        num_test=2000,
        repetitions=8,
    ),
    "paper": Config(
        num_symbols=16,
        num_levels=3,
        width=128,
        learning_rates=(1e-3, 3.16e-3, 1e-2),
        extensions=2,
        searches=2,
        variants=(0, 1),
        cap=30_000,
        least=2000,
        num_labelled=4000,
        num_test=2000,
        repetitions=8,
    ),
}
PUBLISHED = "ours; the model is that of arXiv 2307.02129"

FEEDBACKS = {
    "backpropagation": Feedback(),
    "feedback alignment": Feedback("random"),
    "direct feedback": Feedback("direct"),
}


def rules_of(config: Config) -> list[dict[str, str]]:
    """The rules that are compared: what they learn from, and how the error reaches a block.

    The last one is not trained.
    """
    rules = [{"loss": "cross-entropy", "credit": name} for name in FEEDBACKS]
    rules += [{"loss": loss, "credit": "local"} for loss in config.losses]
    return [*rules, {"loss": "untrained", "credit": ""}]


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train by every rule, and probe the pixels and every block.

    Returns:
        Over rule (with coordinates loss, credit) and repetition: ``accuracy`` of a linear probe
        over layer, ``pixel_accuracy`` without a network; ``own_accuracy`` of the output (NaN
        without labels); ``steps`` of training, and ``finished``, whether it was before the cap;
        ``search_accuracy`` over candidate, the ``learning_rate`` and ``variant`` that were chosen,
        and whether the rate lies ``inside`` those that were tried.
    """

    def measure(
        loss: str, credit: str, learning_rate: float, variant: int, seed: int
    ) -> xr.Dataset:
        return learned(config, loss, credit, learning_rate, variant, seed)

    def others(rule: Mapping[str, Any]) -> list[dict[str, int]]:
        return own_parameters(rule["loss"], config.variants)

    rules = rules_of(config)
    search = Search(config.learning_rates, config.extensions, config.searches)
    choices = [
        *chosen(sweep, measure, rules[:-1], others, search, "images", config.seed),
        unsearched(search, {"variant": config.variants[0]}),
    ]
    points = [
        {**rule, **choice.candidate, "seed": config.seed + repetition}
        for rule, choice in zip(rules, choices, strict=True)
        for repetition in range(config.repetitions)
    ]
    measured = iter(sweep(measure, points, "images"))
    parts = [
        xr.concat([next(measured) for _ in range(config.repetitions)], "repetition").merge(choice)
        for choice in table(choices)
    ]
    names = [" ".join(filter(None, (rule["loss"], rule["credit"]))) for rule in rules]
    labels = {key: ("rule", [rule[key] for rule in rules]) for key in rules[0]}
    return stack(parts, "rule", names).assign_coords({**labels, "chance": 1 / config.num_symbols})


def learned(
    config: Config, loss: str, credit: str, learning_rate: float, variant: int, seed: int
) -> xr.Dataset:
    """Train one network until it is finished, and probe it."""
    rhm = RandomHierarchyModel(
        num_classes=config.num_symbols,
        num_symbols=config.num_symbols,
        num_synonyms=config.num_synonyms,
        num_levels=config.num_levels,
        tuple_size=config.block**2,
        seed=seed,
    )
    sizes = [config.num_test, config.num_labelled, config.num_validation]
    source = RHMImages(
        rhm,
        train=round(config.multiple * theory.sample_complexity(rhm)),
        test=sum(sizes),
        patch_size=config.patch,
        num_channels=config.channels,
        seed=seed,
    )
    ends = np.cumsum(sizes)
    test = source.test[: ends[0]]
    labelled, validation = source.test[ends[0] : ends[1]], source.test[ends[1] :]
    recipe = NetworkRecipe(width=config.width, normalise=True, learning_rate=learning_rate)
    net = HierarchicalNet(
        config.channels * config.patch**2,
        rhm.tuple_sizes,
        config.width,
        rhm.num_classes,
        rhm.num_leaves,
        normalise=True,
        feedback=FEEDBACKS.get(credit, Feedback()),
        seed=seed,
    )
    until = Convergence(config.cap, config.least)
    own, steps, finished = np.nan, 0, True
    if credit in FEEDBACKS:
        inputs, labels = source.patches(source.train.leaves), class_labels(source.train)
        fit: Any = fit_labels(net, recipe, inputs, labels, seed, until)
        steps, finished = fit.steps, fit.finished
        net.eval()
        with torch.no_grad():
            told = net(source.patches(test.leaves)).argmax(dim=1)
        own = float((told == class_labels(test)).double().mean())
    elif credit:
        pairs = PairSource(rhm, source.train, "views", source.test, seed, source.patches)
        floor = until.floor if loss == "CLAPP" else -math.inf
        rule = LOSS_CANDIDATES[loss][variant]
        until = replace(until, floor=floor)
        course = fit_pairs(net, recipe, rule, pairs, window=1, seed=seed, until=until)
        steps, finished = course.steps, course.finished
    probed = {
        name: [
            linear_probe(ours, labelled.labels, theirs, trees.labels, seed=seed).accuracy
            for ours, theirs in zip(
                blocks_of(net, source, labelled), blocks_of(net, source, trees), strict=True
            )
        ]
        for name, trees in (("validation", validation), ("test", test))
    }
    return xr.Dataset(
        {
            "accuracy": ("layer", probed["test"][1:]),
            "pixel_accuracy": probed["test"][0],
            "own_accuracy": own,
            "validation_accuracy": probed["validation"][-1],
            "steps": float(steps),
            "finished": float(finished),
        },
        {"layer": range(1, rhm.num_levels + 1)},
    )


def blocks_of(net: HierarchicalNet, source: RHMImages, trees: Trees) -> list[Tensor]:
    """The pixels and the output of every block, each (images, features)."""
    net.eval()
    inputs = source.patches(trees.leaves)
    with torch.no_grad():
        return [z.flatten(1) for z in (inputs, *net.activities(inputs))]
