"""Checks of arguments other than matrices: numbers, kinds and sizes; see `checks` for matrices."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


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
        value: what came.
        kind: a class, or several.
        name: what the caller calls it.
        hint: what it should be and how to make one, for the message.

    Raises:
        TypeError: it is not.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {hint}, got {described(value)}.")


def sequence(value: Any, name: str, of: str) -> None:
    """Raise a TypeError unless ``value`` can be iterated over and is no text."""
    if not isinstance(value, Iterable) or isinstance(value, str | bytes):
        raise TypeError(f"{name} must be a sequence of {of}, got {described(value)}.")


def room(entries: int, what: str) -> None:
    """Refuse what can never fit, before the memory for it is asked for.

    Args:
        entries: float64 numbers.
        what: they are, for the message.

    Raises:
        MemoryError: more than the memory of this machine.
    """
    if not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 8 * entries > memory:
        raise MemoryError(
            f"{what} takes {_size(8 * entries)}, this machine has {_size(memory)}: use smaller "
            "sizes."
        )


def described(value: Any) -> str:
    """What came, short enough for a message."""
    short = value is None or isinstance(value, str | int | float | complex | bool)
    return repr(value) if short and len(repr(value)) <= 40 else f"a {type(value).__name__}"


def _size(num_bytes: float) -> str:
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = min(int(math.log2(max(num_bytes, 1)) // 10), len(units) - 1)
    return f"{num_bytes / 1024**power:.1f} {units[power]}"
