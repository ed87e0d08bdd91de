"""Block by block, training takes the same steps as one graph with a detach between its blocks."""

import copy
from functools import partial

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn

from linlocal.analysis.local_losses import (
    CLAPP,
    SCFF,
    ForwardForward,
    InfoNCE,
    LocalLoss,
    PhyLL,
    Views,
)
from linlocal.analysis.training import GlobalTrainer, LocalTrainer

RULES = {
    "CLAPP": CLAPP(score="softplus"),
    "direct feedback": CLAPP(score="softplus", context="top"),
    "both": CLAPP(score="softplus", context="both", rank=2, shared=False),
    "random": CLAPP(score="softplus", context="top", projection="random"),
    "InfoNCE": InfoNCE(context="top"),
    "PhyLL": PhyLL(),
    "SCFF": SCFF(),
    "Forward-Forward": ForwardForward(),
    "Views": Views(),
}
READ_THE_TOP = {"direct feedback", "both", "random", "InfoNCE"}
SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9)


class Staged(nn.Module):
    """A stem, two stages with a pooling between them, and a head; not a chain of its blocks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(4, 5, 3), nn.Dropout(0.5), nn.Sigmoid())
        self.layer3 = nn.Sequential(nn.Conv2d(5, 6, 1), nn.BatchNorm2d(6))
        self.head = nn.Linear(6, 2)

    def upto(self, l):
        """What runs in block l, as a function."""
        return (
            lambda x: self.layer1(torch.relu_(self.stem(x))),
            lambda x: self.layer2(nn.functional.max_pool2d(x, 2)),
            self.layer3,
        )[l]

    def forward(self, x):
        for l in range(3):
            x = self.upto(l)(x)
        return self.head(x.mean((2, 3)).relu_())


def staged(dtype=torch.float64):
    torch.manual_seed(3)
    return Staged().to(dtype)


def mlp(depth=3, width=6):
    torch.manual_seed(5)
    layers = [
        nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(0.2)) for _ in range(depth)
    ]
    return nn.Sequential(*layers)


def images(seed=0, dtype=torch.float64):
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)


def naive_losses(model, losses, x, detach=True):
    """The published way: one graph of all blocks, detached between them."""
    outputs = []
    for l in range(3):
        x = model.upto(l)(x.detach() if detach else x)
        outputs.append(x)
    return [loss(z, outputs[-1].detach()) for loss, z in zip(losses, outputs, strict=True)]


def gradients(*modules):
    return [p.grad for module in modules for p in module.parameters()]


def assert_close(got, expected, tolerance=1e-12):
    assert len(got) == len(expected) > 0
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# -- gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RULES)
def test_gradients_are_those_of_one_detached_graph(name):
    trainer = LocalTrainer(staged(), None, RULES[name], shape=(3, 8, 8))
    assert trainer.two_passes == (name in READ_THE_TOP)
    model, losses = copy.deepcopy(trainer.model), copy.deepcopy(trainer.losses)
    torch.manual_seed(1)
    values = trainer.backward(images())
    torch.manual_seed(1)
    expected = naive_losses(model, losses, images())
    sum(expected).backward()
    assert_close(list(values.values()), [v.detach() for v in expected])
    assert_close(gradients(trainer.model, trainer.losses), gradients(model, losses))
    # Statistics moved once, also where the network ran twice.
    assert_close(list(trainer.model.buffers()), list(model.buffers()))
    assert int(trainer.model.layer1[1].num_batches_tracked) == 1
    assert trainer.model.head.weight.grad is None
    # With the graph of the blocks left whole, the gradients are others.
    attached = copy.deepcopy(trainer.model)
    attached.zero_grad()
    torch.manual_seed(1)
    sum(naive_losses(attached, losses, images(), detach=False)).backward()
    difference = attached.stem.weight.grad - model.stem.weight.grad
    assert difference.norm() > 1e-3 * model.stem.weight.grad.norm() > 0


def test_gradients_are_those_of_each_block_alone():
    trainer = LocalTrainer(staged(), None, RULES["both"], shape=(3, 8, 8))
    model, losses = copy.deepcopy(trainer.model), copy.deepcopy(trainer.losses)
    torch.manual_seed(1)
    trainer.backward(images())
    own = [
        [*model.stem.parameters(), *model.layer1.parameters()],
        list(model.layer2.parameters()),
        list(model.layer3.parameters()),
    ]
    torch.manual_seed(1)
    for l, value in enumerate(naive_losses(model, losses, images())):
        parameters = [*own[l], *losses[l].parameters()]
        found = torch.autograd.grad(value, parameters)
        assert_close([p.grad for p in trainer.parameters[l]], list(found))


def test_the_first_pass_of_direct_feedback_leaves_no_trace():
    trainer = LocalTrainer(staged(), None, RULES["direct feedback"], shape=(3, 8, 8))
    seen = []
    hook = trainer.model.layer3.register_forward_hook(lambda m, a, z: seen.append(z.clone()))
    trainer.backward(images())
    hook.remove()
    assert len(seen) == 2
    assert torch.equal(*seen)  # dropout drew the same masks
    assert not any(m._forward_hooks for m in trainer.model.modules())


@pytest.mark.parametrize("name", ["Views", "direct feedback"])
def test_steps_are_those_of_one_optimiser_for_all(name):
    trainer = LocalTrainer(staged(), None, RULES[name], shape=(3, 8, 8), optimiser=SGD)
    model, losses = copy.deepcopy(trainer.model).eval(), copy.deepcopy(trainer.losses)
    trainer.model.eval()  # the trainer leaves modes alone, and draws masks of its own
    optimiser = SGD([*model.parameters(), *losses.parameters()])
    for step in range(3):
        values = trainer.step(images(step))
        optimiser.zero_grad()
        expected = naive_losses(model, losses, images(step))
        sum(expected).backward()
        optimiser.step()
        assert list(values) == [1, 2, 3]
        assert list(values.values()) == pytest.approx([v.item() for v in expected], rel=1e-12)
    assert_close(list(trainer.model.parameters()), list(model.parameters()))
    assert not trainer.model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_global_training_is_the_plain_loop_bit_by_bit(dtype):
    trainer = GlobalTrainer(staged(dtype), None, RULES["direct feedback"], shape=(3, 8, 8))
    model, losses = copy.deepcopy(trainer.model).eval(), copy.deepcopy(trainer.losses)
    trainer.model.eval()
    optimiser = torch.optim.AdamW([*model.parameters(), *losses.parameters()], lr=2e-4)
    for step in range(3):
        trainer.step(images(step, dtype))
        optimiser.zero_grad()
        x = images(step, dtype)
        for l in range(3):
            x = model.upto(l)(x)
        losses[0](x, x.detach()).backward()
        optimiser.step()
    for a, b in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(model.stem.weight, staged(dtype).stem.weight)


def test_global_training_by_a_loss_of_ones_own_trains_the_head():
    def loss(output, batch):
        return nn.functional.cross_entropy(output, batch[1])

    trainer = GlobalTrainer(staged(), None, loss=loss, shape=(3, 8, 8), optimiser=SGD)
    model = copy.deepcopy(trainer.model).eval()
    trainer.model.eval()
    labels = torch.arange(8) % 2
    trainer.step((images(), labels))
    optimiser = SGD(model.parameters())
    nn.functional.cross_entropy(model(images()), labels).backward()
    optimiser.step()
    for a, b in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match=r"Give a rule.*or a loss"):
        GlobalTrainer(staged(), None, shape=(3, 8, 8))
    with pytest.raises(ValueError, match=r"Give a rule.*or a loss"):
        GlobalTrainer(staged(), None, Views(), loss=loss, shape=(3, 8, 8))


# -- precision -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Views", "direct feedback"])
def test_mixed_precision_is_that_of_one_detached_graph(name):
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    trainer = LocalTrainer(staged(torch.float32), None, RULES[name], shape=(3, 8, 8), fabric=fabric)
    trainer.model.eval()
    model, losses = copy.deepcopy(trainer.model), copy.deepcopy(trainer.losses)
    x = images(dtype=torch.float32)
    values = trainer.backward(x)
    with torch.autocast("cpu", torch.bfloat16):
        expected = naive_losses(model, losses, x)
    sum(expected).backward()
    assert_close(gradients(trainer.model, trainer.losses), gradients(model, losses), 0)
    assert all(g.dtype == torch.float32 for g in gradients(trainer.model.layer2))
    exact = naive_losses(model, losses, x)
    assert any(float(a) != b.item() for a, b in zip(values.values(), exact, strict=True))


def test_true_double_precision_converts_network_losses_and_inputs():
    fabric = Fabric(accelerator="cpu", devices=1, precision="64-true")
    model = staged(torch.float32)
    trainer = LocalTrainer(model, None, CLAPP(), shape=(3, 8, 8), fabric=fabric)
    values = trainer.backward(trainer._views(images(dtype=torch.float32)))
    assert all(v.dtype == torch.float64 for v in values.values())
    assert all(p.dtype == torch.float64 for p in trainer.losses.parameters())


def scaled(scale):
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    return Fabric(accelerator="cpu", devices=1, plugins=[plugin]), scaler


def test_a_scale_that_overflows_is_lowered_once_and_nothing_moves():
    fabric, scaler = scaled(2.0**120)
    trainer = LocalTrainer(mlp(), None, Views(), shape=(6,), fabric=fabric, optimiser=SGD)
    before = copy.deepcopy(trainer.model)
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    trainer.step(x)
    assert scaler.get_scale() == 2.0**119
    assert all(map(torch.equal, trainer.model.parameters(), before.parameters()))

    # A scale that does not overflow changes no gradient but by rounding to half precision.
    steps = []
    for scale in (1.0, 16.0):
        fabric, scaler = scaled(scale)
        trainer = LocalTrainer(mlp(), None, Views(), shape=(6,), fabric=fabric, optimiser=SGD)
        trainer.step(x)
        assert trainer.state_dict()["scaler"]["scale"] == scale
        steps.append(trainer.model[0][0].weight - before[0][0].weight)
    assert steps[0].norm() > 0
    assert (steps[0] - steps[1]).norm() < 1e-2 * steps[0].norm()


def test_the_scale_goes_on_where_it_was():
    fabric, scaler = scaled(2.0**120)
    trainer = LocalTrainer(mlp(), None, Views(), shape=(6,), fabric=fabric)
    trainer.step(torch.randn(8, 6, generator=torch.Generator().manual_seed(0)))
    fabric, resumed = scaled(1.0)
    other = LocalTrainer(mlp(), None, Views(), shape=(6,), fabric=fabric)
    other.load_state_dict(trainer.state_dict())
    assert resumed.state_dict() == scaler.state_dict()


class Witness(torch.autograd.Function):
    autocast = []  # noqa: RUF012  written by static methods

    @staticmethod
    def forward(ctx, x):
        Witness.autocast.append(torch.is_autocast_enabled("cpu"))
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        Witness.autocast.append(torch.is_autocast_enabled("cpu"))
        return grad


class Watched(nn.Linear):
    def forward(self, x):
        return Witness.apply(super().forward(x))


@pytest.mark.parametrize("kind", [LocalTrainer, GlobalTrainer])
def test_autocast_covers_forward_passes_only(kind):
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    model = nn.Sequential(Watched(6, 6), nn.Linear(6, 6))
    trainer = kind(model, None, Views(), shape=(6,), fabric=fabric)
    Witness.autocast.clear()
    trainer.backward(torch.randn(8, 6, generator=torch.Generator().manual_seed(0)))
    assert Witness.autocast == [True, False]


# -- blocks that are not as usual ------------------------------------------------------------------


def test_a_frozen_block_stays_and_the_others_learn():
    model = staged()
    for part in (model.stem, model.layer1):
        part.requires_grad_(False)
    before = copy.deepcopy(model)
    each = {"shape": (3, 8, 8), "optimiser": [SGD] * 3}
    trainer = LocalTrainer(model, None, Views(), **each)
    assert len(trainer.optimisers) == 2
    values = trainer.step(images())
    assert list(values) == [1, 2, 3]
    assert all(map(torch.equal, model.layer1.parameters(), before.layer1.parameters()))
    assert not torch.equal(model.layer2[0].weight, before.layer2[0].weight)
    # A projection of the frozen block learns on.
    trainer = LocalTrainer(model, None, CLAPP(), **each)
    assert len(trainer.optimisers) == 3


def test_a_block_without_parameters_is_refused():
    model = nn.Sequential(nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 6))
    with pytest.raises(ValueError, match=r"Block '0' \(ReLU\) has no parameters"):
        LocalTrainer(model, ["0", "1", "2"], Views(), shape=(6,))


def test_a_loss_of_ones_own_does_not_get_the_global_error():
    class Own(Views().build([(3,)])[0].__class__):
        needs_global_error = True

    class Rule:
        def build(self, shapes, seed=0):
            built = Views().build(shapes)
            built[0].__class__ = Own
            return built

    with pytest.raises(ValueError, match=r"Own, _PooledViews: .* to losses of scored pairs alone"):
        LocalTrainer(staged(), None, Rule(), shape=(3, 8, 8))


@pytest.mark.parametrize("kind", [LocalTrainer, GlobalTrainer])
@pytest.mark.parametrize(
    "given",
    [
        lambda v: (v[:4], v[4:]),
        lambda v: [v[:4], v[4:]],
        lambda v: ((v[:4], v[4:]), torch.arange(4)),
        lambda v: (v, torch.arange(4).repeat(2)),
    ],
    ids=["a pair", "a list", "a pair with labels", "stacked with labels"],
)
def test_views_come_in_the_ways_of_usual_loaders(kind, given):
    stacked = kind(staged(), None, CLAPP(score="softplus"), shape=(3, 8, 8))
    other = kind(staged(), None, CLAPP(score="softplus"), shape=(3, 8, 8))
    assert stacked.step(images()) == other.step(given(images()))
    for a, b in zip(stacked.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("batch", [{"x": torch.zeros(8, 3, 8, 8)}, None, (None, 1), "images"])
def test_a_batch_of_another_kind_is_refused_in_words_and_changes_nothing(batch):
    trainer = LocalTrainer(staged(), None, CLAPP(), shape=(3, 8, 8))
    before = copy.deepcopy(trainer.model.state_dict())
    with pytest.raises(TypeError, match=r"both views stacked .* got "):
        trainer.step(batch)
    assert all(torch.equal(v, before[k]) for k, v in trainer.model.state_dict().items())


@pytest.mark.parametrize("name", RULES)
def test_one_pass_takes_the_same_steps_as_block_after_block(name):
    torch.manual_seed(0)
    in_turn, at_once = (
        LocalTrainer(staged(), None, RULES[name], shape=(3, 8, 8), optimiser=SGD, one_pass=once)
        for once in (False, True)
    )
    assert in_turn.two_passes == (name in READ_THE_TOP)
    assert not at_once.two_passes
    for step in range(2):
        first, second = (t.step(images(step)) for t in (in_turn, at_once))
        assert first == pytest.approx(second, rel=1e-12)
    for a, b in zip(in_turn.model.parameters(), at_once.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


class ReadsTheTop(LocalLoss):
    """A loss that does not detach the top itself."""

    reads_top = True

    def forward(self, here, top, batch=None):
        assert not top.requires_grad
        return (here.flatten(1).mean(1) * top.flatten(1).mean(1)).mean()


@pytest.mark.parametrize("options", [{}, {"one_pass": True}], ids=str)
def test_the_top_that_a_loss_reads_is_detached(options):
    class Rule:
        def build(self, shapes, seed=0):
            return nn.ModuleList(ReadsTheTop() for _ in shapes)

    trainer = LocalTrainer(staged(), None, Rule(), shape=(3, 8, 8), optimiser=SGD, **options)
    assert len(trainer.step(images(0))) == len(trainer.blocks)


def test_one_pass_and_micro_batches_exclude_each_other():
    with pytest.raises(ValueError, match="give one of the two"):
        LocalTrainer(staged(), None, CLAPP(), shape=(3, 8, 8), one_pass=True, micro_batch=2)


def test_three_views_are_refused():
    trainer = LocalTrainer(staged(), None, CLAPP(), shape=(3, 8, 8))
    with pytest.raises(ValueError, match="came with 3 tensors of one shape"):
        trainer.step((images(0), images(1), images(2)))


class Distance:
    """A loss whose value is finite and whose gradient is not where two views are equal."""

    def build(self, shapes, seed=0):
        return nn.ModuleList(DistanceLoss() for _ in shapes)


class DistanceLoss(nn.Module):
    def forward(self, here, top):
        a, b = here.flatten(1).chunk(2)
        return (a - b).square().sum(1).sqrt().mean()


@pytest.mark.parametrize("kind", [LocalTrainer, GlobalTrainer])
def test_a_gradient_that_is_not_finite_refuses_the_whole_step(kind):
    trainer = kind(mlp(2), None, Distance(), shape=(6,))
    trainer.model.eval()
    x = torch.randn(8, 6)
    trainer.step(x)
    before = copy.deepcopy(trainer.state_dict())
    equal = x.clone()
    equal[4] = equal[0]
    with pytest.raises(FloatingPointError, match=r"losses are finite.*0\.0\.weight.*epsilon"):
        trainer.step(equal)
    after = trainer.state_dict()
    for part in ("model", "losses"):
        assert all(torch.equal(v, before[part][k]) for k, v in after[part].items())
    assert after["place"] == before["place"]
    assert all(p.grad is None for p in trainer.model.parameters())
    trainer.step(x)
