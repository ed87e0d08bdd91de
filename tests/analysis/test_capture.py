"""Block outputs by hooks: what is captured, what is refused, and that nothing stays behind."""

from collections import namedtuple
from itertools import pairwise

import pytest
import torch
from torch import nn

from linlocal.analysis.local_losses import CLAPP
from linlocal.analysis.local_losses.projections import ProjectionModule
from linlocal.analysis.watching import (
    capture,
    error_signal,
    local_gradient,
    output_shapes,
    untouched,
)

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def linear(*widths):
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))


def num_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


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


class Tupled(nn.Linear):
    kind = staticmethod(lambda z, extra: (z, extra))

    def forward(self, x):
        return self.kind(super().forward(x[0] if isinstance(x, tuple) else x), "state")


def test_outputs_are_those_of_the_blocks():
    model = linear(5, 4, 3)
    with capture(model) as outputs:
        final = model(X)
    assert list(outputs) == ["0", "1"]
    torch.testing.assert_close(outputs["0"], model[0](X), rtol=0, atol=0)
    torch.testing.assert_close(outputs["1"], final, rtol=0, atol=0)


def test_trap_in_place_activation_overwrites_the_copy_only():
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3))
    with capture(model, ["0", "2"]) as outputs:
        model(X)
    assert (outputs["0"] < 0).any()
    torch.testing.assert_close(outputs["0"], model[0](X), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [lambda z, s: (z, s), namedtuple("Output", "z state")])
def test_trap_outputs_that_are_tuples(kind, monkeypatch):
    monkeypatch.setattr(Tupled, "kind", staticmethod(kind))
    model = nn.Sequential(Tupled(5, 4), Tupled(4, 3))
    with capture(model) as outputs:
        final = model(X)
    assert type(final) is type(kind(0, 0))
    assert final[1] == "state"
    torch.testing.assert_close(outputs["1"], final[0], rtol=0, atol=0)


def test_an_output_that_is_no_tensor_is_refused(monkeypatch):
    monkeypatch.setattr(Tupled, "kind", staticmethod(lambda z, s: {"z": z}))
    model = nn.ModuleDict({"a": Tupled(5, 4)})
    model.forward = lambda x: model["a"](x)
    with capture(model, ["a"]), pytest.raises(ValueError, match="'a' returned dict"):
        model(X)


def test_trap_hooks_are_gone_after_an_exception():
    model = linear(5, 4, 3)
    with pytest.raises(KeyError), capture(model):  # noqa: PT012 - the exception is the test's own
        assert num_hooks(model) == 4
        raise KeyError
    assert num_hooks(model) == 0


def test_trap_a_block_that_runs_twice_is_refused():
    model = linear(5, 5, 5)
    model.forward = lambda x: model[1](model[0](model[0](x)))
    with capture(model), pytest.raises(RuntimeError, match="runs twice"):
        model(X)


def test_blocks_in_another_order_are_refused():
    model = linear(5, 5, 5)
    with capture(model, ["1", "0"]), pytest.raises(RuntimeError, match="must run once each"):
        model(X)


def test_a_block_that_did_not_run_is_named():
    model = linear(5, 5, 5)
    model.forward = lambda x: model[0](x)
    with capture(model), pytest.raises(RuntimeError, match="Block '1' did not run"):
        model(X)


def test_passes_without_gradients_do_not_count():
    model = linear(5, 4, 3)
    with capture(model) as outputs, torch.no_grad():
        model(X)
    assert outputs == {}


def test_output_shapes_leaves_the_network_as_it_was():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 3))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    assert output_shapes(model, None, X) == ((4,), (3,))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model(X)
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])


def test_untouched_restores_after_an_exception_too():
    model = nn.BatchNorm1d(5)
    with pytest.raises(KeyError), untouched(model):  # noqa: PT012 - as above
        model(X)
        torch.rand(1)
        raise KeyError
    assert torch.equal(model.running_mean, torch.zeros(5))


def test_a_restored_buffer_does_not_stop_a_graph_that_saved_it():
    model = nn.BatchNorm1d(5)
    z = model(X)
    with untouched(model):
        model(X)
    z.square().sum().backward()


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


class Spread(nn.Module):
    def forward(self, here, top):
        return here.square().sum(1)


class Nothing(nn.Module):
    def forward(self, here, top):
        return here.new_zeros(())


def test_a_local_loss_must_be_a_number():
    with pytest.raises(ValueError, match=r"Spread returned \(4,\)"):
        error_signal(Spread(), X, X, lambda value: value)


def test_a_loss_that_ignores_its_block_has_no_error():
    assert torch.equal(error_signal(Nothing(), X, X, lambda value: value), torch.zeros_like(X))


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
