"""Checkpoints that survive a kill at any moment."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from linlocal import inputs


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or none of a folder can be read."""


class Checkpoints:
    """The last few checkpoints of one run, in a folder of their own.

    A file gets its name only after all of it is on the disk, so a name never stands for half of a
    checkpoint. Files are those of ``torch.save``, read with ``weights_only=True``.

    Args:
        folder: the folder of the checkpoints; made if needed.
        keep: how many of the newest checkpoints to keep.

    Raises:
        ValueError: ``keep`` is below 1.
        TypeError: ``keep`` is not a whole number, or ``folder`` is not a path.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        inputs.whole(keep, "keep", 1)
        inputs.instance(folder, (str, Path), "folder", "a path")
        self.folder, self.keep = Path(folder), keep

    def paths(self) -> list[Path]:
        """The checkpoints, newest first."""
        return sorted(self.folder.glob("step-*.pt"), reverse=True)

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write the state after a step.

        Args:
            step: the number of the step, which names the file.
            state: the state, made of tensors, numbers, texts, and lists, tuples and dicts of them.

        Raises:
            CheckpointError: the state holds something else, which could not be loaded again.
        """
        inputs.whole(step, "step", 0)
        inputs.instance(state, Mapping, "state", "a dict")
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step-{step:012d}.pt"
        half = path.with_suffix(".half")
        with half.open("wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        try:
            _read(half)
        except CheckpointError:
            half.unlink()
            raise
        half.replace(path)
        _sync(self.folder)
        for old in [*self.paths()[self.keep :], *self.folder.glob("*.half")]:
            old.unlink()
        return path

    def load(self) -> dict[str, Any] | None:
        """The newest readable state, on the CPU; None where there are no checkpoints.

        A damaged file is skipped with a warning that names it.

        Raises:
            CheckpointError: there are checkpoints, but none can be read.
        """
        failures = []
        for path in self.paths():
            try:
                state = _read(path)
            except CheckpointError as error:
                failures.append(str(error))
                continue
            for failure in failures:
                warnings.warn(f"{failure} Using {path.name} instead.", stacklevel=2)
            return state
        if failures:
            raise CheckpointError(
                f"{' '.join(failures)} No other is left: delete the folder to start again."
            )
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not look at the checksums
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:  # torch's own message advises loading it without this protection
        raise CheckpointError(
            f"The checkpoint {path} cannot be read: it is damaged, or holds objects other than "
            "tensors, numbers, texts and containers of them, which could run any code."
        ) from None
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise CheckpointError(
            f"The checkpoint {path} cannot be read ({error}); it is damaged, or holds objects "
            "other than tensors, numbers, texts and containers of them."
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"The checkpoint {path} holds {type(state).__name__}, not a dict.")
    return state


def _sync(folder: Path) -> None:
    if os.name == "posix":  # the new name, too, must reach the disk
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
