"""Sliced normality in torch, by quadrature of the slice's angle or by the slices themselves."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from linlocal.autodiff import numpy_only
from linlocal.losses import SlicedNormality

CHUNK = 2**20
"""Cosines that are held at once; those of the backward pass are computed again."""

MOST_ANGLES = 4096


def sliced_normality(loss: SlicedNormality, first: Tensor, second: Tensor) -> Tensor:
    """The loss of two views (samples, features) in float32 or wider."""
    pull = (first - second).square().sum(1).mean()
    if loss.slices is not None:
        return pull + loss.weight * (_of_slices(loss, first) + _of_slices(loss, second))
    space = loss.space(first.shape[1])
    with torch.no_grad():
        radius = 2.0 * max(float(z.norm(dim=1).max()) for z in (first, second))
    if not math.isfinite(radius):
        return pull * radius
    angles = _angles(space, loss.limit * radius)
    if angles is None:
        # Samples so far apart oscillate too fast for quadrature.
        return numpy_only.view_loss(loss, first, second)
    return pull + loss.weight * sum(_of_all(loss, z, *angles) for z in (first, second))


def _of_slices(loss: SlicedNormality, z: Tensor) -> Tensor:
    t = torch.linspace(0.0, loss.limit, loss.nodes, dtype=z.dtype, device=z.device)
    directions = torch.tensor(loss.directions(z.shape[1]), dtype=z.dtype, device=z.device)
    pieces = directions.split(max(1, CHUNK // (len(z) * loss.nodes)))
    if len(pieces) == 1:
        return _mean_over_slices(z, directions, t)
    total = z.new_zeros(())
    for piece in pieces:
        mean = checkpoint(_mean_over_slices, z, piece, t, use_reentrant=False)
        total = total + len(piece) / len(directions) * mean
    return total


def _mean_over_slices(z: Tensor, directions: Tensor, t: Tensor) -> Tensor:
    phases = (z @ directions.T)[..., None] * t
    normal = torch.exp(-t.square() / 2.0)
    apart = torch.polar(torch.ones_like(phases), phases).mean(0) - normal
    squared = (apart.real.square() + apart.imag.square()) * normal
    return len(z) * 2.0 * torch.trapezoid(squared, t, dim=1).mean()


def _of_all(loss: SlicedNormality, z: Tensor, cosines: Tensor, shares: Tensor) -> Tensor:
    """mean_jk K(||z_j - z_k||) - 2 mean_k M(||z_k||) + constant, times samples."""
    n = len(z)
    t = torch.linspace(0.0, loss.limit, loss.nodes, dtype=torch.float64)
    normal = torch.exp(-t.square() / 2.0)
    window = torch.full_like(t, 2.0 * loss.limit / (loss.nodes - 1)) * normal
    window[[0, -1]] /= 2.0
    frequencies = torch.outer(t, cosines).flatten()

    def kernel(r: Tensor, by_node: Tensor) -> Tensor:
        return _sum_of_cosines(r, frequencies.to(r), torch.outer(by_node, shares).flatten().to(r))

    pairs = kernel(torch.pdist(z), window).sum()
    alone = kernel(torch.linalg.vector_norm(z, dim=1), window * normal).mean()
    constants = float(window.sum()) / n + float((window * normal.square()).sum())
    return n * (2.0 * pairs / n**2 - 2.0 * alone + constants)


def _angles(dimension: int, largest: float) -> tuple[Tensor, Tensor] | None:
    """Cosines s >= 0 of the angle between a slice and a vector, and the share of each.

    E cos(x s) with density (1 - s^2)^((D-3)/2), for all x up to ``largest``; s = tanh u makes it an
    integral of cos(x tanh u) sech(u)^(D-1), analytic for |Im u| < pi/2, over the whole line. There
    the trapezoid rule of step h errs by exp(x tan d - (D-1) log cos d - 2 pi d / h), for any d
    below pi/2. None where so many are needed that another way is better.
    """
    if dimension == 1:
        return torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    digits = 40.0
    d = torch.linspace(0.005, 1.565, 313, dtype=torch.float64)
    growth = largest * d.tan() - (dimension - 1) * d.cos().log()
    step = float((2.0 * math.pi * d / (digits + growth)).max())
    reach = math.acosh(math.exp(digits / (dimension - 1)))
    if reach / step > MOST_ANGLES:
        return None
    u = torch.arange(0.0, reach + step, step, dtype=torch.float64)
    log_cosh = torch.log1p(2.0 * (u / 2.0).sinh().square())
    shares = torch.exp(-(dimension - 1) * log_cosh)
    shares[0] /= 2.0
    return u.tanh(), shares / shares.sum()


def _sum_of_cosines(r: Tensor, frequencies: Tensor, weights: Tensor) -> Tensor:
    """sum_m weights[m] cos(frequencies[m] r) of each r, in pieces that fit into memory."""
    size = max(1, CHUNK // max(1, len(r)))
    pieces = zip(frequencies.split(size), weights.split(size), strict=True)
    total = torch.zeros_like(r)
    for f, w in pieces:
        total = total + checkpoint(_cosines, r, f, w, use_reentrant=False)
    return total


def _cosines(r: Tensor, frequencies: Tensor, weights: Tensor) -> Tensor:
    return torch.cos(torch.outer(r, frequencies)) @ weights
