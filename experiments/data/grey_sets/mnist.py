"""MNIST's training images: 60,000 grey ones of 28x28, in files of the IDX format."""

from __future__ import annotations

import gzip
import math
import zlib
from difflib import get_close_matches
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from experiments.data.archives import require_file
from experiments.data.contract import Array
from experiments.data.errors import DataError
from experiments.data.grey_images import drawn, enlarged

NAME, FOLDER = "mnist", ""

# The largest data set of its kind, EMNIST, takes half of it.
_MOST_BYTES = 2**30
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
        DataError: the file is missing, damaged or something else, has no pixels or more than a
            gigabyte of them.
    """
    require_file(path, _MOST_BYTES)
    try:
        # By content, as a browser may have unpacked a file and kept its name.
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            return _read(path, file, dimensions)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch it again.") from error


def _read(path: Path, file: BinaryIO | gzip.GzipFile, dimensions: int) -> NDArray[np.uint8]:
    magic = bytes([0, 0, 8, dimensions])
    start = file.read(4)
    if start != magic:
        raise DataError(
            f"{path} is no IDX file of bytes in {dimensions} dimensions: expected it to start with "
            f"{magic.hex(' ')}, got {start.hex(' ') or 'nothing'}."
        )
    lengths = file.read(4 * dimensions)
    if len(lengths) < 4 * dimensions:
        raise DataError(
            f"{path} is cut off: expected a header of {4 + 4 * dimensions} bytes, got "
            f"{4 + len(lengths)}."
        )
    shape = tuple(int(n) for n in np.frombuffer(lengths, ">u4"))
    promised = math.prod(shape)
    announced = f"its header announces {' x '.join(map(str, shape))} = {promised} bytes"
    if not 0 < promised <= _MOST_BYTES:
        raise DataError(
            f"{path} is damaged: {announced}, expected 1 to {_MOST_BYTES}; fetch it again."
        )
    # One byte more than promised shows that there are more. Read in pieces, as a file that breaks
    # its promise may be short.
    content = bytearray()
    while len(content) <= promised:
        piece = file.read(min(promised + 1 - len(content), 2**24))
        if not piece:
            break
        content += piece
    if len(content) != promised:
        follow = f"{'at least ' if len(content) > promised else ''}{len(content)} follow"
        raise DataError(f"{path} is damaged: {announced}, {follow}; fetch it again.")
    return np.frombuffer(content, np.uint8).reshape(shape)
