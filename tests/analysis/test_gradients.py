"""Error signals and local gradients from the graph of a running network."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from linlocal.analysis.local_losses import CLAPP, LocalLoss
from linlocal.analysis.local_losses.contract import PlainLoss
from linlocal.analysis.local_losses.projections import ProjectionModule
from linlocal.analysis.watching import error_signal, local_gradient

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def linear(*widths):
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))


class Count(torch.autograd.Function):
    """The identity, counting its backward passes."""

    calls = 0

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        Count.calls += 1
        return gradient


def test_a_local_gradient_runs_nothing_below_its_block():
    model = linear(5, 4, 3)
    Count.calls = 0
    z = model[1](Count.apply(model[0](X)))
    (local,) = local_gradient(z, [model[1].weight], torch.ones_like(z))
    assert Count.calls == 0
    z.sum().backward()
    assert Count.calls == 1
    torch.testing.assert_close(local, model[1].weight.grad)


def test_an_unused_parameter_has_a_zero_gradient():
    model = linear(5, 4)
    (gradient,) = local_gradient(model(X), [nn.Parameter(torch.ones(2))], torch.ones(4, 4))
    assert torch.equal(gradient, torch.zeros(2))


def test_trainable_parameters_without_a_graph_are_refused():
    with pytest.raises(RuntimeError, match="without a graph"):
        local_gradient(X, [nn.Parameter(torch.ones(2))], torch.ones_like(X))


class Spread(LocalLoss):
    def forward(self, here, top, batch=None):
        return here.square().sum(1)


class Nothing(LocalLoss):
    def forward(self, here, top, batch=None):
        return here.new_zeros(())


def test_a_local_loss_must_be_a_number():
    with pytest.raises(ValueError, match=r"Spread returned \(4,\)"):
        error_signal(Spread(), X, X, lambda value: value)


def test_a_loss_that_ignores_its_block_has_no_error():
    assert torch.equal(error_signal(Nothing(), X, X, lambda value: value), torch.zeros_like(X))


class Nought(nn.Module):
    def forward(self, here, top):
        return None


def test_a_local_loss_that_returns_no_tensor_says_so():
    with pytest.raises(ValueError, match=r"must return one number, Nought returned NoneType"):
        error_signal(PlainLoss(Nought()), X, X, lambda value: value)


def test_an_error_is_rescaled_as_the_loss_is():
    (loss,) = CLAPP().build([(5,)])
    plain, thrice = (error_signal(loss, X, X, lambda v, by=by: by * v) for by in (1, 3))
    torch.testing.assert_close(thrice, 3 * plain)


def test_a_penalty_on_projections_is_neither_in_the_error_nor_computed(monkeypatch):
    here, top = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1)).unbind()
    errors = []
    for penalty in (0.0, 10.0):
        (loss,) = CLAPP(context="same", penalty=penalty).build([(5,)], 0)
        errors.append(error_signal(loss, here, top, lambda value: value))
        assert penalty == 0 or bool(loss(here, top) > loss.activity_loss(here, top))
    assert torch.equal(*errors)
    assert errors[0].abs().sum() > 0
    monkeypatch.setattr(ProjectionModule, "squared_norm", lambda _: pytest.fail("computed"))
    error_signal(loss, here, top, lambda value: value)
