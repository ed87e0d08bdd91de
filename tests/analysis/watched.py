"""A network and a rule with which recorders are tested."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Feedback(nn.Module):
    """-mean_k z_k . B top_k, a mean over samples."""

    def __init__(self, width, top_width, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("b", torch.randn(width, top_width, generator=generator))

    def forward(self, here, top):
        return nn.functional.softplus(-((here @ self.b.to(here.dtype)) * top).sum(1)).mean()


class Rule:
    def build(self, shapes, seed=0):
        return nn.ModuleList(
            Feedback(s[-1], shapes[-1][-1], seed + i) for i, s in enumerate(shapes)
        )


class Net(nn.Module):
    """Three blocks and a head; ``extra()`` are further modules in the first two blocks."""

    def __init__(self, extra=list, checkpointed=False):
        super().__init__()
        torch.manual_seed(3)
        self.blocks = nn.Sequential(
            nn.Sequential(nn.Linear(6, 5), *extra(), nn.Tanh()),
            nn.Sequential(nn.Linear(5, 5), *extra(), nn.Tanh()),
            nn.Sequential(nn.Linear(5, 4), nn.Tanh()),
        )
        self.head = nn.Linear(4, 2)
        self.checkpointed = checkpointed
        self.double()

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointed else block(x)
        return self.head(x)


def norm():
    return [nn.BatchNorm1d(5)]


def batch(n=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=generator, dtype=torch.float64)


def mean_square(y):
    return y.square().sum(1).mean()
