"""What readers of unpacked archives share.

Nothing is fetched, and nothing is unpickled: a pickle runs whatever code is written in it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from experiments.data.contract import LabelArray
from experiments.data.errors import DataError


def decode(path: Path | BinaryIO) -> Any:
    """The image in a file as a `PIL.Image` in RGB, 8 bits for each colour.

    Of 16 bits the upper 8 are kept. Transparency is left out: a transparent pixel has the colour
    stored in it. An animation is its first frame. Colour profiles and the orientation that a camera
    notes (EXIF) are ignored. torchvision's loader does all of this, but makes 16-bit grey white.

    Args:
        path: the file, or the open file.

    Raises:
        DataError: it is missing, damaged or no image; its numbers have no fixed range (32-bit
            integers, floats, LAB); or nothing but its transparency shows anything.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
            return _in_rgb(path, image)
    except DataError:
        raise
    # Pillow's decoders raise nearly anything at a damaged file.
    except (
        *(OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, OverflowError),
        *(MemoryError, struct.error, zlib.error, Image.DecompressionBombError),
    ) as error:
        raise DataError(
            f"{path} is no image that can be read ({error}): fetch it again."
        ) from error


def _in_rgb(path: Path | BinaryIO, image: Any) -> Any:
    from PIL import Image

    # Pillow reads 16-bit grey as "I;16", or as "I" from PGM files and in older versions from PNG.
    # It would clip all of them at 255.
    white_is_0 = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    if image.mode.startswith("I;16") and white_is_0:
        raise DataError(
            f"{path} is a TIFF of 16 bits in which 0 is white: store it with 0 for black."
        )
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode not in _MODES:
        raise DataError(
            f"{path} holds pixels of the kind {image.mode!r} ({image.format}), from which no fixed "
            "rule leads to colours between black and white: store it with 8 or 16 bits a colour."
        )
    if not image.has_transparency_data:
        return image.convert("RGB")
    shown = image.convert("RGBA")
    *colours, opacity = shown.getextrema()
    if opacity[0] < opacity[1] and all(low == high for low, high in colours):
        raise DataError(
            f"{path} has the same colour everywhere and shows something by its transparency only, "
            "which is left out: paste it onto a background."
        )
    return shown.convert("RGB")


_PHOTOMETRIC = 262  # the tag of a TIFF that says whether 0 is black or white
# What Pillow converts to RGB by a fixed rule.
_MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV")


def home_of(folder: Path, inner: str, expected: Sequence[str], hint: str = "") -> Path:
    """``folder`` or ``folder/inner``, whichever has the expected files."""
    for home in (folder, folder / inner):
        if all((home / name).exists() for name in expected):
            return home
    home = folder / inner if (folder / inner).is_dir() else folder
    missing = [name for name in expected if not (home / name).exists()]
    raise DataError(f"{home} lacks {', '.join(missing)}{hint or '; unpack the archive there.'}")


def items_of(path: Path, item: int, what: str) -> NDArray[np.uint8]:
    """(items, item) bytes of a file."""
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    if not content.size or content.size % item:
        raise DataError(
            f"{path} is damaged: expected a multiple of {item} bytes ({what}), got {content.size}; "
            "fetch it again."
        )
    return content.reshape(-1, item)


def checked_labels(path: Path, labels: NDArray[np.uint8], first: int) -> LabelArray:
    """Labels of ten classes, counted from 0; ``first`` is the first one in the file."""
    if labels.min() < first or labels.max() >= first + 10:
        raise DataError(
            f"{path} is damaged or of another format: its labels should be {first}..{first + 9}, "
            f"but are {labels.min()}..{labels.max()}."
        )
    return labels.astype(np.int64) - first
