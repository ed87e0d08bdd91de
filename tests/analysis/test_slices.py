"""Sliced losses on networks: exact above isometries, and random slices drawn anew in each step."""

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import linlocal as ll
from linlocal.analysis import AlignmentRecorder, Checkpoints, LocalTrainer, align, audit_locality
from linlocal.analysis.local_losses import GatheredRule, HeadedViews, NetworkRule
from linlocal.analysis.training import peak_bytes
from linlocal.autodiff import normality, view_formula
from linlocal.testing import TOLERANCES

EXACT, VISIBLE = TOLERANCES["float64"], 1e-2
SGD = partial(torch.optim.SGD, lr=0.1)
FRESH = NetworkRule(rule=ll.rules.SIGReg(slices=5, seed=7), fresh_slices=True)


def layers(*widths, seed=0, isometric=True):
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))).double()
    for layer in model:
        if isometric:
            nn.init.orthogonal_(layer.weight)
    return model


def downsampling(isometric=True):
    """Maps of 8, 4 and 2 pixels a side; patches of 2 x 2 are turned and go to the channels."""
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(c, 4 * c, 2, stride=2, bias=False) for c in (1, 4, 16))
    ).double()
    for layer in model:
        if isometric:
            nn.init.orthogonal_(layer.weight)
    return model


def batch(*shape):
    return torch.randn(12, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


# -- both sides of statement 13 --------------------------------------------------------------------

SAME, WIDER = layers(6, 8, 8, 8), layers(6, 4, 5, 8)
IMAGES = batch(1, 8, 8)
EQUAL = {
    "equal widths": (SAME, ll.rules.SIGReg()),
    "widening, one dimension": (WIDER, ll.rules.SIGReg(dimension=8)),
    "maps of convolutions": (downsampling(), NetworkRule(rule=ll.rules.SIGReg(), pooling=1)),
}
UNEQUAL = {
    "widening, each its own dimension": (WIDER, ll.rules.SIGReg()),
    "no isometry": (layers(6, 8, 8, 8, isometric=False), ll.rules.SIGReg()),
    "random slices": (SAME, ll.rules.SIGReg(slices=100)),
    "fresh slices": (SAME, replace(FRESH, rule=ll.rules.SIGReg(slices=100))),
    "convolutions that are none": (
        downsampling(isometric=False),
        NetworkRule(rule=ll.rules.SIGReg(), pooling=1),
    ),
    "maps averaged over places": (downsampling(), ll.rules.SIGReg(dimension=64)),
}


def error(model, rule):
    x = IMAGES if isinstance(model[0], nn.Conv2d) else batch(6)
    return align(model, None, rule, x).relative_error.values


@pytest.mark.parametrize("case", EQUAL)
def test_13_all_slices_are_exact_above_an_isometry(case):
    assert error(*EQUAL[case]).max() <= EXACT


@pytest.mark.parametrize("case", UNEQUAL)
def test_13_visible_where_the_hypothesis_fails(case):
    assert error(*UNEQUAL[case])[:-1].min() > VISIBLE


# -- random slices, step by step -------------------------------------------------------------------


def trainer(rule=FRESH, **options):
    return LocalTrainer(layers(6, 5, 4), None, rule, shape=(6,), optimiser=SGD, **options)


@pytest.mark.parametrize("drawn", [FRESH.rule, ll.rules.VISReg(slices=5, seed=7)])
def test_step_t_has_the_slices_of_seed_plus_t(drawn):
    local, x = trainer(replace(FRESH, rule=drawn)), batch(6)
    samples = x.numpy()
    pairs = ll.Pairs.from_views(samples[:6], samples[6:])
    network = ll.DeepLinear([layer.weight.detach().numpy().copy() for layer in local.model])
    for step in range(3):
        rule = replace(drawn, loss=replace(drawn.loss, seed=7 + step))
        updates = ll.local_update(network, pairs, rule)
        network = network.with_weights(
            [w + 0.1 * dw for w, dw in zip(network.weights, updates, strict=True)]
        )
        local.step(x)
    for layer, weight in zip(local.model, network.weights, strict=True):
        np.testing.assert_allclose(layer.weight.detach(), weight, rtol=0, atol=1e-12)
    fixed = trainer(drawn)
    for _ in range(3):
        fixed.step(x)
    assert not torch.allclose(fixed.model[0].weight, local.model[0].weight, atol=1e-6)


def counts(losses):
    return [int(value) for name, value in losses.state_dict().items() if name.endswith("step")]


def test_a_training_that_is_resumed_draws_what_an_uninterrupted_one_does(tmp_path):
    x, whole, first, second = batch(6), trainer(), trainer(), trainer()
    for _ in range(4):
        whole.step(x)
    for _ in range(2):
        first.step(x)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, first.state_dict())
    second.load_state_dict(checkpoints.load())
    assert counts(second.losses) == [2, 2]
    for _ in range(2):
        second.step(x)
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_only_a_step_that_is_taken_counts():
    local, x = trainer(), batch(6)
    local.step(x)
    with pytest.raises(FloatingPointError):
        local.step(x * torch.inf)
    with torch.no_grad():
        local.losses[0](batch(5), None)
    align(local.model, None, local.losses, x)
    audit_locality(local.model, None, FRESH, x)
    local.losses.eval()
    local.losses[0](batch(5), None)
    assert counts(local.losses) == [1, 1]


def test_a_recorder_with_the_losses_of_the_training_has_the_slices_of_its_step():
    model, x = layers(6, 5, 4), batch(6)
    losses = FRESH.build([(5,), (4,)]).double()
    recorder = AlignmentRecorder(model, rule=losses, every=1, trains_rule=True)
    for _ in range(3):
        with recorder.step():
            losses[-1](model(x), None).backward()
    assert counts(losses) == [0, 3]
    # Otherwise it would say that the training has another loss.
    assert recorder.dataset().error_relative_error.isel(layer=-1).max() <= EXACT


def test_gathered_losses_count_too():
    (loss,) = GatheredRule(FRESH).build([(6,)])
    values = {float(loss(batch(6), None)) for _ in range(3)}
    assert len(values) == 3


def test_behind_a_projector_slices_are_fresh_too():
    """As SIGReg is published; each block counts for itself."""
    rule = HeadedViews(kind="global", widths=(4,), scale=2.0, loss=FRESH.rule.loss)
    plain, fresh = (
        replace(rule, fresh_slices=f).build([(6,), (5,)], seed=3).double() for f in (False, True)
    )
    for step in range(2):
        loss = replace(FRESH.rule.loss, seed=7 + step)
        projected = plain[0].projector(plain[0].head(batch(6)))
        expected = 2.0 * view_formula(loss)(projected[:6], projected[6:])
        torch.testing.assert_close(fresh[0](batch(6), None), expected)
    assert counts(fresh) == [2, 0]
    assert counts(plain) == []
    with pytest.raises(ValueError, match="has no random slices"):
        HeadedViews(fresh_slices=True)


def test_slices_in_pieces_are_the_same_loss_in_less_memory(monkeypatch):
    loss = ll.losses.SlicedNormality(slices=300, seed=1)
    z = batch(6).requires_grad_()

    def run():
        value = view_formula(loss)(z[:6], z[6:])
        return value.detach(), torch.autograd.grad(value, z)[0]

    whole, peak = run(), peak_bytes(run)
    monkeypatch.setattr(normality, "CHUNK", 2000)
    for got, expected in zip(run(), whole, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
    assert peak_bytes(run) < 0.5 * peak
    samples = z.detach().numpy()
    by_numpy = np.concatenate(loss.gradients(samples[:6], samples[6:]))
    np.testing.assert_allclose(run()[1], by_numpy, rtol=0, atol=1e-13)


@pytest.mark.parametrize("rule", [ll.rules.SIGReg(), ll.rules.VICReg(), ll.rules.CLAPP()])
def test_what_has_no_random_slices_cannot_draw_them_anew(rule):
    with pytest.raises(ValueError, match=r"has no random slices .* take rules.SIGReg\(slices=256"):
        NetworkRule(rule=rule, fresh_slices=True)
