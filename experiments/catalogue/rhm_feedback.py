"""How many times more data each feedback rule needs than backpropagation to learn a hierarchy.

Supervised training of hierarchical ReLU networks, each to its end, with training sets of growing
size: by backpropagation, with its downstream masks averaged over the batch or removed, by feedback
alignment, by direct feedback, and by direct feedback that is given the masks or the weights.
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
    multiples: tuple[float, ...] = (1.0, 1.41, 2.0, 2.83, 4.0, 5.66, 8.0)
    width: int = 32
    learning_rates: tuple[float, ...] = (3.16e-3, 1e-2, 3.16e-2)
    extensions: int = 1
    searches: int = 1
    error: float = 0.1
    cap: int = 5000
    repetitions: int = 3
    seed: int = 0
    grammars: tuple[tuple[int, int, int], ...] = ((4, 2, 3),)


RATES = (1e-3, 3.16e-3, 1e-2, 3.16e-2)
GRID = (0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0, 5.66, 8.0, 11.3, 16.0)
PRESETS = {
    "smoke": Config(
        grammars=((4, 2, 2),),
        rules=tuple(FEEDBACK_RULES),
        multiples=(0.5, 0.71, 1.0),
        width=8,
        learning_rates=(1e-2,),
        extensions=0,
        cap=20,
        repetitions=2,
    ),
    "cpu": Config(),
    "workstation": Config(
        grammars=((4, 4, 3), (4, 4, 2), (6, 6, 2)),
        rules=tuple(FEEDBACK_RULES),
        multiples=GRID,
        width=64,
        learning_rates=RATES,
        extensions=2,
        searches=2,
        cap=20_000,
        repetitions=8,
    ),
    "paper": Config(
        grammars=(
            *((4, 4, 3), (4, 4, 2), (4, 4, 4), (4, 4, 5), (6, 6, 2), (6, 6, 3), (6, 6, 4)),
            *((8, 8, 2), (8, 8, 3), (8, 2, 3), (8, 4, 3), (8, 4, 4), (8, 6, 4)),
        ),
        rules=tuple(FEEDBACK_RULES),
        multiples=(*GRID, 22.6, 32.0, 45.3, 64.0),
        width=64,
        learning_rates=RATES,
        extensions=3,
        searches=2,
        cap=100_000,
        repetitions=8,
    ),
}
PUBLISHED = "arXiv 2605.18557 (abstract only)"


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train every rule on every grammar with more and more data.

    Returns:
        See `experiments.training.data_needed`.
    """
    return data_needed(config, [Setting(*grammar) for grammar in config.grammars], sweep)
