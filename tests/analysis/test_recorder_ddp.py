"""Two processes with DistributedDataParallel measure what one does on the joined batch."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import nn

from linlocal.analysis.alignment import TERMS, AlignmentRecorder, align, meeting, series
from linlocal.analysis.local_losses import CLAPP

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


def test_two_processes_equal_one_on_the_joined_batch(tmp_path, pair):
    pair(__file__, "recorded", tmp_path)
    record(network(), X, tmp_path / "one")
    record(network(), half(0), tmp_path / "half")
    one, two, alone = (series.read(tmp_path / name) for name in ("one", "two", "half"))
    for name, values in one.data_vars.items():
        np.testing.assert_allclose(two[name], values, rtol=0, atol=1e-10, err_msg=name)
        assert name == "error_relative_error" or not np.allclose(alone[name], values, atol=1e-6)


def recorded_terms(fabric, folder):
    """The terms and the cosine of error signals, in a step of two processes."""
    model = nn.parallel.DistributedDataParallel(network())
    rule = CLAPP(score="softplus", context="top", pooling=1)
    path = Path(folder) / "terms"
    recorder = AlignmentRecorder(model, rule=rule, every=1, path=path, against="rule", terms=True)
    with recorder, recorder.step():
        model(half(fabric.global_rank))


def test_terms_are_those_of_the_samples_of_all_processes(tmp_path, pair):
    pair(__file__, "recorded_terms", tmp_path)
    step = series.read(tmp_path / "terms").isel(step=0)
    total = sum(step[f"{term}_share"] for term in TERMS)
    np.testing.assert_allclose(total, 1 - step.error_cosine, atol=1e-10)
    # One process alone has another cosine, so its terms would not add up to this one.
    rule = CLAPP(score="softplus", context="top", pooling=1)
    alone = align(network(), None, rule, half(0), terms=True)
    assert abs(float((alone.error_cosine - step.error_cosine)[0])) > 1e-3


def recorded_on_one(fabric):
    """What a step says where the first process alone has a recorder; the other only trains."""
    model = nn.parallel.DistributedDataParallel(network())
    if fabric.global_rank == 1:
        model(half(1)).square().sum(1).mean().backward()
        fabric.barrier()
        return ""
    meeting.PATIENCE = timedelta(seconds=0.2)
    losses = nn.ModuleList([Feedback(5, 4), Feedback(4, 4)])
    recorder = AlignmentRecorder(model, rule=losses, every=1)
    try:
        with recorder.step():
            model(half(0)).square().sum(1).mean().backward()
    except RuntimeError as error:
        return str(error)
    finally:
        meeting.PATIENCE = timedelta(minutes=2)
        fabric.barrier()
    return "recorded"


def test_a_recorder_on_one_process_only_says_so_and_does_not_hang(pair):
    message, _ = pair(__file__, "recorded_on_one")
    assert "Process 1 did not record step 0" in message
    assert "make a recorder on every one" in message
