"""Laws of masked backpropagation, against loops written by hand and against autograd."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from linlocal.analysis.watching import masked_gradients

MODES = ("sample", "batch", "none")
EXACT = {"rtol": 0, "atol": 1e-12}


def sum_of_squares(output):
    return (output - 1.0).square().sum() / len(output)


def mlp(linear=False):
    torch.manual_seed(0)
    between = nn.Identity if linear else nn.ReLU
    return nn.Sequential(
        nn.Linear(5, 7), between(), nn.Linear(7, 6), between(), nn.Linear(6, 4), between(),
        nn.Linear(4, 3),
    ).double()  # fmt: skip


class Residual(nn.Module):
    """Residual connections, BatchNorm, both poolings, an in-place ReLU and a sum in place."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.inner = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.outer = nn.Conv2d(4, 4, 3, padding=1)
        self.shortcut = nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 3)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x):
        x = F.max_pool2d(self.relu(self.stem(x)), 2)
        y = self.outer(F.relu(self.norm(self.inner(x))))
        y += self.shortcut(x)
        y = self.relu(y) + x
        return self.head(F.dropout(F.adaptive_avg_pool2d(y, 1).flatten(1), 0.3, self.training))


def residual():
    torch.manual_seed(1)
    return Residual().double()


def batch(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


CASES = pytest.mark.parametrize(
    ("make", "inputs"),
    [(mlp, batch(8, 5)), (residual, batch(8, 2, 8, 8))],
    ids=["MLP", "residual CNN"],
)


def by_hand(model, x, masks):
    """The recursion of the module's docstring, sample by sample in numpy."""
    layers = [m for m in model if isinstance(m, nn.Linear)]
    weights = [m.weight.detach().numpy() for m in layers]
    activity, masks_of = [x.numpy()], []
    for layer, weight in zip(layers, weights, strict=True):
        a = activity[-1] @ weight.T + layer.bias.detach().numpy()
        top = layer is layers[-1]
        masks_of.append(np.ones_like(a) if top else (a > 0).astype(float))
        activity.append(a if top else a * masks_of[-1])
    error = 2 * (activity[-1] - 1.0) / len(x)
    gradients = {}
    for l in reversed(range(len(weights))):
        mask = masks_of[l]
        name = next(name for name, m in model.named_modules() if m is layers[l])
        gradients[f"{name}.weight"] = sum(
            np.outer(mask[k] * error[k], activity[l][k]) for k in range(len(x))
        )
        gradients[f"{name}.bias"] = sum(mask[k] * error[k] for k in range(len(x)))
        average = sum(mask) / len(x)
        error = np.array([
            weights[l].T @ ({"sample": mask[k], "batch": average, "none": 1.0}[masks] * error[k])
            for k in range(len(x))
        ])  # fmt: skip
    return gradients


@pytest.mark.parametrize("masks", MODES)
def test_the_recursion_written_by_hand_gives_the_same(masks):
    model, x = mlp(), batch(8, 5)
    found, expected = masked_gradients(model, x, sum_of_squares, masks), by_hand(model, x, masks)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        np.testing.assert_allclose(gradient.numpy(), expected[name], **EXACT)


@CASES
def test_masks_of_the_sample_are_backpropagation(make, inputs):
    model = make()
    torch.manual_seed(7)
    found = masked_gradients(model, inputs, sum_of_squares, "sample")
    torch.manual_seed(7)
    sum_of_squares(model(inputs)).backward()
    for name, parameter in model.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found[name], expected, **EXACT)


@CASES
@pytest.mark.parametrize("masks", ["batch", "none"])
def test_other_masks_change_layers_below_and_not_the_last(make, inputs, masks):
    model = make().eval()
    found, exact = (masked_gradients(model, inputs, sum_of_squares, m) for m in (masks, "sample"))
    names = [name for name in found if name != "unused"]
    first, last = names[0], names[-2]
    assert (found[first] - exact[first]).norm() > 0.05 * exact[first].norm()
    torch.testing.assert_close(found[last], exact[last], **EXACT)


@CASES
def test_the_mean_over_one_sample_is_that_sample(make, inputs):
    model = make().eval()
    exact, averaged, removed = (
        masked_gradients(model, inputs[:1], sum_of_squares, masks) for masks in MODES
    )
    for name, gradient in exact.items():
        torch.testing.assert_close(averaged[name], gradient, **EXACT)
    first = next(name for name in exact if name != "unused")
    assert (removed[first] - exact[first]).norm() > 0.05 * exact[first].norm()


def test_without_nonlinearity_there_is_nothing_to_mask():
    model, x = mlp(linear=True), batch(8, 5)
    exact, *others = (masked_gradients(model, x, sum_of_squares, masks) for masks in MODES)
    for other in others:
        for name, gradient in exact.items():
            assert gradient.norm() > 0
            torch.testing.assert_close(other[name], gradient, **EXACT)


@pytest.mark.parametrize("masks", MODES)
def test_the_forward_pass_and_all_state_stay_as_they_were(masks):
    model, x = residual(), batch(8, 2, 8, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    torch.manual_seed(3)
    state = torch.get_rng_state()
    masked_gradients(model, x, lambda out: seen.append(out.detach()) or out.sum(), masks)
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(seen[0], model(x))


def test_frozen_parameters_are_left_out_and_pass_errors_on():
    model, x = mlp(), batch(8, 5)
    everything = masked_gradients(model, x, sum_of_squares)
    model[2].requires_grad_(False)
    rest = masked_gradients(model, x, sum_of_squares)
    assert everything.keys() - rest.keys() == {"2.weight", "2.bias"}
    for name, gradient in rest.items():
        assert torch.equal(gradient, everything[name])


@pytest.mark.parametrize(
    "activation",
    [nn.GELU(), nn.SiLU(), nn.LeakyReLU(), nn.Sigmoid(), nn.Tanh(), nn.Softmax(1), torch.relu_],
)
def test_what_is_no_relu_is_refused_in_the_model_but_not_in_the_loss(activation):
    model = mlp()
    with pytest.raises(ValueError, match="masks of ReLU only"):
        masked_gradients(lambda_module(model, activation), batch(4, 5), sum_of_squares)
    masked_gradients(model, batch(4, 5), lambda out: F.gelu(F.softmax(out, 1)).sum())


def lambda_module(model, activation):
    class Then(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return activation(self.model(x))

    return Then()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match='masks must be "sample"'):
        masked_gradients(mlp(), batch(4, 5), sum_of_squares, "mean")
    with pytest.raises(ValueError, match=r"a scalar, got shape \(4, 3\)"):
        masked_gradients(mlp(), batch(4, 5), lambda out: out)
