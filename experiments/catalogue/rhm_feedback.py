"""How many times more data each feedback rule needs than backpropagation to learn a hierarchy.

Supervised training of hierarchical ReLU networks, each to its end, with training sets of growing
size: by backpropagation, with its downstream masks averaged over the batch or removed, by feedback
alignment, by direct feedback, and by direct feedback that is given the masks or the weights.
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
        grammars: triples (v = n, m, L).
    """

    rules: tuple[str, ...] = (
        "backpropagation",
        "backpropagation, masks removed",
        "feedback alignment",
        "direct feedback alignment",
        "direct random target projection",
        "aligned direct feedback",
    )
    grammars: tuple[tuple[int, int, int], ...] = ((4, 2, 3),)


PRESETS = {
    "smoke": Config(**SECONDS, grammars=((4, 2, 2),), rules=tuple(FEEDBACK_RULES)),
    "cpu": Config(),
    "workstation": Config(
        **HOURS, grammars=((4, 4, 3), (4, 4, 2), (6, 6, 2)), rules=tuple(FEEDBACK_RULES)
    ),
    "paper": Config(
        **DAYS | {"multiples": (*GRID, 22.6, 32.0, 45.3, 64.0)},
        grammars=(
            *((4, 4, 3), (4, 4, 2), (4, 4, 4), (4, 4, 5), (6, 6, 2), (6, 6, 3), (6, 6, 4)),
            *((8, 8, 2), (8, 8, 3), (8, 2, 3), (8, 4, 3), (8, 4, 4), (8, 6, 4)),
        ),
        rules=tuple(FEEDBACK_RULES),
    ),
}
PUBLISHED = "arXiv 2605.18557 (abstract only)"


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train every rule on every grammar with more and more data.

    Returns:
        See `experiments.training.data_needed`.
    """
    settings = [Setting(*grammar) for grammar in config.grammars]
    return data_needed(config, config.rules, settings, sweep)
