"""Attributes as JSON and back, exactly; what would come back as something else is refused.

Text, numbers, booleans and None stand for themselves, and a JSON object for a dict. A JSON array
says first what it is: ``["list", items]``, ``["tuple", items]``, ``["array", type, values]`` or
``["scalar", type, value]``, both of numpy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from linlocal.analysis.results.provenance import ResultError

# Kinds of numpy arrays whose values are plain numbers, booleans or text.
_PLAIN = "biufU"
_LARGEST = 10**4000  # Python writes no longer numbers as text


def encoded(value: Any, place: str) -> Any:
    """A value that JSON can express.

    Args:
        value: the attribute.
        place: where it stands, for the message.

    Raises:
        ResultError: it would not come back as it is.
    """
    try:
        return _encoded(value, place)
    except RecursionError:
        raise ResultError(f"{place} contains itself, or is nested too deeply.") from None


def decoded(value: Any) -> Any:
    """What `encoded` was given.

    Raises:
        ValueError, TypeError: it gave something else.
    """
    if isinstance(value, dict):
        return {key: decoded(each) for key, each in value.items()}
    if not isinstance(value, list):
        return value
    kind, *content = value
    if kind == "list":
        return [decoded(each) for each in content[0]]
    if kind == "tuple":
        return tuple(decoded(each) for each in content[0])
    dtype, values, shape = _array(value)
    array = np.array(values, dtype=dtype)
    return array.reshape(shape) if kind == "array" else array[()]


def size_of(value: Any) -> int:
    """Bytes that the arrays in what `encoded` gave take once they are decoded.

    Raises:
        ValueError, TypeError: it gave something else.
    """
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if not isinstance(value, list):
        return 0
    kind, *content = value
    if kind in ("list", "tuple"):
        return sum(map(size_of, content[0]))
    dtype, _, shape = _array(value)
    return math.prod(shape) * dtype.itemsize


def _array(value: list[Any]) -> tuple[np.dtype[Any], Any, list[int]]:
    """Type, values and shape of an array or a number of numpy.

    Raises:
        ValueError, TypeError: `encoded` gave something else.
    """
    kind, text, values, *rest = value
    dtype, shape = np.dtype(str(text)), rest[0] if kind == "array" else []
    if (
        kind not in ("array", "scalar")
        or dtype.kind not in _PLAIN
        or not all(type(side) is int and side >= 0 for side in shape)
        or not _has_shape(values, shape)
    ):
        raise ValueError(f"an attribute is no {str(kind)[:20]!r} of type {str(text)[:20]!r}.")
    return dtype, values, shape


def _has_shape(values: Any, shape: list[int]) -> bool:
    """Whether lists in lists have just these lengths."""
    if not shape:
        return not isinstance(values, list | dict)
    return (
        isinstance(values, list)
        and len(values) == shape[0]
        and all(_has_shape(each, shape[1:]) for each in values)
    )


def _encoded(value: Any, place: str) -> Any:
    kind = type(value)
    if value is None or kind in (bool, float, str):
        return value
    if kind is int:
        if abs(value) >= _LARGEST:
            raise ResultError(f"{place} is a number of more than 4000 digits: store it as text.")
        return value
    if kind is list or kind is tuple:
        items = [_encoded(each, f"{place}[{k}]") for k, each in enumerate(value)]
        return [kind.__name__, items]
    if kind is dict:
        for key in value:
            if type(key) is not str:
                raise ResultError(f"{place} has the key {key!r}: keys must be text.")
        return {key: _encoded(each, f"{place}[{key!r}]") for key, each in value.items()}
    if isinstance(value, np.generic | np.ndarray) and _is_plain(value):
        if kind is np.ndarray:
            return ["array", value.dtype.str, value.tolist(), list(value.shape)]
        return ["scalar", value.dtype.str, value.item()]
    raise ResultError(
        f"{place} is {_described(value)}, which would not come back as it is: attributes are text, "
        "numbers, booleans, None, and lists, tuples, dicts and numpy arrays of these. Store a date "
        "by its isoformat(), a path as str(path), an array of numbers as a variable."
    )


def _is_plain(value: np.generic | np.ndarray[Any, Any]) -> bool:
    return value.dtype.kind in _PLAIN and not (value.dtype.kind == "f" and value.dtype.itemsize > 8)


def _described(value: Any) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    return f"a {kind} of {value.dtype}" if isinstance(value, np.ndarray) else f"a {kind}"
