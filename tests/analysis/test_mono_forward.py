"""Mono-Forward: cross-entropy in every block, when it is backpropagation, and what it refuses."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import functional
from torch.nn import functional as F

import linlocal as ll
from linlocal.analysis import GlobalTrainer, LocalTrainer, align, audit_locality
from linlocal.analysis.local_losses import MonoForward
from linlocal.losses import CrossEntropy
from linlocal.testing import TOLERANCES

EXACT, VISIBLE = TOLERANCES["float64"], 1e-2
SGD = partial(torch.optim.SGD, lr=0.5)
LABELS = torch.tensor([0, 1, 2, 0, 2, 1, 1, 0])
RULE = MonoForward(classes=3)


def batch(*shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(LABELS), *shape, generator=generator, dtype=torch.float64)


X = batch(6)


def linear(*widths, isometric=False):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))).double()
    for layer in model:
        if isometric:
            nn.init.orthogonal_(layer.weight)
    return model


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Dropout(0.0)),
    ).double()


@pytest.mark.parametrize(
    ("shape", "pooling"),
    [((5,), 1), ((4, 5, 6), 1), ((4, 5, 6), "global"), ((4, 6, 6), 2), ((7, 5), 1)],
)
def test_value_and_gradients_are_those_of_numpy(shape, pooling):
    (loss,) = MonoForward(classes=3, pooling=pooling).build([shape], seed=4).double()
    z = batch(*shape).requires_grad_()
    pooled = loss.pool(z)
    by_pooled, by_matrix = torch.autograd.grad(
        loss(z, None, (z, LABELS)), [pooled, loss.matrix], allow_unused=True
    )
    assert by_pooled is None  # the loss pools anew
    by_here, by_matrix = torch.autograd.grad(loss(z, None, (z, LABELS)), [z, loss.matrix])
    readout, activity = loss.matrix.detach().numpy(), pooled.detach().numpy()
    numpy_loss = CrossEntropy(LABELS.numpy(), readout)
    assert float(loss(z, None, (z, LABELS)).detach()) == pytest.approx(
        numpy_loss.value(activity), rel=1e-12
    )
    (expected,) = torch.autograd.grad(pooled, z, torch.tensor(numpy_loss.gradient(activity)))
    torch.testing.assert_close(by_here, expected, rtol=1e-11, atol=1e-14)
    logits = activity @ readout.T
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - np.eye(3)[LABELS]
    np.testing.assert_allclose(by_matrix, share.T @ activity / len(z), rtol=1e-11, atol=1e-14)
    assert loss.scores(z).argmax(1).tolist() == logits.argmax(1).tolist()


# -- when it is backpropagation --------------------------------------------------------------------


def with_matrices(model, matrices):
    losses = RULE.build([(m.shape[1],) for m in matrices]).double()
    for loss, matrix in zip(losses, matrices, strict=True):
        loss.matrix.data.copy_(torch.as_tensor(matrix))
    return align(model, None, losses, X, batch=(X, LABELS)).relative_error.values


def test_matched_matrices_are_exact_for_all_weights():
    """M_l = M_L V_l: the scores of all layers are those of the top."""
    model = linear(6, 5, 7, 4)
    top = RULE.build([(4,)])[0].matrix.detach().double()
    matrices = [top]
    for layer in reversed([*model][1:]):
        matrices.insert(0, matrices[0] @ layer.weight.detach())
    assert with_matrices(model, matrices).max() <= EXACT
    shuffled = [matrices[0].roll(1, 0), *matrices[1:]]
    assert with_matrices(model, shuffled)[0] > VISIBLE


def optimal_matrix(z, penalty=0.1):
    """Newton's method for the penalised cross-entropy, which is strictly convex in M."""

    def loss(flat):
        matrix = flat.view(3, -1)
        return F.cross_entropy(z @ matrix.T, LABELS) + penalty / 2 * matrix.square().sum()

    flat = torch.zeros(3 * z.shape[1], dtype=torch.float64)
    for _ in range(12):
        slope, curvature = functional.jacobian(loss, flat), functional.hessian(loss, flat)
        flat = flat - torch.linalg.solve(curvature, slope)
    assert slope.norm() < 1e-13
    return flat.view(3, -1)


def optimal_errors(model):
    z, matrices = X, []
    for layer in model:
        z = layer(z).detach()
        matrices.append(optimal_matrix(z))
    return with_matrices(model, matrices)


def test_optimal_matrices_are_exact_above_an_isometry_and_not_elsewhere():
    assert optimal_errors(linear(6, 4, 5, 7, isometric=True)).max() <= 10 * EXACT
    assert optimal_errors(linear(6, 4, 5, 7))[:-1].min() > VISIBLE
    assert optimal_errors(linear(6, 6, 5, 3, isometric=True))[:-1].min() > VISIBLE  # narrowing


# -- by the instruments ----------------------------------------------------------------------------


def test_a_local_step_is_what_alignment_measures_and_stays_in_its_block():
    images = batch(2, 7, 7)
    model = convolutional()
    measured = align(model, None, RULE, images, batch=(images, LABELS))
    assert float(measured.cosine[-1]) == pytest.approx(1, abs=1e-12)
    trainer = LocalTrainer(model, None, RULE, shape=(2, 7, 7), optimiser=SGD)
    before = [[p.detach().clone() for p in block.parameters()] for block in model]
    trainer.step((images, LABELS))
    for block, kept, norm in zip(model, before, measured.local_norm.values, strict=True):
        moved = torch.cat(
            [(p - old).flatten() for p, old in zip(block.parameters(), kept, strict=True)]
        )
        assert float(moved.norm().detach()) == pytest.approx(0.5 * norm, rel=1e-9)
    report = audit_locality(convolutional(), None, RULE, images, batch=(images, LABELS))
    assert report.reached.values.tolist() == np.diag(report.parameters).tolist()


def test_its_backpropagation_is_supervised_learning():
    trainer = GlobalTrainer(convolutional(), None, RULE, shape=(2, 7, 7), optimiser=SGD)
    images, plain = batch(2, 7, 7), convolutional()
    head = trainer.losses[0].matrix.detach().clone()
    F.cross_entropy(plain(images).flatten(1) @ head.T, LABELS).backward()
    trainer.step((images, LABELS))
    for p, q in zip(plain.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(p.detach() - 0.5 * p.grad, q.detach(), rtol=1e-10, atol=1e-13)


def test_every_block_learns_to_classify():
    """Points around three centres: each block's own scores name the class in the end."""
    model = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(3))).double()
    torch.manual_seed(0)
    centres = 3 * torch.randn(3, 6, dtype=torch.float64)
    x = centres[LABELS] + 0.1 * X
    trainer = LocalTrainer(model, None, RULE, shape=(6,), optimiser=SGD)
    first = trainer.step((x, LABELS))
    for _ in range(60):
        last = trainer.step((x, LABELS))
    z = x
    for (number, loss), judge, block in zip(last.items(), trainer.losses, model, strict=True):
        z = block(z)
        assert loss < 0.2 * first[number]
        assert judge.scores(z).argmax(1).tolist() == LABELS.tolist()


REFUSED = {
    "a label too many": ((X, LABELS + 1), r"go from 1 to 3, but this loss has 3 classes"),
    "a label below 0": ((X, LABELS - 100), r"go from -100 to -98, but this loss has 3"),
    "no labels": (X, "reads labels: give it batches"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_do_not_fit_are_refused(case):
    given, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        align(linear(6, 5, 4), None, RULE, X, batch=given)


def test_theory_says_where_a_rule_of_labels_belongs():
    pairs = ll.Pairs.from_views(X.numpy(), X.numpy())
    with pytest.raises(TypeError, match=r"MonoForward.*losses of a network's blocks"):
        ll.compare(ll.DeepLinear.uniform([6, 3]), pairs, RULE)
    with pytest.raises(ValueError, match=r"MonoForward reads labels.*local_losses.MonoForward"):
        ll.rules.from_name("MonoForward")
