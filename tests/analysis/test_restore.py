"""What a measurement may not change comes back as it was."""

import copy
import random
from collections import deque
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from linlocal.analysis import AlignmentRecorder, GlobalTrainer, LocalTrainer, align
from linlocal.analysis.block import resolve
from linlocal.analysis.local_losses import CLAPP
from linlocal.analysis.watching import audit_locality, masked_gradients, survey, untouched

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


@dataclass
class State:
    initialised: bool = False


class Stateful(nn.Module):
    """Everything that a forward pass may change about its module."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer1 = nn.Sequential(nn.Linear(5, 4), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        self.register_buffer("scale", torch.ones(()))
        self.gain = nn.Parameter(torch.ones(5))
        self.initialised, self.state, self.seen = False, State(), torch.zeros(2)
        self.space = SimpleNamespace(passes=0)
        self.history, self.recent, self.sizes = [], deque(maxlen=2), {"all": [1]}
        self.names, self.counts = {"a"}, np.zeros(2)
        self.generator = torch.Generator().manual_seed(1)
        self.random, self.numpy = random.Random(1), np.random.default_rng(1)
        self.hidden = [nn.BatchNorm1d(5)]

    def forward(self, x):
        if not self.initialised:
            self.gain.data.copy_(1 / (1 + x.detach().std(0)))
            self.initialised = self.state.initialised = True
            self.made_later = x.detach().mean(0)
        self.scale = 0.9 * self.scale + 0.1 * x.detach().abs().mean()
        self.seen += 1
        self.space.passes += 1
        self.history.append(len(x))
        self.recent.append(len(x))
        self.sizes["all"].append(len(x))
        self.sizes["last"] = len(x)
        self.names.add("b")
        self.counts += 1
        torch.rand(1, generator=self.generator)
        self.random.random()
        self.numpy.random()
        random.random()
        np.random.random()  # noqa: NPY002
        self.hidden[0](x)
        return self.layer2(self.layer1(x * self.gain / (1 + self.scale)))


def state_of(model):
    return {
        "tensors": {n: t.tolist() for n, t in model.state_dict().items()},
        "attributes": sorted(vars(model)),
        "plain": (model.initialised, model.state, model.seen.tolist(), model.space),
        "containers": (model.history, [*model.recent], model.sizes, model.names),
        "arrays": model.counts.tolist(),
        "generators": (model.generator.get_state().tolist(), model.random.getstate()),
        "numpy": model.numpy.bit_generator.state,
        "global": (random.getstate(), np.random.get_state()[1].tolist()),  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "hidden": model.hidden[0].running_mean.tolist(),
        "modes": [m.training for m in model.modules()],
    }


def views():
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(0))


INSTRUMENTS = {
    "align": lambda model: align(model, None, CLAPP(), views()[:4], views()[4:]),
    "masked_gradients": lambda model: masked_gradients(model, views(), torch.sum),
    "audit_locality": lambda model: audit_locality(model, None, CLAPP(), views()),
    "survey": lambda model: survey(model, resolve(model), torch.zeros(2, 5)),
    "LocalTrainer": lambda model: LocalTrainer(model, None, CLAPP(), shape=(5,)),
    "GlobalTrainer": lambda model: GlobalTrainer(model, None, CLAPP(), shape=(5,)),
}


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_nothing_of_the_model_changes(name):
    model = Stateful()
    before = copy.deepcopy(state_of(model))
    kept = {n: id(t) for n, t in [*model.named_parameters(), *model.named_buffers()]}
    INSTRUMENTS[name](model)
    assert state_of(model) == before
    assert kept == {n: id(t) for n, t in [*model.named_parameters(), *model.named_buffers()]}
    model(views())
    assert state_of(model) != before


class Replacing(Stateful):
    def __init__(self, what):
        super().__init__()
        self.what = what

    def forward(self, x):
        if not self.initialised:
            if self.what == "gain":
                self.gain = nn.Parameter(1 / x.detach().std(0))
            elif self.what == "shift":
                self.shift = nn.Parameter(x.detach().mean(0))
            else:
                self.head = nn.Linear(5, 5)
            self.initialised = True
        return self.layer2(self.layer1(x * self.gain))


@pytest.mark.parametrize(
    "name", sorted(INSTRUMENTS.keys() - {"audit_locality"})
)  # it audits a copy
@pytest.mark.parametrize("what", ["gain", "shift", "head"])
def test_parameters_that_a_first_pass_makes_are_refused_until_it_has_run(what, name):
    model = Replacing(what)
    before = copy.deepcopy(state_of(model))
    with pytest.raises(
        ValueError, match=rf"makes or replaces {what} of a Replacing.*model\(batch\)"
    ):
        INSTRUMENTS[name](model)
    assert state_of(model) == before
    model(views())
    INSTRUMENTS[name](model)


@pytest.mark.parametrize("name", [*INSTRUMENTS, "recorder"])
def test_lazy_modules_are_refused_until_they_have_run(name):
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(3))
    call = INSTRUMENTS.get(name, lambda model: AlignmentRecorder(model, rule=CLAPP()))
    with pytest.raises(
        ValueError, match=r"0 \(LazyLinear\) has no weights before .*model\(batch\)"
    ):
        call(model)
    assert all(map(is_lazy, model.parameters()))
    model(views())
    call(model)


def test_weights_that_are_not_kept_stay_as_they_were_written():
    model = nn.Linear(2, 2)
    with untouched(model, weights=False):
        model.weight.data.zero_()
    assert not model.weight.any()
    with untouched(model):
        model.weight.data.fill_(1)
        model.bias.data = torch.zeros(3)
    assert not model.weight.any()
    assert model.bias.shape == (2,)


def test_records_may_stay():
    model = Stateful()
    with untouched(model, records=False):
        model(views())
    assert (model.history, [*model.recent], model.names) == ([8], [8], {"a", "b"})
    assert (model.initialised, model.state, model.space.passes) == (False, State(), 0)
    assert [*model.sizes] == ["all"]
    assert torch.equal(model.gain, torch.ones(5))


class Normalised(nn.Sequential):
    """Scales its inputs by the first batch that it sees."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
        self.register_buffer("scale", torch.ones(()))
        self.initialised = False

    def forward(self, x):
        if not self.initialised:
            self.scale = 1 / x.detach().std()
            self.initialised = True
        return super().forward(x * self.scale)


def test_the_first_step_initialises_a_network_as_its_own_pass_does():
    weights = []
    for first in (False, True):
        model = Normalised()
        trainer = LocalTrainer(model, None, CLAPP(context="top"), shape=(5,))
        if first:
            model(10 * views())
        trainer.step(10 * views())
        assert model.initialised
        assert model.scale == 1 / (10 * views()).std()
        weights.append([p.tolist() for p in model.parameters()])
    assert weights[0] == weights[1]


def test_what_a_graph_holds_is_put_back_by_name_only():
    model = Scaled()
    model.kept = model.layer(X)
    kept = model.kept
    with untouched(model):
        model.kept = model(X)
    assert model.kept is kept
    kept.sum().backward()
