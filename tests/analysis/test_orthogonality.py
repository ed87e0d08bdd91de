"""Weights that start orthogonal, or stay so in training, and which layers they make isometries."""

import copy
from functools import partial

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

import linlocal as ll
from linlocal.analysis import GlobalTrainer, LocalTrainer, align
from linlocal.analysis.local_losses import CLAPP, PhyLL
from linlocal.analysis.training import Orthogonality, orthogonal_, scale_branches_

EXACT = 1e-12
SGD = partial(torch.optim.SGD, lr=0.1, momentum=0.9)

sizes = st.integers(1, 3)


@st.composite
def layers(draw):
    """Linear and convolutional layers of all kinds, in float64."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    if draw(st.booleans()):
        layer = nn.Linear(draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    else:
        kind = draw(st.sampled_from([nn.Conv1d, nn.Conv2d, nn.Conv3d]))
        groups, below, above = draw(sizes), draw(sizes), draw(sizes)
        side, stride = draw(sizes), draw(st.integers(1, 2))
        padding = draw(st.sampled_from([0, side // 2]))
        layer = kind(
            groups * below, groups * above, side, stride=stride, padding=padding, groups=groups
        )
    return layer.double()


def matrices(layer):
    groups = getattr(layer, "groups", 1)
    return [part.flatten(1) for part in layer.weight.detach().chunk(groups)]


def deviation(w, gain=1.0):
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    return float((gram - gain**2 * torch.eye(len(gram), dtype=gram.dtype)).abs().max())


@settings(max_examples=40, deadline=None)
@given(layers(), st.floats(0.5, 2), st.integers(0, 100))
def test_initial_weights_are_orthogonal(layer, gain, seed):
    before = copy.deepcopy(layer)
    (kind,) = orthogonal_(layer, gain=gain, seed=seed, kernel="flattened").values()
    assert kind == ("linear" if isinstance(layer, nn.Linear) else "flattened")
    assert max(deviation(w, gain) for w in matrices(layer)) < EXACT
    assert not layer.bias.any()
    again = copy.deepcopy(before)
    state = torch.get_rng_state()
    orthogonal_(again, gain=gain, seed=seed, kernel="flattened")
    assert torch.equal(again.weight, layer.weight)
    assert torch.equal(torch.get_rng_state(), state)


@settings(max_examples=40, deadline=None)
@given(layers(), st.sampled_from(["polar", "qr"]), st.floats(0.5, 2))
def test_a_retraction_is_exact_and_leaves_what_is_orthogonal(layer, retraction, gain):
    kept = Orthogonality(retraction=retraction, gain=gain)
    before = [w.clone() for w in matrices(layer)]
    kept.retract(layer)
    after = matrices(layer)
    assert max(deviation(w, gain) for w in after) < EXACT
    assert max(kept.deviation(layer).values()) < EXACT
    for w, found in zip(before, after, strict=True):
        if retraction == "polar" and np.linalg.cond(w) < 1e6:
            nearest, _ = scipy.linalg.polar(w.numpy())
            np.testing.assert_allclose(found, gain * nearest, atol=1e-9)
    again = copy.deepcopy(layer)
    kept.retract(again)
    torch.testing.assert_close(again.weight, layer.weight, rtol=0, atol=EXACT)


def test_the_polar_retraction_is_nearer_than_the_other():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4).double()
    moved = {}
    for retraction in ("polar", "qr"):
        changed = copy.deepcopy(layer)
        Orthogonality(retraction=retraction).retract(changed)
        moved[retraction] = float((changed.weight - layer.weight).detach().norm())
    assert moved["polar"] < moved["qr"]


# -- which layers are isometries -------------------------------------------------------------------


def stretches(layer, x):
    """||layer(x)|| / ||x|| of each sample, without the bias."""
    with torch.no_grad():
        layer.bias.zero_()
        return layer(x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)


WIDER = {
    "linear": (nn.Linear(5, 8), (5,), "linear"),
    "3x3": (nn.Conv2d(3, 5, 3, padding=1), (3, 6, 6), "delta"),
    "same": (nn.Conv1d(2, 2, 5, padding="same"), (2, 9), "delta"),
    "dilated": (nn.Conv2d(3, 3, 3, padding=2, dilation=2), (3, 6, 6), "delta"),
    "circular": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (3, 6, 6), "delta"),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 6, 6), "delta"),
    "grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 6, 6), "delta"),
    "1x1": (nn.Conv2d(3, 3, 1), (3, 6, 6), "delta"),
    "side by side": (nn.Conv2d(2, 9, 2, stride=2), (2, 6, 6), "flattened"),
}


@pytest.mark.parametrize("case", WIDER)
def test_orthogonal_layers_that_do_not_narrow_are_isometries(case):
    layer, shape, kind = WIDER[case]
    layer = copy.deepcopy(layer).double()
    torch.manual_seed(0)
    x = torch.randn(5, *shape, dtype=torch.float64)
    assert stretches(copy.deepcopy(layer), x).std() > 1e-3
    assert [*orthogonal_(layer, gain=1.5).values()] == [kind]
    torch.testing.assert_close(
        stretches(layer, x), torch.full((5,), 1.5).double(), atol=EXACT, rtol=0
    )


NO_ISOMETRY = {
    "it narrows": (nn.Conv2d(5, 3, 3, padding=1), (5, 6, 6), "auto"),
    "patches overlap": (nn.Conv2d(2, 18, 3, padding=1), (2, 6, 6), "flattened"),
    "it drops the border": (nn.Conv2d(3, 5, 3), (3, 6, 6), "delta"),
    "its patches leave pixels out": (nn.Conv2d(2, 9, 2, stride=3), (2, 6, 6), "auto"),
}


@pytest.mark.parametrize("case", NO_ISOMETRY)
def test_others_are_not(case):
    layer, shape, kernel = NO_ISOMETRY[case]
    layer = copy.deepcopy(layer).double()
    torch.manual_seed(0)
    orthogonal_(layer, kernel=kernel)
    found = stretches(layer, torch.randn(5, *shape, dtype=torch.float64))
    assert (found - 1).abs().min() > 1e-3


def linear_network():
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(a, b, 3, padding=1) for a, b in ((1, 4), (4, 4), (4, 6))]
    return nn.Sequential(*convolutions).double()


def test_local_updates_of_orthogonal_convolutions_are_exact():
    """Statement 5: PhyLL sees inner products only, and delta kernels keep these."""
    views = torch.randn(
        12, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    rule = PhyLL(pooling=1)
    model = linear_network()
    assert align(model, None, rule, views)["cosine"][:-1].max() < 0.99
    orthogonal_(model, kernel="flattened")
    assert align(model, None, rule, views)["cosine"][:-1].max() < 0.999
    orthogonal_(model)
    assert align(model, None, rule, views)["relative_error"].max() < 1e-10


def test_scaled_branches_are_those_of_the_theory():
    residual = ll.DeepLinear.uniform([5] * 5, seed=0, links="residual")
    branches = nn.Sequential(*(nn.Linear(5, 5) for _ in range(4))).double()
    for layer, w in zip(branches, residual.weights, strict=True):
        layer.weight.data = torch.tensor(np.array(w))
    biases = [layer.bias.detach().clone() for layer in branches]
    assert scale_branches_(branches, ["1", "2", "3"], 0.25) == ("1", "2", "3")
    for layer, w in zip(branches, residual.with_scaled_branches(0.25).weights, strict=True):
        np.testing.assert_allclose(layer.weight.detach(), w, rtol=1e-15)
    torch.testing.assert_close(branches[1].bias, biases[1] / 4)
    scale_branches_(branches, "?")
    torch.testing.assert_close(branches[0].bias, biases[0] / 2)  # 1 / sqrt(4)


# -- in training -----------------------------------------------------------------------------------


def network(dtype=torch.float64):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(1, 4), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.ReLU()),
        nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.ReLU()),
    )
    return model.to(dtype)


def batch(step, dtype=torch.float64):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 1, 6, 6, generator=generator, dtype=torch.float64).to(dtype)


def trained(trainer, steps=3):
    for step in range(steps):
        trainer.step(batch(step))
    return trainer


@pytest.mark.parametrize("kind", [LocalTrainer, GlobalTrainer])
@pytest.mark.parametrize("retraction", ["polar", "qr"])
def test_a_trainer_keeps_weights_orthogonal(kind, retraction):
    kept = Orthogonality(retraction=retraction)
    options = {"shape": (1, 6, 6), "optimiser": SGD}
    free = trained(kind(network(), None, CLAPP(), **options))
    bound = trained(kind(network(), None, CLAPP(), orthogonality=kept, **options))
    assert max(kept.deviation(bound.model).values()) < EXACT
    assert min(kept.deviation(free.model).values()) > 1e-2


def test_only_named_layers_are_kept():
    kept = Orthogonality(names=("1", "2.*"))
    makers = [SGD, SGD, SGD]  # one optimiser for each block
    trainer = LocalTrainer(
        network(), None, CLAPP(), shape=(1, 6, 6), optimiser=makers, orthogonality=kept
    )
    trained(trainer)
    assert max(kept.deviation(trainer.model).values()) < EXACT
    assert Orthogonality(names="0.0").deviation(trainer.model)["0.0"] > 1e-2


def test_a_head_that_is_not_trained_is_not_meant_unless_it_is_named():
    model, head = network(), nn.Linear(6, 3).double()
    whole = nn.ModuleDict({"body": model, "head": head})
    optimiser = SGD(model.parameters())
    assert len(Orthogonality().keep(whole, optimiser)) == 1
    with pytest.raises(ValueError, match="No optimiser trains the weights of head"):
        Orthogonality(names=("body", "head")).keep(whole, optimiser)
    model(batch(0)).square().mean().backward()
    before = head.weight.clone()
    optimiser.step()
    assert torch.equal(head.weight, before)
    assert max(Orthogonality(names="body").deviation(whole).values()) < EXACT


def penalty_of(model, strength, gain):
    """The penalty by autograd, from the formula."""
    total = 0.0
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            for part in layer.weight.chunk(getattr(layer, "groups", 1)):
                w = part.flatten(1)
                w = w if len(w) <= w.shape[1] else w.T
                excess = w @ w.T - gain**2 * torch.eye(len(w), dtype=w.dtype)
                total = total + strength * excess.square().sum()
    return total


def test_the_penalty_is_that_of_the_formula():
    kept = Orthogonality(retraction=None, penalty=0.3, gain=1.2)
    found = network()
    expected = copy.deepcopy(found)
    loss_of = lambda model: model(batch(0)).square().mean()  # noqa: E731
    optimiser, by_formula = SGD(found.parameters()), SGD(expected.parameters())
    handles = kept.keep(found, optimiser)
    for _ in range(3):
        for model, each, more in ((found, optimiser, 0), (expected, by_formula, 1)):
            each.zero_grad()
            (loss_of(model) + more * penalty_of(model, 0.3, 1.2)).backward()
            each.step()
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    for handle in handles:
        handle.remove()
    before = [p.clone() for p in found.parameters()]
    found.zero_grad()
    loss_of(found).backward()
    gradients = [p.grad.clone() for p in found.parameters()]
    optimiser.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(found.parameters(), gradients, strict=True))
    assert not torch.equal(before[0], found[0][0].weight)


def test_a_penalty_brings_weights_nearer():
    soft = Orthogonality(retraction=None, penalty=0.5)
    options = {"shape": (1, 6, 6), "optimiser": partial(torch.optim.SGD, lr=0.05)}
    free = trained(LocalTrainer(network(), None, CLAPP(), **options), 20)
    bound = trained(LocalTrainer(network(), None, CLAPP(), orthogonality=soft, **options), 20)
    for near, far in zip(
        soft.deviation(bound.model).values(), soft.deviation(free.model).values(), strict=True
    ):
        assert 1e-9 < near < far / 3


def test_the_penalty_does_not_feel_the_scale_of_the_loss():
    """A fused optimiser unscales gradients inside its step, others before it."""
    kept = Orthogonality(retraction=None, penalty=0.3)
    found = {}
    for fused in (False, True):
        for scale in (1.0, 2.0**10):
            model = network(torch.float32)
            optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
            kept.keep(model, optimiser)
            scaler = torch.amp.GradScaler("cpu", init_scale=scale)
            scaler.scale(model(batch(0, torch.float32)).square().mean()).backward()
            scaler.step(optimiser)
            found[fused, scale] = torch.cat([p.detach().flatten() for p in model.parameters()])
    for each in found.values():
        torch.testing.assert_close(each, found[False, 1.0], rtol=1e-4, atol=1e-6)


def test_another_orthogonality_is_another_training():
    options = {"shape": (1, 6, 6), "optimiser": SGD}
    first = LocalTrainer(network(), None, CLAPP(), orthogonality=Orthogonality(), **options)
    again = LocalTrainer(network(), None, CLAPP(), orthogonality=Orthogonality(), **options)
    trained(first)
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    for trainer in (first, again):
        trainer.step(batch(9))
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for other in (None, Orthogonality(retraction="qr")):
        with pytest.raises(ValueError, match="optimiser"):
            LocalTrainer(network(), None, CLAPP(), orthogonality=other, **options).load_state_dict(
                first.state_dict()
            )
