"""Peak memory of local training is flat in depth, that of backpropagation grows linearly."""

from functools import partial

import pytest
import torch
from torch import nn

from linlocal.analysis.local_losses import CLAPP, SCFF, ForwardForward, Views
from linlocal.analysis.training import GlobalTrainer, LocalTrainer, peak_bytes

DEPTHS = (6, 12, 24, 48)
ROWS, WIDTH = 128, 16
ACTIVITY = 4 * ROWS * WIDTH  # bytes


def dense(depth):
    return nn.Sequential(*(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU()) for _ in range(depth)))


def convolutional():
    widths = (3, 4, 8, 8)
    return nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), pool)
            for a, b, pool in zip(
                widths[:-1],
                widths[1:],
                (nn.MaxPool2d(2), nn.Identity(), nn.MaxPool2d(2)),
                strict=True,
            )
        )
    )


def peak(trainer, x):
    trainer.backward(x)  # so that gradients exist
    return peak_bytes(partial(trainer.backward, x))


@pytest.mark.parametrize("rule", [CLAPP(), CLAPP(context="top"), SCFF(), ForwardForward(), Views()])
def test_local_training_is_flat_in_depth_and_backpropagation_linear(rule):
    x = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
    local, everything = (
        [peak(kind(dense(depth), None, rule, shape=(WIDTH,)), x) for depth in DEPTHS]
        for kind in (LocalTrainer, GlobalTrainer)
    )
    # But for the number that each loss returns.
    assert [p - local[0] for p in local] == [4 * (depth - DEPTHS[0]) for depth in DEPTHS]
    # Each layer keeps its output.
    assert [p - everything[0] for p in everything] == [
        ACTIVITY * (depth - DEPTHS[0]) for depth in DEPTHS
    ]
    assert local[-1] < everything[-1] / 3


def test_one_graph_with_detached_blocks_saves_nothing():
    """What local training saves is the graph that is freed, not the detachment."""
    x = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))

    def one_backward(model, losses):
        z, total = x, []
        for block, loss in zip(model, losses, strict=True):
            z = block(z.detach())
            total.append(loss(z, z))
        torch.stack(total).sum().backward()

    peaks = []
    for depth in DEPTHS:
        model, losses = dense(depth), ForwardForward().build([(WIDTH,)] * depth)
        one_backward(model, losses)
        peaks.append(peak_bytes(partial(one_backward, model, losses)))
    assert peaks[-1] - peaks[0] >= ACTIVITY * (DEPTHS[-1] - DEPTHS[0])


@pytest.mark.parametrize("kind", [LocalTrainer, GlobalTrainer])
def test_the_count_without_computing_is_that_of_the_computation(kind):
    trainer = kind(convolutional(), None, CLAPP(context="top"), shape=(3, 8, 8))
    x = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    computed = peak(trainer, x)
    trainer.model.to("meta")
    trainer.losses.to("meta")
    assert peak(trainer, x.to("meta")) == computed > 0


def test_the_count_follows_what_is_alive():
    old = torch.ones(1000, dtype=torch.float64)

    def call():
        a = old + 1  # 8,000 bytes
        a.view(10, 100).add_(old.view(10, 100))  # views and operations in place take none
        b = a.float()  # and 4,000
        del a
        c = b[:10] * 2  # 40, after 8,000 are gone
        return b, c

    assert peak_bytes(call) == 12_000
    assert peak_bytes(lambda: old.add_(1)) == 0
    kept = []
    assert peak_bytes(lambda: kept.extend(old[:1] + i for i in range(5))) == 5 * 8
    # What autograd keeps for the backward pass is alive, until that is done.
    w = torch.ones(1000, dtype=torch.float64, requires_grad=True)

    def forward(keep):
        y = w.exp()
        z = (y if keep else y.detach()).exp()
        del y
        return z.exp()

    assert peak_bytes(lambda: forward(True)) == peak_bytes(lambda: forward(False)) + 8_000
