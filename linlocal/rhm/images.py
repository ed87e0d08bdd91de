"""Two dimensions: a tuple is a square block, a datum an image, a leaf a patch of pixels.

The i-th symbol of a tuple of b^2 stands in row i // b and column i % b of its block, at every
level, so the leaves fill a square of side b^L (the product of the b, if they differ).
"""

from __future__ import annotations

import colorsys
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linlocal.inputs import whole
from linlocal.rhm.encoding import checked_leaves
from linlocal.rhm.grammar import Grammar, Symbols
from linlocal.seeds import generator_for


def side(grammar: Grammar) -> int:
    """How many leaves an image is high and wide.

    Raises:
        ValueError: the patches of a level are not square.
    """
    return math.prod(_block_sides(grammar))


def grid(grammar: Grammar, leaves: ArrayLike) -> Symbols:
    """(data, side, side) the leaves where they are in the image; made of (data, d).

    Args:
        grammar: a grammar with patches of 1, 4, 9, ... places.
        leaves: (data, d).

    Raises:
        ValueError: the patches of a level are not square.
    """
    array = np.asarray(leaves)
    sides = _block_sides(grammar)[::-1]
    depth = len(sides)
    # (data, row L, column L, ..., row 1, column 1) -> (data, row L, ..., row 1, column L, ...)
    blocks = array.reshape(len(array), *(b for b in sides for _ in range(2)))
    order = [0, *range(1, 2 * depth + 1, 2), *range(2, 2 * depth + 1, 2)]
    return blocks.transpose(order).reshape(len(array), math.prod(sides), math.prod(sides))


def ungrid(grammar: Grammar, images: ArrayLike) -> Symbols:
    """(data, d) leaves in the order of the grammar; the inverse of `grid`.

    Args:
        grammar: a grammar with patches of 1, 4, 9, ... places.
        images: (data, side, side).

    Raises:
        ValueError: the patches of a level are not square.
    """
    array = np.asarray(images)
    place = grid(grammar, np.arange(grammar.num_leaves)[None])[0].ravel()
    leaves = np.empty((len(array), len(place)), dtype=array.dtype)
    leaves[:, place] = array.reshape(len(array), -1)
    return leaves


def colours(num_symbols: int) -> NDArray[np.float32]:
    """(v, 3, 1, 1) a colour for each symbol: hues evenly round the circle, one pixel.

    Args:
        num_symbols: v.
    """
    num_symbols = whole(num_symbols, "num_symbols", 1)
    hues = [colorsys.hsv_to_rgb(k / num_symbols, 0.8, 0.95) for k in range(num_symbols)]
    return np.array(hues, dtype=np.float32)[:, :, None, None]


def textures(
    num_symbols: int, patch_size: int = 4, channels: int = 1, *, seed: int = 0
) -> NDArray[np.float32]:
    """(v, channels, patch, patch) a random texture for each symbol, of pixel mean 0 and variance 1.

    Args:
        num_symbols: v.
        patch_size: side in pixels, at least 2 if there is one channel.
        channels: the number of channels of the image.
        seed: seeds the textures.

    Raises:
        ValueError: a single value has no variance.
    """
    num_symbols = whole(num_symbols, "num_symbols", 1)
    patch_size, channels = whole(patch_size, "patch_size", 1), whole(channels, "channels", 1)
    size = channels * patch_size**2
    if size < 2:
        raise ValueError(
            "A texture needs more than one value, got one pixel and one channel; use a larger "
            "patch."
        )
    values = generator_for("textures", seed).standard_normal((num_symbols, size))
    values -= values.mean(axis=1, keepdims=True)
    values /= values.std(axis=1, keepdims=True)
    return values.reshape(num_symbols, channels, patch_size, patch_size).astype(np.float32)


def render(
    grammar: Grammar, leaves: ArrayLike, patches: NDArray[np.floating[Any]]
) -> NDArray[np.floating[Any]]:
    """(data, channels, side * patch, side * patch) images; blanks are 0.

    Args:
        grammar: a grammar with patches of 1, 4, 9, ... places.
        leaves: (data, d).
        patches: (v, channels, patch, patch) what each symbol looks like: `colours`, `textures`.

    Raises:
        ValueError: the patches of a level are not square, or not one for each symbol, or leaves
            that are not (data, d) symbols of the grammar.
    """
    if patches.ndim != 4 or len(patches) != grammar.num_values(0):
        raise ValueError(
            f"patches must be ({grammar.num_values(0)}, channels, patch, patch), got shape "
            f"{patches.shape}."
        )
    looks = np.concatenate([patches, np.zeros_like(patches[:1])])  # found by BLANK = -1
    symbols = grid(grammar, checked_leaves(grammar, leaves))
    count, rows, columns = symbols.shape
    channels, height, width = patches.shape[1:]
    pixels = looks[symbols].transpose(0, 3, 1, 4, 2, 5)
    return pixels.reshape(count, channels, rows * height, columns * width)


def _block_sides(grammar: Grammar) -> list[int]:
    sides = [math.isqrt(size) for size in grammar.patch_sizes]
    if any(b * b != size for b, size in zip(sides, grammar.patch_sizes, strict=True)):
        raise ValueError(
            "An image needs square patches: tuple_size * (num_blanks + 1) = 4, 9, 16, ... at every "
            f"level, got {grammar.patch_sizes}."
        )
    return sides
