"""The order of batches is a function of (seed, epoch), from any place in an epoch."""

from itertools import chain

import pytest
import torch
from torch.utils.data import TensorDataset

from linlocal.analysis.training import SeededLoader

DATA = TensorDataset(torch.arange(26))


def rows(loader, epoch, start=0):
    return [batch.tolist() for (batch,) in loader.batches(epoch, start)]


def test_order_is_a_function_of_seed_and_epoch():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = rows(SeededLoader(DATA, 4, seed=1), 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert rows(SeededLoader(DATA, 4, seed=1), 0) == first
    assert len({*chain(*first)}) == 24 == 4 * len(SeededLoader(DATA, 4))
    assert rows(SeededLoader(DATA, 4, seed=1), 1) != first
    assert rows(SeededLoader(DATA, 4, seed=2), 0) != first


def test_a_start_leaves_out_what_was_before_and_reads_none_of_it():
    read = []

    class Recording(TensorDataset):
        def __getitem__(self, row):
            read.append(row)
            return super().__getitem__(row)

    loader = SeededLoader(Recording(DATA.tensors[0]), 4)
    everything = rows(loader, 0)
    read.clear()
    assert rows(loader, 0, 4) == everything[4:]
    assert read == list(chain(*everything[4:]))
    assert rows(loader, 0, 6) == []


def test_processes_share_each_batch_of_a_single_one():
    together = rows(SeededLoader(DATA, 6, seed=3), 2)
    parts = [rows(SeededLoader(DATA, 3, seed=3, rank=r, world_size=2), 2) for r in (0, 1)]
    assert together == [a + b for a, b in zip(*parts, strict=True)]


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"rank": 1}, {"rank": -1}])
def test_numbers_that_do_not_go_together(options):
    with pytest.raises(ValueError, match=r"batch_size must be at least 1 and rank one of"):
        SeededLoader(DATA, **{"batch_size": 2, **options})
