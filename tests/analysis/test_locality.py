"""The audit lets every rule pass and finds every way in which a loss can leave its block."""

import pytest
import torch
from torch import nn

from linlocal.analysis.local_losses import CLAPP, SCFF, ForwardForward, InfoNCE, PhyLL, Views
from linlocal.analysis.watching import LocalityError, audit_locality

RULES = {
    "CLAPP": CLAPP(),
    "direct feedback": CLAPP(context="top"),
    "both, low rank": CLAPP(context="both", rank=2, shared=False),
    "random": CLAPP(context="both", projection="random"),
    "InfoNCE": InfoNCE(context="top"),
    "PhyLL": PhyLL(),
    "SCFF": SCFF(),
    "Forward-Forward": ForwardForward(),
    "Views": Views(),
}


def network():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3), nn.Dropout(0.5), nn.Sigmoid()),
        nn.ReLU(inplace=True),
        nn.Sequential(nn.Conv2d(5, 6, 3)),
    )


BLOCKS = ["0", "1", "3"]


def inputs():
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_local(name):
    report = audit_locality(network(), BLOCKS, RULES[name], inputs())
    assert list(report["name"].values) == BLOCKS
    assert list(report["loss"].values) == list(report["block"].values) == [1, 2, 3]
    assert (report["parameters"].values == [4, 2, 2]).all()
    reached = report["reached"].values
    assert (reached.diagonal() == report["parameters"].values).all()
    assert reached.sum() == reached.trace()


def test_a_frozen_block_is_seen_as_well():
    model = network()
    model[1].requires_grad_(False)
    report = audit_locality(model, BLOCKS, Views(), inputs())
    assert report["reached"].values.diagonal().tolist() == [4, 2, 2]
    assert not any(p.requires_grad for p in model[1].parameters())


@pytest.mark.parametrize("switched_off", [torch.no_grad, torch.inference_mode])
def test_a_leak_is_found_where_gradients_are_switched_off_or_the_top_is_frozen(switched_off):
    model = network()
    model[3].requires_grad_(False)
    with switched_off():
        x = inputs()
        with pytest.raises(LocalityError, match="reaches parameters of block 3"):
            audit_locality(model, BLOCKS, LeakyRule(detach=False), x)
        audit_locality(model, BLOCKS, LeakyRule(detach=True), x)


def test_the_audit_leaves_everything_as_it_was():
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    audit_locality(model, BLOCKS, CLAPP(), inputs())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class LeakyLoss(nn.Module):
    def __init__(self, detach):
        super().__init__()
        self.detach = detach

    def forward(self, here, top):
        top = top.detach() if self.detach else top
        return here.mean() * top.mean()


class LeakyRule:
    def __init__(self, detach):
        self.detach = detach

    def build(self, shapes, seed=0):
        return nn.ModuleList(LeakyLoss(self.detach) for _ in shapes)


def test_a_rule_that_does_not_detach_the_top_is_found():
    message = (
        r"block 1 \(0\) reaches parameters of block 3 \(3\): 3.0.weight, 3.0.bias. .*top.detach"
    )
    with pytest.raises(LocalityError, match=message):
        audit_locality(network(), BLOCKS, LeakyRule(detach=False), inputs())
    audit_locality(network(), BLOCKS, LeakyRule(detach=True), inputs())


class Lower(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 4), nn.Linear(4, 4)

    def forward(self, x):
        self.kept = self.first(x)
        return self.second(self.kept)


class Upper(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, z, skip, source):
        return self.layer(z) + (source.kept if skip is None else skip)


class SkipNetwork(nn.Module):
    """A skip around the boundary of the blocks: an argument, or hidden behind their backs."""

    def __init__(self, hidden):
        super().__init__()
        self.lower, self.upper, self.hidden = Lower(), Upper(), hidden

    def forward(self, x):
        z = self.lower(x)
        return self.upper(z, skip=None if self.hidden else self.lower.kept, source=self.lower)


def test_a_skip_connection_around_a_boundary_is_found_unless_it_is_an_argument():
    x = inputs().flatten(1)[:, :5]
    message = (
        r"block 2 \(upper\) reaches .* block 1 \(lower\): "
        r"lower.first.weight, lower.first.bias. .*argument"
    )
    with pytest.raises(LocalityError, match=message):
        audit_locality(SkipNetwork(hidden=True), ["lower", "upper"], CLAPP(), x)
    audit_locality(SkipNetwork(hidden=False), ["lower", "upper"], CLAPP(), x)


def test_tied_weights_are_found():
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    audit_locality(model, ["0", "2"], Views(), inputs().flatten(1)[:, :5])
    model[2].weight = model[0].weight
    with pytest.raises(LocalityError, match=r"of block 2 \(2\): 2.weight. Both blocks share them"):
        audit_locality(model, ["0", "2"], Views(), inputs().flatten(1)[:, :5])


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "No blocks were named"),
        (["0", "9"], "no submodule '9'; nearest names: 0"),
        (["0", "0.0"], "'0' and '0.0' overlap, one lies inside the other"),
        (["0", "0"], "Block '0' is named twice"),
    ],
)
def test_blocks_that_are_none_are_refused(blocks, message):
    with pytest.raises(ValueError, match=message):
        audit_locality(network(), blocks, Views(), inputs())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x):
        return self.layer(self.layer(x))


def test_a_block_that_runs_twice_is_refused():
    with pytest.raises(RuntimeError, match=r"run once each.* they ran as layer, layer"):
        audit_locality(Twice(), ["layer"], Views(), inputs().flatten(1)[:, :5])
