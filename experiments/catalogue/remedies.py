"""A penalty in the downstream metric makes local updates exact for any weights.

Gaussian weights of four width profiles, and what restores the equality of local and global
updates: the metric penalty, a matched projection, the nearest isometries, and a penalty rescaled
per layer on conformal weights. The last two need that no layer above is narrower.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import xarray as xr

from experiments.data import PATCH_WIDTH, default_source, grey_identities, patch_batches
from experiments.runner import Sweep, grid, stack
from linlocal import DeepLinear, Rule, compare, rules


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        repetitions: number of networks of each kind, each with a batch of its own.
        images_per_batch: number of 28x28 images in each batch.
        scale: scale of the conformal weights, W_l^T W_l = scale^2 I.
        margin: margin of the softplus score.
        penalty: strength lam of the penalty on the projections.
        seed: seeds the images and the weights.
        data: folder of MNIST; None takes photographs.
    """

    repetitions: int = 8
    images_per_batch: int = 16
    scale: float = 1.25
    margin: float = 1.0
    penalty: float = 0.01
    seed: int = 0
    data: Path | None = None


PRESETS = {
    "smoke": Config(repetitions=2, images_per_batch=6),
    "cpu": Config(),
    "paper": Config(repetitions=32, images_per_batch=32),
}
PUBLISHED = "ours: statements 1, 2, 3 and 4 of the theory"

# Widths of the layers 1..6.
PROFILES = {
    "constant": (64, 64, 64, 64, 64, 64),
    "widening": (16, 32, 48, 64, 96, 128),
    "narrowing": (128, 96, 64, 48, 32, 16),
    "bottleneck": (96, 64, 16, 16, 64, 96),
}
RULES = ("same layer", "direct feedback")


@dataclass(frozen=True)
class Remedy:
    """What a remedy changes, and where it should make the updates equal.

    Attributes:
        weights: "Gaussian", "isometric" (the nearest isometries to these) or "conformal".
        change: what it changes of the rule, "" for nothing.
        exact: below the top, "nowhere", "everywhere", or "where no layer above is narrower".
    """

    weights: Literal["Gaussian", "isometric", "conformal"]
    change: Literal["metric penalty", "matched projection", "rescaled penalty", ""]
    exact: Literal["nowhere", "everywhere", "where no layer above is narrower"]


REMEDIES = {
    "none": Remedy("Gaussian", "", "nowhere"),
    "metric penalty": Remedy("Gaussian", "metric penalty", "everywhere"),
    "matched projection": Remedy("Gaussian", "matched projection", "everywhere"),
    "nearest isometries": Remedy("isometric", "", "where no layer above is narrower"),
    "conformal, equal penalty": Remedy("conformal", "", "nowhere"),
    "conformal, rescaled penalty": Remedy(
        "conformal", "rescaled penalty", "where no layer above is narrower"
    ),
}


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprint of MNIST in a folder."""
    return grey_identities(folder)


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Compare the updates of every width profile and rule, before and after each remedy.

    Returns:
        The variables of `linlocal.compare` over profile, rule, remedy (with coordinates weights,
        change, exact), repetition and layer, and ``width`` over profile and layer.
    """
    images = default_source(config.data)

    def measure(profile: str, rule: str, remedy: str) -> xr.Dataset:
        widths = [PATCH_WIDTH, *PROFILES[profile]]
        make = rules.CLAPP if rule == "same layer" else rules.CLAPP_DFB
        plain = make("softplus", config.margin, config.penalty)
        batches = patch_batches(
            images, config.repetitions, config.images_per_batch, config.seed, config.data
        )
        parts = []
        for repetition, pairs in enumerate(batches):
            seed = config.seed + repetition
            network, treated = treat(REMEDIES[remedy], widths, plain, config.scale, seed)
            parts.append(compare(network, pairs, treated))
        return stack(parts, "repetition", range(config.repetitions))

    names = tuple(PROFILES)
    result = grid(sweep, measure, "remedies", profile=names, rule=RULES, remedy=tuple(REMEDIES))
    found = [asdict(remedy) for remedy in REMEDIES.values()]
    return result.assign(
        width=(("profile", "layer"), [PROFILES[name] for name in names])
    ).assign_coords({key: ("remedy", [each[key] for each in found]) for key in found[0]})


def treat(
    remedy: Remedy, widths: Sequence[int], rule: Rule, scale: float, seed: int
) -> tuple[DeepLinear, Rule]:
    """The network and the rule that a remedy makes of Gaussian weights and a plain penalty.

    The conformal weights are not made from the Gaussian ones: they have a "before" of their own.
    """
    network = (
        DeepLinear.conformal(widths, scale, seed)
        if remedy.weights == "conformal"
        else DeepLinear.gaussian(widths, seed)
    )
    if remedy.weights == "isometric":
        network = network.isometric()
    if remedy.change == "metric penalty":
        return network, rule.with_penalty(rule.penalty.strength, "downstream")
    if remedy.change == "matched projection":
        return network, replace(rule, projection="matched")
    if remedy.change == "rescaled penalty":
        # G_l = a I: the projection of layer l is a (direct feedback) or a^2 (same layer) times too
        # strong for its penalty, statement 3.
        power = 1 if rule.context == "top" else 2
        factors = (scale ** (2 * (network.depth - l)) for l in network.layers)
        strengths = tuple(
            rule.penalty.at(l, network.depth) / factor**power
            for l, factor in zip(network.layers, factors, strict=True)
        )
        return network, rule.with_penalty(strengths)
    return network, rule
