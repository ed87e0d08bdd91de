"""Projections in closed form: nearest to the backpropagated error, or optimal for their loss."""

import numpy as np
import pytest
import torch
from torch import nn

import linlocal as ll
from linlocal import rules
from linlocal.analysis import align
from linlocal.analysis.local_losses import (
    CLAPP,
    Cells,
    InfoNCE,
    LeastSquares,
    PhyLL,
    Views,
    Window,
    least_squares,
    penalty_optimal,
)
from linlocal.analysis.local_losses.regression import solution
from linlocal.analysis.watching import errors_below

SAMPLES = 12
EXACT = LeastSquares(ridge=0.0)


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
    "stacked": {"negatives": "stacked", "pooling": Window(3)},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_no_other_projection_is_nearer_to_the_backpropagated_error(name):
    """Checked by plain least squares over every entry of B, one error signal for each."""
    losses = CLAPP(score="softplus", **{"pooling": Cells(2), **OPTIONS[name]})
    losses = losses.build([(3, 7, 7), (4, 7, 7), (3, 7, 7)]).double()
    outputs, errors = run(convolutional(), losses, views())
    top = outputs[-1].detach()
    slopes = losses[-1].slopes(top, top)
    least_squares(losses, outputs, errors, EXACT)
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


def by_double_backward(loss, here, top, error, steps=0):
    """||E - dL_l/dz_l||^2 as a function of B with the block's own slopes, after steps of L-BFGS."""
    (b,) = (p.left.detach().clone().requires_grad_() for p in loss.projections[0])

    def objective():
        leaf = here.detach().requires_grad_()
        z, _ = loss.directions(leaf, top)
        (context,) = loss.rows(here, top)[1:]
        sent = (context @ b.T).view_as(z).flip(0)
        positive, negative = (z * sent).sum(2), (z.roll(-1, 1) * sent).sum(2)
        score = loss.loss.score
        f = nn.functional.softplus if isinstance(score, ll.scores.Softplus) else (lambda m: m)
        margin = getattr(score, "margin", 0.0)
        value = (f(margin - positive).mean(1) + f(margin + negative).mean(1)).sum()
        (own,) = torch.autograd.grad(value, leaf, create_graph=True)
        return (own - error).square().sum()

    solver = torch.optim.LBFGS(
        [b],
        max_iter=max(1, steps),
        tolerance_grad=0,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def closure():
        b.grad = None
        value = objective()
        value.backward()
        return value

    if steps:
        solver.step(closure)
    value = objective()
    return b.detach(), value.item(), torch.autograd.grad(objective(), b)[0].norm().item()


@pytest.mark.parametrize("score", ["linear", "softplus"])
def test_it_is_the_theoretical_optimum_where_slopes_are_those_of_the_top(score):
    """The optimum of Wu et al. 2026 takes the block's own slopes, by descent through two backward
    passes. It is the closed form if the score is linear; elsewhere it is at least as near."""
    losses = CLAPP(score=score, context="top", pooling=Cells(2))
    losses = losses.build([(3, 7, 7), (4, 7, 7), (3, 7, 7)]).double()
    outputs, errors = run(convolutional(), losses, views())
    below, top = losses[0], outputs[-1].detach()
    _, start, before = by_double_backward(below, outputs[0], top, errors[0])
    least_squares(losses, outputs, errors, EXACT)
    _, closed, slope = by_double_backward(below, outputs[0], top, errors[0])
    assert closed < start
    _, descended, _ = by_double_backward(below, outputs[0], top, errors[0], steps=60)
    if score == "linear":
        assert slope < 1e-10 * before
        np.testing.assert_allclose(descended, closed, rtol=1e-10)
    else:
        assert slope > 1e-10 * before
        assert 0.9 * closed < descended < closed


def test_in_a_linear_network_it_finds_the_matched_projection():
    """Enough samples, dense layers: B_l = V_l^T B_L, and nothing is left of the feedback term."""
    torch.manual_seed(0)
    sides = ((5, 6), (6, 4), (4, 3))
    model = nn.Sequential(*(nn.Linear(*side, bias=False) for side in sides)).double()
    x = torch.randn(40, 5).double()
    losses = CLAPP(score="softplus", context="top", pooling=1).build([(6,), (4,), (3,)]).double()
    outputs, errors = run(model, losses, x)
    before = align(model, None, losses, x, terms=True)
    least_squares(losses, outputs, errors, EXACT)
    matched = model[2].weight.T @ losses[-1].projections[0][0].matrix
    torch.testing.assert_close(losses[1].projections[0][0].matrix, matched, rtol=1e-9, atol=1e-9)
    after = align(model, None, losses, x, terms=True)
    assert (before.error_cosine.isel(layer=slice(-1)) < 0.9).all()
    np.testing.assert_allclose(after.error_cosine, 1, atol=1e-9)


def test_batches_that_stay_are_one_batch_and_old_ones_fade():
    shapes = [(3, 7, 7), (4, 7, 7), (3, 7, 7)]
    model = convolutional()

    def solved(decay, seeds):
        rule = CLAPP(
            score="softplus",
            context="top",
            pooling=Cells(2),
            projection="least_squares",
            matching=LeastSquares(decay=decay),
        )
        losses, rows = rule.build(shapes).double(), []
        for seed in seeds:
            outputs, errors = run(model, losses, views(seed))
            top, loss = outputs[-1].detach(), losses[0]
            slopes = losses[-1].slopes(top, top)
            loss.match(outputs[0], top, slopes, errors[0])
            design = loss.design(outputs[0].detach(), top, slopes).flatten(0, 1)
            rows.append((design, loss.pool.lifted(errors[0])))
        return loss.projections[0][0].matrix.detach().clone(), rows

    latest, _ = solved(0.0, [7])
    torch.testing.assert_close(solved(0.0, range(8))[0], latest)
    slow, rows = solved(0.9, range(8))
    assert (slow - latest).norm() > 1e-3 * latest.norm()
    # Rows beyond the number of features are compressed, which must not show.
    weights = [0.9 ** (7 - k) for k in range(8)]
    design, target = (
        torch.cat([row[k] * w**0.5 for row, w in zip(rows, weights, strict=True)]) for k in (0, 1)
    )
    assert len(design) > design.shape[1]
    inner = design.T @ design
    strength = 1e-6 * inner.diagonal().mean() * torch.eye(len(inner))
    expected = torch.linalg.solve(inner + strength, design.T @ target).T
    torch.testing.assert_close(slow, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("ridge", [0.0, 0.3])
@pytest.mark.parametrize("pool", [Window(2), Cells(3)])
def test_no_other_product_of_this_rank_is_nearer(pool, ridge):
    """Checked by descent over both factors, with S, P and E as plain matrices."""
    rule = CLAPP(score="softplus", context="top", pooling=pool, rank=2)
    losses = rule.build([(3, 7, 7), (4, 7, 7), (3, 7, 7)]).double()
    outputs, errors = run(convolutional(), losses, views())
    loss, top, here = losses[1], outputs[-1].detach(), outputs[1]
    design = loss.design(here.detach(), top, losses[-1].slopes(top, top)).flatten(0, 1)
    unit = torch.eye(here[0].numel()).double().view(-1, *here.shape[1:])
    pooling, wanted = loss.pool(unit).T, errors[1].flatten(1)
    strength = ridge * torch.linalg.svdvals(design).square().mean()

    def away(b):
        sent = b.T @ pooling
        return (wanted - design @ sent).square().sum() + strength * sent.square().sum()

    least_squares(losses, outputs, errors, LeastSquares(ridge))
    b = loss.projections[0][0]
    found = away(b.matrix.detach()).item()
    factors = [p.detach().clone().requires_grad_() for p in (b.left, b.right)]
    slopes = torch.autograd.grad(away(factors[0] @ factors[1]), factors)
    assert max(g.norm().item() for g in slopes) < 1e-9
    # The singular values of B know neither S nor P, so cutting them off goes farther away.
    best = solution(design, loss.pool.lifted(errors[1]), ridge)
    b.set_to(best)
    assert away(best) < found < 0.999 * away(b.matrix.detach()).item()
    solver = torch.optim.LBFGS(
        factors, max_iter=100, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )
    with torch.no_grad():
        for p in factors:
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(3)) * 0.1)

    def closure():
        for p in factors:
            p.grad = None
        value = away(factors[0] @ factors[1])
        value.backward()
        return value

    solver.step(closure)
    assert found <= away(factors[0] @ factors[1]).item() * (1 + 1e-10)


def test_without_slopes_there_is_nothing_to_match():
    zero, rows = torch.zeros(9, 4).double(), torch.ones(9, 3).double()
    for ridge in (0.0, 1e-6):
        assert torch.equal(solution(zero, rows, ridge), torch.zeros(3, 4).double())


@pytest.mark.parametrize("pool", [Window(2), Cells(3)])
@pytest.mark.parametrize("shape", [(5,), (7, 5), (2, 7, 8)])
def test_lifting_placing_and_the_metric_are_of_one_pooling(pool, shape):
    """With P as a matrix: Z P^+, its transpose, and P P^T."""
    z = torch.randn(4, *shape).double()
    unit = torch.eye(z[0].numel()).double().view(-1, *shape)
    pooling = pool(unit).T
    inverse = torch.linalg.pinv(pooling)
    y = torch.randn(4, len(pooling)).double()
    torch.testing.assert_close(pool.lifted(z), z.flatten(1) @ inverse)
    torch.testing.assert_close(pool.placed(y, z).flatten(1), y @ inverse.T)
    assert pool.placed(y, z).shape == z.shape
    torch.testing.assert_close(pool.metric(shape), pooling @ pooling.T)


# -- penalty-optimal ------------------------------------------------------------------------------

PENALIZED = {
    "same": {},
    "top": {"context": "top"},
    "both": {"context": "both"},
    "each": {"context": "each"},
    "a B for each direction": {"shared": False},
    "stacked, overlapping cells": {"negatives": "stacked", "pooling": Cells(3)},
    "all negatives": {"negatives": "all"},
    "all negatives, a B for each direction": {"negatives": "all", "shared": False},
    "hinge": {"score": "hinge"},
}


@pytest.mark.parametrize("name", [*PENALIZED, "InfoNCE", "PhyLL"])
def test_the_penalty_optimum_is_that_of_the_loss_itself(name):
    """The loss is convex in B: its own derivative is zero there, and it is higher elsewhere."""
    shapes, options = [(3, 7, 7), (4, 7, 7), (3, 7, 7)], {"pooling": Cells(2), "penalty": 0.05}
    if name == "InfoNCE":
        rule = InfoNCE(context="top", **options)
    elif name == "PhyLL":
        rule = PhyLL(projection="trained", **options)
    else:
        rule = CLAPP(**{"score": "softplus", **options, **PENALIZED[name]})
    losses = rule.build(shapes).double()
    outputs = [z.detach() for z in run(convolutional(), losses, views())[0]]
    loss, here, top = losses[0], outputs[0], outputs[-1]

    def slope():
        taken = torch.autograd.grad(loss(here, top), list(loss.parameters()))
        return torch.stack([g.norm() for g in taken]).norm().item()

    before, value = slope(), loss(here, top).item()
    found = penalty_optimal(loss, here, top)
    assert max(each.residual for each in found) < 1e-13
    least = loss(here, top).item()
    assert least < value
    if name != "hinge":  # which has a kink at its optimum
        assert slope() < 1e-11 * before
    with torch.no_grad():
        for b in loss.parameters():
            b.mul_(1.01)
    assert loss(here, top).item() > least


def test_in_a_linear_network_it_is_the_optimum_of_the_theory():
    network, x = ll.DeepLinear.gaussian([5, 6, 4], seed=0), views()[:, 0, 0, :5]
    first, second = x.numpy()[:SAMPLES], x.numpy()[SAMPLES:]
    pairs = ll.Pairs.from_views(first, second)
    rule = rules.CLAPP_DFB("softplus", penalty=0.1)
    wanted = ll.projections(network, pairs, rule)
    losses = CLAPP(score="softplus", context="top", penalty=0.1, pooling=1, shared=False)
    losses = losses.build([(6,), (4,)]).double()
    first, second = (torch.from_numpy(np.array(w)) for w in network.weights)
    outputs = [x @ first.T, x @ first.T @ second.T]
    for loss, z, of_layer in zip(losses, outputs, wanted.matrices, strict=True):
        penalty_optimal(loss, z, outputs[-1])
        for directed, matrix in zip(loss.projections, of_layer, strict=True):
            np.testing.assert_allclose(directed[0].matrix.detach(), matrix, atol=1e-12)


def test_what_has_no_projection_is_refused_in_words():
    z, shapes = torch.randn(8, 6), [(6,), (6,)]
    identity, loss = PhyLL(pooling=1).build(shapes)[0], CLAPP(pooling=1, penalty=0).build(shapes)[0]
    slopes = loss.slopes(z, z)
    for solve in (
        lambda: identity.match(z, z, slopes, z, LeastSquares()),
        lambda: penalty_optimal(identity, z, z),
    ):
        with pytest.raises(ValueError, match="no B to be solved for"):
            solve()
    with pytest.raises(ValueError, match="below 1"):
        LeastSquares(decay=1.0)
    with pytest.raises(ValueError, match="kind must be one of coordinates, signs, normal"):
        LeastSquares(kind="columns")
    with pytest.raises(ValueError, match=r"shape of the block's output \(8, 6\), got \(8, 3\)"):
        loss.match(z, z, slopes, z[:, :3], LeastSquares())
    with pytest.raises(TypeError, match="scores no pairs"):
        least_squares(nn.ModuleList([nn.Identity(), loss]), [torch.zeros(4, 6)] * 2, [None])
    with pytest.raises(TypeError, match="scores no pairs"):
        penalty_optimal(Views().build(shapes)[0], z)
    with pytest.raises(ValueError, match="Without a penalty"):
        penalty_optimal(loss, z, z)
    with pytest.raises(ValueError, match="Over products of low rank"):
        penalty_optimal(CLAPP(pooling=1, rank=1).build(shapes)[0], z, z, penalty=1.0)
    with pytest.raises(ValueError, match="matching says how a matched projection is solved for"):
        CLAPP(matching=LeastSquares())
    with pytest.raises(ValueError, match="need tangents"):
        CLAPP(projection="least_squares", pooling=1).build(shapes)[0].match_forward(
            z, z, slopes, sum
        )


def test_an_error_that_is_not_finite_is_named_before_anything_changes():
    rule = CLAPP(projection="least_squares", pooling=1, matching=LeastSquares(decay=0.5))
    loss, last = rule.build([(6,), (6,)])
    z = torch.randn(8, 6)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    with pytest.raises(FloatingPointError, match="not finite"):
        loss.match(z, z, last.slopes(z, z), z * torch.nan)
    for name, value in loss.state_dict().items():
        assert torch.equal(value, before[name])
