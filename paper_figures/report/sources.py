"""What a figure is drawn from: results with their provenance, and the code that draws."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import xarray as xr

from linlocal.analysis.results import Address, Provenance, code_version
from paper_figures.addresses import data_of, option, settings_of

_PACKAGES = ("matplotlib", "numpy", "scipy", "xarray")


def command(
    address: Address, python: str = "python", settings: Mapping[str, Any] = MappingProxyType({})
) -> str:
    """The line for the shell that makes a result, in this interpreter.

    Args:
        address: where the result lies.
        python: the interpreter.
        settings: its parameters that are not those of the preset.
    """
    size = ["--preset", address.preset, "--seed", str(address.seed), "--out", str(address.folder)]
    data = ["--data", "FOLDER"] if data_of(address) else []
    changed = [word for pair in settings.items() for word in ("--set", option(*pair))]
    words = ["experiments", "run", address.experiment, *size, *changed, *data]
    return shlex.join([python, "-m", *words])


def source(
    datasets: Mapping[str, xr.Dataset],
    addresses: Sequence[Address],
    pictures: Sequence[Path],
    fingerprint: str | None,
) -> dict[str, Any]:
    """What is recorded about a drawn figure beside its claims.

    Args:
        datasets: the inputs of the figure, by experiment.
        addresses: addresses of the inputs.
        pictures: the files to which it was drawn.
        fingerprint: the figure's hash, see :func:`fingerprint`.

    Returns:
        A JSON object, the same for the same inputs wherever the pictures lie.
    """
    inputs = []
    for address in addresses:
        dataset = datasets[address.experiment]
        date = dataset.attrs.get("date")
        stored = Provenance.of(dataset)
        inputs.append(
            {
                "experiment": stored.experiment,
                "preset": stored.preset,
                "seed": int(stored.seed),
                "file": address.path.as_posix(),
                "sha256": digest(address.path),
                "command": command(address, settings=settings_of(dataset)),
                "config": json.loads(stored.config),
                "code": stored.code,
                "commit": stored.commit,
                "packages": json.loads(stored.packages),
                "hardware": json.loads(stored.hardware),
                "duration_s": float(stored.duration_s),
                "date": date if isinstance(date, str) else None,
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

    The code counts as `linlocal.analysis.results.code_version` reads it: a comment or a move to
    another module does not change it.

    Args:
        module: full name of the figure's module.
        addresses: addresses of its inputs, all of which exist.

    Returns:
        None if the module has no source file, so nobody can say whether it has changed.
    """
    try:
        code = code_version(module)
    except ModuleNotFoundError:
        return None
    files = {address.path.as_posix(): digest(address.path) for address in addresses}
    parts = json.dumps([files, code, _versions()], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()


def up_to_date(entry: Mapping[str, Any], fingerprint: str | None, folder: Path) -> bool:
    """Whether drawing again would give the pictures that lie in ``folder``.

    Args:
        entry: the figure's entry in ``claims.json``.
        fingerprint: the figure's hash now.
        folder: folder of the pictures.
    """
    if fingerprint is None or entry.get("fingerprint") != fingerprint:
        return False
    pictures = {folder / name: stored for name, stored in entry["pictures"].items()}
    return all(path.is_file() and digest(path) == stored for path, stored in pictures.items())


def outdated(experiment: str, code: str, commit: str) -> str:
    """What to say of a result that the present code of its experiment would not make, else ""."""
    try:
        now = code_version(f"experiments.catalogue.{experiment}:run")
    except ModuleNotFoundError:  # the experiments are not here, so nobody can say
        return ""
    return "" if now == code else f"made by other code than the present, commit {commit}"


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _versions() -> dict[str, str]:
    return {package: version(package) for package in _PACKAGES}
