"""One BLAS thread for small matrices, on which several threads cost more than they gain.

numpy and scipy each bring a BLAS library of their own, whose idle threads wait actively. With two
threads on two cores, alternating between factorisations and products of 128 x 128 matrices takes
five times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from threadpoolctl import ThreadpoolController

LARGEST = 512  # above this size several threads pay


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@contextmanager
def one_if_small(size: int) -> Iterator[None]:
    """Give BLAS one thread inside, if matrices of ``size`` rows are small; restore it afterwards.

    Args:
        size: the number of rows of the largest matrix that is factorised.
    """
    if size > LARGEST:
        yield
        return
    with _controller().limit(limits=1, user_api="blas"):
        yield
