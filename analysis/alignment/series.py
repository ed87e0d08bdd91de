"""A growing series of measurements on disk: one small file per flush, joined by its reader.

Files are only added, each under a name of its own. So a reader sees whole files while others
write, several writers lose nothing, and a writer that is killed loses only what it had not flushed.
Each file also says how far the series went when it was added, so a writer reads the newest only.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from linlocal.analysis import results
from linlocal.analysis.results import Provenance, ResultError

# An attribute of each file.
_LAST_STEP = "last step of the series"
# Characters of a long text that a message shows on both sides of a difference.
_AROUND = 60


def append(folder: Path | str, piece: xr.Dataset, provenance: Provenance) -> Path:
    """Add a piece to the series.

    Args:
        folder: the folder of the series; made if needed.
        piece: the measurements, with the dimension ``step``, numbered by a coordinate.
        provenance: how the recording was made.

    Returns:
        The new file.

    Raises:
        ResultError: the folder holds the series of other blocks or parameters, or one that was
            recorded in another way; or the piece has no step, or cannot be stored.
    """
    folder = Path(folder)
    if not piece.sizes.get("step") or "step" not in piece.coords:
        raise ResultError("a piece of a series needs steps, numbered by the coordinate 'step'.")
    while True:
        files = _files(folder)
        number, before = _newest(files)
        last = int(piece["step"].values.max())
        if before is not None:
            _refuse_other(folder, _recording(before.attrs), _recording(asdict(provenance)))
            _refuse_other(folder, _labels(before), _labels(piece))
            last = max(last, _reached(files, before))
        path = folder / f"{number + 1:08d}.nc"
        labelled = piece.assign_attrs({_LAST_STEP: last})
        written = results.write(labelled, results.temporary_in(folder), provenance)
        try:
            # A rename would replace what another writer has just put there.
            os.link(written, path)
            return path
        except FileExistsError:
            continue  # that writer's file is the newest now
        except OSError as error:
            raise ResultError(results.why_not_written(path, error)) from error
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
        ResultError: nothing was recorded there, or not all in the same way.
    """
    pieces = _whole(_files(Path(folder)))
    if not pieces:
        raise ResultError(f"{folder} holds no recorded step yet.")
    first = {**_recording(pieces[0].attrs), **_form(pieces[0])}
    for piece in pieces:
        if "step" not in piece.indexes:
            raise ResultError(f"{folder} holds a file without numbered steps: move it away.")
        # Older versions of this code let them through, and a file may come from anywhere.
        own = {**_recording(piece.attrs), **_form(piece)}
        _refuse_other(folder, first, own, "; move the files of one of both to")
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


def last_step(folder: Path | str, provenance: Provenance | None = None) -> int | None:
    """The last recorded step, None for an empty series; only the newest whole file is read.

    Args:
        folder: the folder of the series.
        provenance: how you will go on recording; None if you will not.

    Raises:
        ResultError: what is there was recorded in another way.
    """
    files = _files(Path(folder))
    _, newest = _newest(files)
    if newest is None:
        return None
    if provenance is not None:
        _refuse_other(Path(folder), _recording(newest.attrs), _recording(asdict(provenance)))
    return _reached(files, newest)


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(file for file in folder.glob("*.nc") if file.stem.isdecimal())
    except OSError as error:
        raise ResultError(f"{folder} cannot be read: {error.strerror}.") from error


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


def _recording(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Whatever changes what is recorded: the whole configuration, and of what it is one."""
    named = {name: results.of_run(attributes, name) for name in ("experiment", "preset", "seed")}
    config = results.of_run(attributes, "config")
    try:
        parameters = json.loads(config)
    except (TypeError, ValueError):
        parameters = None
    return {**named, **(parameters if isinstance(parameters, dict) else {"config": config})}


def _form(piece: xr.Dataset) -> dict[str, Any]:
    """What all pieces of a series have in common, but for the steps."""
    variables = {
        str(name): [(dim, size) for dim, size in variable.sizes.items() if dim != "step"]
        for name, variable in piece.variables.items()
    }
    return {**_labels(piece), "variables": dict(sorted(variables.items()))}


def _refuse_other(
    folder: Path | str,
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    advice: str = ": record into",
) -> None:
    for name in sorted({*old, *new}):
        before, now = (str(each.get(name, "(not told)")) for each in (old, new))
        if before != now:
            # Of long texts, what stands around their first difference.
            same = takewhile(lambda pair: pair[0] == pair[1], zip(before, now, strict=False))
            start = max(len(list(same)) - _AROUND, 0)
            before, now = (_cut(each, start) for each in (before, now))
            raise ResultError(
                f"{folder} holds a series with {name} = {before}, this one has {now}{advice} "
                "another folder."
            )


def _cut(text: str, start: int) -> str:
    if len(text) <= 4 * _AROUND:
        return text
    return f"{'...' * (start > 0)}{text[start : start + 2 * _AROUND]}..."
