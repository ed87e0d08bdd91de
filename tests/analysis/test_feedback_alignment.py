"""Feedback alignment of any network: against numpy, hooks, and where it is backpropagation."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from linlocal.analysis import AlignmentRecorder, GlobalTrainer, align
from linlocal.analysis.feedback import DirectFeedback, backpropagation, feedback_alignment, is_fed

METHODS = ("random", "sign", "scaled_sign", "random_sign", "kolen_pollack")
CLASSES = 3


class Residual(nn.Module):
    """Two convolutions with normalisation and a residual link."""

    def __init__(self, channels, out, stride, inplace):
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(out)
        self.second = nn.Conv2d(out, out, 3, 1, 1, groups=2)
        self.second_norm = nn.BatchNorm2d(out)
        self.link = nn.Conv2d(channels, out, 1, stride) if stride > 1 else nn.Identity()
        self.relu = nn.ReLU(inplace)

    def forward(self, x):
        h = self.relu(self.first_norm(self.first(x)))
        return self.relu(self.second_norm(self.second(h)) + self.link(x))


class Looped(nn.Module):
    """One layer that runs twice, in a forward pass with a branch."""

    def __init__(self):
        super().__init__()
        self.stem, self.loop, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        h = torch.tanh(self.stem(x))
        for _ in range(2):
            h = h + torch.tanh(self.loop(h))
        return self.head(torch.cat([h[:, :4], h[:, 4:] * 2], 1))


def residual(inplace=True):
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(inplace)),
        Residual(4, 4, 1, inplace),
        Residual(4, 8, 2, inplace),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)),
    )


def mlp():
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 8), nn.ReLU()),
        nn.Sequential(nn.Linear(8, 7), nn.Tanh()),
        nn.Sequential(nn.Linear(7, CLASSES)),
    )


def one_dimension():
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding="same", dilation=2),
        nn.ReLU(),
        nn.Conv1d(4, 6, 3, stride=2, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.ConvTranspose1d(6, 4, 3, stride=2, padding=1, output_padding=1, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, CLASSES),
    )


def three_dimensions():
    return nn.Sequential(
        nn.Conv3d(1, 2, 2, padding=1, padding_mode="replicate"),
        nn.ReLU(),
        nn.ConvTranspose3d(2, 2, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(250, CLASSES),
    )


NETWORKS = {
    "MLP": (mlp, (6,)),
    "residual, BatchNorm": (residual, (3, 6, 6)),
    "a layer that runs twice": (Looped, (6,)),
    "one dimension": (one_dimension, (2, 8)),
    "three dimensions": (three_dimensions, (1, 3, 3, 3)),
}


def network(name, seed=0):
    make, shape = NETWORKS[name]
    torch.manual_seed(seed)
    model = make().double()
    x = torch.randn(8, *shape, dtype=torch.float64)
    return model, x, torch.randint(CLASSES, (8,))


def gradients(model, x, labels):
    model.zero_grad()
    F.cross_entropy(model(x), labels).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def apart(here, there):
    return max(float((here[name] - there[name]).abs().max()) for name in there)


def mirror(feedback):
    """Make B equal to W."""
    with torch.no_grad():
        for layer in feedback.layers.values():
            layer.feedback_weight.copy_(layer.weight)


@pytest.mark.parametrize("name", NETWORKS)
def test_feedback_by_the_weights_is_backpropagation_and_other_feedback_is_not(name):
    model, x, labels = network(name)
    expected = gradients(copy.deepcopy(model), x, labels)
    with feedback_alignment(model, "random") as feedback:
        assert apart(gradients(model, x, labels), expected) > 1e-3
        mirror(feedback)
        assert apart(gradients(model, x, labels), expected) < 1e-14


@pytest.mark.parametrize("method", METHODS)
def test_one_graph_gives_the_gradients_of_the_feedback_and_of_backpropagation(method):
    model, x, labels = network("residual, BatchNorm")
    expected = gradients(copy.deepcopy(model), x, labels)
    feedback_alignment(model, method)
    own = {name: p for name, p in model.named_parameters() if name in expected}
    loss = F.cross_entropy(model(x), labels)

    def of_loss():
        found = torch.autograd.grad(loss, [*own.values()], retain_graph=True)
        return dict(zip(own, found, strict=True))

    through_feedback = of_loss()
    with backpropagation():
        assert apart(of_loss(), expected) < 1e-14
    assert apart(through_feedback, expected) > 1e-3
    assert apart(of_loss(), through_feedback) == 0


def with_hooks(model, matrices, x, labels):
    """Errors replaced by hooks on modules, each by a derivative of a copy with other weights."""
    bare = {name: copy.deepcopy(model.get_submodule(name)) for name in matrices}

    def replacing(name):
        def hook(module, into, error):
            if into[0] is None:
                return None
            with torch.enable_grad():
                h = torch.zeros_like(into[0], requires_grad=True)
                y = functional_call(bare[name], {"weight": matrices[name]}, h)
                return torch.autograd.grad(y, h, error[0])

        return hook

    handles = [
        model.get_submodule(name).register_full_backward_hook(replacing(name)) for name in matrices
    ]
    found = gradients(model, x.clone().requires_grad_(), labels)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("method", METHODS)
def test_any_topology_against_hooks_that_replace_errors(method):
    for make, shape in ((lambda: residual(inplace=False), (3, 6, 6)), (Looped, (6,))):
        torch.manual_seed(1)
        model = make().double()
        x, labels = torch.randn(8, *shape).double(), torch.randint(CLASSES, (8,))
        plain = copy.deepcopy(model)
        feedback = feedback_alignment(model, method, seed=2)
        found = gradients(model, x, labels)
        expected = with_hooks(plain, feedback.matrices(), x, labels)
        assert apart(found, expected) < 1e-13


def trained_in_numpy(weights, feedback, method, x, labels, rate, decay, steps):
    """SGD on the cross-entropy of a net of ReLU, tanh and linear layers, without biases."""
    w, b = [v.copy() for v in weights], [v.copy() for v in feedback]
    onehot = np.eye(CLASSES)[labels]
    for _ in range(steps):
        a1 = x @ w[0].T
        h1 = np.maximum(a1, 0)
        h2 = np.tanh(h1 @ w[1].T)
        logits = h2 @ w[2].T
        p = np.exp(logits - logits.max(1, keepdims=True))
        e = (p / p.sum(1, keepdims=True) - onehot) / len(x)
        back = {
            "random": b,
            "kolen_pollack": b,
            "sign": [np.sign(v) for v in w],
            "scaled_sign": [np.sign(v) * np.sqrt(2 / sum(v.shape)) for v in w],
            "random_sign": [np.sign(v) * abs(r) for v, r in zip(w, b, strict=True)],
        }[method]
        d2 = (e @ back[2]) * (1 - h2**2)
        d1 = (d2 @ back[1]) * (a1 > 0)
        steps_down = [d1.T @ x, d2.T @ h1, e.T @ h2]
        w = [v - rate * (g + decay * v) for v, g in zip(w, steps_down, strict=True)]
        if method == "kolen_pollack":
            b = [v - rate * (g + decay * v) for v, g in zip(b, steps_down, strict=True)]
    return w, b


@pytest.mark.parametrize("method", METHODS)
def test_training_is_that_of_numpy_and_only_kolen_pollack_changes_what_was_drawn(method):
    model, x, labels = network("MLP")
    for part in model:
        part[0].bias = None
    feedback = feedback_alignment(model, method, seed=4)
    drawn = [layer.feedback_weight for layer in feedback.layers.values()]
    before = [0 * p if d is None else d for d, p in zip(drawn, model.parameters(), strict=False)]
    before = [value.detach().clone().numpy() for value in before]
    weights = [part[0].weight.detach().clone().numpy() for part in model]
    expected, moved = trained_in_numpy(
        weights, before, method, x.numpy(), labels.numpy(), 0.5, 0.1, 20
    )
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=0.1)
    for _ in range(20):
        gradients(model, x, labels)
        optimiser.step()
    for part, value, start in zip(model, expected, weights, strict=True):
        np.testing.assert_allclose(part[0].weight.detach(), value, rtol=0, atol=1e-12)
        assert abs(value - start).max() > 1e-2
    for layer, value, start in zip(feedback.layers.values(), moved, before, strict=True):
        if layer.feedback_weight is not None:
            np.testing.assert_allclose(layer.feedback_weight.detach(), value, rtol=0, atol=1e-12)
            assert (abs(value - start).max() > 1e-2) == (method == "kolen_pollack")


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW], ids=["SGD", "AdamW"])
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_kolen_pollack_feedback_comes_to_equal_the_weights_by_weight_decay_alone(make, decay):
    model, x, labels = network("residual, BatchNorm")
    feedback = feedback_alignment(model, "kolen_pollack")

    def differences():
        return {
            name: (layer.weight - layer.feedback_weight).detach().clone()
            for name, layer in feedback.layers.items()
        }

    before = differences()
    optimiser = make(model.parameters(), lr=0.02, weight_decay=decay)
    for _ in range(30):
        gradients(model, x, labels)
        optimiser.step()
    shrunk = (1 - 0.02 * decay) ** 30
    for name, now in differences().items():
        torch.testing.assert_close(now, shrunk * before[name], rtol=0, atol=1e-13)
    assert (shrunk < 0.75) == (decay > 0)


@pytest.mark.parametrize("method", METHODS)
def test_undoing_gives_back_the_network_as_it_was(method):
    model, x, labels = network("residual, BatchNorm")
    kinds = [type(module) for module in model.modules()]
    attributes = [set(vars(module)) for module in model.modules()]
    state, expected = list(model.state_dict()), gradients(copy.deepcopy(model), x, labels)
    output = copy.deepcopy(model)(x)
    with feedback_alignment(model, method) as feedback:
        assert is_fed(model)
        assert torch.equal(copy.deepcopy(model)(x), output)
        assert set(feedback.layers) == {
            name
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d)
        }
    assert not is_fed(model)
    assert [type(module) for module in model.modules()] == kinds
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert list(model.state_dict()) == state
    assert apart(gradients(model, x, labels), expected) == 0
    feedback.undo()
    with pytest.raises(RuntimeError, match="was undone"):
        feedback.matrices()


def test_what_is_drawn_is_a_function_of_the_seed_and_the_name_in_the_size_of_the_weights():
    def drawn(seed=0, **options):
        model, *_ = network("residual, BatchNorm")
        return feedback_alignment(model, "random", seed=seed, **options).matrices()

    everything, again, part = drawn(), drawn(), drawn(modules=["1", "3.2"])
    assert set(part) == {"1.first", "1.second", "3.2"}
    for name, value in part.items():
        assert torch.equal(value, everything[name])
        assert torch.equal(value, again[name])
        assert not torch.equal(value, drawn(seed=1)[name])
    model = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 100))
    nn.init.zeros_(model[1].weight)
    with torch.no_grad():
        model[0].weight.mul_(7)
    first, second = feedback_alignment(model).matrices().values()
    size = model[0].weight.square().mean().sqrt()
    torch.testing.assert_close(first.std(), size, rtol=0.02, atol=0)
    torch.testing.assert_close(second.std(), torch.tensor(200**-0.5), rtol=0.02, atol=0)


@pytest.mark.parametrize("method", ["random", "kolen_pollack"])
def test_feedback_weights_move_and_are_stored_and_copied_with_the_network(method):
    model, x, labels = network("residual, BatchNorm")
    feedback_alignment(model, method, seed=1)
    other, *_ = network("residual, BatchNorm", seed=5)
    feedback_alignment(other, method, seed=6)
    other.load_state_dict(model.state_dict())
    expected = gradients(model, x, labels)
    assert apart(gradients(other, x, labels), expected) == 0
    assert apart(gradients(copy.deepcopy(model), x, labels), expected) < 1e-14
    single = gradients(model.float(), x.float(), labels)
    assert all(g.dtype == torch.float32 for g in single.values())
    assert apart(single, expected) < 1e-5
    nowhere = gradients(model.to("meta"), x.float().to("meta"), labels.to("meta"))
    assert {g.device.type for g in nowhere.values()} == {"meta"}


@pytest.mark.parametrize("method", METHODS)
def test_autocast_changes_gradients_by_its_rounding_alone(method):
    model, x, labels = network("one dimension")
    feedback_alignment(model.float(), method)
    exact = gradients(model, x.float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(x.float()), labels)
    model.zero_grad()
    loss.backward()
    for name, parameter in model.named_parameters():
        error = (parameter.grad - exact[name]).norm() / exact[name].norm()
        assert 0 < error < 64 * torch.finfo(torch.bfloat16).eps, name


def test_frozen_layers_pass_errors_on_and_their_feedback_is_frozen_too():
    model, x, labels = network("residual, BatchNorm")
    free = copy.deepcopy(model)
    feedback_alignment(free, "kolen_pollack")
    expected = gradients(free, x, labels)
    model[2].requires_grad_(False)
    feedback_alignment(model, "kolen_pollack")
    model.zero_grad()
    F.cross_entropy(model(x), labels).backward()
    for name, parameter in model.named_parameters():
        if name.startswith("2."):
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=0, atol=1e-14)


def test_one_sample_without_an_axis_of_samples():
    layer = nn.Conv2d(2, 3, 3).double()
    x = torch.randn(2, 5, 5, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(x).square().sum(), x)
    mirror(feedback_alignment(layer))
    (found,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


# -- measured --------------------------------------------------------------------------------------


def cosines_by_hand(model, fed, x, labels):
    """Of the gradients of each block: through the feedback, and by backpropagation."""
    here, there = gradients(fed, x, labels), gradients(model, x, labels)
    found = []
    for position in range(len(model)):
        a, b = (
            torch.cat([g[n].flatten() for n in there if n.startswith(f"{position}.")])
            for g in (here, there)
        )
        found.append(float(a @ b / a.norm() / b.norm()))
    return found


@pytest.mark.parametrize("method", METHODS)
def test_align_and_the_recorder_compare_the_feedback_with_backpropagation(method):
    model, x, labels = network("residual, BatchNorm")
    fed = copy.deepcopy(model)
    feedback_alignment(fed, method)
    expected = cosines_by_hand(copy.deepcopy(model), copy.deepcopy(fed), x, labels)
    rule, names, batch = DirectFeedback("nothing"), ["0", "1", "2", "3"], (x, labels)
    ds = align(fed, names, rule, x, batch=batch, window=4)
    np.testing.assert_allclose(ds.cosine, expected, rtol=0, atol=1e-12)
    assert not any("feedback_weight" in str(name) for name in ds.parameter.values)
    assert expected[-1] > 1 - 1e-12 > 0.99 > max(expected[:-1])
    without = align(model, names, rule, x, batch=batch, window=4)
    np.testing.assert_allclose(without.cosine, 1, rtol=0, atol=1e-12)
    own = align(
        fed,
        names,
        rule,
        x,
        batch=batch,
        window=4,
        global_loss=lambda logits: F.cross_entropy(logits, labels),
    )
    np.testing.assert_allclose(own.cosine, expected, rtol=0, atol=1e-12)
    recorder = AlignmentRecorder(fed, names, rule=rule, every=1, against="rule", window=4)
    with recorder.step(batch=batch):
        F.cross_entropy(fed(x), labels).backward()
    np.testing.assert_allclose(recorder.dataset().cosine[0], expected, rtol=0, atol=1e-12)


def test_a_recorder_does_not_take_feedback_for_backpropagation():
    model, x, labels = network("MLP")
    recorder = AlignmentRecorder(model, rule=DirectFeedback(), every=1)
    feedback = feedback_alignment(model)
    with pytest.raises(RuntimeError, match='record with against="rule"'), recorder.step():
        pass
    feedback.undo()
    with recorder.step(batch=(x, labels)):
        F.cross_entropy(model(x), labels).backward()
    assert recorder.dataset().cosine[0, -1] > 1 - 1e-12


def test_a_trainer_of_a_whole_network_trains_through_the_feedback():
    model, x, labels = network("residual, BatchNorm")
    feedback_alignment(model, "kolen_pollack")
    expected = gradients(copy.deepcopy(model), x, labels)
    trainer = GlobalTrainer(
        model, None, loss=lambda out, batch: F.cross_entropy(out, batch[1]), shape=x.shape[1:]
    )
    trainer.backward(x, (x, labels))
    assert apart({n: p.grad for n, p in model.named_parameters()}, expected) < 1e-14
    state = trainer.state_dict()["model"]
    assert {name for name in state if "feedback_weight" in name}


# -- refused ---------------------------------------------------------------------------------------


def test_networks_that_cannot_be_changed_are_refused_in_words():
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)))
    cases = [
        (mlp(), {"method": "learned"}, "method must be one of random, sign, scaled_sign"),
        (mlp(), {"modules": ["head"]}, "no submodule 'head'"),
        (mlp(), {"modules": ["0.1"]}, "no convolution in 0.1"),
        (nn.Sequential(nn.MultiheadAttention(4, 2)), {}, r"0 \(MultiheadAttention\) multiplies by"),
        (nn.Sequential(nn.Linear(3, 3), nn.GRU(3, 3)), {}, r"1 \(GRU\) multiplies by"),
        (normed, {}, r"0 \(ParametrizedLinear\) multiplies by"),
        (nn.Sequential(nn.LazyLinear(3)), {}, "before the first forward pass"),
        (nn.ReLU(), {}, "has no nn.Linear and no convolution"),
        (tied, {"method": "kolen_pollack"}, r"weight of 0 is shared \(0.weight, 1.weight\)"),
    ]
    for model, options, message in cases:
        with pytest.raises(ValueError, match=message):
            feedback_alignment(model, **options)
        assert not is_fed(model)
    model = mlp()
    feedback_alignment(model)
    with pytest.raises(ValueError, match="has feedback weights already"):
        feedback_alignment(model, "sign")
    partly = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2))
    assert list(feedback_alignment(partly, modules=["0"]).layers) == ["0"]


@pytest.mark.parametrize("seed", [2.5, float("nan"), "a", None, True])
def test_a_seed_that_is_no_whole_number_changes_nothing(seed):
    model = mlp()
    with pytest.raises(TypeError, match="seed must be a whole number"):
        feedback_alignment(model, seed=seed)
    assert not is_fed(model)


def test_matrices_of_other_modules_are_named_in_a_warning():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix, self.scale = nn.Parameter(torch.ones(3, 3)), nn.Parameter(torch.ones(3, 1))

        def forward(self, x):
            return x @ self.matrix * self.scale[:, 0]

    with pytest.warns(UserWarning, match=r"^1\.matrix may be matrices"):
        feedback_alignment(nn.Sequential(nn.Linear(3, 3), Own()))
