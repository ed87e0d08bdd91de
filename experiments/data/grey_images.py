"""What the data sets of grey images share, and views of grey images."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from experiments.data.contract import Array
from experiments.data.errors import DataError

_LUMA = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue in ITU-R BT.601


def luma(colours: Array, axis: int) -> Array:
    """Grey of red, green and blue, which lie along an axis."""
    grey: Array = np.tensordot(colours, _LUMA, (axis, 0))
    return grey


def drawn(images: NDArray[np.generic], count: int, name: str, rng: np.random.Generator) -> Array:
    """Some of the images, none twice.

    Raises:
        DataError: there are fewer.
    """
    if count > len(images):
        raise DataError(f"{name} has {len(images)} images, not {count}: ask for fewer.")
    return images[rng.choice(len(images), count, replace=False)].astype(np.float64)


def enlarged(images: Array, size: int, name: str) -> Array:
    """The images at another size, interpolated bilinearly.

    Raises:
        DataError: they are larger than that.
    """
    _, *shape = images.shape
    if size < max(shape):
        raise DataError(f"{name} has images of {max(shape)} pixels; {size} would lose some.")
    rows, columns = (_interpolation(old, size) for old in shape)
    larger: Array = np.einsum("yi,nij,xj->nyx", rows, images, columns, optimize=True)
    return larger


def augmented_views(images: Array, size: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Two views of each image: a random crop resized to ``size``, with a random block erased.

    After torchvision's RandomResizedCrop(size, scale=(0.15, 1)) and RandomErasing(scale=(0.04,
    0.16)), as in the released code of Wu et al. 2026 (arXiv 2601.21683), written anew:
    a crop covers a uniform 15 to 100 % of the area at a log-uniform ratio of width to height
    between 3/4 and 4/3, and is resized bilinearly without smoothing. In half of the views a block
    of 4 to 16 % of the area at a log-uniform ratio between 0.3 and 3.3 is set to 0, the mean of
    standardised images. A block that does not fit is clipped, where torchvision draws again.

    Args:
        images: (images, height, width).
        size: height and width of the views in pixels.
        rng: decides all.

    Returns:
        First and second views, each of shape (images, size, size).
    """
    views = np.empty((2, len(images), size, size))
    for first_or_second in views:
        for view, image in zip(first_or_second, images, strict=True):
            top, left, height, width = _block(image.shape, (0.15, 1.0), 4 / 3, rng)
            rows, columns = _interpolation(height, size), _interpolation(width, size)
            view[:] = rows @ image[top : top + height, left : left + width] @ columns.T
            if rng.random() < 0.5:
                top, left, height, width = _block(view.shape, (0.04, 0.16), 3.3, rng)
                view[top : top + height, left : left + width] = 0.0
    return views[0], views[1]


def _block(
    shape: tuple[int, ...], share: tuple[float, float], elongation: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random block inside an image of ``shape``."""
    area = rng.uniform(*share) * math.prod(shape)
    stretch = math.exp(rng.uniform(-math.log(elongation), math.log(elongation)) / 2)
    # At least one pixel, at most the image.
    height, width = (
        min(max(round(math.sqrt(area) * factor), 1), length)
        for factor, length in zip((1 / stretch, stretch), shape, strict=True)
    )
    top, left = (
        int(rng.integers(length - side + 1))
        for length, side in zip(shape, (height, width), strict=True)
    )
    return top, left, height, width


def _interpolation(old: int, new: int) -> Array:
    # Row p holds the hat functions at p's place between the old pixels; the corners stay in place.
    place = np.linspace(0, old - 1, new)
    return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(old)))
