"""Where a result comes from: what has to be known to make it again, and how it was made."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

import numpy as np
import xarray as xr

from linlocal import inputs
from linlocal.analysis.results.sources import code_version

SCHEMA = 2
# Before the name of a field, where the dataset has an attribute of that name.
_RUN = "run_"
# The root of the checkout, if this is one.
ROOT = Path(__file__).resolve().parents[2]
PRESETS = ("smoke", "cpu", "workstation", "paper")
_PACKAGES = ("numpy", "scipy", "torch", "xarray", "linlocal")


class ResultError(Exception):
    """A result that cannot be named, written or read; the message says what to do."""


def known_name(kind: str, name: str, known: Iterable[str]) -> str:
    """``name`` if it is among ``known``.

    Args:
        kind: the kind of thing that is named, for the message, e.g. "experiment".
        name: what the user typed.
        known: the possible names.

    Raises:
        ResultError: it is not; the message lists the closest and all possible names.
    """
    known = list(known)
    if name in known:
        return name
    close = get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise ResultError(f"unknown {kind} {name!r}{hint} Possible: {', '.join(known) or 'none yet'}.")


@dataclass(frozen=True)
class Address:
    """Where one run keeps its result.

    Attributes:
        experiment: the name of the experiment.
        preset: the name of the experiment's size.
        seed: the seed of every random number in the run.
        folder: the folder of the results.
        data: a name for the data that the run reads from files; "" where it reads none.

    Raises:
        ResultError: unknown preset.
        TypeError: a seed that is no whole number.
    """

    experiment: str
    preset: str
    seed: int
    folder: Path
    data: str = ""

    def __post_init__(self) -> None:
        known_name("preset", self.preset, PRESETS)
        inputs.keep(self, inputs.whole, "seed")
        inputs.keep(self, inputs.path, "folder")

    @property
    def path(self) -> Path:
        """The result file."""
        data = f"-{self.data}" if self.data else ""
        return self.folder / f"{self.experiment}-{self.preset}-seed{self.seed}{data}.nc"


@dataclass(frozen=True)
class Provenance:
    """What has to be known to make a result again, and how it was made.

    Attributes:
        experiment: the name of the experiment.
        preset: the name of the experiment's size.
        seed: the seed of every random number in the run.
        config: all parameters of the run, as JSON.
        code: the version of the code that computed the result, see `code_version`; "unknown" where
            no module was named.
        commit: the git commit, with "-dirty" after local changes outside ``results``, or
            "unknown".
        packages: the versions of Python and of the packages that computed the result, as JSON.
        hardware: the processor, cores, memory and accelerator, as JSON.
        duration_s: the seconds of computation.
        schema: the version of this layout.
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
    def collect(
        cls,
        experiment: str,
        preset: str,
        seed: int,
        config: Mapping[str, Any],
        entry: str | None = None,
    ) -> Self:
        """Describe a run that starts here and now.

        Args:
            experiment: the name of the experiment.
            preset: the name of the experiment's size.
            seed: the seed of every random number in the run.
            config: all parameters of the run.
            entry: what computes the result, as `code_version` takes it: a module, or a function of
                it as ``module:function``.

        Raises:
            TypeError: config holds something that JSON cannot express, or the seed is not whole.
        """
        return cls(
            experiment=experiment,
            preset=preset,
            seed=inputs.whole(seed, "seed"),
            config=_json(config),
            code="unknown" if entry is None else _code(entry),
            commit=_commit(),
            packages=_json({"python": platform.python_version(), **_package_versions()}),
            hardware=_json(_hardware()),
        )

    @classmethod
    def of(cls, dataset: xr.Dataset) -> Self:
        """Read the attributes of a result.

        Raises:
            ResultError: some are missing or of another kind, or the schema is newer than this code.
        """
        # First, because a newer schema may have other attributes.
        schema = of_run(dataset.attrs, "schema")
        if isinstance(schema, int | np.integer) and schema > SCHEMA:
            raise ResultError(
                f"schema {schema} is newer than {SCHEMA}, the newest that this code reads: "
                "update linlocal."
            )
        found = {name: of_run(dataset.attrs, name) for name in _field_names()}
        missing = [name for name, value in found.items() if value is None]
        if missing:
            raise ResultError(
                f"no result of ours: the file lacks the attributes {', '.join(missing)}."
            )
        stored = cls(**found)
        stored.check()
        return stored

    def check(self) -> None:
        """Refuse what no run has: results come from strangers, too.

        Raises:
            ResultError: a field is of another kind than it should be.
        """
        for name in _field_names():
            value = getattr(self, name)
            if (expected := _other_kind(name, value)) is not None:
                raise ResultError(
                    f"no result of ours: {name!r} of its run should be {expected}, but is "
                    f"{value!r:.60}."
                )

    def repeats(self, other: Provenance) -> bool:
        """Whether the same parameters went through the same code."""
        return (self.experiment, self.config, self.code) == (
            other.experiment,
            other.config,
            other.code,
        )


def of_run(attributes: Mapping[Any, Any], name: str) -> Any:
    """A field of the `Provenance` among the attributes of a dataset, None if it is not there.

    Args:
        attributes: those of a dataset that was read.
        name: the name of the field; the dataset may have an attribute of its own of that name.
    """
    return attributes.get(_RUN + name, attributes.get(name))


def joined_attributes(own: Mapping[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a dataset and, under names that it does not use, the fields of a provenance."""
    apart = {_RUN + name if name in own else name: value for name, value in provenance.items()}
    return {**own, **apart}


def own_attributes(attributes: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """The attributes without those that `joined_attributes` has added.

    Raises:
        ResultError: a name by which a field of the provenance may go.
    """
    own = dict(attributes)
    if all(of_run(attributes, name) is not None for name in _field_names()):
        for name in _field_names():
            del own[_RUN + name if _RUN + name in own else name]
    for name in _field_names():
        if _RUN + name in own:
            raise ResultError(
                f"the dataset has an attribute {_RUN + name!r}, which is a name for the "
                f"{name} of the run that wrote a result: give it another name."
            )
    return own


def _field_names() -> list[str]:
    return [field.name for field in fields(Provenance)]


def _other_kind(name: str, value: Any) -> str | None:
    """What a field should be and is not; None if it is."""
    if name in ("seed", "schema"):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        return None if whole else "a whole number"
    if name == "duration_s":
        number = isinstance(value, int | float | np.integer | np.floating)
        fits = number and not isinstance(value, bool) and np.isfinite(value)
        return None if fits else "a number of seconds"
    if not isinstance(value, str):
        return "text"
    if name not in ("config", "packages", "hardware"):
        return None
    try:
        held = json.loads(value)
    except (ValueError, RecursionError):
        held = None
    return None if isinstance(held, dict) else "a JSON object as text"


def _code(entry: str) -> str:
    try:
        return code_version(entry)
    except ModuleNotFoundError:
        return "unknown"


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, default=_plain)


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy as JSON can express them."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(
        f"config holds {value!r}, a {type(value).__name__}, which JSON cannot express: use "
        "numbers, text, booleans, None, lists and dicts, and str(path) for a path."
    )


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
    # An installed copy may lie inside somebody else's repository.
    if not (ROOT / ".git").exists():
        return "unknown"
    # Results compute nothing, and a finished run deletes its committed parts.
    changed = ["status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)results"]
    try:
        commit, local = (
            subprocess.run(
                ["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], changed)
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{commit}-dirty" if local else commit


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
