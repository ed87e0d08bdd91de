"""The benchmark compares like with like."""

import numpy as np

import linlocal as ll
from experiments.training import ReleasedFit


def small() -> tuple[ll.DeepLinear, ll.Pairs]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 5))
    pairs = ll.Pairs.from_views(x, x + 0.5 * rng.standard_normal(x.shape))
    return ll.DeepLinear.orthogonal([5, 4, 4]), pairs


def test_where_the_published_procedure_converges_it_agrees_with_ours() -> None:
    network, pairs = small()
    rule = ll.rules.CLAPP("softplus", margin=1.0, penalty=0.1)
    published = ReleasedFit(network, pairs, 1.0, 0.1, seed=0)
    before = max(published.residuals())
    published.fit()
    reached = max(published.residuals())  # float32 does not get farther
    assert reached < 1e-3 * before
    theirs = published.updates()
    ours = ll.local_update(network, pairs, rule), ll.global_update(network, pairs, rule)
    for their, our in zip(theirs, ours, strict=True):
        for a, b in zip(their, our, strict=True):
            # Its loss is the mean over both directions, ours the sum.
            np.testing.assert_allclose(2 * a, b, atol=reached * np.abs(b).max())


def test_patience_reaches_the_goal_where_it_can_and_says_so_where_not() -> None:
    network, pairs = small()
    published = ReleasedFit(network, pairs, 1.0, 0.1, seed=0)
    assert published.fit_patiently(1e-6, seconds_per_layer=20.0) == 2
    assert published.fit_patiently(0.0, seconds_per_layer=0.05) == 0
