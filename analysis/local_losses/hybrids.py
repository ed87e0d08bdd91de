"""Negative data for Forward-Forward: hybrids of two images with a smooth mask."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from linlocal import inputs


def hybrid_images(images: Tensor, generator: torch.Generator, rounds: int = 6) -> Tensor:
    """mask * image + (1 - mask) * next image: keeps short correlations and breaks long ones.

    The mask is random bits, blurred ``rounds`` times with (1/4, 1/2, 1/4) along both axes and cut
    at 1/2; Hinton 2022 (arXiv 2212.13345), section 3.2. A batch for `ForwardForward` is
    ``torch.cat([images, hybrid_images(images, generator)])``.

    Args:
        images: (samples, channels, height, width).
        generator: draws the masks, on the device of the images.
        rounds: how often the masks are blurred; more rounds make larger patches.

    Returns:
        As many hybrids, shaped like ``images``.

    Raises:
        ValueError: no batch of images, or fewer than 2.
    """
    inputs.instance(images, Tensor, "images", "a tensor (torch.from_numpy makes one)")
    inputs.instance(generator, torch.Generator, "generator", "a torch.Generator")
    if images.ndim != 4 or len(images) < 2:
        raise ValueError(
            "Hybrids need at least 2 images (samples, channels, height, width), got shape "
            f"{tuple(images.shape)}."
        )
    rounds = inputs.whole(rounds, "rounds", 0)
    size = (len(images), 1, *images.shape[2:])
    mask = torch.randint(0, 2, size, generator=generator, device=images.device).float()
    blur = torch.tensor([0.25, 0.5, 0.25], device=images.device)
    kernel = torch.outer(blur, blur)[None, None]
    for _ in range(rounds):
        mask = functional.conv2d(functional.pad(mask, (1, 1, 1, 1), "replicate"), kernel)
    return torch.where(mask > 0.5, images, images.roll(-1, 0))
