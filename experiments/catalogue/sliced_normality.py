"""A rule without negatives is exact above isometries if it averages over all slices.

Sliced normality (SIGReg of LeJEPA) over all slices is a function of norms and distances, in one
dimension D for all layers; random slices deviate, VICReg and Barlow Twins are not invariant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from experiments.data import PATCH_WIDTH, default_source, grey_identities, patch_batches
from experiments.runner import Sweep, grid
from linlocal import DeepLinear, compare, global_update, local_update, rules


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        networks: number of networks, each with a batch and slices of its own.
        slices: numbers of random slices.
        images_per_batch: number of 28x28 images in each batch, each of two pairs of patches.
        width: units of the layers of the square network and of the top of the widening one.
        weight: weight of the statistic beside the distance of the views.
        seed: seeds the images, the weights and the slices.
        data: folder of MNIST; None takes photographs.
    """

    networks: int = 8
    slices: tuple[int, ...] = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000)
    images_per_batch: int = 16
    width: int = 64
    weight: float = 1.0
    seed: int = 0
    data: Path | None = None


PRESETS = {
    "smoke": Config(networks=3, slices=(10, 100, 1000), images_per_batch=4, width=16),
    "cpu": Config(),
    "paper": Config(networks=40, images_per_batch=64, width=128),
}
PUBLISHED = "ours: statement 13 of the theory"

CASES = {
    "square": ("square", "all slices"),
    "widening, one D": ("widening", "one D"),
    "widening, own D": ("widening", "all slices"),
    "square, VICReg": ("square", "VICReg"),
    "square, Barlow Twins": ("square", "Barlow Twins"),
}
"""Isometric networks and rules that are compared beside random slices."""


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprint of MNIST in a folder."""
    return grey_identities(folder)


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Compare the updates for random slices in square networks, and for all of `CASES`.

    Returns:
        ``relative_error`` and ``cosine`` of `linlocal.compare` over case, network and layer, and
        over slices, network and layer ``deviation``: ||local - global|| of random slices over
        ||global|| of all slices. (The global update of few slices is itself larger by their noise.)
    """
    widths = {
        "square": [PATCH_WIDTH, config.width, config.width, config.width],
        "widening": [PATCH_WIDTH, config.width // 4, config.width // 2, config.width],
    }
    chosen = {
        "all slices": rules.SIGReg(config.weight),
        "one D": rules.SIGReg(config.weight, dimension=config.width),
        "VICReg": rules.VICReg(),
        "Barlow Twins": rules.BarlowTwins(),
    }
    batches = patch_batches(
        default_source(config.data),
        config.networks,
        config.images_per_batch,
        config.seed,
        config.data,
    )

    def of_slices(slices: int, network: int) -> xr.Dataset:
        net, pairs = (
            DeepLinear.orthogonal(widths["square"], config.seed + network),
            batches[network],
        )
        rule = rules.SIGReg(config.weight, slices=slices, seed=config.seed + network)
        local, above = local_update(net, pairs, rule), global_update(net, pairs, rule)
        exact = global_update(net, pairs, chosen["all slices"])
        values = [
            float(np.linalg.norm(a - b) / np.linalg.norm(c))
            for a, b, c in zip(local, above, exact, strict=True)
        ]
        return xr.Dataset({"deviation": ("layer", values)}, coords={"layer": list(net.layers)})

    def of_case(case: str, network: int) -> xr.Dataset:
        shape, rule = CASES[case]
        net = DeepLinear.orthogonal(widths[shape], config.seed + network)
        return compare(net, batches[network], chosen[rule])[["relative_error", "cosine"]]

    networks = list(range(config.networks))
    sliced = grid(sweep, of_slices, "slices", slices=config.slices, network=networks)
    return sliced.merge(grid(sweep, of_case, "cases", case=list(CASES), network=networks))
