"""What shows in the activities of a batch whether a block represents anything.

The effective rank says how many directions are used, linear CKA how much two blocks have in common,
and the cosines of pairs what the rule has pulled together and pushed apart. All of them are
computed in float64.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from linlocal import inputs

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def effective_rank(matrix: ArrayLike | Tensor) -> float:
    """In how many dimensions a representation lies: exp(-sum p log p), p = singular values / sum.

    It is 1 for one direction and min(n, width) for equal singular values. It does not change with
    the scale of the matrix or a rotation. Subtract the mean over samples before, if it is not to
    count as a direction. Roy and Vetterli 2007 (EUSIPCO); of representations, Garrido et al. 2022
    (arXiv 2210.02885).

    Args:
        matrix: (n, width).

    Returns:
        The rank; NaN for a matrix of zeros.

    Raises:
        ValueError: no finite matrix.
        TypeError: no real numbers.
    """
    singular = torch.linalg.svdvals(_matrix(matrix, "matrix"))
    if not len(singular) or not float(singular[0]) > 0:
        return math.nan
    # Scaled first, because the sum of values near the largest float is infinite.
    shares = singular / singular[0]
    return float(torch.special.entr(shares / shares.sum()).sum().exp())


def linear_cka(x: ArrayLike | Tensor, y: ArrayLike | Tensor, *, unbiased: bool = False) -> float:
    """How alike two representations are: HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).

    K = x x^T, L = y y^T.

    The similarity of two sets of features of the same samples: 1 for features that are equal up to
    a rotation, a scale and a shift. Kornblith et al. 2019 (arXiv 1905.00414). With more features
    than samples the usual HSIC, ||y^T H x||_F^2 with the centring H, finds similarity in
    independent features. The unbiased one (Song et al. 2012; Nguyen et al. 2020, arXiv 2010.15327)
    has mean 0 there, and may be negative:

        sum_ij K_ij L_ij + sum(K) sum(L) / ((n-1)(n-2)) - 2/(n-2) sum_i (sum_j K_ij)(sum_j L_ij)

    with the diagonals of K and L set to 0.

    Args:
        x: (samples, features).
        y: (samples, other features), row by row of the same samples.
        unbiased: whether to take the unbiased estimate, which needs 4 samples.

    Returns:
        The similarity; NaN where a variance is 0, or its unbiased estimate not positive.

    Raises:
        ValueError: no finite matrices, or of other or too few samples.
        TypeError: no real numbers.
    """
    a, b = _matrix(x, "x"), _matrix(y, "y")
    least = 4 if inputs.flag(unbiased, "unbiased") else 2
    if len(a) != len(b) or len(a) < least:
        raise ValueError(
            f"CKA compares features of the same samples, at least {least}: got {len(a)} and "
            f"{len(b)} rows."
        )
    hsic = _unbiased if unbiased else _biased
    # To unit scale, so that squares neither overflow nor vanish.
    a, b = (_unit(z - z.mean(0)) for z in (a, b))
    k, l = a @ a.T, b @ b.T
    own, other = hsic(k, k), hsic(l, l)
    if not (own > 0 and other > 0):
        return math.nan
    return hsic(k, l) / math.sqrt(own) / math.sqrt(other)


def pair_cosines(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of positive pairs, z_i and z_view_i, and of negative ones, z_i and z_view_j, j != i.

    Args:
        first: (samples, features) of one view.
        second: (samples, features) of the other, row by row.

    Returns:
        (samples,) and (samples (samples - 1),) in float64; NaN where a row is 0.

    Raises:
        ValueError: the views are not two matrices of one shape.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            "Both views must have the same shape (samples, features), got "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    a, b = (unit_rows(z.detach().double()) for z in (first, second))
    cosines = (a @ b.T).clamp(-1.0, 1.0)
    apart = ~torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
    return cosines.diagonal(), cosines[apart]


def unit_rows(z: Tensor) -> Tensor:
    """z / ||z|| row by row, also of very small and large rows; NaN where a row is 0."""
    z = z / z.abs().amax(1, keepdim=True)
    return z / z.norm(dim=1, keepdim=True)


def quantiles(values: Tensor) -> list[float]:
    """The `QUANTILES` of values that are not NaN; NaN where there are none."""
    known = values[~values.isnan()].cpu().numpy()
    return np.quantile(known, QUANTILES).tolist() if known.size else [math.nan] * len(QUANTILES)


def _unit(z: Tensor) -> Tensor:
    size = z.abs().max()
    return z / size if float(size) > 0 else z


def _biased(k: Tensor, l: Tensor) -> float:
    return float((k * l).sum())  # both are centred


def _unbiased(k: Tensor, l: Tensor) -> float:
    n = len(k)
    k, l = k - k.diag().diag(), l - l.diag().diag()
    by_k, by_l = k.sum(1), l.sum(1)
    means = by_k.sum() * by_l.sum() / ((n - 1) * (n - 2))
    return float((k * l).sum() + means - 2 / (n - 2) * (by_k @ by_l))


def _matrix(value: ArrayLike | Tensor, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        return torch.from_numpy(inputs.matrix(value, name, "(samples, features)").copy())
    if value.ndim != 2 or value.is_complex():
        raise ValueError(
            f"{name} must be a real matrix (samples, features), got {value.dtype} of shape "
            f"{tuple(value.shape)}: pool or flatten maps first."
        )
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} has entries that are NaN or infinite: has the network diverged?")
    return value.detach().double()
