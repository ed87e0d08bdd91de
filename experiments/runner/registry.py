"""The experiments that exist: the modules of `experiments.catalogue`, and what each defines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Protocol, cast

import xarray as xr

from experiments import catalogue
from experiments.runner.sweep import Sweep
from linlocal.analysis.results import Provenance, known_name

NAMES: tuple[str, ...] = tuple(sorted(module.name for module in iter_modules(catalogue.__path__)))


class Experiment(Protocol):
    """What a module of the catalogue defines; its docstring's first line says what it shows.

    Attributes:
        PRESETS: a frozen dataclass ``Config`` for each of smoke, cpu, paper; they differ in size
            only. Every Config has ``seed: int``; one with ``data: Path | None`` reads images.
        PUBLISHED: the figure that it reproduces, e.g. "Fig. 2 of arXiv 2601.21683".
    """

    __doc__: str | None
    PRESETS: Mapping[str, Any]
    PUBLISHED: str

    def run(self, config: Any, sweep: Sweep = ...) -> xr.Dataset:
        """Compute the result."""
        ...


def module_of(name: str) -> str:
    """Full name of the module of an experiment."""
    return f"{catalogue.__name__}.{name}"


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


def describe(config: Any) -> dict[str, Any]:
    """The parameters of a Config as they are stored: a folder of images becomes a word."""
    parameters = asdict(config)
    if "data" in parameters:
        parameters["data"] = "embedded" if parameters["data"] is None else "from a folder"
    return parameters


def sizes(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Per preset, the parameters that differ between presets."""
    presets = {preset: asdict(config) for preset, config in experiment.PRESETS.items()}
    first, *others = presets.values()
    differ = [name for name in first if any(other[name] != first[name] for other in others)]
    return {preset: {name: values[name] for name in differ} for preset, values in presets.items()}


def provenance(name: str, preset: str, seed: int, config: Any) -> Provenance:
    """The provenance of a run that starts here and now."""
    return Provenance.collect(name, preset, seed, describe(config), module_of(name))
