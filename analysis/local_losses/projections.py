"""The projection B of a scored pair u = z^T B c: full or of low rank, within a budget."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ProjectionModule(nn.Module):
    """c -> B c with B = M, or B = left right of low rank; no bias.

    Drawn uniformly on +-1/sqrt(features), the published baseline (Wu et al. 2026, arXiv
    2601.21683); the entries of a product have the same variance.

    Args:
        features: of z, rows of B.
        context: features of c, columns of B.
        rank: of the product, or None for a full matrix.
        generator: of the initial values.
    """

    def __init__(
        self, features: int, context: int, rank: int | None, generator: torch.Generator
    ) -> None:
        super().__init__()
        inner = context if rank is None else rank
        left = torch.empty(features, inner)
        self.left = nn.Parameter(left.uniform_(-1, 1, generator=generator) / features**0.5)
        self.right: nn.Parameter | None = None
        if rank is not None:
            right = torch.empty(rank, context)
            spread = (3.0 / rank) ** 0.5
            self.right = nn.Parameter(right.uniform_(-spread, spread, generator=generator))

    @property
    def matrix(self) -> Tensor:
        """B, (features, context)."""
        return self.left if self.right is None else self.left @ self.right

    def forward(self, c: Tensor) -> Tensor:
        """B c of each row of (samples, context): (samples, features).

        Raises:
            ValueError: c has not as many features as B has columns.
        """
        factors = [self.left] if self.right is None else [self.right, self.left]
        if c.shape[1] != factors[0].shape[1]:
            raise ValueError(
                f"A pooled context has {c.shape[1]} features, but its projection was built for "
                f"{factors[0].shape[1]}: images of another size, or other blocks; build the rule "
                "with the shapes of these outputs."
            )
        for factor in factors:
            c = nn.functional.linear(c, factor)
        return c

    def squared_norm(self) -> Tensor:
        """||B||_F^2; of a product as tr(left^T left right right^T), which never forms it."""
        if self.right is None:
            return self.left.square().sum()
        return ((self.left.T @ self.left) * (self.right @ self.right.T)).sum()


def num_parameters(features: int, context: int, rank: int | None) -> int:
    """Parameters of a `ProjectionModule`; rank None is the full matrix."""
    return features * context if rank is None else rank * (features + context)


def useful_rank(features: int, context: int, rank: int | None) -> int | None:
    """The rank, or None where the full matrix has no more parameters than the product."""
    full = num_parameters(features, context, None)
    return None if rank is None or num_parameters(features, context, rank) >= full else rank


def rank_within(budget: int, sides: Sequence[tuple[int, int]]) -> int:
    """The largest common rank with which projections of these (features, context) fit a budget.

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
