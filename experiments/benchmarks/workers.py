"""A training in a process of a sweep: what dask's own settings cost.

By these the C library gives back the memory that a step frees, so the next step asks the system for
it again, page by page; and other threads of the process wake hundreds of times a second, while the
training waits. `experiments.runner` keeps the memory, and lets them sleep.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import xarray as xr

from experiments.runner import Workers


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        steps: steps of one training of the experiment blockwise_ssl at its cpu preset.
        repetitions: number of trainings that count, after one that does not.
    """

    steps: int = 50
    repetitions: int = 3


TITLE = "Trainings in the processes of a sweep"
CONFIGS = {"cpu": Config()}
DASK, OURS = "dask's own", "of linlocal"


def measure(config: Config) -> xr.Dataset:
    """One worker of each kind, one after the other.

    Returns:
        Over ``settings`` and ``repetition``: ``seconds`` of a training and its processor time in
        the system, ``system_seconds``.
    """

    def training(repetition: int) -> xr.Dataset:
        import resource
        import time

        from experiments.catalogue import blockwise_ssl

        short = replace(blockwise_ssl.PRESETS["cpu"], steps=config.steps)
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        blockwise_ssl.tried(short, blockwise_ssl.Variant(), short.learning_rates[0], 0)
        after = resource.getrusage(resource.RUSAGE_SELF)
        return xr.Dataset(
            {
                "seconds": time.perf_counter() - start,
                "system_seconds": after.ru_stime - before.ru_stime,
            }
        )

    points = [{"repetition": k} for k in range(config.repetitions + 1)]
    kinds = []
    for made in (_of_dask(), _ours()):
        with made as pool:
            found = dict(pool(training, points))
        measured = [found[k] for k in range(1, len(points))]
        kinds.append(xr.concat(measured, "repetition"))
    return xr.concat(kinds, "settings").assign_coords(settings=[DASK, OURS])


def summary(data: xr.Dataset) -> tuple[str, str, str]:
    """In a few words: what was measured, the number, and what stands beside it."""
    seconds = data["seconds"].median("repetition")
    ours, dask = (float(seconds.sel(settings=name)) for name in (OURS, DASK))
    return (
        "a training of small image networks in a process of a sweep",
        f"{ours:.1f} s",
        f"with dask's own settings {dask:.1f} s ({dask / ours:.1f} times)",
    )


def section(data: xr.Dataset) -> list[str]:
    """Lines of the page, from a result file alone."""
    lines = [
        "A training with its probe of the experiment blockwise_ssl, in one process of dask with",
        f"one thread; medians of {data.sizes['repetition']}.",
        "",
        "| settings | seconds | of the processor in the system |",
        "|---|---|---|",
    ]
    middle = data.median("repetition")
    for name in data["settings"].values:
        row = middle.sel(settings=name)
        lines.append(
            f"| {name} | {float(row['seconds']):.2f} | {float(row['system_seconds']):.2f} |"
        )
    return lines


@contextmanager
def _of_dask() -> Iterator[Workers]:
    """A worker as dask starts it."""
    from distributed import LocalCluster

    with (
        _environment(),
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",
            silence_logs=50,
        ) as cluster,
        Workers(1, cluster.scheduler_address) as pool,
    ):
        yield pool


@contextmanager
def _ours() -> Iterator[Workers]:
    with _environment(), Workers(1) as pool:
        yield pool


@contextmanager
def _environment() -> Iterator[None]:
    """Let dask's settings for its processes stay in the environment, and remove them afterwards."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith("MALLOC_")]:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
