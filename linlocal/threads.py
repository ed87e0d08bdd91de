"""One BLAS thread for small matrices, on which several threads cost more than they bring.

numpy and scipy come with a BLAS library each, whose idle threads wait actively: with two threads on
two cores, factorising 128 x 128 matrices in alternation with products takes five times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

LARGEST = 512  # from here on several threads pay


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_if_small(size: int) -> Iterator[None]:
    """Inside, BLAS has one thread if matrices of ``size`` rows are small; restored afterwards.

    Args:
        size: rows of the largest matrix that is factorised.
    """
    if size > LARGEST:
        yield
        return
    with _controller().limit(limits=1, user_api="blas"):
        yield
