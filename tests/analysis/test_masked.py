"""Masked reconstruction per block: what is hidden and learned, and when it is the global loss."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import linlocal as ll
from linlocal.analysis import GlobalTrainer, LocalTrainer, align, audit_locality
from linlocal.analysis.local_losses import MaskedReconstruction, mask_patches, pixel_decoder
from linlocal.losses import SquaredError
from linlocal.testing import TOLERANCES

EXACT, VISIBLE = TOLERANCES["float64"], 1e-2
SGD = partial(torch.optim.SGD, lr=0.1)
IMAGE = (2, 8, 8)
RULE = MaskedReconstruction(shape=IMAGE)


def images(rows=6):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, *IMAGE, generator=generator, dtype=torch.float64)


def batch(seed=0, share=0.5):
    masked, mask = mask_patches(images(), torch.Generator().manual_seed(seed), 2, share)
    return masked, images(), mask


def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.Tanh()),
        nn.Sequential(nn.Conv2d(6, 8, 2, stride=2), nn.Tanh()),
        nn.Sequential(nn.Conv2d(8, 8, 3), nn.Tanh()),
    ).double()


# -- what is hidden --------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "share", "hidden"), [(2, 0.75, 12), (4, 0.5, 2), (1, 0.1, 6)])
def test_as_many_patches_are_hidden_in_each_image_and_nothing_else(side, share, hidden):
    masked, mask = mask_patches(images(50), torch.Generator().manual_seed(0), side, share)
    assert mask.shape == (50, 1, 8, 8)
    patches = mask.unfold(2, side, side).unfold(3, side, side).flatten(4)
    assert (patches.all(4) == patches.any(4)).all()
    assert (patches.all(4).flatten(1).sum(1) == hidden).all()
    assert torch.equal(masked, torch.where(mask, 0.0, images(50)))
    # Each patch is hidden in about its share of the images.
    assert (patches.all(4).double().mean(0) - share).abs().max() < 0.35
    assert len({tuple(m.flatten().tolist()) for m in mask}) > 5


def test_masks_are_those_of_the_generator():
    masks = [batch(seed)[2] for seed in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


# -- the loss --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape", [(3, 8, 8), (5, 4, 4), (4, 2, 2), (4, 3, 3), (4, 8, 4), (7,), (5, 3)]
)
def test_value_and_gradient_are_those_of_numpy(shape):
    (loss,) = MaskedReconstruction(shape=IMAGE).build([shape], seed=2).double()
    z = torch.randn(6, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    z.requires_grad_()
    value = loss(z, None, batch())
    (gradient,) = torch.autograd.grad(value, z)
    # A linear decoder as a matrix: its Jacobian, and what it makes of 0.
    offset = loss.decoder(torch.zeros_like(z)).detach().flatten(1)
    basis = torch.eye(z[0].numel(), dtype=torch.float64).view(-1, *shape)
    readout = (loss.decoder(basis).flatten(1) - offset[:1]).detach().T
    _, targets, mask = batch()
    hidden = mask.expand(targets.shape).flatten(1)
    numpy_loss = SquaredError(
        (targets.flatten(1) - offset).numpy(), readout.numpy(), hidden.numpy()
    )
    flat, scale = z.detach().flatten(1).numpy(), 2 * len(z) / hidden.sum().item()
    assert value.item() == pytest.approx(scale * numpy_loss.value(flat), rel=1e-12)
    np.testing.assert_allclose(
        gradient.flatten(1), scale * numpy_loss.gradient(flat), rtol=1e-10, atol=1e-14
    )


def test_a_decoder_predicts_pixels_where_its_place_lies():
    decoder = pixel_decoder((3, 4, 4), IMAGE).double()
    z = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    z[0, :, 1, 2] = 1.0
    changed = (decoder(z) != decoder(torch.zeros_like(z)))[0].any(0)
    places = torch.zeros(8, 8, dtype=torch.bool)
    places[2:4, 4:6] = True
    assert torch.equal(changed, places)
    assert sum(p.numel() for p in decoder.parameters()) == 8 * (3 + 1)


def test_only_hidden_pixels_count():
    (loss,) = RULE.build([(3, 8, 8)]).double()
    z = torch.randn(6, 3, 8, 8, dtype=torch.float64)
    masked, targets, mask = batch()
    value = loss(z, None, (masked, targets, mask))
    assert loss(z, None, (masked, torch.where(mask, targets, 9.0), mask)) == value
    assert loss(z, None, (masked, targets + 0.1 * mask, mask)) != value


# -- when it is the global loss --------------------------------------------------------------------


def dense(*widths):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))).double()


X = torch.randn(8, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
HIDDEN = torch.rand(8, 6, generator=torch.Generator().manual_seed(6)) < 0.5


def errors(model, matrices, bias):
    losses = MaskedReconstruction(shape=(6,)).build([(m.shape[1],) for m in matrices]).double()
    for loss, matrix in zip(losses, matrices, strict=True):
        loss.decoder[1].weight.data.copy_(matrix)
        loss.decoder[1].bias.data.copy_(bias)
    masked = X.masked_fill(HIDDEN, 0.0)
    return align(model, None, losses, masked, batch=(masked, X, HIDDEN)).relative_error.values


def test_matched_decoders_are_exact_for_all_weights():
    """R_l = R_L V_l: the reconstructions of all layers are those of the top."""
    model = dense(6, 5, 7, 4)
    matrices = [torch.randn(6, 4, generator=torch.Generator().manual_seed(7)).double()]
    for layer in reversed([*model][1:]):
        matrices.insert(0, matrices[0] @ layer.weight.detach())
    bias = torch.linspace(-1.0, 1.0, 6, dtype=torch.float64)
    assert errors(model, matrices, bias).max() <= EXACT
    assert errors(model, [matrices[0].roll(1, 0), *matrices[1:]], bias)[0] > VISIBLE


def test_in_theory_it_is_a_goal():
    """The last decoder's loss, backpropagated, is that of the theory with the mask."""
    model = dense(6, 5, 4)
    losses = MaskedReconstruction(shape=(6,)).build([(5,), (4,)]).double()
    losses[-1].decoder[1].bias.data.zero_()
    masked = X.masked_fill(HIDDEN, 0.0)
    losses[-1](model(masked), None, (masked, X, HIDDEN)).backward()
    readout = losses[-1].decoder[1].weight.detach().numpy()
    goal = SquaredError(X.numpy(), readout, HIDDEN.numpy())
    network = ll.DeepLinear([layer.weight.detach().numpy() for layer in model])
    pairs = ll.Pairs.from_views(masked[:4].numpy(), masked[4:].numpy())
    update = ll.global_update(network, pairs, ll.rules.CLAPP("softplus"), goal=goal)
    scale = 2 * len(X) / HIDDEN.sum().item()
    for layer, dw in zip(model, update, strict=True):
        np.testing.assert_allclose(layer.weight.grad, -scale * dw, rtol=1e-9, atol=1e-13)


# -- by the instruments ----------------------------------------------------------------------------


def test_every_block_learns_to_restore_and_its_decoder_is_its_own():
    report = audit_locality(convolutional(), None, RULE, batch()[0], batch=batch())
    assert report.reached.values.tolist() == np.diag(report.parameters).tolist()
    for kind, own in ((LocalTrainer, 3), (GlobalTrainer, 1)):
        trainer = kind(
            convolutional(),
            None,
            RULE,
            shape=IMAGE,
            views="stacked",
            optimiser=partial(torch.optim.Adam, lr=0.02),
        )
        assert len(trainer.losses) == own
        first = trainer.step(batch())
        for _ in range(30):
            last = trainer.step(batch())
        assert all(last[l] < 0.8 * first[l] for l in first)


def test_a_local_step_is_what_alignment_measures():
    model, given = convolutional(), batch()
    measured = align(model, None, RULE, given[0], batch=given)
    assert float(measured.cosine[-1]) == pytest.approx(1, abs=1e-12)
    trainer = LocalTrainer(model, None, RULE, shape=IMAGE, views="stacked", optimiser=SGD)
    before = [[p.detach().clone() for p in block.parameters()] for block in model]
    trainer.step(given)
    for block, kept, norm in zip(model, before, measured.local_norm.values, strict=True):
        moved = torch.cat(
            [(p.detach() - old).flatten() for p, old in zip(block.parameters(), kept, strict=True)]
        )
        assert float(moved.norm()) == pytest.approx(0.1 * norm, rel=1e-9)


MASKED, TARGETS, MASK = batch()
GENERATOR = torch.Generator()


def judged(given):
    (loss,) = RULE.build([(3, 8, 8)]).double()
    return loss(torch.zeros(6, 3, 8, 8, dtype=torch.float64), None, given)


REFUSED = {
    "no mask": (lambda: judged((MASKED, TARGETS)), "reads targets and a mask"),
    "other targets": (lambda: judged((MASKED, TARGETS[:3], MASK)), r"must be \(6, 2, 8, 8\)"),
    "a mask of numbers": (lambda: judged((MASKED, TARGETS, MASK.double())), "must be of bools"),
    "a flat mask": (lambda: judged((MASKED, TARGETS, MASK[:, 0])), r"got torch.bool of shape"),
    "nothing hidden": (lambda: judged((MASKED, TARGETS, MASK & False)), "hides nothing"),
    "a side that does not fit": (
        lambda: mask_patches(images(), GENERATOR, 3),
        r"Patches of side 3 need images .* got shape \(6, 2, 8, 8\)",
    ),
    "all hidden": (lambda: mask_patches(images(), GENERATOR, 4, 0.9), "hides 4 of them"),
    "rules of theory": (
        lambda: ll.rules.from_name("MaskedReconstruction"),
        r"reads targets and a mask: .* losses.SquaredError\(targets, readout, mask\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_a_decoder_of_ones_own():
    def half(shape, target):
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.Unflatten(1, (1, 8, 8)))

    (loss,) = MaskedReconstruction(shape=IMAGE, decoder=half).build([(3, 8, 8)]).double()
    with pytest.raises(ValueError, match=r"gave \(6, 1, 8, 8\) for targets of shape \(6, 2, 8, 8"):
        loss(torch.zeros(6, 3, 8, 8, dtype=torch.float64), None, batch())
    with pytest.raises(TypeError, match="decoder must be a function"):
        MaskedReconstruction(shape=IMAGE, decoder="linear")
