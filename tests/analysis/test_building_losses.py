"""Local losses are built for the shapes of blocks, within a budget, and refuse others."""

from dataclasses import replace

import pytest
import torch

from linlocal.analysis.local_losses import CLAPP, SCFF, Cells, InfoNCE, PhyLL, Views, Window
from linlocal.testing import Exponential

VGG = [(128, 96, 96), (256, 48, 48), (256, 48, 48), (512, 24, 24), (1024, 12, 12), (1024, 6, 6)]
VGG_WINDOWS = (12, 12, 12, 6, 6, 3)


def test_the_published_numbers_of_parameters():
    """201 M of B in the six-layer encoder on 96 x 96 images, 134 M with direct feedback."""
    same = CLAPP(pooling=VGG_WINDOWS)
    assert round(sum(same.num_parameters(VGG)) / 1e6) == 201
    assert round(sum(replace(same, context="top").num_parameters(VGG)) / 1e6) == 134
    assert sum(replace(same, shared=False).num_parameters(VGG)) == 2 * sum(same.num_parameters(VGG))


SMALL = [(4, 8, 8), (6, 4, 4), (8, 2, 2)]


@pytest.mark.parametrize("context", ["same", "top", "both"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("limit", [{}, {"rank": 3}, {"budget": 600}])
def test_parameters_are_counted_as_they_are_built(context, shared, limit):
    rule = CLAPP(context=context, shared=shared, **limit)
    counted = rule.num_parameters(SMALL)
    built = rule.build(SMALL)
    assert counted == tuple(sum(p.numel() for p in m.parameters()) for m in built)
    if "budget" in limit:
        assert sum(counted) <= limit["budget"]
        ranks = {p.shape[0] for n, p in built.named_parameters() if n.endswith("right")}
        (rank,) = ranks
        more = replace(rule, budget=None, rank=rank + 1)
        assert sum(more.num_parameters(SMALL)) > limit["budget"]


def test_a_budget_for_all_is_the_full_rule_and_one_for_nothing_is_refused():
    full = CLAPP()
    assert replace(full, budget=10**6).num_parameters(SMALL) == full.num_parameters(SMALL)
    with pytest.raises(ValueError, match=r"budget of 20 .* rank 1 in every block takes 144"):
        replace(full, budget=20).build(SMALL)


def test_a_seed_makes_the_projections_and_the_global_random_state_stays():
    state = torch.get_rng_state()
    one, same, other = (CLAPP(rank=2).build(SMALL, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not any(torch.equal(one[k], other[k]) for k in one)


def test_dense_activities_and_tokens_are_maps_of_one_cell_and_of_one_column():
    z = torch.randn(
        8, 6, 5, generator=torch.Generator().manual_seed(0)
    )  # samples, tokens, channels
    for rule in (CLAPP(pooling=2), Views(pooling=3), SCFF(pooling=Cells(2)), PhyLL(pooling=1)):
        as_tokens = rule.build([(6, 5)])[0]
        as_column = rule.build([(5, 6, 1)])[0]
        column = z.transpose(1, 2).unsqueeze(3)
        assert as_tokens(z, z).item() == as_column(column, column).item()
        dense = rule.build([(5,)])[0]
        one_cell = rule.build([(5, 1, 1)])[0]
        assert dense(z[:, 0], z).item() == one_cell(z[:, 0, :, None, None], z).item()


@pytest.mark.parametrize(
    "rule", [CLAPP(), CLAPP(rank=2), CLAPP(context="both"), InfoNCE(), PhyLL(), SCFF(), Views()]
)
def test_mixed_precision_ends_in_float32(rule):
    generator = torch.Generator().manual_seed(0)
    z = [torch.randn(12, *shape, generator=generator) for shape in SMALL]
    modules = rule.build(SMALL, seed=1)
    for module, here in zip(modules, z, strict=True):
        expected = module(here, z[-1])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = module(here.bfloat16(), z[-1].bfloat16())
        assert got.dtype == torch.float32
        assert got.item() == pytest.approx(expected.item(), rel=0.05)


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CLAPP(context="all"), r"context must be one of same, top, both, got 'all'"),
        (lambda: CLAPP(projection="optimal"), r"projection must be one of trained, random"),
        (lambda: CLAPP(negatives="random"), r'"next" or "all", got \'random\''),
        (lambda: CLAPP(rank=2, budget=9), "one of rank and budget"),
        (lambda: CLAPP(rank=0), "rank must be at least 1, got 0"),
        (lambda: CLAPP(penalty=-1.0), "penalty must not be negative"),
        (lambda: PhyLL(context="top"), r"context .same. and no pooling of its own"),
        (lambda: SCFF(goodness="max"), "goodness must be"),
        (lambda: InfoNCE(temperature=0.0).build(SMALL), "temperature must be positive"),
        (lambda: CLAPP(score="relu").build(SMALL), "Unknown score 'relu'"),
        (lambda: CLAPP(pooling=(1, 2)).build(SMALL), "2 entries for 3 blocks"),
        (lambda: CLAPP(pooling="local").build(SMALL), "got 'local'"),
        (lambda: CLAPP(pooling=Window(3)).build(SMALL), r"window of 3 .* side 2.*Cells\(n\)"),
        (lambda: CLAPP(pooling=0).build(SMALL), "at least 1, got 0"),
        (lambda: CLAPP(pooling=Cells(0)), "at least 1, got 0"),
        (lambda: CLAPP().build([(2, 2, 2, 2)]), r"must be \(samples, channels\)"),
    ],
)
def test_what_does_not_go_together_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_outputs_that_do_not_fit_are_refused():
    module = CLAPP(pooling=1).build([(3, 4, 4)])[0]
    z = torch.randn(8, 3, 4, 4)
    with pytest.raises(ValueError, match=r"even number of rows from 4 on, got 7"):
        module(z[:7], z[:7])
    with pytest.raises(ValueError, match=r"even number of rows from 4 on, got 2"):
        module(z[:2], z[:2])
    small = torch.randn(8, 3, 2, 2)
    with pytest.raises(ValueError, match=r"12 features, but its projection was built for 48"):
        module(small, small)
    with pytest.raises(
        ValueError, match=r"must have the shape of the block's output \(8, 3, 4, 4\), got \(8, 3\)"
    ):
        module.matching_loss(z, z, torch.zeros(8, 3))


def test_a_score_that_torch_does_not_know_is_refused():
    module = CLAPP(score=Exponential()).build([(4,)])[0]
    with pytest.raises(TypeError, match="no torch version of the score Exponential"):
        module(torch.randn(8, 4), torch.randn(8, 4))
