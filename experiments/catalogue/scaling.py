"""How the cost of a comparison grows with pairs, width and depth.

The clock measures what `linlocal.compare` needs: one forward pass, the optimal projection of every
layer and view direction, the local and the global update. Weights are orthogonal, views Gaussian,
and f is the softplus. Everything runs on one core: the number of threads that a library takes would
itself grow with the size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from threadpoolctl import threadpool_limits

from experiments.runner import Sweep, seconds
from linlocal import DeepLinear, Pairs, rules


@dataclass(frozen=True)
class Config:
    """What is timed.

    Attributes:
        pairs: numbers of pairs per view direction, half of them negative.
        widths: units of each layer.
        depths: numbers of layers.
        width: units of each layer where something else varies.
        depth: number of layers where something else varies.
        batch: pairs per view direction where something else varies.
        networks: number of networks, each with views of its own.
        repeats: number of runs of each network, the fastest of which counts.
        seed: seeds the weights and the views of the first network, each further one the next.
    """

    pairs: tuple[int, ...] = (16, 64, 256, 1024)
    widths: tuple[int, ...] = (16, 64, 256, 1024)
    depths: tuple[int, ...] = (2, 8, 32, 64)
    width: int = 128
    depth: int = 2
    batch: int = 64
    networks: int = 5
    repeats: int = 3
    seed: int = 0


PRESETS = {
    "smoke": Config(pairs=(8, 32), widths=(16, 32), depths=(2, 4), width=16, networks=2),
    "cpu": Config(),
    "paper": Config(
        pairs=(16, 32, 64, 128, 256, 512, 1024, 2048),
        widths=(16, 32, 64, 128, 256, 512, 1024),
        depths=(2, 4, 8, 16, 32, 64),
        repeats=5,
    ),
}
PUBLISHED = "none (ours)"


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Time the comparison along three axes.

    Returns:
        ``by_pairs``, ``by_width`` and ``by_depth`` in seconds, over network and what varies.
    """

    def measure(pairs: int, width: int, depth: int, network: int) -> xr.Dataset:
        rng = np.random.default_rng(config.seed + network)
        x = rng.standard_normal((pairs // 2, width))
        views = Pairs.from_views(x, x + 0.5 * rng.standard_normal(x.shape))
        layers = DeepLinear.orthogonal([width] * (depth + 1), config.seed + network)
        rule = rules.CLAPP("softplus", penalty=0.01)
        with threadpool_limits(1):
            return xr.Dataset({"seconds": seconds(layers, views, rule, config.repeats)})

    axes = {"pairs": config.pairs, "width": config.widths, "depth": config.depths}
    usual = {"pairs": config.batch, "width": config.width, "depth": config.depth}
    result = xr.Dataset()
    networks = range(config.networks)
    for axis, values in axes.items():
        points = [
            {**usual, axis: value, "network": network} for network in networks for value in values
        ]
        timed = sweep(measure, points, f"by {axis}", alone=True)
        numbers = np.array([float(point["seconds"]) for point in timed])
        result[f"by_{axis}"] = xr.DataArray(
            numbers.reshape(len(networks), len(values)),
            {"network": networks, axis: list(values)},
            ["network", axis],
            attrs={"units": "s"},
        )
    return result
