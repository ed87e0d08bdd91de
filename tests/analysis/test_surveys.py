"""A survey shows shapes and parameters of blocks; local gradients in networks of the field."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from experiments.networks import encoders as networks
from linlocal.analysis.block import resolve
from linlocal.analysis.local_losses import CLAPP, Views
from linlocal.analysis.training import LocalTrainer
from linlocal.analysis.watching import survey as survey_of


class Shared(nn.Module):
    def __init__(self, shared):
        super().__init__()
        self.shared, self.added = shared, nn.Parameter(torch.ones(4))
        self.layer1 = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True))
        self.layer2 = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 4))

    def forward(self, x):
        x = self.layer1(x + self.added)
        return self.layer2(x + self.added if self.shared else x)


def survey(model, names=None):
    return survey_of(model, resolve(model, names), torch.ones(2, 4))


def test_a_parameter_between_blocks_belongs_to_the_one_above():
    model = Shared(False)
    found = survey(model)
    assert found.shapes == ((4,), (4,))
    assert [p is model.added for p in found.parameters[0]] == [True, False, False]
    assert len(found.parameters[1]) == 2
    with pytest.raises(ValueError, match=r"added is used by the blocks 'layer1' and 'layer2'"):
        survey(Shared(True))
    frozen = Shared(True)
    frozen.added.requires_grad_(False)
    assert [len(group) for group in survey(frozen).parameters] == [2, 2]


def test_a_survey_leaves_no_trace():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    random = torch.get_rng_state()
    assert survey(model, ["0", "3"]).shapes == ((3,), (2,))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        assert [len(group) for group in survey(model, ["0", "3"]).parameters] == [2, 4]


def detached(model, blocks, losses, x):
    """One graph with hooks that detach, one backward pass of the summed losses."""
    kept = []

    def hook(module, args, z):
        kept.append(z)
        return z.detach().clone()

    handles = [b.module.register_forward_hook(hook) for b in blocks]
    model(x)
    for handle in handles:
        handle.remove()
    sum(loss(z, kept[-1].detach()) for loss, z in zip(losses, kept, strict=True)).backward()


@pytest.mark.parametrize("name", ["resnet18", "vit", "vgg6"])
@pytest.mark.parametrize("rule", [Views(), CLAPP(score="softplus", context="top", rank=2)])
def test_gradients_in_networks_of_the_field(name, rule):
    if name != "vgg6" and find_spec("timm") is None:
        pytest.skip("timm and torchvision are not installed")
    options = {"vit": {"width": 0.1, "depth": 3}, "vgg6": {"width": 1 / 32}}.get(name, {})
    model = networks.build(name, image_size=8, **options).double()
    trainer = LocalTrainer(
        model, networks.block_names(name, options.get("depth")), rule, shape=(3, 8, 8)
    )
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    named = {n: p for m in (model, trainer.losses) for n, p in m.named_parameters()}
    trainer.backward(x)
    got = {n: p.grad for n, p in named.items()}
    model.zero_grad()
    trainer.losses.zero_grad()
    detached(model, trainer.blocks, trainer.losses, x)
    trained = {id(p) for group in trainer.parameters for p in group}
    for n, p in named.items():
        assert (p.grad is None) == (got[n] is None) == (id(p) not in trained), n
        if p.grad is not None:
            torch.testing.assert_close(got[n], p.grad, rtol=1e-10, atol=1e-12)
    # The stem belongs to the first block; a head to none.
    assert len(trained) >= sum(p.grad is not None for p in model.parameters()) > 0
