"""Results: labelled arrays in netCDF files that say where they came from.

A result is an ``xr.Dataset`` with the fields of :class:`Provenance` as attributes. Layers are
numbered 1..L in the coordinate ``layer``. NaN means "undefined" (the cosine of a zero update);
infinity is refused. Any netCDF reader opens the files; they end with a checksum of 32 bytes, which
such readers do not look at.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import numpy as np
import xarray as xr

from analysis.sources import ROOT, code_version

SCHEMA = 1
PRESETS = ("smoke", "cpu", "paper")

_CHECKSUM_SIZE = hashlib.sha256().digest_size
_PACKAGES = ("numpy", "scipy", "torch", "xarray", "linlocal")


class ResultError(Exception):
    """A result that cannot be named, written or read; the message says what to do."""


def known_name(kind: str, name: str, known: Iterable[str]) -> str:
    """``name`` if it is among ``known``.

    Args:
        kind: what is named, for the message, e.g. "experiment".
        name: what the user typed.
        known: the possible names.

    Raises:
        ResultError: it is not; the message names the closest and all possible ones.
    """
    known = list(known)
    if name in known:
        return name
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise ResultError(f"unknown {kind} {name!r}{hint} Possible: {', '.join(known) or 'none yet'}.")


@dataclass(frozen=True)
class Address:
    """Where one run keeps its result, and the command that makes it.

    Raises:
        ResultError: unknown preset.
    """

    experiment: str
    preset: str
    seed: int
    folder: Path

    def __post_init__(self) -> None:
        known_name("preset", self.preset, PRESETS)

    @property
    def path(self) -> Path:
        """The result file."""
        return self.folder / f"{self.experiment}-{self.preset}-seed{self.seed}.nc"

    @property
    def command(self) -> str:
        """A line for the shell that makes the result file."""
        # Inside a virtual environment that is not activated, plain "python" is another one.
        python = "python" if shutil.which("python") == sys.executable else sys.executable
        options = f"--preset {self.preset} --seed {self.seed} --out {shlex.quote(str(self.folder))}"
        return f"{shlex.quote(python)} -m experiments run {self.experiment} {options}"


@dataclass(frozen=True)
class Provenance:
    """What has to be known to make a result again, and how it was made.

    Attributes:
        experiment: name of the experiment.
        preset: name of its size.
        seed: of every random number in it.
        config: all its parameters, as JSON.
        code: content of the source files that it reaches, see `sources.code_version`; "unknown" for
            a result of nothing in `experiments`.
        commit: git commit, with "-dirty" after local changes, or "unknown".
        packages: versions of Python and of the packages that computed it, as JSON.
        hardware: processor, cores, memory and accelerator, as JSON.
        duration_s: seconds of computation.
        schema: version of this layout.
    """

    experiment: str
    preset: str
    seed: int
    config: str
    code: str
    commit: str
    packages: str
    hardware: str
    duration_s: float = 0.0
    schema: int = SCHEMA

    @classmethod
    def collect(cls, experiment: str, preset: str, seed: int, config: Mapping[str, Any]) -> Self:
        """Describe a run that starts here and now.

        Raises:
            TypeError: config holds something that JSON cannot express.
        """
        return cls(
            experiment=experiment,
            preset=preset,
            seed=seed,
            config=_json(config),
            code=_code(f"experiments.{experiment}"),
            commit=_commit(),
            packages=_json({"python": platform.python_version(), **_package_versions()}),
            hardware=_json(_hardware()),
        )

    @classmethod
    def of(cls, dataset: xr.Dataset) -> Self:
        """Read the attributes of a result.

        Raises:
            ResultError: some are missing, or the schema is newer than this code.
        """
        # First, because a newer schema may have other attributes.
        schema = dataset.attrs.get("schema")
        if isinstance(schema, int | np.integer) and schema > SCHEMA:
            raise ResultError(
                f"schema {schema} is newer than {SCHEMA}, the newest that this code reads: "
                "update linlocal."
            )
        missing = [field.name for field in fields(cls) if field.name not in dataset.attrs]
        if missing:
            raise ResultError(
                f"no result of `python -m experiments`: without attributes {', '.join(missing)}."
            )
        return cls(**{field.name: dataset.attrs[field.name] for field in fields(cls)})

    def repeats(self, other: Provenance) -> bool:
        """Whether the same parameters went through the same code."""
        return (self.experiment, self.config, self.code) == (
            other.experiment,
            other.config,
            other.code,
        )


def write(dataset: xr.Dataset, path: Path, provenance: Provenance) -> Path:
    """Store a result, atomically: at any moment ``path`` holds the old file or the whole new one.

    Args:
        dataset: the arrays; its own attributes are kept.
        path: the file; its folder is made if needed.
        provenance: stored as attributes.

    Returns:
        ``path``.

    Raises:
        ResultError: an infinite value, or layers that are not numbered 1..L.
    """
    _check(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One name per writer, so that two of them never write into the same file.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    # A dataset joined from files carries the number format of the first, too narrow for others.
    labelled = dataset.drop_encoding().assign_attrs(asdict(provenance))
    try:
        labelled.to_netcdf(temporary, engine="h5netcdf")
        with temporary.open("r+b") as file:
            # HDF5 itself notices hardly any damage but a truncation.
            file.write(_checksum(file.read()))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read(path: Path) -> xr.Dataset:
    """Load a result into memory.

    Args:
        path: a file made by :func:`write`.

    Returns:
        The arrays, with the provenance as attributes; the file is closed.

    Raises:
        ResultError: missing, damaged, not ours or of a newer schema.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ResultError(
            f"{path} does not exist: `python -m experiments list` shows what makes it."
        ) from None
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}.") from error
    body, checksum = content[:-_CHECKSUM_SIZE], content[-_CHECKSUM_SIZE:]
    if _checksum(body) != checksum:
        raise ResultError(
            f"{path} is damaged, cut off, or no result of `python -m experiments`: delete it and "
            "run its experiment again."
        )
    # Some versions of xarray would make a time difference of any variable with unit "s".
    try:
        dataset = xr.load_dataset(BytesIO(body), engine="h5netcdf", decode_times=False)
    except (OSError, ValueError, KeyError) as error:  # a stranger's, with a checksum of its own
        raise ResultError(f"{path} is no netCDF file of ours: {error}") from error
    try:
        Provenance.of(dataset)
    except ResultError as error:
        raise ResultError(f"{path}: {error}") from error
    return dataset


def _code(module: str) -> str:
    try:
        return code_version(module)
    except ModuleNotFoundError:
        return "unknown"


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()


def _check(dataset: xr.Dataset) -> None:
    for name, variable in dataset.variables.items():
        if variable.dtype.kind in "fc" and np.isinf(variable.values).any():
            first = np.argwhere(np.isinf(variable.values))[0].tolist()
            raise ResultError(
                f"infinite value in {name!r}, the first at index {first} of {variable.dims}: "
                "store NaN where a quantity is undefined."
            )
    if "layer" in dataset.dims:
        numbers = dataset["layer"].values.tolist() if "layer" in dataset.coords else None
        if numbers != list(range(1, dataset.sizes["layer"] + 1)):
            raise ResultError(f"the coordinate 'layer' must number layers 1..L, not {numbers}.")


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True)


def _package_versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


@cache
def _commit() -> str:
    # An installed copy may lie inside the repository of somebody else.
    if not (ROOT / ".git").exists():
        return "unknown"
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            describe, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


@cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or "unknown")


def _hardware() -> dict[str, Any]:
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
    }
    if hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        facts["memory_gib"] = round(memory / 2**30, 1)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts["accelerator"] = torch.cuda.get_device_name()
    return facts
