"""Our projection and updates against the published procedure, side by side in one process.

The work is that of Fig. 2 of arXiv 2601.21683: 196 -> 128 x 6, batches of 32 images of 2x2 patches,
both view directions, softplus f with margin 1, penalty 0.02. The published procedure is that of
`experiments.training.ReleasedFit`.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
import xarray as xr
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from experiments.data import PATCH_WIDTH, Array, patch_batches
from experiments.runner import both_updates, seconds
from experiments.training import ReleasedFit
from linlocal import DeepLinear, DeepReLU, Pairs, rules
from linlocal.networks import Network

TITLE = "The optimal projections and both updates, Fig. 2 of arXiv 2601.21683"
PENALTY = 0.02  # lam of both, twice the published b_decay


@dataclass(frozen=True)
class Config:
    """What is timed.

    Attributes:
        batches: number of batches of 32 images, for each kind of images and network.
        goal: relative gradient to which L-BFGS is also driven on the first batch.
        patience_s: longest time that this may take for one layer, in seconds.
        seed: seeds the images, the weights and the initial projections of the published procedure.
    """

    batches: int = 2
    goal: float = 1e-6
    patience_s: float = 8.0
    seed: int = 0


CONFIGS = {"cpu": Config()}
DATA: tuple[str, ...] = ("photographs", "digits")
NETWORKS = {
    "orthogonal": DeepLinear.orthogonal,
    "default init": DeepLinear.uniform,
    "ReLU, orthogonal": DeepReLU.orthogonal,
    "ReLU, default init": DeepReLU.uniform,
}


def measure(config: Config) -> xr.Dataset:
    """Time both on the same batches, one thread each.

    Returns:
        Over data, network, batch: ``ours_s``, ``published_s``; ``ours_error``, ``published_error``
        (relative error of the local against the global update, the worst layer; meaningful where
        both are equal); ``ours_residual``, ``published_residual`` (||dLoss/dB|| / ||lam B||). On
        the first batch ``patient_s``, the time that L-BFGS in float64 takes until that ratio is
        ``goal``, and ``patient_layers``, the number of layers in which it got there.
    """
    widths = [PATCH_WIDTH] + [128] * 6
    rule = rules.CLAPP("softplus", margin=1.0, penalty=PENALTY)
    batches = {data: patch_batches(data, config.batches, 32, config.seed, None) for data in DATA}
    networks = {name: make(widths, config.seed) for name, make in NETWORKS.items()}
    cells = list(product(DATA, NETWORKS, range(config.batches)))
    torch.set_num_threads(1)
    with threadpool_limits(1):
        both_updates(networks["orthogonal"], batches[DATA[0]][0], rule)  # warms caches
        rows = [
            _one(networks[name], batches[data][batch], rule, config, patient=batch == 0)
            for data, name, batch in tqdm(cells, desc="batches", disable=None)
        ]
    coordinates = {"data": list(DATA), "network": list(NETWORKS), "batch": range(config.batches)}
    shape = (len(DATA), len(NETWORKS), config.batches)
    return xr.Dataset(
        {
            key: (list(coordinates), np.array([row[key] for row in rows]).reshape(shape))
            for key in rows[0]
        },
        coordinates,
    )


def _one(
    network: Network, pairs: Pairs, rule: rules.Rule, config: Config, patient: bool
) -> dict[str, float]:
    ours_s = statistics.median(seconds(network, pairs, rule, 1) for _ in range(5))
    signals = both_updates(network, pairs, rule)
    local = [network.update(l, signals.activities, signals.local_error(l)) for l in network.layers]
    global_ = [
        network.update(l, signals.activities, signals.global_errors[l - 1]) for l in network.layers
    ]
    solved = [s.projection for l in network.layers for s in signals.scored(l) if s.projection]

    start = time.perf_counter()
    published = ReleasedFit(network, pairs, 1.0, PENALTY, config.seed)
    published.fit()
    their_local, their_goal = published.updates()
    published_s = time.perf_counter() - start
    residual = max(published.residuals())
    patient_s, reached = np.nan, np.nan
    if patient:
        again = ReleasedFit(network, pairs, 1.0, PENALTY, config.seed)
        start = time.perf_counter()
        reached = again.fit_patiently(config.goal, config.patience_s)
        patient_s = time.perf_counter() - start
    return {
        "ours_s": ours_s,
        "published_s": published_s,
        "ours_error": _worst(local, global_),
        "published_error": _worst(their_local, their_goal),
        "ours_residual": max(p.relative_gradient for p in solved),
        "published_residual": residual,
        "patient_s": patient_s,
        "patient_layers": reached,
    }


def _worst(local: list[Array], global_: list[Array]) -> float:
    return max(
        float(np.linalg.norm(a - b) / np.linalg.norm(b))
        for a, b in zip(local, global_, strict=True)
    )


def summary(data: xr.Dataset) -> tuple[str, str, str]:
    """In a few words: what was measured, the number, and what stands beside it."""
    row = data.sel(data="photographs", network="orthogonal")
    ours, theirs = float(row["ours_s"].mean()), float(row["published_s"].mean())
    return (
        "optimal projections and both updates, 6 layers, Fig. 2 of arXiv 2601.21683",
        f"{1e3 * ours:.0f} ms per batch, error {float(row['ours_error'].max()):.0e}",
        f"published procedure {theirs:.1f} s ({theirs / ours:.0f} times), error "
        f"{float(row['published_error'].max()):.0e}",
    )


def section(data: xr.Dataset) -> list[str]:
    """Lines of the page, from a result file alone."""
    batches = data.sizes["batch"]
    lines = [
        "196 -> 128 x 6, images that ship with scikit-learn, batches of 32 images of 2x2 patches",
        "(128 pairs in each of two view directions), softplus f, margin 1, penalty {PENALTY}.",
        "Published procedure: float32 torch L-BFGS, lr 0.2, max_iter 1000, strong Wolfe, 3 rounds",
        "per layer, then autograd. Ours: dual Newton in float64, median of 5. One process, one",
        "thread each.",
        "",
        "| images | network | ours, s per batch | published procedure, s per batch | ratio |"
        " local against global, ours | published |"
        " relative gradient, ours | published | L-BFGS in float64 to 1e-6, s | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, name in product(data["data"].values, data["network"].values):
        row = data.sel(data=kind, network=name)
        ours, theirs = float(row["ours_s"].mean()), float(row["published_s"].mean())
        exact = name == "orthogonal"
        errors = [
            f"{float(row[key].max()):.1e}" if exact else "not equal"
            for key in ("ours_error", "published_error")
        ]
        residuals = [
            f"{float(row[key].max()):.1e}" for key in ("ours_residual", "published_residual")
        ]
        first = row.isel(batch=0)
        patient_s, layers = float(first["patient_s"]), int(first["patient_layers"])
        sign = "" if layers == 6 else f"> ({layers} of 6 layers) "
        patient = f"{sign}{patient_s:.0f} | {sign and '> '}{patient_s / ours:.0f}"
        lines.append(
            f"| {kind} | {name} | {ours:.3f} | {theirs:.2f} | {theirs / ours:.0f} | "
            f"{errors[0]} | {errors[1]} | {residuals[0]} | {residuals[1]} | {patient} |"
        )
    kinds = [str(kind) for kind in data["data"].values]
    ratios = ", ".join(f"{_ratio(data.sel(data=kind)):.0f} on {kind}" for kind in kinds)
    lines += [
        "",
        f"Ratio over all networks: {ratios}.",
        f"Errors are the worst layer of {batches} batches; the relative gradient is",
        "||dLoss/dB|| / ||lam B||, 0 at the optimum. The published procedure stops before it is",
        "there; the last two columns are the time of the same optimizer without its stopping rules",
        "until it is at 1e-6, or given up after 8 s per layer.",
    ]
    return lines


def _ratio(data: xr.Dataset) -> float:
    return float(data["published_s"].sum() / data["ours_s"].sum())
