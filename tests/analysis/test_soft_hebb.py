"""SoftHebb: its update three times over, what it does to weights, and why it has no loss."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from linlocal import rules
from linlocal.analysis import (
    AlignmentRecorder,
    Checkpoints,
    GlobalTrainer,
    LocalTrainer,
    align,
    audit_locality,
)
from linlocal.analysis.local_losses import GatheredRule, SoftHebb, soft_hebb_update

VISIBLE = 1e-2
SGD = partial(torch.optim.SGD, lr=0.5)


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def network():
    """Layers that are blocks, with what lies between them."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1, padding_mode="reflect", bias=False),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(5, affine=False),
        nn.Conv2d(5, 4, 2, stride=2, dilation=1, bias=False),
        nn.Flatten(),
        nn.Linear(16, 3, bias=False),
    ).double()


NAMES = ["0", "4", "6"]
IMAGES = drawn(6, 2, 8, 8)


def rule_of(model, **options):
    return SoftHebb(layers=[model[0], model[4], model[6]], **options)


def inputs_of(model):
    """The input of each of the three layers."""
    found, z = [], IMAGES
    for name, module in model.named_children():
        if name in NAMES:
            found.append(z.detach())
        z = module(z)
    return found


def by_numpy(weight, x, temperature, anti_hebbian):
    """The formula row by row, unit by unit, for a dense layer."""
    total = np.zeros_like(weight)
    for row in x:
        u = weight @ row
        y = np.exp(u / temperature - np.max(u / temperature))
        y /= y.sum()
        if anti_hebbian:
            y[np.arange(len(u)) != np.argmax(u)] *= -1.0
        for k in range(len(u)):
            total[k] += y[k] * (row - u[k] * weight[k])
    return total / len(x)


# -- the update ------------------------------------------------------------------------------------


@pytest.mark.parametrize("anti_hebbian", [True, False])
@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_the_update_by_hand_is_that_of_numpy(temperature, anti_hebbian):
    layer, x = nn.Linear(7, 4, bias=False).double(), drawn(9, 7)
    update = soft_hebb_update(layer, x, temperature=temperature, anti_hebbian=anti_hebbian)
    weight = layer.weight.detach().numpy()
    expected = by_numpy(weight, x.numpy(), temperature, anti_hebbian)
    np.testing.assert_allclose(update, expected, rtol=1e-12, atol=1e-15)
    # Tokens are rows of places.
    tokens = soft_hebb_update(
        layer, x.view(3, 3, 7), temperature=temperature, anti_hebbian=anti_hebbian
    )
    torch.testing.assert_close(tokens, update, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("anti_hebbian", [True, False])
@pytest.mark.parametrize("power", [0.0, 0.5])
@pytest.mark.parametrize("options", [{}, {"micro_batch": 2}, {"one_pass": True}])
def test_a_step_of_local_training_adds_the_update_by_hand(anti_hebbian, power, options):
    model = network().eval()
    rule = rule_of(model, temperature=(0.5, 1.0, 2.0), anti_hebbian=anti_hebbian, power=power)
    expected = []
    for name, below, t in zip(NAMES, inputs_of(model), rule.temperature, strict=True):
        layer = model[int(name)]
        update = soft_hebb_update(layer, below, temperature=t, anti_hebbian=anti_hebbian)
        weight = layer.weight.detach()
        rate = (weight.flatten(1).norm(dim=1) - 1).abs() ** power
        expected.append(weight + 0.5 * (rate * update.transpose(0, -1)).transpose(0, -1))
    LocalTrainer(model, NAMES, rule, shape=(2, 8, 8), optimiser=SGD, **options).step(IMAGES)
    for name, weight in zip(NAMES, expected, strict=True):
        torch.testing.assert_close(model[int(name)].weight.detach(), weight, rtol=1e-10, atol=1e-13)


def test_a_map_is_many_rows_of_one_dense_layer():
    """A convolution learns from its patches as a dense layer does from rows."""
    conv = nn.Conv2d(2, 3, 2, stride=2, bias=False).double()
    dense = nn.Linear(8, 3, bias=False).double()
    dense.weight.data.copy_(conv.weight.detach().flatten(1))
    patches = nn.functional.unfold(IMAGES, 2, stride=2).transpose(1, 2).reshape(-1, 8)
    torch.testing.assert_close(
        soft_hebb_update(conv, IMAGES).flatten(1), soft_hebb_update(dense, patches)
    )


# -- what it does ----------------------------------------------------------------------------------


def of_weights(weight, x, **options):
    layer = nn.Linear(*reversed(weight.shape), bias=False).double()
    layer.weight.data.copy_(weight)
    return soft_hebb_update(layer, x, **options)


def unit_norm(weight):
    return weight / weight.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("anti_hebbian", [True, False])
def test_weights_of_norm_one_keep_it_and_others_do_not(anti_hebbian):
    """W_k . delta W_k = mean y_k u_k (1 - ||W_k||^2)."""
    weight, x = drawn(4, 7), drawn(50, 7, seed=1)
    for of, least, most in ((unit_norm(weight), 0.0, 1e-15), (weight, VISIBLE, 1e3)):
        along = (of * of_weights(of, x, anti_hebbian=anti_hebbian)).sum(1).abs()
        assert least <= along.min()
        assert along.max() <= most


def test_norms_go_to_one_from_above_and_below_without_losers():
    weight, x = drawn(3, 5), drawn(200, 5, seed=1) + 1.0
    weight = unit_norm(weight) * torch.tensor([[0.3], [0.9], [3.0]])
    before = (weight.norm(dim=1) - 1).abs()
    for _ in range(200):
        weight = weight + 0.05 * of_weights(weight, x, anti_hebbian=False)
    assert ((weight.norm(dim=1) - 1).abs() < 0.1 * before + 1e-3).all()


@pytest.mark.parametrize(("size", "grows"), [(0.5, False), (1.5, True)])
def test_the_norm_of_a_loser_with_positive_activity_goes_away_from_one(size, grows):
    """A counterexample to "norms go to one": two units along the same input, one of which loses."""
    x = torch.ones(4, 3, dtype=torch.float64)
    direction = unit_norm(torch.ones(1, 3, dtype=torch.float64))
    weight = torch.cat([2.0 * direction, size * direction])
    for anti_hebbian in (True, False):
        along = float((weight[1] * of_weights(weight, x, anti_hebbian=anti_hebbian)[1]).sum())
        assert (along > 0) == (grows == anti_hebbian)
    assert (weight[0] * of_weights(weight, x)[0]).sum() < 0  # the winner comes back from above


def test_it_turns_with_its_input_and_with_its_units():
    weight, x = drawn(4, 6), drawn(20, 6, seed=1)
    rotation = torch.linalg.qr(drawn(6, 6, seed=2))[0]
    turned = of_weights(weight @ rotation, x @ rotation)
    torch.testing.assert_close(turned, of_weights(weight, x) @ rotation, rtol=1e-11, atol=1e-13)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(of_weights(weight[order], x), of_weights(weight, x)[order])
    # No function of angles alone: stretched inputs give another update.
    stretched = of_weights(weight, x * torch.linspace(0.5, 2.0, 6, dtype=torch.float64))
    assert (stretched - of_weights(weight, x)).norm() > VISIBLE


def test_only_the_winner_learns_at_temperature_zero():
    weight, x = drawn(4, 6), drawn(1, 6, seed=1)
    update = of_weights(weight, x, temperature=1e-6)
    winner = int((weight @ x[0]).argmax())
    u = weight[winner] @ x[0]
    torch.testing.assert_close(update[winner], x[0] - u * weight[winner])
    assert update[torch.arange(4) != winner].abs().max() == 0


# -- why it has no loss ----------------------------------------------------------------------------


def hebbian_loss(weight, x, temperature):
    u = x @ unit_norm(weight).T
    return -temperature * torch.logsumexp(u / temperature, 1).mean()


def test_without_losers_and_at_norm_one_there_is_a_loss_and_elsewhere_not_this_one():
    x = drawn(30, 6, seed=1)
    for weight, equal in ((unit_norm(drawn(4, 6)), True), (2.0 * unit_norm(drawn(4, 6)), False)):
        leaf = weight.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(hebbian_loss(leaf, x, 0.7), leaf)
        update = of_weights(weight, x, temperature=0.7, anti_hebbian=False)
        apart = (update + gradient).norm() / update.norm()
        assert apart < 1e-12 if equal else apart > VISIBLE


@pytest.mark.parametrize("anti_hebbian", [True, False])
def test_with_losers_it_is_the_gradient_of_nothing(anti_hebbian):
    """Along the sphere of norm 1 the derivative of a gradient is symmetric."""
    weight, x, h = unit_norm(drawn(3, 4)), drawn(6, 4, seed=1), 1e-6

    def field(angles):
        moved = unit_norm(weight + torch.einsum("a,aki->ki", angles, tangents))
        return of_weights(moved, x, anti_hebbian=anti_hebbian)

    tangents = []
    for k in range(3):
        basis = torch.linalg.svd(weight[k : k + 1])[2][1:]  # orthogonal to W_k
        for direction in basis:
            tangents.append(torch.zeros(3, 4, dtype=torch.float64))
            tangents[-1][k] = direction
    tangents = torch.stack(tangents)
    steps = h * torch.eye(len(tangents), dtype=torch.float64)
    slopes = torch.stack([(field(e) - field(-e)) / (2 * h) for e in steps])
    derivative = torch.einsum("aki,bki->ab", slopes, tangents)
    apart = (derivative - derivative.T).norm() / derivative.norm()
    assert apart > VISIBLE if anti_hebbian else apart < 1e-7


# -- in the house ----------------------------------------------------------------------------------


def test_each_update_stays_in_its_layer_and_a_training_resumes(tmp_path):
    model = network()
    report = audit_locality(model, NAMES, rule_of(model), IMAGES)
    assert report.reached.values.tolist() == np.eye(3, dtype=int).tolist()
    trainers = []
    for _ in range(2):
        model = network()
        trainers.append(LocalTrainer(model, NAMES, rule_of(model), shape=(2, 8, 8), optimiser=SGD))
    first, second = trainers
    first.step(IMAGES)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, first.state_dict())
    second.load_state_dict(checkpoints.load())
    for trainer in trainers:
        trainer.step(IMAGES)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def recorded(model):
    recorder = AlignmentRecorder(model, NAMES, rule=rule_of(model), every=1)
    with recorder.step():
        model(IMAGES).square().mean().backward()


NEEDS_A_LOSS = {
    "GlobalTrainer": lambda m: GlobalTrainer(m, NAMES, rule_of(m), shape=(2, 8, 8)),
    "align": lambda m: align(m, NAMES, rule_of(m), IMAGES),
    "align, gathered": lambda m: align(m, NAMES, GatheredRule(rule_of(m)), IMAGES),
    "AlignmentRecorder": recorded,
}


@pytest.mark.parametrize("name", NEEDS_A_LOSS)
def test_what_needs_a_loss_refuses_it(name):
    with pytest.raises(ValueError, match=r"needs a loss, which (SoftHebbUpdate|Gathered) is not"):
        NEEDS_A_LOSS[name](network())
    with pytest.raises(ValueError, match=r"SoftHebb has no loss: on a network take"):
        rules.from_name("SoftHebb")


@pytest.mark.parametrize("after", [nn.ReLU(), nn.BatchNorm1d(4), nn.LayerNorm(4), nn.Linear(4, 4)])
def test_a_block_that_does_more_than_its_layer_is_refused(after):
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 4, bias=False), after)).double()
    trainer = LocalTrainer(model, ["0"], SoftHebb(layers=[model[0][0]]), shape=(6,), optimiser=SGD)
    with pytest.raises(ValueError, match=r"not the output of its layer, u = W x"):
        trainer.step(drawn(8, 6))


def layer(**options):
    return nn.Conv2d(4, 4, 3, **{"bias": False, **options})


REFUSED = {
    "a bias": (lambda: SoftHebb(layers=[layer(bias=True)]), ValueError, "no update of a bias"),
    "groups": (lambda: SoftHebb(layers=[layer(groups=2)]), ValueError, "one group and padding in"),
    "padding": (lambda: SoftHebb(layers=[layer(padding="same")]), ValueError, "padding in numbers"),
    "a ReLU": (lambda: SoftHebb(layers=[nn.ReLU()]), TypeError, "a Linear or Conv2d, got"),
    "no layers": (lambda: SoftHebb(layers=[]), ValueError, "at least one layer"),
    "one layer": (lambda: SoftHebb(layers=layer()), TypeError, "layers must be a sequence"),
    "temperatures": (
        lambda: SoftHebb(layers=[layer()], temperature=(1.0, 2.0)),
        ValueError,
        "2 temperatures for 1 layers",
    ),
    "other blocks": (
        lambda: SoftHebb(layers=[layer()]).build([(4, 3, 3), (4, 3, 3)]),
        ValueError,
        "1 layers for 2 blocks: name each layer as a block",
    ),
    "other units": (
        lambda: SoftHebb(layers=[layer()]).build([(5, 3, 3)]),
        ValueError,
        "Block 1 has 5 channels and its layer 4 units",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_layers_that_do_not_fit_are_refused(case):
    build, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        build()
