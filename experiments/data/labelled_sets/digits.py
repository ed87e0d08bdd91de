"""The digits of scikit-learn: 1,797 grey images of 8x8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from experiments.data import augmentation
from experiments.data.contract import ImageData, MakeViews
from experiments.data.pixels import Pixels
from linlocal.analysis.probing import stratified_split

NAME, FOLDER = "digits", None


def load(folder: Path | None, seed: int) -> ImageData:
    """A fifth, drawn by the seed, is test data: the same share of each class."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    # 16 grey levels above 0 become bytes, as all other images.
    images = np.rint(digits.images[:, None] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int64)
    train, test = stratified_split(labels, 0.2, seed)
    names = tuple(str(k) for k in range(10))
    return ImageData(images[train], labels[train], images[test], labels[test], names)


def views(images: Tensor | Pixels, seed: int) -> MakeViews:
    """Seen through shifts by up to a pixel and noise."""
    return augmentation.views_of(images, augmentation.mild(images.shape[-1]))
