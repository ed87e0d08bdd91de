"""A whole training: its data and random numbers, schedulers and logs, its death and resuming."""

import copy
import math
import os
import random
import signal
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from linlocal.analysis.local_losses import CLAPP, Views
from linlocal.analysis.training import (
    Checkpoints,
    GlobalTrainer,
    LocalTrainer,
    SeededLoader,
    tensorboard_log,
)


def mlp():
    """Three blocks with running statistics and random numbers of their own."""
    torch.manual_seed(5)
    return nn.Sequential(
        *(
            nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2))
            for _ in range(3)
        )
    )


def identical(a, b):
    """Bit by bit, through containers."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(identical(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(identical, a, b))
    return a == b


# -- data and randomness ---------------------------------------------------------------------------


class Noisy(torch.utils.data.Dataset):
    """Rows that draw from all three generators when they are read."""

    def __init__(self, rows=24):
        self.x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(7))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, row):
        drawn = random.random() + np.random.rand() + float(torch.rand(()))  # noqa: NPY002
        return self.x[row] + 0.01 * drawn, row


def two_views(x):
    return torch.cat([x, x]) + 0.1 * torch.randn(2 * len(x), *x.shape[1:])


def test_both_trainers_see_the_same_views_for_a_seed():
    def seen(kind, seed, rule):
        views, drawn = [], []

        def augment(x):
            views.append(two_views(x))
            drawn.append(torch.rand(()).item())
            return views[-1]

        trainer = kind(mlp(), None, rule, shape=(6,), augment=augment, seed=seed)
        trainer.fit(SeededLoader(Noisy(), 4, seed=seed), 2)
        assert len({*drawn}) == 12  # others in each step
        return torch.stack(views)

    local = seen(LocalTrainer, 0, CLAPP(context="top"))
    assert local.shape == (12, 8, 6)
    assert torch.equal(local, seen(GlobalTrainer, 0, Views()))
    assert not torch.equal(local, seen(GlobalTrainer, 1, Views()))


def test_a_step_leaves_the_random_numbers_of_others_alone():
    trainer = LocalTrainer(mlp(), None, Views(), shape=(6,), augment=two_views)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    trainer.step(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_epoch_without_batches_is_an_error():
    trainer = LocalTrainer(mlp(), None, Views(), shape=(6,), augment=two_views)
    with pytest.raises(ValueError, match=r"no batch in epoch 0: are there fewer data"):
        trainer.fit(SeededLoader(Noisy(3), 4), 1)


def test_schedulers_and_logs_run_with_every_step():
    logged = {}
    trainer = LocalTrainer(
        mlp(),
        None,
        CLAPP(),
        shape=(6,),
        augment=two_views,
        optimiser=[partial(torch.optim.SGD, lr=lr) for lr in (0.1, 0.2, 0.3)],
        scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5),
        log=lambda step, values: logged.update({step: dict(values)}),
    )
    trainer.fit(SeededLoader(Noisy(), 12), 1)
    assert list(logged) == [1, 2]
    assert all(list(values) == ["loss/1", "loss/2", "loss/3"] for values in logged.values())
    rates = [o.param_groups[0]["lr"] for o in trainer.optimisers]
    assert rates == pytest.approx([0.025, 0.05, 0.075])
    with pytest.raises(ValueError, match=r"2 optimisers for 3 blocks"):
        LocalTrainer(mlp(), None, CLAPP(), shape=(6,), optimiser=[torch.optim.SGD] * 2)


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="tensorboard is installed")
def test_a_missing_tensorboard_is_named(tmp_path):
    with pytest.raises(ImportError, match="pip install tensorboard"):
        tensorboard_log(tmp_path)


@pytest.mark.parametrize("kind", [LocalTrainer, GlobalTrainer])
def test_a_loss_that_is_not_finite_changes_nothing(kind):
    trainer = kind(mlp(), None, Views(), shape=(6,))
    x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    trainer.step(x)
    before = copy.deepcopy(trainer.state_dict())
    bad = x.clone()
    bad[0, 0] = math.nan
    block = 1 if kind is LocalTrainer else 3
    message = rf"loss of block {block} \({block - 1}\) is nan at step 1; nothing was changed"
    with pytest.raises(FloatingPointError, match=message):
        trainer.step(bad)
    assert identical(trainer.state_dict(), before)
    assert all(p.grad is None for p in trainer.model.parameters())
    trainer.step(x)
    assert trainer.steps == 2


# -- resuming --------------------------------------------------------------------------------------


def resumable(kind, folder, epochs, log=None, every=3):
    random.seed(len(str(folder)))  # the trainer must not depend on what it finds
    trainer = kind(
        mlp(),
        None,
        CLAPP(context="top"),
        shape=(6,),
        augment=two_views,
        scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
        seed=4,
        log=log,
    )
    checkpoints = Checkpoints(folder) if folder else None
    trainer.fit(SeededLoader(Noisy(), 4, seed=4), epochs, checkpoints=checkpoints, every=every)
    return trainer


def assert_same_training(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert str(a["place"]) == str(b["place"])
    assert identical(a, b)


def kill_while_training(kind, folder):
    def log(step, values):
        if step == 11:
            os.kill(os.getpid(), signal.SIGKILL)

    resumable(globals()[kind], folder, 3, log)


def kill_while_saving(kind, folder):
    plain, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 5:  # two for each checkpoint: in the third one, before it has its name
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        plain(descriptor)

    os.fsync = fsync
    resumable(globals()[kind], folder, 3)


@pytest.mark.parametrize(
    ("kind", "killed"),
    [("LocalTrainer", "kill_while_training"), ("GlobalTrainer", "kill_while_saving")],
)
def test_a_killed_training_goes_on_bit_by_bit(tmp_path, fresh, kind, killed):
    code, printed = fresh(__file__, killed, kind, tmp_path)
    assert code == -signal.SIGKILL, printed
    last = {"kill_while_training": 9, "kill_while_saving": 6}[killed]
    assert Checkpoints(tmp_path).load()["place"][2] == last
    assert bool(list(tmp_path.glob(".*.tmp"))) == (killed == "kill_while_saving")
    trainer = globals()[kind]
    resumed = resumable(trainer, tmp_path, 3)
    states = (random.getstate(), np.random.rand(), torch.rand(1))  # noqa: NPY002
    assert_same_training(resumable(trainer, None, 3), resumed)
    assert states == (random.getstate(), np.random.rand(), torch.rand(1))  # noqa: NPY002
    assert not list(tmp_path.glob(".*.tmp"))


def test_training_goes_on_over_epochs_and_only_where_it_belongs(tmp_path):
    resumable(LocalTrainer, tmp_path, 1)
    longer = resumable(LocalTrainer, tmp_path, 2)
    assert_same_training(resumable(LocalTrainer, None, 2), longer)
    with pytest.raises(
        ValueError, match=r"belongs to the training .*LocalTrainer.*this training is"
    ):
        resumable(GlobalTrainer, tmp_path, 2)
