"""Grey images without a download: photographs and digits of scikit-learn, MNIST from a folder."""

from __future__ import annotations

import gzip
import math
import zlib
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
ImageSource = Literal["photographs", "digits", "mnist"]

_MNIST_NAMES = tuple(
    f"train-images{dot}idx3-ubyte{suffix}" for dot in "-." for suffix in ("", ".gz")
)
_LUMA = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue in ITU-R BT.601


class DataError(ValueError):
    """Images that do not exist, cannot be read or do not suffice; the message says what to do."""


def default_source(folder: Path | None) -> ImageSource:
    """MNIST if the user named a folder with it, else the photographs."""
    return "photographs" if folder is None else "mnist"


def load_images(
    source: ImageSource, count: int, size: int = 28, seed: int = 0, folder: Path | None = None
) -> Array:
    """Draw grey images, the same for the same arguments.

    Args:
        source: "photographs" (random crops of two photographs), "digits" (1,797 of 8x8) or "mnist"
            (60,000 of 28x28); the latter two are enlarged bilinearly and drawn without replacement.
        count: number of images.
        size: height and width in pixels.
        seed: of the draw.
        folder: where the MNIST files lie; for "mnist" only.

    Returns:
        Intensities in [0, 1], shape (count, size, size).

    Raises:
        DataError: unknown source, too many or too large or too small images, damaged or no files.
    """
    if count < 1:
        raise DataError(f"count must be at least 1, got {count}.")
    rng = np.random.default_rng(seed)
    if source == "photographs":
        return _crops(_photographs(), count, size, rng)
    if source == "digits":
        return _enlarge(_draw(_digits(), count, source, rng), size, source)
    if source == "mnist":
        if folder is None:
            raise DataError("mnist is read from a folder: name it, or take 'photographs'.")
        images = read_idx(_mnist_file(folder), dimensions=3)
        return _enlarge(_draw(images, count, source, rng) / 255.0, size, source)
    raise DataError(f"unknown source {source!r}; possible: {', '.join(get_args(ImageSource))}.")


def augmented_views(images: Array, size: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Two views of each image: a random crop resized to ``size``, with a random block erased.

    After torchvision's RandomResizedCrop(size, scale=(0.15, 1)) and RandomErasing(), written anew:
    a crop covers a uniform 15 to 100 % of the area at a log-uniform ratio of width to height
    between 3/4 and 4/3, and is resized bilinearly without smoothing. In half of the views a block
    of 2 to 33 % of the area at a log-uniform ratio between 0.3 and 3.3 is set to 0, the mean of
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
                top, left, height, width = _block(view.shape, (0.02, 0.33), 3.3, rng)
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


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read a file of unsigned bytes in the IDX format of MNIST, plain or compressed by gzip.

    Layout: two zero bytes, the type code 8, the number of dimensions, each length as a big-endian
    32-bit number, then the bytes in C order.

    Args:
        path: the file.
        dimensions: how many are expected: 3 for images, 1 for labels.

    Raises:
        DataError: the file is missing, damaged or something else.
    """
    try:
        content = path.read_bytes()
        # By content, as a browser may have unpacked a file and kept its name.
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch it again.") from error
    magic = bytes([0, 0, 8, dimensions])
    if content[:4] != magic:
        raise DataError(
            f"{path} is no IDX file of bytes in {dimensions} dimensions: expected it to start with "
            f"{magic.hex(' ')}, got {content[:4].hex(' ') or 'nothing'}."
        )
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise DataError(
            f"{path} is cut off: expected a header of {header} bytes, got {len(content)}."
        )
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", dimensions, offset=4))
    if len(content) - header != math.prod(shape):
        raise DataError(
            f"{path} is damaged: its header announces {' x '.join(map(str, shape))} = "
            f"{math.prod(shape)} bytes, {len(content) - header} follow; fetch it again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _mnist_file(folder: Path) -> Path:
    for name in _MNIST_NAMES:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    close = get_close_matches(_MNIST_NAMES[0], found, n=1, cutoff=0.3)
    there = (
        f"the closest file there is {close[0]!r}"
        if close
        else f"it has {len(found)} other entries"
        if folder.is_dir()
        else "there is no such folder"
    )
    raise DataError(f"no MNIST images in {folder}: expected {', '.join(_MNIST_NAMES)}; {there}.")


def _photographs() -> list[Array]:
    from sklearn.datasets import load_sample_images  # slow to import, and not always needed

    return [photograph @ _LUMA / 255.0 for photograph in load_sample_images().images]


def _digits() -> Array:
    from sklearn.datasets import load_digits

    images: Array = load_digits().images / 16.0
    return images


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


def _draw(images: NDArray[np.generic], count: int, source: str, rng: np.random.Generator) -> Array:
    if count > len(images):
        raise DataError(f"{source} has {len(images)} images, not {count}: ask for fewer.")
    return images[rng.choice(len(images), count, replace=False)].astype(np.float64)


def _enlarge(images: Array, size: int, source: str) -> Array:
    _, *shape = images.shape
    if size < max(shape):
        raise DataError(f"{source} has images of {max(shape)} pixels; {size} would lose some.")
    rows, columns = (_interpolation(old, size) for old in shape)
    enlarged: Array = np.einsum("yi,nij,xj->nyx", rows, images, columns, optimize=True)
    return enlarged


def _interpolation(old: int, new: int) -> Array:
    # Row p holds the hat functions at p's place between the old pixels; the corners stay in place.
    place = np.linspace(0, old - 1, new)
    return np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(old)))
