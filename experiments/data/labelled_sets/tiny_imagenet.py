"""Tiny ImageNet: 64x64 in 200 classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from experiments.data import augmentation
from experiments.data.archives import decode, home_of, text_of
from experiments.data.contract import ImageData, MakeViews
from experiments.data.errors import DataError
from experiments.data.pixels import Pixels

NAME, FOLDER = "tiny_imagenet", "tiny-imagenet-200"

_SIDE = 64


def files(folder: Path) -> list[Path]:
    """The list of classes, and the folders of images."""
    home = home_of(folder, FOLDER, ("wnids.txt", "train", "val/val_annotations.txt"))
    return [home / name for name in ("wnids.txt", "train", "val")]


def load(folder: Path | None, seed: int) -> ImageData:
    """Validation images serve as test images: the published test images have no labels."""
    assert folder is not None
    home = files(folder)[0].parent
    classes = tuple(text_of(home / "wnids.txt").split())
    number = {name: k for k, name in enumerate(classes)}
    if len(number) < len(classes) or not all(map(_is_name, classes)):
        raise DataError(
            f"{home}/wnids.txt should name each class once, by the name of its folder in {home}/"
            "train: fetch it again."
        )
    try:
        training_files = [
            (path, name)
            for name in classes
            for path in sorted((home / "train" / name / "images").glob("*.JPEG"))
        ]
    except OSError as error:  # a name too long, for example
        raise DataError(f"{home}/train cannot be read ({error}).") from error
    if empty := sorted({*classes} - {name for _, name in training_files}):
        raise DataError(f"{home}/train has no images (*.JPEG) of the class {empty[0]}.")
    test_files = []
    annotations = home / "val" / "val_annotations.txt"
    for row, line in enumerate(text_of(annotations).splitlines(), start=1):
        image, name, *_ = [*line.split("\t"), ""]
        if name not in number or not _is_name(image):
            raise DataError(
                f"{annotations}, line {row}: expected a file and a class of wnids.txt between "
                f"tabs, the file by its name in {home}/val/images, got {line[:200]!r}."
            )
        test_files.append((home / "val" / "images" / image, name))
    if not test_files:
        raise DataError(f"{annotations} is empty: fetch it again.")
    return ImageData(
        _decoded([path for path, _ in training_files]),
        np.array([number[name] for _, name in training_files]),
        _decoded([path for path, _ in test_files]),
        np.array([number[name] for _, name in test_files]),
        classes,
    )


def views(images: Tensor | Pixels, seed: int) -> MakeViews:
    """Seen through the augmentation of SimCLR as Wu et al. 2026 (arXiv 2601.21683) release it."""
    made = augmentation.simclr(images.shape[-1], images.shape[1], 1.0)
    return augmentation.views_of(images, made)


def _is_name(text: str) -> bool:
    """Whether it names something in a folder, and nothing elsewhere."""
    return text not in ("", ".", "..") and not {"/", "\\", "\0"} & {*text}


def _decoded(paths: Sequence[Path]) -> NDArray[np.uint8]:
    images = np.empty((len(paths), 3, _SIDE, _SIDE), dtype=np.uint8)
    for room, path in zip(images, paths, strict=True):
        pixels = np.asarray(decode(path))
        if pixels.shape != (_SIDE, _SIDE, 3):
            raise DataError(
                f"{path} should have {_SIDE}x{_SIDE} pixels, but has "
                f"{pixels.shape[1]}x{pixels.shape[0]}: is this Tiny ImageNet?"
            )
        room[:] = pixels.transpose(2, 0, 1)
    return images
