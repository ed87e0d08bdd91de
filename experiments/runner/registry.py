"""The experiments that exist: the modules of `experiments.catalogue`, and what each defines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import MappingProxyType
from typing import Any, Protocol, cast

import xarray as xr

from experiments import catalogue
from experiments.runner import settings
from experiments.runner.sweep import Sweep
from linlocal.analysis.results import Address, Provenance, ResultError, known_name

# What is stored for ``data`` where no folder is named.
EMBEDDED = "embedded"
NAMES: tuple[str, ...] = tuple(sorted(module.name for module in iter_modules(catalogue.__path__)))


class Experiment(Protocol):
    """What a module of the catalogue defines; its docstring's first line says what it shows.

    Attributes:
        PRESETS: a frozen dataclass ``Config`` for each of smoke, cpu, paper; they differ in size
            only. Every Config has ``seed: int``; one with ``data: Path | None`` reads images, and
            its module defines ``read_from``.
        PUBLISHED: the figure that it reproduces, e.g. "Fig. 2 of arXiv 2601.21683".
    """

    __doc__: str | None
    PRESETS: Mapping[str, Any]
    PUBLISHED: str

    def read_from(self, folder: Path) -> dict[str, str]:
        """The fingerprints of the data sets that a run reads from a folder, by name.

        Raises:
            DataError: what it reads is not there.
        """
        ...

    def run(self, config: Any, sweep: Sweep = ...) -> xr.Dataset:
        """Compute the result."""
        ...


def module_of(name: str) -> str:
    """Full name of the module of an experiment."""
    return f"{catalogue.__name__}.{name}"


def entry_of(name: str) -> str:
    """What computes the result of an experiment: its function ``run``."""
    return f"{module_of(name)}:run"


def load(name: str) -> Experiment:
    """Import one experiment.

    Raises:
        ResultError: unknown name.
    """
    known_name("experiment", name, NAMES)
    return cast(Experiment, import_module(module_of(name)))


def summary(experiment: Experiment) -> str:
    """What an experiment shows: the first line of its module's docstring."""
    return (experiment.__doc__ or "").strip().partition("\n")[0]


def configure(experiment: Experiment, preset: str, seed: int, data: Path | None) -> Any:
    """The Config of one run; ``data`` is passed to experiments that read images.

    Raises:
        ResultError: unknown preset.
    """
    config = experiment.PRESETS[known_name("preset", preset, experiment.PRESETS)]
    if any(field.name == "data" for field in fields(config)):
        return replace(config, seed=seed, data=data)
    return replace(config, seed=seed)


def check_device(device: str) -> None:
    """Whether a run can use a device.

    Raises:
        ResultError: a CUDA device, and there is none.
    """
    if device.startswith("cuda"):
        import torch

        if not torch.cuda.is_available():
            raise ResultError(
                f"needs the device {device!r}, and torch finds no GPU here: run it on a machine "
                "with one (and a torch built for CUDA), or take another preset."
            )


def describe(name: str, config: Any) -> dict[str, Any]:
    """The parameters of a Config as they are stored: data are named by what they hold.

    Raises:
        DataError: data that the experiment reads are not in the folder.
    """
    parameters = asdict(config)
    if "data" in parameters:
        folder = parameters["data"]
        parameters["data"] = EMBEDDED if folder is None else load(name).read_from(folder)
    return parameters


def data_label(provenance: Provenance) -> str:
    """A name for the data that a run reads from a folder, "" for a run that reads none."""
    read = json.loads(provenance.config).get("data", EMBEDDED)
    if read == EMBEDDED:
        return ""
    digits = hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:8]
    return "-".join([*sorted(read), digits])


def sizes(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Per preset, the parameters that differ between presets."""
    presets = {preset: asdict(config) for preset, config in experiment.PRESETS.items()}
    first, *others = presets.values()
    differ = [name for name in first if any(other[name] != first[name] for other in others)]
    return {preset: {name: values[name] for name in differ} for preset, values in presets.items()}


def provenance(name: str, preset: str, seed: int, config: Any) -> Provenance:
    """The provenance of a run that starts here and now.

    Raises:
        DataError: data that the experiment reads are not in the folder.
    """
    return Provenance.collect(name, preset, seed, describe(name, config), entry_of(name))


@dataclass(frozen=True)
class Plan:
    """A run that can start.

    Attributes:
        experiment: the module of the experiment.
        config: its parameters.
        provenance: what the run is, for its result and its parts.
        settings: its parameters that are not those of the preset.
    """

    experiment: Experiment
    config: Any
    provenance: Provenance
    settings: dict[str, Any]

    def address(self, folder: Path) -> Address:
        """Where the run keeps its result in a folder of results."""
        return address(self.provenance, self.settings, folder)


def address(run: Provenance, given: Mapping[str, Any], folder: Path) -> Address:
    """Where a run keeps its result in a folder of results.

    Args:
        run: what the run is.
        given: its parameters that are not those of the preset.
        folder: folder of the results.
    """
    labels = filter(None, [settings.label(given), data_label(run)])
    return Address(run.experiment, run.preset, run.seed, folder, "-".join(labels))


_NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})


def plan(
    name: str,
    preset: str,
    seed: int,
    data: Path | None,
    given: Mapping[str, Any] = _NO_SETTINGS,
) -> Plan:
    """The run of an experiment.

    Args:
        name: name of the experiment.
        preset: name of its size.
        seed: seed of the run.
        data: folder of data sets, for experiments that read images.
        given: parameters in place of those of the preset.

    Raises:
        ResultError: unknown experiment, preset or parameter, or a value of another kind.
        DataError: data that the experiment reads are not in the folder.
    """
    experiment = load(name)
    usual = configure(experiment, preset, seed, data)
    config = settings.changed(usual, [*experiment.PRESETS.values()], given)
    return Plan(
        experiment,
        config,
        provenance(name, preset, seed, config),
        settings.differences(usual, config),
    )
