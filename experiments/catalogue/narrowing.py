"""Where layers narrow, local updates differ by what the layers above do not pass on.

For linear f the cosine is known beforehand: the share of the local update X that lies in the
subspace which the layers above pass on, ||P X|| / ||X|| with P = V^T V.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from experiments.data import PATCH_WIDTH, grey_identities, patch_batches, sources
from experiments.runner import Sweep, compare_batches, grid
from linlocal import DeepLinear, Pairs, rules


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        networks: number of networks, each with weights of its own, on the same batches.
        batches: number of batches.
        images_per_batch: number of 28x28 images in each batch.
        widths: widths of the layers 1..L.
        margin: margin of the softplus score.
        penalty: strength lam of the penalty on the projections, twice the published b_decay, which
            adds b_decay ||B||^2 to the loss of a view direction.
        seed: seeds the images and the weights.
        data: folder of MNIST; None measures on photographs and digits only.
    """

    networks: int = 5
    batches: int = 32
    images_per_batch: int = 32
    widths: tuple[int, ...] = (128, 64, 32, 16, 8, 4)
    margin: float = 1.0
    penalty: float = 0.02
    seed: int = 0
    data: Path | None = None


PRESETS = {
    "smoke": Config(networks=2, batches=3, images_per_batch=8),
    "cpu": Config(batches=8),
    "paper": Config(networks=20),
}
PUBLISHED = "Fig. 3a of arXiv 2601.21683"

SCORES = ("linear", "softplus")
FEEDBACK = ("same layer", "direct feedback")


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprint of MNIST in a folder."""
    return grey_identities(folder)


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Compare the updates with both contexts and both scores, and predict one of the cosines.

    Returns:
        The variables of `linlocal.compare` over data, score, feedback, network, batch and layer,
        and ``predicted_cosine`` of linear f with direct feedback over data, network, batch and
        layer.
    """

    def network_of(number: int) -> DeepLinear:
        return DeepLinear.orthogonal([PATCH_WIDTH, *config.widths], config.seed + number)

    def batches(data: str) -> list[Pairs]:
        return patch_batches(
            data, config.batches, config.images_per_batch, config.seed, config.data, "stacked"
        )

    def measure(data: str, score: str, feedback: str, network: int) -> xr.Dataset:
        make = rules.CLAPP if feedback == "same layer" else rules.CLAPP_DFB
        rule = make(score, config.margin, config.penalty)
        return compare_batches(network_of(network), batches(data), rule)

    def predict(data: str, network: int) -> xr.Dataset:
        here = network_of(network)
        values = [predicted_cosines(here, pairs) for pairs in batches(data)]
        return xr.Dataset(
            {"predicted_cosine": (("batch", "layer"), values)},
            coords={"batch": range(len(values)), "layer": list(here.layers)},
        )

    each = {"data": sources(config.data), "network": range(config.networks)}
    measured = grid(sweep, measure, "rules", score=SCORES, feedback=FEEDBACK, **each)
    return measured.merge(grid(sweep, predict, "predictions", **each), join="exact")


def predicted_cosines(network: DeepLinear, pairs: Pairs) -> Sequence[float]:
    """||P X|| / ||X|| of every layer, from activities and weights alone.

    The dual variables of linear f are constant, so lam X = M N per view direction, with
    M = mean y z_l c_L^T and N = mean y c_L z_{l-1}^T over the pairs; lam cancels.
    """
    z = [pairs.samples]
    for l in network.layers:
        z.append(z[-1] @ network.matrix(l).T)
    cosines = []
    for l in network.layers:
        x = np.zeros((network.widths[l], network.widths[l - 1]))
        for d in pairs.directions:
            signed = d.sign[:, None] * z[-1][d.reference]
            x += (z[l][d.anchor].T @ signed) @ (signed.T @ z[l - 1][d.anchor])
        v = network.downstream(l)
        cosines.append(float(np.linalg.norm(v.T @ (v @ x)) / np.linalg.norm(x)))
    return cosines
