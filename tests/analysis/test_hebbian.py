"""The three-factor form of CLAPP's update is minus autograd's gradient."""

import pytest
import torch
from torch import nn

from linlocal.analysis.local_losses import CLAPP, Cells, PhyLL, Views, hebbian_update
from linlocal.analysis.local_losses.hebbian import gates
from linlocal.losses import scores


def vgg():
    """Convolutions with ReLU, pooled inside the block before, after or not at all, and a head."""
    return [
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()),
        nn.Sequential(nn.Conv2d(6, 5, 3, stride=2, dilation=2, bias=False), nn.ReLU()),
        nn.Sequential(nn.Conv2d(5, 7, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(7, 8, 2, padding=1), nn.MaxPool2d(3, 2, 1), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(32, 9), nn.ReLU()),
        nn.Linear(9, 4),
    ]


def tokens():
    return [nn.Sequential(nn.Linear(5, 6), nn.ReLU()), nn.Linear(6, 4, bias=False)]


NETWORKS = {"vgg": (vgg, (3, 16, 16)), "tokens": (tokens, (6, 5))}
POOLINGS = {"global": "global", "cells": Cells(2), "windows that leave a rest": (3, 2, 3, 2, 1, 1)}


def run(network, seed=0):
    make, shape = NETWORKS[network]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        blocks = [block.double() for block in make()]
        z = torch.randn(10, *shape, dtype=torch.float64)
    below, outputs = [], []
    for block in blocks:
        for p in block.parameters():
            p.data *= 2.5  # so that scores lie on both sides of the margin
        below.append(z.detach())
        z = block(below[-1].clone())
        outputs.append(z)
    return blocks, below, outputs


def largest_error(rule, network, change=lambda update: update):
    blocks, below, outputs = run(network)
    losses = rule.build([tuple(z.shape[1:]) for z in outputs], seed=1).double()
    top, errors = outputs[-1].detach(), []
    for block, x, z, loss in zip(blocks, below, outputs, losses, strict=True):
        update = change(hebbian_update(block, x, loss, top))
        names, parameters = zip(*block.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss(z, top), parameters)
        got = [update[name.split(".")[-1]] for name in names]
        assert len(update) == len(gradients)
        assert [u.shape for u in got] == [g.shape for g in gradients]
        # Of the block as a whole: pulls and pushes of open gates cancel in the last bias.
        got, expected = (torch.cat([a.flatten() for a in b]) for b in (got, gradients))
        assert expected.norm() > 0
        errors.append(((got + expected).norm() / expected.norm()).item())
    return max(errors)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("context", ["same", "top", "both", "each"])
@pytest.mark.parametrize("negatives", ["next", "stacked", "all"])
def test_every_layer_of_a_convolutional_network(pooling, context, negatives):
    rule = CLAPP(context=context, pooling=POOLINGS[pooling], negatives=negatives)
    assert largest_error(rule, "vgg") < 1e-10


@pytest.mark.parametrize(
    "options",
    [
        {"score": "softplus"},
        {"score": "linear"},
        {"score": scores.SmoothedHinge(1.0, 0.7)},
        {"shared": False},
        {"rank": 2},
        {"projection": "random"},
        {"context_pooling": "global"},
        {"projection": "matched"},
    ],
)
@pytest.mark.parametrize("network", NETWORKS)
def test_every_kind_of_score_and_projection(options, network):
    rule = CLAPP(**options)
    assert largest_error(rule, network) < 1e-10
    # Another score, or pairs, would be seen.
    assert largest_error(rule, network, lambda u: {k: 1.001 * v for k, v in u.items()}) > 1e-4


def test_the_gates_are_broadcast_numbers_of_the_pairs():
    u = torch.tensor([[2.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, -3.0, 0.0]])
    gate = gates(u, scores.Hinge(1.0), "next")
    third = 1 / 3
    # Satisfied pairs close their gate, positive ones pull, negative ones push, others are no pairs.
    expected = torch.tensor([[0.0, 0.0, -third], [-third, third, 0.0], [0.0, 0.0, third]])
    torch.testing.assert_close(gate, expected)
    everyone = gates(u, scores.Linear(), "all")
    assert (everyone.diagonal() > 0).all()
    assert (everyone.sum(1).abs() < 1e-6).all()


def test_what_has_no_three_factor_form_is_refused():
    z = torch.randn(8, 4)
    clapp = CLAPP().build([(4,)])[0]
    for rule in (PhyLL(), Views()):
        with pytest.raises(TypeError, match=r"scored pairs of type 2"):
            hebbian_update(nn.Linear(4, 4), z, rule.build([(4,)])[0], z)
    with pytest.raises(ValueError, match=r"followed by ReLU and MaxPool2d only, got Linear, Tanh"):
        hebbian_update(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), z, clapp, z)
    maps = torch.randn(8, 4, 3, 3)
    for options in ({"groups": 2}, {"padding": "same"}, {"padding": 1, "padding_mode": "circular"}):
        with pytest.raises(ValueError, match="one group and padding with zeros"):
            hebbian_update(nn.Conv2d(4, 4, 3, **options), maps, clapp, maps)


def test_it_needs_no_autograd():
    blocks, below, outputs = run("vgg")
    rule = CLAPP(context="both")
    losses = rule.build([tuple(z.shape[1:]) for z in outputs]).double()
    update = hebbian_update(blocks[0], below[0].requires_grad_(), losses[0], outputs[-1])
    assert not any(u.requires_grad for u in update.values())
