"""Checkpoints that survive a kill at any moment."""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from linlocal import inputs
from linlocal.analysis import results

_NAME = re.compile(r"step-\d+\.pt")
# Under which a checkpoint holds what it says about itself.
_ABOUT = "about"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or none of a folder can be read."""


class Checkpoints:
    """The last few checkpoints of one run, in a folder of their own.

    A file gets its name only after all of it is on the disk, so a name never stands for half of a
    checkpoint. Files are those of ``torch.save``, read with ``weights_only=True``.

    Args:
        folder: the folder of the checkpoints; made if needed.
        keep: how many of the newest checkpoints to keep.
        about: what each of them says beside its state, such as the version of your code; `load`
            returns it under the key "about".

    Raises:
        ValueError: ``keep`` is below 1.
        TypeError: ``keep`` is not a whole number, ``folder`` is not a path, or ``about`` no dict.
    """

    def __init__(
        self, folder: str | Path, keep: int = 2, about: Mapping[str, Any] | None = None
    ) -> None:
        inputs.whole(keep, "keep", 1)
        inputs.instance(folder, (str, Path), "folder", "a path")
        inputs.instance(about, (Mapping, type(None)), "about", "a dict, or None")
        self.folder, self.keep, self.about = Path(folder), keep, about

    def paths(self) -> list[Path]:
        """The checkpoints, newest first."""
        found = (path for path in self.folder.glob("step-*.pt") if _NAME.fullmatch(path.name))
        return sorted((path for path in found if not path.is_dir()), reverse=True)

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write the state after a step.

        Args:
            step: the number of the step, which names the file.
            state: the state, made of tensors, numbers, texts, and lists, tuples and dicts of them.

        Raises:
            CheckpointError: the state holds something else, which could not be loaded again; or it
                cannot be written (no room, no permission, something in the way). The checkpoints
                before stay.
        """
        inputs.whole(step, "step", 0)
        inputs.instance(state, Mapping, "state", "a dict")
        path = self.folder / f"step-{step:012d}.pt"
        content = dict(state) if self.about is None else {**state, _ABOUT: dict(self.about)}
        try:
            with results.replacing(path) as file:
                _save(content, file)
                _read(Path(file.name))
            for old in self.paths()[self.keep :]:
                old.unlink(missing_ok=True)
        except OSError as error:
            raise CheckpointError(results.why_not_written(path, error)) from error
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


def _save(state: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(state, file)
    except RuntimeError as error:
        # Leaving because of an OSError, torch's writer complains of its position instead.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    file.flush()


def _refuse_bomb(archive: zipfile.ZipFile, size: int) -> None:
    """Raise for what ``torch.save`` does not write: entries that unpack to more than the file."""
    entries = archive.infolist()
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > size:
        raise zipfile.BadZipFile("its entries are compressed or overlap")


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"The checkpoint {path} is no file, or a link to nowhere.")
    try:
        with zipfile.ZipFile(path) as archive:  # torch itself does not look at the checksums
            _refuse_bomb(archive, path.stat().st_size)
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
