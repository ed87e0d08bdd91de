"""Random crops of the two photographs of scikit-learn, in grey."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.data.contract import Array
from experiments.data.errors import DataError
from experiments.data.grey_images import luma

NAME, FOLDER = "photographs", None


def grey(folder: Path | None, count: int, size: int, rng: np.random.Generator) -> Array:
    """Crops at random places, which may overlap."""
    return _crops(_photographs(), count, size, rng)


def _photographs() -> list[Array]:
    from sklearn.datasets import load_sample_images  # slow to import, and not always needed

    return [luma(photograph, axis=2) / 255.0 for photograph in load_sample_images().images]


def _crops(photographs: list[Array], count: int, size: int, rng: np.random.Generator) -> Array:
    largest = min(min(photograph.shape) for photograph in photographs)
    if not 1 <= size <= largest:
        raise DataError(f"crops of the photographs are 1 to {largest} pixels wide, not {size}.")
    crops = np.empty((count, size, size))
    for crop in crops:
        photograph = photographs[rng.integers(len(photographs))]
        top, left = (rng.integers(length - size + 1) for length in photograph.shape)
        crop[:] = photograph[top : top + size, left : left + size]
    return crops
