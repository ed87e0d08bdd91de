"""Checks of arguments, with messages that say what was expected, what came and what to change."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def matrix(value: ArrayLike, name: str, layout: str) -> Array:
    """``value`` as a read-only, finite float64 matrix.

    Args:
        value: anything numpy turns into a two-dimensional array of real numbers.
        name: the name of the argument, for the message.
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
    all_finite(array, name)
    return frozen(array)


def all_finite(array: NDArray[np.generic], name: str) -> None:
    """Raise a ValueError that says where ``array`` first holds NaN or infinity."""
    bad = ~np.isfinite(array)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} has {int(bad.sum())} non-finite entries, the first at index {first}; "
            "remove or replace them first."
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


def real(value: Any, name: str) -> float:
    """``value`` if it is a real number; a bool is none.

    Raises:
        TypeError: otherwise.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {described(value)}.")
    return float(value)


def finite(value: Any, name: str) -> float:
    """``value`` if it is a finite real number.

    Raises:
        TypeError: no number.
        ValueError: NaN or infinite.
    """
    if not np.isfinite(real(value, name)):
        raise ValueError(f"{name} must be finite, got {value}.")
    return float(value)


def positive(value: Any, name: str) -> float:
    """``value`` if it is a positive finite number.

    Raises:
        TypeError: no number.
        ValueError: not positive, NaN or infinite.
    """
    real(value, name)
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}.")
    return float(value)


def whole(value: Any, name: str, least: int | None = None) -> int:
    """``value`` if it is a whole number of at least ``least``; a bool is none.

    Raises:
        TypeError: no whole number.
        ValueError: too small.
    """
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {described(value)}.")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")
    return int(value)


def numbers(value: ArrayLike, name: str) -> NDArray[np.float64]:
    """``value`` as a float64 array of any shape.

    Raises:
        TypeError: not real numbers; numpy would drop imaginary parts and read words.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}.")
    return array.astype(np.float64)


def rows(value: ArrayLike, name: str) -> NDArray[np.int64]:
    """``value`` as a new array of row numbers.

    Raises:
        TypeError: not whole numbers.
    """
    array = np.array(value)
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} must hold whole numbers, got dtype {array.dtype}.")
    return array.astype(np.int64, copy=False)


def instance(value: Any, kind: type | tuple[type, ...], name: str, hint: str) -> None:
    """Raise unless ``value`` is of a kind.

    Args:
        value: the argument.
        kind: the class it must be of, or several.
        name: the name of the argument, for the message.
        hint: what it must be and how to make one, for the message.

    Raises:
        TypeError: it is of no such class.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {hint}, got {described(value)}.")


def sequence(value: Any, name: str, of: str) -> None:
    """Raise a TypeError unless ``value`` can be iterated over and is not a string."""
    if not isinstance(value, Iterable) or isinstance(value, str | bytes):
        raise TypeError(f"{name} must be a sequence of {of}, got {described(value)}.")


def room(entries: int, what: str) -> None:
    """Refuse an array that can never fit, before its memory is allocated.

    Args:
        entries: how many float64 numbers it has.
        what: what they are, for the message.

    Raises:
        MemoryError: it is larger than the memory of this machine.
    """
    if not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 8 * entries > memory:
        raise MemoryError(
            f"{what} takes {_size(8 * entries)}, and this machine has {_size(memory)}: use smaller "
            "sizes."
        )


def described(value: Any) -> str:
    """The value in words, short enough for a message."""
    short = value is None or isinstance(value, str | int | float | complex | bool)
    return repr(value) if short and len(repr(value)) <= 40 else f"a {type(value).__name__}"


def _size(num_bytes: float) -> str:
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = min(int(math.log2(max(num_bytes, 1)) // 10), len(units) - 1)
    return f"{num_bytes / 1024**power:.1f} {units[power]}"
