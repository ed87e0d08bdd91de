"""Processes that evaluate the points of a sweep, here or on a cluster."""

from __future__ import annotations

import pickle
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Self

import xarray as xr

from experiments.runner.interrupts import interrupts_held
from linlocal.analysis.results import ResultError

Function = Callable[..., xr.Dataset]

# dask's settings for processes on this machine.
SETTINGS = {
    # One thread each, and freed memory is kept: dask would have the C library give it back at once,
    # and ask for it again in the next step of a training. All of it in one arena, since points are
    # computed in a thread, and those of threads end at 64 MiB: the maps of a batch can be as large.
    "distributed.nanny.pre-spawn-environ": {
        **{f"{library}_NUM_THREADS": 1 for library in ("OMP", "MKL", "OPENBLAS")},
        "MALLOC_ARENA_MAX": 1,
        "MALLOC_TRIM_THRESHOLD_": 2**30,
        "MALLOC_MMAP_THRESHOLD_": 2**30,
    },
    # Python runs one thread of a process at a time, so a point waits whenever dask looks after its
    # own loop (else fifty times a second) or at what the point does (a hundred times).
    "distributed.admin.tick.interval": "1s",
    "distributed.worker.profile.enabled": False,
}
# Long enough for processes that import torch on a busy machine.
START_S = 120


def evaluated(pickled: bytes, point: Mapping[str, Any]) -> xr.Dataset:
    """Evaluate a function that was pickled by value, so its errors are those of the task."""
    function: Function = pickle.loads(pickled)
    return function(**point)


def _leave_interrupts_to_the_command() -> None:
    """A terminal interrupts all processes at once: the command says so, and ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Workers:
    """Workers of dask.distributed, started when first used; a context that ends them.

    Processes on this machine are reached through ports of its loopback interface without a
    password: other users of the machine could send them code. Where these are not trusted, take
    no workers.

    Args:
        count: processes on this machine, each with one thread.
        scheduler: address of a running scheduler, e.g. "tcp://host:8786", instead of processes
            here. Its workers must be able to import this checkout.

    Raises:
        ResultError: dask.distributed is not installed, or no scheduler answers.
    """

    def __init__(self, count: int, scheduler: str | None = None) -> None:
        self._count, self._scheduler = count, scheduler
        self._client: Any = None
        self._cluster: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._client, self._cluster):
            if each is not None:
                each.close()
        self._client = self._cluster = None

    def __call__(
        self, function: Function, points: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[int, xr.Dataset]]:
        """Evaluate all points; yields their positions and results as they are ready."""
        client = self._connected()
        import cloudpickle
        from distributed import as_completed

        # Sent once to each worker: a function may carry the images that it needs.
        (sent,) = client.scatter([cloudpickle.dumps(function)], broadcast=True, hash=False)
        futures = {
            client.submit(evaluated, sent, dict(point), pure=False): position
            for position, point in enumerate(points)
        }
        try:
            for future in as_completed(list(futures), loop=client.loop):
                yield futures.pop(future), future.result()
        finally:
            client.cancel(list(futures))

    def _connected(self) -> Any:
        if self._client is None:
            try:
                import dask
                from distributed import Client, LocalCluster
            except ImportError:
                raise ResultError(
                    "several workers need dask.distributed: pip install 'linlocal[sweep]', or run "
                    "with --workers 1."
                ) from None
            if self._scheduler is not None and not re.search(r":[0-9]+$", self._scheduler):
                raise ResultError(
                    f"no scheduler answers at {self._scheduler!r}, which names no port: give its "
                    "address as tcp://HOST:8786."
                )
            if self._scheduler is None:
                with dask.config.set(SETTINGS), interrupts_held():
                    self._cluster = LocalCluster(
                        n_workers=self._count,
                        threads_per_worker=1,
                        memory_limit=0,
                        # No page; what is left of its server is of this machine alone.
                        dashboard_address="127.0.0.1:0",
                        worker_dashboard_address="127.0.0.1:0",
                        scheduler_kwargs={"dashboard": False},
                        silence_logs=50,
                    )
            try:
                self._client = Client(
                    self._cluster or self._scheduler, timeout="10s", set_as_default=False
                )
            except (OSError, ValueError) as error:
                raise ResultError(
                    f"no scheduler answers at {self._scheduler!r} ({error}): start one with `dask "
                    "scheduler`, and give its address as tcp://HOST:8786."
                ) from error
            self._check()
            if self._cluster is not None:
                self._client.run(_leave_interrupts_to_the_command)
        return self._client

    def _check(self) -> None:
        """Whether the workers can import this module, without which they would die one by one."""
        from distributed import TimeoutError as NoAnswer

        try:
            self._client.submit(import_module, __name__, pure=False).result(timeout=START_S)
        except ImportError as error:
            raise ResultError(
                f"the workers cannot import this checkout ({error}): start them in it, or install "
                "it where they run."
            ) from None
        except NoAnswer:
            raise ResultError(
                f"no worker answered within {START_S} s: has the scheduler any?"
            ) from None
