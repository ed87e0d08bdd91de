"""A folder of images by class, such as ImageNet: decoded one by one, when they are asked for."""

from __future__ import annotations

import warnings
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from experiments.data.archives import decode
from experiments.data.errors import DataError

_ENDINGS = {".jpeg", ".jpg", ".png"}


def centre(image: Any, size: int) -> Tensor:
    """The largest central square of a `PIL.Image`, uint8 (channels, size, size)."""
    shorter = min(image.size)
    left, top = ((side - shorter) / 2 for side in image.size)
    box = (left, top, left + shorter, top + shorter)
    resized = image.resize((size, size), resample=2, box=box, reducing_gap=3.0)
    return torch.from_numpy(np.array(resized).transpose(2, 0, 1).copy())


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """Images of ``folder/CLASS/FILE`` as (bytes (3, size, size), number of the class).

    The shorter side is resized to ``size``, and the middle of the longer one kept. In place of an
    image that cannot be read comes the next one that can, with a warning; `damaged` lists them.

    Args:
        folder: holds a folder for each class, for example ImageNet's ``train`` or ``val``.
        size: side of the images.
        classes: names of the class folders, numbered in this order; by default those found. For a
            test folder that may lack some, pass the classes of the training folder.

    Raises:
        DataError: no folder, no images, or a class folder that is not among ``classes``.
    """

    def __init__(self, folder: Path, size: int, classes: tuple[str, ...] | None = None) -> None:
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder}.")
        found = sorted(path.name for path in folder.iterdir() if path.is_dir())
        self.classes = tuple(found) if classes is None else classes
        if foreign := sorted({*found} - {*self.classes}):
            raise DataError(f"{folder} has a class {foreign[0]!r} that training does not have.")
        number = {name: k for k, name in enumerate(self.classes)}
        files = [
            (path, number[name])
            for name in found
            for path in sorted((folder / name).iterdir())
            if path.suffix.lower() in _ENDINGS
        ]
        if not files:
            raise DataError(
                f"No images in {folder}: expected a folder for each class with files "
                f"{', '.join('*' + ending for ending in sorted(_ENDINGS))}; it has {len(found)} "
                "folders. Name the folder that holds the class folders (train or val)."
            )
        self._paths = [path for path, _ in files]
        self.labels = np.array([label for _, label in files])
        self._size = size
        # Shared, because workers of a loader are processes of their own.
        self._damaged = torch.zeros(len(files), dtype=torch.bool)
        self._damaged.share_memory_()

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"Images are numbered 0..{len(self) - 1}, got {index}.")
        for place in (*range(index, len(self)), *range(index)):
            if not self._damaged[place] and (image := self._read(place)) is not None:
                return image, int(self.labels[place])
        raise DataError(f"None of the {len(self)} images can be read; {self._paths[0]} is one.")

    @property
    def damaged(self) -> list[Path]:
        """Files met so far that cannot be read."""
        return [path for path, bad in zip(self._paths, self._damaged.tolist(), strict=True) if bad]

    def at_size(self, size: int) -> ImageFolder:
        """The same images with sides of another length; damaged files are counted together."""
        twin = copy(self)
        twin._size = size
        return twin

    @property
    def skipped(self) -> int:
        """Number of damaged files met so far."""
        return int(self._damaged.sum())

    def _read(self, place: int) -> Tensor | None:
        try:
            image = decode(self._paths[place])
        except DataError as error:
            self._damaged[place] = True
            warnings.warn(f"skipped: {error}", stacklevel=3)
            return None
        return centre(image, self._size)
