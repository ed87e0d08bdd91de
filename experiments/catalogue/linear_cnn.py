"""In a linear convolutional network the projection must see where in the map an activity lies.

Three rules, from the farthest to the nearest to backpropagation: global pooling before the loss (no
dependence on place), a projection of the flattened map, and direct feedback to that projection.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr

from experiments.data import (
    PIXELS,
    augmented_views,
    found_sources,
    grey_identities,
    load_images,
    sources,
    standardised,
)
from experiments.runner import Sweep, compare_batches, grid
from linlocal import Convolution, DeepLinear, Pairs, rules
from linlocal.networks import nearest_isometry


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        networks: number of networks, each with weights of its own, on the same batches.
        batches: number of batches.
        images_per_batch: number of images in each batch, each seen in two augmented views.
        channels: channels of every layer.
        depth: number of layers, each a 2x2 convolution with stride 2.
        crop: side of an augmented view in pixels.
        margin: margin of the softplus score.
        penalty: strength lam of the penalty on the projections, twice the published b_decay, which
            adds b_decay ||B||^2 to the loss of a view direction.
        seed: seeds the images, the views and the weights.
        data: folder of MNIST, of CIFAR-10 or of both; None measures on photographs and digits only.
    """

    networks: int = 5
    batches: int = 8
    images_per_batch: int = 32
    channels: int = 32
    depth: int = 4
    crop: int = 16
    margin: float = 1.0
    penalty: float = 0.04
    seed: int = 0
    data: Path | None = None


PRESETS = {
    "smoke": Config(networks=2, batches=2, images_per_batch=8),
    "cpu": Config(batches=4),
    "workstation": Config(networks=20),
    "paper": Config(networks=20, batches=32),
}
PUBLISHED = "Fig. 4b of arXiv 2601.21683"

# Sides of the images, where they are not those of MNIST.
SIDES = {"cifar10": 32}
REAL = ("mnist", "cifar10")
CONDITIONS = ("no spatial dependence", "2D dependence", "2D dependence + direct feedback")


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprints of MNIST and of CIFAR-10 in a folder, or of the one that it has."""
    return grey_identities(folder, found_sources(folder, REAL))


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Compare the updates of the three rules.

    Returns:
        The variables of `linlocal.compare` over data, condition, network, batch and layer.
    """
    sides = [config.crop // 2**l for l in range(1, config.depth + 1)]
    # The first map is pooled in all conditions; from the second on a map is small enough to be seen
    # whole.
    whole = (2,) + (1,) * (config.depth - 1)
    same = rules.CLAPP("softplus", config.margin, config.penalty)
    top = rules.CLAPP_DFB("softplus", config.margin, config.penalty)
    of_condition = dict(
        zip(
            CONDITIONS,
            (
                replace(same, pooling=tuple(sides)),
                replace(same, pooling=whole),
                replace(top, pooling=whole),
            ),
            strict=True,
        )
    )

    def measure(data: str, condition: str, network: int) -> xr.Dataset:
        count = config.batches * config.images_per_batch
        side = SIDES.get(data, PIXELS)
        images = standardised(load_images(data, count, side, config.seed, config.data))
        first, second = augmented_views(images, config.crop, np.random.default_rng(config.seed))
        shape = (config.batches, config.images_per_batch, config.crop**2)
        batches = [
            Pairs.from_views(a, b, negatives="stacked")
            for a, b in zip(first.reshape(shape), second.reshape(shape), strict=True)
        ]
        seed = config.seed + network
        cnn = orthogonal_cnn(config.channels, config.depth, config.crop, seed)
        return compare_batches(cnn, batches, of_condition[condition])

    return grid(
        sweep,
        measure,
        "conditions",
        data=(*sources(None), *found_sources(config.data, REAL)),
        condition=CONDITIONS,
        network=range(config.networks),
    )


def orthogonal_cnn(channels: int, depth: int, side: int, seed: int) -> DeepLinear:
    """2x2 convolutions with stride 2 whose flattened kernels are Haar semi-orthogonal matrices.

    Args:
        channels: channels of every layer; the input has one.
        depth: number of layers.
        side: side of the input in pixels.
        seed: seeds the kernels.
    """
    rng = np.random.default_rng(seed)
    shape = (1, side, side)
    layers: list[Convolution] = []
    for _ in range(depth):
        # The polar factor of a Gaussian matrix is Haar-distributed.
        flat = nearest_isometry(rng.standard_normal((channels, shape[0] * 4)))
        layers.append(Convolution(flat.reshape(channels, shape[0], 2, 2), shape, stride=(2, 2)))
        shape = layers[-1].output_shape
    return DeepLinear(layers)
