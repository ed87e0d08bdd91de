"""The Random Hierarchy Model against the generators that one would write first.

Process time of one thread, best of several, at v = n = 16, m = 8, s = 2, L = 4. The plain sampler
is one gather per level, in numpy with int8 or in torch with its int64 indices; both draw with
replacement and keep no latents. Memory is the peak that tracemalloc sees against the bytes of
leaves and latents.
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

from linlocal.rhm import RandomHierarchyModel

TITLE = "The generator of the Random Hierarchy Model"


@dataclass(frozen=True)
class Config:
    """What is timed.

    Attributes:
        num: number of data.
        repetitions: number of timed calls, the fastest of which counts.
    """

    num: int = 100_000
    repetitions: int = 7


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


def measure(config: Config) -> xr.Dataset:
    """Time generating, splitting, parsing and encoding.

    Returns:
        ``milliseconds`` and ``peak`` (in units of the bytes of all latents, NaN for torch, whose
        memory tracemalloc does not see) over ``operation``.
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
    return xr.Dataset(
        {"milliseconds": ("operation", times), "peak": ("operation", peaks)},
        {"operation": list(calls)},
        {"num": num, "megabytes": data.nbytes / 1e6},
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
    return lines
