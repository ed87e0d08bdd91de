"""What a measurement may not change comes back as it was."""

import pytest
import torch
from torch import nn

from linlocal.analysis.watching import untouched

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


class Scaled(nn.Module):
    """A buffer that every pass assigns anew, and one that is None at first."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("later", None)

    def forward(self, x):
        self.scale = self.scale * 2
        return self.layer(x) * self.scale


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


def test_a_buffer_that_is_assigned_is_the_old_one_again():
    model = Scaled()
    scale = model.scale
    with untouched(model):
        model(X)
        assert model.scale == 2
    assert model.scale is scale
    assert scale == 1
    model(X)
    assert model.scale == 2


def test_modes_and_random_numbers_are_as_before():
    model = nn.Sequential(nn.Linear(5, 5), nn.Dropout().eval())
    with untouched(model):
        before = torch.rand(1)
        model.eval()
        model[1].train()
    assert [m.training for m in model.modules()] == [True, True, False]
    assert torch.equal(torch.rand(1), before)
