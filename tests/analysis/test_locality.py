"""The audit lets every rule pass and finds every way in which a loss can leave its block."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

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


class Layer(nn.Linear):
    """A linear layer that runs in an unusual way."""

    def __init__(self, how, inputs=5, outputs=5):
        super().__init__(inputs, outputs)
        self.how = how

    def forward(self, x):
        layer = super().forward
        if self.how == "no_grad":
            return torch.no_grad()(layer)(x)
        if self.how == "inference_mode":
            return torch.inference_mode()(layer)(x)
        if self.how == "detached":
            return layer(x).detach()
        if self.how == "stopped":
            return Stop.apply(layer(x))
        if self.how == "reentrant checkpoint":
            return checkpoint(layer, x, use_reentrant=True)
        if self.how == "checkpoint":
            return checkpoint(layer, x, use_reentrant=False)
        if self.how == "dead":
            return torch.relu(layer(x) - 1e6)
        return layer(x)


class Stop(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return None


def rows():
    return torch.randn(8, 5, generator=torch.Generator().manual_seed(1))


def layers(*how):
    torch.manual_seed(0)
    return nn.Sequential(*map(Layer, how))


class Rule:
    """A rule from functions of a block's number, its output and the top."""

    def __init__(self, value):
        self.value = value

    def build(self, shapes, seed=0):
        return nn.ModuleList(Value(l, self.value) for l in range(1, len(shapes) + 1))


class Value(nn.Module):
    def __init__(self, l, value):
        super().__init__()
        self.l, self.value = l, value

    def forward(self, here, top):
        return self.value(self.l, here, top)


UNSEEN = {
    "no_grad": "under no_grad",
    "inference_mode": "inference_mode",
    "detached": "detached",
    "stopped": "a backward pass of its own stops",
    "reentrant checkpoint": "reentrant checkpoint",
}


# Whether the rule leaks into block 2 or not.
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("how", UNSEEN)
@pytest.mark.parametrize("detach", [True, False])
def test_a_block_through_which_nothing_would_be_seen_is_not_called_local(how, detach):
    message = rf"cannot call block 2 \(1\) local.* none of its 2 parameters.*{UNSEEN[how]}"
    with pytest.raises(LocalityError, match=message):
        audit_locality(layers("plain", how), ["0", "1"], LeakyRule(detach), rows())
    with pytest.raises(LocalityError, match=message):
        audit_locality(layers("plain", how, "plain"), None, Rule(lambda l, z, top: z.sum()), rows())


@pytest.mark.parametrize("how", ["dead", "checkpoint"])
def test_a_leak_is_found_where_its_gradient_is_zero_or_computed_again(how):
    model = layers("plain", how)
    with pytest.raises(LocalityError, match=r"block 1 .* reaches parameters of block 2"):
        audit_locality(model, None, LeakyRule(detach=False), rows())
    report = audit_locality(model, None, LeakyRule(detach=True), rows())
    assert report.reached.values.tolist() == [[2, 0], [0, 2]]
    times_zero = Rule(lambda l, z, top: z.mean() + 0 * top.mean())
    with pytest.raises(LocalityError, match=r"block 1 .* reaches parameters of block 2"):
        audit_locality(model, None, times_zero, rows())


NOTHING = {
    "a constant": (lambda l, z, top: torch.zeros(()), "it is a constant"),
    "a leaf": (lambda l, z, top: torch.zeros((), requires_grad=True), "does not depend"),
    "detached": (lambda l, z, top: z.detach().mean(), "detaches the block's output"),
    "a number": (lambda l, z, top: torch.tensor(z.mean().item()), "it is a constant"),
    "the top only": (lambda l, z, top: top.detach().mean(), "detaches"),
    "without gradients": (lambda l, z, top: torch.no_grad()(torch.mean)(z), "no graph"),
    "of one block only": (lambda l, z, top: z.mean() if l == 2 else z.detach().mean(), "detaches"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_a_loss_that_does_not_depend_on_its_block_shows_nothing(name):
    value, message = NOTHING[name]
    with pytest.raises(LocalityError, match=rf"cannot call block 1 \(0\) local.*{message}"):
        audit_locality(layers("plain", "plain"), None, Rule(value), rows())


def test_what_no_loss_reaches_is_counted():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.hidden = Layer("plain"), Layer("no_grad")
            self.unused = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.layer(x) + self.hidden(x)

    report = audit_locality(nn.Sequential(Partly(), Layer("plain")), ["0", "1"], Views(), rows())
    assert report.unseen.values.tolist() == [3, 0]
    assert (report.parameters - report.unseen).values.tolist() == [2, 2]


def test_a_network_that_is_frozen_is_audited_all_the_same():
    model = layers("plain", "plain").requires_grad_(False)
    assert audit_locality(model, None, Views(), rows()).reached.values.tolist() == [[2, 0], [0, 2]]
    with pytest.raises(LocalityError, match="reaches parameters of block 2"):
        audit_locality(model, None, LeakyRule(detach=False), rows())
    assert not any(p.requires_grad for p in model.parameters())


def test_blocks_without_parameters_are_refused():
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Sequential(nn.Tanh()))
    with pytest.raises(ValueError, match=r"Block '2' \(Sequential\) has no parameters"):
        audit_locality(model, ["0", "2"], Views(), rows())


@pytest.mark.parametrize("frozen", [True, False])
def test_a_rule_that_holds_on_to_the_network_is_found(frozen):
    model = layers("plain", "plain").requires_grad_(not frozen)

    def through_the_head(l, z, top):
        return z.mean() + (model[1](z.detach()).mean() if l == 1 else 0)

    with pytest.raises(LocalityError, match=r"block 1 \(0\) reaches parameters of block 2 \(1\)"):
        audit_locality(model, None, Rule(through_the_head), rows())


class Shared(nn.Module):
    """Both blocks scale their outputs by a parameter of neither."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.lower, self.upper = Scaled(self.scale), Scaled(self.scale)

    def forward(self, x):
        return self.upper(self.lower(x))


class Scaled(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.layer, self.scale = nn.Linear(5, 5), [scale]

    def forward(self, x):
        return self.layer(x) * self.scale[0]


def test_a_parameter_outside_the_blocks_that_two_losses_reach_is_found_unless_it_is_frozen():
    model = Shared()
    with pytest.raises(LocalityError, match="blocks 1, 2 all reach scale, which lies outside"):
        audit_locality(model, ["lower", "upper"], Views(), rows())
    model.scale.requires_grad_(False)
    audit_locality(model, ["lower", "upper"], Views(), rows())


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_a_network_that_holds_activities_of_an_earlier_pass_is_audited():
    model = SkipNetwork(hidden=False)
    model(rows())
    audit_locality(model, ["lower", "upper"], CLAPP(), rows())
    old = nn.Sequential(nn.utils.weight_norm(nn.Linear(5, 5)), nn.ReLU(), nn.Linear(5, 5))
    assert audit_locality(old, None, Views(), rows()).reached.values.tolist() == [[3, 0], [0, 2]]


def test_hooks_of_the_user_do_not_run_and_stay():
    model, seen = layers("plain", "plain"), []
    model[0].weight.register_hook(seen.append)
    audit_locality(model, None, Views(), rows())
    assert not seen
    model(rows()).sum().backward()
    assert len(seen) == 1


def test_parameters_without_gradients_and_wrong_numbers_of_losses_are_refused():
    with torch.inference_mode():
        model = layers("plain", "plain")
    with pytest.raises(ValueError, match=r"made under torch\.inference_mode"):
        audit_locality(model, None, Views(), rows())

    class Short(Rule):
        def build(self, shapes, seed=0):
            return super().build(shapes[:1])

    with pytest.raises(ValueError, match="1 losses for 2 blocks"):
        audit_locality(layers("plain", "plain"), None, Short(lambda l, z, top: z.sum()), rows())
