"""Two augmented views of a batch of images, on the device where the images are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from experiments.data.contract import MakeViews
from experiments.data.pixels import Pixels


def simclr(
    size: int,
    num_channels: int = 3,
    strength: float = 0.5,
    *,
    smallest: float = 0.08,
    blurred: bool | None = None,
) -> nn.Module:
    """The augmentation of SimCLR (Chen et al. 2020, arXiv 2002.05709, appendix A).

    A random crop of 8 to 100 % of the area resized to ``size``, a flip, and for images in colour:
    colour jitter (with probability 0.8), grey (0.2). Images above 32 pixels are also blurred (0.5).

    Args:
        size: side of the views in pixels.
        num_channels: channels of the images; only three are taken to be colours.
        strength: strength of the jitter; the paper takes 1 for ImageNet and 0.5 for CIFAR-10.
        smallest: smallest share of the area that a crop covers.
        blurred: whether half of the views are blurred, if not by their size.
    """
    import kornia.augmentation as K  # slow to import

    steps: list[nn.Module] = [
        K.RandomResizedCrop((size, size), scale=(smallest, 1.0)),
        K.RandomHorizontalFlip(p=0.5),
    ]
    if num_channels == 3:
        jitter = 0.8 * strength
        steps += [
            K.ColorJitter(jitter, jitter, jitter, 0.2 * strength, p=0.8),
            K.RandomGrayscale(p=0.2),
        ]
    if size > 32 if blurred is None else blurred:
        side = max(size // 10, 3) | 1  # a tenth of the image, and odd
        steps.append(K.RandomGaussianBlur((side, side), (0.1, 2.0), p=0.5))
    return nn.Sequential(*steps)


def mild(size: int, noise: float = 0.05) -> nn.Module:
    """Shifts by up to a pixel and Gaussian noise: what leaves a digit of 8x8 pixels legible.

    Args:
        size: side of the images in pixels.
        noise: standard deviation, images being in 0..1.
    """
    import kornia.augmentation as K

    return nn.Sequential(
        K.RandomCrop((size, size), padding=1), K.RandomGaussianNoise(std=noise, p=1.0)
    )


def two_views(images: Tensor, augmentation: nn.Module, seed: int) -> Tensor:
    """Both views of each image, (2N, ...): row N + i is the other view of row i.

    Args:
        images: (N, channels, height, width), bytes or floats in 0..1.
        augmentation: `simclr`, `mild` or any other that draws from torch's random numbers for each
            row anew.
        seed: decides both views of the batch; the global random state is left alone.

    Raises:
        ValueError: not a batch of images.
    """
    if images.ndim != 4:
        raise ValueError(
            "Expected a batch of images (N, channels, height, width), got shape "
            f"{tuple(images.shape)}."
        )
    if images.dtype == torch.uint8:
        images = images.float() / 255
    # torch.manual_seed reseeds every GPU, so the state of every GPU is kept.
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices), torch.no_grad():
        torch.manual_seed(seed)
        views: Tensor = augmentation(torch.cat([images, images]))
    return views


def views_of(images: Tensor | Pixels, augmentation: nn.Module) -> MakeViews:
    """A function from rows of these images and a seed to both views of each, see `two_views`."""
    return lambda rows, seed: two_views(images[rows], augmentation, seed)
