"""Batches are a function of seed, epoch and number, whoever makes them."""

import copy

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from linlocal.analysis.hierarchy import EndlessBatches, FreshBatches, StoredBatches
from linlocal.rhm import RandomHierarchyModel, tokens

RHM = RandomHierarchyModel(num_classes=4, num_symbols=4, num_synonyms=2, num_levels=3)


def fresh(**changes):
    return FreshBatches(RHM, **{"batch_size": 8, "num_batches": 12, "seed": 0, **changes})


def stored(**changes):
    data = RHM.sample(90, seed=0)
    return StoredBatches(data, **{"batch_size": 8, "encode": RHM.one_hot, "seed": 0, **changes})


def epoch(batches, workers):
    loader = DataLoader(batches, batch_size=None, num_workers=workers)
    x, y = zip(*loader, strict=True)
    return torch.cat(x), torch.cat(y)


@pytest.mark.parametrize("make", [fresh, stored])
def test_any_number_of_workers_makes_the_same_epoch(make):
    one = epoch(make(), 0)
    for workers in (1, 2):
        other = epoch(make(), workers)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("make", [fresh, stored])
def test_epochs_and_seeds_make_a_difference_and_can_be_repeated(make):
    batches = make()
    first = epoch(batches, 0)
    batches.set_epoch(1)
    second = epoch(batches, 0)
    assert not torch.equal(first[0], second[0])
    batches.set_epoch(0)
    assert torch.equal(first[0], epoch(batches, 0)[0])
    assert not torch.equal(first[0], epoch(make(seed=1), 0)[0])


@pytest.mark.parametrize("make", [fresh, stored])
def test_workers_that_stay_are_told_the_epoch(make):
    for batches in (make(), copy.deepcopy(make())):
        loader = DataLoader(batches, batch_size=None, num_workers=2, persistent_workers=True)
        alone = make()
        for number in (0, 1, 5, 0):
            batches.set_epoch(number)
            alone.set_epoch(number)
            assert batches.epoch == number
            x = torch.cat([x for x, _ in loader])
            assert torch.equal(x, epoch(alone, 0)[0])


def test_a_copy_has_an_epoch_of_its_own():
    batches = fresh()
    other = copy.deepcopy(batches)
    other.set_epoch(3)
    assert (batches.epoch, other.epoch) == (0, 3)


@pytest.mark.parametrize("make", [fresh, stored])
def test_inputs_belong_to_their_labels(make):
    x, y = epoch(make(), 0)
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    leaves = x.argmax(dim=1).numpy()
    assert (RHM.one_hot(leaves) == x.numpy()).all()
    assert (RHM.parse(leaves).labels == y.numpy()).all()


def test_fresh_data_are_new_in_every_batch():
    leaves = epoch(fresh(), 0)[0].argmax(dim=1).reshape(12, 8, -1)
    assert len({batch.numpy().tobytes() for batch in leaves}) == 12
    assert len(fresh()) == 12
    with pytest.raises(IndexError):
        fresh()[12]


def test_excluded_data_are_never_drawn():
    _, test = RHM.split(train=0, test=RHM.num_data - 30, seed=0)
    held_out = {row.tobytes() for row in test.leaves}
    leaves = epoch(fresh(exclude=test, batch_size=64), 0)[0].argmax(dim=1).numpy().astype(np.int8)
    assert len(leaves) == 12 * 64
    assert not any(row.tobytes() in held_out for row in leaves)
    assert len({row.tobytes() for row in leaves}) == 30
    _, everything = RHM.split(train=0, test=RHM.num_data, seed=0)
    with pytest.raises(ValueError, match="exclude holds all 512 data"):
        fresh(exclude=everything)


def test_a_stored_epoch_is_every_datum_once():
    data = RHM.split(train=90, test=0, seed=0)[0]
    batches = StoredBatches(data, batch_size=8, encode=RHM.one_hot, seed=0)
    assert len(batches) == 12
    assert len(batches[11][0]) == 90 - 11 * 8
    leaves = epoch(batches, 0)[0].argmax(dim=1).numpy()
    assert sorted(map(bytes, leaves.astype(np.int8))) == sorted(map(bytes, data.leaves))
    in_order = StoredBatches(data, batch_size=8, encode=RHM.one_hot)
    assert (epoch(in_order, 0)[0].numpy() == RHM.one_hot(data.leaves)).all()


def test_other_encodings():
    x, _ = fresh(encode=lambda leaves: RHM.one_hot(leaves, centred=True, dtype=np.float64))[0]
    assert x.dtype == torch.float64
    assert x.sum(dim=1).abs().max() < 1e-12


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        fresh(batch_size=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        stored(batch_size=0)


@pytest.mark.parametrize("make", [fresh, stored])
def test_endless_batches_are_the_epochs_one_after_the_other(make):
    """Whatever the number of workers, and from where a training stopped."""
    batches = make()
    wanted = []
    for number in (0, 1, 2):
        batches.set_epoch(number)
        wanted += [x for x, _ in DataLoader(batches, batch_size=None)]
    for workers, start in ((0, 0), (2, 5)):
        loader = DataLoader(EndlessBatches(batches, start), batch_size=None, num_workers=workers)
        found = [x for (x, _), _ in zip(loader, wanted[start:], strict=False)]
        assert len(found) == len(wanted) - start
        assert all(torch.equal(a, b) for a, b in zip(found, wanted[start:], strict=True))
    with pytest.raises(TypeError, match="batches must be `FreshBatches` or `StoredBatches`"):
        EndlessBatches(RHM)


@pytest.mark.parametrize("make", [fresh, stored])
def test_batches_of_a_task_are_its_tokens_and_targets(make):
    plain, asked = make(), make(task=tokens.NextToken(RHM), encode=None)
    leaves = plain[3][0].argmax(dim=1)
    x, y = asked[3]
    assert torch.equal(y, leaves)
    assert torch.equal(x[:, 1:], leaves[:, :-1])
    masked = make(task=tokens.MaskedToken(RHM, 0.5), encode=None)
    first, again = masked[3][0], masked[3][0]
    assert torch.equal(first, again)
    masked.set_epoch(1)
    assert not torch.equal(masked[3][0] == 4, first == 4)


def test_batches_are_of_one_task():
    for make in (fresh, stored):
        with pytest.raises(ValueError, match=r"Give either encode.*got both"):
            make(task=tokens.NextToken(RHM), encode=RHM.one_hot)
        with pytest.raises(TypeError, match="task must be a function of leaves"):
            make(task=3, encode=None)
    with pytest.raises(ValueError, match="got neither"):
        stored(encode=None)
