"""Factorisations of small symmetric matrices that let other Python threads run meanwhile.

scipy's own wrappers hold the interpreter's lock, so several threads with small matrices would take
turns. These call the same routines of LAPACK through `scipy.linalg.cython_lapack`.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cython_lapack, lapack

from linlocal.inputs import Array

_POINTER = ctypes.c_void_p
_NUMBER_OF_ARGUMENTS = {"dpotrf": 5, "dpotrs": 8, "dsytrd": 10, "dstebz": 18}


@cache
def _routine(name: str) -> Any:
    """A routine of LAPACK; all its arguments are addresses."""
    capsule = cython_lapack.__pyx_capi__[name]
    api = ctypes.pythonapi
    told = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    kept = ctypes.PYFUNCTYPE(_POINTER, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", api)
    )
    arguments = [_POINTER] * _NUMBER_OF_ARGUMENTS[name]
    return ctypes.CFUNCTYPE(None, *arguments)(kept(capsule, told(capsule)))


@lru_cache(maxsize=None, typed=True)  # 0 and 0.0 are two constants
def _constant(value: bytes | int | float) -> Any:
    """A number or character that routines only read."""
    if isinstance(value, bytes):
        return ctypes.c_char(value)
    return ctypes.c_int(value) if isinstance(value, int) else ctypes.c_double(value)


def _call(name: str, *arguments: bytes | int | float | Array | NDArray[np.int32]) -> None:
    """Call a routine with numbers, characters and arrays in one piece."""
    _routine(name)(
        *(
            each.ctypes.data if isinstance(each, np.ndarray) else ctypes.addressof(_constant(each))
            for each in arguments
        )
    )


def factorise(matrix: Array) -> bool:
    """Overwrite a positive definite matrix by its Cholesky factor, and say whether it has one.

    The factor stands where `solve` reads it; the other triangle keeps what was there.

    Args:
        matrix: in one piece, in the order of C.
    """
    info, size = np.zeros(1, np.int32), len(matrix)
    _call("dpotrf", b"L", size, matrix, size, info)
    return not info[0]


def solve(factor: Array, load: Array) -> None:
    """Overwrite ``load`` by matrix^-1 load, with what `factorise` left of the matrix."""
    info, size = np.zeros(1, np.int32), len(factor)
    _call("dpotrs", b"L", size, 1, factor, size, load, size, info)


def extreme_eigenvalues(matrix: Array) -> tuple[float, float]:
    """The smallest and the largest eigenvalue of a symmetric matrix, without those between.

    Bisection of the tridiagonal form: half the time of all eigenvalues.

    Raises:
        LinAlgError: LAPACK reports a failure.
    """
    if not np.isfinite(matrix).all():
        raise np.linalg.LinAlgError("The matrix has entries that are not finite.")
    size = len(matrix)
    if size == 1:
        return float(matrix[0, 0]), float(matrix[0, 0])
    diagonal, beside, tau = np.empty(size), np.empty(size - 1), np.empty(size - 1)
    room = np.empty(int(lapack.dsytrd_lwork(size)[0]))
    info = np.zeros(1, np.int32)
    full = np.array(matrix, np.float64, order="C")
    _call("dsytrd", b"L", size, full, size, diagonal, beside, tau, room, len(room), info)
    if info[0]:
        raise np.linalg.LinAlgError("The matrix has no tridiagonal form in float64.")
    found, counts = np.empty(size), np.zeros(2, np.int32)
    blocks, ends = np.empty(size, np.int32), np.empty(size, np.int32)
    work, whole = np.empty(4 * size), np.empty(3 * size, np.int32)

    def eigenvalue(number: int) -> float:
        # The eigenvalues number..number, to full accuracy, in ascending order.
        where = (b"I", b"E", size, 0.0, 0.0, number, number, 0.0, diagonal, beside)
        into = (counts[:1], counts[1:], found, blocks, ends, work, whole, info)
        _call("dstebz", *where, *into)
        if counts[0] != 1 or info[0]:
            raise np.linalg.LinAlgError("The extreme eigenvalues did not converge.")
        return float(found[0])

    return eigenvalue(1), eigenvalue(size)
