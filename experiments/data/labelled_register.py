"""The data sets with labels that exist: the modules of `labelled_sets`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from experiments.data import labelled_sets
from experiments.data.contract import ImageData, LabelledSet
from experiments.data.registry import chosen, data_sets


@cache
def known_sets() -> dict[str, LabelledSet]:
    """All of them, by name."""
    return data_sets(labelled_sets)


def named_data(folder: Path | str | None) -> tuple[str, ...]:
    """The data sets with labels whose unpacked archives lie in a folder."""
    if folder is None:
        return ()
    folder = Path(folder)
    known = known_sets().items()
    return tuple(name for name, each in known if each.FOLDER and (folder / each.FOLDER).is_dir())


def load(name: str, folder: Path | str | None = None, *, seed: int = 0) -> ImageData:
    """Read a whole data set with labels. ImageNet does not fit into memory: see `open_stream`.

    Args:
        name: name of the data set.
        folder: where the files lie; the folder of the unpacked archive or the one above it.
        seed: seeds what is drawn, where the data come without a split of their own.

    Raises:
        DataError: unknown name, or files that are missing, damaged or of another format.
    """
    folder = None if folder is None else Path(folder)
    return chosen(name, known_sets(), folder, "digits").load(folder, seed)
