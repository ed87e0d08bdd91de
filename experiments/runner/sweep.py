"""Sweeps over points that survive an interruption."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import xarray as xr
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from experiments.runner.workers import Workers
from linlocal.analysis import results
from linlocal.analysis.results import Provenance, ResultError

Point = Mapping[str, Any]
# Writing a part again where other runs delete its folder.
_TRIES = 10


@final
class Parts:
    """The finished points of one run, a file each, until its result is written.

    Args:
        folder: where the parts lie; while it exists, a run is not finished. The first part makes
            it.
        provenance: the provenance of the run; a part counts only for the same parameters and code.
        fresh: whether to forget what earlier runs left, and to go on even where the result is up to
            date.

    Attributes:
        restored_s: seconds that earlier sessions spent on the restored points.
    """

    def __init__(self, folder: Path, provenance: Provenance, *, fresh: bool = False) -> None:
        self.folder = folder
        self.restored_s = 0.0
        self._provenance = provenance
        self._asked: set[Path] = set()
        identity = [provenance.experiment, provenance.config, provenance.code]
        self._run = _key(identity)
        # What other runs store from now on is theirs.
        self._left = set(folder.glob("*")) if folder.is_dir() else set()
        if fresh:
            self.clear()
            folder.mkdir(parents=True, exist_ok=True)
            self._force.touch()

    @property
    def forced(self) -> bool:
        """Whether the run that left these parts was to run even if its result is up to date."""
        return self._force.exists()

    def forget_force(self) -> None:
        """Let an up-to-date result count again."""
        self._force.unlink(missing_ok=True)

    def restore(self, description: str, point: Point) -> xr.Dataset | None:
        """The stored result of a point; None if there is no usable one.

        Raises:
            ValueError: the same point was asked for before, so two quantities would share a file.
        """
        path = self._path(description, point)
        if path in self._asked:
            raise ValueError(
                f"two points of a run are both {description!r} {dict(point)}: give each sweep "
                "its own description and each point of a sweep other values."
            )
        self._asked.add(path)
        if not path.exists():
            return None
        try:
            dataset = results.read(path)
        except ResultError as error:
            tqdm.write(f"computed again: {error}", file=sys.stderr)
            return None
        self.restored_s += Provenance.of(dataset).duration_s
        return dataset

    def store(self, description: str, point: Point, dataset: xr.Dataset, duration_s: float) -> None:
        """Keep a finished point."""
        path = self._path(description, point)
        provenance = replace(self._provenance, duration_s=duration_s)
        for _ in range(_TRIES):
            try:
                results.write(dataset, path, provenance)
                return
            except FileNotFoundError:
                # Another run has just cleared the folder.
                continue
        results.write(dataset, path, provenance)

    def clear(self) -> None:
        """Delete the parts of this run and of earlier ones, and the folder if nothing is left."""
        for path in {*self._left, *self._asked, self._force}:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        self._left = set()
        # Another run that stores its parts here keeps the folder.
        with suppress(OSError):
            self.folder.rmdir()

    @property
    def _force(self) -> Path:
        return self.folder / f"{self._run}.force"

    def _path(self, description: str, point: Point) -> Path:
        return self.folder / f"{_key([self._run, description, dict(point)])}.nc"


@dataclass(frozen=True)
class Sweep:
    """Evaluates a function at many points, with a progress bar.

    Attributes:
        parts: where finished points are kept; without it nothing is stored.
        workers: processes that evaluate several points at a time; without them the points are
            evaluated here, one after the other.
    """

    parts: Parts | None = None
    workers: Workers | None = None

    def __call__(
        self,
        function: Callable[..., xr.Dataset],
        points: Sequence[Point],
        description: str,
        *,
        alone: bool = False,
    ) -> list[xr.Dataset]:
        """Evaluate ``function(**point)`` for every point.

        Args:
            function: must depend on nothing but the point and the experiment's Config.
            points: keyword arguments that JSON can express (numbers, strings, lists).
            description: shown beside the progress bar; distinguishes the sweeps of a run.
            alone: whether to evaluate one point after the other, for functions that measure time.

        Returns:
            One dataset per point, in their order.
        """
        done: list[xr.Dataset | None] = [None] * len(points)
        if self.parts is not None:
            done = [self.parts.restore(description, point) for point in points]
        rest = [position for position, each in enumerate(done) if each is None]
        todo = [points[position] for position in rest]
        # disable=None: no bar where there is no terminal to draw it on.
        bar = tqdm(
            desc=description,
            total=len(points),
            initial=len(points) - len(todo),
            unit="point",
            disable=None,
        )
        in_turn = self.workers is None or alone or len(todo) < 2
        evaluate = _in_turn if in_turn else self.workers
        assert evaluate is not None
        # One thread, as in the workers: sums in another order differ in the last digit.
        threads = nullcontext() if alone else threadpool_limits(1, user_api="blas")
        with bar, threads:
            last = time.perf_counter()
            for index, dataset in evaluate(function, todo):
                position = rest[index]
                # Wall-clock time, so that the seconds add up whatever the number of workers.
                now = time.perf_counter()
                if self.parts is not None:
                    self.parts.store(description, points[position], dataset, now - last)
                last = now
                done[position] = dataset
                bar.update()
        return [each for each in done if each is not None]


def _key(identity: object) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


def _in_turn(
    function: Callable[..., xr.Dataset], points: Sequence[Point]
) -> Iterator[tuple[int, xr.Dataset]]:
    for index, point in enumerate(points):
        yield index, function(**point)
