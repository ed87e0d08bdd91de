"""On a network: a loss of each context, stacked negatives, InfoNCE of cosines behind a head."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import linlocal as ll
from linlocal import losses
from linlocal.analysis import GlobalTrainer, LocalTrainer
from linlocal.analysis.local_losses import CLAPP, HeadedViews, InfoNCE, PhyLL
from linlocal.testing import assert_same_update, samples
from linlocal.updates import Signals

SHAPES = [(4, 6, 6), (5, 3, 3), (6, 2, 2)]
SAMPLES = 5


def outputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2 * SAMPLES, *s, generator=generator, dtype=torch.float64) for s in SHAPES]


def built(rule):
    return rule.build(SHAPES, seed=3).double()


def copied(to, source, context):
    """Give the losses of one context the projections of that context."""
    for a, b in zip(to, source, strict=True):
        for directed, both in zip(a.projections, b.projections, strict=True):
            directed[0].load_state_dict(both[context].state_dict())
    return to


@pytest.mark.parametrize("options", [{}, {"shared": False}, {"rank": 2}, {"negatives": "stacked"}])
@pytest.mark.parametrize("score", ["hinge", "softplus"])
def test_a_loss_of_each_context_is_the_sum_of_two_losses(score, options):
    z = outputs()
    each = built(CLAPP(context="each", score=score, **options))
    both = built(CLAPP(context="both", score=score, **options))
    parts = [
        copied(built(CLAPP(context=name, score=score, **options)), each, k)
        for k, name in enumerate(("same", "top"))
    ]
    assert each[0].reads_top
    assert not each[-1].reads_top
    for here, e, b, *two in zip(z, each, both, *parts, strict=True):
        leaf = here.requires_grad_()
        total = e(leaf, z[-1].detach())
        apart = sum(loss(leaf, z[-1].detach()) for loss in two)
        torch.testing.assert_close(total, apart)
        torch.testing.assert_close(
            torch.autograd.grad(total, leaf)[0], torch.autograd.grad(apart, leaf)[0]
        )
        if len(b.contexts) == 2:
            b.load_state_dict(e.state_dict())
            assert abs(b(here, z[-1].detach()) - total) > 1e-2


@pytest.mark.parametrize("rule", [CLAPP(), CLAPP(context="each"), PhyLL(), InfoNCE()])
def test_stacked_negatives_follow_in_the_stack_of_both_views(rule):
    """Row by row: the anchor of reference k of the stack is the other view's, then the next row."""
    rule = replace(rule, pooling=1, negatives="stacked")
    z = [each.flatten(1) for each in outputs()]
    losses_ = rule.build([tuple(each.shape[1:]) for each in z], seed=3).double()
    rows = np.arange(2 * SAMPLES)
    for here, loss in zip(z, losses_, strict=True):
        anchors, sent = loss.directions(here, z[-1])
        value = 0.0
        for each in sent:
            u = (anchors.flatten(0, 1) @ each.flatten(0, 1).T).detach()
            positive, negative = u[rows, rows], u[(rows + 1) % (2 * SAMPLES), rows]
            value = value + 2 * loss.formula(positive, negative[:, None])
        torch.testing.assert_close(loss.activity_loss(here, z[-1]), value)
    other = replace(rule, negatives="next").build([tuple(each.shape[1:]) for each in z], seed=3)
    gap = other.double()[0].activity_loss(z[0], z[-1]) - losses_[0].activity_loss(z[0], z[-1])
    assert abs(gap) > 1e-6


@pytest.mark.parametrize("context", ["same", "top", "both", "each"])
def test_theory_and_network_have_the_same_stacked_negatives(context):
    network = ll.DeepLinear.uniform([5, 4, 4, 4], seed=1)
    rule = ll.Rule("r", losses.TypeTwo(losses.Softplus()), context, "random", seed=2)
    pairs = ll.Pairs.from_views(*samples(SAMPLES, 5, 0), negatives="stacked")
    z = torch.tensor(pairs.samples)
    blocks = []
    for weight in network.weights:
        blocks.append(nn.Linear(*np.array(weight).T.shape, bias=False).double())
        blocks[-1].weight.data = torch.tensor(np.array(weight))
    activities = [z]
    for block in blocks:
        activities.append(block(activities[-1].detach()))
    modules = CLAPP(
        context=context,
        score="softplus",
        margin=1.0,
        pooling=1,
        shared=False,
        projection="random",
        negatives="stacked",
    ).build([(4,)] * 3)
    updates = []
    for l, (block, module) in enumerate(zip(blocks, modules.double(), strict=True), start=1):
        scored = Signals(network, pairs, rule).scored(l)
        if l == len(blocks):
            matrices = [s.projection.matrix for s in scored]
        else:
            width = 8 if context == "both" else 4
            rng = [np.random.default_rng([2, l, k]) for k in range(len(scored))]
            matrices = [r.uniform(-1.0, 1.0, (4, width)) / 2.0 for r in rng]
        flat = [b for directed in module.projections for b in directed]
        split = [part for m in matrices for part in np.hsplit(m, len(flat) // len(matrices))]
        for b, matrix in zip(flat, split, strict=True):
            b.left.data = torch.tensor(matrix)
        loss = module.activity_loss(activities[l], activities[-1].detach())
        updates.append(-torch.autograd.grad(loss, block.weight)[0].numpy())
    assert_same_update(updates, ll.local_update(network, pairs, rule), 1e-9)


def test_the_published_infonce_is_that_of_cosines_behind_one_linear_map():
    rule = HeadedViews(kind="global", widths=(7,), loss=losses.CosineInfoNCE(0.1), scale=1.0)
    z = outputs()
    for here, loss in zip(z, built(rule), strict=True):
        (head,) = loss.parameters()
        assert head.shape == (7, here.shape[1])
        seen = (here.mean((2, 3)) @ head.T).detach().numpy()
        expected = losses.CosineInfoNCE(0.1).value(seen[:SAMPLES], seen[SAMPLES:])
        assert loss(here, None).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    "rule",
    [
        CLAPP(context="each", negatives="stacked", penalty=0),
        HeadedViews(kind="global", widths=(7,), loss=losses.CosineInfoNCE(), scale=1.0),
    ],
    ids=["CLAPP++ both", "InfoNCE"],
)
@pytest.mark.parametrize("trainer", [LocalTrainer, GlobalTrainer])
def test_the_published_forms_train_every_block(rule, trainer):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    )
    before = [p.detach().clone() for p in model.parameters()]
    training = trainer(model, None, rule, shape=(2, 6, 6))
    training.step(torch.randn(8, 2, 6, 6))
    assert all((p != old).any() for p, old in zip(model.parameters(), before, strict=True))
