"""One process at a time trains in a folder."""

from __future__ import annotations

import errno
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from linlocal.analysis import results
from linlocal.analysis.results import ResultError

_LOCK = ".lock"
_TAKEN = (errno.EACCES, errno.EAGAIN)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a folder, which is made if needed, until the block or the process ends, however it does.

    The lock is one of the operating system on a file that stays. Processes that read images do not
    inherit it. Where the file system has no locks, a warning says so.

    Args:
        folder: the folder of a run.

    Raises:
        ResultError: another process owns it, or it cannot be written.
    """
    path = folder / _LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise ResultError(results.why_not_written(path, error)) from error
    with file:
        if _locked(file, folder):
            try:
                file.truncate(0)
                file.write(f"process {os.getpid()} on {platform.node()}\n".encode())
            except OSError as error:
                raise ResultError(results.why_not_written(path, error)) from error
        yield


def _locked(file: IO[bytes], folder: Path) -> bool:
    """Whether the file is locked now; a file system may have no locks."""
    import fcntl  # of POSIX, as `torch.distributed` on several machines is

    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _TAKEN:
            warnings.warn(
                f"{folder} cannot be locked ({error.strerror}), so nothing will notice a second "
                "run in it, and two of them damage each other.",
                stacklevel=4,
            )
            return False
        file.seek(0)
        who = file.read(200).decode(errors="replace").strip() or "unknown"
        raise ResultError(
            f"{folder} is in use by another run ({who}): wait for its end, or give another --out."
        ) from None
    return True
