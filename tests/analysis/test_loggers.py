"""Loggers get every number of every recorded step, under a name that tells its place."""

from contextlib import ExitStack

import pytest
import torch
from torch import nn

import linlocal as ll
from linlocal.analysis import AlignmentRecorder, Monitor
from linlocal.analysis.alignment import loggers


def network():
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(2)))


def train(model, *instruments, steps=3):
    for _ in range(steps):
        views = torch.rand(12, 5, generator=torch.Generator().manual_seed(1))
        with ExitStack() as stack:
            for instrument in instruments:
                stack.enter_context(instrument.step())
            model(views).square().mean().backward()


class Heard(list):
    def __call__(self, numbers, *, step):
        self.append((step, numbers))


@pytest.mark.parametrize(
    "rules", [ll.rules.CLAPP_DFB(), {"a": ll.rules.CLAPP(), "b c": ll.rules.LPL()}]
)
def test_a_logger_hears_each_recorded_step_at_once(rules, tmp_path):
    model, heard = network(), Heard()
    recorder = AlignmentRecorder(model, rule=rules, every=2, path=tmp_path / "r", log=heard)
    train(model, recorder, steps=1)
    assert [step for step, _ in heard] == [0]
    train(model, recorder, steps=2)
    assert [step for step, _ in heard] == [0, 2]
    recorded = recorder.dataset()
    for step, numbers in heard:
        for rule in recorded["rule"].values if "rule" in recorded.dims else [None]:
            chosen = recorded if rule is None else recorded.sel(rule=rule)
            place = "" if rule is None else f"{rule}/"
            for layer in (1, 2):
                cosine = float(chosen["cosine"].sel(step=step, layer=layer))
                assert numbers[f"cosine/{place}layer{layer}"] == cosine
        assert not any("parameter" in name for name in numbers)


def test_a_monitor_logs_all_that_is_defined():
    model, heard = network(), Heard()
    monitor = Monitor(model, every=1, views="stacked", log=heard)
    train(model, monitor, steps=2)
    assert [step for step, _ in heard] == [0, 1]
    numbers = heard[0][1]
    assert numbers["effective_rank/layer1"] == float(
        monitor.dataset()["effective_rank"].sel(step=0, layer=1)
    )
    assert "pair_cosine/positive/0.5/layer2" in numbers
    assert "cka/layer1" not in numbers  # undefined there
    assert "cka/layer2" in numbers


def test_what_a_logger_raises_loses_nothing():
    def full(numbers, *, step):
        raise OSError("quota")

    model = network()
    recorder = AlignmentRecorder(model, rule=ll.rules.CLAPP(), every=1, log=full)
    with pytest.raises(OSError, match="quota"):
        train(model, recorder)
    assert recorder.dataset().step.values.tolist() == [0]


@pytest.mark.parametrize("instrument", [AlignmentRecorder, Monitor])
def test_a_logger_is_a_function(instrument):
    options = {"rule": ll.rules.CLAPP()} if instrument is AlignmentRecorder else {}
    with pytest.raises(TypeError, match=r"log must be a function log\(numbers, step=step\)"):
        instrument(network(), log="wandb", **options)
    assert loggers.checked(None) is None
