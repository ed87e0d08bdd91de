"""A network of one's own is what its methods say, or is refused."""

import numpy as np
import pytest
import torch

import linlocal as ll
from linlocal import autodiff, rules, testing
from linlocal.networks import Activities, Network

WEIGHTS = ll.DeepLinear.uniform((5, 4, 3), seed=0).weights
RULE = rules.CLAPP("softplus", penalty=0.1)


def pairs():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 5))
    return ll.Pairs.from_views(x, x + 0.3 * rng.standard_normal((6, 5)))


def tanh_activities(network, x):
    z = [network.check_input(x)]
    for l in network.layers:
        z.append(np.tanh(z[-1] @ network.matrix(l).T))
    return Activities(tuple(z), tuple(1.0 - a**2 for a in z))


class Tanh(Network):
    """Its activities bring their derivatives."""

    activities = tanh_activities


class Disguised(ll.DeepLinear):
    activities = tanh_activities


class DisguisedReLU(ll.DeepReLU):
    activities = tanh_activities


class Renamed(ll.DeepLinear):
    """Changes nothing."""


@pytest.mark.parametrize("of", [Disguised, DisguisedReLU])
def test_a_subclass_with_other_activities_is_refused(of):
    for call in (ll.compare, ll.explain, ll.local_update, ll.global_update):
        with pytest.raises(TypeError, match="takes the downstream maps of its base class"):
            call(of(WEIGHTS), pairs(), RULE)


@pytest.mark.parametrize("of", [Disguised, DisguisedReLU, Tanh])
def test_the_oracle_refuses_activities_that_it_does_not_compute(of):
    with pytest.raises(TypeError, match=f"other activities than {of.__name__} does"):
        autodiff.local_update(of(WEIGHTS), pairs(), RULE)


def test_a_network_of_ones_own_says_that_it_reads_no_module():
    with pytest.raises(TypeError, match="Tanh does not say how it is made of a torch module"):
        Tanh.from_module(torch.nn.Sequential(torch.nn.Linear(5, 3)))


def test_a_network_of_ones_own_is_backpropagated_by_its_derivatives():
    """The global update against the difference quotient of the top layer's loss, B kept fixed."""
    rule, batch, h = rules.PhyLL(), pairs(), 1e-6
    network = Tanh(WEIGHTS)

    def loss(weights):
        z, (forward, backward) = Tanh(weights).activities(batch.samples).z[-1], batch.directions
        c = network.activities(batch.samples).z[-1]
        total = 0.0
        for d in (forward, backward):
            u = np.sum(z[d.anchor] * c[d.reference], axis=1)
            total += rule.loss.value(rule.loss.contrasts(d).apply(u), d)
        return total

    got = ll.global_update(network, batch, rule)
    for l, w in enumerate(WEIGHTS):
        expected = np.zeros_like(w)
        for place in np.ndindex(w.shape):
            step = np.zeros_like(w)
            step[place] = h
            up, down = (
                loss([v + sign * step if k == l else v for k, v in enumerate(WEIGHTS)])
                for sign in (1.0, -1.0)
            )
            expected[place] = -(up - down) / (2.0 * h)
        testing.assert_same_update(got[l], expected, 1e-7)


def test_a_subclass_that_changes_nothing_is_its_base():
    for call in (ll.local_update, autodiff.global_update):
        for got, expected in zip(
            call(Renamed(WEIGHTS), pairs(), RULE),
            call(ll.DeepLinear(WEIGHTS), pairs(), RULE),
            strict=True,
        ):
            np.testing.assert_array_equal(got, expected)
