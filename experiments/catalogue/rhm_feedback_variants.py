"""What unshared weights, SGD and batch normalisation change in the data that feedback rules need.

One grammar; each of the three is varied alone. The training is that of `rhm_feedback`.
"""

from __future__ import annotations

from dataclasses import dataclass

import xarray as xr

from experiments.runner import Sweep
from experiments.training import (
    DAYS,
    FEEDBACK_RULES,
    GRID,
    HOURS,
    SECONDS,
    Effort,
    Setting,
    data_needed,
)


@dataclass(frozen=True)
class Config(Effort):
    """What is measured; the rest of it is `Effort`.

    Attributes:
        rules: names in `FEEDBACK_RULES`.
        grammar: v = n, m, L.
        variants: names in `variants_of`.
    """

    rules: tuple[str, ...] = (
        "backpropagation",
        "direct feedback alignment",
        "direct random target projection",
        "aligned direct feedback",
    )
    grammar: tuple[int, int, int] = (4, 2, 3)
    variants: tuple[str, ...] = ("unshared weights", "SGD", "batch normalisation")


ALL = ("reference", "unshared weights", "SGD", "batch normalisation")
PRESETS = {
    "smoke": Config(**SECONDS, grammar=(4, 2, 2)),
    "cpu": Config(multiples=(1.0, 2.0, 4.0)),
    "workstation": Config(**HOURS, grammar=(4, 4, 3), variants=ALL, rules=tuple(FEEDBACK_RULES)),
    "paper": Config(
        **DAYS | {"multiples": (*GRID, 22.6, 32.0)},
        grammar=(8, 4, 4),
        variants=ALL,
        rules=tuple(FEEDBACK_RULES),
    ),
}
PUBLISHED = "arXiv 2605.18557 (abstract only)"


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train every rule in every variant with more and more data.

    Returns:
        See `experiments.training.data_needed`; settings are named by the coordinate ``variant``.
    """
    variants = variants_of(config.grammar)
    settings = [variants[name] for name in config.variants]
    result = data_needed(config, config.rules, settings, sweep)
    return result.assign_coords(variant=("setting", list(config.variants)))


def variants_of(grammar: tuple[int, int, int]) -> dict[str, Setting]:
    """The reference and what differs from it, by name."""
    return {
        "reference": Setting(*grammar),
        "unshared weights": Setting(*grammar, architecture="locally connected"),
        "SGD": Setting(*grammar, optimiser="sgd"),
        "batch normalisation": Setting(*grammar, normalise=True),
    }
