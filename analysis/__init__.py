"""Instruments for real networks, and the schema of results.

Names are imported when first used, so that reading a result file never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.results import Provenance, ResultError

_HOME = {"Provenance": "results", "ResultError": "results"}

__all__ = ["Provenance", "ResultError"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
