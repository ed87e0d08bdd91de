"""`linlocal.sweep` against a loop of `linlocal.compare`, side by side in one process.

The work is that of Fig. 2 of arXiv 2601.21683: its five conditions, each with several networks on
the same batches: 196 -> 128 x 6, batches of 32 images of 2x2 patches, both view directions,
softplus f with margin 1, penalty 0.02.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from tqdm import tqdm

from experiments.data import PATCH_WIDTH, patch_batches
from linlocal import DeepLinear, DeepReLU, Pairs, compare, rules, sweep
from linlocal.networks import Network

TITLE = "A sweep over networks and batches, Fig. 2 of arXiv 2601.21683"


@dataclass(frozen=True)
class Config:
    """What is timed.

    Attributes:
        networks: number of networks, for each condition.
        batches: number of batches of 32 images.
        workers: numbers of workers of the sweep.
        seed: seeds the images, the weights and the random projections.
    """

    networks: int = 8
    batches: int = 32
    workers: tuple[int, ...] = (1, 2)
    seed: int = 0


CONFIGS = {"cpu": Config()}
Make = Callable[[Sequence[int], int], Network]
_OPTIMAL = rules.CLAPP("softplus", margin=1.0, penalty=0.02)
_RANDOM = replace(_OPTIMAL, projection="random")
CONDITIONS: dict[str, tuple[Make, rules.Rule]] = {
    "all assumptions": (DeepLinear.orthogonal, _OPTIMAL),
    "random fixed B": (DeepLinear.orthogonal, _RANDOM),
    "default init": (DeepLinear.uniform, _OPTIMAL),
    "ReLU + orthogonal": (DeepReLU.orthogonal, _OPTIMAL),
    "ReLU + default": (DeepReLU.uniform, _OPTIMAL),
}


def measure(config: Config) -> xr.Dataset:
    """Time both on the same networks and batches.

    Returns:
        Over condition: ``loop_s``; ``difference``, the largest of all values of the sweep from
        those of the loop, relative to the larger of the value and 1 (``iterations``, ``residual``
        and ``condition_number`` aside); ``residual``, the largest of the sweep; and
        ``condition_number``, the largest. Over condition and workers: ``sweep_s``.
    """
    batches = patch_batches("photographs", config.batches, 32, config.seed, None, "stacked")
    rows = [
        _one(condition, batches, config)
        for condition in tqdm(CONDITIONS, desc="conditions", disable=None)
    ]
    return xr.Dataset(
        {
            "sweep_s": (("condition", "workers"), [row.pop("sweep_s") for row in rows]),
            **{key: ("condition", [row[key] for row in rows]) for key in rows[0]},
        },
        {"condition": list(CONDITIONS), "workers": list(config.workers)},
    )


def _one(condition: str, batches: Sequence[Pairs], config: Config) -> dict[str, Any]:
    make, rule = CONDITIONS[condition]
    widths = [PATCH_WIDTH] + [128] * 6
    networks = [make(widths, config.seed + n) for n in range(config.networks)]
    compare(networks[0], batches[0], rule)  # warms caches
    start = time.perf_counter()
    loop = [[compare(network, pairs, rule) for pairs in batches] for network in networks]
    loop_s = time.perf_counter() - start
    taken = []
    for workers in config.workers:
        start = time.perf_counter()
        result = sweep(networks, batches, [rule], workers=workers).isel(rule=0)
        taken.append(time.perf_counter() - start)
    differences = []
    for name in set(result) - {"iterations", "residual", "condition_number"}:
        alone = np.array([[cell[name].values for cell in row] for row in loop])
        scale = np.maximum(1.0, np.abs(alone))
        differences.append(np.nanmax(np.abs(result[name].values - alone) / scale, initial=0.0))
    return {
        "loop_s": loop_s,
        "sweep_s": taken,
        "difference": max(differences),
        "residual": float(result["residual"].max()),
        "condition_number": float(result["condition_number"].max()),
    }


def summary(data: xr.Dataset) -> tuple[str, str, str]:
    """In a few words: what was measured, the number, and what stands beside it."""
    seconds = data.sum("condition")
    loop, (workers, swept) = float(seconds["loop_s"]), _fastest(seconds)
    alone = float(seconds["sweep_s"].isel(workers=0))
    return (
        "all of Fig. 2 of arXiv 2601.21683 in one sweep, several networks and batches",
        f"{alone:.0f} s with one worker, {swept:.0f} s with {workers}",
        f"a loop of compare {loop:.0f} s ({loop / alone:.1f} and {loop / swept:.1f} times)",
    )


def _fastest(seconds: xr.Dataset) -> tuple[int, float]:
    swept = {int(n): float(seconds["sweep_s"].sel(workers=n)) for n in seconds["workers"].values}
    best = min(swept, key=lambda workers: swept[workers])
    return best, swept[best]


def section(data: xr.Dataset) -> list[str]:
    """Lines of the page, from a result file alone."""
    workers = [int(n) for n in data["workers"].values]
    heads = [f"sweep, {n} worker{'s' * (n > 1)}, s | ratio" for n in workers]
    lines = [
        "196 -> 128 x 6, images that ship with scikit-learn, batches of 32 images of 2x2 patches",
        "(128 pairs in each of two view directions), softplus f, margin 1, penalty 0.02. One",
        "process; the loop takes one thread.",
        "",
        f"| condition | loop of compare, s | {' | '.join(heads)} | largest difference |"
        " residual | condition number |",
        "|---" * (5 + 2 * len(workers)) + "|",
    ]
    for condition in data["condition"].values:
        row = data.sel(condition=condition)
        loop = float(row["loop_s"])
        swept = [float(row["sweep_s"].sel(workers=n)) for n in workers]
        lines.append(
            f"| {condition} | {loop:.1f} | "
            + " | ".join(f"{s:.1f} | {loop / s:.1f}" for s in swept)
            + f" | {float(row['difference']):.0e} | {float(row['residual']):.0e}"
            f" | {float(row['condition_number']):.0e} |"
        )
    totals = data.sum("condition")
    ratios = [float(totals["loop_s"] / totals["sweep_s"].sel(workers=n)) for n in workers]
    return [
        *lines,
        "",
        f"Ratio over all conditions: {' and '.join(f'{ratio:.1f}' for ratio in ratios)}.",
        "Differences are relative to the larger of the value and 1. Both are exact up to the",
        "machine epsilon times the condition number.",
    ]
