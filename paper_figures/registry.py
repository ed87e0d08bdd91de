"""The figures that exist, and what each of their modules defines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Protocol, cast

import xarray as xr
from matplotlib.figure import Figure

from analysis.results import known_name
from paper_figures.claims import Claim

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
    "local_rules_table",
    "alignment_accuracy",
    "cosines_in_training",
    "rhm_covariances",
    "rhm_sample_complexity",
    "rhm_feedback",
    "rhm_masks",
    "rhm_local_ssl",
    "rhm_representations",
    "blockwise_ssl",
    "training_cost",
    "blockwise_robustness",
)


class FigureModule(Protocol):
    """What a module ``paper_figures.NAME`` defines; its docstring's first line is its caption.

    Attributes:
        INPUTS: names of the experiments whose results it reads.
    """

    __doc__: str | None
    INPUTS: Sequence[str]

    def draw(self, datasets: Mapping[str, xr.Dataset]) -> Figure:
        """Draw the results, one dataset per name in INPUTS."""
        ...

    def claims(self, datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
        """Decide from the results what reproduces."""
        ...


def load(name: str) -> FigureModule:
    """Import one figure.

    Raises:
        ResultError: unknown name.
    """
    known_name("figure", name, NAMES)
    return cast(FigureModule, import_module(f"paper_figures.{name}"))


def caption(figure: FigureModule) -> str:
    """What a figure shows: the first line of its module's docstring."""
    return (figure.__doc__ or "").strip().partition("\n")[0]
