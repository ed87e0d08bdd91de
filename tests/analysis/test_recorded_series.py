"""What a recorder keeps, in memory and on disk, over restarts and steps back."""

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from linlocal.analysis.alignment import AlignmentRecorder, log_spaced, series
from linlocal.analysis.local_losses import CLAPP
from linlocal.analysis.results import ResultError
from tests.analysis.watched import Net, Rule, batch, mean_square


def test_cadences():
    assert [n for n in range(1200) if log_spaced(1)(n)] == [0, 1, 10, 100, 1000]
    spaced = [n for n in range(10_000) if log_spaced(10)(n)]
    assert sum(100 <= n < 1000 for n in spaced) == sum(1000 <= n < 10_000 for n in spaced) == 10
    for bad in ({"every": 0}, {"flush_every": 0}, {"against": "nothing"}):
        with pytest.raises(ValueError, match="must be"):
            AlignmentRecorder(Net(), rule=Rule(), **bad)


def train(recorder, model, steps):
    for i in range(steps):
        with recorder.step():
            mean_square(model(batch(seed=i))).backward()


def test_the_series_on_disk_is_the_one_in_memory_and_is_read_meanwhile(tmp_path):
    model = Net()
    memory = AlignmentRecorder(model, rule=Rule(), every=1, flush_every=2)
    disk = AlignmentRecorder(model, rule=Rule(), every=1, flush_every=2, path=tmp_path)
    train(memory, model, 5)
    train(disk, model, 5)
    assert series.read(tmp_path).step.values.tolist() == [0, 1, 2, 3]
    assert series.read(tmp_path).identical(disk.dataset()) is False
    stored = disk.dataset()
    assert stored.step.values.tolist() == [0, 1, 2, 3, 4]
    for name, values in memory.dataset().data_vars.items():
        np.testing.assert_array_equal(stored[name], values)


def test_a_restart_continues_the_series_and_a_step_back_replaces(tmp_path):
    model = Net()
    with AlignmentRecorder(model, rule=Rule(), every=2, path=tmp_path) as recorder:
        train(recorder, model, 3)
        state = recorder.state_dict()
        train(recorder, model, 4)
    with AlignmentRecorder(model, rule=Rule(), every=2, path=tmp_path) as recorder:
        train(recorder, model, 2)
    assert series.read(tmp_path).step.values.tolist() == [0, 2, 4, 6, 8]
    before = series.read(tmp_path)
    other = with_other_weights(Net(), seed=9)
    with AlignmentRecorder(other, rule=Rule(), every=2, path=tmp_path) as recorder:
        recorder.load_state_dict(state)
        train(recorder, other, 2)
    after = series.read(tmp_path)
    assert after.step.values.tolist() == before.step.values.tolist()
    changed = (after.cosine != before.cosine).any("layer").values.tolist()
    assert changed == [False, False, True, False, False]


@pytest.mark.parametrize("flush_every", [1, 2, 100])
@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_step_back_leaves_every_step_once_and_what_was_before_it(tmp_path, place, flush_every):
    """Whether records wait, are kept or are written: no step twice, none of before is lost."""
    options = {"rule": Rule(), "every": 1, "flush_every": flush_every}
    path = tmp_path if place == "disk" else None
    model, other = Net(), with_other_weights(Net(), seed=9)
    one, two = (AlignmentRecorder(each, **options) for each in (model, other))
    train(one, model, 6)
    train(two, other, 6)
    first, second = one.dataset(), two.dataset()
    for back in (6, 3, 1, 0):
        place_of = None if path is None else path / str(back)
        recorder = AlignmentRecorder(model, path=place_of, **options)
        train(recorder, model, 6)
        recorder.load_state_dict({"step": back})
        after = with_other_weights(model, seed=9)
        for i in range(back, 6):
            with recorder.step():
                mean_square(after(batch(seed=i))).backward()
        found = recorder.dataset()
        assert found.step.values.tolist() == list(range(6))
        np.testing.assert_array_equal(found.cosine[:back], first.cosine[:back])
        np.testing.assert_array_equal(found.cosine[back:], second.cosine[back:])
        model.load_state_dict(Net().state_dict())


@pytest.mark.parametrize("flush_every", [1, 2, 100])
def test_a_step_forward_keeps_what_was_recorded_before(flush_every):
    model = Net()
    recorder = AlignmentRecorder(model, rule=Rule(), every=1, flush_every=flush_every)
    train(recorder, model, 3)
    recorder.load_state_dict({"step": 7})
    train(recorder, model, 2)
    assert recorder.dataset().step.values.tolist() == [0, 1, 2, 7, 8]
    recorder.load_state_dict({"step": 0})
    with pytest.raises(ResultError, match="No step was recorded"):
        recorder.dataset()


def with_other_weights(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return model


def test_a_torn_file_is_left_out_with_a_warning(tmp_path):
    model = Net()
    with AlignmentRecorder(model, rule=Rule(), every=1, flush_every=1, path=tmp_path) as recorder:
        train(recorder, model, 3)
    last = max(tmp_path.iterdir())
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="left out of the series"):
        assert series.read(tmp_path).step.values.tolist() == [0, 1]


def test_another_network_does_not_continue_a_series(tmp_path):
    with AlignmentRecorder(model := Net(), rule=Rule(), every=1, path=tmp_path) as recorder:
        train(recorder, model, 1)
    names = ["blocks.0", "blocks.1"]
    with pytest.raises(ResultError, match=r"blocks = .*another folder"):
        AlignmentRecorder(model, names, rule=Rule(), every=1, path=tmp_path)


class Scaled(Rule):
    def __init__(self, scale):
        self.scale = scale


class Margin(nn.Module):
    """A loss whose text says nothing of its option."""

    def __init__(self, margin):
        super().__init__()
        self.margin = margin

    def forward(self, here, top):
        return (self.margin - here).relu().mean()


def losses(margin):
    return nn.ModuleList(Margin(margin) for _ in range(3))


FIRST = {"rule": CLAPP(context="top"), "every": 1}
OTHERS = {
    "rules": [
        {"rule": CLAPP(context="top", margin=5)},
        {"rule": CLAPP(context="same")},
        {"rule": CLAPP(context="top", score="softplus")},
        {"rule": CLAPP(context="top", penalty=0)},
        {"rule": CLAPP(context="top", negatives="stacked")},
        {"rule": {"a": CLAPP(context="top")}},
    ],
    "against": [{"against": "rule"}],
    "views": [{"views": "separate"}],
    "view_parts": [{"view_parts": True}],
    "trains_rule": [{"trains_rule": True}],
    "every": [{"every": 2}, {"every": log_spaced(8)}],
}


@pytest.mark.parametrize(
    ("name", "changed"), [(name, each) for name, many in OTHERS.items() for each in many]
)
def test_a_series_takes_no_records_of_another_rule_or_way(tmp_path, name, changed):
    with AlignmentRecorder(model := Net(), path=tmp_path, **FIRST) as recorder:
        train(recorder, model, 1)
    with pytest.raises(ResultError, match=f"holds a series with {name} = .*another folder"):
        AlignmentRecorder(model, path=tmp_path, **{**FIRST, **changed})
    assert series.read(tmp_path).step.values.tolist() == [0]


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (Scaled(1.0), Scaled(1.0), Scaled(2.0)),
        (losses(1.0), losses(1.0), losses(2.0)),
        (CLAPP().build([(5,)] * 3), CLAPP().build([(5,)] * 3), CLAPP(margin=5).build([(5,)] * 3)),
        (log_spaced(8), log_spaced(8), log_spaced(4)),
    ],
    ids=["rule without a text", "losses without a text", "losses of a rule", "cadence"],
)
def test_what_is_the_same_in_another_process_continues_a_series(tmp_path, one, same, other):
    def recorder(given):
        options = {"every": given, "rule": Rule()} if callable(given) and not isinstance(
            given, nn.Module
        ) else {"every": 1, "rule": given}  # fmt: skip
        return AlignmentRecorder(Net(), path=tmp_path, **options)

    first = recorder(one)
    series.append(tmp_path, piece_of(0), first._provenance)
    recorder(same)
    with pytest.raises(ResultError, match="another folder"):
        recorder(other)


def piece_of(step):
    return xr.Dataset({"cosine": ("step", [0.5])}, {"step": [step]})


def test_records_that_could_not_be_written_wait(tmp_path, monkeypatch):
    recorder = AlignmentRecorder(model := Net(), rule=Rule(), every=1, path=tmp_path)
    train(recorder, model, 2)

    def full(*arguments):
        raise ResultError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(series, "append", full)
        with pytest.raises(ResultError, match="no space left"):
            recorder.flush()
    recorder.flush()
    assert series.read(tmp_path).step.values.tolist() == [0, 1]


def test_nothing_recorded_says_so(tmp_path):
    for path in (None, tmp_path):
        with pytest.raises(ResultError, match="recorded"):
            AlignmentRecorder(Net(), rule=Rule(), path=path).dataset()
