"""A low-rank projection is its matrix, never formed; a budget takes the largest rank that fits."""

import pytest
import torch

from linlocal.analysis.local_losses.projections import (
    ProjectionModule,
    num_parameters,
    rank_within,
    useful_rank,
)


def projection(features, context, rank, seed=0):
    return ProjectionModule(features, context, rank, torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("rank", [None, 1, 3])
def test_a_projection_is_its_matrix(rank):
    b = projection(6, 9, rank)
    c = torch.randn(5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(b(c), c @ b.matrix.T, rtol=1e-12, atol=1e-12)
    assert b.squared_norm().item() == pytest.approx(b.matrix.square().sum().item(), rel=1e-12)
    assert torch.linalg.matrix_rank(b.matrix) == min(rank or 6, 6)
    assert sum(p.numel() for p in b.parameters()) == num_parameters(6, 9, rank)


@pytest.mark.parametrize("rank", [None, 1, 8, 40])
def test_entries_have_the_variance_of_the_published_baseline_at_every_rank(rank):
    features = 30
    drawn = [projection(features, 50, rank, seed).matrix for seed in range(40)]
    squares = [matrix.square().mean() for matrix in drawn]
    assert torch.stack(squares).mean().item() == pytest.approx(1 / (3 * features), rel=0.1)


@pytest.mark.parametrize("budget", [40, 77, 78, 155, 156, 300, 480, 10_000])
def test_a_budget_takes_the_largest_rank(budget):
    sides = [(12, 9), (5, 20), (16, 16)]

    def total(rank):
        return sum(num_parameters(f, c, useful_rank(f, c, rank)) for f, c in sides)

    if total(1) > budget:
        with pytest.raises(ValueError, match=f"budget of {budget} parameters is too small"):
            rank_within(budget, sides)
        return
    rank = rank_within(budget, sides)
    assert total(rank) <= budget
    assert total(rank + 1) > budget or total(rank + 1) == total(rank)


def test_a_product_with_more_parameters_than_the_matrix_is_no_use():
    assert useful_rank(6, 6, 2) == 2
    assert useful_rank(6, 6, 3) is None
    assert useful_rank(6, 6, None) is None
