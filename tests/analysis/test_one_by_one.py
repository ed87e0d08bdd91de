"""Modules trained one after the other on features from disk, also after an interruption."""

import copy
import itertools
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from linlocal.analysis import LocalTrainer, ResultError, SeededLoader
from linlocal.analysis.local_losses import CLAPP
from linlocal.analysis.training import train_one_by_one
from linlocal.analysis.training.feature_files import FeatureFiles

SGD = partial(torch.optim.SGD, lr=0.1)
X = torch.randn(20, 2, 6, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 3
RULE = CLAPP(score="softplus")


def modules():
    torch.manual_seed(1)
    widths = (2, 4, 5, 3)
    return [
        nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()).double()
        for a, b in itertools.pairwise(widths)
    ]


def mirrored(batch):
    return torch.cat([batch, batch.flip(-1)])


def noisy(batch):
    return mirrored(batch) + 0.1 * torch.randn(2 * len(batch), *batch.shape[1:]).double()


def trained(folder, parts=None, **options):
    parts = modules() if parts is None else parts
    settings = {"shape": (2, 6, 6), "epochs": 2, "batch_size": 4, "augment": mirrored}
    data = TensorDataset(X, LABELS)
    train_one_by_one(parts, RULE, data, folder, **{**settings, "optimiser": SGD, **options})
    return parts


def weights(parts):
    return [[t.clone() for t in part.state_dict().values()] for part in parts]


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


class Alone(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return self.part(x)


class Whole(nn.Module):
    """The rule's loss of one block, built for all of them."""

    def __init__(self, position):
        super().__init__()
        self.position = position

    def build(self, shapes, seed=0):
        return nn.ModuleList([RULE.build([(4, 6, 6), (5, 6, 6), (3, 6, 6)], seed)[self.position]])


def test_each_module_is_trained_on_the_outputs_of_the_trained_one_below(tmp_path):
    found = trained(tmp_path)
    expected, views = modules(), mirrored(X)
    for l, part in enumerate(expected):  # in memory
        part.train()
        first, second = views.chunk(2)
        trainer = LocalTrainer(
            Alone(part),
            ["part"],
            Whole(l),
            shape=views.shape[1:],
            optimiser=SGD,
            views="pair",
        )
        trainer.fit(SeededLoader(TensorDataset(first, second, LABELS), 4), 2)
        part.eval()
        with torch.no_grad():
            views = part(views)
    for ours, theirs in zip(found, expected, strict=True):
        for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    # Training all blocks at once is something else, but for the first block.
    together = nn.Sequential(*modules())
    trainer = LocalTrainer(
        together, ["0", "1", "2"], RULE, shape=(2, 6, 6), optimiser=SGD, augment=mirrored
    )
    trainer.fit(SeededLoader(TensorDataset(X, LABELS), 4), 2)
    assert equal(weights(found)[0], weights(together)[0])
    assert not equal(weights(found)[1], weights(together)[1])
    assert all(module.training for part in found for module in part.modules())
    # Nothing but checkpoints is left.
    assert not [*tmp_path.rglob("*.features")]
    assert len([*tmp_path.rglob("checkpoints")]) == 3


class Killed(Exception):
    pass


def break_after(monkeypatch, owner, name, calls):
    whole = getattr(owner, name)

    def counted(*args, **options):
        nonlocal calls
        calls -= 1
        if calls < 0:
            raise Killed
        return whole(*args, **options)

    monkeypatch.setattr(owner, name, counted)


def test_an_interrupted_training_goes_on_where_it_was(tmp_path, monkeypatch):
    augment = noisy
    whole = weights(trained(tmp_path / "whole", augment=augment, draws=2))
    places = ((LocalTrainer, "step", 4), (FeatureFiles, "write", 3), (LocalTrainer, "step", 13))
    for owner, name, calls in (*places, (FeatureFiles, "write", 8), (LocalTrainer, "step", 1)):
        with monkeypatch.context() as patch:
            break_after(patch, owner, name, calls)
            with pytest.raises(Killed):
                trained(tmp_path / "cut", augment=augment, draws=2, every=3)
    with monkeypatch.context() as patch:
        break_after(patch, FeatureFiles, "write", 0)  # all are there already
        found = trained(tmp_path / "cut", augment=augment, draws=2, every=3)
    assert all(equal(a, b) for a, b in zip(whole, weights(found), strict=True))
    with monkeypatch.context() as patch:  # and once more, nothing is trained
        break_after(patch, LocalTrainer, "step", 0)
        again = trained(tmp_path / "cut", augment=augment, draws=2, every=3)
    assert all(equal(a, b) for a, b in zip(whole, weights(again), strict=True))


def test_more_draws_are_other_views(tmp_path):
    once, twice = (
        trained(tmp_path / str(draws), modules()[:2], augment=noisy, draws=draws)
        for draws in (1, 2)
    )
    assert equal(weights(once)[0], weights(twice)[0])
    assert not equal(weights(once)[1], weights(twice)[1])


def test_what_belongs_to_another_training_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        break_after(patch, LocalTrainer, "step", 12)
        with pytest.raises(Killed):
            trained(tmp_path, every=1)
    other = modules()
    with pytest.raises(ValueError, match="features of other weights"):
        trained(tmp_path, other, epochs=3)  # which trains the first module on
    with pytest.raises(ValueError, match="features of other weights"):
        trained(tmp_path, batch_size=5)


def test_a_damaged_file_is_named(tmp_path):
    files = FeatureFiles(tmp_path, "a", 5, 4)
    z = torch.randn(5, 2, 3, dtype=torch.bfloat16)
    for number, rows in enumerate((slice(0, 4), slice(4, 5))):
        files.write(number, z[rows], LABELS[rows])
    assert files.missing() == []
    assert len(files) == 5
    first, second, label = copy.copy(files)[4]
    assert torch.equal(torch.stack([first, second]), z[4].float())
    assert int(label) == int(LABELS[4])
    plain = FeatureFiles(tmp_path / "plain", "a", 5, 5)
    plain.write(0, z, None)
    assert len(plain[0]) == 2
    path = tmp_path / "00000000.features"
    whole = path.read_bytes()
    for damaged in (
        whole[:-1],
        b"",
        b"{}\n" + whole,
        whole + b"x",
        whole.replace(b"float32", b"|O"),
        b'{"key": "a", "shape": [1e999]}\n',
        b"[" * 4095 + b"\n",
        b"7\n",
        b"\xff\n",
    ):
        path.write_bytes(damaged)
        with pytest.raises(ResultError, match=r"00000000\.features is damaged"):
            FeatureFiles(tmp_path, "a", 5, 4).missing()
    flipped = bytearray(whole)
    flipped[-40] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ResultError, match="its checksum is wrong"):
        FeatureFiles(tmp_path, "a", 5, 4)[0]
    path.write_bytes(whole)
    with pytest.raises(ResultError, match="features of other weights, data or settings"):
        FeatureFiles(tmp_path, "b", 5, 4).missing()
    path.unlink()
    assert FeatureFiles(tmp_path, "a", 5, 4).missing() == [0]
    path.mkdir()
    with pytest.raises(ResultError, match="damaged or no file of ours"):
        FeatureFiles(tmp_path, "a", 5, 4).missing()
    with pytest.raises(ResultError, match="cannot be written"):
        files.write(0, z[:4], None)


class Halves(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = nn.Conv2d(2, 4, 1).double()

    def forward(self, x):
        return self.inside(x)[: max(2, len(x) // 2)]


def test_what_cannot_be_trained_one_by_one_is_said(tmp_path):
    top = CLAPP(context="top", score="softplus")
    for call, kind, message in (
        (lambda: trained(tmp_path, []), ValueError, "modules is empty"),
        (lambda: trained(tmp_path, [3]), TypeError, "module 1 must be a torch.nn.Module"),
        (lambda: trained(tmp_path, epochs=0), ValueError, "epochs must be at least 1"),
        (lambda: trained(tmp_path, draws=0.5), TypeError, "draws must be a whole number"),
        (lambda: trained(tmp_path, batch_size="4"), TypeError, "batch_size must be a whole"),
        (lambda: trained(tmp_path, every=0), ValueError, "every must be at least 1"),
        (lambda: trained(tmp_path, seed=-1), ValueError, "seed must be at least 0"),
        (lambda: trained(tmp_path, shape=(2, 0, 6)), ValueError, "an entry of shape must be at"),
        (
            lambda: train_one_by_one(
                modules(), top, X, tmp_path, shape=(2, 6, 6), epochs=1, batch_size=4
            ),
            ValueError,
            "loss of module 1 reads the top activity",
        ),
        (
            lambda: train_one_by_one(
                modules(), RULE, 3, tmp_path, shape=(2, 6, 6), epochs=1, batch_size=4
            ),
            TypeError,
            "data must have a length",
        ),
        (
            lambda: trained(tmp_path / "halves", [Halves(), nn.Conv2d(4, 2, 1).double()]),
            ValueError,
            "a row for each input",
        ),
    ):
        with pytest.raises(kind, match=message):
            call()
