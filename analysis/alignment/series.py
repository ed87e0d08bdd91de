"""A growing series of measurements on disk: one small file per flush, joined by its reader.

Files are only added, each under a name of its own. So a reader sees whole files while others
write, several writers lose nothing, and a writer that is killed loses only what it had not flushed.
Each file also says how far the series went when it was added, so a writer reads the newest only.
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

# An attribute of each file.
_LAST_STEP = "last step of the series"


def append(folder: Path | str, piece: xr.Dataset, provenance: Provenance) -> Path:
    """Add a piece to the series.

    Args:
        folder: the folder of the series; made if needed.
        piece: the measurements, with the dimension ``step``, numbered by a coordinate.
        provenance: how the recording was made.

    Returns:
        The new file.

    Raises:
        ResultError: the folder holds the series of other blocks, parameters or rules; or the piece
            has no step, or cannot be stored as a result.
    """
    folder = Path(folder)
    if not piece.sizes.get("step") or "step" not in piece.coords:
        raise ResultError("a piece of a series needs steps, numbered by the coordinate 'step'.")
    while True:
        files = _files(folder)
        number, before = _newest(files)
        last = int(piece["step"].values.max())
        if before is not None:
            _refuse_other(folder, before, piece)
            last = max(last, _reached(files, before))
        path = folder / f"{number + 1:08d}.nc"
        labelled = piece.assign_attrs({_LAST_STEP: last})
        written = results.write(labelled, folder / f".{uuid4().hex}.nc", provenance)
        try:
            # A rename would replace what another writer has just put there.
            os.link(written, path)
            return path
        except FileExistsError:
            continue  # that writer's file is the newest now
        finally:
            written.unlink()


def read(folder: Path | str) -> xr.Dataset:
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
    pieces = _whole(_files(Path(folder)))
    if not pieces:
        raise ResultError(f"{folder} holds no recorded step yet.")
    for piece in pieces:
        piece.attrs.pop(_LAST_STEP, None)
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


def last_step(folder: Path | str) -> int | None:
    """The last recorded step, None for an empty series; only the newest whole file is read."""
    files = _files(Path(folder))
    _, newest = _newest(files)
    return None if newest is None else _reached(files, newest)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.nc") if file.stem.isdigit())


def _newest(files: list[Path]) -> tuple[int, xr.Dataset | None]:
    """The number of the newest file, and what the newest one that is whole holds."""
    number = int(files[-1].stem) if files else 0
    pieces = (_read_whole(file) for file in reversed(files))
    return number, next((piece for piece in pieces if piece is not None), None)


def _reached(files: list[Path], newest: xr.Dataset) -> int:
    """The last step of the series whose newest whole piece this is."""
    if _LAST_STEP in newest.attrs:
        return int(newest.attrs[_LAST_STEP])
    # Written before files said so.
    return max(int(piece["step"].values.max()) for piece in _whole(files))


def _whole(files: list[Path]) -> list[xr.Dataset]:
    return [piece for file in files if (piece := _read_whole(file)) is not None]


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
