"""The projection B of a scored pair u = z^T B c: full or of low rank, within a budget."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ProjectionModule(nn.Module):
    """The map c -> B c without bias, where B is a full matrix or a product of low rank.

    The entries of a full B are drawn uniformly on +-1/sqrt(features), the published baseline (Wu et
    al. 2026, arXiv 2601.21683); those of a product B = left right have the same variance.

    Args:
        features: the number of features of z, which is that of rows of B.
        context: the number of features of c, which is that of columns of B.
        rank: the rank of the product, or None for a full matrix.
        generator: draws the initial values.
        solved: whether B is set and never trained: its matrices are then buffers.
    """

    left: Tensor
    right: Tensor | None

    def __init__(
        self,
        features: int,
        context: int,
        rank: int | None,
        generator: torch.Generator,
        *,
        solved: bool = False,
    ) -> None:
        super().__init__()
        inner = context if rank is None else rank
        left = torch.empty(features, inner)
        self._hold("left", left.uniform_(-1, 1, generator=generator) / features**0.5, solved)
        if rank is None:
            self.right = None
            return
        right = torch.empty(rank, context)
        spread = (3.0 / rank) ** 0.5
        self._hold("right", right.uniform_(-spread, spread, generator=generator), solved)

    def _hold(self, name: str, value: Tensor, solved: bool) -> None:
        if solved:
            self.register_buffer(name, value)
        else:
            self.register_parameter(name, nn.Parameter(value))

    @property
    def matrix(self) -> Tensor:
        """B, (features, context)."""
        return self.left if self.right is None else self.left @ self.right

    @property
    def sides(self) -> tuple[int, int]:
        """(features, context)."""
        return len(self.left), (self.left if self.right is None else self.right).shape[1]

    @torch.no_grad()
    def set_to(self, matrix: Tensor) -> None:
        """Set B; where it is a product of low rank, to the best approximation of that rank."""
        if self.right is None:
            self.left.copy_(matrix)
            return
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        root = s[: len(self.right)].sqrt()
        self.left.copy_(u[:, : len(root)] * root)
        self.right.copy_(root[:, None] * vt[: len(root)])

    def forward(self, c: Tensor) -> Tensor:
        """B c for each row c.

        Args:
            c: (samples, context).

        Returns:
            (samples, features).

        Raises:
            ValueError: c does not have as many features as B has columns.
        """
        factors = [self.left] if self.right is None else [self.right, self.left]
        if c.shape[1] != factors[0].shape[1]:
            raise ValueError(
                f"A pooled context has {c.shape[1]} features, but its projection was built for "
                f"{factors[0].shape[1]}. Are these images of another size, or other blocks? Build "
                "the rule with the shapes of these outputs."
            )
        dtype = factors[0].dtype
        if c.dtype != dtype and not torch.is_autocast_enabled(c.device.type):
            c = c.to(dtype)  # the top may have another precision than this block
        for factor in factors:
            c = nn.functional.linear(c, factor)
        return c

    def squared_norm(self) -> Tensor:
        """||B||_F^2; a product is never formed, its norm is tr(left^T left right right^T)."""
        if self.right is None:
            return self.left.square().sum()
        return ((self.left.T @ self.left) * (self.right @ self.right.T)).sum()


class DownstreamProjection(ProjectionModule):
    """The map c -> V^T M c or c -> V^T M V c, of which M is trained: B in the downstream metric.

    V = [J, b] maps a pooled block with a constant feature, (z, 1), to J z + b, which is near the
    pooled top: J is the averaged Jacobian, and biases above the block stand in b.
    `ScoredPairs.set_downstream` sets it. The squared norm is that of M (statement 4 of
    docs/theory.md).

    Args:
        features: the number of features of z.
        top_features: the number of features of the pooled top, which is that of rows of V.
        context: the number of features that M reads.
        rank: as for `ProjectionModule`, of M.
        generator: draws the initial values of M.
        same: whether the context is of the same block, so that it passes V too.
    """

    downstream: Tensor

    def __init__(
        self,
        features: int,
        top_features: int,
        context: int,
        rank: int | None,
        generator: torch.Generator,
        *,
        same: bool,
    ) -> None:
        super().__init__(top_features, context, rank, generator)
        self.same = same
        self.register_buffer("downstream", torch.full((top_features, features + 1), torch.nan))
        self._measured = False

    @property
    def matrix(self) -> Tensor:
        """B with the constant features, (features + 1, context); context + 1 of the same block."""
        left = self.downstream.T @ super().matrix
        return left @ self.downstream if self.same else left

    def set_to(self, matrix: Tensor) -> None:
        raise ValueError(
            "B is bound to V^T M V or V^T M by its penalty in the downstream metric, so it cannot "
            'be set: take the penalty in the metric "frobenius".'
        )

    def forward(self, c: Tensor) -> Tensor:
        """B c for each row c.

        Args:
            c: (samples, context).

        Returns:
            (samples, features + 1); the last column belongs to the constant feature of z.

        Raises:
            ValueError: as `ProjectionModule`.
            RuntimeError: V was not measured.
        """
        if not (self._measured or self.downstream.is_meta):
            self._measured = bool(self.downstream.isfinite().all())
            if not self._measured:
                raise RuntimeError(
                    "The penalty in the downstream metric needs the averaged Jacobian of the "
                    "blocks above, which is not measured yet or is not finite: LocalTrainer "
                    "measures it by itself; elsewhere call watching.measure_downstream(model, "
                    "blocks, losses, views) with the losses that rule.build returned."
                )
        if self.same:
            c = nn.functional.linear(with_constant(c.to(self.downstream.dtype)), self.downstream)
        return nn.functional.linear(super().forward(c), self.downstream.T)


def with_constant(z: Tensor) -> Tensor:
    """Rows z with a constant feature 1 behind the last one."""
    return torch.cat([z, torch.ones_like(z[..., :1])], -1)


def num_parameters(features: int, context: int, rank: int | None) -> int:
    """The number of parameters of a `ProjectionModule`; rank None is the full matrix."""
    return features * context if rank is None else rank * (features + context)


def useful_rank(features: int, context: int, rank: int | None) -> int | None:
    """The rank, or None where the full matrix has no more parameters than the product."""
    full = num_parameters(features, context, None)
    return None if rank is None or num_parameters(features, context, rank) >= full else rank


def rank_within(budget: int, sides: Sequence[tuple[int, int]]) -> int:
    """The largest common rank with which all projections fit a budget.

    Args:
        budget: the number of parameters that all projections together may have.
        sides: (features, context) of each projection.

    Raises:
        ValueError: not even rank 1 fits.
    """

    def total(rank: int) -> int:
        return sum(num_parameters(f, c, useful_rank(f, c, rank)) for f, c in sides)

    low, high = 0, max(min(f, c) for f, c in sides)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if total(middle) <= budget else (low, middle - 1)
    if low == 0:
        raise ValueError(
            f"A budget of {budget} parameters is too small: rank 1 in every block takes "
            f"{total(1)}; raise the budget, or pool to fewer cells."
        )
    return low
