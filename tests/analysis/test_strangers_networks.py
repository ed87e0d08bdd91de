"""Networks of torchvision and timm: align and the recorder against separate, detached programs.

The oracle shares no code with the instruments: it runs every block alone on a copy of its input,
with a loss and a mean over places that are written here, and backpropagates through the untouched
network. What it takes from the package is the division into blocks.
"""

import copy
import warnings
from importlib import import_module
from itertools import chain

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from experiments.networks import import_torchvision
from linlocal import rules
from linlocal.analysis.alignment import AlignmentRecorder, align
from linlocal.analysis.block import resolve
from linlocal.analysis.local_losses import NetworkRule

TOLERANCE = 1e-9
CLASSES, ROWS = 5, 6

tv = import_torchvision().models
timm = import_module("timm.models")  # which imports torchvision
STAGES = tv.convnext.CNBlockConfig


# A network, the side of its images, and the axis of the channels in maps, where it is not 1.
NETWORKS = {
    "resnet": (lambda: tv.ResNet(tv.resnet.BasicBlock, [1, 1, 1, 1], CLASSES), 32),
    "mobilenet_v3": (lambda: tv.mobilenet_v3_small(num_classes=CLASSES, width_mult=0.25), 32),
    "shufflenet": (
        lambda: tv.ShuffleNetV2([2, 2, 2], [8, 16, 24, 32, 40], num_classes=CLASSES),
        32,
    ),
    "squeezenet": (lambda: tv.squeezenet1_1(num_classes=CLASSES), 48),
    "densenet": (lambda: tv.DenseNet(8, (2, 2), 16, num_classes=CLASSES), 32),
    "efficientnet": (
        lambda: tv.EfficientNet(
            [
                tv.efficientnet.MBConvConfig(1, 3, 1, 16, 16, 1),
                tv.efficientnet.MBConvConfig(4, 3, 2, 16, 24, 1),
            ],
            0.0,
            stochastic_depth_prob=0.0,
            num_classes=CLASSES,
        ),
        32,
    ),
    "regnet": (
        lambda: tv.RegNet(
            tv.regnet.BlockParams.from_init_params(4, 16, 16.0, 2.0, 8, se_ratio=0.25),
            num_classes=CLASSES,
        ),
        32,
    ),
    "mnasnet": (lambda: tv.MNASNet(0.25, num_classes=CLASSES, dropout=0.0), 32),
    "googlenet": (
        lambda: tv.GoogLeNet(num_classes=CLASSES, aux_logits=False, init_weights=False),
        32,
    ),
    "convnext": (
        lambda: tv.ConvNeXt(
            [STAGES(12, 20, 1), STAGES(20, 28, 1), STAGES(28, None, 1)],
            stochastic_depth_prob=0.0,
            num_classes=CLASSES,
        ),
        32,
    ),
    "swin": (
        lambda: tv.SwinTransformer(
            [2, 2], 12, [2, 2], [1, 3], [2, 2], stochastic_depth_prob=0.0, num_classes=CLASSES
        ),
        16,
        3,
    ),
    "vit": (lambda: tv.VisionTransformer(16, 4, 3, 2, 12, 24, num_classes=CLASSES), 16),
    "maxvit": (
        lambda: tv.MaxVit(
            (32, 32), 12, 4, [12, 24], [1, 1], 6, stochastic_depth_prob=0.0, num_classes=CLASSES
        ),
        32,
    ),
    "timm levit": (
        lambda: timm.Levit(
            img_size=64,
            embed_dim=(24, 40),
            key_dim=8,
            depth=(2, 2),
            num_heads=(2, 3),
            num_classes=CLASSES,
        ),
        64,
    ),
    "timm mixer": (
        lambda: timm.MlpMixer(
            img_size=16, patch_size=4, num_blocks=3, embed_dim=12, num_classes=CLASSES
        ),
        16,
    ),
    "timm swin": (
        lambda: timm.SwinTransformer(
            img_size=32,
            embed_dim=12,
            depths=(1, 2),
            num_heads=(2, 3),
            window_size=4,
            drop_path_rate=0.0,
            num_classes=CLASSES,
        ),
        32,
        3,
    ),
    "timm convnext": (
        lambda: timm.ConvNeXt(
            depths=(1, 1, 1, 1), dims=(12, 20, 24, 28), drop_path_rate=0.0, num_classes=CLASSES
        ),
        64,
    ),
    "timm vit": (
        lambda: timm.VisionTransformer(
            img_size=16, patch_size=4, embed_dim=12, depth=3, num_heads=2, num_classes=CLASSES
        ),
        16,
    ),
    "timm metaformer": (
        lambda: timm.MetaFormer(
            depths=(1, 1), dims=(12, 20), drop_path_rate=0.0, num_classes=CLASSES
        ),
        32,
    ),
    "timm xcit": (
        lambda: timm.Xcit(
            img_size=32,
            patch_size=8,
            embed_dim=12,
            depth=4,
            num_heads=2,
            cls_attn_layers=1,
            eta=1.0,
            num_classes=CLASSES,
        ),
        32,
    ),
}


def made(name):
    make, side, *axis = NETWORKS[name]
    torch.manual_seed(0)
    network = make().double()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    # Far from the start, where many layers are zero or one.
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    x = torch.randn(ROWS, 3, side, side, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a small network has a large stem
        blocks = resolve(network)
    return network, x, blocks, axis[0] if axis else 1


def loss(z, axis):
    """Forward-Forward: softplus(1 - g+) + softplus(g- - 1), g the mean square of averaged maps."""
    channels = {2: 1, 3: 2, 4: axis}[z.ndim]
    mean = z.mean([a for a in range(1, z.ndim) if a != channels])
    good, bad = mean.square().mean(1).split(ROWS // 2)
    return F.softplus(1 - good).mean() + F.softplus(bad - 1).mean()


RULE = NetworkRule(rule=rules.ForwardForward(1.0), pooling="global", goodness="mean")


def detached(value):
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def inputs_of(network, blocks, x):
    """Copies of what every block is called with."""
    seen = []

    def note(module, args, kwargs):
        seen.append((module, tuple(detached(a) for a in args), kwargs))

    handles = [b.members[0].register_forward_pre_hook(note, with_kwargs=True) for b in blocks]
    with torch.no_grad():
        network(x)
    for handle in handles:
        handle.remove()
    assert [module for module, *_ in seen] == [b.members[0] for b in blocks]
    return [(args, kwargs) for _, args, kwargs in seen]


def alone(block, args, kwargs):
    first, *others = block.members
    z = first(*args, **kwargs)
    for member in others:
        z = member(z)
    return z


def gradients(value, parameters, **options):
    found = torch.autograd.grad(value, parameters, allow_unused=True, **options)
    pairs = zip(found, parameters, strict=True)
    return [torch.zeros_like(p) if g is None else g for g, p in pairs]


def local_oracle(network, x, blocks, axis):
    """The gradient of each block's own loss, from a program of its own for each."""
    network, blocks = copy.deepcopy((network, blocks))
    return [
        gradients(loss(alone(block, *given), axis), [*block.parameters.values()])
        for block, given in zip(blocks, inputs_of(network, blocks, x), strict=True)
    ]


def global_oracle(network, x, blocks, axis, global_loss):
    """The gradient of one loss by each block, by plain backpropagation."""
    network, blocks = copy.deepcopy((network, blocks))
    top = []
    handle = blocks[-1].module.register_forward_hook(lambda m, args, z: top.append(z.clone()))
    output = network(x)
    handle.remove()
    value = global_loss(output) if global_loss else loss(top[-1], axis)
    left = iter(gradients(value, [p for block in blocks for p in block.parameters.values()]))
    return [[next(left) for _ in block.parameters] for block in blocks]


def flat(tensors):
    return np.concatenate([t.detach().numpy().ravel() for t in tensors])


def compare(measured, local, global_):
    for l, (ours, theirs) in enumerate(zip(local, global_, strict=True)):
        a, b = flat(ours), flat(theirs)
        at = measured.isel(layer=l)
        assert abs(float(at.local_norm) / np.linalg.norm(a) - 1) < TOLERANCE, at.block.item()
        assert abs(float(at.global_norm) / np.linalg.norm(b) - 1) < TOLERANCE, at.block.item()
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert abs(float(at.cosine) - cosine) < TOLERANCE, at.block.item()
    pairs = zip(chain(*local), chain(*global_), strict=True)
    for at, (a, b) in enumerate(pairs):
        measure = measured.isel(parameter=at)
        scale = measured.local_norm.max() + measured.global_norm.max()
        assert abs(float(measure.parameter_local_norm) - float(a.norm())) < TOLERANCE * scale
        assert abs(float(measure.parameter_global_norm) - float(b.norm())) < TOLERANCE * scale


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_detached_blocks_and_of_plain_backpropagation(name):
    network, x, blocks, axis = made(name)
    names = [block.name for block in blocks]
    local = local_oracle(network, x, blocks, axis)

    measured = align(network, names, RULE, x)
    compare(measured, local, global_oracle(network, x, blocks, axis, None))
    # The last block's own loss is the global one.
    assert abs(float(measured.cosine[-1]) - 1) < TOLERANCE
    assert (measured.cosine[:-1] < 0.9999).any()

    def global_loss(output):
        logits = output[0] if isinstance(output, tuple) else output
        return F.cross_entropy(logits, torch.arange(ROWS) % CLASSES)

    global_ = global_oracle(network, x, blocks, axis, global_loss)
    recorder = AlignmentRecorder(network, names, rule=RULE, every=1)
    with recorder.step():
        global_loss(network(x)).backward()
    compare(recorder.dataset().isel(step=0), local, global_)
    # Nothing is added to what the training itself accumulates.
    for block, gradients_of_block in zip(blocks, global_, strict=True):
        for parameter, gradient in zip(block.parameters.values(), gradients_of_block, strict=True):
            own = torch.zeros_like(gradient) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(own, gradient, rtol=TOLERANCE, atol=TOLERANCE)
