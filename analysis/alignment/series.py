"""A growing series of measurements on disk: one small file per flush, joined by its reader.

Files are only added, each under a name of its own. So a reader sees whole files while others
write, several writers lose nothing, and a writer that is killed loses only what it had not flushed.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import xarray as xr

from linlocal.analysis import results
from linlocal.analysis.results import Provenance, ResultError


def append(folder: Path, piece: xr.Dataset, provenance: Provenance) -> Path:
    """Add a piece to the series.

    Args:
        folder: the folder of the series; made if needed.
        piece: the measurements, with the dimension ``step``.
        provenance: how the recording was made.

    Returns:
        The new file.

    Raises:
        ResultError: the folder holds the series of other blocks, parameters or rules.
    """
    files = _files(folder)
    number = 1 + (int(files[-1].stem) if files else 0)
    for file in reversed(files):
        if (before := _read_whole(file)) is not None:
            _refuse_other(folder, before, piece)
            break
    written = results.write(piece, folder / f".{uuid4().hex}.nc", provenance)
    try:
        while True:
            path = folder / f"{number:08d}.nc"
            try:
                # A rename would replace what another writer has just put there.
                os.link(written, path)
                return path
            except FileExistsError:
                number += 1
    finally:
        written.unlink()


def read(folder: Path) -> xr.Dataset:
    """The whole series so far.

    If a step was recorded twice (the training went back to a checkpoint), the later one counts. A
    damaged file is left out with a warning.

    Args:
        folder: the folder of the series.

    Returns:
        The Dataset over ``step``, in increasing order.

    Raises:
        ResultError: nothing was recorded there.
    """
    pieces = [piece for file in _files(folder) if (piece := _read_whole(file)) is not None]
    if not pieces:
        raise ResultError(f"{folder} holds no recorded step yet.")
    joined = xr.concat(
        pieces,
        "step",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="exact",
        combine_attrs="override",
    )
    steps = joined["step"].values
    # Of equal steps we keep the last, which is the first in reversed order.
    _, latest = np.unique(steps[::-1], return_index=True)
    return joined.isel(step=len(steps) - 1 - latest)


def last_step(folder: Path) -> int | None:
    """The last recorded step, None for an empty series."""
    try:
        return int(read(folder)["step"].values[-1])
    except ResultError:
        return None


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.nc") if file.stem.isdigit())


def _read_whole(file: Path) -> xr.Dataset | None:
    try:
        return results.read(file)
    except ResultError as error:
        warnings.warn(f"left out of the series: {error}", stacklevel=3)
        return None


def _labels(dataset: xr.Dataset) -> dict[str, Any]:
    return {
        str(name): coordinate.values.tolist()
        for name, coordinate in dataset.coords.items()
        if name != "step"
    }


def _refuse_other(folder: Path, before: xr.Dataset, piece: xr.Dataset) -> None:
    old, new = _labels(before), _labels(piece)
    for name in sorted(old | new):
        if old.get(name) != new.get(name):
            raise ResultError(
                f"{folder} holds a series with {name} = {old.get(name)}, this one has "
                f"{new.get(name)}: record into another folder."
            )
