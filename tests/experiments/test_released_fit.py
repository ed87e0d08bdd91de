"""The released fit of B: what it minimises, what it carries on, and where it ends."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import linlocal as ll
from experiments.catalogue import released_fit
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


def test_a_negative_is_projected_by_the_matrix_of_its_own_view() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((2, 3, 5))
    pairs = ll.Pairs.from_views(x, y, negatives="stacked")
    fit = ReleasedFit(ll.DeepLinear.orthogonal([5, 4]), pairs, 1.0, 0.1, seed=0)
    z = fit.forward(detach=True)[0]
    (first, second), n = fit.projections[0], 3
    rows = [z[k] @ (first if k < n else second) for k in range(2 * n)]
    total = 0.0
    for k in range(2 * n):
        reference = z[(k + n) % (2 * n)]
        positive, negative = rows[k] @ reference, rows[(k + 1) % (2 * n)] @ reference
        total += torch.nn.functional.softplus(1 - positive) / (2 * n)
        total += torch.nn.functional.softplus(1 + negative) / (2 * n)
    b_decay = 0.1 / 2
    total += b_decay * (first.square().sum() + second.square().sum()) / 2
    torch.testing.assert_close(fit.loss(z, fit.projections[0]), total)


def test_a_fit_starts_where_the_batch_before_ended() -> None:
    network, pairs = small()
    fit = ReleasedFit(network, pairs, 1.0, 0.1, seed=0)
    drawn = [b.clone() for both in fit.drawn for b in both]
    fit.fit([2])
    assert all(torch.equal(b, d) for b, d in zip(fit.projections[0], drawn, strict=False))
    assert not torch.equal(fit.projections[1][0], drawn[2])
    fit.fit([1])
    kept = [b.clone() for b in fit.projections[0]]
    fit.look_at(ll.Pairs.from_views(pairs.samples[12:], pairs.samples[:12]))
    assert all(torch.equal(b, k) for b, k in zip(fit.projections[0], kept, strict=True))
    assert all(
        torch.equal(b, d)
        for b, d in zip([b for both in fit.drawn for b in both], drawn, strict=True)
    )


def test_only_the_first_batch_has_random_projections_before_its_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = {"all assumptions": released_fit.CONDITIONS["all assumptions"]}
    monkeypatch.setattr(released_fit, "CONDITIONS", exact)
    config = replace(released_fit.PRESETS["smoke"], networks=1)
    for batches, same in ((1, True), (2, False)):
        cosine = released_fit.run(replace(config, batches=batches))["cosine"].isel(layer=0)
        before, drawn = (cosine.sel(fit=f) for f in ("fit of the batch before", "drawn"))
        assert bool((before == drawn).all()) is same
        np.testing.assert_allclose(cosine.sel(fit=["optimum", "released fit"]), 1, atol=1e-3)
        assert float(cosine.sel(fit="drawn").max()) < 0.9
