"""A folder of images by class, such as ImageNet: decoded one by one, when they are asked for."""

from __future__ import annotations

import os
import warnings
from array import array
from collections.abc import Iterable, Iterator
from copy import copy
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from experiments.data.archives import decode
from experiments.data.errors import DataError

_ENDINGS = (".jpeg", ".jpg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif")
# A larger image is first reduced, by whole numbers, to this many times the side that is wanted.
_GAP = 3


def square(file: Path | BinaryIO, size: int) -> Tensor:
    """The largest central square of the image in a file, uint8 (3, size, size).

    Raises:
        DataError: it cannot be read, see `experiments.data.archives.decode`.
    """
    image = decode(file, least=_GAP * size)
    shorter = min(image.size)
    left, top = ((side - shorter) / 2 for side in image.size)
    box = (left, top, left + shorter, top + shorter)
    resized = image.resize((size, size), resample=2, box=box, reducing_gap=float(_GAP))
    return torch.from_numpy(np.array(resized).transpose(2, 0, 1).copy())


class ImageFolder(Dataset[tuple[Tensor, int]]):
    """Images of ``folder/CLASS/FILE`` as (bytes (3, size, size), number of the class).

    The shorter side is resized to ``size``, and the middle of the longer one kept. How colours,
    transparency and animations are read says `experiments.data.archives.decode`. In place of an
    image that cannot be read comes the next one that can, with a warning; `damaged` lists them.
    What is hidden (``.ipynb_checkpoints``, ``._a.jpg``) counts neither as a class nor as an image,
    and files of other endings than those of images are left out.

    Args:
        folder: holds a folder for each class, for example ImageNet's ``train`` or ``val``.
        size: side of the images.
        classes: names of the class folders, numbered in this order; by default those found. For a
            test folder that may lack some, pass the classes of the training folder.

    Raises:
        DataError: no folder, no images, a class folder without images or (with ``classes``) not
            among them, or images elsewhere than directly in a class folder.
    """

    def __init__(
        self, folder: Path | str, size: int, classes: tuple[str, ...] | None = None
    ) -> None:
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"There is no folder {folder}.")
        found, loose = _contents(folder)
        self.classes = tuple(found) if classes is None else tuple(classes)
        if foreign := sorted({*found} - {*self.classes}):
            raise DataError(f"{folder} has a class {foreign[0]!r} that training does not have.")
        number = {name: k for k, name in enumerate(self.classes)}
        counts: list[int] = []

        def names() -> Iterator[str]:
            for name in found:
                images = _images_of(folder / name, may_lack=classes is not None)
                counts.append(len(images))
                yield from images

        self._names = _Names(names())
        if not sum(counts):
            raise DataError(
                f"No images in {folder}: expected a folder for each class with files "
                f"{', '.join('*' + ending for ending in _ENDINGS)}; it has {len(found)} "
                "folders. Name the folder that holds the class folders (train or val)."
            )
        if images := [name for name in loose if _is_image(name)]:
            raise DataError(
                f"{folder} has {len(images)} images beside its class folders, {images[0]} for "
                "example, so nothing says their class: move each into the folder of its class."
            )
        self.labels = np.repeat([number[name] for name in found], counts)
        self._folder, self._size = folder, size
        # Shared, because workers of a loader are processes of their own.
        self._damaged = torch.zeros(len(self.labels), dtype=torch.bool)
        self._damaged.share_memory_()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"Images are numbered 0..{len(self) - 1}, got {index}.")
        for place in (*range(index, len(self)), *range(index)):
            if not self._damaged[place] and (image := self._read(place)) is not None:
                return image, int(self.labels[place])
        raise DataError(f"None of the {len(self)} images can be read; {self._path(0)} is one.")

    @property
    def damaged(self) -> list[Path]:
        """Files met so far that cannot be read."""
        return [self._path(place) for place in self._damaged.nonzero().flatten().tolist()]

    def at_size(self, size: int) -> ImageFolder:
        """The same images with sides of another length; damaged files are counted together."""
        twin = copy(self)
        twin._size = size
        return twin

    @property
    def skipped(self) -> int:
        """Number of damaged files met so far."""
        return int(self._damaged.sum())

    def _path(self, place: int) -> Path:
        return self._folder / self.classes[self.labels[place]] / self._names[place]

    def _read(self, place: int) -> Tensor | None:
        try:
            return square(self._path(place), self._size)
        except DataError as error:
            self._damaged[place] = True
            warnings.warn(f"skipped: {error}", stacklevel=3)
            return None


class _Names:
    """Many names of files in one array, which the workers of a loader share.

    A list of objects would be copied into each worker, as counting references writes to them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        content, ends = bytearray(), array("q", [0])
        for name in names:
            content += os.fsencode(name)
            ends.append(len(content))
        self._ends = torch.from_numpy(np.frombuffer(ends, dtype=np.int64).copy())
        self._bytes = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())

    def __getitem__(self, place: int) -> str:
        first, end = self._ends[place : place + 2].tolist()
        return os.fsdecode(self._bytes[first:end].numpy().tobytes())


def _contents(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the folders in a folder and of all else in it, sorted, without hidden ones.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            kinds = {each.name: each.is_dir() for each in entries if not each.name.startswith(".")}
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error}).") from error
    folders = sorted(name for name, is_folder in kinds.items() if is_folder)
    return folders, sorted(kinds.keys() - {*folders})


def _is_image(name: str) -> bool:
    return name.lower().endswith(_ENDINGS)


def _images_of(folder: Path, may_lack: bool) -> list[str]:
    """The names of the images of a class.

    Raises:
        DataError: there are none, unless they ``may_lack``, or there are some in an inner folder.
    """
    inner, files = _contents(folder)
    images = [name for name in files if _is_image(name)]
    for name in inner:
        deeper = [each for each in _contents(folder / name)[1] if _is_image(each)]
        if deeper:
            raise DataError(
                f"{folder} has images in its folder {name}: move them into {folder} itself, or "
                "name a folder that holds the class folders."
            )
    if not images and not (may_lack and not files):
        endings = sorted({Path(name).suffix for name in files}) or ["none"]
        raise DataError(
            f"The class folder {folder} has no image (endings of its files: {', '.join(endings)}; "
            f"of images: {', '.join(_ENDINGS)}). It would count as a class: delete it, or unpack "
            "its images again."
        )
    return images
