"""What holds arrays tells their shapes when it is shown, in one line."""

import numpy as np
import pytest

import linlocal as ll
from linlocal import dynamics, losses, testing
from linlocal.networks import Convolution

X, VIEW = testing.samples(300, 4, 0)
PAIRS = ll.Pairs.from_views(X, VIEW)
NET = ll.DeepLinear.uniform([4, 3, 2], 0)
RHM = ll.rhm.RandomHierarchyModel(num_classes=4, num_symbols=4, num_synonyms=2, num_levels=3)
TREES = RHM.sample(500, seed=0)
HELD = {
    "pairs": (PAIRS, "Pairs(600 samples of width 4, 1200 pairs in 2 directions)"),
    "direction": (PAIRS.directions[0], "anchor=<int64 (600,)>"),
    "moments": (dynamics.Moments.of_batch(PAIRS), "first=<float64 (4, 4)>"),
    "labels": (losses.CrossEntropy(np.arange(600) % 2), "CrossEntropy(labels=<int64 (600,)>"),
    "targets": (losses.SquaredError(np.ones((600, 2))), "targets=<float64 (600, 2)>"),
    "activities": (NET.activities(PAIRS.samples), "<float64 (600, 3)>"),
    "projections": (ll.projections(NET, PAIRS, ll.rules.CLAPP()), "<float64 (2, 2)>"),
    "convolution": (Convolution(np.ones((9, 9, 3, 3)), (9, 5, 5)), "kernel=<float64 (9, 9, 3, 3)>"),
    "network": (NET, "DeepLinear(4 -> 3 -> 2)"),
    "rule": (ll.rules.CLAPP(), "name='CLAPP'"),
    "trees": (TREES, "(500, 8)"),
    "model": (RHM, "num_symbols=4"),
    "rules of a model": (
        ll.rhm.RandomHierarchyModel(
            num_classes=4, num_symbols=4, num_synonyms=2, num_levels=3, given_rules=RHM.rules
        ),
        "given_rules=<tuple of 3>",
    ),
    "posterior": (RHM.posterior(TREES.leaves), "Posterior("),
    "explanation": (ll.explain(NET, PAIRS, ll.rules.CLAPP()), "<Explanation: Local learning"),
}


@pytest.mark.parametrize("name", HELD)
def test_a_repr_is_one_short_line(name):
    held, part = HELD[name]
    assert part in repr(held)
    assert len(repr(held)) < 400
    assert "\n" not in repr(held)
