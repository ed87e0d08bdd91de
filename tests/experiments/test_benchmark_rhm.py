"""The benchmark of the Random Hierarchy Model runs, and its rivals draw from the same grammar."""

import numpy as np
import torch

from experiments import benchmark_rhm
from linlocal.rhm import RandomHierarchyModel

RHM = RandomHierarchyModel(num_classes=3, num_symbols=4, num_synonyms=2, num_levels=3)


def test_every_row_has_a_time(capsys):
    benchmark_rhm.main(num=500, repetitions=1)
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[4:]]
    assert len(rows) == 8
    assert all(float(milliseconds) >= 0 for _, milliseconds, _ in rows)


def test_rivals_draw_data_of_the_grammar():
    rules = [torch.from_numpy(table.astype(np.int64)) for table in RHM.rules]
    for leaves in (
        benchmark_rhm.plain_numpy(RHM, 50),
        benchmark_rhm.plain_torch(rules, 50).numpy(),
    ):
        assert len(RHM.parse(leaves)) == 50
