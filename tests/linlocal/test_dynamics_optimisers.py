"""Optimisers against torch, and which equalities of gradients survive them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import linlocal as ll
from linlocal import dynamics, rules, testing
from linlocal.dynamics import SGD, Adam, Clipped, Momentum, Sign, compare_steps
from linlocal.rules import Penalty

PAIRS = ll.Pairs.from_views(*(3 * x for x in testing.samples(16, 5, 0)))
NETWORK = ll.DeepLinear.uniform([5, 4, 6, 5], 0)
EXACT = 1e-11

BY_LAYER = {
    "SGD": SGD(0.05),
    "momentum": Momentum(0.05, 0.9),
    "Adam": Adam(0.01),
    "Adam, epsilon 0": Adam(0.01, epsilon=0),
    "sign": Sign(0.01),
    "clipped by layer": Clipped(Momentum(0.05), 0.05, "layer"),
}
COUPLED = {"clipped by all": Clipped(SGD(0.05), 0.05, "all")}

# Equal updates for any weights (statement 4), and multiples of them if each layer has a penalty of
# its own: for a linear score B_l, and so the update, is inversely proportional to lam_l.
EQUAL = rules.CLAPP("softplus", penalty=Penalty(0.1, "downstream"))
PROPORTIONAL = rules.CLAPP("linear", penalty=Penalty((0.05, 0.4, 0.1), "downstream"))


def torch_optimiser(ours, parameters):
    inner = ours.inner if isinstance(ours, Clipped) else ours
    if isinstance(inner, Adam):
        betas = (inner.beta_1, inner.beta_2)
        return torch.optim.Adam(parameters, inner.rate, betas, inner.epsilon)
    beta = inner.beta if isinstance(inner, Momentum) else 0.0
    return torch.optim.SGD(parameters, inner.rate, momentum=beta)


@pytest.mark.parametrize(
    "optimiser",
    [
        SGD(0.3),
        Momentum(0.1, 0.7),
        Adam(0.01, 0.8, 0.95, 1e-6),
        Clipped(Momentum(0.1), 2.0, "layer"),
        Clipped(Adam(0.01), 2.0, "all"),
    ],
    ids=repr,
)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0.01, 10))
def test_steps_are_those_of_torch(optimiser, seed, scale):
    rng, memory = np.random.default_rng(seed), None
    shapes = [(3, 2), (4, 3)]
    ours = [rng.standard_normal(s) for s in shapes]
    theirs = [torch.tensor(w, requires_grad=True) for w in ours]
    torchs = torch_optimiser(optimiser, theirs)
    for _ in range(5):
        updates = [scale * rng.standard_normal(s) for s in shapes]
        for weight, update in zip(theirs, updates, strict=True):
            weight.grad = torch.tensor(-update)
        if isinstance(optimiser, Clipped):
            groups = [theirs] if optimiser.scope == "all" else [[w] for w in theirs]
            for group in groups:
                torch.nn.utils.clip_grad_norm_(group, optimiser.norm)
        torchs.step()
        steps, memory = optimiser.step(updates, memory)
        ours = [w + s for w, s in zip(ours, steps, strict=True)]
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("optimiser", [*BY_LAYER.values(), *COUPLED.values()], ids=repr)
def test_equal_updates_stay_equal_under_every_optimiser(optimiser):
    found = compare_steps(NETWORK, PAIRS, EQUAL, optimiser, steps=8)
    # Signs and quotients of entries near 0 magnify rounding.
    allowed = 1e-6 if isinstance(optimiser, Sign | Adam) else EXACT
    for name in ("update_error", "step_error", "weight_error"):
        assert float(found[name].max()) < allowed
    plain = rules.CLAPP("softplus", penalty=0.1)
    broken = compare_steps(NETWORK, PAIRS, plain, optimiser, steps=8)
    assert float(broken.step_error.sel(layer=[1, 2]).min()) > 0.01
    assert float(broken.weight_error.isel(step=-1).max()) > 1e-3


@pytest.mark.parametrize("optimiser", BY_LAYER.values(), ids=BY_LAYER.keys())
def test_proportional_updates_are_equalised_by_what_ignores_their_scale_only(optimiser):
    found = compare_steps(NETWORK, PAIRS, PROPORTIONAL, optimiser, steps=1).isel(step=0)
    assert float(found.update_cosine.min()) > 1 - 1e-12
    assert float(found.update_error.sel(layer=[1, 2]).min()) > 0.1
    if isinstance(optimiser, Sign) or optimiser == Adam(0.01, epsilon=0):
        assert float(found.step_error.max()) < 1e-9
    elif isinstance(optimiser, Adam):
        # Where a gradient is no larger than epsilon, its scale counts.
        assert 1e-9 < float(found.step_error.max()) < 0.01
    elif isinstance(optimiser, Clipped):
        # Both updates of a layer have the norm to which they are clipped, up to the 1e-6 in it.
        assert float(found.step_error.max()) < 1e-3
    else:
        assert float(found.step_cosine.min()) > 1 - 1e-12
        assert float(found.step_error.sel(layer=[1, 2]).min()) > 0.1


def test_adam_keeps_proportional_updates_equal_for_a_whole_training_only_without_epsilon():
    """Once the weights are equal the updates are proportional again, and so on."""
    found = compare_steps(NETWORK, PAIRS, PROPORTIONAL, Adam(0.01, epsilon=0), steps=30)
    assert float(found.weight_error.max()) < 1e-8
    assert float(found.update_error.sel(layer=[1, 2]).min()) > 0.1
    coarse = compare_steps(NETWORK, PAIRS, PROPORTIONAL, Adam(0.01, epsilon=0.1), steps=30)
    assert float(coarse.weight_error.isel(step=-1).max()) > 1e-3
    plain = compare_steps(NETWORK, PAIRS, PROPORTIONAL, SGD(0.001), steps=30)
    assert float(plain.weight_error.isel(step=-1).max()) > 1e-3


def test_a_conformal_network_is_equalised_by_adam_at_first_and_left_by_training():
    """Linear scores with direct feedback: local and global differ by a factor a^(L-l)."""
    network, rule = ll.DeepLinear.conformal([5, 5, 5, 5], 1.5, 0), rules.CLAPP_DFB("linear")
    adam = compare_steps(network, PAIRS, rule, Adam(0.01, epsilon=0), steps=20)
    plain = compare_steps(network, PAIRS, rule, SGD(1e-6), steps=1)
    assert float(adam.step_error.isel(step=0).max()) < 1e-8
    assert float(plain.step_error.isel(step=0).sel(layer=1)) > 0.1
    assert float(adam.update_cosine.isel(step=0).min()) > 1 - 1e-12
    # The steps leave the conformal maps: what the optimiser mends is gone with the hypothesis.
    assert float(adam.update_cosine.isel(step=-1).sel(layer=1)) < 1 - 1e-6


def test_isometric_weights_make_equal_updates_and_equal_first_steps_only():
    """Statement 11: the hypothesis of statement 2 does not survive a step, whatever makes it."""
    network, rule = ll.DeepLinear.orthogonal([5, 5, 5], 0), rules.CLAPP("softplus", penalty=0.1)
    for optimiser in (SGD(0.05), Momentum(0.05)):
        found = compare_steps(network, PAIRS, rule, optimiser, steps=5)
        assert float(found.step_error.isel(step=0).max()) < EXACT
        assert float(found.weight_error.isel(step=0).max()) < EXACT
        assert float(found.step_error.isel(step=-1).sel(layer=1)) > 1e-3


def test_the_norm_of_all_layers_carries_a_difference_into_layers_that_have_none():
    rule = rules.CLAPP("softplus", penalty=0.1)
    for scope, layers_above in (("layer", 0.0), ("all", 1e-2)):
        clipped = Clipped(SGD(0.05), 0.05, scope)
        found = compare_steps(NETWORK, PAIRS, rule, clipped, steps=1).isel(step=0)
        # In the top layer local and global update are one.
        assert float(found.update_error.sel(layer=3)) == 0.0
        top = float(found.step_error.sel(layer=3))
        assert top == 0.0 if layers_above == 0.0 else top > layers_above


def test_preconditioning_by_the_metric_makes_linear_feedback_equal_all_along():
    network, rule = ll.DeepLinear.with_condition_number([5] * 4, 10.0, 0), rules.CLAPP_DFB("linear")
    options = {"steps": 10}
    optimiser = Momentum(1e-7)
    equal = compare_steps(network, PAIRS, rule, optimiser, against="preconditioned", **options)
    plain = compare_steps(network, PAIRS, rule, optimiser, **options)
    assert float(equal.step_error.max()) < 1e-8
    assert float(plain.step_error.sel(layer=1).min()) > 0.1
    # From moments the same.
    moments = dynamics.Moments.of_batch(PAIRS)
    same = compare_steps(network, moments, rule, optimiser, **options)
    np.testing.assert_allclose(same.weight_error, plain.weight_error, atol=1e-10)


def test_a_nonlinear_network_is_compared_on_pairs():
    network, rule = ll.DeepReLU.uniform([5, 6, 6], 0), rules.CLAPP("softplus")
    found = compare_steps(network, PAIRS, rule, Adam(0.01), steps=3)
    assert found.sizes == {"step": 3, "layer": 2}
    assert found.layer.values.tolist() == [1, 2]
    assert float(found.step_error.sel(layer=1, step=1)) > 0.01


def test_an_optimiser_of_ones_own_is_used():
    class Half:
        def step(self, updates, memory=None):
            return [0.5 * u for u in updates], None

    ours, theirs = (
        compare_steps(NETWORK, PAIRS, EQUAL, each, steps=2) for each in (Half(), SGD(0.5))
    )
    np.testing.assert_array_equal(ours.weight_cosine, theirs.weight_cosine)


def test_a_zero_update_has_no_cosine_and_stays_under_adam():
    steps, _ = Adam(0.1, epsilon=0).step([np.zeros((2, 2))])
    np.testing.assert_array_equal(steps[0], 0.0)
    dead = ll.DeepLinear([np.zeros((4, 5)), np.eye(4)])
    found = compare_steps(dead, PAIRS, rules.Whitening(), SGD(0.1), steps=1)
    assert found.update_cosine.isnull().all()
    assert found.update_error.isnull().all()


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda: SGD(0.0), ValueError, "rate must be positive"),
        (lambda: Momentum(0.1, 1.0), ValueError, "beta must be below 1"),
        (lambda: Adam(beta_2=1.5), ValueError, "beta_2 must be in 0..1"),
        (lambda: Adam(epsilon=-1e-8), ValueError, "epsilon must not be negative"),
        (lambda: Clipped(SGD(0.1), 0.0), ValueError, "norm must be positive"),
        (lambda: Clipped(SGD(0.1), 1.0, "network"), ValueError, "scope must be"),
        (lambda: Clipped(0.1), TypeError, "inner must be"),
        (
            lambda: compare_steps(NETWORK, PAIRS, EQUAL, 0.1, steps=1),
            TypeError,
            "optimiser must be",
        ),
        (
            lambda: compare_steps(NETWORK, PAIRS, EQUAL, SGD(0.1), steps=0),
            ValueError,
            "steps must be at least 1",
        ),
        (
            lambda: compare_steps(NETWORK, PAIRS, EQUAL, SGD(0.1), steps=1, against="local"),
            ValueError,
            "against must be",
        ),
        (
            lambda: compare_steps(NETWORK, PAIRS, EQUAL, SGD(1e308), steps=9),
            ArithmeticError,
            "smaller rate",
        ),
    ],
)
def test_bad_input_is_refused_in_words(ask, error, words):
    with pytest.raises(error) as refused:
        ask()
    assert words in str(refused.value)
