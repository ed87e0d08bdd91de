"""MNIST's training images: 60,000 grey ones of 28x28, in files of the IDX format."""

from __future__ import annotations

import gzip
import math
import zlib
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.data.contract import Array
from experiments.data.errors import DataError
from experiments.data.grey_images import drawn, enlarged

NAME, FOLDER = "mnist", ""

_FILES = tuple(f"train-images{dot}idx3-ubyte{suffix}" for dot in "-." for suffix in ("", ".gz"))


def files(folder: Path) -> list[Path]:
    """The file of training images."""
    for name in _FILES:
        if (folder / name).is_file():
            return [folder / name]
    found = sorted(path.name for path in folder.iterdir())
    close = get_close_matches(_FILES[0], found, n=1, cutoff=0.3)
    there = (
        f"the closest file there is {close[0]!r}" if close else f"it has {len(found)} other entries"
    )
    raise DataError(f"no MNIST images in {folder}: expected {', '.join(_FILES)}; {there}.")


def grey(folder: Path | None, count: int, size: int, rng: np.random.Generator) -> Array:
    """Drawn without replacement and enlarged bilinearly."""
    assert folder is not None
    images = read_idx(files(folder)[0], dimensions=3)
    return enlarged(drawn(images, count, NAME, rng) / 255.0, size, NAME)


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
