"""Two processes with gathered losses have the gradients of one on the joined batch."""

from functools import partial

import pytest
import torch
from torch import nn

from linlocal import rules
from linlocal.analysis.local_losses import (
    CLAPP,
    SCFF,
    Cells,
    ForwardForward,
    GatheredRule,
    HeadedViews,
    InfoNCE,
    PhyLL,
    Views,
)
from linlocal.analysis.local_losses.gather import Gathered, gather, gather_views
from linlocal.analysis.local_losses.regression import solution
from linlocal.losses import (
    LPL,
    BarlowTwins,
    LogDet,
    NTXent,
    SlicedNormality,
    SpectralContrastive,
    VICReg,
    Whitening,
)

MAPS = Cells(2)
RULES = {
    **{
        type(loss).__name__: Views(loss)
        for loss in (
            NTXent(),
            SpectralContrastive(),
            Whitening(),
            LogDet(),
            SlicedNormality(),
            VICReg(),
            BarlowTwins(),
            LPL(),
        )
    },
    "CLAPP": CLAPP(score="softplus", pooling=MAPS),
    "CLAPP, direct feedback": CLAPP(score="softplus", context="top", pooling=MAPS),
    "InfoNCE": InfoNCE(pooling=MAPS),
    "PhyLL": PhyLL(pooling=MAPS),
    "SCFF": SCFF(goodness="mean"),
    "ForwardForward": ForwardForward(goodness="mean"),
}
MEANS_OVER_SAMPLES = {"ForwardForward"}
# Gathers behind its head; without normalisation, which would have to be synchronised.
HEADED = partial(HeadedViews, kind="global", widths=(5,), scale=1.0)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
SHAPES = [(4, 4, 4), (3, 2, 2)]  # of both blocks


class Local(nn.Module):
    """Two blocks, each on the detached output of the one below, and the sum of their losses."""

    def __init__(self, rule, dtype):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh())
        self.second = nn.Sequential(nn.Conv2d(4, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2))
        self.losses = rule.build(SHAPES, seed=1)
        self.to(dtype)

    def forward(self, x):
        z = self.first(x)
        top = self.second(z.detach())
        return self.losses[0](z, top.detach()) + self.losses[1](top, top.detach())


def batch(dtype):
    x = torch.randn(6, 2, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.cat([x, x + 0.5 * noise]).to(dtype)


def share(x, rank):
    """Half of each view's rows."""
    first, second = x.chunk(2)
    return torch.cat([first.chunk(2)[rank], second.chunk(2)[rank]])


def gradients(model, x):
    model(x).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def cases():
    for name, rule in RULES.items():
        for dtype in TOLERANCE:
            yield (name, dtype, "gathered"), GatheredRule(rule)
        yield (name, torch.float64, "raw"), rule
    yield ("headed", torch.float64, "gathered"), HEADED(gathered=True)
    yield ("headed", torch.float64, "raw"), HEADED()


def scenarios(fabric):
    rank, found = fabric.global_rank, {}
    for (name, dtype, way), rule in cases():
        model = nn.parallel.DistributedDataParallel(Local(rule, dtype))
        found[name, str(dtype), way] = gradients(model, share(batch(dtype), rank))
    x = share(batch(torch.float64), rank).requires_grad_()
    joined = gather_views(x)
    (slope,) = torch.autograd.grad(joined.pow(3).sum() / 3, x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    extra = {"joined": joined.detach(), "slope": slope.detach(), "curvature": curvature}
    return found, extra | dict(zip(("B", "design", "target"), matched(x.detach()), strict=True))


def matched(x):
    """A projection by least squares on the rows of a process, and these rows."""
    rule = CLAPP(score="softplus", context="top", pooling=MAPS, projection="least_squares")
    model = Local(rule, torch.float64)
    loss, last = model.losses
    z = model.first(x).detach().requires_grad_()
    top = model.second(z)
    (error,) = torch.autograd.grad(last(top, top.detach()), z)
    slopes = last.slopes(top.detach(), top.detach())
    loss.match(z, top.detach(), slopes, error)
    design = loss.design(z.detach(), top.detach(), slopes).flatten(0, 1)
    return loss.projections[0][0].matrix, design, loss.pool.lifted(error)


@pytest.fixture(scope="module")
def two(pair):
    """What both processes found."""
    return pair(__file__, "scenarios")


def error(got, expected):
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", RULES)
def test_two_processes_have_the_gradient_of_one_on_the_joined_batch(name, dtype, two):
    expected = gradients(Local(RULES[name], dtype), batch(dtype))
    for found, _ in two:
        assert error(found[name, str(dtype), "gathered"], expected) <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", RULES)
def test_without_gathering_only_means_over_samples_have_it(name, two):
    expected = gradients(Local(RULES[name], torch.float64), batch(torch.float64))
    for found, _ in two:
        off = error(found[name, str(torch.float64), "raw"], expected)
        assert off <= 1e-12 if name in MEANS_OVER_SAMPLES else off > 1e-3


def test_a_head_gathers_what_it_projects(two):
    expected = gradients(Local(HEADED(), torch.float64), batch(torch.float64))
    for found, _ in two:
        assert error(found["headed", str(torch.float64), "gathered"], expected) <= 1e-12
        assert error(found["headed", str(torch.float64), "raw"], expected) > 1e-3


def test_the_joined_batch_has_the_first_views_of_all_and_then_the_second(two):
    for _, extra in two:
        torch.testing.assert_close(extra["joined"], batch(torch.float64), rtol=0, atol=0)


def test_derivatives_are_sums_over_processes_also_the_second_ones(two):
    for rank, (_, extra) in enumerate(two):
        x = share(batch(torch.float64), rank)
        torch.testing.assert_close(extra["slope"], 2 * x**2)
        torch.testing.assert_close(extra["curvature"], 4 * x)


def test_one_process_has_the_plain_loss():
    x = batch(torch.float64)
    assert gather(x) is x
    for rule in RULES.values():
        plain = gradients(Local(rule, x.dtype), x)
        assert torch.equal(gradients(Local(GatheredRule(rule), x.dtype), x), plain)


def test_a_gathered_loss_reads_the_top_where_the_loss_does():
    for name in ("CLAPP", "CLAPP, direct feedback", "VICReg"):
        loss = GatheredRule(RULES[name]).build(SHAPES)[0]
        assert loss.reads_top == (name == "CLAPP, direct feedback")
    here = torch.randn(8, *SHAPES[0])
    assert torch.isfinite(Gathered(Views().build(SHAPES)[0])(here, None))


def test_projections_that_are_solved_for_gather_their_own_rows(two):
    extras = [extra for _, extra in two]
    design, target = (torch.cat([e[name] for e in extras]) for name in ("design", "target"))
    for extra in extras:
        torch.testing.assert_close(extra["B"], solution(design, target, 1e-6), rtol=1e-9, atol=0)
        alone = solution(extra["design"], extra["target"], 1e-6)
        assert error(alone, extra["B"]) > 1e-3
    with pytest.raises(ValueError, match="rows of all processes already"):
        GatheredRule(CLAPP(projection="least_squares")).build(SHAPES)


def test_a_plain_rule_and_a_plain_module_are_gathered_as_well():
    class Plain(nn.Module):
        def forward(self, here, top):
            return (here * top.mean()).sum()

        def build(self, shapes, seed=0):
            return nn.ModuleList(Plain() for _ in shapes)

    (loss, _) = GatheredRule(Plain()).build(SHAPES)
    here, top = torch.ones(8, *SHAPES[0]), torch.ones(8, *SHAPES[1])
    assert loss.reads_top
    assert loss(here, top) == here.sum()
    bare, read = (GatheredRule(rule).build(SHAPES)[0] for rule in (rules.VICReg(), Views()))
    assert bare(here, None) == read(here, None)


def test_an_odd_batch_is_refused():
    with pytest.raises(ValueError, match=r"even number of rows.*got 5"):
        gather_views(torch.zeros(5, 2))
