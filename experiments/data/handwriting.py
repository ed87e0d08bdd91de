"""Handwritten digits with labels: MNIST with its test set, or the small ones of scikit-learn.

Of MNIST all four files are read, where `grey_sets` reads its training images alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.data.contract import ImageData
from experiments.data.errors import DataError
from experiments.data.grey_sets import mnist
from experiments.data.identity import fingerprint
from experiments.data.labelled_sets import digits

_KINDS = {"images": 3, "labels": 1}


def handwritten(folder: Path | None, seed: int) -> ImageData:
    """The images and their labels, as bytes.

    Args:
        folder: the folder of MNIST's four files; None takes the digits of scikit-learn.
        seed: decides which of the small digits are test images.

    Raises:
        DataError: files are missing, damaged or do not belong together.
    """
    if folder is None:
        return digits.load(None, seed)
    train, train_labels, test, test_labels = (
        mnist.read_idx(path, _KINDS[kind])
        for (_, kind), path in zip(_PARTS, handwriting_files(folder), strict=True)
    )
    for part, images, labels in (("train", train, train_labels), ("t10k", test, test_labels)):
        if len(images) != len(labels) or labels.max() > 9:
            raise DataError(
                f"{folder} has {len(images)} images and {len(labels)} labels up to {labels.max()} "
                f"in its files {part}-*, expected one label 0..9 for each image: fetch them again."
            )
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{folder} has training images of {train.shape[1:]} and test images of "
            f"{test.shape[1:]} pixels: fetch them again."
        )
    return ImageData(
        train[:, None],
        train_labels.astype(np.int64),
        test[:, None],
        test_labels.astype(np.int64),
        tuple(str(k) for k in range(10)),
    )


_PARTS = [(part, kind) for part in ("train", "t10k") for kind in _KINDS]


def handwriting_files(folder: Path) -> list[Path]:
    """The files of training images, training labels, test images and test labels.

    Raises:
        DataError: one is missing.
    """
    found = []
    for part, kind in _PARTS:
        names = [
            f"{part}-{kind}{dot}idx{_KINDS[kind]}-ubyte{suffix}"
            for dot in "-."
            for suffix in ("", ".gz")
        ]
        there = [folder / name for name in names if (folder / name).is_file()]
        if not there:
            raise DataError(f"no MNIST {kind} in {folder}: expected one of {', '.join(names)}.")
        found.append(there[0])
    return found


def handwriting_identities(folder: Path) -> dict[str, str]:
    """The fingerprint of all four files of MNIST.

    Raises:
        DataError: one is missing or cannot be read.
    """
    return {"mnist": fingerprint(handwriting_files(folder))}
