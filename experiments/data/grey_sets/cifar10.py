"""CIFAR-10's training images, natural ones of 32x32, in grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.data.contract import Array
from experiments.data.grey_images import drawn, enlarged, luma
from experiments.data.labelled_sets import cifar10

NAME, FOLDER, files = cifar10.NAME, cifar10.FOLDER, cifar10.files


def grey(folder: Path | None, count: int, size: int, rng: np.random.Generator) -> Array:
    """Drawn without replacement and enlarged bilinearly."""
    colours = drawn(cifar10.load(folder, 0).train, count, NAME, rng) / 255.0
    return enlarged(luma(colours, axis=1), size, NAME)
