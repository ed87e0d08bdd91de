"""Least squares over the rows of batches: what a projection is solved from.

A block's error signal is P^T B S^T once the slopes of the last block's loss are given: row k of S
is the sum of the contexts that are paired with anchor k, each times its slope (statement 16 of
docs/theory.md). The B that brings it nearest to the backpropagated error E solves

    min_B  ||E - S B^T P||_F^2 + strength ||B^T P||_F^2,  B^T = (S^T S + strength I)^-1 S^T E P^+ .

Rows (S, E P^+) of earlier batches may stay, with less and less weight. No more of them are kept
than S has columns: a QR decomposition of S leaves the solution as it is, and has half of the digits
to lose that the covariances S^T S and S^T E have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from linlocal import inputs

TangentKind = Literal["coordinates", "signs", "normal"]
Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class LeastSquares:
    """How a projection is solved for that best matches the backpropagated error.

    With ``tangents`` the error is not backpropagated: each row of E P^+ is estimated from that many
    directional derivatives <E, v> of the global loss, as an estimate of unit weight

        d / m  sum_i <E, v_i> v_i  ("coordinates"),    1 / m  sum_i <E, v_i> v_i  (the others),

    in the d features of the pooled activity. All are unbiased. Their variance over the squared norm
    of the row is d/m - 1, (d - 1)/m and (d + 1)/m in this order, so all d coordinates are exact. A
    directional derivative is a forward-mode product (Baydin et al. 2022, arXiv 2202.08587; of
    activities: Ren et al. 2022, arXiv 2210.03310); `LocalTrainer` runs no backward pass above the
    block for it. Where the error is known, as in `align`, the same estimate is taken from it.

    Attributes:
        ridge: a penalty on what B sends, relative to the mean squared singular value of S. One that
            is below the squared rounding error of the activities is raised to it, because contexts
            differ by rounding in these directions; 0 stays 0.
        decay: the weight that earlier batches keep when one is added; 0 keeps the last batch only.
        tangents: m, how many directional derivatives of each row estimate the error; None
            backpropagates it.
        kind: how tangents are drawn: different "coordinates" for each row, entries that are
            random "signs", or "normal" entries.

    Raises:
        ValueError: ridge is negative, decay is not in [0, 1), tangents are fewer than 1, or a kind
            is unknown.
    """

    ridge: float = 1e-6
    decay: float = 0.0
    tangents: int | None = None
    kind: TangentKind = "coordinates"

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.not_negative, "ridge")
        inputs.keep(self, inputs.share, "decay")
        if self.decay == 1:
            raise ValueError("decay must be below 1: with 1 no batch would ever count.")
        if self.tangents is not None:
            inputs.keep(self, partial(inputs.whole, least=1), "tangents")
        if not inputs.is_one_of(self.kind, get_args(TangentKind)):
            raise ValueError(
                f"kind must be one of {', '.join(get_args(TangentKind))}, got {self.kind!r}."
            )


class Regression(nn.Module):
    """T ~ S X by least squares, of a batch alone or of all batches with fading weights.

    Args:
        columns: the number of columns of S.
        targets: the number of columns of T.
        how: ridge and decay.
    """

    design: Tensor
    target: Tensor

    def __init__(self, columns: int, targets: int, how: LeastSquares) -> None:
        super().__init__()
        self.ridge, self.decay = how.ridge, how.decay
        if self.decay:
            self.register_buffer("design", torch.zeros(columns, columns))
            self.register_buffer("target", torch.zeros(columns, targets))

    @torch.no_grad()
    def fit(
        self,
        design: Tensor,
        target: Tensor,
        rank: int | None = None,
        metric: Tensor | None = None,
        rounding: float = 0.0,
    ) -> Tensor:
        """Take the rows of a batch into account, and solve.

        In the sum of squares the batch weighs 1 - decay, and what was there decay times as much as
        before.

        Args:
            design: (rows, columns) S.
            target: (rows, targets) T.
            rank: as for `solution`.
            metric: as for `solution`.
            rounding: the relative rounding error of the activities.

        Returns:
            B = X^T, (targets, columns).

        Raises:
            FloatingPointError: an entry is not finite. Nothing was changed.
        """
        wide = torch.promote_types(design.dtype, torch.float32)
        design, target = design.to(wide), target.to(wide)
        if not bool(design.isfinite().all() & target.isfinite().all()):
            raise FloatingPointError(
                "The backpropagated error, or the slopes of the last block's loss, are not finite, "
                "so no projection matches them. Are inputs or weights not finite? Lower the "
                "learning rate, or use a wider precision."
            )
        if self.decay:
            old, new = self.decay**0.5, (1 - self.decay) ** 0.5
            stacked = torch.cat([self.design.to(wide) * old, design * new])
            targets = torch.cat([self.target.to(wide) * old, target * new])
            q, design = torch.linalg.qr(stacked)
            target = q.T @ targets
            self.design.copy_(design)
            self.target.copy_(target)
        ridge = self.ridge and max(self.ridge, rounding**2)
        return solution(design, target, ridge, rank, metric)


def solution(
    design: Tensor,
    target: Tensor,
    ridge: float,
    rank: int | None = None,
    metric: Tensor | None = None,
) -> Tensor:
    """B = X^T of least squares T ~ S X, of at most the given rank.

    With F = Q^T [T; 0] for [S; strength^(1/2) I] = Q R, the minimiser is R^-1 F, and what a B of
    lower rank adds to the sum of squares is the squared distance of its own F. So the best one
    projects the minimiser on the leading right singular vectors of F (reduced-rank regression,
    Izenman 1975; with a ridge, Mukherjee & Zhu 2011), and not on those of B.

    Args:
        design: (rows, columns) S.
        target: (rows, targets) T.
        ridge: strength over the mean squared singular value of S. Without one, the B of least norm
            is taken of all that are best.
        rank: the largest rank; None for any.
        metric: (targets, targets) P P^T, in which distances are measured; None for the identity.

    Returns:
        (targets, columns).
    """
    by_qr = ridge > 0 and len(design) >= design.shape[1]
    transposed, fitted = (_by_qr if by_qr else _by_svd)(design, target, ridge)
    if rank is None or rank >= min(transposed.shape):
        return transposed.T
    # ||X P||_F = ||X G||_F with P P^T = G G^T: the plain problem in the columns of X G.
    metric = torch.eye(target.shape[1]) if metric is None else metric
    root = torch.linalg.cholesky(metric.to(target))
    leading = torch.linalg.svd(fitted @ root, full_matrices=False)[2][:rank]
    nearest = (transposed @ root @ leading.T) @ leading
    return torch.linalg.solve_triangular(root, nearest, upper=False, left=False).T


def _by_qr(design: Tensor, target: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """X and F; a fifth of the time of singular values."""
    rows, columns = design.shape
    strength = ridge * design.square().sum() / columns
    # Without slopes S is zero, and X as well.
    root = strength.clamp(min=torch.finfo(design.dtype).tiny).sqrt()
    q, r = torch.linalg.qr(torch.cat([design, root * torch.eye(columns).to(design)]))
    fitted = q[:rows].T @ target
    return torch.linalg.solve_triangular(r, fitted, upper=True), fitted


def _by_svd(design: Tensor, target: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """X and F in the basis of the right singular vectors, also without a ridge and of few rows."""
    u, s, vt = torch.linalg.svd(design, full_matrices=False)
    squares = s.square() + ridge * s.square().mean()
    real = s > s[0] * max(design.shape) * torch.finfo(s.dtype).eps
    along = u.T @ target
    transposed = vt.T @ (torch.where(real, s / squares, 0)[:, None] * along)
    return transposed, torch.where(real, s / squares.sqrt(), 0)[:, None] * along


def of_all_processes(rows: Tensor) -> Tensor:
    """The rows of all processes, without a graph; as many come from each."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return rows
    parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def estimated(product: Product, rows: Tensor, how: LeastSquares, seed: int) -> Tensor:
    """An unbiased estimate of the rows t_k from m products <t_k, v> each.

    Args:
        product: maps tangents (rows, d) to (rows,) products <t_k, v_k>.
        rows: (rows, d), any of the shape, type and device of the estimate.
        how: how many tangents, and of which kind.
        seed: seeds the tangents, the same on every device.

    Returns:
        (rows, d), in float32 or wider.
    """
    count, features = rows.shape
    wide = torch.promote_types(rows.dtype, torch.float32)
    generator = torch.Generator().manual_seed(seed)
    tangents, coordinates = how.tangents or features, how.kind == "coordinates"
    if coordinates:
        tangents = min(tangents, features)
        order = torch.rand(count, features, generator=generator).argsort(1).to(rows.device)
    total = torch.zeros(count, features, dtype=wide, device=rows.device)
    for i in range(tangents):
        if coordinates:
            v = nn.functional.one_hot(order[:, i], features).to(total)
        else:
            v = torch.randn(count, features, generator=generator).to(total)
            v = torch.where(v < 0, -1.0, 1.0).to(total) if how.kind == "signs" else v
        total += product(v)[:, None] * v
    return total * ((features if coordinates else 1) / tangents)
