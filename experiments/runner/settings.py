"""Parameters of a preset that the user changes: read, checked against the Config, and named."""

from __future__ import annotations

import hashlib
import json
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from linlocal.analysis.results import ResultError, known_name

# Named by an option of its own, or found by it.
_OPTIONS = {"seed": "--seed", "data": "--data"}
# Longer lists of names are counted: names of files have an end.
_LONGEST = 60
_MOST_BYTES = 2**20


class _UnfitError(Exception):
    """A value of another kind than was expected; the message says which."""


def read(pairs: Sequence[str], file: Path | None) -> dict[str, Any]:
    """The settings of a command.

    Args:
        pairs: each NAME=VALUE, a value as in TOML; text needs no quotes.
        file: TOML, a line NAME = VALUE for each setting; ``pairs`` win over it.

    Raises:
        ResultError: something else.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equal, text = (part.strip() for part in pair.partition("="))
        if not (name and equal and text):
            raise ResultError(f"--set {pair!r} should be NAME=VALUE, for example repetitions=20.")
        if name in found:
            raise ResultError(f"{name} is set twice: name it once.")
        found[name] = _value(text)
    return (_read(file) if file is not None else {}) | found


def changed(config: Any, presets: Sequence[Any], settings: Mapping[str, Any]) -> Any:
    """A Config with other values.

    Args:
        config: the Config of a preset.
        presets: the Configs of all presets; where none has a count of 0 or an empty list, neither
            is one accepted.
        settings: values by the names of fields.

    Raises:
        ResultError: no such field, or a value of another kind.
    """
    names = [field.name for field in fields(config) if field.name not in _OPTIONS]
    kinds = get_type_hints(type(config))
    values = {}
    for name, value in settings.items():
        if name in _OPTIONS:
            raise ResultError(f"{name} is no setting: give {_OPTIONS[name]}.")
        known_name("setting", name, names)
        try:
            values[name] = _fitting(kinds[name], value, _least(presets, name))
        except _UnfitError as error:
            raise ResultError(
                f"{name} is {json.dumps(value, default=str):.60}, expected {error}, such as "
                f"{json.dumps(getattr(config, name), default=str)}."
            ) from None
    return replace(config, **values)


def fits(config: Any, presets: Sequence[Any], name: str) -> bool:
    """Whether the value of a field is one that a setting may have."""
    kind = get_type_hints(type(config))[name]
    try:
        _fitting(kind, _listed(getattr(config, name)), _least(presets, name))
    except _UnfitError:
        return False
    return True


def differences(preset: Any, config: Any) -> dict[str, Any]:
    """The settings that a Config has beside its preset, as JSON can express them."""
    before, now = asdict(preset), asdict(config)
    return {
        name: _listed(now[name])
        for name in sorted(now)
        if name not in _OPTIONS and now[name] != before[name]
    }


def label(settings: Mapping[str, Any]) -> str:
    """A name for settings, other for other values; "" for none."""
    if not settings:
        return ""
    names = "+".join(sorted(settings))
    if len(names) > _LONGEST:
        names = f"{len(settings)}-values"
    digits = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return f"set-{names}-{digits}"


def options(settings: Mapping[str, Any]) -> list[str]:
    """The words of a command that give settings."""
    return [
        word for name, value in settings.items() for word in ("--set", f"{name}={_typed(value)}")
    ]


def _typed(value: Any) -> str:
    return "none" if value is None else json.dumps(value, separators=(",", ":"))


def _value(text: str) -> Any:
    try:
        found = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return found["value"] if found.keys() == {"value"} else text


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as opened:
            return tomllib.loads(opened.read(_MOST_BYTES).decode())
    except OSError as error:
        raise ResultError(f"{file} cannot be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise ResultError(
            f"{file} is no TOML ({error}): expected lines such as repetitions = 20."
        ) from error


def _fitting(kind: Any, value: Any, least: float) -> Any:
    """A value of that kind.

    Args:
        kind: a type annotation.
        value: what TOML can express.
        least: the smallest whole number and the smallest length of a list.

    Raises:
        _UnfitError: there is none.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        reasons = []
        for each in inner:
            try:
                return _fitting(each, value, least)
            except _UnfitError as error:
                reasons.append(str(error))
        raise _UnfitError(" or ".join(reasons))
    if origin is Literal:
        if any(type(value) is type(each) and value == each for each in inner):
            return value
        raise _UnfitError(f"one of {', '.join(map(str, inner))}")
    if origin is tuple:
        return _tuple(inner, value, least)
    if kind is NoneType and value in (None, "none"):
        return None
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind is int and type(value) is int and value >= least:
        return value
    if kind in (bool, str) and type(value) is kind:
        return value
    words = {
        bool: "true or false",
        int: f"a whole number{'' if math.isinf(least) else f' from {least:.0f} on'}",
        float: "a number",
        str: "text",
        NoneType: "none",
    }
    raise _UnfitError(words.get(kind, "nothing: it has values that cannot be typed"))


def _tuple(inner: tuple[Any, ...], value: Any, least: float) -> tuple[Any, ...]:
    if inner[-1:] == (Ellipsis,):
        if not isinstance(value, list) or len(value) < min(least, 1):
            raise _UnfitError("a list")
        kinds = inner[:1] * len(value)
    else:
        if not isinstance(value, list) or len(value) != len(inner):
            raise _UnfitError(f"a list of {len(inner)} values")
        kinds = inner
    items = []
    for kind, item in zip(kinds, value, strict=True):
        try:
            items.append(_fitting(kind, item, least))
        except _UnfitError as error:
            raise _UnfitError(f"a list whose items are {error}") from None
    return tuple(items)


def _least(presets: Sequence[Any], name: str) -> float:
    """The least that a count, or the length of a list, may be: 1 or 0 where no preset has less."""
    leaves = [leaf for preset in presets for leaf in _leaves(getattr(preset, name))]
    return next((least for least in (1, 0) if leaves and min(leaves) >= least), -math.inf)


def _leaves(value: Any) -> Iterator[int]:
    """The whole numbers in a value, and the lengths of its lists."""
    if isinstance(value, tuple):
        yield len(value)
        for each in value:
            yield from _leaves(each)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def _listed(value: Any) -> Any:
    # JSON and TOML know lists only.
    return list(map(_listed, value)) if isinstance(value, tuple) else value
