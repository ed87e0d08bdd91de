"""The digits of scikit-learn, 1,797 images of 8x8, as grey images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.data.contract import Array
from experiments.data.grey_images import drawn, enlarged

NAME, FOLDER = "digits", None


def grey(folder: Path | None, count: int, size: int, rng: np.random.Generator) -> Array:
    """Drawn without replacement and enlarged bilinearly."""
    from sklearn.datasets import load_digits

    return enlarged(drawn(load_digits().images / 16.0, count, NAME, rng), size, NAME)
