"""The contract of a local loss: what it gets, what it may train, and what a trainer refuses."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from linlocal.analysis.alignment import AlignmentRecorder, align
from linlocal.analysis.local_losses import CLAPP, HeadedClasses, LocalLoss, Views
from linlocal.analysis.training import GlobalTrainer, LocalTrainer
from linlocal.analysis.watching import audit_locality

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
SGD = partial(torch.optim.SGD, lr=0.1)


def mlp(*extra):
    torch.manual_seed(5)
    return nn.Sequential(
        *(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), *copy.deepcopy(extra)) for _ in range(3))
    )


class Built:
    """A rule of one's own: the same loss in every block."""

    def __init__(self, make):
        self.make = make

    def build(self, shapes, seed=0):
        return nn.ModuleList(self.make() for _ in shapes)


class Plain(nn.Module):
    """A module that knows nothing of the contract."""

    def forward(self, here, top):
        return (here * top.detach()).mean()


class Told(LocalLoss):
    """Keeps what it was given."""

    def __init__(self, reads_top=False):
        super().__init__()
        self.reads_top, self.given = reads_top, []

    def forward(self, here, top, batch=None):
        self.given.append((top, batch))
        return here.square().mean()


# -- what a loss gets ------------------------------------------------------------------------------


def test_a_plain_module_is_a_loss_that_may_read_the_top():
    class Stated(LocalLoss):
        reads_top = True

        def forward(self, here, top, batch=None):
            return (here * top.detach()).mean()

    found = []
    for rule in (Built(Plain), Built(Stated)):
        model = mlp()
        trainer = LocalTrainer(model, None, rule, shape=(6,), optimiser=SGD)
        assert trainer.two_passes
        measured = align(model, None, rule, X)
        audit_locality(model, None, rule, X)
        values = trainer.step(X)
        found.append(
            (values, measured.cosine.values.tolist(), [p.tolist() for p in model.parameters()])
        )
    assert found[0] == found[1]


INSTRUMENTS = {
    "LocalTrainer": lambda rule, batch: LocalTrainer(mlp(), None, rule, shape=(6,)).step(batch),
    "GlobalTrainer": lambda rule, batch: GlobalTrainer(mlp(), None, rule, shape=(6,)).step(batch),
    "align": lambda rule, batch: align(mlp(), None, rule, batch[0], batch=batch),
    "audit_locality": lambda rule, batch: audit_locality(mlp(), None, rule, batch[0], batch),
    "AlignmentRecorder": lambda rule, batch: recorded(rule, batch),
}


def recorded(rule, batch):
    model = mlp()
    with AlignmentRecorder(model, rule=rule, every=1).step(batch=batch):
        model(batch[0]).square().mean().backward()


@pytest.mark.parametrize("reads", [True, False])
@pytest.mark.parametrize("name", INSTRUMENTS)
def test_a_loss_gets_the_batch_and_the_top_only_where_it_says_that_it_reads_it(name, reads):
    made = []

    def make():
        # Its neighbours read the top: it is there.
        made.append(Told(reads if len(made) == 1 else True))
        return made[-1]

    labels = torch.arange(8)
    INSTRUMENTS[name](Built(make), (X, labels))
    used = made[-1:] if name == "GlobalTrainer" else made
    for loss in used:
        assert len(loss.given) == 1
        ((top, batch),) = loss.given
        assert (top is None) == (not loss.reads_top)
        assert torch.equal(batch[1], labels)
        assert top is None or torch.equal(top, mlp()(X))
        assert top is None or name == "audit_locality" or not top.requires_grad


def test_losses_that_do_not_read_the_top_take_one_pass():
    for reads, passes in ((False, 1), (True, 2)):
        model, runs = mlp(), []
        trainer = LocalTrainer(model, None, Built(lambda r=reads: Told(r)), shape=(6,))
        model[0].register_forward_hook(lambda *_, runs=runs: runs.append(1))
        trainer.step(X)
        assert len(runs) == passes
    # The last block's own activity is at hand.
    losses = iter([Told(False), Told(False), Told(True)])
    assert not LocalTrainer(mlp(), None, Built(lambda: next(losses)), shape=(6,)).two_passes


@pytest.mark.parametrize("name", INSTRUMENTS)
@pytest.mark.parametrize("value", [lambda z: z.square(), lambda z: 1.0])
def test_a_loss_that_is_no_number_is_named(name, value):
    class Rows(nn.Module):
        def forward(self, here, top):
            return value(here)

    with pytest.raises(ValueError, match=r"must return one number, Rows returned (\(8, 6\)|float)"):
        INSTRUMENTS[name](Built(Rows), (X, None))


@pytest.mark.parametrize("kind", [LocalTrainer, GlobalTrainer])
def test_labels_reach_the_loss_through_the_batch(kind):
    rule = HeadedClasses(width=8, widths=(3,))
    labels = torch.tensor([0, 1, 2, 0])
    values, weights = [], []
    for given in (labels, torch.cat([labels, labels]), labels.roll(1)):
        trainer = kind(mlp(), None, rule, shape=(6,), optimiser=SGD)
        values.append(trainer.step((X, given)))
        weights.append(trainer.model[-1][0].weight.detach())
    assert values[0] == values[1] != values[2]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    trainer = kind(mlp(), None, rule, shape=(6,))
    with pytest.raises(ValueError, match=r"8 rows, both views .* labels of shape \(3,\)"):
        trainer.step((X, labels[:3]))
    with pytest.raises(ValueError, match="reads labels: give it batches"):
        trainer.step(X)


def test_alignment_with_labels_is_one_in_the_last_block_and_depends_on_them():
    rule = HeadedClasses(kind="global", widths=(3,))
    labels = torch.tensor([0, 1, 2, 0])
    model = mlp().double()
    one, other = (
        align(model, None, rule, X.double(), batch=(X, y)) for y in (labels, labels.roll(1))
    )
    assert float(one.cosine[-1]) == pytest.approx(1, abs=1e-12)
    assert (one.cosine[:-1] < 0.999).all()
    assert not torch.allclose(
        torch.tensor(one.local_norm.values), torch.tensor(other.local_norm.values)
    )
    with pytest.raises(ValueError, match="reads labels: give it batches"):
        align(model, None, rule, X.double())


# -- what it may train, and what a step refuses ----------------------------------------------------


class Assigned(nn.Module):
    """A buffer that every pass assigns anew; batch normalisation changes its own in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x):
        self.scale = self.scale * 2
        return x * 1.5


class Idle(LocalLoss):
    """Has a parameter that its value does not use."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, here, top, batch=None):
        return here.square().mean()


class Cut(LocalLoss):
    """Has a parameter that learns, and detaches what it judges."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, here, top, batch=None):
        return self.scale * here.detach().square().mean()


class Constant(LocalLoss):
    def forward(self, here, top, batch=None):
        return here.new_ones(())


class Infinite(LocalLoss):
    def forward(self, here, top, batch=None):
        return here.square().mean() / 0.0


class Broken(LocalLoss):
    def forward(self, here, top, batch=None):
        raise KeyError("broken")


REFUSED = {
    "a parameter of the loss that learns nothing": (Idle, ValueError, "its own unused"),
    "an output that the loss detaches": (Cut, ValueError, "reached none of the block's parameters"),
    "a constant": (Constant, ValueError, "reached none of the block's parameters"),
    "an infinite loss": (Infinite, FloatingPointError, r"block 3 \(2\) is inf at step 0"),
    "an error in the loss": (Broken, KeyError, "broken"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_step_that_is_refused_changes_nothing(case):
    """Nor in the blocks that had run before: weights, buffers, gradients, hooks, random numbers."""
    make, error, message = REFUSED[case]
    number = iter(range(3))
    rule = Built(lambda: make() if next(number) == 2 else Told())
    model = mlp(nn.BatchNorm1d(6), Assigned(), nn.Dropout())
    trainer = LocalTrainer(model, None, rule, shape=(6,))
    before, random = copy.deepcopy(trainer.state_dict()), torch.get_rng_state()
    buffers = {name: (b, b.clone()) for name, b in model.named_buffers()}
    with pytest.raises(error, match=message):
        trainer.step(X)
    assert trainer.steps == 0
    for name, value in trainer.state_dict()["model"].items():
        assert torch.equal(value, before["model"][name]), name
    for name, buffer in model.named_buffers():
        kept, value = buffers[name]
        assert buffer is kept, name
        assert torch.equal(buffer, value), name
    assert all(p.grad is None for p in [*model.parameters(), *trainer.losses.parameters()])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_a_step_that_is_taken_moves_buffers_once():
    model = mlp(nn.BatchNorm1d(6), Assigned())
    trainer = LocalTrainer(model, None, CLAPP(context="top"), shape=(6,))
    assert trainer.two_passes
    trainer.step(X)
    assert [block[3].scale.item() for block in model] == [2, 2, 2]
    assert [block[2].num_batches_tracked.item() for block in model] == [1, 1, 1]


def test_a_block_whose_output_is_detached_is_named_though_its_projection_learns():
    class Walled(nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    model = nn.Sequential(nn.Linear(6, 6), Walled(6, 6), nn.Linear(6, 6))
    for rule in (CLAPP(), Views()):
        trainer = LocalTrainer(model, None, rule, shape=(6,))
        with pytest.raises(ValueError, match=r"block 2 \(1\) reached none of the block's"):
            trainer.step(X)
    model[1].requires_grad_(False)
    LocalTrainer(model, None, CLAPP(), shape=(6,)).step(X)


@pytest.mark.parametrize("kind", [LocalTrainer, GlobalTrainer])
def test_what_a_backward_pass_of_the_users_left_is_no_part_of_a_step(kind):
    weights = []
    for left in (False, True):
        trainer = kind(mlp(), None, CLAPP(), shape=(6,), optimiser=SGD)
        if left:
            trainer.model(X).square().sum().backward()
            for p in trainer.losses.parameters():
                p.grad = torch.ones_like(p)
        trainer.step(X)
        weights.append([*trainer.model.parameters(), *trainer.losses.parameters()])
    assert all(map(torch.equal, *weights))


def test_several_passes_of_ones_own_add_up_where_step_is_not_called():
    trainer = LocalTrainer(mlp(), None, Views(), shape=(6,))
    trainer.backward(X)
    once = [p.grad.clone() for p in trainer.model.parameters()]
    trainer.backward(X)
    for p, g in zip(trainer.model.parameters(), once, strict=True):
        torch.testing.assert_close(p.grad, 2 * g)
