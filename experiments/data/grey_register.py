"""The data sets of grey images that exist: the modules of `grey_sets`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from experiments.data import grey_sets
from experiments.data.contract import Array, GreySet
from experiments.data.errors import DataError
from experiments.data.identity import identities
from experiments.data.registry import chosen, data_sets


@cache
def known_sets() -> dict[str, GreySet]:
    """All of them, by name."""
    return data_sets(grey_sets)


def load_images(
    name: str, count: int, size: int = 28, seed: int = 0, folder: Path | str | None = None
) -> Array:
    """Draw grey images, the same for the same arguments.

    Args:
        name: name of the data set.
        count: number of images.
        size: height and width in pixels.
        seed: seeds the draw.
        folder: where the files lie.

    Returns:
        Intensities in [0, 1], shape (count, size, size).

    Raises:
        DataError: unknown name, too many or too large or too small images, damaged or no files.
    """
    if count < 1:
        raise DataError(f"count must be at least 1, got {count}.")
    folder = None if folder is None else Path(folder)
    data_set = chosen(name, known_sets(), folder, "photographs")
    return data_set.grey(folder, count, size, np.random.default_rng(seed))


def found_sources(folder: Path | None, wanted: Sequence[str]) -> tuple[str, ...]:
    """The data sets, of those that are wanted, that lie in a folder; None has none.

    Raises:
        DataError: a folder without any of them.
    """
    if folder is None:
        return ()
    found, missing = [], []
    for name in wanted:
        try:
            known_sets()[name].files(folder)
            found.append(name)
        except DataError as error:
            missing.append(str(error))
    if not found:
        raise DataError(" Nor are there others: ".join(missing))
    return tuple(found)


def default_source(folder: Path | None) -> str:
    """MNIST if the user named a folder with it, else the photographs."""
    return "photographs" if folder is None else "mnist"


def grey_identities(folder: Path, names: Sequence[str] = ("mnist",)) -> dict[str, str]:
    """The fingerprints of data sets of grey images, by name; most experiments read MNIST alone.

    Raises:
        DataError: the folder lacks one, or it cannot be read.
    """
    return identities(names, known_sets(), folder)
