"""With linear f and direct feedback the spectrum of the layers above bounds the cosine from below.

cos >= 2 sqrt(k) / (1 + k) with k = cond(G_l) = cond(V_l)^2, by Kantorovich's inequality. Data that
lie in one direction, made of the largest and the smallest singular vector, attain the bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from experiments.data import PATCH_WIDTH, Array, default_source, grey_identities, patch_batches
from experiments.runner import Sweep, grid, stack
from linlocal import DeepLinear, Pairs, compare, rules


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        repetitions: number of networks for each condition number, each with a batch of its own.
        steps: number of condition numbers of V_1, log-spaced from 1 to ``largest``.
        largest: the largest condition number of V_1.
        images_per_batch: number of 28x28 images in each batch.
        width: units of each layer.
        depth: number of layers.
        margin: margin of the softplus score.
        penalty: strength lam of the penalty on the projections.
        seed: seeds the images and the weights.
        data: folder of MNIST; None takes photographs.
    """

    repetitions: int = 8
    steps: int = 13
    largest: float = 1e6
    images_per_batch: int = 8
    width: int = 64
    depth: int = 4
    margin: float = 1.0
    penalty: float = 0.01
    seed: int = 0
    data: Path | None = None


PRESETS = {
    "smoke": Config(repetitions=2, steps=4, images_per_batch=4),
    "cpu": Config(),
    "paper": Config(repetitions=32, steps=25),
}
PUBLISHED = "ours: statement 7 of the theory"

RULES = {
    "linear f, direct feedback": ("linear", "direct feedback"),
    "softplus f, direct feedback": ("softplus", "direct feedback"),
    "linear f, same layer": ("linear", "same layer"),
    "softplus f, same layer": ("softplus", "same layer"),
}


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprint of MNIST in a folder."""
    return grey_identities(folder)


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Compare the updates for every spectrum, and build the case that attains the bound.

    Returns:
        The variables of `linlocal.compare` over condition (the cond(V_1) that was asked for), rule,
        repetition and layer; ``downstream_condition``, cond(V_l) as built, and
        ``worst_case_cosine`` of the first layer for the constructed data, over condition and
        repetition (the former also over layer).
    """
    widths = [PATCH_WIDTH] + [config.width] * config.depth
    conditions = np.geomspace(1.0, config.largest, config.steps).tolist()
    repetitions = range(config.repetitions)
    batches = patch_batches(
        default_source(config.data),
        config.repetitions,
        config.images_per_batch,
        config.seed,
        config.data,
    )
    linear_feedback = rules.CLAPP_DFB("linear", penalty=config.penalty)

    def network(condition: float, repetition: int) -> DeepLinear:
        return DeepLinear.with_condition_number(widths, condition, config.seed + repetition)

    def measure(condition: float, rule: str) -> xr.Dataset:
        score, feedback = RULES[rule]
        make = rules.CLAPP if feedback == "same layer" else rules.CLAPP_DFB
        chosen = make(score, config.margin, config.penalty)
        parts = [compare(network(condition, r), batches[r], chosen) for r in repetitions]
        return stack(parts, "repetition", repetitions)

    def construct(condition: float) -> xr.Dataset:
        parts = []
        for r in repetitions:
            net = network(condition, r)
            worst = compare(net, worst_case(net, batches[r]), linear_feedback)
            spectra = [float(np.linalg.cond(net.downstream(l))) for l in net.layers]
            parts.append(
                xr.Dataset(
                    {
                        "downstream_condition": ("layer", spectra),
                        "worst_case_cosine": worst["cosine"].sel(layer=1, drop=True),
                    },
                    coords={"layer": list(net.layers)},
                )
            )
        return stack(parts, "repetition", repetitions)

    measured = grid(sweep, measure, "rules", condition=conditions, rule=tuple(RULES))
    built = grid(sweep, construct, "constructed case", condition=conditions)
    return measured.merge(built, join="exact")


def worst_case(network: DeepLinear, pairs: Pairs) -> Pairs:
    """Data for which linear f with direct feedback attains the bound in the first layer.

    For G = diag(g, h) the cosine of x and G x is smallest at x^2 proportional to (h, g): each
    singular direction weighted by the singular value of the other. All activities z_1 lie along
    that direction, so the update does too; the strengths along it are those of the first pixel of
    ``pairs``, so that positive pairs stay alike.

    Args:
        network: its first weight has orthonormal rows.
        pairs: the batch whose structure is kept.
    """
    _, values, directions = np.linalg.svd(network.downstream(1))
    worst = values[-1] * directions[0] + values[0] * directions[-1]
    worst /= np.linalg.norm(worst)
    strengths: Array = pairs.samples[:, :1]
    return Pairs(strengths * (worst @ network.matrix(1)), pairs.directions)
