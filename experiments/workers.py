"""Processes that evaluate the points of a sweep, here or on a cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import xarray as xr

from analysis.results import ResultError

Function = Callable[..., xr.Dataset]
Timed = tuple[xr.Dataset, float]


def timed(function: Function, point: Mapping[str, Any]) -> Timed:
    """``function(**point)`` and the seconds that it took."""
    start = time.perf_counter()
    dataset = function(**point)
    return dataset, time.perf_counter() - start


class Workers:
    """Workers of dask.distributed, started when first used; a context that ends them.

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
    ) -> Iterator[tuple[int, Timed]]:
        """Evaluate all points; yields their positions and results as they are ready."""
        from distributed import as_completed

        client = self._connected()
        # Once to each worker: a function may carry the images that it needs.
        (sent,) = client.scatter([function], broadcast=True, hash=False)
        futures = {
            client.submit(timed, sent, dict(point), pure=False): position
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
                from distributed import Client, LocalCluster
            except ImportError:
                raise ResultError(
                    "several workers need dask.distributed: pip install 'linlocal[sweep]', or run "
                    "with --workers 1."
                ) from None
            if self._scheduler is None:
                self._cluster = LocalCluster(
                    n_workers=self._count,
                    threads_per_worker=1,
                    memory_limit=0,
                    dashboard_address="127.0.0.1:0",
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
        return self._client
