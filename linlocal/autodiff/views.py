"""Losses of two aligned views in torch.

Half precision is raised to float32, also inside autocast: covariances and log-sums of a batch
overflow in 16 bits.

A sum over features x features is taken over samples x samples instead where that is smaller:
||A^T B||_F^2 = sum (A A^T * B B^T), and log det(I + A^T A) = log det(I + A A^T).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from linlocal.autodiff import numpy_only
from linlocal.autodiff.normality import sliced_normality
from linlocal.losses import (
    LPL,
    BarlowTwins,
    CosineInfoNCE,
    LogDet,
    NTXent,
    SlicedNormality,
    SpectralContrastive,
    VICReg,
    ViewLoss,
    VISReg,
    Whitening,
)

ViewFormula = Callable[[Tensor, Tensor], Tensor]


def view_formula(loss: ViewLoss) -> ViewFormula:
    """A loss of two views in torch: a function of two (samples, features), row by row of one datum.

    A loss of your own, a subclass of a named one included, is evaluated by its numpy methods.

    Args:
        loss: one of `linlocal.losses`, or your own.

    Returns:
        A function that gives a scalar in float32 or wider. It raises a ValueError if the views are
        not two matrices of one shape, or hold fewer than 2 samples.
    """
    return partial(_checked, loss)


def _checked(loss: ViewLoss, first: Tensor, second: Tensor) -> Tensor:
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            "Both views must have the same shape (samples, features), got "
            f"{tuple(first.shape)} and {tuple(second.shape)}; pool or flatten feature maps, "
            "and drop the last odd batch of a loader."
        )
    if len(first) < 2:
        raise ValueError(
            f"{type(loss).__name__} compares samples: it needs at least 2 of them, got "
            f"{len(first)}; use a larger batch, and drop_last=True in the loader."
        )
    formula = _FORMULAS.get(type(loss), numpy_only.view_loss)
    wide = torch.promote_types(first.dtype, torch.float32)
    with torch.autocast(first.device.type, enabled=False):
        return formula(loss, first.to(wide), second.to(wide))


def _nt_xent(loss: NTXent, first: Tensor, second: Tensor) -> Tensor:
    unit = _directions(torch.cat([first, second]))
    logits = (unit @ unit.T / loss.temperature).fill_diagonal_(-math.inf)
    partner = torch.arange(len(unit), device=unit.device).roll(len(first))
    return F.cross_entropy(logits, partner)


def _cosine_info_nce(loss: CosineInfoNCE, first: Tensor, second: Tensor) -> Tensor:
    logits = _directions(first) @ _directions(second).T / loss.temperature
    return F.cross_entropy(logits, torch.arange(len(first), device=first.device))


def _spectral_contrastive(loss: SpectralContrastive, first: Tensor, second: Tensor) -> Tensor:
    n = len(first)
    k = first @ second.T
    different = k - torch.diag(k.diagonal())
    return -2.0 * k.trace() / n + different.square().sum() / (n * (n - 1))


def _whitening(loss: Whitening, first: Tensor, second: Tensor) -> Tensor:
    def spread(z: Tensor) -> Tensor:
        # The D - r eigenvalues of cov beyond the smaller side r are 0, each 1 away from I.
        gram = _smaller_gram(z) / len(z)
        missing = z.shape[1] - len(gram)
        return (gram - _identity(gram)).square().sum() + missing

    return _distance(first, second) + loss.weight * (spread(first) + spread(second))


def _log_det(loss: LogDet, first: Tensor, second: Tensor) -> Tensor:
    def rate(z: Tensor) -> Tensor:
        gram = _smaller_gram(z) / (len(z) * loss.epsilon)
        return torch.linalg.slogdet(_identity(gram) + gram).logabsdet

    return _distance(first, second) - loss.weight * (rate(first) + rate(second))


def _vicreg(loss: VICReg, first: Tensor, second: Tensor) -> Tensor:
    def spread(z: Tensor) -> Tensor:
        centred, variance = _moments(z)
        below = (loss.target_std - (variance + loss.epsilon).sqrt()).relu().mean()
        off = _off_diagonal(centred, centred) / (len(z) - 1) ** 2
        halved = 0.5 if loss.form == "released" else 1.0
        return halved * loss.variance * below + loss.covariance * off / z.shape[1]

    mean = (first - second).square().mean()
    pull = mean * first.shape[1] if loss.form == "article" else mean
    return loss.invariance * pull + spread(first) + spread(second)


def _barlow_twins(loss: BarlowTwins, first: Tensor, second: Tensor) -> Tensor:
    def standardised(z: Tensor) -> Tensor:
        centred = z - z.mean(0)
        return centred * (centred.square().mean(0) + loss.epsilon).rsqrt()

    a, b = standardised(first), standardised(second)
    off = _off_diagonal(a, b) / len(a) ** 2
    return (1.0 - (a * b).mean(0)).square().sum() + loss.weight * off


def _lpl(loss: LPL, first: Tensor, second: Tensor) -> Tensor:
    def spread(z: Tensor) -> Tensor:
        width = z.shape[1]
        centred, variance = _moments(z)
        off = _off_diagonal(centred, centred) / (len(z) - 1) ** 2
        log_variance = (variance + loss.epsilon).log().mean()
        return loss.decorrelation * off / (width * max(1, width - 1)) - loss.hebbian * log_variance

    if loss.form == "released":
        mean = (first - second).square().mean()
        return loss.predictive * mean + 0.5 * (spread(first) + spread(second))
    if loss.form == "article":
        views = ((first, second), (second, first))
        return 0.5 * torch.stack([_lpl_as_printed(loss, *pair) for pair in views]).sum()
    # Each view predicts the other, which is detached.
    forward = (first - second.detach()).square().mean()
    backward = (first.detach() - second).square().mean()
    pull = 0.5 * (forward + backward)
    return loss.predictive * pull + spread(first) + spread(second)


def _lpl_as_printed(loss: LPL, present: Tensor, past: Tensor) -> Tensor:
    width = present.shape[1]
    square = (present - present.detach().mean(0)).square()
    together = square.sum(1).square().sum() - square.square().sum()
    decorrelation = together / ((len(present) - 1) * width * max(1, width - 1))
    variance = square.sum(0) / (len(present) - 1) + loss.epsilon
    predictive = (present - past.detach()).square().mean()
    return (
        0.5 * loss.predictive * predictive
        - 0.5 * loss.hebbian * variance.log().mean()
        + loss.decorrelation * decorrelation
    )


def _visreg(loss: VISReg, first: Tensor, second: Tensor) -> Tensor:
    samples, width = first.shape
    slices = torch.tensor(loss.directions(width), dtype=first.dtype, device=first.device)
    rank = torch.arange(1, samples + 1, dtype=torch.float64, device=first.device)
    quantiles = torch.special.ndtri(rank / (samples + 1)).to(first.dtype)[:, None]

    def regulariser(z: Tensor) -> Tensor:
        mean = z.mean(0)
        std = (torch.linalg.vector_norm(z - mean, dim=0) / samples**0.5).clamp_min(loss.floor)
        standard = (z - mean) / std.detach()
        sliced = (standard @ slices.T).sort(stable=True, dim=0).values
        return (
            loss.scale * (std - 1.0).square().mean()
            + loss.shape * (sliced - quantiles).square().mean()
            + loss.center * mean.square().mean()
        )

    middle = (first + second) / 2.0
    pull = torch.stack([first - middle, second - middle]).square().mean()
    both = torch.stack([regulariser(first), regulariser(second)]).mean()
    return (1.0 - loss.trade_off) * pull + loss.trade_off * both


def _directions(z: Tensor) -> Tensor:
    """z / ||z|| row by row."""
    squared = z.square().sum(1, keepdim=True)
    # A dead sample has no direction and so no gradient; both `where` are needed for that.
    return z * torch.where(squared > 0, torch.where(squared > 0, squared, 1.0).rsqrt(), 0.0)


def _distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean over samples of ||z - z_view||^2."""
    return (first - second).square().sum(1).mean()


def _moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Centred activities and their unbiased variance per unit."""
    centred = z - z.mean(0)
    return centred, centred.square().sum(0) / (len(z) - 1)


def _off_diagonal(a: Tensor, b: Tensor) -> Tensor:
    """sum_{i != j} (a^T b)_ij^2."""
    if len(a) >= a.shape[1]:
        k = a.T @ b
        return (k - torch.diag(k.diagonal())).square().sum()
    return ((a @ a.T) * (b @ b.T)).sum() - (a * b).sum(0).square().sum()


def _smaller_gram(z: Tensor) -> Tensor:
    """z^T z or z z^T, whichever is smaller: they have the same eigenvalues but for zeros."""
    return z.T @ z if len(z) >= z.shape[1] else z @ z.T


def _identity(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=like.dtype, device=like.device)


_FORMULAS: dict[type, Callable[..., Tensor]] = {
    NTXent: _nt_xent,
    CosineInfoNCE: _cosine_info_nce,
    SpectralContrastive: _spectral_contrastive,
    Whitening: _whitening,
    LogDet: _log_det,
    VICReg: _vicreg,
    BarlowTwins: _barlow_twins,
    LPL: _lpl,
    SlicedNormality: sliced_normality,
    VISReg: _visreg,
}
