"""Least-squares projections: nearest to the backpropagated error, in closed form."""

import numpy as np
import pytest
import torch
from torch import nn

from linlocal.analysis import align
from linlocal.analysis.local_losses import CLAPP, Cells, LeastSquares, PhyLL, Window, least_squares
from linlocal.analysis.watching import errors_below

SAMPLES = 12


def convolutional(activation=nn.ReLU):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), activation()),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), activation()),
        nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), activation()),
    ).double()


def views(seed=1, n=SAMPLES):
    return torch.randn(2 * n, 2, 7, 7, generator=torch.Generator().manual_seed(seed)).double()


def run(model, losses, x):
    """Outputs of all blocks, and the backpropagated errors of the last loss below the last."""
    z, outputs = x, []
    for block in model:
        z = block(z)
        outputs.append(z)
    top = z.detach().requires_grad_()
    (error,) = torch.autograd.grad(losses[-1].activity_loss(top, None), top)
    return outputs, errors_below(outputs, error)


def hybrid(loss, here, top, slopes):
    leaf = here.detach().requires_grad_()
    return torch.autograd.grad(loss.pulled(leaf, top, slopes), leaf)[0]


OPTIONS = {
    "same": {},
    "top": {"context": "top"},
    "both": {"context": "both"},
    "each": {"context": "each"},
    "a B for each direction": {"shared": False},
    "all negatives": {"negatives": "all", "context": "top"},
    "stacked": {"negatives": "stacked", "pooling": Window(2)},
    "cells that overlap": {"pooling": Cells(3), "context": "top"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_no_other_projection_is_nearer_to_the_backpropagated_error(name):
    """Checked by plain least squares over every entry of B, one error signal for each."""
    losses = CLAPP(score="softplus", **{"pooling": Cells(2), **OPTIONS[name]})
    losses = losses.build([(3, 7, 7), (4, 7, 7), (3, 7, 7)]).double()
    outputs, errors = run(convolutional(), losses, views())
    top = outputs[-1].detach()
    slopes = losses[-1].slopes(top, top)
    least_squares(losses, outputs, errors, ridge=0.0)
    for loss, here, error in zip(losses[:2], outputs[:2], errors, strict=True):
        entries = [b.left for directed in loss.projections for b in directed]
        found = torch.cat([b.detach().flatten() for b in entries])
        columns = []
        for k in range(len(found)):
            unit = torch.zeros_like(found)
            unit[k] = 1.0
            with torch.no_grad():
                for b, part in zip(entries, unit.split([b.numel() for b in entries]), strict=True):
                    b.copy_(part.view_as(b))
            columns.append(hybrid(loss, here, top, slopes).flatten().numpy())
        matrix = np.stack(columns, 1)
        wanted = error.flatten().numpy()
        best, *_ = np.linalg.lstsq(matrix, wanted, rcond=1e-12)
        left = np.linalg.norm(matrix @ best - wanted)
        assert left < 0.999 * np.linalg.norm(wanted)
        np.testing.assert_allclose(matrix @ found.numpy(), matrix @ best, atol=1e-10 * left)


def test_with_linear_scores_it_is_the_optimum_that_descent_looks_for():
    losses = CLAPP(score="linear", context="top", pooling=Cells(2))
    losses = losses.build([(3, 7, 7), (4, 7, 7), (3, 7, 7)]).double()
    outputs, errors = run(convolutional(), losses, views())
    below, top = losses[0], outputs[-1].detach()

    def slope():
        value = below.matching_loss(outputs[0], top, errors[0])
        return torch.autograd.grad(value, below.projections[0][0].left)[0].norm()

    before = slope()
    least_squares(losses, outputs, errors, ridge=0.0)
    assert slope() < 1e-10 * before


def test_in_a_linear_network_it_finds_the_matched_projection():
    """Enough samples, dense layers: B_l = V_l^T B_L, and nothing is left of the feedback term."""
    torch.manual_seed(0)
    sides = ((5, 6), (6, 4), (4, 3))
    model = nn.Sequential(*(nn.Linear(*side, bias=False) for side in sides)).double()
    x = torch.randn(40, 5).double()
    losses = CLAPP(score="softplus", context="top", pooling=1).build([(6,), (4,), (3,)]).double()
    outputs, errors = run(model, losses, x)
    before = align(model, None, losses, x, terms=True)
    least_squares(losses, outputs, errors, ridge=0.0)
    matched = model[2].weight.T @ losses[-1].projections[0][0].matrix
    torch.testing.assert_close(losses[1].projections[0][0].matrix, matched, rtol=1e-9, atol=1e-9)
    after = align(model, None, losses, x, terms=True)
    assert (before.error_cosine.isel(layer=slice(-1)) < 0.9).all()
    np.testing.assert_allclose(after.error_cosine, 1, atol=1e-9)


def test_batches_that_stay_are_one_batch_and_old_ones_fade():
    losses = CLAPP(score="softplus", context="top", pooling=Cells(2))
    losses = losses.build([(3, 7, 7), (4, 7, 7), (3, 7, 7)]).double()
    model, loss = convolutional(), losses[0]
    seen = [run(model, losses, views(seed)) for seed in range(8)]

    def solved(match, batches):
        for outputs, errors in batches:
            top = outputs[-1].detach()
            match.add(outputs[0], top, losses[-1].slopes(top, top), errors[0])
        match.solve()
        return loss.projections[0][0].matrix.detach().clone()

    latest = solved(LeastSquares(loss), seen[-1:])
    torch.testing.assert_close(solved(LeastSquares(loss), seen), latest)
    slow = solved(LeastSquares(loss, decay=0.9), seen)
    assert (slow - latest).norm() > 1e-3 * latest.norm()
    # Rows beyond the number of features are compressed, which must not show.
    weights = [0.9 ** (7 - k) * (0.1 if k else 1.0) for k in range(8)]
    rows = []
    for (outputs, errors), weight in zip(seen, weights, strict=True):
        top = outputs[-1].detach()
        design = loss.design(outputs[0].detach(), top, losses[-1].slopes(top, top)).flatten(0, 1)
        rows.append((weight**0.5 * design, weight**0.5 * loss.pool.lifted(errors[0])))
    design, target = (torch.cat([row[k] for row in rows]) for k in (0, 1))
    assert len(design) > design.shape[1]
    inner = design.T @ design
    strength = 1e-6 * inner.diagonal().mean() * torch.eye(len(inner))
    expected = torch.linalg.solve(inner + strength, design.T @ target).T
    torch.testing.assert_close(slow, expected, rtol=1e-6, atol=1e-8)


def test_a_product_of_low_rank_takes_the_nearest_one():
    rule = CLAPP(context="top", pooling=Cells(2), rank=2)
    b = rule.build([(3, 7, 7), (4, 7, 7), (3, 7, 7)]).double()[0].projections[0][0]
    assert b.right is not None
    matrix = torch.randn(b.matrix.shape).double()
    b.set_to(matrix)
    u, s, vt = torch.linalg.svd(matrix)
    torch.testing.assert_close(b.matrix.detach(), (u[:, :2] * s[:2]) @ vt[:2])


def test_what_has_no_projection_is_refused_in_words():
    identity = PhyLL().build([(6,), (6,)])
    with pytest.raises(ValueError, match="no B to be solved for"):
        LeastSquares(identity[0])
    loss = CLAPP(pooling=1).build([(6,), (6,)])[0]
    with pytest.raises(ValueError, match="below 1"):
        LeastSquares(loss, decay=1.0)
    with pytest.raises(RuntimeError, match="Add a batch"):
        LeastSquares(loss).solve()
    with pytest.raises(TypeError, match="scores no pairs"):
        least_squares(nn.ModuleList([nn.Identity(), loss]), [torch.zeros(4, 6)] * 2, [None])
