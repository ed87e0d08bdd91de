"""Squares of some numbers.

The smallest experiment: it counts its evaluations and can be interrupted.
"""

from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from experiments.data.identity import fingerprint
from experiments.runner import Sweep


@dataclass(frozen=True)
class Config:
    points: int = 5
    offset: float = 0.5
    seed: int = 0
    data: Path | None = None


PRESETS = {"smoke": Config(points=3), "cpu": Config(), "paper": Config(points=50)}
PUBLISHED = "Fig. 0 of nowhere"


def read_from(folder: Path) -> dict[str, str]:
    return {"numbers": fingerprint([folder / "numbers.txt"])}


evaluated: list[int] = []
interrupt_at: int | None = None


def run(config: Config, sweep: Sweep = Sweep()) -> xr.Dataset:
    def square(number: int) -> xr.Dataset:
        if number == interrupt_at:
            raise KeyboardInterrupt
        evaluated.append(number)
        return xr.Dataset({"square": number**2 + config.offset + config.seed})

    squares = sweep(square, [{"number": n} for n in range(config.points)], "squares")
    return xr.concat(squares, "number").assign_coords(number=range(config.points))
