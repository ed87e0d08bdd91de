"""The experiments that exist, and what each of their modules defines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import xarray as xr

from analysis.results import known_name
from experiments.sweep import Sweep

NAMES: tuple[str, ...] = (
    "linear_alignment",
    "narrowing",
    "linear_cnn",
    "remedies",
    "spectrum",
    "feedback_map",
    "exactness_in_training",
    "scaling",
    "trained_mlp",
    "trained_cnn",
    "local_rules",
    "rhm_covariances",
    "rhm_sample_complexity",
    "rhm_feedback",
    "rhm_local_ssl",
    "rhm_representations",
    "blockwise_ssl",
    "training_cost",
)


class Experiment(Protocol):
    """What a module ``experiments.NAME`` defines; its docstring's first line says what it shows.

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


def load(name: str) -> Experiment:
    """Import one experiment.

    Raises:
        ResultError: unknown name.
    """
    known_name("experiment", name, NAMES)
    return cast(Experiment, import_module(f"experiments.{name}"))


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
