"""Heads, projectors and noise do what their formulas say, on maps, vectors and tokens."""

import pytest
import torch
from torch.nn import functional as F

from linlocal.analysis.local_losses import (
    ActivityNoise,
    HeadedClasses,
    HeadedViews,
)
from linlocal.analysis.local_losses.heads import head, projector
from linlocal.autodiff import view_formula
from linlocal.losses import BarlowTwins

SHAPES = {"maps": (5, 4, 6), "tokens": (7, 5), "vectors": (5,)}
DOUBLE = torch.float64


def activities(shape, samples=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(samples, *shape, generator=generator, dtype=DOUBLE)
    # Every channel of another size.
    size = torch.arange(1.0, 6.0, dtype=DOUBLE)
    return z * (size[:, None, None] if len(shape) == 3 else size)


def places(z):
    """(samples, channels, places)."""
    return z.transpose(1, 2) if z.ndim == 3 else z.reshape(*z.shape[:2], -1)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_expansion_is_a_normalised_linear_map_at_each_place_averaged(shape):
    torch.manual_seed(0)
    module = head("expansion", shape, width=9).double()
    z = activities(shape)
    weight = next(module.parameters())[:, :, 0, 0]
    mixed = torch.einsum("oc,ncp->nop", weight, places(z))
    mean, variance = (
        s[None, :, None] for s in (mixed.mean((0, 2)), mixed.var((0, 2), correction=0))
    )
    expected = ((mixed - mean) / (variance + 1e-5).sqrt()).relu().mean(2)
    torch.testing.assert_close(module(z), expected)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_pooling_without_weights_averages_cells(shape):
    z = activities(shape)
    torch.testing.assert_close(head("global", shape)(z), places(z).mean(2))
    local = head("local", shape)(z)
    if shape == SHAPES["maps"]:
        cells = [z[:, :, i : i + 2, j : j + 3].mean((2, 3)) for i in (0, 2) for j in (0, 3)]
        torch.testing.assert_close(local, torch.stack(cells, 2).flatten(1))
    else:
        assert local.shape == (len(z), 5 * min(2, places(z).shape[2]))


def test_the_projector_is_normalised_but_at_the_end():
    torch.manual_seed(0)
    module = projector(4, (6, 3)).double()
    x = torch.randn(8, 4, dtype=DOUBLE)
    first, second = (p for p in module.parameters() if p.ndim == 2)
    hidden = x @ first.T
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(module(x), hidden.relu() @ second.T)
    assert torch.equal(projector(4, ())(x), x)


@pytest.mark.parametrize(("name", "shape"), SHAPES.items())
@pytest.mark.parametrize("per", ["channel", "map", "tensor"])
def test_noise_is_as_large_as_said(per, name, shape):
    noise = ActivityNoise(0.25, per)
    if per == "map" and name == "vectors":
        with pytest.raises(ValueError, match="needs the variance over the places of a map"):
            noise(activities(shape))
        return
    z = activities(shape)
    torch.manual_seed(0)
    added = torch.stack([noise(z) - z for _ in range(4000)])
    found = places(added.std(0))
    x = places(z)
    axes = {"channel": (0, 2), "map": (2,), "tensor": (0, 1, 2)}[per]
    expected = 0.25 * x.std(axes, correction=0, keepdim=True).expand_as(x)
    torch.testing.assert_close(found, expected, rtol=0.08, atol=0)
    assert added.mean(0).abs().max() < 0.1 * expected.max()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_noise_is_for_training_and_its_gradient_is_that_of_the_identity(shape):
    z = activities(shape).requires_grad_()
    noise = ActivityNoise(0.25)
    (slope,) = torch.autograd.grad(noise(z).sum(), z)
    assert torch.equal(slope, torch.ones_like(z))
    assert not torch.equal(noise(z), z)
    assert noise.eval()(z) is z


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_loss_of_a_block_is_that_of_its_projected_views(shape):
    plain = view_formula(BarlowTwins(weight=0.0051))
    losses = HeadedViews(width=8, widths=(6, 4)).build([shape, shape], seed=3).double()
    z = activities(shape)
    for module in losses:
        projected = module.projector(module.head(z))
        expected = 0.024 * plain(projected[:3], projected[3:])
        torch.testing.assert_close(module(z, None), expected)
    values = [float(module(z, None).detach()) for module in losses]
    assert values[0] != values[1]  # each block has weights of its own


def test_weights_are_those_of_the_seed_and_leave_the_random_state_alone():
    before = torch.get_rng_state()
    first, again, other = (
        HeadedViews(width=8, widths=(4,)).build([SHAPES["maps"]], seed=s) for s in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim == 1 or not torch.equal(a, c)
    assert all(module.training for module in first.modules())


def test_classes_are_judged_by_the_labels_of_the_batch():
    """A label of each row, or of each datum, which then counts for both views."""
    (loss,) = HeadedClasses(width=8, widths=(6, 3)).build([SHAPES["maps"]])
    z = activities(SHAPES["maps"]).float()
    projected = loss.projector(loss.head(z))
    rows = torch.tensor([0, 1, 2, 2, 0, 1])
    for labels, expected in ((rows, rows), (rows[:3], torch.cat([rows[:3], rows[:3]]))):
        for batch in ((z, labels), [z, labels.tolist(), "more"]):
            assert torch.equal(loss(z, None, batch), F.cross_entropy(projected, expected))
