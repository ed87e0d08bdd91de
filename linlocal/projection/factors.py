"""Factorisations of small symmetric matrices, in place."""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

from linlocal.inputs import Array


def factorise(matrix: Array) -> bool:
    """Overwrite a positive definite matrix by its Cholesky factor, and say whether it has one.

    The factor stands where `solve` reads it; the other triangle keeps what was there.

    Args:
        matrix: in one piece, in the order of C.
    """
    # Transposed, it has the order of Fortran, so it is not copied.
    return not lapack.dpotrf(matrix.T, 1, 0, 1)[1]


def solve(factor: Array, load: Array) -> Array:
    """matrix^-1 load, with what `factorise` left of the matrix."""
    return np.asarray(lapack.dpotrs(factor.T, load, 1)[0])


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
    lwork = int(lapack.dsytrd_lwork(size)[0])
    _, diagonal, beside, _, failed = lapack.dsytrd(matrix.T, lower=1, lwork=lwork)
    if failed:
        raise np.linalg.LinAlgError("The matrix has no tridiagonal form in float64.")

    def eigenvalue(number: int) -> float:
        # Arguments: the eigenvalues number..number, to full accuracy, in ascending order.
        found = lapack.dstebz(diagonal, beside, 2, 0.0, 0.0, number, number, 0.0, b"E")
        if found[0] != 1 or found[4]:
            raise np.linalg.LinAlgError("The extreme eigenvalues did not converge.")
        return float(found[1][0])

    return eigenvalue(1), eigenvalue(size)
