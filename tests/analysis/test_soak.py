"""Long recordings and trainings: no growth of memory, tensors, hooks, open files or threads."""

import gc
import threading
import tracemalloc
from pathlib import Path

import pytest
import torch
from torch import nn

from linlocal.analysis import AlignmentRecorder, LocalTrainer
from linlocal.analysis.local_losses import CLAPP

RULE = CLAPP(score="softplus", pooling=1)
HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
)


@pytest.fixture(autouse=True)
def alone():
    """What other tests left is neither counted nor searched, which would take seconds."""
    gc.freeze()
    yield
    gc.unfreeze()


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)
        )


def held(*modules):
    """What a step must give back: objects, tensors, hooks, open files, threads."""
    gc.collect()
    objects = gc.get_objects()
    # Not the symbolic ones that a compiler keeps: counting their entries makes new objects.
    tensors = [o for o in objects if type(o) in (torch.Tensor, nn.Parameter)]
    parts = [m for module in modules for m in module.modules()]
    files = Path("/proc/self/fd")
    return {
        "objects": len(objects),
        "tensors": len(tensors),
        "entries": sum(t.numel() for t in tensors),
        "hooks on modules": sum(len(getattr(m, name)) for m in parts for name in HOOKS),
        "hooks on tensors": sum(len(t._backward_hooks or ()) for t in tensors)
        + sum(len(getattr(t, "_post_accumulate_grad_hooks", None) or ()) for t in tensors),
        "open files": len(list(files.iterdir())) if files.is_dir() else 0,
        "threads": threading.active_count(),
    }


def grown(step, count, *modules, warm):
    """What ``count`` steps add to what is held."""
    for _ in range(warm):
        step()
    before = held(*modules)
    for _ in range(count):
        step()
    after = held(*modules)
    return {name: after[name] - before[name] for name in before}


def assert_nothing_grew(added, count):
    added = dict(added)
    # Caches of the interpreter and of xarray come and go; a leak is one object more in each step.
    assert added.pop("objects") < count / 2
    assert added == dict.fromkeys(added, 0)


def traced(step, count):
    """Bytes that Python objects take more after ``count`` steps than before, garbage excluded."""
    tracemalloc.start()
    try:
        step()  # what is allocated once has been
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(count):
            step()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def recording(folder, every, flush_every):
    model = network()
    recorder = AlignmentRecorder(
        model, ["0", "2", "4"], rule=RULE, every=every, path=folder, flush_every=flush_every
    )
    views = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))

    def step():
        model.zero_grad()
        with recorder.step():
            model(views).square().mean().backward()

    return model, recorder, step


@pytest.mark.parametrize(
    "steps",
    [
        400,
        pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_a_recorder_holds_nothing_after_its_steps(tmp_path, steps):
    model, recorder, step = recording(tmp_path, every=1, flush_every=50)
    # A flush falls on the last step of the warm-up, and on the last one of all.
    assert_nothing_grew(grown(step, steps, model, warm=100), steps)
    recorder.flush()
    assert recorder.dataset().sizes["step"] == steps + 100
    assert [file.suffix for file in tmp_path.iterdir()] == [".nc"] * (steps // 50 + 2)


def test_the_memory_of_a_recorder_does_not_grow(tmp_path):
    _, _, step = recording(tmp_path, every=1, flush_every=25)
    for _ in range(49):
        step()
    assert traced(step, 100) < 100 * 400, "bytes: four small objects in each step"


def test_a_local_trainer_holds_nothing_after_its_steps():
    pytest.importorskip("lightning_fabric")
    trainer = LocalTrainer(network(), ["0", "2", "4"], RULE, shape=(4,))
    batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    added = grown(lambda: trainer.step(batch), 200, trainer.model, trainer.losses, warm=50)
    assert_nothing_grew(added, 200)
    assert traced(lambda: trainer.step(batch), 50) < 50 * 400


LEAKS = {
    "tensors": lambda kept, model: kept.append(torch.ones(3)),
    "hooks on modules": lambda kept, model: model[0].register_forward_hook(print),
    "hooks on tensors": lambda kept, model: model[0].weight.register_hook(print),
    "open files": lambda kept, model: kept.append(Path(__file__).open()),  # noqa: SIM115
    "threads": lambda kept, model: kept.append(waiting()),
}


def waiting():
    release = threading.Event()
    threading.Thread(target=release.wait, daemon=True).start()
    return release


def test_what_grows_is_seen():
    """Otherwise the laws above could not fail."""
    kept, model = [], network()

    def leak():
        for each in LEAKS.values():
            each(kept, model)

    try:
        added = grown(leak, 5, model, warm=1)
        for what in LEAKS:
            assert added[what] == 5
            with pytest.raises(AssertionError):
                assert_nothing_grew({**dict.fromkeys(added, 0), what: added[what]}, 100)
    finally:
        for each in kept:
            for release in ("close", "set"):
                getattr(each, release, lambda: None)()


def test_a_recorder_that_is_rarely_due_holds_nothing(tmp_path):
    model, _, step = recording(tmp_path, every=7, flush_every=5)
    # A record's file is written for the first time, and twice more, in the warm-up.
    assert_nothing_grew(grown(step, 210, model, warm=105), 210)
