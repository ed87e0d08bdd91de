"""Direct feedback as a rule: against numpy, detached blocks, and the networks of the hierarchy."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from linlocal.analysis import LocalTrainer, align, audit_locality
from linlocal.analysis.feedback import DirectFeedback, sent_directly, target_error

CLASSES, ROWS = 3, 8
NAMES = ["0", "1", "2", "3"]
SENDS = ("error", "target")


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.outer = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return F.relu(x + self.outer(self.inner(x)))


def residual():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 4, 3, 1, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        Residual(4),
        nn.Sequential(nn.Flatten(2), nn.Linear(16, 4), nn.ReLU()),
        nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)),
    )


def mlp():
    return nn.Sequential(
        nn.Sequential(nn.Linear(6, 8), nn.ReLU()),
        nn.Sequential(nn.Linear(8, 7), nn.Tanh()),
        nn.Sequential(nn.Linear(7, CLASSES)),
    )


def data(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(CLASSES, (ROWS,), generator=generator)


def made(make, seed=1):
    torch.manual_seed(seed)
    return make().double()


def trained(model, rule, x, labels, **options):
    trainer = LocalTrainer(model, None, rule, shape=x.shape[1:], seed=3, **options)
    trainer.backward(x, (x, labels))
    return trainer, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("sends", SENDS)
def test_gradients_of_an_mlp_are_those_of_numpy(sends, bias):
    model, (x, labels) = made(mlp), data(6)
    trainer, found = trained(model, DirectFeedback(sends, bias=bias), x, labels)
    (w1, b1, w2, b2, w3, b3) = (p.detach().numpy() for p in model.parameters())
    h0 = x.numpy()
    a1 = h0 @ w1.T + b1
    h1 = np.maximum(a1, 0)
    h2 = np.tanh(h1 @ w2.T + b2)
    logits = h2 @ w3.T + b3
    p = np.exp(logits - logits.max(1, keepdims=True))
    onehot = np.eye(CLASSES)[labels]
    e = (p / p.sum(1, keepdims=True) - onehot) / ROWS
    sent = e if sends == "error" else -onehot / ROWS
    signals = [
        sent @ loss.matrix.numpy() + (loss.bias.numpy() / ROWS if bias else 0)
        for loss in trainer.losses[:2]
    ]
    d1, d2 = signals[0] * (a1 > 0), signals[1] * (1 - h2**2)
    expected = [d1.T @ h0, d1.sum(0), d2.T @ h1, d2.sum(0), e.T @ h2, e.sum(0)]
    for gradient, value in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(gradient, value, rtol=0, atol=1e-14)


@pytest.mark.parametrize("maps", ["whole", "pooled"])
@pytest.mark.parametrize("sends", SENDS)
def test_every_block_of_any_kind_backpropagates_what_it_is_sent(sends, maps):
    model, (x, labels) = made(residual), data(2, 4, 4)
    trainer, found = trained(model, DirectFeedback(sends, maps=maps), x, labels)
    here, outputs = x, []
    for block in model:
        outputs.append(block(here))
        here = outputs[-1].detach()
    logits = outputs[-1]
    (e,) = torch.autograd.grad(F.cross_entropy(logits, labels), logits, retain_graph=True)
    sent = e if sends == "error" else -F.one_hot(labels, CLASSES).double() / ROWS
    for l, (block, z, loss) in enumerate(zip(model, outputs, trainer.losses, strict=True)):
        signal = e
        if l < 3 and maps == "whole":
            signal = (sent @ loss.matrix).view_as(z)
        elif l < 3:
            # Channels are the second axis of maps and the last one of tokens.
            places = z[0, 0].numel() if z.ndim == 4 else z.shape[1]
            signal = sent @ loss.matrix / places
            signal = signal[:, :, None, None] if z.ndim == 4 else signal[:, None, :]
            signal = signal.expand_as(z)
        expected = torch.autograd.grad(z, [*block.parameters()], signal)
        for (name, _), value in zip(block.named_parameters(str(l)), expected, strict=True):
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-14)


@pytest.mark.parametrize("sends", SENDS)
def test_the_rule_is_what_the_backward_pass_of_joined_logits_sends(sends):
    model, (x, labels) = made(residual), data(2, 4, 4)
    trainer, found = trained(model, DirectFeedback(sends), x, labels)
    here, outputs = x, []
    for block in model:
        outputs.append(block(here))
        here = outputs[-1].detach()
    matrices = [loss.matrix for loss in trainer.losses[:3]]
    targets = None if sends == "error" else lambda e: target_error(labels, CLASSES, e.dtype)
    model.zero_grad()
    F.cross_entropy(sent_directly(outputs[3], outputs[:3], matrices, targets), labels).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, found[name], rtol=0, atol=1e-14)


@pytest.mark.parametrize("sends", SENDS)
def test_one_pass_is_enough_and_targets_need_no_output(sends):
    x, labels = data(2, 4, 4)
    trainer, found = trained(made(residual), DirectFeedback(sends), x, labels)
    assert trainer.two_passes == (sends == "error")
    _, at_once = trained(made(residual), DirectFeedback(sends), x, labels, one_pass=True)
    for name, gradient in found.items():
        torch.testing.assert_close(at_once[name], gradient, rtol=0, atol=1e-14)


@pytest.mark.parametrize("sends", SENDS)
def test_matrices_are_fixed_buffers_of_the_seed_that_keep_the_size_of_errors(sends):
    model, (x, labels) = made(mlp), data(6)
    trainer, _ = trained(model, DirectFeedback(sends, bias=True), x, labels)
    before = {name: value.clone() for name, value in trainer.losses.state_dict().items()}
    weights = [p.detach().clone() for p in model.parameters()]
    assert len(before) == 4
    assert not [*trainer.losses.parameters()]
    for _ in range(3):
        trainer.step((x, labels))
    assert all(torch.equal(v, before[n]) for n, v in trainer.losses.state_dict().items())
    assert not any(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    again, other = (DirectFeedback(sends).build([(400,), (2, 9, 9), (10,)], s) for s in (3, 4))
    assert not torch.equal(again[0].matrix, other[0].matrix)
    assert not torch.equal(again[0].matrix[:, :100], again[1].matrix[:, :100])
    error = torch.randn(50, 10)
    for loss in again[:2]:
        grown = (error @ loss.matrix).norm(dim=1) / error.norm(dim=1)
        torch.testing.assert_close(grown.mean(), torch.tensor(1.0), rtol=0.1, atol=0)


def test_align_compares_what_is_sent_with_backpropagation():
    model, (x, labels) = made(residual), data(2, 4, 4)
    rule = DirectFeedback()
    losses = rule.build([(4, 4, 4), (4, 4, 4), (4, 4), (CLASSES,)], 0).double()
    ds = align(model, NAMES, losses, x, batch=(x, labels))
    _, local = trained_with(model, losses, x, labels)
    F.cross_entropy(model(x), labels).backward()
    for l, block in enumerate(model):
        a = torch.cat([local[f"{l}.{name}"].flatten() for name, _ in block.named_parameters()])
        b = torch.cat([p.grad.flatten() for p in block.parameters()])
        np.testing.assert_allclose(ds.cosine[l], a @ b / a.norm() / b.norm(), rtol=0, atol=1e-12)
    assert ds.cosine[-1] > 1 - 1e-12
    assert abs(ds.cosine[:-1]).max() < 0.99


def trained_with(model, losses, x, labels):
    class Given:
        def build(self, shapes, seed=0):
            return losses

    found = trained(model, Given(), x, labels)
    model.zero_grad()
    return found


@pytest.mark.parametrize("sends", SENDS)
def test_no_loss_reaches_another_block(sends):
    x, labels = data(2, 4, 4)
    rule = DirectFeedback(sends, maps="pooled", bias=True)
    found = audit_locality(made(residual), NAMES, rule, x, (x, labels))
    reached = found.reached.values
    assert (reached.diagonal() > 0).all()
    assert reached.sum() == reached.diagonal().sum()


def test_direct_feedback_learns_and_its_gradients_turn_towards_backpropagation():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 6, generator=generator).double()
    labels = (x[:, :3] * x[:, 3:]).argmax(1)
    model = made(mlp)
    trainer = LocalTrainer(
        model,
        None,
        DirectFeedback(),
        shape=(6,),
        optimiser=lambda p: torch.optim.Adam(p, 0.01),
        seed=3,
    )

    def cosine():
        return align(model, NAMES[:3], trainer.losses, x, batch=(x, labels)).cosine[1]

    before = cosine()
    losses = [trainer.step((x, labels))[3] for _ in range(150)]
    assert losses[-1] < 0.5 * losses[0]
    assert cosine() > before + 0.2


def test_rules_and_networks_that_do_not_fit_are_refused_in_words():
    for options, message in (
        ({"sends": "labels"}, "sends must be one of error, target, nothing"),
        ({"maps": "flat"}, "maps must be one of whole, pooled"),
    ):
        with pytest.raises(ValueError, match=message):
            DirectFeedback(**options)
    with pytest.raises(TypeError, match="loss must be a function of the output and the labels"):
        DirectFeedback(loss="cross entropy")
    with pytest.raises(TypeError, match="bias"):
        DirectFeedback(bias=1)
    x, labels = data(2, 4, 4)
    with pytest.raises(ValueError, match=r"name the head as the last block"):
        LocalTrainer(made(residual), NAMES[:2], DirectFeedback(), shape=x.shape[1:])
    with pytest.raises(ValueError, match=r"shapes \(\), of which the last one must be"):
        DirectFeedback().build([])
    with pytest.raises(ValueError, match="reads labels"):
        trained(made(residual), DirectFeedback(), x, labels)[0].backward(x)


class Around(nn.Module):
    """A link from a stem outside all blocks to the head, around the blocks."""

    def __init__(self):
        super().__init__()
        self.stem, self.block = nn.Linear(6, 8), nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        h = self.stem(x)
        return self.head(self.block(h) + h)


def test_a_path_around_a_block_is_refused_and_one_between_outputs_is_not():
    x, labels = data(6)
    with pytest.raises(ValueError, match=r"stem\.\w+ is used by the blocks 'block' and 'head'"):
        LocalTrainer(made(Around), ["block", "head"], DirectFeedback(), shape=(6,))
    # Here the stem is a block, so what goes around is an output, which is cut off.
    model = made(Around)
    trainer = LocalTrainer(model, ["stem", "block", "head"], DirectFeedback(), shape=(6,), seed=3)
    trainer.backward(x, (x, labels))
    h = model.stem(x)
    e = torch.autograd.grad(F.cross_entropy(model(x), labels), model.head.bias, retain_graph=True)
    logits = model(x)
    (error,) = torch.autograd.grad(F.cross_entropy(logits, labels), logits)
    expected = torch.autograd.grad(h, model.stem.weight, error @ trainer.losses[0].matrix)
    torch.testing.assert_close(model.stem.weight.grad, expected[0], rtol=0, atol=1e-14)
    torch.testing.assert_close(model.head.bias.grad, e[0], rtol=0, atol=1e-14)
