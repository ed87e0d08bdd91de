"""The penalty in the downstream metric, which is the averaged Jacobian of the blocks above."""

import copy
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

import linlocal as ll
from linlocal.analysis import GlobalTrainer, LocalTrainer, align
from linlocal.analysis.local_losses import CLAPP, Cells, NetworkRule
from linlocal.analysis.training import Orthogonality
from linlocal.analysis.watching import averaged_jacobians, measure_downstream

SGD = partial(torch.optim.SGD, lr=0.05)
CONTEXTS = ["same", "top"]


def linear(widths=(6, 5, 4, 3)):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths))).double()


def batch(step, *shape):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
    return torch.cat([x, x + 0.3 * torch.randn(x.shape, generator=generator, dtype=x.dtype)])


def rule(context="same", **options):
    return CLAPP(context=context, score="softplus", penalty=0.05, **options)


def with_equal_m(trainer):
    """Let the matrix M of every block start as the B of the last one does."""
    last = trainer.losses[-1].state_dict()
    for loss in trainer.losses[:-1]:
        loss.load_state_dict({k: v for k, v in last.items() if "downstream" not in k}, strict=False)
    return trainer


@pytest.mark.parametrize("context", CONTEXTS)
def test_in_a_linear_network_training_is_backpropagation_step_for_step(context):
    """Statement 4, with M and W trained side by side: B_l = V_l^T M V_l or V_l^T M."""
    options = {"shape": (6,), "optimiser": SGD}
    goal = GlobalTrainer(linear(), None, rule(context), **options)
    exact = LocalTrainer(linear(), None, rule(context, metric="downstream"), **options)
    plain = LocalTrainer(linear(), None, rule(context), **options)
    goal.losses[-1].load_state_dict(exact.losses[-1].state_dict())
    with_equal_m(exact)
    for step in range(5):
        for trainer in (goal, exact, plain):
            trainer.step(batch(step, 6))
    for a, b in zip(exact.model.parameters(), goal.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    apart = (plain.model[0].weight - goal.model[0].weight).norm()
    assert apart > 1e-3
    views = batch(9, 6)
    measure_downstream(exact.model, None, exact.losses, views)
    found = align(exact.model, None, exact.losses, views)
    assert float(found["relative_error"].max()) < 1e-10


def test_a_jacobian_that_is_too_old_is_not_exact():
    options = {"shape": (6,), "optimiser": SGD}
    goal = GlobalTrainer(linear(), None, rule(), **options)
    stale = LocalTrainer(linear(), None, rule(metric="downstream", refresh=3), **options)
    goal.losses[-1].load_state_dict(stale.losses[-1].state_dict())
    with_equal_m(stale)

    def apart():
        return float((stale.model[0].weight - goal.model[0].weight).detach().norm())

    for step in range(3):
        for trainer in (goal, stale):
            trainer.step(batch(step, 6))
        assert (apart() < 1e-12) == (step == 0)


class Net(nn.Module):
    """Nonlinear, with a skip over a block, max-pooling and a frozen block."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.GroupNorm(1, 3), nn.GELU())
        self.layer2 = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
        self.layer3 = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.layer2.requires_grad_(False)

    def forward(self, x):
        z = self.layer1(x)
        return self.layer3(z + self.layer2(z))


def test_the_averaged_jacobian_is_the_mean_of_those_of_the_samples():
    torch.manual_seed(0)
    model, views = Net().double(), batch(0, 1, 4, 4)
    z1 = model.layer1(views)
    z2 = model.layer2(z1)
    above = [lambda z: model.layer3(z + model.layer2(z)), None]
    found = averaged_jacobians([z1, z2], model.layer3(z1 + z2).flatten(1))
    above[1] = lambda z, below: model.layer3(below + z)
    first = torch.func.vmap(torch.func.jacrev(lambda z: above[0](z[None]).flatten()))(z1.detach())
    second = torch.func.vmap(
        torch.func.jacrev(lambda z, below: above[1](z[None], below[None]).flatten())
    )(z2.detach(), z1.detach())
    for jacobian, each in zip(found, (first, second), strict=True):
        assert each.std(0).max() > 1e-3  # samples differ
        torch.testing.assert_close(jacobian, each.mean(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("context", [*CONTEXTS, "both", "each"])
def test_any_network_is_trained_and_left_as_it_was_by_the_measurement(context):
    torch.manual_seed(0)
    model, views = Net().double(), batch(0, 1, 4, 4)
    network_rule = rule(context, metric="downstream", pooling=Cells(2), rank=2)
    losses = network_rule.build([(3, 4, 4), (3, 4, 4), (2, 2, 2)]).double()
    assert network_rule.num_parameters([(3, 4, 4), (3, 4, 4), (2, 2, 2)]) == tuple(
        sum(p.numel() for p in loss.parameters()) for loss in losses
    )
    with pytest.raises(RuntimeError, match="measure_downstream"):
        losses[0](model.layer1(views), model(views))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    measure_downstream(model, None, losses, views)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        loss, c = losses[0], losses[0].pool(model.layer1(views))
        b = loss.projections[0][0]
        seen = c if b.same else losses[-1].pool(model(views))
        ones = torch.ones_like(seen[:, :1])
        rows = torch.cat([seen, ones], 1) if b.same else seen
        torch.testing.assert_close(b(seen), rows @ b.matrix.T)
        assert b.matrix.shape == (c.shape[1] + 1, rows.shape[1])
    for micro_batch in (None, 4):
        trainer = LocalTrainer(
            copy.deepcopy(model), None, network_rule, shape=(1, 4, 4), micro_batch=micro_batch
        )
        for step in range(2):
            trainer.step(batch(step, 1, 4, 4))
        again = LocalTrainer(Net().double(), None, network_rule, shape=(1, 4, 4))
        again.load_state_dict(copy.deepcopy(trainer.state_dict()))
        for each in (trainer, again):
            each.step(batch(5, 1, 4, 4))
        for a, b in zip(trainer.model.parameters(), again.model.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_the_metric_of_a_rule_and_of_the_network_part_are_one():
    by_rule = NetworkRule(rule=ll.rules.CLAPP_DFB("softplus").with_penalty(0.05, "downstream"))
    by_option = NetworkRule(rule=ll.rules.CLAPP_DFB("softplus", penalty=0.05), metric="downstream")
    shapes = [(5,), (4,), (3,)]
    one, other = (each.build(shapes, seed=3) for each in (by_rule, by_option))
    assert [*map(str, one.state_dict())] == [*map(str, other.state_dict())]
    for key, value in one.state_dict().items():
        assert torch.equal(value.nan_to_num(), other.state_dict()[key].nan_to_num())
    undone = NetworkRule(rule=by_rule.rule, metric="frobenius").build(shapes)
    assert not any(loss.reads_downstream for loss in undone)


def in_two(fabric):
    """The averaged map of layer 1 and the weights after two steps, on one of two processes."""
    trainer = LocalTrainer(
        curved(),
        None,
        rule(metric="downstream", pooling=1),
        shape=(6,),
        optimiser=SGD,
        fabric=fabric,
        orthogonality=Orthogonality(names="1.0"),
    )
    trainer.step(batch(fabric.global_rank, 6))
    first = trainer.losses[0].projections[0][0].downstream.clone()
    trainer.step(batch(2 + fabric.global_rank, 6))
    return first, *(p.detach().clone() for p in trainer.model.parameters())


def curved():
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3))).double()


def test_two_processes_share_one_map_and_stay_orthogonal(pair):
    one, other = pair(__file__, "in_two")
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a, b)
    means = []
    for rank in range(2):
        losses = rule(metric="downstream", pooling=1).build([(6,)] * 3).double()
        measure_downstream(curved(), None, losses, batch(rank, 6))
        means.append(losses[0].projections[0][0].downstream)
    assert (means[0] - means[1]).abs().max() > 1e-3
    jacobian = slice(-1)  # the constant column is of the mean activities
    expected = sum(means)[:, jacobian] / 2
    torch.testing.assert_close(one[0][:, jacobian], expected, rtol=1e-12, atol=1e-12)
    weight = one[3]
    torch.testing.assert_close(weight @ weight.T, torch.eye(6).double(), rtol=0, atol=1e-12)
