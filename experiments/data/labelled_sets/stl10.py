"""STL-10, the binary version: 96x96 in 10 classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from experiments.data import augmentation
from experiments.data.archives import checked_labels, count_of, home_of, items_of
from experiments.data.contract import ImageData, MakeViews
from experiments.data.errors import DataError
from experiments.data.pixels import Pixels

NAME, FOLDER = "stl10", "stl10_binary"

_IMAGE = 3 * 96**2  # bytes
_CLASSES = (
    *("airplane", "bird", "car", "cat", "deer"),
    *("dog", "horse", "monkey", "ship", "truck"),
)


_FILES = ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin")


def files(folder: Path) -> list[Path]:
    """Those of images with labels: no experiment reads the others."""
    home = home_of(folder, FOLDER, _FILES)
    return [home / name for name in _FILES]


def load(folder: Path | None, seed: int) -> ImageData:
    """With the split that it comes with, and the images without labels."""
    assert folder is not None
    home = files(folder)[0].parent
    parts: list[Any] = []
    for part, most in (("train", 5000), ("test", 8000)):
        images = items_of(home / f"{part}_X.bin", _IMAGE, most, "96x96x3")
        labels = items_of(home / f"{part}_y.bin", 1, most, "one label")[:, 0]
        if len(images) != len(labels):
            raise DataError(
                f"{home} has {len(images)} images but {len(labels)} labels in the {part} files: "
                "fetch them again."
            )
        parts += [
            np.ascontiguousarray(_upright(images)),
            checked_labels(home / f"{part}_y.bin", labels, 1),
        ]
    more = home / "unlabeled_X.bin"
    if not more.exists():
        return ImageData(parts[0], parts[1], parts[2], parts[3], _CLASSES)
    count = count_of(more, _IMAGE, 100_000, "96x96x3")
    # 2.7 GB: mapped, and read where it is used.
    try:
        mapped = np.memmap(more, dtype=np.uint8, mode="r", shape=(count, _IMAGE))
    except OSError as error:
        raise DataError(f"{more} cannot be read ({error}).") from error
    return ImageData(parts[0], parts[1], parts[2], parts[3], _CLASSES, _upright(mapped))


def _upright(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # In the file each channel is stored column by column.
    return images.reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)


def views(images: Tensor | Pixels, seed: int) -> MakeViews:
    """Seen through the augmentation of SimCLR as Wu et al. 2026 (arXiv 2601.21683) release it."""
    made = augmentation.simclr(images.shape[-1], images.shape[1], 1.0)
    return augmentation.views_of(images, made)
