"""What the malformed inputs of the instruments share: a small network, its views, samples."""

import numpy as np
import torch
from torch import nn

from linlocal.analysis.local_losses import CLAPP

NAMES = ["0", "2"]
RULE = CLAPP(score="softplus", pooling=1)
VIEWS = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
X = np.random.default_rng(0).standard_normal((20, 3))
Y = np.arange(20) % 2


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


NET = network()
AT_LEAST_ONE = {
    "zero": (0, ValueError, "must be at least 1, got 0"),
    "negative": (-3, ValueError, "must be at least 1, got -3"),
    "half": (0.5, TypeError, r"must be a whole number, got 0\.5"),
    "a word": ("10", TypeError, "must be a whole number, got '10'"),
    "a bool": (True, TypeError, "must be a whole number, got True"),
}
