"""The results of experiments in a folder: which there are, and in which state."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.runner import registry, remembered, settings
from experiments.runner.outlines import outline
from experiments.runner.sweep import Parts
from linlocal.analysis import results
from linlocal.analysis.results import Address, Provenance, ResultError


@dataclass(frozen=True)
class Entry:
    """A result that there is or could be.

    Attributes:
        what: the preset, or the settings beside it.
        state: the state of the result and of an unfinished run, in words.
    """

    what: str
    state: str


def entries(name: str, preset: str, seed: int, data: Path | None, folder: Path) -> Iterator[Entry]:
    """The results of an experiment: of a preset, then with other parameters.

    Args:
        name: name of the experiment.
        preset: name of its size.
        seed: seed of the runs.
        data: folder of data sets.
        folder: folder of the results.

    Raises:
        DataError: data that the experiment reads are not in the folder.
    """
    plain = Address(name, preset, seed, folder)
    others = _changed(plain)
    if data is None and not others and not _is_begun(plain):
        yield Entry(preset, "no result")
        return
    config = registry.configure(outline(name), preset, seed, data)
    parameters = registry.describe(name, config)

    def code() -> str:
        return Provenance.collect(name, preset, seed, {}, registry.entry_of(name)).code

    def provenance(given: dict[str, Any]) -> Provenance:
        run = Provenance.collect(name, preset, seed, parameters | given)
        return replace(run, code=remembered.code_version(name, code))

    usual = provenance({})
    yield Entry(preset, _state(registry.address(usual, {}, folder), usual))
    for label, given in others.items():
        if given is None:
            yield Entry(label, "damaged")
            continue
        run = provenance(given)
        address = registry.address(run, given, folder)
        # Results from other data have other names.
        if address.data == label:
            yield Entry(shlex.join(settings.options(given)), _state(address, run))


def parts_folder(address: Address) -> Path:
    """Where an unfinished run keeps its finished points."""
    return address.folder / ".parts" / address.path.stem


def state(address: Address, provenance: Provenance) -> str:
    """The state of a result file, compared with the run that would make it now."""
    if not address.path.exists():
        return "no result"
    try:
        stored = Provenance.of(results.read(address.path))
    except ResultError:
        return "damaged"
    if stored.repeats(provenance):
        return "up to date"
    return "older code" if stored.config == provenance.config else "other parameters"


def _state(address: Address, provenance: Provenance) -> str:
    """The state of a result and of an unfinished run."""
    found, unfinished = state(address, provenance), parts_folder(address)
    if not unfinished.exists() or (
        found == "up to date" and not Parts(unfinished, provenance).forced
    ):
        return found
    return "interrupted" if found == "no result" else f"{found}; interrupted"


def _is_begun(address: Address) -> bool:
    return address.path.exists() or parts_folder(address).exists()


def _changed(plain: Address) -> dict[str, dict[str, Any] | None]:
    """The settings of results beside that of a preset, by what the names of their files end with.

    They are None where the file cannot be read or holds none.
    """
    prefix = f"{plain.path.stem}-"
    found: dict[str, dict[str, Any] | None] = {}
    for path in sorted(plain.folder.glob(f"{prefix}set-*.nc")):
        given = None
        with suppress(ResultError, ValueError):
            given = json.loads(str(results.read(path).attrs.get("settings")))
        found[path.stem.removeprefix(prefix)] = given if isinstance(given, dict) else None
    return found
