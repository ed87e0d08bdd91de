"""Loops of two passes over published networks: the recorder against detached programs by hand.

The oracle runs the loop on a copy of the network, with hooks that detach the input of every block,
so a loss of a block's output reaches that block alone. It runs the loop once more as it is written,
for the global gradient. Both draw what the recorded loop draws, from one seed. What it takes from
the package is the division into blocks.
"""

import copy
import warnings
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from experiments.networks import import_torchvision
from linlocal import rules
from linlocal.analysis import AlignmentRecorder
from linlocal.analysis.alignment import series
from linlocal.analysis.block import resolve
from linlocal.analysis.local_losses import NetworkRule

TOLERANCE = 1e-10
CLASSES, ROWS = 5, 4

tv = import_torchvision().models
timm = import_module("timm.models")  # which imports torchvision
STAGES = tv.convnext.CNBlockConfig

PUBLISHED = {
    "resnet18": (lambda: tv.resnet18(num_classes=CLASSES), 32),
    "resnet50": (lambda: tv.resnet50(num_classes=CLASSES), 32),
    "convnext_tiny": (
        lambda: tv.convnext_tiny(num_classes=CLASSES, stochastic_depth_prob=0.3),
        32,
    ),
    "mobilenet_v3_small": (lambda: tv.mobilenet_v3_small(num_classes=CLASSES), 32),
    "vit_tiny": (
        lambda: timm.vit_tiny_patch16_224(img_size=32, num_classes=CLASSES, drop_path_rate=0.3),
        32,
    ),
    "mixer_s32": (
        lambda: timm.mixer_s32_224(img_size=64, num_classes=CLASSES, drop_path_rate=0.3),
        64,
    ),
    "resnetv2_50": (
        lambda: timm.resnetv2_50(num_classes=CLASSES, drop_path_rate=0.3),
        32,
    ),
}
# Of the same makers, in seconds.
SMALL = {
    "convnext": (
        lambda: tv.ConvNeXt(
            [STAGES(12, 20, 1), STAGES(20, 28, 1), STAGES(28, None, 2)],
            stochastic_depth_prob=0.4,
            num_classes=CLASSES,
        ),
        32,
    ),
    "vit": (
        lambda: timm.VisionTransformer(
            img_size=16,
            patch_size=4,
            embed_dim=12,
            depth=3,
            num_heads=2,
            drop_path_rate=0.4,
            num_classes=CLASSES,
        ),
        16,
    ),
    "mixer": (
        lambda: timm.MlpMixer(
            img_size=16,
            patch_size=4,
            num_blocks=3,
            embed_dim=12,
            drop_path_rate=0.4,
            num_classes=CLASSES,
        ),
        16,
    ),
    "resnetv2": (
        lambda: timm.ResNetV2(
            layers=(2, 2),
            channels=(16, 32),
            stem_chs=8,
            stem_type="",
            norm_layer=import_module("timm.layers").BatchNormAct2d,
            drop_path_rate=0.4,
            num_classes=CLASSES,
        ),
        16,
    ),
}


def some(networks, *quick):
    """All of these networks; those that are not quick are slow."""
    slow = pytest.mark.slow
    cases = [name if name in quick else pytest.param(name, marks=slow) for name in networks]
    return pytest.mark.parametrize("name", cases)


def made(make, side, rows=ROWS):
    torch.manual_seed(0)
    network = make().double()
    # Far from the start, where many layers are zero or one.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    base = torch.randn(rows, 3, side, side, dtype=torch.float64)
    return network, [base + 0.5 * torch.randn_like(base) for _ in range(2)]


def blocks_of(network):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a small network has a large stem
        return resolve(network)


def loss(first, second):
    """VICReg of averages over places, in the form "mixed"."""
    means = [
        z.double().mean([a for a in range(1, z.ndim) if a != channels(z)]) for z in (first, second)
    ]
    apart = (means[0] - means[1]).square().mean()
    return 25 * apart + sum(map(held_apart, means))


def channels(z):
    return 2 if z.ndim == 3 else 1


def held_apart(z):
    centred = z - z.mean(0)
    covariance = centred.T @ centred / (len(z) - 1)
    std = (covariance.diagonal() + 1e-4).sqrt()
    off = covariance - torch.diag(covariance.diagonal())
    return 25 * F.relu(1 - std).mean() + off.square().sum() / z.shape[1]


RULE = NetworkRule(rule=rules.VICReg(), pooling="global")


def output_loss(first, second):
    return (
        F.cosine_similarity(first, second.roll(1, 0)) - 1
    ).square().mean() + first.square().mean()


class Loop:
    """A step: two forward passes from one seed, in the way that a case says."""

    def __init__(self, call=lambda network, x: network(x), seed=7):
        self.call, self.seed = call, seed

    def __call__(self, network, views, teacher=None):
        torch.manual_seed(self.seed)
        first = self.call(network, views[0])
        if teacher is None:
            return output_loss(first, self.call(network, views[1]))
        with torch.no_grad():
            second = teacher(views[1])
        return output_loss(first, second)


def detached(value):
    return value.detach() if isinstance(value, torch.Tensor) else value


def cut(network, seen):
    """Detach the input of every block, and note what the block gives."""
    for block in blocks_of(network):
        block.members[0].register_forward_pre_hook(
            lambda module, args, kwargs: (
                tuple(map(detached, args)),
                {name: detached(value) for name, value in kwargs.items()},
            ),
            with_kwargs=True,
        )
        outputs = seen.setdefault(block.name, [])
        block.module.register_forward_hook(lambda m, args, z, outputs=outputs: outputs.append(z))


def gradient(value, block):
    """Of one block's parameters; zero where they are frozen or not used."""
    trained = [p for p in block.parameters.values() if p.requires_grad]
    if not trained:
        return torch.zeros(1, dtype=torch.float64)
    found = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
    pairs = zip(found, trained, strict=True)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).double().flatten() for g, p in pairs]
    )


def by_hand(network, views, loop, teacher=None):
    """The local and global gradients of every block."""
    seen = {}
    alone, other = copy.deepcopy(network), copy.deepcopy(teacher)
    whole, teacher = copy.deepcopy(network), copy.deepcopy(teacher)
    cut(alone, seen)
    if other is not None:
        cut(other, keys := {})
    loop(alone, views, other)
    local = []
    for block in blocks_of(alone):
        outputs = seen[block.name] + ([] if other is None else keys[block.name])
        local.append(gradient(loss(*outputs), block))
    value = loop(whole, views, teacher)
    return local, [gradient(value, block) for block in blocks_of(whole)]


def compare(measured, local, global_, tolerance=TOLERANCE):
    cosine = [F.cosine_similarity(a, b, 0).item() for a, b in zip(local, global_, strict=True)]
    at = {"rtol": tolerance, "atol": tolerance}
    defined = [bool(a.any() and b.any()) for a, b in zip(local, global_, strict=True)]
    np.testing.assert_allclose(measured.cosine[defined], np.array(cosine)[defined], **at)
    assert measured.cosine.isnull().values.tolist() == [not d for d in defined]
    np.testing.assert_allclose(measured.local_norm, [a.norm().item() for a in local], **at)
    np.testing.assert_allclose(measured.global_norm, [b.norm().item() for b in global_], **at)
    assert (measured.cosine[defined] < 0.99).any()


def check(network, views, loop, teacher=None, tolerance=TOLERANCE, **options):
    names = [block.name for block in blocks_of(network)]
    expected = by_hand(network, views, loop, teacher)
    plain = copy.deepcopy(network)
    loop(plain, views, copy.deepcopy(teacher)).backward()
    way = {"views": "separate"}
    if teacher is not None:
        way = {"views": (1,), "teacher": teacher, "teacher_views": (1,)}
    recorder = AlignmentRecorder(network, names, rule=RULE, every=1, **way)
    with recorder.step():
        loop(network, views, teacher).backward()
    compare(recorder.dataset().isel(step=0), *expected, tolerance)
    # The training is what it is without a recorder, bit for bit.
    for one, two in zip(plain.parameters(), network.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        assert one.grad is None or torch.equal(one.grad, two.grad)
    for one, two in zip(plain.buffers(), network.buffers(), strict=True):
        assert torch.equal(one, two)


@some(PUBLISHED, "mobilenet_v3_small")
def test_published_networks(name):
    network, views = made(*PUBLISHED[name])
    check(network, views, Loop())


@some(SMALL, "convnext")
def test_drop_path_draws_once_for_both_gradients(name):
    network, views = made(*SMALL[name])
    check(network, views, Loop())
    # Without it the same step has other gradients, so masks were drawn.
    one, two = (by_hand(network, views, Loop(seed=seed))[1][0].norm() for seed in (7, 8))
    assert abs(one - two) > 1e-6


@some(("convnext", "resnetv2"), "resnetv2")
def test_channels_last(name):
    network, views = made(*SMALL[name])
    network = network.to(memory_format=torch.channels_last)
    views = [view.to(memory_format=torch.channels_last) for view in views]
    assert any(
        p.ndim == 4 and not p.is_contiguous() for p in network.parameters() if p.shape[1:2] != (1,)
    )
    check(network, views, Loop())


class Checkpointed(nn.Module):
    """Runs a module of a network under activation checkpointing."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)


def size(module):
    return sum(p.numel() for p in module.parameters())


@some(SMALL, "resnetv2")
def test_activation_checkpointing_inside_blocks(name):
    network, views = made(*SMALL[name])
    stored = by_hand(network, views, Loop())
    for block in blocks_of(network):
        largest, inner = max(block.module.named_children(), key=lambda child: size(child[1]))
        block.module.register_module(largest, Checkpointed(inner))
    check(network, views, Loop())
    for one, two in zip(stored[0], by_hand(network, views, Loop())[0], strict=True):
        torch.testing.assert_close(one, two, rtol=TOLERANCE, atol=TOLERANCE)


def test_activation_checkpointing_around_blocks_as_timm_has_it():
    network, views = made(*SMALL["vit"])
    stored = by_hand(network, views, Loop())
    network.set_grad_checkpointing()
    names = [block.name for block in blocks_of(network)]
    recorder = AlignmentRecorder(network, names, rule=RULE, every=1, views="separate")
    with recorder.step():
        Loop()(network, views).backward()
    compare(recorder.dataset().isel(step=0), *stored)


@some(SMALL, "resnetv2")
def test_frozen_blocks_and_norms_in_eval_mode(name):
    network, views = made(*SMALL[name])
    blocks = blocks_of(network)
    blocks[0].module.requires_grad_(False)
    for parameter in [*blocks[1].parameters.values()][::2]:
        parameter.requires_grad_(False)
    blocks[0].module.eval()
    check(network, views, Loop())


@some(SMALL, "vit")
def test_weights_that_layers_of_a_block_share(name):
    network, views = made(*SMALL[name])
    for block in blocks_of(network):
        modules = [
            m for m in block.module.modules() if hasattr(m, "weight") and m.weight is not None
        ]
        for l, first in enumerate(modules):
            for second in modules[l + 1 :]:
                if first.weight.shape == second.weight.shape:
                    second.weight = first.weight
    counted = [len(block.parameters) for block in blocks_of(network)]
    before = [len(block.parameters) for block in blocks_of(made(*SMALL[name])[0])]
    assert any(a < b for a, b in zip(counted, before, strict=True))
    check(network, views, Loop())


@some(SMALL, "vit")
def test_a_moving_average_of_the_weights_is_the_teacher(name):
    network, views = made(*SMALL[name])
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    average.update_parameters(network)
    teacher = average.module.eval()
    check(network, views, Loop(), teacher)
    # A copy that nobody declared is no part of the step.
    network.zero_grad()
    check(network, views, with_an_average(average))


def with_an_average(average):
    def call(network, x):
        output = network(x)
        with torch.no_grad():
            average(x)
        return output

    return Loop(call)


@some(SMALL, "mixer")
def test_autocast_agrees_to_its_precision(name):
    network, views = made(*SMALL[name], rows=16)
    exact, *_ = by_hand(network.eval(), views, Loop())
    network = network.float()
    views = [view.float() for view in views]

    def call(model, x):
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).float()

    check(network, views, Loop(call), tolerance=4 * torch.finfo(torch.bfloat16).eps)
    rounded, *_ = by_hand(network, views, Loop(call))
    assert any(abs(a.norm() - b.norm()) > 1e-6 for a, b in zip(exact, rounded, strict=True))


# -- two processes ---------------------------------------------------------------------------------


def half(rank, views):
    return [view.chunk(2)[rank] for view in views]


def in_one_process(fabric, folder, name):
    network, views = made(*SMALL[name], rows=2 * ROWS)
    names = [block.name for block in blocks_of(network)]
    wrapped = DistributedDataParallel(network)
    way = {"every": 1, "path": folder, "views": "separate"}
    with AlignmentRecorder(wrapped, names, rule=RULE, **way) as recorder, recorder.step():
        loop = Loop(seed=fabric.global_rank)
        loop(wrapped, half(fabric.global_rank, views)).backward()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["resnetv2", "vit"])
def test_two_processes_average_their_gradients(name, tmp_path, pair):
    pair(__file__, "in_one_process", tmp_path / "series", name)
    network, views = made(*SMALL[name], rows=2 * ROWS)
    halves = [by_hand(network, half(rank, views), Loop(seed=rank)) for rank in range(2)]
    means = [
        [(a + b) / 2 for a, b in zip(*kind, strict=True)] for kind in zip(*halves, strict=True)
    ]
    compare(series.read(tmp_path / "series").isel(step=0), *means)
