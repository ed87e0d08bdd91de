"""Windows: the loss of a block, backpropagated through the blocks below it, up to a distance."""

import numpy as np
import pytest
import torch
from torch import nn

import linlocal as ll
from linlocal.analysis import AlignmentRecorder, align
from linlocal.analysis.local_losses import CLAPP, NetworkRule

RULES = {
    "direct feedback": CLAPP(score="softplus", context="top", pooling=1),
    "VICReg": NetworkRule(rule=ll.rules.VICReg()),
}
SHAPES = [(4, 6, 6), (5, 6, 6), (6, 3, 3), (4, 3, 3)]


def network():
    torch.manual_seed(0)
    sides = zip((2, 4, 5, 6), (4, 5, 6, 4), (1, 1, 2, 1), strict=True)
    return nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(a, b, 3, s, 1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b, s in sides
        )
    ).double()


def views():
    return torch.randn(12, 2, 6, 6, generator=torch.Generator().manual_seed(1)).double()


def built(name):
    return RULES[name].build(SHAPES, 3).double()


def cosines_by_hand(model, losses, x, window):
    """Every block on a detached input, followed by the rest of its window and the loss there."""
    z = [x]
    for block in model:
        z.append(block(z[-1]).detach())
    top = z[-1]

    def gradient(start, end):
        out = z[start]
        for block in model[start : end + 1]:
            out = block(out)
        here = list(model[start].parameters())
        found = torch.autograd.grad(losses[end].activity_loss(out, top), here)
        return torch.cat([g.flatten() for g in found])

    cosines = []
    for l in range(len(model)):
        a, b = gradient(l, min(l + window, len(model)) - 1), gradient(l, len(model) - 1)
        cosines.append(float(a @ b / a.norm() / b.norm()))
    return cosines


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_a_window_is_the_detached_network_above_its_first_block(name, window):
    model, losses, x = network(), built(name), views()
    found = align(model, None, losses, x, window=window)
    expected = cosines_by_hand(model, losses, x, window)
    np.testing.assert_allclose(found.cosine, expected, atol=1e-10)
    reached = found.cosine.isel(layer=slice(4 - window, None))
    np.testing.assert_allclose(reached, 1, atol=1e-10)
    assert (found.cosine.isel(layer=slice(4 - window)) < 0.99).all()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("separate", [False, True])
def test_the_recorder_takes_windows_in_passes_of_both_views_and_of_one(name, separate):
    model, losses, x = network().eval(), built(name), views()
    recorder = AlignmentRecorder(
        model,
        rule=losses,
        every=1,
        window=2,
        against="rule",
        views="separate" if separate else "stacked",
    )
    with recorder.step():
        for part in x.chunk(2) if separate else [x]:
            model(part)
    expected = align(model, None, losses, x, window=2)
    np.testing.assert_allclose(recorder.dataset().cosine[0], expected.cosine, atol=1e-10)


def test_a_window_that_cannot_be_is_refused_in_words():
    with pytest.raises(ValueError, match="window=4 is backpropagation"):
        align(network(), None, RULES["VICReg"], views(), window=5)
    with pytest.raises(ValueError, match="window"):
        align(network(), None, RULES["VICReg"], views(), window=0)
    with pytest.raises(ValueError, match="terms"):
        align(network(), None, RULES["direct feedback"], views(), window=2, terms=True)
