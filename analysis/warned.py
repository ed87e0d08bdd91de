"""Warnings that point at the line of the user, however deep below it they arise."""

from __future__ import annotations

import sys
import warnings

_INSIDE = ("linlocal", "torch", "contextlib", "tqdm")


def warn(message: str) -> None:
    """Warn at the innermost line outside this package and the libraries that call it."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _INSIDE:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)
