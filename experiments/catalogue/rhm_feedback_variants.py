"""What unshared weights, SGD and batch normalisation change in the data that feedback rules need.

One grammar; each of the three is varied alone. The training is that of `rhm_feedback`.
"""

from __future__ import annotations

from dataclasses import dataclass

import xarray as xr

from experiments.runner import Sweep
from experiments.training import FEEDBACK_RULES, Effort, Setting, data_needed


@dataclass(frozen=True)
class Config(Effort):
    """What is measured; the rest of it is `Effort`.

    Attributes:
        grammar: v = n, m, L.
        variants: names in `variants_of`.
    """

    rules: tuple[str, ...] = (
        "backpropagation",
        "direct feedback alignment",
        "direct random target projection",
        "aligned direct feedback",
    )
    multiples: tuple[float, ...] = (1.0, 1.41, 2.0, 2.83, 4.0, 5.66, 8.0)
    width: int = 32
    learning_rates: tuple[float, ...] = (3.16e-3, 1e-2, 3.16e-2)
    extensions: int = 1
    searches: int = 1
    error: float = 0.1
    cap: int = 5000
    repetitions: int = 3
    seed: int = 0
    grammar: tuple[int, int, int] = (4, 2, 3)
    variants: tuple[str, ...] = ("unshared weights", "SGD", "batch normalisation")


PRESETS = {
    "smoke": Config(
        grammar=(4, 2, 2),
        multiples=(0.5, 0.71, 1.0),
        width=8,
        learning_rates=(1e-2,),
        extensions=0,
        cap=20,
        repetitions=2,
    ),
    "cpu": Config(multiples=(1.0, 1.41, 2.0, 2.83, 4.0)),
    "workstation": Config(
        grammar=(4, 4, 3),
        variants=("reference", "unshared weights", "SGD", "batch normalisation"),
        rules=tuple(FEEDBACK_RULES),
        multiples=(0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0, 5.66, 8.0, 11.3, 16.0),
        width=64,
        learning_rates=(1e-3, 3.16e-3, 1e-2, 3.16e-2),
        extensions=2,
        searches=2,
        cap=20_000,
        repetitions=8,
    ),
    "paper": Config(
        grammar=(8, 4, 4),
        variants=("reference", "unshared weights", "SGD", "batch normalisation"),
        rules=tuple(FEEDBACK_RULES),
        multiples=(0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0, 5.66, 8.0, 11.3, 16.0, 22.6, 32.0),
        width=64,
        learning_rates=(1e-3, 3.16e-3, 1e-2, 3.16e-2),
        extensions=3,
        searches=2,
        cap=100_000,
        repetitions=8,
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
    result = data_needed(config, settings, sweep)
    return result.assign_coords(variant=("setting", list(config.variants)))


def variants_of(grammar: tuple[int, int, int]) -> dict[str, Setting]:
    """The reference and what differs from it, by name."""
    return {
        "reference": Setting(*grammar),
        "unshared weights": Setting(*grammar, architecture="locally connected"),
        "SGD": Setting(*grammar, optimiser="sgd"),
        "batch normalisation": Setting(*grammar, normalise=True),
    }
