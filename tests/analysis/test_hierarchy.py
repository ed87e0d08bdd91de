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
