"""Networks: constructors keep their promises, passes are those of torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

import linlocal as ll
from linlocal import testing
from linlocal.networks import nearest_isometry

X = testing.samples(7, 6, 0)[0]


@settings(max_examples=50)
@given(network=testing.networks())
def test_downstream_maps_and_gram_matrices(network):
    v = np.eye(network.widths[-1])
    for l in reversed(network.layers):
        scale = max(1.0, np.abs(v).max())
        np.testing.assert_allclose(network.downstream(l), v, atol=1e-12 * scale)
        np.testing.assert_allclose(network.gram(l), v.T @ v, atol=1e-12 * scale**2)
        v = v @ network.matrix(l)
    x = np.eye(network.widths[0])
    np.testing.assert_allclose(
        network.activities(x).z[-1], v.T, atol=1e-12 * max(1.0, np.abs(v).max())
    )


@pytest.mark.parametrize("cls", [ll.DeepLinear, ll.DeepReLU])
def test_forward_backward_and_jacobian_are_those_of_autograd(cls):
    network = cls.gaussian([6, 8, 7, 5], 1)
    activities = network.activities(X)
    error = np.random.default_rng(0).standard_normal((7, 5))
    errors = network.backpropagate(activities, error)
    hidden = [torch.tensor(X)]
    weights = [torch.tensor(w, requires_grad=True) for w in network.weights]
    for w in weights:
        drive = hidden[-1] @ w.T
        hidden.append(drive if network.is_linear else torch.relu(drive))
    for got, expected in zip(activities.z, hidden, strict=True):
        np.testing.assert_allclose(got, expected.detach(), atol=1e-14)
    total = (hidden[-1] * torch.tensor(error)).sum()
    by_hidden = torch.autograd.grad(total, hidden[1:], retain_graph=True)
    by_weight = torch.autograd.grad(total, weights)
    for l in network.layers:
        np.testing.assert_allclose(errors[l - 1], by_hidden[l - 1], atol=1e-13)
        update = network.update(l, activities, errors[l - 1])
        np.testing.assert_allclose(update, by_weight[l - 1], atol=1e-13)
        jacobian = network.downstream(l) if network.is_linear else network.downstream(l, X)
        expected = error[:, None, :] @ jacobian
        np.testing.assert_allclose(errors[l - 1], expected[:, 0], atol=1e-13)


def test_a_shorter_network_is_what_lies_below_a_layer_in_the_middle():
    for cls in (ll.DeepLinear, ll.DeepReLU):
        network = cls.gaussian([6, 8, 7, 5, 4], 1)
        cut = network.with_weights(network.weights[:3])
        error = np.random.default_rng(0).standard_normal((7, 5))
        whole = network.backpropagate(network.activities(X), error, source=3)
        expected = cut.backpropagate(cut.activities(X), error)
        assert len(whole) == 3
        for got, wanted in zip(whole, expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    linear, short = (ll.DeepLinear(n.weights) for n in (network, cut))
    for l in (1, 2, 3):
        np.testing.assert_array_equal(linear.downstream(l, 3), short.downstream(l))
        np.testing.assert_array_equal(linear.gram(l, 3), short.gram(l))
    with pytest.raises(ValueError, match="not downstream"):
        linear.downstream(3, 2)


def test_relu_jacobians_differ_between_samples_and_masks_are_theirs():
    network = ll.DeepReLU.gaussian([6, 8, 7, 5], 1)
    jacobian = network.downstream(1, X)
    assert np.abs(jacobian - jacobian[0]).max() > 0.1
    masks = network.activities(X).masks
    for l in network.layers:
        np.testing.assert_array_equal(masks[l], network.activities(X).z[l] > 0)


# -- constructors ----------------------------------------------------------------------------------

CONSTRUCTORS = {
    "orthogonal": lambda sizes, seed: ll.DeepLinear.orthogonal(sizes, seed),
    "uniform": lambda sizes, seed: ll.DeepLinear.uniform(sizes, seed),
    "gaussian": lambda sizes, seed: ll.DeepLinear.gaussian(sizes, seed),
    "conformal": lambda sizes, seed: ll.DeepLinear.conformal(sizes, 1.5, seed),
    "conditioned": lambda sizes, seed: ll.DeepLinear.with_condition_number(sizes, 9.0, seed),
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors_repeat_with_their_seed(name):
    build = CONSTRUCTORS[name]
    first, again, other = (build([6, 8, 3], seed) for seed in (0, 0, 1))
    assert first.widths == (6, 8, 3)
    for l in first.layers:
        np.testing.assert_array_equal(first.matrix(l), again.matrix(l))
        assert np.abs(first.matrix(l) - other.matrix(l)).max() > 0.01


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_orthogonal_and_conformal_weights(scale):
    network = ll.DeepLinear.conformal([6, 8, 3, 3], scale, 0)
    for l in network.layers:
        s = np.linalg.svd(network.matrix(l), compute_uv=False)
        np.testing.assert_allclose(s, scale, rtol=1e-13)


def test_orthogonal_weights_are_haar():
    """The sign of QR is fixed: the mean over many draws vanishes, the mean square is 1/n."""
    draws = np.array([ll.DeepLinear.orthogonal([3, 3], s).matrix(1) for s in range(2000)])
    np.testing.assert_allclose(draws.mean(axis=0), 0.0, atol=0.06)
    np.testing.assert_allclose((draws**2).mean(axis=0), 1 / 3, atol=0.03)


def test_scales_of_random_weights():
    wide = [300, 200]
    uniform = ll.DeepLinear.uniform(wide, 0).matrix(1)
    assert np.abs(uniform).max() <= 1 / np.sqrt(300)
    assert uniform.var() == pytest.approx(1 / 900, rel=0.03)
    assert ll.DeepLinear.gaussian(wide, 0).matrix(1).var() == pytest.approx(1 / 300, rel=0.03)


@settings(max_examples=50)
@given(
    sizes=testing.widths((2, 12), (2, 8)),
    condition_number=st.floats(1.0, 1e6),
    seed=st.integers(0, 99),
)
def test_condition_number_is_that_of_the_nonzero_spectrum(sizes, condition_number, seed):
    network = ll.DeepLinear.with_condition_number(sizes, condition_number, seed)
    s = np.linalg.svd(network.downstream(1), compute_uv=False)
    kept = min(sizes[1:])
    assert s[0] / s[kept - 1] == pytest.approx(condition_number, rel=1e-6)
    assert s[0] * s[kept - 1] == pytest.approx(1.0, rel=1e-6)
    assert np.abs(s[kept:]).max(initial=0.0) <= 1e-12 * s[0]
    first = np.linalg.svd(network.matrix(1), compute_uv=False)
    np.testing.assert_allclose(first, 1.0, rtol=1e-12)


def test_isometric_replaces_all_weights_but_the_first():
    network = ll.DeepLinear.gaussian([6, 4, 5, 7], 0)
    rigid = network.isometric()
    np.testing.assert_array_equal(rigid.matrix(1), network.matrix(1))
    for l in rigid.layers:
        np.testing.assert_allclose(rigid.gram(l), np.eye(rigid.widths[l]), atol=1e-13)


def test_the_nearest_isometry_is_the_nearest():
    w = ll.DeepLinear.gaussian([4, 6], 0).matrix(1)
    nearest = nearest_isometry(w)
    np.testing.assert_allclose(nearest.T @ nearest, np.eye(4), atol=1e-14)
    for seed in range(50):
        other = ll.DeepLinear.orthogonal([4, 6], seed).matrix(1)
        assert np.linalg.norm(w - other) > np.linalg.norm(w - nearest)
    # A stationary point: W^T Q is symmetric.
    np.testing.assert_allclose(w.T @ nearest, nearest.T @ w, atol=1e-14)


def test_with_weights_keeps_the_kind():
    network = ll.DeepReLU.gaussian([3, 4], 0)
    assert isinstance(network.with_weights([np.eye(3)]), ll.DeepReLU)
    assert repr(network) == "DeepReLU(3 -> 4)"


def test_weights_are_frozen_copies():
    w = np.eye(3)
    network = ll.DeepLinear([w])
    w[:] = 0
    np.testing.assert_array_equal(network.matrix(1), np.eye(3))
    with pytest.raises(ValueError, match="read-only"):
        network.matrix(1)[0, 0] = 5
    with pytest.raises(ValueError, match="read-only"):
        network.gram(1)[0, 0] = 5


# -- from_module -----------------------------------------------------------------------------------


def modules():
    torch.manual_seed(0)
    nn = torch.nn
    return {
        "linear": (nn.Sequential(nn.Linear(6, 5, bias=False), nn.Linear(5, 3, bias=False)), None),
        "nested": (
            nn.Sequential(
                nn.Identity(),
                nn.Sequential(nn.Linear(6, 5, bias=False), nn.Dropout()),
                nn.Linear(5, 3, bias=False),
            ),
            None,
        ),
        "single": (nn.Linear(6, 5, bias=False), None),
        "convolution": (
            nn.Sequential(
                nn.Conv2d(2, 4, 3, padding=1, bias=False),
                nn.Conv2d(4, 4, (3, 2), stride=2, dilation=(1, 2), groups=2, bias=False),
                nn.Flatten(),
                nn.Linear(4 * 2 * 2, 3, bias=False),
            ),
            (2, 5, 6),
        ),
    }


@pytest.mark.parametrize("name", modules())
def test_from_module_computes_what_torch_computes(name):
    module, shape = modules()[name]
    module = module.double().eval()
    network = ll.DeepLinear.from_module(module, shape)
    x = np.random.default_rng(0).standard_normal((4, *(shape or (6,))))
    expected = module(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(network.activities(x.reshape(4, -1)).z[-1], expected, atol=1e-13)


def test_from_module_with_relu():
    nn = torch.nn
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(2, 3, 2, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, 5, bias=False),
        nn.ReLU(),
    ).double()
    network = ll.DeepReLU.from_module(module, (2, 3, 3))
    assert network.map_shape(1) == (3, 2, 2)
    assert network.map_shape(2) is None
    x = np.random.default_rng(0).standard_normal((4, 2, 3, 3))
    expected = module(torch.tensor(x)).detach().numpy()
    assert (expected > 0).any()
    np.testing.assert_allclose(network.activities(x.reshape(4, -1)).z[-1], expected, atol=1e-13)


NONLINEAR = {
    "relu, bias, linear readout": (
        lambda nn: [nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)],
        "DeepNonlinear(6 -> 5 -> 4 -> 3, relu, linear readout, biases)",
    ),
    "leaky relu": (
        lambda nn: [nn.Linear(6, 5, bias=False), nn.LeakyReLU(0.3)],
        "DeepNonlinear(6 -> 5, LeakyReLU(negative_slope=0.3))",
    ),
    "tanh": (
        lambda nn: [nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3, bias=False), nn.Tanh()],
        "DeepNonlinear(6 -> 5 -> 3, tanh, biases)",
    ),
    "gelu": (
        lambda nn: [nn.Linear(6, 5, bias=False), nn.GELU(), nn.Dropout(), nn.Linear(5, 3)],
        "DeepNonlinear(6 -> 5 -> 3, gelu, linear readout, biases)",
    ),
}


@pytest.mark.parametrize("name", NONLINEAR)
def test_from_module_with_any_nonlinearity(name):
    layers, words = NONLINEAR[name]
    torch.manual_seed(0)
    module = torch.nn.Sequential(*layers(torch.nn)).double().eval()
    network = ll.DeepNonlinear.from_module(module)
    assert repr(network) == words
    expected = module(torch.tensor(X)).detach().numpy()
    np.testing.assert_allclose(network.activities(X).z[-1], expected, atol=1e-13)


def test_from_module_with_a_convolution_that_has_a_bias_and_links():
    torch.manual_seed(0)
    branches = [torch.nn.Conv2d(2, 2, 3, padding=1) for _ in range(3)]
    module = torch.nn.Sequential(*branches).double()
    network = ll.DeepLinear.from_module(module, (2, 3, 3), links={2: [1], 3: {2: 0.5, 0: 1.0}})
    x = torch.tensor(np.random.default_rng(0).standard_normal((4, 2, 3, 3)))
    first = branches[0](x)
    second = first + branches[1](first)
    third = branches[2](second) + 0.5 * second + x
    found = network.activities(x.flatten(1).numpy()).z[-1]
    np.testing.assert_allclose(found, third.detach().flatten(1), atol=1e-13)


@pytest.mark.parametrize("build", ["orthogonal", "uniform", "gaussian"])
def test_links_and_biases_do_not_change_the_weights_that_a_seed_draws(build):
    plain = getattr(ll.DeepLinear, build)([6, 5, 5, 5], 3)
    full = getattr(ll.DeepLinear, build)([6, 5, 5, 5], 3, "residual", 0.5)
    for a, b in zip(plain.weights, full.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert full.links == {2: {1: 1.0}, 3: {2: 1.0}}
    assert not plain.links
    assert not plain.has_biases
    assert [b.shape for b in full.biases] == [(5,)] * 3
    drawn = getattr(ll.DeepLinear, build)([6, 5000], 3, bias_std=0.5).biases[0]
    assert drawn.std() == pytest.approx(0.5, rel=0.05)


def test_a_step_keeps_biases_links_and_nonlinearity():
    network = ll.DeepLinear.uniform([6, 5, 5], 1, "residual", 0.5).with_activation("tanh", "linear")
    moved = network.with_weights(network.weights, [2.0 * b for b in network.biases])
    for net in (network.with_weights(network.weights), moved):
        assert (repr(net), net.links, net.activation) == (
            repr(network),
            network.links,
            network.activation,
        )
    np.testing.assert_array_equal(moved.biases[1], 2.0 * network.biases[1])
    cut = network.with_weights(network.weights[:1])
    assert repr(cut) == "DeepNonlinear(6 -> 5, tanh, linear readout, biases)"


REPRS = {
    "DeepLinear(4 -> 4 -> 4, residual)": ([4, 4, 4], "residual"),
    "DeepLinear(4 -> 4 -> 4, links 0 -> 2, 0.5 * 1 -> 2)": ([4, 4, 4], {2: {0: 1.0, 1: 0.5}}),
    "DeepLinear(4 -> 4 -> 4 -> 4 -> 4 -> 4, 7 links)": (
        [4] * 6,
        {3: [0, 1], 4: [0, 1, 2], 5: [0, 1]},
    ),
    "DeepLinear(4 -> 3)": ([4, 3], "residual"),
}


@pytest.mark.parametrize("words", REPRS)
def test_repr_names_links(words):
    widths, links = REPRS[words]
    assert repr(ll.DeepLinear.uniform(widths, links=links)) == words


def test_networks_that_are_compared_differ_in_nothing_else():
    """One seed: the same weights with and without ReLU, at any scale and condition number."""
    sizes = [5, 4, 4, 4]
    plain = ll.DeepLinear.orthogonal(sizes, seed=3)
    for a, b, c in zip(
        plain.weights,
        ll.DeepReLU.orthogonal(sizes, seed=3).weights,
        ll.DeepLinear.conformal(sizes, 4.0, seed=3).weights,
        strict=True,
    ):
        assert (a == b).all()
        assert (4.0 * a == c).all()
    near, far = (ll.DeepLinear.with_condition_number(sizes, k, seed=3) for k in (2.0, 1e4))
    assert (near.matrix(1) == far.matrix(1)).all()
    for l in (2, 3):
        for side in (0, 2):
            a, b = (np.linalg.svd(net.matrix(l), full_matrices=False)[side] for net in (near, far))
            overlap = np.abs(np.sum(a * b, axis=1 if side else 0))
            np.testing.assert_allclose(overlap, 1.0, rtol=0, atol=1e-10)
