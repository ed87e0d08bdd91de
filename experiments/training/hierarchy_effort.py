"""How much experiments on the number of data try, in the sizes of their presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Effort:
    """How much is tried; what experiments on the number of data have in common.

    Attributes:
        multiples: sizes of the training set in units of P* = n m^L, ascending; every second one is
            measured until a network has learned, then the one between.
        width: units per position.
        learning_rates: rates of Adam that are tried first; SGD takes ten times as much.
        extensions: how often the grid of learning rates may be extended.
        searches: number of grammars by which the learning rate is chosen.
        error: the test error, in units of that of guessing, at which a network has learned.
        cap: largest number of steps; a training that meets it is unfinished.
        repetitions: number of grammars and networks that are reported.
        seed: seeds the grammars, the splits, the networks and the search.
    """

    multiples: tuple[float, ...] = (1.0, 1.41, 2.0, 2.83, 4.0, 5.66, 8.0)
    width: int = 32
    learning_rates: tuple[float, ...] = (3.16e-3, 1e-2, 3.16e-2)
    extensions: int = 1
    searches: int = 1
    error: float = 0.1
    cap: int = 5000
    repetitions: int = 3
    seed: int = 0


GRID = (0.5, 0.71, 1.0, 1.41, 2.0, 2.83, 4.0, 5.66, 8.0, 11.3, 16.0)
# Fields of an `Effort` in the presets smoke, workstation and paper; its defaults are those of cpu.
SECONDS: dict[str, Any] = {
    "multiples": (0.5, 0.71, 1.0),
    "width": 8,
    "learning_rates": (1e-2,),
    "extensions": 0,
    "cap": 20,
    "repetitions": 2,
}
HOURS: dict[str, Any] = {
    "multiples": GRID,
    "width": 64,
    "learning_rates": (1e-3, 3.16e-3, 1e-2, 3.16e-2),
    "extensions": 2,
    "searches": 4,
    "cap": 20_000,
    "repetitions": 8,
}
DAYS: dict[str, Any] = HOURS | {"extensions": 3, "cap": 100_000}
