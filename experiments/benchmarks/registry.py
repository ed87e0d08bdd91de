"""The benchmarks that exist, and what each of their modules defines."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

import xarray as xr

from linlocal.analysis.results import known_name

# In the order of the page.
NAMES: tuple[str, ...] = ("projection", "hierarchy", "recorder", "memory", "workers")


class Benchmark(Protocol):
    """What a module ``experiments.benchmarks.NAME`` defines.

    Attributes:
        TITLE: of its section.
        CONFIGS: what is measured on each device that it knows, as a frozen dataclass.
    """

    TITLE: str
    CONFIGS: Mapping[str, Any]

    def measure(self, config: Any) -> xr.Dataset:
        """Take the measurements."""
        ...

    def summary(self, data: xr.Dataset) -> tuple[str, str, str]:
        """In a few words: what was measured, the number, and what stands beside it."""
        ...

    def section(self, data: xr.Dataset) -> list[str]:
        """Lines of the page, from a result file alone."""
        ...


def load(name: str) -> Benchmark:
    """Import one benchmark.

    Raises:
        ResultError: unknown name.
    """
    known_name("benchmark", name, NAMES)
    return cast(Benchmark, import_module(f"experiments.benchmarks.{name}"))
