"""How the cost of a comparison grows with pairs, width and depth.

The clock measures what `linlocal.compare` needs: one forward pass, the optimal projection of every
layer and view direction, the local and the global update. Weights are orthogonal, views Gaussian,
and f is the softplus.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

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
        repeats: number of runs, the fastest of which counts.
        seed: seeds the weights and the views.
    """

    pairs: tuple[int, ...] = (8, 32, 128, 500, 2000)
    widths: tuple[int, ...] = (16, 64, 256, 1024)
    depths: tuple[int, ...] = (2, 8, 32, 64)
    width: int = 128
    depth: int = 2
    batch: int = 64
    repeats: int = 2
    seed: int = 0


PRESETS = {
    "smoke": Config(pairs=(8, 32), widths=(16, 32), depths=(2, 4), width=16, repeats=1),
    "cpu": Config(),
    "paper": Config(
        pairs=(8, 16, 32, 64, 128, 256, 512, 1000, 2000),
        widths=(16, 32, 64, 128, 256, 512, 1024),
        depths=(2, 4, 8, 16, 32, 64),
        repeats=5,
    ),
}
PUBLISHED = "none (ours)"


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Time the comparison along three axes.

    Returns:
        ``by_pairs``, ``by_width`` and ``by_depth`` in seconds.
    """

    def measure(pairs: int, width: int, depth: int) -> xr.Dataset:
        rng = np.random.default_rng(config.seed)
        x = rng.standard_normal((pairs // 2, width))
        views = Pairs.from_views(x, x + 0.5 * rng.standard_normal(x.shape))
        network = DeepLinear.orthogonal([width] * (depth + 1), config.seed)
        rule = rules.CLAPP("softplus", penalty=0.01)
        return xr.Dataset({"seconds": seconds(network, views, rule, config.repeats)})

    axes = {"pairs": config.pairs, "width": config.widths, "depth": config.depths}
    usual = {"pairs": config.batch, "width": config.width, "depth": config.depth}
    result = xr.Dataset()
    for axis, values in axes.items():
        timed = sweep(
            measure, [{**usual, axis: value} for value in values], f"by {axis}", alone=True
        )
        numbers = [float(point["seconds"]) for point in timed]
        result[f"by_{axis}"] = xr.DataArray(numbers, {axis: list(values)}, [axis])
        result[f"by_{axis}"].attrs["units"] = "s"
    return result
