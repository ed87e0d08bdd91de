"""Training with a local rule stays exact if the weights stay isometric or the penalty follows them.

A deep linear network with orthogonal weights climbs its local updates: with free weights, with
the weights above the first put back to the nearest isometry after each step, and with free weights
but a penalty in the downstream metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from experiments.data import PATCH_WIDTH, default_source, grey_identities, patch_batches
from experiments.runner import Sweep, grid, stack
from linlocal import (
    DeepLinear,
    Pairs,
    Rule,
    compare,
    local_update,
    optimal_projection,
    rules,
)
from linlocal.losses import PairLoss


@dataclass(frozen=True)
class Config:
    """What is trained and measured.

    Attributes:
        steps: number of updates, all on one batch.
        images_per_batch: number of 28x28 images in the batch.
        width: units of each layer.
        depth: number of layers.
        learning_rate: step size along the local updates.
        margin: margin of the softplus score.
        penalty: strength lam of the penalty on the projections.
        seed: seeds the images and the weights.
        data: folder of MNIST; None takes photographs.
    """

    steps: int = 100
    images_per_batch: int = 16
    width: int = 64
    depth: int = 4
    learning_rate: float = 0.03
    margin: float = 1.0
    penalty: float = 0.01
    seed: int = 0
    data: Path | None = None


PRESETS = {
    "smoke": Config(steps=6, images_per_batch=6),
    "cpu": Config(),
    "paper": Config(steps=1000, images_per_batch=32),
}
PUBLISHED = "ours: statement 11 of the theory"

TRAININGS = ("free weights", "isometric weights", "free weights, metric penalty")


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprint of MNIST in a folder."""
    return grey_identities(folder)


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train in three ways and compare the updates at every step.

    Returns:
        Over training, step and layer the variables of `linlocal.compare` and ``deviation`` =
        ||G_l - I||_F / sqrt(width_l) and ``moved`` = ||W_l - W_l(0)||_F / ||W_l(0)||_F; over
        training and step the ``loss`` of the top layer, which is the global loss. Step s is after s
        updates.
    """
    start = DeepLinear.orthogonal([PATCH_WIDTH] + [config.width] * config.depth, config.seed)
    (pairs,) = patch_batches(
        default_source(config.data), 1, config.images_per_batch, config.seed, config.data
    )
    plain = rules.CLAPP("softplus", config.margin, config.penalty)

    def train(training: str) -> xr.Dataset:
        rule = plain
        if training == "free weights, metric penalty":
            rule = plain.with_penalty(config.penalty, "downstream")
        network = start
        records = [record(network, start, pairs, rule)]
        for _ in range(config.steps):
            network = step(network, pairs, rule, config.learning_rate)
            if training == "isometric weights":
                # The first weight stays free: nothing above layer 1 contains it.
                network = network.isometric()
            records.append(record(network, start, pairs, rule))
        return stack(records, "step", range(config.steps + 1))

    return grid(sweep, train, "trainings", training=TRAININGS)


def step(network: DeepLinear, pairs: Pairs, rule: Rule, learning_rate: float) -> DeepLinear:
    """The network after one step along the local updates."""
    updates = local_update(network, pairs, rule)
    return network.with_weights(
        [
            network.matrix(l) + learning_rate * update
            for l, update in zip(network.layers, updates, strict=True)
        ]
    )


def record(network: DeepLinear, start: DeepLinear, pairs: Pairs, rule: Rule) -> xr.Dataset:
    """What is measured at one step of a training from ``start``, see `run`."""
    dataset = compare(network, pairs, rule)
    deviations, moved = [], []
    for l in network.layers:
        first = start.matrix(l)
        moved.append(np.linalg.norm(network.matrix(l) - first) / np.linalg.norm(first))
        gram = network.gram(l)
        deviations.append(np.linalg.norm(gram - np.eye(len(gram))) / np.sqrt(len(gram)))
    return dataset.assign(
        deviation=("layer", deviations),
        moved=("layer", moved),
        loss=top_loss(network, pairs, rule),
    )


def top_loss(network: DeepLinear, pairs: Pairs, rule: Rule) -> float:
    """phi + lam/2 ||B_L||^2 at the optimal projections of the top layer, summed over directions."""
    assert isinstance(rule.loss, PairLoss)
    top = network.activities(pairs.samples).z[network.depth]
    strength = rule.penalty.at(network.depth, network.depth)
    loss = 0.0
    for d in pairs.directions:
        found = optimal_projection(
            top[d.anchor_rows], top[d.reference_rows], d, rule.loss, strength
        )
        size = float(np.sum(found.matrix**2))
        loss += rule.loss.value(found.margins, d) + 0.5 * strength * size
    return loss
