"""Local losses are built for the shapes of blocks, within a budget, and refuse others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from linlocal import rules
from linlocal.analysis.local_losses import (
    CLAPP,
    SCFF,
    Cells,
    InfoNCE,
    NetworkRule,
    PhyLL,
    Views,
    on_network,
)

CLAPP_RULE = rules.CLAPP()

VGG = [(128, 96, 96), (256, 48, 48), (256, 48, 48), (512, 24, 24), (1024, 12, 12), (1024, 6, 6)]
VGG_WINDOWS = (12, 12, 12, 6, 6, 3)


def test_the_published_numbers_of_parameters():
    """201 M of B in the six-layer encoder on 96 x 96 images, 134 M with direct feedback."""
    same = CLAPP(pooling=VGG_WINDOWS)
    assert round(sum(same.num_parameters(VGG)) / 1e6) == 201
    top = CLAPP(context="top", pooling=VGG_WINDOWS)
    assert round(sum(top.num_parameters(VGG)) / 1e6) == 134
    assert sum(replace(same, shared=False).num_parameters(VGG)) == 2 * sum(same.num_parameters(VGG))


SMALL = [(4, 8, 8), (6, 4, 4), (8, 2, 2)]


@pytest.mark.parametrize("context", ["same", "top", "both", "each"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("limit", [{}, {"rank": 3}, {"budget": 700}])
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


def test_what_builds_no_losses_is_refused():
    for bad in (None, "CLAPP", 3, CLAPP_RULE.loss, rules.CLAPP):
        with pytest.raises(TypeError, match=r"rule must be a `linlocal.Rule`, one of .* got"):
            on_network(bad)
    with pytest.raises(TypeError, match=r"rule must be a `linlocal.Rule`"):
        NetworkRule(rule=CLAPP())


def test_a_bare_rule_is_read_with_the_defaults_and_its_own_windows():
    windows = replace(CLAPP_RULE, pooling=(2, 1, 1))
    for bare, read in (
        (CLAPP_RULE, CLAPP(pooling=Cells(2))),
        (rules.CLAPP_DFB(), CLAPP(context="top", pooling=Cells(2))),
        (windows, CLAPP(pooling=(2, 1, 1))),
        (rules.GreedyInfoMax(0.7), InfoNCE(temperature=0.7, negatives="all")),
        (rules.SCFF(), SCFF(pooling=1)),
        (rules.VICReg(), Views(pooling="global")),
    ):
        z = [torch.randn(8, *shape, generator=torch.Generator().manual_seed(0)) for shape in SMALL]
        built = [on_network(rule).build(SMALL, seed=1) for rule in (bare, read)]
        for one, other, here in zip(*built, z, strict=True):
            assert one(here, z[-1]).item() == other(here, z[-1]).item()


def test_a_window_may_be_a_number_of_numpy():
    here = torch.randn(8, 3, 4, 4)
    plain, other = (CLAPP(pooling=side).build([(3, 4, 4)])[0] for side in (2, np.int64(2)))
    assert plain(here, None) == other(here, None)
