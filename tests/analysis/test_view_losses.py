"""The view losses in torch are those of the theory: same values, same gradients."""

import numpy as np
import pytest
import torch

from linlocal import losses
from linlocal.analysis.local_losses import view_losses

OPTIONS = {
    "NTXent": {"temperature": 0.3},
    "SpectralContrastive": {},
    "Whitening": {"weight": 0.7},
    "LogDet": {"weight": 0.2, "epsilon": 0.3},
    "VICReg": {
        "invariance": 2.0,
        "variance": 3.0,
        "covariance": 0.5,
        "target_std": 1.2,
        "epsilon": 1e-3,
    },
    "BarlowTwins": {"weight": 0.1, "epsilon": 1e-3},
    "LPL": {"predictive": 0.5, "hebbian": 2.0, "decorrelation": 3.0, "epsilon": 1e-3},
}


def views(samples=7, width=5, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((samples, width))
    return x, x + 0.5 * rng.standard_normal((samples, width))


def value_and_gradients(loss, x, view):
    first, second = (torch.tensor(a, requires_grad=True) for a in (x, view))
    value = loss(first, second)
    return value.item(), [g.numpy() for g in torch.autograd.grad(value, [first, second])]


def assert_close(got, expected):
    # The absolute part is for gradients that are 0, as that of a cosine of one feature.
    error = np.linalg.norm(got - expected)
    assert error <= 1e-10 * np.linalg.norm(expected) + 1e-14


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6), (4, 1), (2, 30)])
@pytest.mark.parametrize("name", OPTIONS)
def test_values_and_gradients_are_those_of_the_theory(name, shape):
    x, view = views(*shape)
    for options in ({}, OPTIONS[name]):
        theory = getattr(losses, name)(**options)
        value, gradients = value_and_gradients(getattr(view_losses, name)(**options), 0.9 * x, view)
        assert value == pytest.approx(theory.value(0.9 * x, view), rel=1e-10)
        for got, expected in zip(gradients, theory.gradients(0.9 * x, view), strict=True):
            assert_close(got, expected)


@pytest.mark.parametrize("name", [n for n in OPTIONS if n != "SpectralContrastive"])
def test_every_option_matters(name):
    x, view = views()
    plain = getattr(view_losses, name)()
    for option, value in OPTIONS[name].items():
        changed = getattr(view_losses, name)(**{option: value})
        assert value_and_gradients(changed, x, view)[0] != value_and_gradients(plain, x, view)[0]


def test_a_dead_sample_has_no_gradient_in_ntxent():
    x, view = views()
    x[2] = 0.0
    value, (by_first, _) = value_and_gradients(view_losses.NTXent(), x, view)
    assert np.isfinite(value)
    assert (by_first[2] == 0).all()
    assert_close(by_first, losses.NTXent().gradients(x, view)[0])


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised_to_float32_inside_autocast_too(name, dtype):
    x, view = (torch.tensor(10 * a, dtype=dtype) for a in views(12, 8))
    loss = getattr(view_losses, name)()
    expected = loss(x.double(), view.double()).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(x, view)
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
def test_errors_say_what_came(name):
    loss, (x, view) = getattr(view_losses, name)(), map(torch.tensor, views())
    with pytest.raises(ValueError, match=r"same shape .* got \(7, 5\) and \(6, 5\)"):
        loss(x, view[:6])
    with pytest.raises(ValueError, match=r"pool or flatten"):
        loss(x[..., None], view[..., None])
    with pytest.raises(ValueError, match=rf"{name} compares .* got 1; .*drop_last"):
        loss(x[:1], view[:1])


@pytest.mark.parametrize("option", ["temperature", "epsilon"])
def test_a_scale_must_be_positive(option):
    for name, options in OPTIONS.items():
        if option in options:
            with pytest.raises(ValueError, match=f"{option} must be positive"):
                getattr(view_losses, name)(**{option: 0.0})
