"""Why the error of each feedback rule differs from the backpropagated one while it learns.

The difference is split into what missing masks do, what the feedback matrices do, and, where labels
are sent in place of errors, what the slopes do: along training, in every layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from experiments.runner import Sweep, grid
from experiments.training import FEEDBACK_RULES, Convergence, Setting, terms_along_training


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
        grammars: triples (v = n, m, L).
        multiple: size of the training set in units of P* = n m^L.
        rules: names in `FEEDBACK_RULES`.
        width: units per position.
        learning_rate: learning rate of Adam.
        times: numbers of steps before which the terms are recorded.
        cap: largest number of steps.
        repetitions: number of grammars and networks.
        seed: seeds the grammars, the splits and the networks.
    """

    grammars: tuple[tuple[int, int, int], ...] = ((4, 2, 3),)
    multiple: float = 8.0
    rules: tuple[str, ...] = (
        "backpropagation, masks removed",
        "direct feedback, true masks",
        "direct feedback alignment",
        "direct random target projection",
        "aligned direct feedback",
    )
    width: int = 32
    learning_rate: float = 3.16e-3
    times: tuple[int, ...] = (0, 10, 30, 100, 300, 1000)
    cap: int = 2000
    repetitions: int = 3
    seed: int = 0


PRESETS = {
    "smoke": Config(
        grammars=((4, 2, 2),), multiple=1.0, width=8, times=(0, 3), cap=5, repetitions=2
    ),
    "cpu": Config(),
    "workstation": Config(
        grammars=((4, 4, 3), (8, 4, 3)),
        rules=tuple(name for name in FEEDBACK_RULES if name != "backpropagation"),
        width=64,
        times=(0, 10, 30, 100, 300, 1000, 3000),
        cap=20_000,
        repetitions=8,
    ),
    "paper": Config(
        grammars=((4, 4, 3), (4, 4, 4), (8, 4, 4), (6, 6, 3)),
        multiple=16.0,
        rules=tuple(name for name in FEEDBACK_RULES if name != "backpropagation"),
        width=64,
        times=(0, 10, 30, 100, 300, 1000, 3000, 10_000),
        cap=100_000,
        repetitions=8,
    ),
}
PUBLISHED = "arXiv 2605.18557 (abstract only)"


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    """Train by every rule on every grammar and record the terms.

    Returns:
        See `experiments.training.terms_along_training`, over rule and grammar too; layers that a
        grammar has not are NaN, as are times after the end of a training.
    """
    grammars = {f"v={v} m={m} L={levels}": (v, m, levels) for v, m, levels in config.grammars}

    def measure(rule: str, grammar: str) -> xr.Dataset:
        setting = Setting(*grammars[grammar])
        found = terms_along_training(
            [setting.task(config.multiple, config.seed + k) for k in range(config.repetitions)],
            FEEDBACK_RULES[rule],
            width=config.width,
            learning_rate=config.learning_rate,
            times=config.times,
            until=Convergence(cap=config.cap),
        )
        deepest = max(each[2] for each in config.grammars)
        return found.reindex(layer=np.arange(1, deepest + 1))

    result = grid(sweep, measure, "masks", rule=config.rules, grammar=list(grammars))
    return result.assign_coords(num_symbols=("grammar", [v for v, _, _ in config.grammars]))
