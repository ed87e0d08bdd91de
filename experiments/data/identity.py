"""What a data set is by what its files hold, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments.data.contract import DataSet
from experiments.data.errors import DataError

# More files than these, or larger ones, are known by name, size and time of change: to read them
# would cost as much as the run.
_MOST_FILES, _MOST_BYTES = 1000, 2**33


def identities(names: Sequence[str], known: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """The fingerprints of data sets in a folder, by name.

    Args:
        names: names of the data sets.
        known: the modules of data sets of one kind, by name.
        folder: where their files lie.

    Raises:
        DataError: files are missing or cannot be read.
    """
    modules: dict[str, DataSet] = {name: known[name] for name in names}
    return {name: fingerprint(module.files(folder)) for name, module in modules.items()}


def fingerprint(paths: Sequence[Path]) -> str:
    """A hash of files, the same wherever they lie, and which kind of hash it is.

    Args:
        paths: files, and folders of which all files count.

    Returns:
        "contents DIGITS"; for very many or very large files "sizes and times DIGITS", which a copy
        has only if it keeps the times.

    Raises:
        DataError: a file cannot be read.
    """
    try:
        for path in paths:
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise DataError(f"{path} is neither a file nor a folder.")
        files = {name: (path, path.stat()) for root in paths for name, path in _below(root)}
        facts = {name: (stat.st_size, stat.st_mtime_ns) for name, (_, stat) in files.items()}
        kind = "sizes and times"
        held: dict[str, Any] = facts
        if len(files) <= _MOST_FILES and sum(size for size, _ in facts.values()) <= _MOST_BYTES:
            kind = "contents"
            held = {name: _content(path, *facts[name]) for name, (path, _) in files.items()}
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}).") from error
    return f"{kind} {hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:16]}"


def _below(root: Path) -> Iterator[tuple[str, Path]]:
    """The files of a folder, or the file itself, by names that begin with that of ``root``."""
    if not root.is_dir():
        yield root.name, root
        return
    for path in root.rglob("*"):
        if path.is_file():
            yield path.relative_to(root.parent).as_posix(), path


@lru_cache(maxsize=4 * _MOST_FILES)
def _content(path: Path, size: int, modified_ns: int) -> str:
    """The hash of a file, read again only when it has changed."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
