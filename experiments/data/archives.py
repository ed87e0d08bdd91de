"""What readers of unpacked archives share.

Nothing is fetched, and nothing is unpickled: a pickle runs whatever code is written in it. A file
is opened if it is a regular one (a pipe would wait for ever), and read if it is no longer than its
format allows.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from experiments.data.contract import LabelArray
from experiments.data.errors import DataError

# What Pillow may open a file as. Left to itself, it starts Ghostscript for PostScript of any name.
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
# 8192 x 8192, half a gigabyte while it is converted; all of ImageNet is below 5980 x 6430.
MOST_PIXELS = 2**26
# As long as a file of that many pixels can be, at 16 bits for each of four colours.
MOST_BYTES = 8 * MOST_PIXELS


def decode(path: Path | BinaryIO, least: int | None = None) -> Any:
    """The image in a file as a `PIL.Image` in RGB, 8 bits for each colour.

    By its content, whatever its name, the file is JPEG, PNG, PPM (or PGM, PBM), BMP, TIFF, WebP or
    GIF. Of 16 bits the upper 8 are kept. Transparency is left out: a transparent pixel has the
    colour stored in it. An animation is its first frame. Colour profiles and the orientation that a
    camera notes (EXIF) are ignored. torchvision's loader does all of this, but makes 16-bit grey
    white.

    Args:
        path: the file, or the open file.
        least: the number of pixels that each side has to keep. A JPEG is then decoded at a half, a
            fourth or an eighth of its size where that keeps them, which takes less time and memory;
            other formats are decoded whole. By default all are.

    Raises:
        DataError: it is missing, damaged or no image of these formats; it has no pixels or more
            than `MOST_PIXELS`; its numbers have no fixed range (32-bit integers, floats, LAB); or
            nothing but its transparency shows anything.
    """
    from PIL import Image

    if isinstance(path, Path):
        require_file(path, MOST_BYTES)
    try:
        with Image.open(path, formats=FORMATS) as image:
            _require_pixels(path, image.size)
            if least is not None:
                image.draft(None, (least, least))
            image.load()
            return _in_rgb(path, image)
    except DataError:
        raise
    # Pillow's decoders raise nearly anything at a damaged file.
    except (
        *(OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, OverflowError),
        *(MemoryError, struct.error, zlib.error),
        *(Image.DecompressionBombError, Image.DecompressionBombWarning),
    ) as error:
        raise DataError(
            f"{path} is no image that can be read ({error}): fetch it again. Formats that are "
            f"read: {', '.join(FORMATS)}."
        ) from error


def require_file(path: Path, most: int) -> int:
    """The length in bytes of a file that can be read safely.

    Args:
        path: the file.
        most: how many bytes it may have at most.

    Raises:
        DataError: it is missing, longer, or no regular file.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path} cannot be read: it is a folder, a pipe or a device, not a file.")
    if found.st_size > most:
        raise DataError(
            f"{path} has {found.st_size} bytes, expected at most {most}: it is damaged or of "
            "another format; fetch it again."
        )
    return found.st_size


def text_of(path: Path) -> str:
    """A short text.

    Raises:
        DataError: it is missing, no text in UTF-8, or longer than 16 megabytes.
    """
    require_file(path, 2**24)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): fetch it again.") from error


def _require_pixels(path: Path | BinaryIO, size: tuple[int, int]) -> None:
    width, height = size
    if not 0 < width * height <= MOST_PIXELS:
        raise DataError(
            f"{path} has {width} x {height} pixels, expected 1 to {MOST_PIXELS} in all: it is "
            "damaged, or has to be stored smaller."
        )


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


def items_of(path: Path, item: int, most: int, what: str) -> NDArray[np.uint8]:
    """(items, item) bytes of a file.

    Args:
        path: the file.
        item: bytes of an item.
        most: how many items it has at most.
        what: what an item is, for the message.

    Raises:
        DataError: it is missing, or holds more or no items or a part of one.
    """
    count = count_of(path, item, most, what)
    try:
        content = np.fromfile(path, dtype=np.uint8, count=count * item)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    if content.size != count * item:
        raise DataError(f"{path} became shorter while it was read: read it again.")
    return content.reshape(count, item)


def count_of(path: Path, item: int, most: int, what: str) -> int:
    """How many items a file has; arguments and errors as of `items_of`."""
    size = require_file(path, item * most)
    if not size or size % item:
        raise DataError(
            f"{path} is damaged: expected a multiple of {item} bytes ({what}), got {size}; "
            "fetch it again."
        )
    return size // item


def checked_labels(path: Path, labels: NDArray[np.uint8], first: int) -> LabelArray:
    """Labels of ten classes, counted from 0; ``first`` is the first one in the file."""
    if labels.min() < first or labels.max() >= first + 10:
        raise DataError(
            f"{path} is damaged or of another format: its labels should be {first}..{first + 9}, "
            f"but are {labels.min()}..{labels.max()}."
        )
    return labels.astype(np.int64) - first
