"""Biases, links and nonlinearities: each network is what a module of torch computes."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

import linlocal as ll
from linlocal import autodiff, losses, rules, testing
from linlocal.losses import scores
from linlocal.networks import Convolution, LeakyReLU, Tanh
from linlocal.rules import NAMES, Rule
from linlocal.testing import assert_same_update

EXACT = testing.TOLERANCES["float64"]
MASKS = ("sample", "batch", "none")


@dataclass(frozen=True)
class Softsign:
    """phi(a) = a / (1 + |a|): a nonlinearity that the package does not know."""

    def value(self, drive):
        return drive / (1 + np.abs(drive))

    def slope(self, drive):
        return 1 / (1 + np.abs(drive)) ** 2


@dataclass(frozen=True)
class Steep(Tanh):
    """tanh(2 a), as a subclass of what the package knows."""

    def value(self, drive):
        return np.tanh(2 * drive)

    def slope(self, drive):
        return 2 / np.cosh(2 * drive) ** 2


TORCH = {
    "relu": torch.relu,
    "leaky": lambda a: torch.where(a > 0, a, 0.2 * a),
    "tanh": lambda a: (torch.exp(2 * a) - 1) / (torch.exp(2 * a) + 1),
    "gelu": lambda a: a * (1 + torch.erf(a / math.sqrt(2))) / 2,
    "softsign": lambda a: a / (1 + a.abs()),
    "steep": lambda a: torch.tanh(2 * a),
    None: lambda a: a,
}
OURS = {"leaky": LeakyReLU(0.2), "softsign": Softsign(), "steep": Steep()}


class Independent(nn.Module):
    """The same network with layers of torch; every activity keeps its gradient."""

    def __init__(self, network, phi, linear_readout):
        super().__init__()
        self.phi, self.linear_readout, self.links = phi, linear_readout, network.links
        self.layers = nn.ModuleList(
            self.layer(w, b) for w, b in zip(network.weights, network.biases, strict=True)
        )

    @staticmethod
    def layer(w, b):
        if isinstance(w, Convolution):
            shape = w.kernel.shape
            made = nn.Conv2d(
                w.input_shape[0], shape[0], shape[2:], w.stride, w.padding, bias=b.size > 0
            ).double()
            made.weight.data = torch.tensor(w.kernel)
        else:
            made = nn.Linear(w.shape[1], w.shape[0], bias=b.size > 0).double()
            made.weight.data = torch.tensor(w)
        if b.size:
            made.bias.data = torch.tensor(b)
        return made

    def forward(self, x, shape=None):
        z = [x]
        for l, layer in enumerate(self.layers, start=1):
            below = z[-1].reshape(len(x), *shape) if isinstance(layer, nn.Conv2d) else z[-1]
            drive = layer(below)
            shape, drive = drive.shape[1:], drive.flatten(1)
            top = l == len(self.layers) and self.linear_readout
            here = drive if top else TORCH[self.phi](drive)
            for k, scale in self.links.get(l, {}).items():
                here = here + scale * z[k]
            z.append(here)
        return z


def biases(widths, seed=5):
    rng = np.random.default_rng(seed)
    return [0.5 * rng.standard_normal(n) for n in widths[1:]]


def dense(widths, links=None, phi=None, readout="same", with_biases=True, seed=1):
    some = biases(widths) if with_biases else None
    network = ll.DeepLinear(ll.DeepLinear.uniform(widths, seed).weights, some, links)
    return network if phi is None else network.with_activation(OURS.get(phi, phi), readout)


def convolutions(phi=None):
    rng = np.random.default_rng(0)
    weights = [
        Convolution(rng.standard_normal((2, 2, 3, 3)) / 3, (2, 2, 2), padding=(1, 1)),
        Convolution(rng.standard_normal((2, 2, 1, 1)), (2, 2, 2)),
        Convolution(rng.standard_normal((2, 2, 2, 2)) / 2, (2, 2, 2)),
    ]
    some = [rng.standard_normal(2), None, rng.standard_normal(2)]
    network = ll.DeepLinear(weights, some, "residual")
    return network if phi is None else network.with_activation(phi)


KINDS = {
    "biases": lambda: (dense([5, 4, 3, 4]), None),
    "one bias": lambda: (ll.DeepLinear(dense([5, 4, 3]).weights, [None, np.ones(3)]), None),
    "residual": lambda: (dense([5, 4, 4, 4], "residual", with_biases=False), None),
    "links and biases": lambda: (
        dense([4, 4, 3, 4, 3], {1: [0], 3: {1: 0.5, 0: -1.0}, 4: [2]}),
        None,
    ),
    "relu, linear readout": lambda: (dense([5, 4, 4, 3], None, "relu", "linear"), "relu"),
    "leaky relu, residual": lambda: (dense([5, 4, 4, 4], "residual", "leaky"), "leaky"),
    "tanh, links that skip": lambda: (
        dense([4, 4, 4, 4], {2: [0], 3: {1: 0.5}}, "tanh", "linear"),
        "tanh",
    ),
    "gelu, residual": lambda: (dense([5, 4, 4, 4], "residual", "gelu", "linear"), "gelu"),
    "of one's own": lambda: (dense([5, 4, 4], "residual", "softsign"), "softsign"),
    "a subclass": lambda: (dense([5, 4, 4], None, "steep"), "steep"),
    "convolutions": lambda: (convolutions(), None),
    "gelu convolutions": lambda: (convolutions("gelu"), "gelu"),
}


def independent(network, phi):
    return Independent(network, phi, getattr(network, "readout", "same") == "linear")


@pytest.mark.parametrize("kind", KINDS)
def test_forward_backward_updates_and_jacobians_are_those_of_torch(kind):
    network, phi = KINDS[kind]()
    x = testing.samples(6, network.widths[0], 0)[0]
    activities = network.activities(x)
    error = np.random.default_rng(0).standard_normal((6, network.widths[-1]))
    errors = network.backpropagate(activities, error)
    module = independent(network, phi)
    shape = getattr(network.weights[0], "input_shape", None)
    z = module(torch.tensor(x), shape)
    for got, wanted in zip(activities.z, z, strict=True):
        np.testing.assert_allclose(got, wanted.detach(), atol=1e-14)
    total = (z[-1] * torch.tensor(error)).sum()
    by_z = torch.autograd.grad(total, z[1:], retain_graph=True)
    by_weight = torch.autograd.grad(total, [m.weight for m in module.layers], retain_graph=True)
    for l, layer in zip(network.layers, module.layers, strict=True):
        np.testing.assert_allclose(errors[l - 1], by_z[l - 1], atol=1e-13)
        update = network.update(l, activities, errors[l - 1])
        np.testing.assert_allclose(update, by_weight[l - 1], atol=1e-13)
        bias_update = network.bias_update(l, activities, errors[l - 1])
        if layer.bias is None:
            assert bias_update.shape == (0,)
        else:
            (by_bias,) = torch.autograd.grad(total, layer.bias, retain_graph=True)
            np.testing.assert_allclose(bias_update, by_bias, atol=1e-13)
            joint = network.joint_update(l, activities, errors[l - 1])
            np.testing.assert_array_equal(joint[:, :-1].ravel(), update.ravel())
            np.testing.assert_array_equal(joint[:, -1], bias_update)
        jacobian = network.downstream(l) if network.is_linear else network.downstream(l, x)
        sent = (error[:, None, :] @ jacobian)[:, 0]
        np.testing.assert_allclose(errors[l - 1], sent, atol=1e-13)


@pytest.mark.parametrize("kind", ["links and biases", "tanh, links that skip", "convolutions"])
def test_errors_and_maps_end_at_any_layer(kind):
    """What lies below a layer in the middle is a network of its own, biases and links included."""
    network, _ = KINDS[kind]()
    x = testing.samples(6, network.widths[0], 0)[0]
    for end in network.layers:
        cut = network.with_weights(network.weights[:end])
        if kind == "tanh, links that skip" and end < network.depth:
            cut = ll.DeepLinear(cut.weights, cut.biases, cut.links).with_activation("tanh")
        error = np.random.default_rng(0).standard_normal((6, network.widths[end]))
        whole = network.backpropagate(network.activities(x), error, source=end)
        wanted = cut.backpropagate(cut.activities(x), error)
        assert_same_update(whole, wanted)
        for l in range(1, end + 1) if network.is_linear else ():
            np.testing.assert_allclose(network.downstream(l, end), cut.downstream(l), atol=1e-15)
            v = network.downstream(l, end)
            np.testing.assert_allclose(network.gram(l, end), v.T @ v, atol=1e-14)


@settings(max_examples=40)
@given(network=testing.networks((1, 5), (1, 6), links="any", biases=True))
def test_a_layer_determines_the_ones_above_where_nothing_leads_past_it(network):
    x = testing.samples(5, network.widths[0], 0)[0]
    z = network.activities(x).z
    for end in network.layers:
        for l in range(1, end + 1):
            v = network.downstream(l, end)
            size = max(np.linalg.norm(a) for a in z) * (1 + np.linalg.norm(v))
            if network.only_through(l, end):
                assert np.linalg.norm(z[end] - z[l] @ v.T) <= EXACT * size


PAST = {
    "nothing": (None, None, [True, True, True]),
    "links from the layer below": ({2: [1], 3: [2]}, None, [True, True, True]),
    "a bias below": (None, [np.ones(4), None, None], [True, True, True]),
    "a bias in the middle": (None, [None, np.ones(4), None], [False, True, True]),
    "a link around layer 2": ({3: [1]}, None, [True, False, True]),
    "a link from the input": ({3: {0: 0.5}}, None, [False, False, True]),
}


@pytest.mark.parametrize("case", PAST)
def test_what_leads_past_a_layer(case):
    links, some, alone = PAST[case]
    network = ll.DeepLinear(ll.DeepLinear.uniform([4, 4, 4, 4], 1).weights, some, links)
    z = network.activities(testing.samples(5, 4, 0)[0]).z
    for l in network.layers:
        assert network.only_through(l) == alone[l - 1]
        gap = np.linalg.norm(z[3] - z[l] @ network.downstream(l).T)
        assert (gap <= 1e-14) if alone[l - 1] else (gap > 0.1)


# -- the oracle ------------------------------------------------------------------------------------

FAMILIES = ("CLAPP_DFB", "PhyLL", "SCFF", "GreedyInfoMax", "SimCLR", "VICReg")
THOROUGH = ("links and biases", "tanh, links that skip")


def named_rule(name):
    return rules.from_name(name, **({"score": "softplus"} if "CLAPP" in name else {}))


def fitting_pairs(rule, width, samples=5):
    x, view = (2 * a for a in testing.samples(samples, width, 0))
    if rule.context == "self":
        return ll.Pairs.from_positive_negative(x, view)
    return ll.Pairs.from_views(x, view)


def joined(update, network, *arguments, **options):
    """The updates of weights and biases, one vector for each layer.

    The update of a bias alone vanishes where the loss does not change under translations.
    """
    found = update(network, *arguments, **options)
    if not network.has_biases:
        return found
    of_biases = update(network, *arguments, of="biases", **options)
    assert [b.shape for b in of_biases] == [b.shape for b in network.biases]
    return [np.concatenate([w.ravel(), b]) for w, b in zip(found, of_biases, strict=True)]


def assert_oracle_agrees(network, rule, masks=("sample",)):
    pairs = fitting_pairs(rule, network.widths[0])
    about = f"{rule.name} on {network!r}"
    ours, oracle = (joined(m.local_update, network, pairs, rule) for m in (ll, autodiff))
    assert_same_update(ours, oracle, EXACT, f"local, {about}")
    for kind in masks:
        ours, oracle = (
            joined(m.global_update, network, pairs, rule, masks=kind) for m in (ll, autodiff)
        )
        assert_same_update(ours, oracle, EXACT, f"global, {about}, masks {kind}")


@pytest.mark.parametrize("kind", THOROUGH)
@pytest.mark.parametrize("name", NAMES)
def test_every_named_rule(name, kind):
    assert_oracle_agrees(KINDS[kind]()[0], named_rule(name))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(THOROUGH)))
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_of_rules(name, kind):
    assert_oracle_agrees(KINDS[kind]()[0], named_rule(name))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["PhyLL", "SimCLR"])
def test_masks(name, kind):
    assert_oracle_agrees(KINDS[kind]()[0], named_rule(name), MASKS)


@pytest.mark.parametrize(
    "kind", [pytest.param("residual", marks=pytest.mark.slow), "links and biases"]
)
@pytest.mark.parametrize("context", ["same", "top", "both", "each"])
@pytest.mark.parametrize("projection", ["matched", "optimal", "random"])
def test_projections_that_see_the_top_layer(kind, context, projection):
    metric = "downstream" if projection == "optimal" else "frobenius"
    penalty = rules.Penalty(0.05, metric)
    rule = Rule("r", losses.TypeTwo(scores.Softplus()), context, projection, penalty, seed=4)
    assert_oracle_agrees(KINDS[kind]()[0], rule)


@pytest.mark.parametrize("kind", KINDS)
def test_the_updates_of_a_loss_written_out_on_the_module(kind):
    """B = I and a linear score: the loss is the mean of z . c over negatives minus positives."""
    network, phi = KINDS[kind]()
    rule = Rule("r", losses.TypeTwo(scores.Linear()), "same", "identity")
    pairs = fitting_pairs(rule, network.widths[0])
    module = independent(network, phi)
    shape = getattr(network.weights[0], "input_shape", None)

    def loss(z):
        first, second = (z[torch.as_tensor(v)] for v in pairs.views)
        total = torch.zeros((), dtype=torch.float64)
        for a, c in ((first, second.detach()), (second, first.detach())):
            total = total + ((a.roll(-1, 0) - a) * c).sum(dim=1).mean()
        return total

    z = module(torch.tensor(pairs.samples), shape)
    weights = [m.weight for m in module.layers]
    wanted = torch.autograd.grad(loss(z[-1]), weights, retain_graph=True)
    assert_same_update(ll.global_update(network, pairs, rule), [-g for g in wanted])
    local = ll.local_update(network, pairs, rule)
    for l, weight in enumerate(weights, start=1):
        here = network.activities(pairs.samples).z[l]
        by_z = torch.tensor(here, requires_grad=True)
        (error,) = torch.autograd.grad(loss(by_z), by_z)
        # No path leads from W_l to z_l but the layer itself.
        (expected,) = torch.autograd.grad((z[l] * error).sum(), weight, retain_graph=True)
        assert_same_update(local[l - 1], -expected.numpy())


def test_biases_are_asked_for_where_there_are_any():
    network = ll.DeepLinear.uniform([4, 3])
    rule = named_rule("PhyLL")
    pairs = fitting_pairs(rule, 4)
    for module in (ll, autodiff):
        for update in (module.local_update, module.global_update):
            with pytest.raises(ValueError, match="No layer of this network has a bias to update"):
                update(network, pairs, rule, of="biases")
            with pytest.raises(ValueError, match=r"of must be .* got .bias.\."):
                update(network, pairs, rule, of="bias")


def test_compare_joins_weights_and_biases():
    network, rule = KINDS["biases"]()[0], named_rule("CLAPP")
    pairs = fitting_pairs(rule, 5)
    local, global_ = (joined(f, network, pairs, rule) for f in (ll.local_update, ll.global_update))
    cosines = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(local, global_, strict=True)
    ]
    data = ll.compare(network, pairs, rule)
    np.testing.assert_allclose(data["cosine"], cosines, rtol=1e-13)
    for l in network.layers:
        total = sum(ll.mismatch(network, pairs, rule, l).values())
        np.testing.assert_allclose(
            np.concatenate([total[:, :-1].ravel(), total[:, -1]]),
            global_[l - 1] - local[l - 1],
            atol=1e-13,
        )
