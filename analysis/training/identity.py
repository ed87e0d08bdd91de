"""What makes a training this one and no other, in words that a checkpoint can hold and compare."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from itertools import islice
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_DEEP = 6  # what is nested deeper is named by its class
_WIDE = 100  # entries of a container that are told
_SMALL = 16  # entries of a tensor that are written out
_PARTS, _LONG = 4, 80  # parts of a difference that are shown, and characters of each


def told(value: Any) -> str:
    """A value in words that are the same in another process, and others for another value.

    Functions are told by their name, constants, defaults and what they enclose; an object by its
    own ``repr``, or by its class and its attributes.
    """
    return _told(value, 0)


def _told(value: Any, depth: int) -> str:
    if depth > _DEEP:
        return type(value).__qualname__
    deeper = depth + 1
    if isinstance(value, partial):
        return _call("partial", [value.func, *value.args], value.keywords, deeper)
    if isinstance(value, MethodType):
        return f"{_told(value.__self__, deeper)}.{value.__name__}"
    if isinstance(value, FunctionType):
        return _function(value, deeper)
    if isinstance(value, type | BuiltinFunctionType):
        return value.__qualname__
    if isinstance(value, Tensor | np.ndarray):
        shape = tuple(value.shape)
        small = value.size if isinstance(value, np.ndarray) else value.numel()
        return f"array{shape}" + (f" {value.tolist()}" if small <= _SMALL else "")
    if isinstance(value, Mapping):
        pairs = islice(value.items(), _WIDE)
        told_pairs = (
            f"{k if isinstance(k, str) else _told(k, deeper)}: {_told(v, deeper)}" for k, v in pairs
        )
        return f"{{{', '.join(told_pairs)}}}{_rest(value)}"
    if isinstance(value, tuple | list):
        return f"[{', '.join(_told(v, deeper) for v in value[:_WIDE])}]{_rest(value)}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(_told(v, deeper) for v in value))}}}"
    kind = type(value)
    if is_dataclass(value):
        named = {f.name: getattr(value, f.name, None) for f in fields(value)}
        return _call(kind.__qualname__, [], named, deeper)
    if isinstance(value, nn.Module) or _has_repr(value):
        return " ".join(_ADDRESS.sub("", repr(value)).split())
    # An object that holds others may reach the whole program: their attributes are not told.
    return _call(kind.__qualname__, [], getattr(value, "__dict__", {}), depth + _DEEP // 2)


def told_network(network: nn.Module) -> str:
    """The architecture of a network: its modules, the shapes of its state, what is frozen."""
    # Blocks that torch.compile has wrapped compute the same.
    state = {k.replace("_orig_mod.", ""): tuple(v.shape) for k, v in network.state_dict().items()}
    frozen = [name for name, p in network.named_parameters() if not p.requires_grad]
    # Synchronised or not, batch normalisation of the whole batch is the same training.
    modules = re.sub(r"\bSyncBatchNorm\(|\bBatchNorm[123]d\(", "BatchNorm(", told(network))
    return f"{modules} {state} frozen {frozen}"


def told_loader(loader: Any) -> str:
    """The loader of a training: its own ``repr``, or its class, length and batch size."""
    if _has_repr(loader):
        return told(loader)
    length = len(loader) if hasattr(loader, "__len__") else None
    size = getattr(loader, "batch_size", None)
    return f"{type(loader).__qualname__}(length={length}, batch_size={told(size)})"


def told_optimisers(optimisers: Sequence[torch.optim.Optimizer]) -> str:
    """Classes and options of optimisers as they were made."""
    return told(
        [
            [
                type(optimiser).__qualname__,
                *({k: v for k, v in g.items() if k != "params"} for g in optimiser.param_groups),
            ]
            for optimiser in optimisers
        ]
    )


def differences(stored: Mapping[str, str], own: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """(stored, own) of all that differs, cut to the parts that differ."""
    return {
        key: (_beside(stored[key], own[key]), _beside(own[key], stored[key]))
        for key in own
        if stored[key] != own[key]
    }


def _rest(container: Mapping[Any, Any] | Sequence[Any]) -> str:
    return f" of {len(container)}" if len(container) > _WIDE else ""


def _call(name: str, args: Sequence[Any], options: Mapping[str, Any], depth: int) -> str:
    given = [_told(a, depth) for a in args]
    given += [f"{k}={_told(v, depth)}" for k, v in options.items()]
    return f"{name}({', '.join(given)})"


def _function(function: FunctionType, depth: int) -> str:
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # a name that is not bound yet
            cells.append(None)
    enclosed = dict(zip(function.__code__.co_freevars, cells, strict=True))
    outside = function.__globals__
    parts = {
        "constants": _constants(function.__code__),
        "globals": {
            name: outside[name]
            for name in sorted(_names(function.__code__))
            if isinstance(outside.get(name), int | float | str)
        },
        "defaults": [*(function.__defaults__ or ()), function.__kwdefaults__ or {}],
        "enclosed": {k: v for k, v in enclosed.items() if v is not function},
    }
    said = {name: _told(part, depth) for name, part in parts.items()}
    return f"{function.__qualname__}({', '.join(f'{k} {v}' for k, v in said.items())})"


def _constants(code: CodeType) -> list[str]:
    """Numbers and texts in a function and in those inside it, sorted."""
    found: set[str] = set()
    for constant in code.co_consts[1:]:  # the first one is the docstring, or None
        if isinstance(constant, CodeType):
            found.update(_constants(constant))
        elif constant is not None and "<locals>" not in str(constant):  # the name of one inside
            found.add(repr(constant))
    return sorted(found)


def _names(code: CodeType) -> set[str]:
    inside = (_names(c) for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*inside)


def _has_repr(value: Any) -> bool:
    return any("__repr__" in vars(kind) for kind in type(value).__mro__[:-1])


def _beside(text: str, other: str) -> str:
    """The parts of a text that another one lacks."""
    if len(text) <= _LONG:
        return text
    parts = text.split(", ")
    lacking = Counter(parts) - Counter(other.split(", "))
    shown = [part for part in dict.fromkeys(parts) if part in lacking] or parts
    cut = [part if len(part) <= _LONG else f"...{part[-_LONG:]}" for part in shown[:_PARTS]]
    return f"[{', '.join(cut)}{', ...' if len(shown) > _PARTS else ''}]"
