"""Which of the results in a folder a figure is drawn from."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import xarray as xr

from linlocal.analysis import results
from linlocal.analysis.results import PRESETS, Address, Provenance, ResultError

# What stands for a result of data that need no folder.
EMBEDDED = "embedded"
# How the name of a result begins, behind its seed, whose parameters are not those of a preset; the
# data that it was computed from stand behind.
_SET = re.compile(r"set-(?:\d+-values|[^-]+)-[0-9a-f]{8}(?:-(?P<data>.+))?")
_NONE: Mapping[str, Any] = MappingProxyType({})


def address(
    experiment: str,
    preset: str,
    seed: int,
    folder: Path,
    data: Collection[str] = (),
    settings: Mapping[str, Any] = _NONE,
) -> Address:
    """Where the result of an experiment lies, whatever data it was computed from.

    Args:
        experiment: name of the experiment.
        preset: size of the run.
        seed: seed of the run.
        folder: folder of the results.
        data: names of data, as the names of result files end, or ``EMBEDDED``; they choose where
            there are several results.
        settings: the parameters that are not those of the preset.

    Raises:
        ResultError: several results, and ``data`` names none or several of them; or none with the
            settings.
    """
    plain = Address(experiment, preset, seed, folder)
    prefix = f"{plain.path.stem}-"
    every = {"": plain} if plain.path.exists() else {}
    for path in sorted(folder.glob(f"{prefix}*.nc")):
        label = path.stem.removeprefix(prefix)
        every[label] = Address(experiment, preset, seed, folder, label)
    if settings:
        every = {key: each for key, each in every.items() if _has(each, settings)}
        if not every:
            raise ResultError(f"{folder} has no result of {experiment} with {words(settings)}.")
    else:
        every = {label: each for label, each in every.items() if not is_changed(each)}
    found = {data_of(each) or EMBEDDED: each for each in every.values()}
    wanted = {label: each for label, each in found.items() if label in data}
    among = wanted or found
    if len(among) > 1:
        raise ResultError(
            f"{folder} has results of {experiment} from several data, {', '.join(among)}: choose "
            "one by --data."
        )
    return next(iter(among.values()), plain)


def strongest(
    experiment: str, folder: Path, usable: Callable[[Address], bool] = lambda address: True
) -> list[Address]:
    """The results of an experiment that decide, the strongest first.

    Data from a folder go before those that stand in for them, then a larger preset before a smaller
    one; a smoke run never goes before anything else. Of each data the strongest counts, of data
    that stand in only where there are no others. With parameters that are not those of a preset a
    result decides nothing.

    Args:
        experiment: name of the experiment.
        folder: folder of the results.
        usable: whether a result can be read; one that cannot leaves its place to the next.
    """
    found = [each for each in _every(experiment, folder) if not is_changed(each)]

    def strength(address: Address) -> tuple[bool, bool, int, int]:
        size = PRESETS.index(address.preset)
        return size > 0, bool(address.data), size, -address.seed

    chosen: list[Address] = []
    for address in sorted(found, key=strength, reverse=True):
        weaker = address.data in {each.data for each in chosen}
        weaker |= bool(chosen) and (not address.data or address.preset == PRESETS[0])
        if not weaker and usable(address):
            chosen.append(address)
    return chosen


def changed_results(inputs: Sequence[str], folder: Path) -> list[Address]:
    """The results with parameters that are not those of a preset, for a figure of one experiment.

    Args:
        inputs: the experiments of the figure; of several, nobody knows which belong together.
        folder: folder of the results.
    """
    if len(inputs) != 1:
        return []
    return [each for each in _every(inputs[0], folder) if is_changed(each)]


def address_of(file: Path) -> Address:
    """The address of a result file.

    Raises:
        ResultError: it is none, or has another name than `python -m experiments run` gave it.
    """
    stored = Provenance.of(results.read(file))
    plain = Address(stored.experiment, stored.preset, int(stored.seed), file.parent)
    stem = plain.path.stem
    if file.suffix != ".nc" or not (file.stem == stem or file.stem.startswith(f"{stem}-")):
        raise ResultError(f"{file} was renamed: give it back its name, {stem}.nc or {stem}-*.nc.")
    label = file.stem.removeprefix(stem).removeprefix("-")
    return Address(plain.experiment, plain.preset, plain.seed, plain.folder, label)


def is_changed(address: Address) -> bool:
    """Whether a result has parameters that are not those of its preset, by its name."""
    return _SET.fullmatch(address.data) is not None


def data_of(address: Address) -> str:
    """The name of the data that a result was computed from, "" for data that need no folder."""
    changed = _SET.fullmatch(address.data)
    return address.data if changed is None else changed["data"] or ""


def settings_of(dataset: xr.Dataset) -> dict[str, Any]:
    """The parameters of a result that are not those of its preset."""
    try:
        found = json.loads(dataset.attrs.get("settings", "{}"))
    except (TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def read_settings(pairs: Sequence[str], file: Path | None) -> dict[str, Any]:
    """The settings of a command, as `python -m experiments run` takes them.

    Args:
        pairs: each NAME=VALUE, a value as in TOML; text needs no quotes.
        file: TOML; ``pairs`` win over it.

    Raises:
        ResultError: something else.
    """
    found = {}
    for pair in pairs:
        name, equal, text = (part.strip() for part in pair.partition("="))
        if not (name and equal and text):
            raise ResultError(f"--set {pair!r} should be NAME=VALUE, for example repetitions=20.")
        found[name] = _value(text)
    try:
        return (tomllib.loads(file.read_text("utf-8")) if file is not None else {}) | found
    except (OSError, ValueError, RecursionError) as error:
        raise ResultError(f"{file} cannot be read ({error}).") from error


def words(settings: Mapping[str, Any]) -> str:
    """Settings in words."""
    return ", ".join(option(name, value) for name, value in settings.items())


def option(name: str, value: Any) -> str:
    """A setting as it is typed after ``--set``."""
    if value is None:
        return f"{name}=none"
    return f"{name}={json.dumps(value, separators=(',', ':'), default=str)}"


def _every(experiment: str, folder: Path) -> list[Address]:
    pattern = rf"{re.escape(experiment)}-({'|'.join(PRESETS)})-seed(\d+)(?:-(.+))?"
    return [
        Address(experiment, match[1], int(match[2]), folder, match[3] or "")
        for path in sorted(folder.glob("*.nc"))
        if (match := re.fullmatch(pattern, path.stem))
    ]


def _value(text: str) -> Any:
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        found = {}
    value = found["value"] if found.keys() == {"value"} else text
    return None if value == "none" else value


def _has(address: Address, settings: Mapping[str, Any]) -> bool:
    """Whether a result has these parameters, and otherwise those of its preset."""
    try:
        dataset = results.read(address.path)
    except ResultError:
        return False
    parameters = json.loads(Provenance.of(dataset).config)
    return settings_of(dataset).keys() <= settings.keys() and all(
        name in parameters and parameters[name] == value for name, value in settings.items()
    )
