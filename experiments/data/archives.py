"""What readers of unpacked archives share.

Nothing is fetched, and nothing is unpickled: a pickle runs whatever code is written in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.data.contract import LabelArray
from experiments.data.errors import DataError


def decode(path: Path) -> Any:
    """The image in a file as a `PIL.Image` in RGB.

    Raises:
        DataError: it is missing, damaged or no image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    # Pillow's decoders raise nearly anything at a damaged file.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{path} is no image that can be read ({error}): fetch it again."
        ) from error


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
