"""Sweeps over points that survive an interruption."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import xarray as xr
from tqdm import tqdm

from analysis import results
from analysis.results import Provenance, ResultError

Point = Mapping[str, Any]


@final
class Parts:
    """The finished points of one run, a file each, until its result is written.

    Args:
        folder: where they lie; its existence says that the run is not finished.
        provenance: of the run; a part counts only for the same parameters and code.
        fresh: forget what an earlier run left.

    Attributes:
        restored_s: seconds of computation that the restored points took when they were computed.
    """

    def __init__(self, folder: Path, provenance: Provenance, *, fresh: bool = False) -> None:
        self.folder = folder
        self.restored_s = 0.0
        self._provenance = provenance
        self._asked: set[Path] = set()
        if fresh:
            self.clear()
        folder.mkdir(parents=True, exist_ok=True)

    def get(
        self, description: str, function: Callable[..., xr.Dataset], point: Point
    ) -> xr.Dataset:
        """``function(**point)``, from its file or computed and stored.

        Raises:
            ValueError: the same point was asked before, so that two quantities would share a file.
        """
        path = self._path(description, point)
        if path in self._asked:
            raise ValueError(
                f"two points of a run are both {description!r} {dict(point)}: give each sweep "
                "its own description and each point of a sweep other values."
            )
        self._asked.add(path)
        if path.exists():
            try:
                dataset = results.read(path)
            except ResultError as error:
                tqdm.write(f"computed again: {error}", file=sys.stderr)
            else:
                self.restored_s += dataset.attrs["duration_s"]
                return dataset
        start = time.perf_counter()
        dataset = function(**point)
        duration_s = time.perf_counter() - start
        results.write(dataset, path, replace(self._provenance, duration_s=duration_s))
        return dataset

    def clear(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, description: str, point: Point) -> Path:
        run = self._provenance
        identity = [run.experiment, run.config, run.code, description, dict(point)]
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]
        return self.folder / f"{key}.nc"


@dataclass(frozen=True)
class Sweep:
    """Evaluates a function at many points, with a progress bar.

    Attributes:
        parts: keeps finished points; without it nothing is stored.
    """

    parts: Parts | None = None

    def __call__(
        self, function: Callable[..., xr.Dataset], points: Sequence[Point], description: str
    ) -> list[xr.Dataset]:
        """Evaluate ``function(**point)`` for every point.

        Args:
            function: must depend on nothing but the point and the experiment's Config.
            points: keyword arguments that JSON can express (numbers, strings, lists).
            description: shown beside the progress bar; distinguishes the sweeps of a run.

        Returns:
            One dataset per point, in their order.
        """
        # disable=None: no bar where there is no terminal to draw it on.
        bar = tqdm(points, desc=description, unit="point", disable=None)
        if self.parts is None:
            return [function(**point) for point in bar]
        return [self.parts.get(description, function, point) for point in bar]
