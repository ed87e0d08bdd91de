"""Which of the results in a folder a figure is drawn from."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from linlocal.analysis.results import Address, ResultError

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
