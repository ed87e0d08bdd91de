"""Two processes take the steps of one on the joined batches."""

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import TensorDataset

from linlocal.analysis.local_losses import ForwardForward
from linlocal.analysis.training import Checkpoints, LocalTrainer, SeededLoader

DATA = TensorDataset(torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).double())


def train(fabric, folder, batch_size, window=1):
    folder = Path(folder)
    # Other weights in each process, until the trainer gives them those of the first.
    torch.manual_seed(fabric.global_rank)
    layers = (nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh()) for _ in range(3))
    trainer = LocalTrainer(
        nn.Sequential(*layers).double().eval(),
        None,
        ForwardForward(),
        shape=(6,),
        augment=lambda x: torch.cat([x, -x.square()]),
        optimiser=partial(torch.optim.SGD, lr=0.5),
        fabric=fabric,
        window=window,
        log=lambda step, values: logged.append(values),
    )
    loader = SeededLoader(DATA, batch_size, rank=fabric.global_rank, world_size=fabric.world_size)
    logged = []
    trainer.fit(loader, 2, checkpoints=Checkpoints(folder))
    torch.save(logged, folder / f"logged{fabric.global_rank}")


def in_two(fabric, folder, window):
    train(fabric, folder, 5, int(window))


@pytest.mark.parametrize("window", [1, 2, 3])
def test_two_processes_equal_one_on_the_joined_batches(tmp_path, pair, window):
    for name in ("one", "two", "half"):
        (tmp_path / name).mkdir()
    pair(__file__, "in_two", tmp_path / "two", window)
    alone = Fabric(accelerator="cpu", devices=1)
    train(alone, tmp_path / "one", 10, window)
    train(alone, tmp_path / "half", 5, window)
    one, two, half = (Checkpoints(tmp_path / name).load() for name in ("one", "two", "half"))
    torch.testing.assert_close(two["model"], one["model"], rtol=1e-12, atol=1e-12)
    assert two["place"] == one["place"]
    assert (half["model"]["0.0.weight"] - one["model"]["0.0.weight"]).norm() > 1e-3
    logged = [torch.load(tmp_path / name) for name in ("one/logged0", "two/logged0", "two/logged1")]
    assert logged[1] == logged[2]
    for a, b in zip(*logged[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)
