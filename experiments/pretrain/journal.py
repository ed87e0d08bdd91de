"""The log of a long run, and the clock that tells its loader from its steps."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

# Even workers that keep up must hand over each batch, which takes a little time.
_NOTHING = 0.05


class Journal:
    """Lines of JSON, one for each entry; each step is there once, even after a resume.

    Args:
        path: path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[dict[str, Any]]:
        """All whole lines; the last may have been cut off by a kill."""
        lines = self.path.read_text(encoding="utf-8").split("\n") if self.path.exists() else [""]
        return [json.loads(line) for line in lines[:-1]]

    def append(self, entry: Mapping[str, Any]) -> None:
        """Write a line at once."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def resume(self, step: int) -> int:
        """Forget the steps after a checkpoint, which will be taken again.

        Args:
            step: step of the checkpoint.

        Returns:
            How many images had been skipped then.
        """
        kept = [entry for entry in self.entries() if entry["step"] <= step]
        if self.path.exists():
            half = self.path.with_suffix(".half")
            text = "".join(json.dumps(entry) + "\n" for entry in kept)
            half.write_text(text, encoding="utf-8")
            half.replace(self.path)
        return kept[-1]["skipped"] if kept else 0

    def dataset(self, num_blocks: int) -> xr.Dataset:
        """``loss`` over ``logged`` (steps) and ``layer``, and the numbers of the last line."""
        entries = self.entries()
        layers = range(1, num_blocks + 1)
        losses = [[entry.get(f"loss/{l}", np.nan) for l in layers] for entry in entries]
        last = {key: entries[-1][key] for key in ("images_per_s", "waiting", "skipped")}
        return xr.Dataset(
            {"loss": (("logged", "layer"), losses), **last},
            {"logged": [entry["step"] for entry in entries], "layer": layers},
        )


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
