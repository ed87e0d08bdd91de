"""The Random Hierarchy Model against the generators that one would write first.

Process time of one thread, best of several, at v = n = 16, m = 8, s = 2, L = 4. The plain sampler
is one gather per level, in numpy with int8 or in torch with its int64 indices; both draw with
replacement and keep no latents. Memory is the peak that tracemalloc sees against the bytes of
leaves and latents.

Inference is exact: belief propagation in numpy and in torch (posteriors, and with the gradient of
the evidence), and the sum over all data where there are few: v = n = 4, m = 2, L = 3 has 512.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from linlocal.analysis.hierarchy import BeliefPropagation
from linlocal.rhm import RandomHierarchyModel, Trees

TITLE = "The generator of the Random Hierarchy Model"


@dataclass(frozen=True)
class Config:
    """What is timed.

    Attributes:
        num: number of data.
        repetitions: number of timed calls, the fastest of which counts.
        inferred: number of data whose posteriors are found.
    """

    num: int = 100_000
    repetitions: int = 7
    inferred: int = 1000


CONFIGS = {"cpu": Config()}


def plain_numpy(rhm: RandomHierarchyModel, num: int) -> NDArray[Any]:
    """Leaves by ancestral sampling, with replacement."""
    rng = np.random.default_rng(0)
    x: NDArray[Any] = rng.integers(rhm.num_classes, size=(num, 1), dtype=np.int8)
    for rules in reversed(rhm.rules):
        x = rules[x, rng.integers(rules.shape[1], size=x.shape, dtype=np.int8)].reshape(num, -1)
    return x


def plain_torch(rules: list[torch.Tensor], num: int) -> torch.Tensor:
    """The same in torch, from the rules of the levels 1..L."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(rules[-1].shape[0], (num, 1), generator=generator)
    for table in reversed(rules):
        choice = torch.randint(table.shape[1], x.shape, generator=generator)
        x = table[x, choice].reshape(num, -1)
    return x


def seconds(call: Callable[[], object], repetitions: int) -> float:
    """Process time of the fastest of several calls."""
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def peak_bytes(call: Callable[[], object]) -> int:
    """The largest number of bytes allocated at one time during a call."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def sum_over_all(rhm: RandomHierarchyModel, likelihood: NDArray[Any]) -> NDArray[Any]:
    """(data, n) the posterior of the classes, from every datum of a uniform grammar."""
    every = Trees.concatenate(list(rhm.enumerate()))
    weight = np.ones((len(likelihood), len(every)))
    for j in range(rhm.num_leaves):
        weight *= likelihood[:, j, every.leaves[:, j]]
    joint = weight @ np.eye(rhm.num_classes)[every.labels]
    return np.asarray(joint / joint.sum(axis=1, keepdims=True))


def inferences(num: int) -> dict[str, Callable[[], object]]:
    """Every way to find posteriors, for the large and the small grammar."""
    calls: dict[str, Callable[[], object]] = {}
    for name, sizes in (("large", (16, 8, 4)), ("small", (4, 2, 3))):
        v, m, levels = sizes
        rhm = RandomHierarchyModel(num_classes=v, num_symbols=v, num_synonyms=m, num_levels=levels)
        leaves = rhm.sample(num, seed=0).leaves
        likelihood = 0.5 * np.eye(v)[leaves] + 0.5 / v
        tensor = torch.from_numpy(likelihood).requires_grad_()
        belief = BeliefPropagation(rhm)

        def posterior(
            rhm: RandomHierarchyModel = rhm, likelihood: NDArray[Any] = likelihood
        ) -> object:
            return rhm.posterior(likelihood=likelihood)

        def in_torch(belief: BeliefPropagation = belief, tensor: torch.Tensor = tensor) -> object:
            with torch.no_grad():
                return belief(tensor)

        def gradient(belief: BeliefPropagation = belief, tensor: torch.Tensor = tensor) -> object:
            return torch.autograd.grad(belief(tensor).log_evidence.sum(), tensor)

        def every_datum(
            rhm: RandomHierarchyModel = rhm, likelihood: NDArray[Any] = likelihood
        ) -> object:
            return sum_over_all(rhm, likelihood)

        calls[f"{name}: posterior, numpy"] = posterior
        calls[f"{name}: posterior, torch"] = in_torch
        calls[f"{name}: posterior and gradient, torch"] = gradient
        if name == "small":
            calls[f"{name}: classes, sum over all {rhm.num_data} data"] = every_datum
    return calls


def measure(config: Config) -> xr.Dataset:
    """Time generating, splitting, parsing, encoding and inference.

    Returns:
        ``milliseconds`` and ``peak`` (in units of the bytes of all latents, NaN for torch, whose
        memory tracemalloc does not see) over ``operation``; ``microseconds`` for each datum over
        ``inference``.
    """
    torch.set_num_threads(1)
    num = config.num
    rhm = RandomHierarchyModel(num_classes=16, num_symbols=16, num_synonyms=8, num_levels=4)
    rules = [torch.from_numpy(table.astype(np.int64)) for table in rhm.rules]
    data = rhm.sample(num, seed=0)
    held_out = num // 50
    calls: dict[str, Callable[[], object]] = {
        "plain numpy, leaves only": lambda: plain_numpy(rhm, num),
        "plain torch, leaves only": lambda: plain_torch(rules, num),
        "sample, all latents": lambda: rhm.sample(num, seed=0),
        "split, all latents": lambda: rhm.split(train=num - held_out, test=held_out, seed=0),
        "parse": lambda: rhm.parse(data.leaves),
        "index": lambda: rhm.index(data),
        "one_hot": lambda: rhm.one_hot(data.leaves),
        "exchange": lambda: rhm.exchange(data, 2, seed=0),
    }
    times = [1e3 * seconds(call, config.repetitions) for call in calls.values()]
    peaks = [
        np.nan if "torch" in name else peak_bytes(call) / data.nbytes
        for name, call in calls.items()
    ]
    ways = inferences(config.inferred)
    each = [1e6 * seconds(way, config.repetitions) / config.inferred for way in ways.values()]
    return xr.Dataset(
        {
            "milliseconds": ("operation", times),
            "peak": ("operation", peaks),
            "microseconds": ("inference", each),
        },
        {"operation": list(calls), "inference": list(ways)},
        {"num": num, "megabytes": data.nbytes / 1e6, "inferred": config.inferred},
    )


def summary(data: xr.Dataset) -> tuple[str, str, str]:
    """In a few words: what was measured, the number, and what stands beside it."""
    milliseconds = data["milliseconds"]
    return (
        f"{data.attrs['num']:,} data of a Random Hierarchy Model with all latents",
        f"{float(milliseconds.sel(operation='sample, all latents')):.1f} ms",
        f"plain numpy, leaves only: "
        f"{float(milliseconds.sel(operation='plain numpy, leaves only')):.1f} ms",
    )


def section(data: xr.Dataset) -> list[str]:
    """Lines of the page, from a result file alone."""
    lines = [
        f"v = n = 16, m = 8, s = 2, L = 4: {data.attrs['num']:,} data, "
        f"{data.attrs['megabytes']:.1f} MB with all latents.",
        "",
        "| | ms | peak / bytes of all latents |",
        "|---|---:|---:|",
    ]
    for name in data["operation"].values:
        row = data.sel(operation=name)
        peak = "" if np.isnan(row["peak"]) else f"{float(row['peak']):.1f}"
        lines.append(f"| {name} | {float(row['milliseconds']):.1f} | {peak} |")
    lines += [
        "",
        f"Posteriors of {data.attrs['inferred']:,} data whose leaves are half certain; the small "
        "grammar has v = n = 4, m = 2, L = 3.",
        "",
        "| | microseconds a datum |",
        "|---|---:|",
    ]
    for name in data["inference"].values:
        lines.append(f"| {name} | {float(data['microseconds'].sel(inference=name)):.1f} |")
    return lines
