"""The data sets with labels that exist: the modules of `labelled_sets`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from experiments.data import labelled_sets
from experiments.data.contract import ImageData, LabelledSet
from experiments.data.errors import DataError
from experiments.data.identity import identities
from experiments.data.registry import chosen, data_sets


@cache
def known_sets() -> dict[str, LabelledSet]:
    """All of them, by name."""
    return data_sets(labelled_sets)


def named_data(folder: Path | str | None, wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """The data sets with labels that lie in a folder.

    Args:
        folder: the folder of an unpacked archive, or the one above several; None has no data sets.
        wanted: names of those that can be used; all where none is named.

    Returns:
        Their names, in the order of ``wanted``.

    Raises:
        DataError: a folder without any of them.
    """
    if folder is None:
        return ()
    folder, known = Path(folder), known_sets()
    wanted = wanted or [name for name, each in known.items() if each.FOLDER is not None]
    if found := tuple(name for name in wanted if _lies_in(known[name], folder)):
        return found
    expected = ", ".join(f"{known[name].FOLDER} ({name})" for name in wanted)
    raise DataError(
        f"{folder} has none of the data sets that can be used here: expected an unpacked archive, "
        f"{expected}; name the folder of one, or the folder that holds it. The Python version of "
        "CIFAR-10 is not read."
    )


def labelled_identities(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The fingerprints of data sets with labels, by name; see `identity.identities`.

    Raises:
        DataError: files are missing or cannot be read.
    """
    return identities(names, known_sets(), folder)


def _lies_in(data_set: LabelledSet, folder: Path) -> bool:
    assert data_set.FOLDER is not None
    if (folder / data_set.FOLDER).is_dir() or folder.resolve().name == data_set.FOLDER:
        return True
    try:
        return bool(data_set.files(folder))
    except DataError:
        return False


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
