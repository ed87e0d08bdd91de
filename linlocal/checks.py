"""Checks of numerical input, with messages that say what to change."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def matrix(value: ArrayLike, name: str, layout: str) -> Array:
    """``value`` as a read-only, finite float64 matrix.

    Args:
        value: anything numpy turns into a two-dimensional array of real numbers.
        name: what the caller calls it, for the message.
        layout: the expected layout, for the message, e.g. "(samples, features)".

    Raises:
        ValueError: not two-dimensional, empty, or with non-finite entries.
        TypeError: not real numbers.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}.")
    if array.ndim != 2:
        raise ValueError(
            f"{name} must be a matrix {layout}, got shape {array.shape}"
            + ("; reshape a single sample to (1, -1)." if array.ndim == 1 else ".")
        )
    if array.size == 0:
        raise ValueError(f"{name} is empty: shape {array.shape} {layout}.")
    finite(array, name)
    return frozen(array)


def finite(array: NDArray[np.generic], name: str) -> None:
    """Raise a ValueError that says where ``array`` first holds NaN or infinity."""
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} has {int(bad.sum())} non-finite entries, the first at index {first}; "
            "remove or replace them before."
        )


def frozen(array: ArrayLike) -> Array:
    """A float64 copy that cannot be written to."""
    copy = np.array(array, dtype=np.float64)
    copy.setflags(write=False)
    return copy


def layer_number(layer: int, depth: int) -> int:
    """``layer`` if it is one of 1..depth.

    Raises:
        ValueError: otherwise.
    """
    if int(layer) != layer or not 1 <= layer <= depth:
        raise ValueError(
            f"Layers are numbered 1..{depth} in this network, got layer {layer}"
            + ("; the input is not a layer." if layer == 0 else ".")
        )
    return int(layer)


def widths(values: Sequence[int]) -> tuple[int, ...]:
    """Layer widths n_0..n_L as a tuple of positive integers, at least two of them.

    Raises:
        ValueError: fewer than two, or one that is not a positive whole number.
    """
    result = tuple(values)
    if len(result) < 2:
        raise ValueError(
            f"A network needs an input width and at least one layer, got widths {list(result)}."
        )
    if any(int(n) != n or n < 1 for n in result):
        raise ValueError(f"Widths must be positive whole numbers, got {list(result)}.")
    return tuple(int(n) for n in result)
