"""Which of the results in a folder a figure is drawn from."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path

from linlocal.analysis.results import PRESETS, Address, ResultError

# What stands for a result of data that need no folder.
EMBEDDED = "embedded"


def address(
    experiment: str, preset: str, seed: int, folder: Path, data: Collection[str] = ()
) -> Address:
    """Where the result of an experiment lies, whatever data it was computed from.

    Args:
        experiment: name of the experiment.
        preset: size of the run.
        seed: seed of the run.
        folder: folder of the results.
        data: names of data, as the names of result files end, or ``EMBEDDED``; they choose where
            there are several results.

    Raises:
        ResultError: several results, and ``data`` names none or several of them.
    """
    plain = Address(experiment, preset, seed, folder)
    prefix = f"{plain.path.stem}-"
    found = {EMBEDDED: plain} if plain.path.exists() else {}
    for path in sorted(folder.glob(f"{prefix}*.nc")):
        label = path.stem.removeprefix(prefix)
        found[label] = Address(experiment, preset, seed, folder, label)
    wanted = {label: each for label, each in found.items() if label in data}
    among = wanted or found
    if len(among) > 1:
        raise ResultError(
            f"{folder} has results of {experiment} from several data, {', '.join(among)}: choose "
            "one by --data."
        )
    return next(iter(among.values()), plain)


def strongest(
    experiment: str, folder: Path, usable: Callable[[Address], bool] = lambda address: True
) -> list[Address]:
    """The results of an experiment that decide, the strongest first.

    Data from a folder go before those that stand in for them, then a larger preset before a smaller
    one; a smoke run never goes before anything else. Of each data the strongest counts, of data
    that stand in only where there are no others.

    Args:
        experiment: name of the experiment.
        folder: folder of the results.
        usable: whether a result can be read; one that cannot leaves its place to the next.
    """
    pattern = rf"{re.escape(experiment)}-({'|'.join(PRESETS)})-seed(\d+)(?:-(.+))?"
    found = [
        Address(experiment, match[1], int(match[2]), folder, match[3] or "")
        for path in sorted(folder.glob("*.nc"))
        if (match := re.fullmatch(pattern, path.stem))
    ]

    def strength(address: Address) -> tuple[bool, bool, int, int]:
        size = PRESETS.index(address.preset)
        return size > 0, bool(address.data), size, -address.seed

    chosen: list[Address] = []
    for address in sorted(found, key=strength, reverse=True):
        weaker = address.data in {each.data for each in chosen}
        weaker |= bool(chosen) and (not address.data or address.preset == PRESETS[0])
        if not weaker and usable(address):
            chosen.append(address)
    return chosen
