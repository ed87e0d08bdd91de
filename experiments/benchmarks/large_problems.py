"""Optimal projections of many pairs: all in-batch negatives, and all pairs of a data set.

Activities are synthetic, of the width and the size of those of 14x14 patches of MNIST behind a
first layer of 128 units: all positive inputs whose second moments decay as 1/k^2, so nothing needs
to be downloaded.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
import xarray as xr
from tqdm import tqdm

from experiments.data import PATCH_WIDTH, Array
from linlocal import DeepLinear, Pairs, optimal_projection
from linlocal.losses import InfoNCE, PairLoss, Softplus, TypeTwo

TITLE = "Optimal projections of many pairs"
WIDTH = 128


@dataclass(frozen=True)
class Config:
    """What is timed, one view direction each.

    Attributes:
        batches: numbers of samples of a batch with all in-batch negatives, InfoNCE.
        pairs: numbers of pairs of a list, half of them negative, softplus with margin 1.
        batch_penalty: strength of the penalty of the batches.
        list_penalty: strength of the penalty of the lists, the published one.
        seed: seeds the inputs and the weights.
    """

    batches: tuple[int, ...] = (32, 256, 1024, 4096)
    pairs: tuple[int, ...] = (100, 1000, 10_000, 100_000, 240_000, 500_000)
    batch_penalty: float = 0.01
    list_penalty: float = 0.02
    seed: int = 0


CONFIGS = {"cpu": Config()}


def activities(n: int, seed: int) -> tuple[Array, Array]:
    """z and c, (n, 128) each: two views behind the same orthogonal layer."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((PATCH_WIDTH, PATCH_WIDTH)) / np.arange(1, PATCH_WIDTH + 1)
    weight = DeepLinear.orthogonal([PATCH_WIDTH, WIDTH], seed).matrix(1)
    own = rng.standard_normal((n, PATCH_WIDTH))
    other = 0.8 * own + 0.6 * rng.standard_normal((n, PATCH_WIDTH))
    z, c = (0.3 * np.abs(view @ mixing.T) @ weight.T for view in (own, other))
    return z, c


def measure(config: Config) -> xr.Dataset:
    """Solve each problem once, the small before the large.

    Returns:
        Over ``batch`` and over ``pairs`` (with the prefix ``list_``): ``seconds``, ``products``
        (with a Newton matrix, 0 where it is factorised), ``newton_steps``, ``relative_gradient``
        (||dLoss/dB|| / ||lam B||), ``condition_number`` and ``peak_mb``, the largest memory of the
        process so far.
    """
    loss = TypeTwo(Softplus(1.0))
    lists = [
        _one(n // 2, "next", loss, config.list_penalty, config.seed)
        for n in tqdm(config.pairs, desc="lists", disable=None)
    ]
    tables = [
        _one(n, "all", InfoNCE(1.0), config.batch_penalty, config.seed)
        for n in tqdm(config.batches, desc="batches", disable=None)
    ]
    found = {key: ("batch", [row[key] for row in tables]) for key in tables[0]}
    found |= {f"list_{key}": ("pairs", [row[key] for row in lists]) for key in lists[0]}
    return xr.Dataset(found, {"batch": list(config.batches), "pairs": list(config.pairs)})


def _one(
    n: int, negatives: Literal["all", "next"], loss: PairLoss, penalty: float, seed: int
) -> dict[str, float]:
    none = np.zeros((n, 1))
    pairs = Pairs.from_views(none, none, negatives=negatives, directions="forward")
    (direction,) = pairs.directions
    z, c = activities(n, seed)
    start = time.perf_counter()
    solved = optimal_projection(z, c, direction, loss, penalty)
    taken = time.perf_counter() - start
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "seconds": taken,
        "products": float(solved.products),
        "newton_steps": float(solved.iterations),
        "relative_gradient": solved.relative_gradient,
        "condition_number": solved.condition_number,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit,
    }


def summary(data: xr.Dataset) -> tuple[str, str, str]:
    """In a few words: what was measured, the number, and what stands beside it."""
    batch, most = data.isel(batch=-1), data.isel(pairs=-1)
    return (
        "optimal projection (128 x 128) of all in-batch negatives, InfoNCE, and of a long list",
        f"{int(batch.batch)} samples {float(batch.seconds):.0f} s; "
        f"{int(most.pairs)} pairs {float(most.list_seconds):.0f} s",
        f"{int(batch.products)} and {int(most.list_products)} products with the Newton matrix",
    )


def section(data: xr.Dataset) -> list[str]:
    """Lines of the page, from a result file alone."""
    lines = [
        "One view direction, width 128, activities like those of patches of MNIST (synthetic).",
        "Newton steps by preconditioned conjugate gradients; 0 products where the Newton matrix is",
        "small enough to be factorised. Memory is the largest of the process so far, inputs",
        "included.",
        "",
        "| problem | s | Newton steps | products | relative gradient | condition number | MB |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        _line(f"InfoNCE, {n} samples, {n - 1} negatives each", data.sel(batch=n), "")
        for n in data["batch"].values
    ]
    lines += [
        _line(f"softplus, {n} pairs in a list", data.sel(pairs=n), "list_")
        for n in data["pairs"].values
    ]
    return lines


def _line(problem: str, row: xr.Dataset, prefix: str) -> str:
    def value(name: str) -> float:
        return float(row[prefix + name])

    return (
        f"| {problem} | {value('seconds'):.2g} | {value('newton_steps'):.0f} | "
        f"{value('products'):.0f} | {value('relative_gradient'):.1e} | "
        f"{value('condition_number'):.1e} | {value('peak_mb'):.0f} |"
    )
