"""CIFAR-10, the binary version: 32x32 in 10 classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from experiments.data import augmentation
from experiments.data.archives import checked_labels, home_of, items_of
from experiments.data.contract import ImageData, MakeViews
from experiments.data.errors import DataError
from experiments.data.pixels import Pixels

NAME, FOLDER = "cifar10", "cifar-10-batches-bin"

_BATCHES = (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin")
_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def files(folder: Path) -> list[Path]:
    """The six batches."""
    hint = "; unpack the archive there."
    if any((home / "data_batch_1").exists() for home in (folder, folder / "cifar-10-batches-py")):
        hint = (
            ". The files there are the Python version: pickles, which are not read because they "
            "could run any code. Take the binary version, cifar-10-binary.tar.gz, from the same "
            "page and unpack it."
        )
    home = home_of(folder, FOLDER, _BATCHES, hint)
    return [home / name for name in _BATCHES]


def load(folder: Path | None, seed: int) -> ImageData:
    """With the split that it comes with."""
    assert folder is not None
    home = files(folder)[0].parent
    # Each record: the label, then rows of red, of green and of blue.
    batches = [items_of(home / name, 3073, 10_000, "a label and 32x32x3") for name in _BATCHES]
    if len({*map(len, batches)}) > 1:
        raise DataError(
            f"The batches in {home} should hold equally many images, but hold "
            f"{', '.join(str(len(batch)) for batch in batches)}: fetch the short ones again."
        )
    labels = [
        checked_labels(home / name, batch[:, 0], 0)
        for name, batch in zip(_BATCHES, batches, strict=True)
    ]
    images = [batch[:, 1:].reshape(-1, 3, 32, 32) for batch in batches]
    return ImageData(
        np.concatenate(images[:5]),
        np.concatenate(labels[:5]),
        images[5].copy(),
        labels[5],
        _CLASSES,
    )


def views(images: Tensor | Pixels, seed: int) -> MakeViews:
    """Seen through the augmentation of SimCLR as Wu et al. 2026 (arXiv 2601.21683) release it."""
    made = augmentation.simclr(images.shape[-1], images.shape[1], 1.0, smallest=0.25, blurred=True)
    return augmentation.views_of(images, made)
