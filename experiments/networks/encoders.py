"""Encoders of the experiments, each an `nn.Module` whose blocks have names.

    vgg6               128, 256+M, 256, 512+M, 1024+M, 1024+M    of arXiv 2601.21683, small images
    vgg8               128, 256+M, 512+M, 512, 1024+M, 1024+M, 1024, 1024+M   the same, ImageNet
    resnet18, resnet50 of torchvision, without the classifier
    vit                of timm, 192 wide with 3 heads ("tiny"), without the classifier

A number stands for a block: a 3x3 convolution with that many channels and a ReLU. M stands for
max-pooling by 2.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import nn

Name = Literal["vgg6", "vgg8", "resnet18", "resnet50", "vit"]

# (channels, whether max-pooling follows) of each block
_VGG = {
    "vgg6": ((128, False), (256, True), (256, False), (512, True), (1024, True), (1024, True)),
    "vgg8": (
        *((128, False), (256, True), (512, True), (512, False)),
        *((1024, True), (1024, True), (1024, False), (1024, True)),
    ),
}
_VIT_DEPTH = 12
# None of them is used here, but torchvision expects them to exist.
_COMPILED_OPERATORS = ("nms", "qnms")
_declared: list[torch.library.Library] = []  # a library's operators vanish with it


def build(
    name: Name,
    *,
    width: float = 1.0,
    num_channels: int = 3,
    image_size: int = 32,
    depth: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """A network with fresh weights, the same for the same arguments.

    Kernels lie in memory with channels last, in which convolutions are faster on CPUs and GPUs.

    Args:
        name: see the module.
        width: factor on the channels of a VGG or the width of a ViT (rounded to its heads).
        num_channels: channels of the images.
        image_size: side of the images in pixels. Pooling is left out where a map has a single
            pixel already; a ResNet for images of up to 64 pixels begins with a 3x3 convolution
            without stride and pooling; patches of a ViT are 4, 8 or 16 pixels wide (images up to
            32, up to 96, larger).
        depth: number of blocks of "vit" or "vgg6" (which repeats its blocks, but pools only after
            the first repetition); None takes the usual number.
        seed: seeds the weights; the global random state is left alone.

    Raises:
        ValueError: an unknown name, or a number that the network does not have.
        ImportError: torchvision or timm is needed and missing.
    """
    names = block_names(name, depth)
    if num_channels < 1 or image_size < 1 or width <= 0:
        raise ValueError(
            "num_channels, image_size and width must be positive, got "
            f"{num_channels}, {image_size} and {width}."
        )
    with _seeded(seed):
        if name == "vit":
            return _vit(width, num_channels, image_size, len(names))
        if name in _VGG:
            layers = _repeated(_VGG[name], len(names))
            network: nn.Module = _vgg(layers, width, num_channels, image_size)
        elif width != 1:
            raise ValueError(f"{name} has a fixed width; use a VGG or a ViT, or width=1.")
        else:
            network = _resnet(name, num_channels, image_size)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def block_names(name: Name, depth: int | None = None) -> list[str]:
    """Names of the submodules that are the blocks 1..L, in forward order.

    Args:
        name: name of the network, as in `build`.
        depth: number of blocks, as in `build`.

    Raises:
        ValueError: an unknown name, or a depth that the network cannot have.
    """
    if name not in get_args(Name):
        raise ValueError(f"unknown network {name!r}; possible: {', '.join(get_args(Name))}.")
    least = len(_VGG["vgg6"]) if name == "vgg6" else 1
    if depth is not None and (name not in ("vgg6", "vit") or depth < least):
        raise ValueError(
            f"depth can be set for vgg6 (from {len(_VGG['vgg6'])}) and vit (from 1), got {depth} "
            f"for {name}; leave it out."
        )
    if name in _VGG:
        return [f"block{l}" for l in range(1, (depth or len(_VGG[name])) + 1)]
    if name == "vit":
        return [f"blocks.{l}" for l in range(depth or _VIT_DEPTH)]
    return [f"layer{l}" for l in range(1, 5)]


def import_torchvision() -> ModuleType:
    """Import torchvision, even where its compiled part does not fit torch.

    Beside a torch without CUDA the compiled part of the usual torchvision cannot be loaded, and its
    import then fails because operators do not exist. They are declared here, without an
    implementation: the models work, and so does timm; calling such an operator is an error.

    Raises:
        ImportError: it is not installed.
    """
    if "torchvision" not in sys.modules:
        spec = find_spec("torchvision")
        if spec is None or spec.origin is None:
            raise ImportError("This network needs torchvision: pip install 'linlocal[vision]'.")
        if not _compiled_part_loads(Path(spec.origin).parent):
            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in _COMPILED_OPERATORS:
                schema = f"{operator}(Tensor boxes, Tensor scores, float iou) -> Tensor"
                library.define(schema)
            _declared.append(library)
    return import_module("torchvision")


def _compiled_part_loads(folder: Path) -> bool:
    for path in (*folder.glob("_C*.so"), *folder.glob("_C*.pyd")):
        try:
            torch.ops.load_library(str(path))
        except OSError:
            continue
        return True
    return False


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # Not torch.manual_seed: that reseeds every GPU as well, and networks are made on the CPU.
    before = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(before)


def _repeated(layers: tuple[tuple[int, bool], ...], depth: int) -> list[tuple[int, bool]]:
    """Each layer repeated about equally often, the lower ones once more where it must be.

    Pooling follows the first repetition, so no block is larger than without repetitions.
    """
    repetitions, more = divmod(depth, len(layers))
    result = []
    for l, (channels, pool) in enumerate(layers):
        count = repetitions + (l < more)
        result += [(channels, pool)] + [(channels, False)] * (count - 1)
    return result


def _vgg(
    layers: list[tuple[int, bool]], width: float, num_channels: int, side: int
) -> nn.Sequential:
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for l, (channels, pool) in enumerate(layers, start=1):
        out = max(round(width * channels), 1)
        parts: list[nn.Module] = [nn.Conv2d(num_channels, out, 3, padding=1), nn.ReLU()]
        if pool and side > 1:
            parts.append(nn.MaxPool2d(2))
            side //= 2
        blocks[f"block{l}"] = nn.Sequential(*parts)
        num_channels = out
    return nn.Sequential(blocks)


def _resnet(name: str, num_channels: int, image_size: int) -> nn.Module:
    model: nn.Module = getattr(import_torchvision().models, name)(weights=None)
    model.fc = nn.Identity()
    if image_size <= 64:
        model.conv1 = nn.Conv2d(num_channels, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    elif num_channels != 3:
        model.conv1 = nn.Conv2d(num_channels, 64, 7, stride=2, padding=3, bias=False)
    return model


def _vit(width: float, num_channels: int, image_size: int, depth: int) -> nn.Module:
    patch = 4 if image_size <= 32 else 8 if image_size <= 96 else 16
    if image_size % patch:
        raise ValueError(
            f"A ViT cuts the image into patches of {patch} pixels, which do not fill {image_size}."
        )
    import_torchvision()  # timm imports it
    if find_spec("timm") is None:
        raise ImportError("A ViT needs timm: pip install 'linlocal[vision]'.")
    heads = 3
    model: nn.Module = import_module("timm.models.vision_transformer").VisionTransformer(
        img_size=image_size,
        patch_size=patch,
        in_chans=num_channels,
        num_classes=0,
        embed_dim=heads * max(round(width * 192 / heads), 1),
        depth=depth,
        num_heads=heads,
    )
    return model
