"""The benchmarks that exist, and what each of their modules defines."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import xarray as xr

from linlocal.analysis.results import known_name

HERE = Path(__file__).parent


def _is_benchmark(file: Path) -> bool:
    """Whether a file is a benchmark; it is read, not imported, because imports are heavy."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    return {"TITLE", "CONFIGS"} <= {ast.unparse(target) for target in targets}


# The modules of this folder that define what a benchmark defines.
NAMES: tuple[str, ...] = tuple(sorted(f.stem for f in HERE.glob("*.py") if _is_benchmark(f)))


class Benchmark(Protocol):
    """What a module ``experiments.benchmarks.NAME`` defines.

    Attributes:
        TITLE: title of its section of the page.
        CONFIGS: for each device that it knows, a frozen dataclass of what is measured there.
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
