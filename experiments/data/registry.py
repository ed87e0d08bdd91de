"""Registers of data sets: the modules of a folder."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, TypeVar

from experiments.data.contract import DataSet
from experiments.data.errors import DataError

Kind = TypeVar("Kind", bound=DataSet)


def data_sets(folder: ModuleType) -> dict[str, Any]:
    """All modules of a package, by the names that experiments call them."""
    names = sorted(module.name for module in iter_modules(folder.__path__))
    modules: list[Any] = [import_module(f"{folder.__name__}.{name}") for name in names]
    return {module.NAME: module for module in modules}


def chosen(name: str, known: dict[str, Kind], folder: Path | None, instead: str) -> Kind:
    """The data set of that name.

    Args:
        name: name of the data set.
        known: all data sets of its kind, by name.
        folder: where the files of the data set lie.
        instead: name of a data set of the same kind that needs no folder, for the message.

    Raises:
        DataError: unknown name, or no folder where it needs one.
    """
    if name not in known:
        raise DataError(f"unknown data set {name!r}; possible: {', '.join(known)}.")
    if known[name].FOLDER is not None:
        if folder is None:
            raise DataError(f"{name} is read from a folder: name it, or take {instead!r}.")
        if not folder.is_dir():
            raise DataError(f"{name} is read from a folder, and there is no folder {folder}.")
    return known[name]
