"""Two processes with DistributedDataParallel measure what one does on the joined batch."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from linlocal.analysis.alignment import AlignmentRecorder, series

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Feedback(nn.Module):
    """softplus(-z_k . B top_k), a mean over samples."""

    def __init__(self, width, top_width):
        super().__init__()
        generator = torch.Generator().manual_seed(width)
        b = torch.randn(width, top_width, generator=generator, dtype=torch.float64)
        self.register_buffer("b", b)

    def forward(self, here, top):
        return nn.functional.softplus(-((here @ self.b) * top).sum(1)).mean()


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh()).double()


def record(model, x, path):
    losses = nn.ModuleList([Feedback(5, 4), Feedback(4, 4)])
    with AlignmentRecorder(model, rule=losses, every=1, path=path, view_parts=True) as recorder:
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        for _ in range(2):
            optimizer.zero_grad()
            with recorder.step():
                model(x).square().sum(1).mean().backward()
            optimizer.step()


def half(rank):
    """Half of each view's rows."""
    first, second = X.chunk(2)
    return torch.cat([first.chunk(2)[rank], second.chunk(2)[rank]])


def recorded(fabric, folder):
    model = nn.parallel.DistributedDataParallel(network())
    record(model, half(fabric.global_rank), Path(folder) / "two")


@pytest.mark.xdist_group("two processes")
def test_two_processes_equal_one_on_the_joined_batch(tmp_path, pair):
    pair(__file__, "recorded", tmp_path)
    record(network(), X, tmp_path / "one")
    record(network(), half(0), tmp_path / "half")
    one, two, alone = (series.read(tmp_path / name) for name in ("one", "two", "half"))
    for name, values in one.data_vars.items():
        np.testing.assert_allclose(two[name], values, rtol=0, atol=1e-10, err_msg=name)
        assert name == "error_relative_error" or not np.allclose(alone[name], values, atol=1e-6)
