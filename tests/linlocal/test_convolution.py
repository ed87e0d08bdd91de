"""Convolutions and pooling are the matrices that torch applies."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import linlocal as ll
from linlocal import rules
from linlocal.autodiff import view_formula
from linlocal.networks import Convolution, average_pooling

CASES = {
    "plain": {},
    "stride": {"stride": (2, 1)},
    "padding": {"padding": (1, 2)},
    "dilation": {"dilation": (2, 1), "padding": (1, 1)},
    "groups": {"groups": 2},
    "depthwise": {"groups": 4},
    "all": {"stride": (2, 3), "padding": (2, 1), "dilation": (1, 2), "groups": 2},
}


def convolution(case, kernel_size=(3, 2), seed=0):
    rng, options = np.random.default_rng(seed), CASES[case]
    shape = (8, 4 // options.get("groups", 1), *kernel_size)
    return Convolution(rng.standard_normal(shape), (4, 6, 7), **options)


@pytest.mark.parametrize("kernel_size", [(3, 2), (1, 1), (2, 3)])
@pytest.mark.parametrize("case", CASES)
def test_matrix_is_conv2d(case, kernel_size):
    c = convolution(case, kernel_size)
    x = np.random.default_rng(1).standard_normal((5, 4, 6, 7))
    expected = F.conv2d(torch.tensor(x), torch.tensor(c.kernel), **CASES[case])
    assert c.output_shape == tuple(expected.shape[1:])
    np.testing.assert_allclose(x.reshape(5, -1) @ c.matrix.T, expected.flatten(1), atol=1e-13)


@pytest.mark.parametrize("case", CASES)
def test_kernel_gradient_is_the_adjoint_of_kernel_to_matrix(case):
    c = convolution(case)
    rng = np.random.default_rng(2)
    kernel, gradient = rng.standard_normal(c.kernel.shape), rng.standard_normal(c.matrix.shape)
    other = Convolution(kernel, c.input_shape, **CASES[case])
    expected = np.sum(other.matrix * gradient)
    assert np.sum(kernel * c.kernel_gradient(gradient)) == pytest.approx(expected, rel=1e-11)
    assert c.kernel_gradient(gradient).shape == c.kernel.shape


@pytest.mark.parametrize("case", CASES)
def test_kernel_gradient_is_that_of_autograd(case):
    c = convolution(case)
    rng = np.random.default_rng(3)
    x, error = rng.standard_normal((5, 4, 6, 7)), rng.standard_normal((5, len(c.matrix)))
    kernel = torch.tensor(c.kernel, requires_grad=True)
    out = F.conv2d(torch.tensor(x), kernel, **CASES[case]).flatten(1)
    (expected,) = torch.autograd.grad((out * torch.tensor(error)).sum(), kernel)
    got = c.kernel_gradient(error.T @ x.reshape(5, -1))
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_average_pooling_is_avg_pool2d(size):
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 7))
    expected = F.avg_pool2d(torch.tensor(x), size).flatten(1)
    got = x.reshape(4, -1) @ average_pooling((3, 5, 7), size).T
    np.testing.assert_allclose(got, expected, atol=1e-14)


def test_pooling_by_one_is_the_identity():
    np.testing.assert_array_equal(average_pooling((2, 3, 4), 1), np.eye(24))


def test_a_kernel_is_a_read_only_copy():
    kernel = np.ones((1, 1, 1, 1))
    c = Convolution(kernel, (1, 2, 2))
    kernel[:] = 7
    np.testing.assert_array_equal(c.matrix, np.eye(4))
    with pytest.raises(ValueError, match="read-only"):
        c.kernel[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        c.matrix[0] = 0


# -- steps -----------------------------------------------------------------------------------------


def test_a_step_of_training_is_that_of_torch():
    """Three steps of gradient descent on Whitening behind two convolutions and a matrix."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
        torch.nn.Conv2d(4, 2, (2, 1), groups=2, bias=False),
        torch.nn.Flatten(),
        torch.nn.Linear(2 * 2 * 3, 3, bias=False),
    ).double()
    rng, rate, rule = np.random.default_rng(0), 0.05, rules.Whitening()
    x = rng.standard_normal((6, 2, 5, 6))
    view = x + 0.3 * rng.standard_normal(x.shape)
    network = ll.DeepLinear.from_module(model, (2, 5, 6))
    pairs = ll.Pairs.from_views(x.reshape(6, -1), view.reshape(6, -1))
    optimiser = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(3):
        updates = ll.global_update(network, pairs, rule)
        network = network.with_weights(
            [w + rate * u for w, u in zip(network.weights, updates, strict=True)]
        )
        optimiser.zero_grad()
        view_formula(rule.loss)(model(torch.tensor(x)), model(torch.tensor(view))).backward()
        optimiser.step()
        trained = ll.DeepLinear.from_module(model, (2, 5, 6))
        for mine, theirs in zip(network.weights, trained.weights, strict=True):
            assert type(mine) is type(theirs)
            mine, theirs = (getattr(w, "kernel", w) for w in (mine, theirs))
            np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-14)
    assert np.linalg.norm(updates[0]) > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_sums_and_multiples_are_those_of_the_kernel_and_of_the_matrix(case):
    c = convolution(case)
    u = np.random.default_rng(4).standard_normal(c.kernel.shape)
    change = c._with(u).matrix
    for got, kernel, matrix in (
        (c + u, c.kernel + u, c.matrix + change),
        (u + c, u + c.kernel, change + c.matrix),
        (c - u, c.kernel - u, c.matrix - change),
        (0.5 * c, 0.5 * c.kernel, 0.5 * c.matrix),
        (c * np.float64(0.5), 0.5 * c.kernel, 0.5 * c.matrix),
        (np.float64(0.5) * c, 0.5 * c.kernel, 0.5 * c.matrix),
        (c + torch.tensor(u), c.kernel + u, c.matrix + change),
        (torch.tensor(u) + c, c.kernel + u, c.matrix + change),
    ):
        np.testing.assert_array_equal(got.kernel, kernel)
        np.testing.assert_array_equal(got.matrix, matrix)
        assert (got.stride, got.padding, got.groups) == (c.stride, c.padding, c.groups)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (1.0, ValueError, r"has the shape of its kernel \(8, 4, 3, 2\).*got shape \(\)"),
        (np.ones((3, 2)), ValueError, r"got shape \(3, 2\)"),
        (np.ones((8, 4, 3, 2)) * 1j, TypeError, "must hold real numbers"),
        (convolution("plain"), TypeError, "got another convolution; add its kernel"),
    ],
)
def test_what_fits_no_kernel_is_not_added(change, error, words):
    for sum_ in (lambda c: c + change, lambda c: c - change):
        with pytest.raises(error, match=words):
            sum_(convolution("plain"))


def test_a_convolution_is_multiplied_by_numbers_alone():
    for factor in (np.ones((8, 4, 3, 2)), "2", np.nan):
        with pytest.raises((TypeError, ValueError), match="the factor of a convolution must be"):
            convolution("plain") * factor
