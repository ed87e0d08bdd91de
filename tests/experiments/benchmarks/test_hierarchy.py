"""The benchmark of the Random Hierarchy Model runs, and its rivals draw from the same grammar."""

import numpy as np
import torch

from experiments.benchmarks import hierarchy
from linlocal.rhm import RandomHierarchyModel

RHM = RandomHierarchyModel(num_classes=3, num_symbols=4, num_synonyms=2, num_levels=3)


def test_every_operation_has_a_time_and_a_row():
    data = hierarchy.measure(hierarchy.Config(num=500, repetitions=1, inferred=10))
    assert data.sizes["operation"] == 8
    assert (data["milliseconds"] >= 0).all()
    assert (data["peak"].dropna("operation") > 0).all()
    assert (data["microseconds"] >= 0).all()
    rows = [line for line in hierarchy.section(data) if line.startswith("| ")]
    assert len(rows) == 8 + 1 + data.sizes["inference"] + 1


def test_the_sum_over_all_data_finds_the_same_classes():
    leaves = RHM.sample(20, seed=0).leaves
    likelihood = 0.3 * np.eye(4)[leaves] + 0.7 / 4
    np.testing.assert_allclose(
        hierarchy.sum_over_all(RHM, likelihood),
        RHM.posterior(likelihood=likelihood).classes,
        atol=1e-12,
    )


def test_rivals_draw_data_of_the_grammar():
    rules = [torch.from_numpy(table.astype(np.int64)) for table in RHM.rules]
    for leaves in (
        hierarchy.plain_numpy(RHM, 50),
        hierarchy.plain_torch(rules, 50).numpy(),
    ):
        assert len(RHM.parse(leaves)) == 50
