"""A training that learns nothing, or not all of it, says so or raises."""

import copy
import warnings
from functools import partial

import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import TensorDataset

from linlocal.analysis.local_losses import CLAPP, SCFF, ForwardForward, Views
from linlocal.analysis.training import Checkpoints, GlobalTrainer, LocalTrainer, SeededLoader

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
SGD = partial(torch.optim.SGD, lr=0.1)
KINDS = {
    "block after block": LocalTrainer,
    "one pass": partial(LocalTrainer, one_pass=True),
    "micro-batches": partial(LocalTrainer, micro_batch=3),
    "end to end": GlobalTrainer,
}


def mlp(depth=3):
    torch.manual_seed(5)
    return nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(depth)))


class OwnRule:
    """The same function of two views in every block."""

    def __init__(self, function):
        self.function = function

    def build(self, shapes, seed=0):
        return nn.ModuleList(OwnLoss(self.function) for _ in shapes)


class OwnLoss(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, here, top):
        return self.function(*here.flatten(1).chunk(2))


DISTANCE = OwnRule(lambda a, b: (a - b).square().sum(1).sqrt().mean())
EQUAL = torch.cat([X[:4], X[:1], X[5:]])  # one pair of equal views


# -- blocks that the loss does not reach -----------------------------------------------------------


class Recomputed(nn.Module):
    def __init__(self, reentrant, after=False):
        super().__init__()
        self.inside, self.reentrant = nn.Linear(6, 6), reentrant
        self.after = nn.Linear(6, 6) if after else nn.Identity()

    def forward(self, x):
        run = lambda z: torch.tanh(self.inside(z))  # noqa: E731
        return self.after(checkpoint(run, x, use_reentrant=self.reentrant))


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(6, 6)

    def forward(self, x):
        return self.inside(x).detach()


def changed(trainer, before):
    after = trainer.model.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.filterwarnings("ignore:None of the inputs:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "block", [lambda: Recomputed(True), Detached], ids=["reentrant checkpoint", "detached"]
)
def test_a_block_that_is_not_reached_is_named_and_nothing_changes(kind, block):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(block()), nn.Sequential(nn.Linear(6, 6)))
    trainer = KINDS[kind](model, None, Views(), shape=(6,), optimiser=SGD)
    before = copy.deepcopy(trainer.model.state_dict())
    for _ in range(2):
        with pytest.raises(ValueError, match=r"block 1 \(0\).*use_reentrant=False"):
            trainer.step(X)
        assert changed(trainer, before) == set()
    model.requires_grad_(False)[1].requires_grad_(True)
    KINDS[kind](model, None, Views(), shape=(6,), optimiser=SGD).step(X)


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_is_not_reentrant_changes_nothing(kind):
    def stepped(reentrant):
        torch.manual_seed(0)
        plain = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(2)]
        if reentrant is False:
            for layer in plain:
                inside, block = layer[0], Recomputed(False)
                block.inside = inside
                layer[0], layer[1] = block, nn.Identity()
        model = nn.Sequential(*plain)
        KINDS[kind](model, ["0", "1"], Views(), shape=(6,), optimiser=SGD).step(X)
        return list(model.parameters())

    for a, b in zip(stepped(False), stepped(None), strict=True):
        assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore:None of the inputs:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_parameters_that_are_not_reached_are_told_once(kind):
    torch.manual_seed(0)
    model = nn.Sequential(Recomputed(True, after=True), nn.Linear(6, 6))
    trainer = KINDS[kind](model, ["0", "1"], Views(), shape=(6,), optimiser=SGD)
    before = copy.deepcopy(model.state_dict())
    with pytest.warns(
        UserWarning, match=r"0\.inside\.weight, 0\.inside\.bias of block 1 .* 2 of 4"
    ):
        trainer.step(X)
    assert not {name for name in changed(trainer, before) if "inside" in name}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "None of the inputs")
        trainer.step(X)


def test_a_global_loss_without_a_gradient_is_refused_in_every_step():
    detach = False

    def loss(answer, batch):
        return (answer.detach() if detach else answer).square().mean()

    trainer = GlobalTrainer(mlp(), None, loss=loss, shape=(6,))
    trainer.step(X)
    detach = True
    with pytest.raises(ValueError, match="The loss has no gradient"):
        trainer.step(X)


# -- numbers that are not finite -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_that_a_hook_spoils_refuses_the_step(kind):
    trainer = KINDS[kind](mlp(), None, Views(), shape=(6,), optimiser=SGD)
    trainer.step(X)
    before = copy.deepcopy(trainer.model.state_dict())
    handle = trainer.model[0][0].weight.register_hook(lambda g: g * torch.nan)
    with pytest.raises(FloatingPointError, match=r"gradients are not: of 0\.0\.weight"):
        trainer.step(X)
    assert changed(trainer, before) == set()
    handle.remove()
    trainer.step(X)


def test_a_large_finite_gradient_is_taken():
    # Its norm overflows in float32, and in float16 even that of ordinary gradients does.
    trainer = LocalTrainer(mlp(1), ["0"], Views(), shape=(6,), optimiser=partial(SGD, lr=1e-30))
    trainer.model[0][0].weight.register_hook(lambda g: torch.full_like(g, 1e30))
    before = trainer.model[0][0].weight.detach().clone()
    trainer.step(X)
    assert (trainer.model[0][0].weight.detach() - before).abs().max() == pytest.approx(1, rel=1e-5)


def scaled(rule):
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    fabric = Fabric(accelerator="cpu", devices=1, plugins=plugin)
    return LocalTrainer(mlp(), None, rule, shape=(6,), fabric=fabric, optimiser=SGD)


def test_a_scaler_that_passes_over_every_step_ends_the_training():
    trainer = scaled(DISTANCE)
    before = copy.deepcopy(trainer.model.state_dict())

    def train():
        for _ in range(40):
            trainer.step(EQUAL)

    with pytest.raises(FloatingPointError, match=r"scale of the loss fell to 0\.5.*no weights"):
        train()
    assert changed(trainer, before) == set()
    healthy = scaled(DISTANCE)
    for _ in range(40):
        healthy.step(X)
    assert changed(healthy, before)


@pytest.mark.parametrize("kind", [LocalTrainer, GlobalTrainer])
def test_the_cause_of_a_loss_that_is_not_finite_is_named(kind):
    trainer = kind(mlp(), None, Views(), shape=(6,))
    bad = X.clone()
    bad[1, 2] = torch.inf
    bad[3, 4] = torch.nan
    with pytest.raises(FloatingPointError, match="2 of 48 inputs are not finite"):
        trainer.step(bad)
    with torch.no_grad():
        trainer.model[1][0].bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"not finite already: those of 1\.0\.bias"):
        trainer.step(X)


def test_weights_that_are_not_finite_are_not_stored(tmp_path):
    data = TensorDataset(X, X + 0.1)
    trainer = LocalTrainer(mlp(), None, Views(), shape=(6,), optimiser=SGD)
    checkpoints = Checkpoints(tmp_path)
    trainer.fit(SeededLoader(data, 4), 1, checkpoints=checkpoints)
    stored = checkpoints.paths()
    for group in trainer.optimisers[0].param_groups:
        group["lr"] = torch.inf
    with pytest.raises(FloatingPointError, match=r"step 1 weights are not finite.*no checkpoint"):
        LocalTrainer(mlp(), None, Views(), shape=(6,), optimiser=partial(SGD, lr=1e38)).fit(
            SeededLoader(TensorDataset(1e3 * X[:4], X[4:]), 4),
            1,
            checkpoints=Checkpoints(tmp_path / "other"),
        )
    assert not Checkpoints(tmp_path / "other").paths()
    assert checkpoints.paths() == stored


# -- training that leads nowhere -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", ["scale", "offset"])
def test_a_collapse_is_told_once(kind, by):
    trainer = KINDS[kind](mlp(2), None, Views(), shape=(6,), optimiser=partial(SGD, lr=0.0))

    def train(steps):
        for _ in range(steps):
            trainer.step(X)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(30)
    top = trainer.model[1][0]
    with torch.no_grad():
        if by == "scale":
            top.weight.mul_(1e-4)
        else:  # tanh is 1 in all units, but for rounding
            top.bias.fill_(20)
    with pytest.warns(UserWarning, match=r"block 2 \(1\) has collapsed: at step 50 it differs"):
        train(25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(50)


def test_a_rule_without_negatives_collapses():
    invariance = OwnRule(lambda a, b: (a - b).square().sum(1).mean())
    trainer = LocalTrainer(mlp(2), None, invariance, shape=(6,), optimiser=partial(SGD, lr=0.05))

    def train():
        for step in range(301):
            noise = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
            trainer.step(X + 0.5 * noise)

    with pytest.warns(UserWarning, match=r"block 2 \(1\) has collapsed"):
        train()


def test_silent_units_are_a_collapse():
    def train(bias):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(2)))
        nn.init.constant_(model[1][0].bias, bias)
        trainer = LocalTrainer(model, None, CLAPP(), shape=(6,), optimiser=partial(SGD, lr=0.01))
        for _ in range(30):
            trainer.step(X)

    with pytest.warns(
        UserWarning, match=r"block 2 \(1\) has collapsed: at step 25 .* by 0 at most"
    ):
        train(-10.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(0.0)


def normalised(norm):
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(6, 16), nn.ReLU(), norm(16)), *(nn.Linear(16, 16), nn.ReLU(), norm(16))
    )


NORMS = {
    "LayerNorm": nn.LayerNorm,
    "GroupNorm": partial(nn.GroupNorm, 1),
    "RMSNorm": nn.RMSNorm,
}


@pytest.mark.parametrize("norm", NORMS)
def test_the_goodness_of_a_normalised_block_is_told_once(norm):
    model = normalised(NORMS[norm])
    blocks = ["2", "5"]
    trainer = LocalTrainer(model, blocks, ForwardForward(), shape=(6,))
    with pytest.warns(
        UserWarning, match=r"goodness .* is the same for all samples, 1[56]\.?\d* to 1[56]"
    ):
        trainer.step(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.step(X)
        # As the message says.
        LocalTrainer(model, ["1", "4"], ForwardForward(), shape=(6,)).step(X)
        LocalTrainer(model, blocks, SCFF(), shape=(6,)).step(X)
        LocalTrainer(mlp(), None, ForwardForward(), shape=(6,)).step(X)


# -- what the user's own code left -----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_that_were_left_are_no_part_of_a_step(kind):
    first, second = (KINDS[kind](mlp(), None, CLAPP(), shape=(6,), optimiser=SGD) for _ in range(2))
    second.model(X).square().sum().backward()
    for loss in second.losses:
        for p in loss.parameters():
            p.grad = torch.ones_like(p)
    assert first.step(X) == second.step(X)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)
