"""Laws of the hierarchical networks: what each feedback sends down, against numpy and autograd."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from linlocal.analysis.hierarchy import Feedback, HierarchicalNet

V, CLASSES, D, WIDTH = 5, 3, 8, 7
BACKPROPAGATION = Feedback()


def network(feedback=BACKPROPAGATION, sharing="convolutional", normalise=False, sizes=(2, 2, 1, 2)):
    net = HierarchicalNet(
        V, sizes, WIDTH, CLASSES, D, sharing=sharing, normalise=normalise, feedback=feedback, seed=3
    )
    return net.double()


def batch(samples=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, D, V, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (samples,), generator=generator)


def gradients(net, x, labels):
    net.zero_grad()
    net.backward(x, labels)
    return {name: p.grad.clone() for name, p in net.named_parameters()}


def by_autograd(net, x, labels):
    """Plain backpropagation through a plain forward pass, written without the package."""
    weights = {name: p.detach().clone().requires_grad_() for name, p in net.named_parameters()}
    z = x
    for number, layer in enumerate(net.layers):
        n, p, c = z.shape
        z = z.reshape(n, p // layer.tuple_size, layer.tuple_size * c)
        weight, bias = (weights[f"layers.{number}.{kind}"] for kind in ("weight", "bias"))
        weight = weight.expand(z.shape[1], -1, -1)
        z = torch.stack([z[:, i] @ weight[i].T for i in range(z.shape[1])], 1) + bias
        if layer.norm is not None:
            mean, variance = z.mean((0, 1)), z.var((0, 1), unbiased=False)
            z = (z - mean) / (variance + layer.norm.eps).sqrt()
        z = z.relu()
    logits = z.flatten(1) @ weights["readout.weight"].T + weights["readout.bias"]
    F.cross_entropy(logits, labels).backward()
    return {name: weight.grad for name, weight in weights.items()}


def worst(first, second):
    return max(float((first[name] - second[name]).detach().abs().max()) for name in first)


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("sharing", ["convolutional", "local"])
@pytest.mark.parametrize("transposed", [True, False])
def test_with_masks_of_each_sample_the_two_paths_are_backpropagation(
    sharing, normalise, transposed
):
    x, labels = batch()
    if transposed:
        net = network(BACKPROPAGATION, sharing, normalise)
    else:
        net = network(Feedback("random"), sharing, normalise)
        for layer in net.layers:
            layer.carrier.copy_(layer.weight)
    assert worst(gradients(net, x, labels), by_autograd(net, x, labels)) < 1e-12


def test_random_carriers_are_not_backpropagation_but_the_top_layer_still_is():
    x, labels = batch()
    net = network(Feedback("random"))
    here, there = gradients(net, x, labels), by_autograd(net, x, labels)
    for name in ("readout.weight", "layers.3.weight"):
        torch.testing.assert_close(here[name], there[name], rtol=0, atol=1e-12)
    assert worst(here, there) > 1e-3


@pytest.mark.parametrize("weights", ["transposed", "random"])
def test_averaged_masks_equal_true_masks_for_one_sample_and_differ_for_more(weights):
    for samples, equal in ((1, True), (6, False)):
        x, labels = batch(samples)
        true = gradients(network(Feedback(weights)), x, labels)
        mean = gradients(network(Feedback(weights, "batch")), x, labels)
        none = gradients(network(Feedback(weights, "none")), x, labels)
        assert (worst(true, mean) < 1e-12) == equal
        assert worst(true, none) > 1e-3


def in_numpy(net, x, labels, feedback):
    """Weight gradients of a net of one position, by the formulas of `Feedback`."""
    z, masks = [x.reshape(len(x), -1).numpy()], []
    weights = [layer.weight.detach().numpy()[0] for layer in net.layers]
    for weight, layer in zip(weights, net.layers, strict=True):
        a = z[-1] @ weight.T + layer.bias.detach().numpy()[0]
        masks.append(a > 0)
        z.append(np.maximum(a, 0))
    readout = net.readout.weight.detach().numpy()
    logits = z[-1] @ readout.T + net.readout.bias.detach().numpy()
    exp = np.exp(logits - logits.max(1, keepdims=True))
    onehot = np.eye(CLASSES)[labels.numpy()]
    e = (exp / exp.sum(1, keepdims=True) - onehot) / len(x)
    found = []
    for l in range(len(weights)):
        if feedback.weights == "direct":
            g = e @ net.get_buffer(f"direct_{l + 1}").numpy()
        elif feedback.weights == "target":
            g = -onehot / len(x) @ net.get_buffer(f"direct_{l + 1}").numpy()
        else:
            g = e @ readout
            for k in range(len(weights) - 1, l, -1):
                mask = {
                    "sample": masks[k],
                    "batch": masks[k].mean(0),
                    "none": np.ones(WIDTH),
                }[feedback.masks]
                carrier = (
                    weights[k]
                    if feedback.weights == "transposed"
                    else (net.layers[k].carrier.numpy()[0])
                )
                g = (g * mask) @ carrier
        delta = g * masks[l] if feedback.local_derivative else g
        found.append(delta.T @ z[l])
    return found


@pytest.mark.parametrize(
    "feedback",
    [
        Feedback(weights, masks, derivative)
        for weights in ("transposed", "random", "direct", "target")
        for masks in ("sample", "batch", "none")
        for derivative in (True, False)
        if masks == "sample" or weights in ("transposed", "random")
    ],
    ids=str,
)
def test_every_feedback_sends_down_what_its_formula_says(feedback):
    x, labels = batch()
    net = network(feedback, sizes=(D, 1, 1))
    here = gradients(net, x, labels)
    for l, expected in enumerate(in_numpy(net, x, labels, feedback)):
        np.testing.assert_allclose(here[f"layers.{l}.weight"][0], expected, rtol=0, atol=1e-13)
    if feedback != BACKPROPAGATION:
        assert worst(here, by_autograd(net, x, labels)) > 1e-4


def test_the_forward_pass_does_not_depend_on_the_feedback():
    x, _ = batch()
    reference = network()
    for feedback in (Feedback("random", "batch"), Feedback(masks="none"), Feedback("direct")):
        net = network(feedback)
        net.load_state_dict(reference.state_dict(), strict=False)
        torch.testing.assert_close(net(x), reference(x), rtol=0, atol=1e-14)


def test_local_weights_are_not_shared_and_convolutional_ones_are():
    x, _ = batch()
    moved = x.roll(2, dims=1)
    for sharing, equivariant in (("convolutional", True), ("local", False)):
        first = network(sharing=sharing, sizes=(2,))
        here, there = first.activities(x)[0], first.activities(moved)[0]
        assert torch.allclose(here.roll(1, dims=1), there) == equivariant


def test_a_network_is_a_function_of_its_seed_and_leaves_the_global_one_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b = network(), network()
    assert torch.equal(torch.get_rng_state(), before)
    assert worst(dict(a.named_parameters()), dict(b.named_parameters())) == 0


def test_impossible_networks_and_feedbacks_are_refused():
    with pytest.raises(ValueError, match="cannot tile 8"):
        network(sizes=(3,))
    with pytest.raises(ValueError, match="sharing must be one of"):
        network(sharing="global")
    with pytest.raises(ValueError, match="masks must be one of"):
        replace(BACKPROPAGATION, masks="median")
    with pytest.raises(ValueError, match="weights must be one of"):
        Feedback("learned")
    with pytest.raises(ValueError, match="crosses no layer"):
        Feedback("direct", "none")


FEEDBACKS = [
    Feedback(weights, masks)
    for weights in ("transposed", "random", "direct", "target")
    for masks in ("sample", "batch", "none")
    if masks == "sample" or weights in ("transposed", "random")
]


@pytest.mark.parametrize("feedback", FEEDBACKS, ids=str)
def test_one_seed_is_one_network_whatever_the_feedback(feedback):
    for sharing in ("convolutional", "local"):
        here, plain = network(feedback, sharing), network(sharing=sharing)
        assert worst(dict(here.named_parameters()), dict(plain.named_parameters())) == 0


def test_masks_and_targets_do_not_change_the_matrices_that_carry_the_error():
    for first, second in (
        (Feedback("random"), Feedback("random", "none")),
        (Feedback("direct"), Feedback("target")),
    ):
        assert (
            worst(dict(network(first).named_buffers()), dict(network(second).named_buffers())) == 0
        )


@pytest.mark.parametrize("feedback", [f for f in FEEDBACKS if f.weights != "target"], ids=str)
def test_the_backward_pass_of_a_loss_is_that_of_the_network(feedback):
    x, labels = batch()
    net = network(feedback)
    expected = gradients(net, x, labels)
    net.zero_grad()
    F.cross_entropy(net(x), labels).backward()
    assert worst({name: p.grad for name, p in net.named_parameters()}, expected) == 0
    assert all(bool(gradient.any()) for gradient in expected.values())


def test_any_loss_of_the_logits_is_sent_down_directly():
    x, labels = batch()
    net = network(Feedback("direct"), sizes=(D, 1, 1))
    logits = net(x)
    logits.retain_grad()
    (logits.square().sum() + F.cross_entropy(logits, labels)).backward()
    z = net.activities(x)
    for l, layer in enumerate(net.layers):
        below = x.flatten(1) if l == 0 else z[l - 1].detach().flatten(1)
        error = (logits.grad @ net.get_buffer(f"direct_{l + 1}")) * (z[l].flatten(1) > 0)
        torch.testing.assert_close(layer.weight.grad[0], error.T @ below, rtol=0, atol=1e-12)


def test_targets_that_a_loss_does_not_tell_are_asked_for():
    x, labels = batch()
    net = network(Feedback("target"))
    with torch.no_grad():
        assert torch.equal(net(x), network()(x))
    with pytest.raises(RuntimeError, match=r"call net\.backward\(x, labels\) instead"):
        F.cross_entropy(net(x), labels).backward()


@pytest.mark.parametrize("feedback", FEEDBACKS, ids=str)
def test_frozen_layers_change_no_gradient_of_the_others(feedback):
    x, labels = batch()
    expected = gradients(network(feedback), x, labels)
    for frozen in ("layers.1", "readout"):
        net = network(feedback)
        net.get_submodule(frozen).requires_grad_(False)
        net.backward(x, labels)
        for name, parameter in net.named_parameters():
            if name.startswith(frozen):
                assert parameter.grad is None
            else:
                torch.testing.assert_close(parameter.grad, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("feedback", FEEDBACKS, ids=str)
@pytest.mark.parametrize("sharing", ["convolutional", "local"])
def test_networks_run_on_the_device_of_their_input(feedback, sharing):
    x, labels = (part.to("meta") for part in batch())
    for normalise in (False, True):
        net = network(feedback, sharing, normalise).to("meta")
        assert net.backward(x, labels).device.type == "meta"
        assert all(p.grad.device.type == "meta" for p in net.parameters())
    with torch.device("meta"):
        net = network(feedback, sharing)
    assert {t.device.type for t in net.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("feedback", FEEDBACKS, ids=str)
def test_networks_run_in_the_precision_of_their_weights(feedback, dtype):
    x, labels = batch()
    net = network(feedback, normalise=True).to(dtype)
    exact = gradients(network(feedback, normalise=True), x, labels)
    found = gradients(net, x.to(dtype), labels)
    for name, expected in exact.items():
        assert found[name].dtype == dtype
        if "bias" in name and "readout" not in name:
            continue  # normalisation takes the bias away: its gradient is rounding alone
        error = (found[name].double() - expected).norm() / expected.norm()
        assert error < 64 * torch.finfo(dtype).eps, name


@pytest.mark.parametrize("sharing", ["convolutional", "local"])
@pytest.mark.parametrize("feedback", FEEDBACKS, ids=str)
def test_autocast_changes_gradients_by_its_rounding_alone(feedback, sharing):
    x, labels = batch(32)
    net = network(feedback, sharing).float()
    exact = gradients(net, x.float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        inside = gradients(net, x.float(), labels)
    if feedback.weights != "target":
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(net(x.float()), labels)
        loss.backward()  # outside, as torch recommends
        outside = {name: p.grad for name, p in net.named_parameters()}
        assert worst(inside, outside) < 1e-2
    for name, expected in exact.items():
        assert inside[name].dtype == torch.float32
        error = (inside[name] - expected).norm() / expected.norm()
        assert 0 < error < 64 * torch.finfo(torch.bfloat16).eps, name


def test_in_evaluation_the_error_passes_the_running_statistics():
    x, labels = batch()
    for transposed in (True, False):
        net = network(BACKPROPAGATION if transposed else Feedback("random"), normalise=True)
        plain = network(normalise=True)
        if not transposed:
            for layer in net.layers:
                layer.carrier.copy_(layer.weight)
        for each in (net, plain):
            each.backward(3 * x + 1, labels)  # statistics that are not those of the batch below
            each.eval()
        assert worst(gradients(net, x, labels), gradients(plain, x, labels)) < 1e-12


def test_a_second_derivative_is_refused_where_the_first_is_none():
    x, labels = batch()
    for feedback in (Feedback("random"), Feedback(masks="none"), Feedback("direct")):
        net = network(feedback)
        loss = F.cross_entropy(net(x), labels)
        (gradient,) = torch.autograd.grad(loss, net.layers[0].weight, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.square().sum().backward()


def test_batches_that_a_network_cannot_read_are_refused_in_words():
    x, labels = batch()
    net = network()
    for bad, error, message in (
        (x.numpy(), TypeError, "x must be a tensor"),
        (x.float(), TypeError, r"weights are torch\.float64, but x is torch\.float32: give x\.to"),
        (x[0], ValueError, r"here \(samples, 8, 5\), got shape \(8, 5\)"),
        (x.transpose(1, 2), ValueError, r"here \(samples, 8, 5\), got shape \(6, 5, 8\)"),
        (x.to("meta"), ValueError, "weights are on cpu, but x is on meta"),
    ):
        with pytest.raises(error, match=message):
            net(bad)
    for bad, error, message in (
        (labels.numpy(), TypeError, "labels must be a tensor"),
        (labels.double(), TypeError, r"labels must be whole numbers, got torch\.float64"),
        (labels[:-1], ValueError, r"shape \(samples,\), here \(6,\), got \(5,\)"),
    ):
        with pytest.raises(error, match=message):
            net.backward(x, bad)
    with pytest.raises(TypeError, match="feedback must be a `Feedback`, got 'random'"):
        network("random")
    with pytest.raises(ValueError, match="tuple_sizes must hold at least one"):
        network(sizes=())
