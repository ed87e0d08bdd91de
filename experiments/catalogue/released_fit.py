"""What the released fit of B reaches in Fig. 2: it stops early where activities are small.

The published curves are drawn from one chain of fits. On each batch L-BFGS fits the top layer's B,
then those of the layers below, from where the batch before left them (`ReleasedFit`). "Random fixed
B" is what stands between the two: the fit of the batch before, drawn at random for the first batch
only. Beside it: the same B as drawn, never fitted, and the optimum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from experiments.data import PATCH_WIDTH, grey_identities, patch_batches
from experiments.runner import Sweep, compare_batches, grid
from experiments.training import ReleasedFit
from linlocal import DeepLinear, DeepReLU, Pairs, rules
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
        penalty: strength lam of the penalty on the projections, twice the published b_decay.
        seed: seeds the images, the weights and the projections; network n has seed + n.
        data: folder of MNIST; None takes the digits of scikit-learn.
    """

    networks: int = 3
    batches: int = 2
    images_per_batch: int = 8
    width: int = 32
    depth: int = 6
    margin: float = 1.0
    penalty: float = 0.02
    seed: int = 0
    data: Path | None = None


PRESETS = {
    "smoke": Config(networks=2, batches=2, images_per_batch=4, width=8, depth=3),
    "cpu": Config(),
    "workstation": Config(networks=8, batches=32, images_per_batch=32, width=128),
    "paper": Config(networks=20, batches=32, images_per_batch=32, width=128),
}
PUBLISHED = "Fig. 2 of arXiv 2601.21683"

CONDITIONS: dict[str, Callable[[Sequence[int], int], Network]] = {
    "all assumptions": DeepLinear.orthogonal,
    "default init": DeepLinear.uniform,
    "ReLU + orthogonal": DeepReLU.orthogonal,
    "ReLU + default": DeepReLU.uniform,
}
FITS = ("optimum", "released fit", "fit of the batch before", "drawn")


def read_from(folder: Path) -> dict[str, str]:
    """The fingerprint of MNIST in a folder."""
    return grey_identities(folder)


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Compare the updates by every B.

    Returns:
        Over condition, network and layer: ``cosine``, also over fit, the mean over the batches;
        ``relative_gradient``, ||dLoss/dB|| / ||lam B|| of the released fit, 0 at the optimum, the
        median over the batches; ``data``: what was measured on.
    """
    name = "digits" if config.data is None else "mnist"
    widths = [PATCH_WIDTH] + [config.width] * config.depth
    optimal = rules.CLAPP("softplus", config.margin, config.penalty)

    def measure(condition: str, network: int) -> xr.Dataset:
        torch.set_num_threads(1)
        batches = patch_batches(
            name, config.batches, config.images_per_batch, config.seed, config.data, "stacked"
        )
        seed = config.seed + network
        here = CONDITIONS[condition](widths, seed)
        chain = ReleasedFit(here, batches[0], config.margin, config.penalty, seed)
        rows = [fitted(chain, pairs) for pairs in batches]
        cosines, residuals = (np.array(each) for each in zip(*rows, strict=True))
        optimum = compare_batches(here, batches, optimal)["cosine"].mean("batch")
        return xr.Dataset(
            {
                "cosine": (("fit", "layer"), np.vstack([optimum, cosines.mean(0)])),
                "relative_gradient": ("layer", np.median(residuals, axis=0)),
            },
            {"fit": list(FITS), "layer": list(here.layers)},
        )

    result = grid(
        sweep, measure, "fits", condition=tuple(CONDITIONS), network=range(config.networks)
    )
    return result.assign_coords(data=name)


def fitted(chain: ReleasedFit, pairs: Pairs) -> tuple[list[list[float]], list[float]]:
    """Fit the projections to a batch.

    Returns:
        Cosines of every layer, after the fit, before it and with the projections as drawn, the top
        layer's B fitted in all of them; and the relative gradient of every layer after the fit.
    """
    *below, top = range(1, len(chain.weights) + 1)
    chain.look_at(pairs)
    chain.fit([top])
    before = chain.cosines()
    drawn = chain.cosines(chain.drawn[:-1])
    chain.fit(below)
    return [chain.cosines(), before, drawn], chain.residuals()
