"""The figures that exist: the modules of `paper_figures.figures`, and what each defines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol, cast

import xarray as xr
from matplotlib.figure import Figure

from linlocal.analysis.results import known_name
from paper_figures import figures
from paper_figures.claims import Claim

NAMES: tuple[str, ...] = tuple(sorted(module.name for module in iter_modules(figures.__path__)))


class FigureModule(Protocol):
    """What a module of the figures defines; its docstring's first line is its caption.

    Attributes:
        INPUTS: names of the experiments whose results the figure reads.
        PAPER: the paper that the figure is about: "A", "B" or "C" of `report.contents.PAPERS`, or
            "" for our own.
    """

    __doc__: str | None
    INPUTS: Sequence[str]
    PAPER: str

    def draw(self, datasets: Mapping[str, xr.Dataset]) -> Figure:
        """Draw the results, one dataset per name in INPUTS."""
        ...

    def claims(self, datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
        """What the results say of each statement; the claims of a figure are decided together."""
        ...


def module_of(name: str) -> str:
    """Full name of the module of a figure."""
    return f"{figures.__name__}.{name}"


def load(name: str) -> FigureModule:
    """Import one figure.

    Raises:
        ResultError: unknown name.
    """
    known_name("figure", name, NAMES)
    return cast(FigureModule, import_module(module_of(name)))


def caption(figure: FigureModule) -> str:
    """What a figure shows: the first line of its module's docstring."""
    return (figure.__doc__ or "").strip().partition("\n")[0]
