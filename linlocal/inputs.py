"""Checks of arguments, with messages that say what was expected, what came and what to change.

A number may be one of Python, numpy or torch (a scalar, or an array or tensor without axes); the
checks return Python's own, which is what should be kept. A bool is no number, nor is a word.
"""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_INSIDE = ("linlocal", "torch", "contextlib", "tqdm")


def matrix(value: ArrayLike, name: str, layout: str) -> Array:
    """``value`` as a read-only, finite float64 matrix.

    Args:
        value: anything numpy turns into a two-dimensional array of real numbers.
        name: the name of the argument, for the message.
        layout: the expected layout, for the message, e.g. "(samples, features)".

    Raises:
        ValueError: not two-dimensional, empty, masked, or with non-finite entries.
        TypeError: not real numbers.
    """
    array = _real_array(value, name)
    if array.ndim != 2:
        raise ValueError(
            f"{name} must be a matrix {layout}, got shape {array.shape}"
            + ("; reshape a single sample to (1, -1)." if array.ndim == 1 else ".")
        )
    if array.size == 0:
        raise ValueError(f"{name} is empty: shape {array.shape} {layout}.")
    result = frozen(array)
    all_finite(result, name)  # of the copy: numbers wider than float64 may not fit
    return result


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
    with np.errstate(over="ignore"):  # of wider floats, which become infinite
        copy = np.array(array, dtype=np.float64)
    copy.setflags(write=False)
    return copy


def layer_number(layer: Any, depth: int, name: str = "layer") -> int:
    """``layer`` if it is one of 1..depth; ``name`` is that of the argument, for the message.

    Raises:
        TypeError: no whole number.
        ValueError: no such layer.
    """
    number = whole(layer, name)
    if not 1 <= number <= depth:
        raise ValueError(
            f"Layers are numbered 1..{depth} in this network, got layer {number}"
            + ("; the input is not a layer." if number == 0 else ".")
        )
    return number


def window(value: Any, depth: int) -> int:
    """``value`` if a window of that many layers fits into a network of ``depth``.

    Raises:
        TypeError: no whole number.
        ValueError: no layer, or more than there are.
    """
    number = whole(value, "window", 1)
    if number > depth:
        raise ValueError(
            f"window must be in 1..{depth} in this network, got {number}; 1 is local learning and "
            f"{depth} is backpropagation."
        )
    return number


def real(value: Any, name: str) -> float:
    """``value`` as a float, if it is a real number.

    Raises:
        TypeError: no number.
        ValueError: a whole number that no float reaches.
    """
    number = _scalar(value)
    if not isinstance(number, Real) or isinstance(number, bool):
        raise TypeError(f"{name} must be a number, got {described(value)}.")
    try:
        return float(number)
    except OverflowError:
        raise ValueError(f"{name} is beyond the largest float, got {described(value)}.") from None


def finite(value: Any, name: str) -> float:
    """``value`` as a float, if it is a finite real number.

    Raises:
        TypeError: no number.
        ValueError: NaN or infinite.
    """
    number = real(value, name)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}.")
    return number


def positive(value: Any, name: str) -> float:
    """``value`` as a float, if it is a positive finite number.

    Raises:
        TypeError: no number.
        ValueError: not positive, NaN or infinite.
    """
    number = real(value, name)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be positive and finite, got {number}.")
    return number


def not_negative(value: Any, name: str) -> float:
    """``value`` as a float, if it is a finite number of at least 0.

    Raises:
        TypeError: no number.
        ValueError: negative, NaN or infinite.
    """
    number = finite(value, name)
    if number < 0:
        raise ValueError(f"{name} must not be negative, got {number}.")
    return number


def share(value: Any, name: str) -> float:
    """``value`` as a float, if it is a probability or share in 0..1.

    Raises:
        TypeError: no number.
        ValueError: outside 0..1, or NaN.
    """
    number = real(value, name)
    if not 0 <= number <= 1:
        raise ValueError(f"{name} must be in 0..1, got {number}.")
    return number


def whole(value: Any, name: str, least: int | None = None) -> int:
    """``value`` as an int, if it is a whole number of at least ``least``; 2.0 is none.

    Raises:
        TypeError: no whole number.
        ValueError: too small.
    """
    number = _scalar(value)
    if not isinstance(number, Integral) or isinstance(number, bool):
        raise TypeError(f"{name} must be a whole number, got {described(value)}.")
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}.")
    return int(number)


def wholes(values: Any, name: str, least: int | None = None) -> tuple[int, ...]:
    """``values`` as a tuple of ints; any sequence, array or generator of at least one.

    Raises:
        TypeError: no sequence, or one of something else than whole numbers.
        ValueError: empty, or a number below ``least``.
    """
    entries = sequence(values, name, "whole numbers")
    found = tuple(whole(value, f"an entry of {name}", least) for value in entries)
    if not found:
        raise ValueError(f"{name} must hold at least one whole number, got none.")
    return found


def widths(values: Any) -> tuple[int, ...]:
    """Layer widths n_0..n_L as a tuple of positive integers, at least two of them.

    Raises:
        TypeError: no sequence of whole numbers.
        ValueError: fewer than two, or one that is not positive.
    """
    found = tuple(
        whole(width, "a width", 1) for width in sequence(values, "widths", "whole numbers")
    )
    if len(found) < 2:
        raise ValueError(
            f"A network needs an input width and at least one layer, got widths {list(found)}."
        )
    return found


def keep(record: Any, check: Callable[[Any, str], Any], *names: str) -> None:
    """Check fields of a frozen dataclass, and keep of each what the check returns.

    Args:
        record: the dataclass.
        check: one of the checks of this module, called with the value and the name of the field.
        names: the names of the fields.
    """
    for name in names:
        object.__setattr__(record, name, check(getattr(record, name), name))


def numbers(value: Any, name: str) -> NDArray[np.float64]:
    """``value`` as a float64 array of any shape.

    Raises:
        TypeError: not real numbers; numpy would drop imaginary parts and read words.
        ValueError: masked entries.
    """
    return _real_array(value, name).astype(np.float64)


def rows(value: Any, name: str) -> NDArray[np.int64]:
    """``value`` as a new array of row numbers.

    Raises:
        TypeError: not whole numbers.
        ValueError: masked entries.
    """
    array = np.asarray(plain(value, name))
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"{name} must hold whole numbers, got dtype {array.dtype}.")
    return array.astype(np.int64)


def _real_array(value: Any, name: str) -> NDArray[Any]:
    array = np.asarray(plain(value, name))
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}.")
    return array


def plain(value: Any, name: str) -> Any:
    """What numpy should read: torch tensors and generators too, and nothing that it would unmask.

    Raises:
        ValueError: a masked array whose mask hides an entry.
        TypeError: a tensor that numpy cannot read: without data, sparse, quantised or nested.
    """
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(
            f"{name}: some entries are masked and stand for no number; drop or fill them first."
        )
    if isinstance(value, Iterator):
        value = list(value)
    if isinstance(value, list | tuple):
        return [v if isinstance(v, int | float) else plain(v, name) for v in value]
    if hasattr(value, "detach"):
        return _read(value, name)
    return value


def _read(tensor: Any, name: str) -> NDArray[Any]:
    """A tensor of torch as an array, whether or not it requires a gradient."""
    try:
        here = tensor.detach().cpu()
        # numpy has no bfloat16 and no eight bits, and float64 holds all of their numbers.
        odd = str(here.dtype) not in ("torch.float16", "torch.float32", "torch.float64")
        return np.asarray(here.double() if odd and here.is_floating_point() else here)
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise TypeError(
            f"{name} is a tensor that numpy cannot read ({str(error).splitlines()[0]}); give a "
            "dense one with data, such as tensor.to_dense().double()."
        ) from None


def _scalar(value: Any) -> Any:
    """An array or tensor without axes as the number it holds; anything else as it is."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        return value  # it holds none, and its item would be what the mask hides
    return value.item() if getattr(value, "shape", None) == () else value


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


def flag(value: Any, name: str) -> bool:
    """``value`` as a bool, if it is one of Python's or numpy's; a word or a number is none.

    Raises:
        TypeError: otherwise.
    """
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {described(value)}.")
    return bool(value)


def is_one_of(value: Any, words: Iterable[str]) -> bool:
    """Whether ``value`` is one of these words; an array, which equals none and all, is not."""
    return isinstance(value, str) and value in words


def path(value: Any, name: str) -> Path:
    """``value`` as a path.

    Raises:
        TypeError: neither a string nor a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path or a string, got {described(value)}.")
    return Path(value)


def sequence(value: Any, name: str, of: str) -> tuple[Any, ...]:
    """``value`` as a tuple, if it is a sequence, an array or a generator.

    Raises:
        TypeError: it cannot be iterated over, it is a string (whose letters are no entries), or its
            entries have no order or are names (a set, a mapping, a table).
    """
    if (
        not is_several(value)
        or isinstance(value, set | frozenset | Mapping)
        or hasattr(value, "columns")
    ):
        hint = f"; write [{value!r}] for one" if isinstance(value, str) else ""
        raise TypeError(f"{name} must be a sequence of {of}, got {described(value)}{hint}.")
    return tuple(value)


def is_several(value: Any) -> bool:
    """Whether a value is many (a sequence, array, generator, set), and not one number or word."""
    one = isinstance(value, str | bytes) or getattr(value, "shape", None) == ()
    return isinstance(value, Iterable) and not one


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


def warn(message: str) -> None:
    """Warn at the innermost line outside this package and the libraries that call it."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def described(value: Any) -> str:
    """The value in words, short enough for a message."""
    value = _scalar(value)
    short = value is None or isinstance(value, str | int | float | complex | bool)
    return repr(value) if short and len(repr(value)) <= 40 else f"a {type(value).__name__}"


def brief(self: Any) -> str:
    """The ``__repr__`` of a dataclass with arrays in one line: arrays by shape and type."""
    shown = (f for f in fields(self) if f.repr and not f.name.startswith("_"))
    told = ", ".join(f"{f.name}={_brief(getattr(self, f.name))}" for f in shown)
    return f"{type(self).__name__}({told})"


def _brief(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"<{value.dtype} {value.shape}>"
    if isinstance(value, tuple):
        whole = f"({', '.join(map(_brief, value))}{',' if len(value) == 1 else ''})"
        return whole if len(whole) <= _LONGEST else f"<tuple of {len(value)}>"
    return repr(value)


_LONGEST = 160  # letters of a tuple in a repr


def _size(num_bytes: float) -> str:
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    power = min(int(math.log2(max(num_bytes, 1)) // 10), len(units) - 1)
    return f"{num_bytes / 1024**power:.1f} {units[power]}"
