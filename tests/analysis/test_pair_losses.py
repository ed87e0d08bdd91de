"""Score functions and losses of pairs are those of the theory."""

import numpy as np
import pytest
import torch
from linlocal.analysis.local_losses.pair_losses import (
    CrossEntropy,
    TypeOne,
    TypeTwo,
    pair_scores,
    score_slope,
    score_value,
    without_diagonal,
)

import linlocal as ll
from linlocal import losses
from linlocal.losses import scores

SCORES = [
    scores.Linear(),
    scores.Softplus(0.3),
    scores.Hinge(0.7),
    scores.SmoothedHinge(0.7, 0.4),
]


@pytest.mark.parametrize("score", SCORES, ids=lambda s: type(s).__name__)
def test_scores_and_their_slopes_are_those_of_the_theory_and_of_autograd(score):
    kinks = torch.tensor([0.7, 0.7 - 0.4], dtype=torch.float64)
    m = torch.cat([torch.linspace(-60, 60, 4001, dtype=torch.float64), kinks]).requires_grad_()
    value = score_value(score, m)
    np.testing.assert_allclose(value.detach(), score.value(m.detach().numpy()), rtol=1e-12, atol=0)
    slope = score_slope(score, m.detach())
    np.testing.assert_allclose(slope, score.slope(m.detach().numpy()), rtol=1e-12, atol=0)
    (by_autograd,) = torch.autograd.grad(value.sum(), m)
    torch.testing.assert_close(by_autograd, slope, rtol=1e-10, atol=1e-20)


def vectors(seed=0, n=6, width=4):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, width)), rng.standard_normal((n, width))


LOSSES = {
    "type 2": (TypeTwo(scores.Softplus()), losses.TypeTwo(scores.Softplus())),
    "type 1": (TypeOne(scores.Softplus()), losses.TypeOne(scores.Softplus())),
    "cross-entropy": (CrossEntropy(0.6), losses.InfoNCE(0.6)),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("negatives", ["next", "all"])
def test_losses_are_those_of_the_theory(name, negatives):
    loss, theory = LOSSES[name]
    z, sent = vectors()
    count = 1 if negatives == "next" else len(z) - 1
    pairs = ll.Pairs.from_views(z, sent, num_negatives=count, directions="forward").directions[0]
    u = (z @ sent.T)[pairs.anchor_index, pairs.reference_index]
    expected = theory.value(theory.contrasts(pairs).apply(u), pairs)
    got = loss(*pair_scores(torch.tensor(z), torch.tensor(sent), negatives))
    assert got.item() == pytest.approx(expected, rel=1e-12)
    other = loss(*pair_scores(torch.tensor(z).roll(1, 0), torch.tensor(sent), negatives))
    assert other.item() != pytest.approx(expected, rel=1e-6)


def test_the_rows_without_the_diagonal():
    k = torch.arange(16).view(4, 4)
    expected = [[i * 4 + j for j in range(4) if j != i] for i in range(4)]
    assert without_diagonal(k).tolist() == expected


def test_scores_of_half_precision_are_summed_in_float32():
    z, sent = (torch.tensor(a, dtype=torch.bfloat16) for a in vectors(width=3000))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for negatives in ("next", "all"):
            half = pair_scores(z, sent, negatives)
            for got, expected in zip(
                half, pair_scores(z.double(), sent.double(), negatives), strict=True
            ):
                assert got.dtype == torch.float32
                torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-3)
