"""With orthogonal weights and optimal projections local updates are those of backpropagation.

Every assumption is dropped in turn: the optimal projection (random and fixed instead), orthogonal
weights (uniform instead, torch's default), linearity (a ReLU after every layer, the last too).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import xarray as xr

from experiments.data import PATCH_WIDTH, grey_identities, patch_batches, sources
from experiments.runner import Sweep, compare_batches, grid
from linlocal import DeepLinear, DeepReLU, rules
from linlocal.networks import Network


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        networks: number of networks, each drawn anew; all of them see the same batches.
        batches: number of batches.
        images_per_batch: number of 28x28 images in each batch.
        width: units of each layer.
        depth: number of layers.
        margin: margin of the softplus score.
        penalty: strength lam of the penalty on the projections, twice the published b_decay, which
            adds b_decay ||B||^2 to the loss of a view direction.
        seed: seeds the images, the weights and the random projections; network n has seed + n.
        data: folder of MNIST; None measures on photographs and digits only.
    """

    networks: int = 8
    batches: int = 8
    images_per_batch: int = 32
    width: int = 128
    depth: int = 6
    margin: float = 1.0
    penalty: float = 0.02
    seed: int = 0
    data: Path | None = None


PRESETS = {
    "smoke": Config(networks=3, batches=2, images_per_batch=8),
    "cpu": Config(),
    "paper": Config(networks=20, batches=32),
}
PUBLISHED = "Fig. 2 of arXiv 2601.21683"

CONDITIONS = (
    "all assumptions",
    "random fixed B",
    "default init",
    "ReLU + orthogonal",
    "ReLU + default",
)


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprint of MNIST in a folder."""
    return grey_identities(folder)


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Compare the updates under every condition.

    Returns:
        Over data, condition, network and layer: ``cosine`` and ``relative_error``, means over the
        batches; ``cosine_deviation``, the standard deviation of the cosine over the batches;
        ``worst_error``, ``condition_number`` and ``residual``, the largest of a batch.
    """
    widths = [PATCH_WIDTH] + [config.width] * config.depth
    draw: dict[str, Callable[[Sequence[int], int], Network]] = {
        "all assumptions": DeepLinear.orthogonal,
        "random fixed B": DeepLinear.orthogonal,
        "default init": DeepLinear.uniform,
        "ReLU + orthogonal": DeepReLU.orthogonal,
        "ReLU + default": DeepReLU.uniform,
    }
    optimal = rules.CLAPP("softplus", config.margin, config.penalty)

    def measure(data: str, condition: str, network: int) -> xr.Dataset:
        batches = patch_batches(
            data, config.batches, config.images_per_batch, config.seed, config.data, "stacked"
        )
        seed = config.seed + network
        fixed = replace(optimal, projection="random", seed=seed)
        rule = fixed if condition == "random fixed B" else optimal
        each = compare_batches(draw[condition](widths, seed), batches, rule)
        mean = each[["cosine", "relative_error"]].mean("batch")
        return mean.assign(
            cosine_deviation=each["cosine"].std("batch", ddof=1),
            worst_error=each["relative_error"].max("batch"),
            condition_number=each["condition_number"].max("batch"),
            residual=each["residual"].max("batch"),
        )

    return grid(
        sweep,
        measure,
        "conditions",
        data=sources(config.data),
        condition=CONDITIONS,
        network=range(config.networks),
    )
