"""The log of a long run, and the clock that tells its loader from its steps."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from experiments.pretrain.sealed import sealed, unsealed
from linlocal.analysis import results
from linlocal.analysis.results import ResultError

# Even workers that keep up must hand over each batch, which takes a little time.
_NOTHING = 0.05


class Journal:
    """Lines of JSON, one for each entry and each with a checksum; each step is there once.

    Args:
        path: path of the file.

    Raises:
        ResultError: all methods, where the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[dict[str, Any]]:
        """All whole entries by their steps; the last line may have been cut off by a kill.

        Damaged lines are left out with a warning. Of two entries of a step the later one counts.
        """
        return self._read()[0]

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write a line at once."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(sealed(entry)) + "\n")
        except OSError as error:
            raise ResultError(results.why_not_written(self.path, error)) from error

    def resume(self, step: int) -> frozenset[str]:
        """Forget the steps after a checkpoint, which will be taken again.

        A file with damaged lines is kept beside, its name ending in ``.damaged``.

        Args:
            step: step of the checkpoint.

        Returns:
            The damaged images that had been met then.
        """
        entries, damaged = self._read()
        kept = [entry for entry in entries if entry["step"] <= step]
        try:
            if damaged:
                self.path.replace(self.path.with_suffix(".damaged"))
            if entries or damaged:
                with results.replacing(self.path) as file:
                    for entry in kept:
                        file.write((json.dumps(sealed(entry)) + "\n").encode())
        except OSError as error:
            raise ResultError(results.why_not_written(self.path, error)) from error
        return met(kept)

    def dataset(self, num_blocks: int, due: Sequence[int]) -> xr.Dataset:
        """``loss`` over ``logged`` (steps) and ``layer``, and the numbers of the last entry.

        Args:
            num_blocks: number of layers.
            due: the steps that were logged; those that the file has lost are NaN, with a warning.
        """
        entries = {entry["step"]: entry for entry in self.entries()}
        lost = [step for step in due if step not in entries]
        if lost:
            warnings.warn(
                f"{self.path} has lost the entries of {len(lost)} of {len(due)} logged steps, the "
                f"first {lost[0]}: their losses are NaN in the result.",
                stacklevel=2,
            )
        layers = range(1, num_blocks + 1)
        losses = [[entries.get(n, {}).get(f"loss/{l}", np.nan) for l in layers] for n in due]
        last = entries.get(due[-1], {})
        numbers = {key: last.get(key, np.nan) for key in ("images_per_s", "waiting")}
        return xr.Dataset(
            {"loss": (("logged", "layer"), losses), **numbers}, {"logged": [*due], "layer": layers}
        )

    def _read(self) -> tuple[list[dict[str, Any]], int]:
        """The entries, and how many lines are damaged."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return [], 0
        except OSError as error:
            raise ResultError(f"{self.path} cannot be read: {error.strerror}.") from error
        found = (unsealed(line) for line in content.split(b"\n")[:-1])
        lines = [line if line and isinstance(line.get("step"), int) else None for line in found]
        whole = {line["step"]: line for line in lines if line is not None}
        damaged = [number for number, line in enumerate(lines, 1) if line is None]
        if damaged:
            warnings.warn(
                f"{self.path}: line {damaged[0]} and {len(damaged) - 1} others are damaged, were "
                "edited or have no checksum, and are left out.",
                stacklevel=3,
            )
        return [whole[step] for step in sorted(whole)], len(damaged)


def met(entries: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """The damaged images that entries of a log name."""
    return frozenset(name for entry in entries for name in entry.get("damaged", []))


class Clock:
    """Steps, and the seconds in which they waited for a batch, between two readings.

    Args:
        batch: images in a step.
        prefetches: whether batches are made while a step runs.
    """

    def __init__(self, batch: int, prefetches: bool) -> None:
        self.batch, self.prefetches = batch, prefetches
        self._begin()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure the time that fetching a batch takes."""
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun
        self._steps += 1

    def read(self) -> dict[str, Any]:
        """Read images per second, the share of time spent waiting, the bottleneck; begin anew."""
        seconds = time.perf_counter() - self._begun
        numbers = {
            "images_per_s": self.batch * self._steps / seconds,
            "waiting": self._waited / seconds,
            "bottleneck": bottleneck(self._waited, seconds - self._waited, self.prefetches),
        }
        self._begin()
        return numbers

    def _begin(self) -> None:
        self._begun = time.perf_counter()
        self._waited = 0.0
        self._steps = 0


def bottleneck(waited: float, stepped: float, prefetches: bool) -> str:
    """What would have to be faster: "loader" or "step".

    Args:
        waited: seconds in which a step waited for its batch.
        stepped: seconds of everything else.
        prefetches: whether batches are made while a step runs; any wait then means that the loader
            is slower, and otherwise both follow each other.
    """
    least = _NOTHING * (waited + stepped) if prefetches else stepped
    return "loader" if waited > least else "step"
