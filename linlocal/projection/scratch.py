"""Memory for large arrays that is used again and again.

Large arrays that numpy frees go back to the system, and the next one of the same size costs a page
fault for every 4 kB. A stack of small problems would spend a quarter of its time on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import numpy as np

from linlocal.inputs import Array

_LINE = 8  # float64 in a cache line, where every array begins


class Scratch:
    """Arrays that are carved from one buffer, one after the other.

    An array lives until the frame ends in which it was made. What does not fit is an array of its
    own.

    Args:
        size: bytes of the buffer.

    Example:
        >>> scratch = Scratch(2**20)
        >>> with scratch.frame():
        ...     np.multiply(a, b, out=scratch.empty(*a.shape))
    """

    def __init__(self, size: int) -> None:
        self._buffer, self._used = np.empty(size // 8), 0

    def empty(self, *shape: int) -> Array:
        """An array of float64 with any values."""
        start, size = self._used, prod(shape)
        if start + size > len(self._buffer):
            return np.empty(shape)
        self._used += -(-size // _LINE) * _LINE
        return self._buffer[start : start + size].reshape(shape)

    @contextmanager
    def frame(self) -> Iterator[None]:
        """Give back at the end what was made inside."""
        used = self._used
        try:
            yield
        finally:
            self._used = used
