"""Features of two views of every datum on disk, in chunks that are mapped into memory when read.

A chunk is a line of JSON that says what it holds, then the labels, the features, and a checksum of
all before. It is written under another name and moved, so a chunk that has its name is whole, and
writing goes on after a kill with those that lack. Reading executes nothing.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from linlocal.analysis import results
from linlocal.analysis.results import ResultError

_DTYPES = ("float16", "float32", "float64")
_DIGEST = hashlib.sha256().digest_size
_LONGEST = 4096  # bytes of the first line


class FeatureFiles(Dataset[tuple[Tensor, ...]]):
    """The rows (view 1, view 2) or (view 1, view 2, label) of a block's features.

    Args:
        folder: the folder of the chunks.
        key: what the features are of, in a word; chunks of another key are refused.
        rows: the number of data.
        chunk: the number of data in a chunk.
    """

    def __init__(self, folder: Path, key: str, rows: int, chunk: int) -> None:
        self.folder, self.key, self.rows, self.chunk = folder, key, rows, chunk
        self._open: dict[int, tuple[np.ndarray[Any, Any] | None, np.ndarray[Any, Any]]] = {}

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: int) -> tuple[Tensor, ...]:
        number, place = divmod(int(row), self.chunk)
        if number not in self._open:
            self._open[number] = self._mapped(number)
        labels, features = self._open[number]
        pair = torch.from_numpy(features[place].copy())
        return (*pair, *([] if labels is None else [torch.tensor(int(labels[place]))]))

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes, each of which opens the chunks itself."""
        return {**vars(self), "_open": {}}

    def missing(self) -> list[int]:
        """The numbers of the chunks that lack.

        Raises:
            ResultError: a chunk is of another key.
        """
        numbers = range(-(-self.rows // self.chunk))
        return [n for n in numbers if not self._path(n).exists() or self._header(n) is None]

    def write(self, number: int, features: Tensor, labels: Tensor | None) -> None:
        """Write a chunk.

        Args:
            number: its number, from 0.
            features: (samples, 2, ...).
            labels: (samples,), if there are any.

        Raises:
            ResultError: it cannot be written; what has its name is unchanged.
        """
        if features.dtype == torch.bfloat16:  # which numpy does not know
            features = features.float()
        array = features.detach().cpu().contiguous().numpy()
        said = {
            "key": self.key,
            "dtype": str(array.dtype),
            "shape": array.shape,
            "labelled": labels is not None,
        }
        body = json.dumps(said).encode() + b"\n"
        body += b"" if labels is None else labels.cpu().numpy().astype("<i8").tobytes()
        body += array.tobytes()
        path = self._path(number)
        try:
            with results.replacing(path) as file:
                file.write(body)
                file.write(hashlib.sha256(body).digest())
        except OSError as error:
            raise ResultError(results.why_not_written(path, error)) from error

    def remove(self) -> None:
        """Delete the chunks."""
        for path in self.folder.glob("*.features"):
            path.unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.features"

    def _header(self, number: int) -> tuple[int, dict[str, Any]]:
        """Where the first line ends, and what it says."""
        path = self._path(number)
        damaged = ResultError(f"{path} is damaged or no file of ours: delete it and start again.")
        if not path.is_file():
            raise damaged
        with path.open("rb") as file:
            line = file.readline(_LONGEST)
        try:
            said = json.loads(line)
            shape = [int(side) for side in said["shape"]]
            samples = min(self.chunk, self.rows - number * self.chunk)
            fits = said["dtype"] in _DTYPES and shape[:2] == [samples, 2] and min(shape) > 0
            size = int(np.prod(shape, dtype=object)) * np.dtype(said["dtype"]).itemsize
            size += 8 * samples * bool(said["labelled"]) + len(line) + _DIGEST
            other = said["key"] != self.key
        except (ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            raise damaged from error
        if other:
            raise ResultError(
                f"{self.folder} holds features of other weights, data or settings: take another "
                "folder, or delete it and start again."
            )
        if not fits or path.stat().st_size != size:
            raise damaged
        return len(line), said

    def _mapped(self, number: int) -> tuple[np.ndarray[Any, Any] | None, np.ndarray[Any, Any]]:
        start, said = self._header(number)
        path = self._path(number)
        content = np.memmap(path, np.uint8, "r")
        if hashlib.sha256(content[:-_DIGEST].data).digest() != bytes(content[-_DIGEST:]):
            raise ResultError(
                f"{path} is damaged (its checksum is wrong): delete it and start again."
            )
        end = start + (8 * said["shape"][0] if said["labelled"] else 0)
        labels = content[start:end].copy().view("<i8") if said["labelled"] else None
        features = content[end:-_DIGEST]
        # Views of bytes need no alignment of the file, but a copy of a row does.
        return labels, np.ndarray(said["shape"], said["dtype"], features)
