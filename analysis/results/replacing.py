"""Files that are written under another name and moved, so that half a file never has its name.

A process that is killed leaves its temporary file. The next one that writes into the folder sweeps
it away, if its process is gone.
"""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

_TEMPORARY = re.compile(r"\.linlocal-(?P<host>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{32}\.tmp")
# No single file takes a day, and of processes on other machines nothing else is known.
_OLD_S = 24 * 3600.0
_ADVICE = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
        "make room, or raise the quota, and start again",
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "choose a folder in which you may write"
    ),
    **dict.fromkeys(
        (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY),
        "something else has that name: move it away, or choose another",
    ),
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "a link leads to itself: remove it",
    errno.ENOENT: "is there a link to nowhere, or was the folder removed meanwhile?",
}


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to be written, which gets its name when the block ends without an error.

    Args:
        path: the name; its folder is made if needed, and temporary files in it whose processes are
            gone are removed.

    Yields:
        The file, open for writing; its ``name`` is the temporary one.

    Raises:
        OSError: it cannot be written; nothing of it is left, and what had the name is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    temporary = temporary_in(path.parent)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_in(folder: Path) -> Path:
    """A name for a temporary file of this process, which no other process and thread will use."""
    return folder / f".linlocal-{_host()}-{os.getpid()}-{uuid4().hex}.tmp"


def sweep(folder: Path) -> None:
    """Remove the temporary files of processes that are gone, and of unknown ones after a day."""
    with os.scandir(folder) as entries:
        found = [(_TEMPORARY.fullmatch(entry.name), folder / entry.name) for entry in entries]
    for name, path in found:
        if name is not None:
            with suppress(FileNotFoundError, PermissionError):  # another process sweeps too
                if _is_left(name["host"], int(name["process"]), path):
                    path.unlink()


def why_not_written(path: Path, error: OSError) -> str:
    """A sentence that says what could not be written, why, and what to do.

    Args:
        path: what was to be written.
        error: what the operating system said.
    """
    reason = error.strerror or str(error) or type(error).__name__
    place = error.filename
    if isinstance(place, str | Path) and not _TEMPORARY.fullmatch(Path(place).name):
        reason += f" ({place})" if Path(place) != path else ""
    advice = _ADVICE.get(error.errno or 0, "what was there before is unchanged")
    return f"{path} cannot be written: {reason}: {advice}."


def _is_left(host: str, process: int, path: Path) -> bool:
    if time.time() - path.stat().st_mtime > _OLD_S:
        return True
    if host != _host() or os.name != "posix":
        return False
    try:
        os.kill(process, 0)  # sends nothing
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False


def _host() -> str:
    """This machine, and on it this space of process numbers: a container has its own."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _sync(folder: Path) -> None:
    if os.name == "posix":  # the new name, too, must reach the disk
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
