"""Names for files that are being written, which tell whether their writer still lives."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from functools import cache
from pathlib import Path
from uuid import uuid4

_NAME = re.compile(r"\..*\.([0-9a-f]{8})-([0-9]+)-[0-9a-f]{16}\.tmp")


def temporary_beside(path: Path) -> Path:
    """A hidden name in the folder of ``path`` that no other writer has; the folder exists.

    What writers that were killed have left in the folder is deleted. A writer is known by its
    process and machine, so those that live, here or on another machine, keep their files.
    """
    for each in path.parent.glob(".*.tmp"):
        found = _NAME.fullmatch(each.name)
        if found and found[1] == _machine() and not _lives(int(found[2])):
            each.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{uuid4().hex[:16]}.tmp")


@cache
def _machine() -> str:
    """This machine, and on it this space of process numbers: a container has its own."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _lives(process: int) -> bool:
    if os.name != "posix":  # there, signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
