"""Windows: layers that learn from a loss some layers above them, against backpropagation.

Layer l learns from the loss of layer e = min(l + w - 1, L): w = 1 is local learning, and w = L is
backpropagation. The cosine of both updates is measured for every w, with what a window costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from experiments.data import PATCH_WIDTH, default_source, grey_identities, patch_batches
from experiments.runner import Sweep, grid, stack
from linlocal import DeepLinear, DeepReLU, compare, rules
from linlocal.networks import Network


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        repetitions: number of networks of each kind, each with a batch of its own.
        images_per_batch: number of 28x28 images in each batch.
        width: units of each layer of the networks that do not narrow.
        narrowing: widths of the layers 1..L of the network that does; L is the depth of all.
        margin: margin of the softplus score.
        penalty: strength lam of the penalty on the projections.
        seed: seeds the images and the weights.
        data: folder of MNIST; None takes photographs.
    """

    repetitions: int = 12
    images_per_batch: int = 16
    width: int = 128
    narrowing: tuple[int, ...] = (128, 64, 32, 16, 8, 4)
    margin: float = 1.0
    penalty: float = 0.02
    seed: int = 0
    data: Path | None = None


PRESETS = {
    "smoke": Config(repetitions=2, images_per_batch=4, width=16, narrowing=(16, 8, 4)),
    "cpu": Config(),
    "paper": Config(repetitions=64),
}
PUBLISHED = "ours: statement 12 of the theory"

NETWORKS = ("linear, default initialisation", "linear, orthogonal, narrowing", "ReLU")
FEEDBACK = ("same layer", "direct feedback")


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprint of MNIST in a folder."""
    return grey_identities(folder)


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Compare the updates for every kind of network, context and window.

    Returns:
        The variables of `linlocal.compare` over network, feedback, window, repetition and layer;
        ``units_kept`` and ``error_products``, what a window costs, over network and window.
    """
    windows = range(1, len(config.narrowing) + 1)
    batches = patch_batches(
        default_source(config.data),
        config.repetitions,
        config.images_per_batch,
        config.seed,
        config.data,
    )

    def measure(network: str, feedback: str, window: int) -> xr.Dataset:
        make = rules.CLAPP if feedback == "same layer" else rules.CLAPP_DFB
        rule = make("softplus", config.margin, config.penalty)
        parts = [
            compare(build(config, network, config.seed + r), pairs, rule, window)
            for r, pairs in enumerate(batches)
        ]
        return stack(parts, "repetition", range(config.repetitions))

    def cost(network: str, window: int) -> xr.Dataset:
        widths = build(config, network, config.seed).widths
        return xr.Dataset(
            {
                "units_kept": units_kept(widths, window),
                "error_products": error_products(widths, window),
            }
        )

    measured = grid(
        sweep, measure, "rules", network=NETWORKS, feedback=FEEDBACK, window=list(windows)
    )
    costs = grid(sweep, cost, "costs", network=NETWORKS, window=list(windows))
    return measured.merge(costs, join="exact")


def build(config: Config, network: str, seed: int) -> Network:
    """The network of that kind."""
    if network == "linear, orthogonal, narrowing":
        return DeepLinear.orthogonal([PATCH_WIDTH, *config.narrowing], seed)
    kind = DeepReLU if network == "ReLU" else DeepLinear
    return kind.uniform([PATCH_WIDTH] + [config.width] * len(config.narrowing), seed)


def units_kept(widths: tuple[int, ...], window: int) -> int:
    """The largest number of activities per sample that are kept at one time.

    When the loss of layer e sends its error to layer l = e - w + 1, the activities z_{l-1}..z_e are
    needed: the input of layer l, the derivatives of the nonlinearities between, and z_e itself. All
    below are free, as their layers have learned. Direct feedback needs z_L besides, from an earlier
    forward pass that keeps nothing.

    Args:
        widths: n_0..n_L.
        window: w in 1..L.
    """
    depth = len(widths) - 1
    return max(sum(widths[e - window : e + 1]) for e in range(window, depth + 1))


def error_products(widths: tuple[int, ...], window: int) -> int:
    """Multiplications per sample that send all errors down, with one sweep for each teacher.

    Every teacher e sends its error through the layers e..l+1 to its lowest pupil l = e - w + 1.

    Args:
        widths: n_0..n_L.
        window: w in 1..L.
    """
    products = np.multiply(widths[1:], widths[:-1])  # of the layers 1..L
    depth = len(products)
    return int(sum(np.sum(products[e - window + 1 : e]) for e in range(window, depth + 1)))
