"""The losses of `linlocal.losses` once more, by torch's own functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F

from linlocal import losses
from linlocal.autodiff.tensors import index, partners, signs, tensor
from linlocal.losses import scores
from linlocal.pairs import Direction

TorchLoss = Callable[..., torch.Tensor]

_KINK = 1e-9
"""A margin this near to a hinge's kink counts as on it."""


def _score(score: object) -> Callable[[torch.Tensor], torch.Tensor]:
    """f as a torch function of margins."""
    match score:
        case scores.Linear():
            return torch.neg
        case scores.Softplus(margin):
            # threshold: torch's own switch to the identity would cut the tail at 2e-9.
            return lambda m: F.softplus(margin - m, threshold=700.0)
        case scores.Hinge(margin):
            return lambda m: F.relu(margin - m)
        case scores.SmoothedHinge(margin, width):

            def smoothed(m: torch.Tensor) -> torch.Tensor:
                gap = F.relu(margin - m)
                return F.smooth_l1_loss(gap, torch.zeros_like(gap), reduction="none", beta=width)

            return smoothed
        case _:
            raise TypeError(
                f"The oracle has no torch version of {type(score).__name__}; pass loss=, a torch "
                "function of the scores of a direction."
            )


def pair_loss(loss: Any) -> TorchLoss:
    """A loss of scored pairs as a torch function (u, direction); torch functions pass through."""
    match loss:
        case losses.TypeTwo(score):
            f = _score(score)

            def judge(u: torch.Tensor, d: Direction) -> torch.Tensor:
                positive, negative = signs(d)
                return f(u[positive]).mean() + f(-u[negative]).mean()
        case losses.TypeOne(score):
            f = _score(score)

            def judge(u: torch.Tensor, d: Direction) -> torch.Tensor:
                _, negative = signs(d)
                return f(u[partners(d)] - u[negative]).mean()
        case losses.InfoNCE(temperature):

            def judge(u: torch.Tensor, d: Direction) -> torch.Tensor:
                positive, _ = signs(d)
                group = index(d.group)
                others = group[None, :] != group[positive][:, None]
                logits = (u / temperature).expand(len(positive), -1)
                # Not -inf: the Hessian of a masked entry would be 0 * inf.
                return F.cross_entropy(logits.masked_fill(others, -1e30), positive)
        case losses.Goodness() | losses.ViewLoss():
            raise TypeError(f"{type(loss).__name__} is no loss of scored pairs.")
        case losses.PairLoss():
            raise TypeError(
                f"The oracle has no torch version of {type(loss).__name__}; pass loss=, a torch "
                "function of the scores of a direction."
            )
        case _ if callable(loss):
            return cast(TorchLoss, loss)
        case _:
            raise TypeError(f"{type(loss).__name__} is no loss of scored pairs.")
    judge.has_kink = isinstance(getattr(loss, "score", None), scores.Hinge)  # type: ignore[attr-defined]
    return judge


def refuse_kink(loss: object, u: torch.Tensor, d: Direction) -> None:
    """Raise where a hinge is not differentiable."""
    score = getattr(loss, "score", None)
    if not isinstance(score, scores.Hinge):
        return
    sign = tensor(d.sign)
    if isinstance(loss, losses.TypeTwo):
        margins = sign * u
    else:
        _, negative = signs(d)
        margins = u[partners(d)] - u[negative]
    nearest = float((margins - score.margin).abs().min())
    if nearest <= _KINK:
        raise ValueError(
            f"A margin lies within {nearest:.0e} of the kink of the hinge, where autograd's slope "
            "is arbitrary; the optimal projection of linlocal.optimal_projection finds the one "
            "that makes B stationary. Use SmoothedHinge to compare."
        )


def goodness_loss(loss: losses.Goodness) -> TorchLoss:
    """A loss of goodness as a torch function (goodness, direction)."""
    f = _score(loss.score)

    def judge(goodness: torch.Tensor, d: Direction) -> torch.Tensor:
        positive, negative = signs(d)
        over = goodness - loss.threshold
        return f(over[positive]).mean() + f(-over[negative]).mean()

    return judge


def view_loss(loss: object) -> TorchLoss:
    """A loss of two views as a torch function (z, z_view)."""
    known: dict[type, Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor]] = {
        losses.NTXent: _nt_xent,
        losses.SpectralContrastive: _spectral_contrastive,
        losses.Whitening: _whitening,
        losses.LogDet: _log_det,
        losses.VICReg: _vicreg,
        losses.BarlowTwins: _barlow_twins,
        losses.LPL: _lpl,
    }
    if type(loss) not in known:
        raise TypeError(
            f"The oracle has no torch version of {type(loss).__name__}; pass loss=, a torch "
            "function of two views."
        )
    return lambda z, z_view: known[type(loss)](loss, z, z_view)


def _nt_xent(loss: losses.NTXent, z: torch.Tensor, z_view: torch.Tensor) -> torch.Tensor:
    stacked = torch.cat([z, z_view])
    norm = torch.linalg.vector_norm(stacked, dim=1, keepdim=True)
    # A dead sample has no direction: its similarities are 0, and so is its derivative.
    alive = norm > 0
    unit = torch.where(alive, stacked / torch.where(alive, norm, 1.0), 0.0)
    itself = torch.eye(len(unit), dtype=torch.bool)
    logits = (unit @ unit.T / loss.temperature).masked_fill(itself, float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(unit)).roll(len(z)))


def _spectral_contrastive(_: object, z: torch.Tensor, z_view: torch.Tensor) -> torch.Tensor:
    scores_ = torch.einsum("ai,bi->ab", z, z_view)
    different = ~torch.eye(len(z), dtype=torch.bool)
    repulsion = (scores_[different] ** 2).mean() if len(z) > 1 else 0.0
    return -2.0 * torch.diagonal(scores_).mean() + repulsion


def _moment(z: torch.Tensor) -> torch.Tensor:
    return torch.einsum("ka,kb->ab", z, z) / len(z)


def _whitening(loss: losses.Whitening, z: torch.Tensor, z_view: torch.Tensor) -> torch.Tensor:
    identity = torch.eye(z.shape[1], dtype=torch.float64)
    spread = sum(torch.sum((_moment(a) - identity) ** 2) for a in (z, z_view))
    return torch.sum((z - z_view) ** 2, dim=1).mean() + loss.weight * spread


def _log_det(loss: losses.LogDet, z: torch.Tensor, z_view: torch.Tensor) -> torch.Tensor:
    identity = torch.eye(z.shape[1], dtype=torch.float64)
    rate = sum(torch.logdet(identity + _moment(a) / loss.epsilon) for a in (z, z_view))
    return torch.sum((z - z_view) ** 2, dim=1).mean() - loss.weight * rate


def _off_diagonal(matrix: torch.Tensor) -> torch.Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool)]


def _covariance(z: torch.Tensor) -> torch.Tensor:
    return torch.cov(z.T).reshape(z.shape[1], z.shape[1])


def _vicreg(loss: losses.VICReg, z: torch.Tensor, z_view: torch.Tensor) -> torch.Tensor:
    total = loss.invariance * F.mse_loss(z, z_view)
    for a in (z, z_view):
        std = torch.sqrt(a.var(dim=0) + loss.epsilon)
        total = total + loss.variance * F.relu(loss.target_std - std).mean()
        covariance = torch.sum(_off_diagonal(_covariance(a)) ** 2) / a.shape[1]
        total = total + loss.covariance * covariance
    return total


def _barlow_twins(loss: losses.BarlowTwins, z: torch.Tensor, z_view: torch.Tensor) -> torch.Tensor:
    # A batch normalisation without scale and shift is this standardisation.
    a, b = (F.batch_norm(v, None, None, training=True, eps=loss.epsilon) for v in (z, z_view))
    c = torch.einsum("ki,kj->ij", a, b) / len(z)
    on = torch.sum((1.0 - torch.diagonal(c)) ** 2)
    return on + loss.weight * torch.sum(_off_diagonal(c) ** 2)


def _lpl(loss: losses.LPL, z: torch.Tensor, z_view: torch.Tensor) -> torch.Tensor:
    # Each view predicts the other, which is detached.
    predictive = (F.mse_loss(z, z_view.detach()) + F.mse_loss(z_view, z.detach())) / 2.0
    total = loss.predictive * predictive
    for a in (z, z_view):
        total = total - loss.hebbian * torch.log(a.var(dim=0) + loss.epsilon).mean()
        width = a.shape[1]
        decorrelation = torch.sum(_off_diagonal(_covariance(a)) ** 2) / (width * max(1, width - 1))
        total = total + loss.decorrelation * decorrelation
    return total
