"""Stored results computed again, by their own parameters and seed, and compared.

Every variable is compared but wall-clock times: a variable whose attribute ``units`` is "s" holds
seconds, which differ from run to run.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import xarray as xr

from experiments.runner import registry, settings
from experiments.runner.registry import Experiment
from experiments.runner.sweep import Parts, Sweep
from experiments.runner.workers import Workers
from linlocal.analysis import results
from linlocal.analysis.results import Provenance, ResultError

# What is compared is of order one (cosines, accuracies, relative errors): smaller is rounding.
ROUNDING = 1e-12

# What is computed again may be this many times as large as the largest preset.
_LARGER = 10

Verdict = Literal["exactly equal", "within tolerance", "different", "not compared"]


@dataclass(frozen=True)
class Candidate:
    """A result file that can be computed again.

    Attributes:
        path: path of the file.
        stored: the provenance that the file holds.
        now: the provenance that a run here and now would have.
        experiment: the experiment that makes the file.
        config: the parameters that the file holds.
    """

    path: Path
    stored: Provenance
    now: Provenance
    experiment: Experiment
    config: Any


@dataclass(frozen=True)
class Sorted:
    """The result files of a folder.

    Attributes:
        candidates: files that can be computed again.
        outdated: names of the files that other code made, and which code that was.
        skipped: names of other files that cannot be computed again, and why.
        damaged: names of the files that cannot be read, and why.
    """

    candidates: list[Candidate]
    outdated: dict[str, str]
    skipped: dict[str, str]
    damaged: dict[str, str]


@dataclass(frozen=True)
class Row:
    """One variable compared.

    Attributes:
        variable: name of the variable.
        verdict: how the comparison ended.
        difference: largest difference relative to the largest stored magnitude; NaN where none
            can be computed.
        note: what stands in place of that number.
    """

    variable: str
    verdict: Verdict
    difference: float = np.nan
    note: str = ""

    def __str__(self) -> str:
        said = self.note or f"{self.difference:.1e}"
        return f"  {self.variable:<32} {self.verdict:<18} {said}"


def sort(
    folder: Path,
    presets: Collection[str],
    any_version: bool,
    any_size: bool = False,
    data: Path | None = None,
) -> Sorted:
    """Sort the result files of a folder.

    Args:
        folder: the folder that `python -m experiments run` filled.
        presets: sizes to take; results of other sizes are left out.
        any_version: whether results of other code are taken too.
        any_size: whether results are taken too whose parameters no preset comes near.
        data: folder of data sets, for results that were computed from such.
    """
    found = Sorted([], {}, {}, {})
    for path in sorted(folder.glob("*.nc")):
        try:
            stored = Provenance.of(results.read(path))
        except ResultError as error:
            found.damaged[path.name] = str(error)
            continue
        if stored.preset not in presets:
            continue
        try:
            found.candidates.append(_candidate(path, stored, any_version, any_size, data))
        except _OtherCode as error:
            found.outdated[path.name] = str(error)
        except ResultError as error:
            found.skipped[path.name] = str(error)
    return found


def draw(found: list[Candidate], sample: int, seed: int) -> list[Candidate]:
    """A random sample, the same for the same files and seed."""
    return random.Random(seed).sample(found, min(sample, len(found)))


def parts_folder(folder: Path) -> Path:
    """Where an unfinished verification keeps its finished points, apart from those of the runs."""
    return folder / ".verify"


def compute(candidate: Candidate, workers: Workers | None) -> xr.Dataset:
    """Compute a result again, as it would be read from its file; an interrupted one resumes."""
    folder = parts_folder(candidate.path.parent) / candidate.path.stem
    parts = Parts(folder, candidate.now)
    dataset = candidate.experiment.run(candidate.config, Sweep(parts, workers))
    # Written and read back, because files know fewer types than arrays do.
    with TemporaryDirectory() as elsewhere:
        return results.read(results.write(dataset, Path(elsewhere, "again.nc"), candidate.now))


def forget(folder: Path) -> None:
    """Delete what verifications left in a folder of results."""
    shutil.rmtree(parts_folder(folder), ignore_errors=True)


def compare(stored: xr.Dataset, again: xr.Dataset, tolerance: float) -> list[Row]:
    """Compare two results variable by variable, coordinates included.

    Args:
        stored: the result as read from its file.
        again: the result as computed now.
        tolerance: bound on the largest difference, relative to the largest stored magnitude.

    Returns:
        A row per variable of either.
    """
    return [
        _row(str(name), stored.variables.get(name), again.variables.get(name), tolerance)
        for name in sorted({*stored.variables, *again.variables}, key=str)
    ]


def overall(rows: list[Row]) -> Verdict:
    """The worst verdict."""
    verdicts = {row.verdict for row in rows}
    worst: tuple[Verdict, ...] = ("different", "within tolerance")
    return next((verdict for verdict in worst if verdict in verdicts), "exactly equal")


def circumstances(stored: Provenance, now: Provenance) -> list[str]:
    """In which versions, code and hardware two runs differ, as text."""
    pairs = [("commit", stored.commit, now.commit), ("code", stored.code, now.code)]
    for one, other in ((stored.packages, now.packages), (stored.hardware, now.hardware)):
        before, after = json.loads(one), json.loads(other)
        pairs += [(key, before.get(key), after.get(key)) for key in sorted({*before, *after})]
    return [f"{key} {before}, now {after}" for key, before, after in pairs if before != after]


class _OtherCode(ResultError):
    """A result that the present code did not make."""


def _candidate(
    path: Path, stored: Provenance, any_version: bool, any_size: bool, data: Path | None
) -> Candidate:
    """Raises ResultError with the reason if the file cannot be computed again here."""
    if stored.experiment not in registry.NAMES:
        raise ResultError(f"no experiment is called {stored.experiment!r}.")
    experiment = registry.load(stored.experiment)
    code = results.code_version(registry.entry_of(stored.experiment))
    # First, because other code may have had other parameters.
    if not any_version and code != stored.code:
        raise _OtherCode(f"made by other code (commit {_short(stored.commit)}).")
    values = json.loads(stored.config)
    folder = _folder(experiment, values.get("data", registry.EMBEDDED), data)
    config = _config(experiment, stored.preset, values, folder)
    if config is None:
        raise ResultError("its parameters are not those that this code knows.")
    # The file may come from a stranger, and what it asks for is computed.
    if (unusual := _unusual(experiment, config, any_size)) is not None:
        raise ResultError(
            f"its parameter {unusual} = {values[unusual]!r:.60} is of another kind than those of "
            f"the presets, or more than {_LARGER} times as large"
            f"{'.' if any_size else ': if you made the file yourself, give --any-size.'}"
        )
    now = registry.provenance(stored.experiment, stored.preset, stored.seed, config)
    if now.config != stored.config:
        raise ResultError("its parameters are not those that this code knows.")
    if str(values.get("device", "")).startswith("cuda") and not _has_cuda():
        raise ResultError("needs a CUDA device, and there is none.")
    return Candidate(path, stored, now, experiment, config)


def _short(commit: str) -> str:
    digits, dash, dirty = commit.partition("-")
    return commit if commit == "unknown" else f"{digits[:7]}{dash}{dirty}"


def _folder(experiment: Experiment, read: Any, data: Path | None) -> Path | None:
    """The folder with what a result was computed from; None for embedded data.

    Args:
        experiment: the experiment that made the result.
        read: the fingerprints of what was read, by name, as they are stored.
        data: folder of data sets.

    Raises:
        ResultError: the folder does not hold the same.
    """
    if read == registry.EMBEDDED:
        return None
    names = " and ".join(sorted(read)) if isinstance(read, dict) else "data"
    if data is None:
        raise ResultError(f"it was computed from {names}: name their folder by --data.")
    if not hasattr(experiment, "read_from"):
        raise ResultError("its parameters are not those that this code knows.")
    try:
        there = experiment.read_from(data)
    except ValueError as error:  # a DataError
        raise ResultError(f"it was computed from {names}, and {error}") from error
    if there != read:
        raise ResultError(f"it was computed from other {names} than {data} holds.")
    return data


def _config(
    experiment: Experiment, preset: str, values: Mapping[str, Any], folder: Path | None
) -> Any:
    """The Config that was stored as JSON; None if this code has no such fields."""
    frozen = {name: _frozen(value) for name, value in values.items()}
    if "data" in frozen:
        frozen["data"] = folder
    try:
        return replace(experiment.PRESETS[preset], **frozen)
    except TypeError:
        return None


def _unusual(experiment: Experiment, config: Any, any_size: bool) -> str | None:
    """A parameter that no preset has, nor one some times as large; None if all are usual.

    Args:
        experiment: the experiment.
        config: the parameters.
        any_size: whether any value is usual that a user could set.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        presets = [preset for preset in experiment.PRESETS.values() if hasattr(preset, field.name)]
        known = [getattr(preset, field.name) for preset in presets]
        if field.name == "data":  # the user names it
            usual = True
        elif field.name == "seed":
            usual = type(value) is int and value >= 0
        elif field.name == "device":
            usual = isinstance(value, str) and re.fullmatch(r"cpu|cuda(:\d+)?", value) is not None
        else:
            usual = (any_size or _is_usual(value, known)) and settings.fits(
                config, [*experiment.PRESETS.values()], field.name
            )
        if not usual:
            return field.name
    return None


def _is_usual(value: Any, known: Sequence[Any]) -> bool:
    if isinstance(value, tuple):
        alike = [each for each in known if isinstance(each, tuple)]
        inner = [each for several in alike for each in several]
        longest = max(map(len, alike), default=0)
        return len(value) <= _LARGER * longest and all(_is_usual(each, inner) for each in value)
    same = [each for each in known if type(each) is type(value)]
    if isinstance(value, bool):
        return bool(same)
    if isinstance(value, int | float):
        return bool(same) and abs(value) <= _LARGER * max(1, *map(abs, same))
    # Text that chooses among names, or None.
    return value in same


def _frozen(value: Any) -> Any:
    # JSON knows no tuples, and a Config holds no lists.
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def _row(name: str, stored: xr.Variable | None, again: xr.Variable | None, tolerance: float) -> Row:
    if stored is None or again is None:
        where = "computed now" if stored is None else "in the file"
        return Row(name, "different", note=f"only {where}")
    units = stored.attrs.get("units")
    if isinstance(units, str) and units == "s":
        return Row(name, "not compared", note="a wall-clock time")
    if (stored.dims, stored.shape) != (again.dims, again.shape):
        return Row(name, "different", note=f"{dict(stored.sizes)}, now {dict(again.sizes)}")
    one, other = np.asarray(stored.values), np.asarray(again.values)
    if {one.dtype.kind, other.dtype.kind} <= set("fc"):
        return _numbers(name, one, other, tolerance)
    unequal = np.count_nonzero(one != other)
    if unequal:
        return Row(name, "different", note=f"{unequal} of {one.size} values")
    return Row(name, "exactly equal", 0.0)


def _numbers(name: str, one: np.ndarray, other: np.ndarray, tolerance: float) -> Row:
    if not np.array_equal(np.isnan(one), np.isnan(other)):
        return Row(name, "different", note="undefined (NaN) at other places")
    difference = float(np.max(np.abs(one - other), initial=0.0, where=~np.isnan(one)))
    scale = float(np.max(np.abs(one), initial=0.0, where=~np.isnan(one)))
    if difference == 0:
        return Row(name, "exactly equal", 0.0)
    close = difference <= tolerance * scale + ROUNDING
    relative = difference / scale if scale else np.inf
    # Of a variable that is itself rounding, the relative difference says nothing.
    note = f"{difference:.1e} in all, rounding" if close and relative > tolerance else ""
    return Row(name, "within tolerance" if close else "different", relative, note)
