"""Inner products of a local with a global tensor, and what follows from them.

Everything that is measured about a pair (l, g) is a function of the four sums <l, l>, <g, g>,
<l, g> and <l - g, l - g>. They add over parts, and are summed in float64 on the device. The last
sum is kept although it follows from the others, because its digits would cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COUNT = 4
"""Number of sums for one pair of tensors."""

# On a CPU chunks this small keep the float64 copies in the cache. Other devices need few launches,
# and chunks small enough to save memory.
_CHUNK = {"cpu": 2**15}
_CHUNK_ELSEWHERE = 2**24


def products(local: Tensor, global_: Tensor) -> Tensor:
    """<l, l>, <g, g>, <l, g>, <l - g, l - g> over all entries.

    Args:
        local: a tensor of any shape and floating dtype. A complex one counts as its real and
            imaginary parts.
        global_: a tensor of the same shape.

    Returns:
        (4,) float64, on the device.
    """
    local, global_ = _real(local), _real(global_)
    size = _CHUNK.get(local.device.type, _CHUNK_ELSEWHERE)
    total = torch.zeros(COUNT, dtype=torch.float64, device=local.device)
    for l, g in zip(local.reshape(-1).split(size), global_.reshape(-1).split(size), strict=True):
        l, g = l.double(), g.double()
        d = l - g
        total += torch.stack([l.dot(l), g.dot(g), l.dot(g), d.dot(d)])
    return total


def inner(local: Tensor, global_: Tensor) -> Tensor:
    """<l, g> over all entries, a float64 scalar on the device."""
    local, global_ = _real(local), _real(global_)
    size = _CHUNK.get(local.device.type, _CHUNK_ELSEWHERE)
    parts = zip(local.reshape(-1).split(size), global_.reshape(-1).split(size), strict=True)
    return torch.stack([l.double().dot(g.double()) for l, g in parts]).sum()


def gram(signals: Sequence[Tensor]) -> Tensor:
    """The inner products of several tensors of one shape, (signals, signals) float64."""
    flat = [_real(signal).reshape(-1) for signal in signals]
    size = _CHUNK.get(flat[0].device.type, _CHUNK_ELSEWHERE)
    total = torch.zeros(len(flat), len(flat), dtype=torch.float64, device=flat[0].device)
    for pieces in zip(*(signal.split(size) for signal in flat), strict=True):
        rows = torch.stack([piece.double() for piece in pieces])
        total += rows @ rows.T
    return total


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def metrics(sums: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Cosine, norm ratio, relative error and both norms.

    Args:
        sums: (..., 4) from `products`.

    Returns:
        * ``cosine``: <l, g> / (||l|| ||g||), NaN where a norm is 0;
        * ``norm_ratio``: ||l|| / ||g||, NaN where ||g|| is 0;
        * ``relative_error``: ||l - g|| / ||g||, NaN where ||g|| is 0;
        * ``local_norm``, ``global_norm``: ||l|| and ||g||.

        Where half precision overflowed, all of them are NaN.
    """
    sums = np.where(np.isfinite(sums).all(axis=-1, keepdims=True), sums, np.nan)
    ll, gg, lg, dd = np.moveaxis(sums, -1, 0)
    local, global_ = np.sqrt(ll), np.sqrt(gg)
    both = local * global_
    return {
        "cosine": divide(lg, both),
        "norm_ratio": divide(local, global_),
        "relative_error": divide(np.sqrt(dd), global_),
        "local_norm": local,
        "global_norm": global_,
    }


def divide(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """a / b, NaN where b is 0 or a or b is not finite."""
    fine = (b != 0) & np.isfinite(a) & np.isfinite(b)
    return np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=fine)
