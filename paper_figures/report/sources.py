"""What a figure is drawn from: results with their provenance, and the code that draws."""

from __future__ import annotations

import ast
import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import resolve_name
from pathlib import Path
from typing import Any

import xarray as xr

from linlocal.analysis.results import Address, Provenance

_PACKAGES = ("matplotlib", "numpy", "scipy", "xarray")
_ROOT = Path(__file__).resolve().parents[2]


def command(address: Address, python: str = "python") -> str:
    """The line for the shell that makes a result, in this interpreter."""
    size = ["--preset", address.preset, "--seed", str(address.seed), "--out", str(address.folder)]
    return shlex.join([python, "-m", "experiments", "run", address.experiment, *size])


def source(
    datasets: Mapping[str, xr.Dataset],
    addresses: Sequence[Address],
    pictures: Sequence[Path],
    fingerprint: str | None,
) -> dict[str, Any]:
    """What is recorded of a drawn figure beside its claims.

    Args:
        datasets: its inputs by experiment.
        addresses: of the inputs.
        pictures: the files it was drawn to.
        fingerprint: see :func:`fingerprint`.

    Returns:
        A JSON object, the same for the same inputs wherever the pictures lie.
    """
    inputs = []
    for address in addresses:
        dataset = datasets[address.experiment]
        stored = Provenance.of(dataset)
        inputs.append(
            {
                "experiment": stored.experiment,
                "preset": stored.preset,
                "seed": int(stored.seed),
                "file": address.path.as_posix(),
                "sha256": digest(address.path),
                "command": command(address),
                "config": json.loads(stored.config),
                "code": stored.code,
                "commit": stored.commit,
                "packages": json.loads(stored.packages),
                "hardware": json.loads(stored.hardware),
                "duration_s": float(stored.duration_s),
                "date": dataset.attrs.get("date"),
            }
        )
    return {
        "inputs": inputs,
        "pictures": {picture.name: digest(picture) for picture in pictures},
        "drawn with": _versions(),
        "fingerprint": fingerprint,
    }


def fingerprint(module: str, addresses: Sequence[Address]) -> str | None:
    """A hash of all that decides how a figure looks: its results, its code, the libraries.

    Args:
        module: full name of the figure's module, imported before.
        addresses: of its inputs, all of which exist.

    Returns:
        None if the module has no source file, so that nobody can say whether it has changed.
    """
    if getattr(sys.modules[module], "__file__", None) is None:
        return None
    files = {address.path.as_posix(): digest(address.path) for address in addresses}
    parts = [files, {name: digest(file) for name, file in _code(module).items()}, _versions()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def up_to_date(entry: Mapping[str, Any], fingerprint: str | None, folder: Path) -> bool:
    """Whether drawing again would give the pictures that lie in ``folder``.

    Args:
        entry: what ``claims.json`` holds of the figure.
        fingerprint: of the figure now.
        folder: of the pictures.
    """
    if fingerprint is None or entry.get("fingerprint") != fingerprint:
        return False
    pictures = {folder / name: stored for name, stored in entry["pictures"].items()}
    return all(path.is_file() and digest(path) == stored for path, stored in pictures.items())


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _code(module: str) -> dict[str, Path]:
    """The files of this package that ``module`` reaches by imports, and of linlocal, if any, all.

    linlocal imports its own modules when first used, so its imports do not tell which count.
    """
    files: dict[str, Path] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        loaded = sys.modules.get(name)
        if loaded is None or loaded.__file__ is None or name in files:
            continue
        files[name] = Path(loaded.__file__)
        for node in ast.walk(ast.parse(files[name].read_text(encoding="utf-8"))):
            found = []
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                relative = "." * node.level + (node.module or "")
                base = resolve_name(relative, loaded.__package__)
                found = [base, *(f"{base}.{alias.name}" for alias in node.names)]
            todo += [each for each in found if each.startswith("paper_figures.")]
            if any(each.partition(".")[0] == "linlocal" for each in found):
                theory = (_ROOT / "linlocal").rglob("*.py")
                files |= {file.relative_to(_ROOT).as_posix(): file for file in theory}
    return files


def _versions() -> dict[str, str]:
    return {package: version(package) for package in _PACKAGES}
