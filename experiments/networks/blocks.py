"""Networks cut into a chain of blocks, and a small residual network in four stages."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linlocal.analysis.local_losses import ActivityNoise

# What comes before the stages of a ResNet, in torchvision and in timm.
_STEM = ("conv1", "bn1", "relu", "act1", "maxpool")


def cut(network: nn.Module, parts: int = 4, noise: ActivityNoise | None = None) -> nn.Sequential:
    """A network as a chain of blocks ``block1``, ``block2``, ... that share its weights.

    The parts of a network that follow its features (average pooling, classifier) are left out.

    Args:
        network: a ResNet (its 4 stages, the stem with the first), a ViT of timm (equal numbers of
            layers, the embedding with the first, the last normalisation with the last), or a
            Sequential of layers.
        parts: number of blocks.
        noise: module that adds noise to the input of each block but the first; None adds none.

    Raises:
        ValueError: another network, or parts that it cannot be cut into.
    """
    groups = _groups(network, parts)
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for l, group in enumerate(groups, start=1):
        before = [noise] if noise is not None and l > 1 else []
        blocks[f"block{l}"] = nn.Sequential(*before, *group)
    return nn.Sequential(blocks)


def _groups(network: nn.Module, parts: int) -> list[list[nn.Module]]:
    if all(hasattr(network, f"layer{l}") for l in range(1, 5)):
        if parts != 4:
            raise ValueError(f"A ResNet has 4 stages; it cannot be cut into {parts}.")
        stages = [[getattr(network, f"layer{l}")] for l in range(1, 5)]
        children = dict(network.named_children())
        stem = [children[name] for name in children if name in _STEM]
        return [[*stem, *stages[0]], *stages[1:]]
    if hasattr(network, "patch_embed"):
        vit: Any = network
        groups = _evenly(list(vit.blocks), parts)
        return [[_Embedding(vit), *groups[0]], *groups[1:-1], [*groups[-1], vit.norm]]
    if isinstance(network, nn.Sequential):
        return _evenly(list(network), parts)
    raise ValueError(
        f"{type(network).__name__} is no ResNet, ViT or Sequential: make a Sequential of its parts."
    )


def _evenly(layers: list[nn.Module], parts: int) -> list[list[nn.Module]]:
    if not 2 <= parts <= len(layers):
        raise ValueError(f"{len(layers)} layers cannot be cut into {parts} blocks.")
    ends = [round(len(layers) * k / parts) for k in range(parts + 1)]
    return [layers[a:b] for a, b in pairwise(ends)]


class _Embedding(nn.Module):
    """Images to tokens, as the ViT of timm does it."""

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.patch_embed, self.cls_token = vit.patch_embed, vit.cls_token
        self.pos_embed = vit.pos_embed

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch_embed(images)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        return tokens + self.pos_embed


def narrow_resnet(width: int, num_channels: int, layers: int = 1, seed: int = 0) -> nn.Sequential:
    """A small residual network in 4 stages, ``width`` to 8 ``width`` channels, halving maps thrice.

    The stages are made of the basic blocks of He et al. 2016 (arXiv 1512.03385); the stem is a 3x3
    convolution. Kernels lie in memory with channels last.

    Args:
        width: channels of the first stage.
        num_channels: channels of the images.
        layers: number of residual blocks in each stage.
        seed: seeds the weights; the global random state is left alone.
    """
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        stages: list[nn.Module] = []
        channels = width
        stem = [nn.Conv2d(num_channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        for l in range(4):
            out = width * 2**l
            parts = [
                _Residual(channels if k == 0 else out, out, 2 if l and k == 0 else 1)
                for k in range(layers)
            ]
            stages.append(nn.Sequential(*([*stem, nn.ReLU()] if l == 0 else []), *parts))
            channels = out
        network = nn.Sequential(*stages)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class _Residual(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.stride = stride
        self.skip: nn.Module = nn.Identity()
        if (stride, channels) != (1, out):
            self.skip = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        # A 1x1 convolution with a stride, of the places that it reads: the backward pass of the
        # former writes beyond its memory (torch 2.13 on CPU, 8 channels of 64 x 64, channels last).
        read = x[..., :: self.stride, :: self.stride]
        return F.relu(self.body(x) + self.skip(read))
