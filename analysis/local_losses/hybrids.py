"""Negative data for Forward-Forward: hybrids of two images with a smooth mask."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from linlocal import inputs


def hybrid_images(images: Tensor, generator: torch.Generator, rounds: int = 6) -> Tensor:
    """Negatives of patches of two images, mask * image + (1 - mask) * next: only long order breaks.

    The mask is random bits, blurred ``rounds`` times with (1/4, 1/2, 1/4) along both axes and cut
    at 1/2; Hinton 2022 (arXiv 2212.13345), section 3.2. A batch for `ForwardForward` is
    ``torch.cat([images, hybrid_images(images, generator)])``.

    No hybrid is a positive image: each of the two gives at least an eighth of the pixels in which
    they differ, and no hybrid equals an image of the batch. Masks for which this fails, as small
    ones that are all ones, are drawn again; after ten draws with the image after the next.

    Args:
        images: (samples, channels, height, width).
        generator: draws the masks, on the device of the images.
        rounds: how often the masks are blurred; more rounds make larger patches.

    Returns:
        As many hybrids, shaped like ``images``.

    Raises:
        ValueError: no batch of images, or fewer than 2; or no mask makes such a hybrid, as the
            images are too small, or equal.
    """
    inputs.instance(images, Tensor, "images", "a tensor (torch.from_numpy makes one)")
    inputs.instance(generator, torch.Generator, "generator", "a torch.Generator")
    if images.ndim != 4 or len(images) < 2:
        raise ValueError(
            "Hybrids need at least 2 images (samples, channels, height, width), got shape "
            f"{tuple(images.shape)}."
        )
    rounds = inputs.whole(rounds, "rounds", 0)
    real, made = _keys(images), images.clone()
    rows = torch.arange(len(images), device=images.device)
    for attempt in range(_ATTEMPTS):
        shift = 1 + attempt // _DRAWS_EACH % (len(images) - 1)
        own, other = images[rows], images[(rows + shift) % len(images)]
        mask = _masks((len(rows), 1, *images.shape[2:]), generator, rounds)
        hybrids = torch.where(mask, own, other)
        made[rows] = hybrids
        different = (own != other).any(1, keepdim=True)
        from_own = (mask & different).flatten(1).sum(1)
        from_other = (~mask & different).flatten(1).sum(1)
        too_few = torch.minimum(from_own, from_other) * _SHARE < from_own + from_other
        rows = rows[too_few | torch.isin(_keys(hybrids), real)]
        if not len(rows):
            return made
    raise ValueError(
        f"{len(rows)} of {len(images)} images, number {int(rows[0])} for example, have no hybrid "
        f"of {images.shape[2]}x{images.shape[3]} pixels that is not (nearly) an image of the batch "
        f"itself: {_ATTEMPTS} masks were drawn. Take larger images, fewer rounds than {rounds}, or "
        "a batch without equal images."
    )


_ATTEMPTS, _DRAWS_EACH = 100, 10
# Each of the two images gives at least one in so many of the pixels in which they differ.
_SHARE = 8


def _masks(size: tuple[int, ...], generator: torch.Generator, rounds: int) -> Tensor:
    mask = torch.randint(0, 2, size, generator=generator, device=generator.device).float()
    blur = torch.tensor([0.25, 0.5, 0.25], device=mask.device)
    kernel = torch.outer(blur, blur)[None, None]
    for _ in range(rounds):
        mask = functional.conv2d(functional.pad(mask, (1, 1, 1, 1), "replicate"), kernel)
    return mask > 0.5


def _keys(images: Tensor) -> Tensor:
    """A number for each image: equal ones have equal numbers, others (nearly) never."""
    bits = (images.float().flatten(1) + 0.0).view(torch.int32)  # 0.0 is -0.0, with other bits
    weights = torch.arange(1, bits.shape[1] + 1, device=bits.device) * 2654435761 % 2**31 | 1
    return (bits * weights.to(torch.int32)).sum(1)
