"""Code versions of experiments, remembered between commands while no file of ours changes.

To find them all, some two hundred files are parsed, which takes most of the time of a list. As
Python does with its bytecode, what was found is kept in ``__pycache__`` and counts while names,
times and sizes of all files are the same. Only lists believe it: runs find their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path

import experiments
import linlocal
from experiments import catalogue
from linlocal.analysis.results import replacing

_KEPT = Path(cache_from_source(__file__)).with_name("code_versions.json")


def code_version(name: str, find: Callable[[], str], kept: Path = _KEPT) -> str:
    """The code version of an experiment.

    Args:
        name: name of the experiment; what does not lie in the catalogue is not remembered.
        find: finds the version by reading the files.
        kept: where versions are remembered.
    """
    if not any(Path(folder, f"{name}.py").is_file() for folder in catalogue.__path__):
        return find()
    versions = _remembered(kept)
    if name not in versions:
        versions[name] = find()
        if not sys.dont_write_bytecode:
            with suppress(OSError), replacing(kept) as file:
                file.write(json.dumps({"files": _files(), "versions": versions}).encode())
    return versions[name]


def _remembered(kept: Path) -> dict[str, str]:
    with suppress(OSError, ValueError, LookupError, TypeError):
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["files"] == _files():
            return {str(name): str(version) for name, version in found["versions"].items()}
    return {}


@cache
def _files() -> str:
    """A hash of names, times and sizes of all files that can be reached."""
    found = []
    for place in (*experiments.__path__, *linlocal.__path__):
        # linlocal/analysis is a link to a folder.
        for folder, _, names in os.walk(place, followlinks=True):
            for name in names:
                if name.endswith((".py", ".pyi")):
                    with suppress(OSError):  # removed meanwhile
                        stat = Path(folder, name).stat()
                        found.append((folder, name, stat.st_mtime_ns, stat.st_size))
    return hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest()
