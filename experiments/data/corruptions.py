"""The corruptions of ImageNet-C, made on the device for images of any channels and range.

Hendrycks & Dietterich 2019 (arXiv 1903.12261). Each image is shifted and scaled to the mean and
standard deviation of ImageNet's pixels in 0..1, corrupted with the constants of ImageNet-C, and
taken back: strengths are in units of the image's own standard deviation, and constant images stay
as they are. Nothing is clipped, because such images have no bounds. Lengths are the published
shares of a side of 224 pixels; sides below 32 count as 32, where shares would be less than a pixel.
Of the 15 types frost is missing (it lays photographs over the image); snow, glass, fog and elastic
are simplified. Copies on disk are read by `corrupted_folder`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from experiments.data.errors import DataError
from experiments.data.folder import ImageFolder
from linlocal.analysis.results import known_name
from linlocal.seeds import generator_for

Corruption = Callable[[Tensor, int, Generator], Tensor]

SEVERITIES = (1, 2, 3, 4, 5)
# Mean and deviation of ImageNet's pixels, averaged over the three channels.
_MEAN, _STD = 0.449, 0.226
_SIDE, _LEAST_SIDE = 224, 32

CORRUPTIONS: dict[str, Corruption] = {}


def corrupt(images: Tensor, name: str, severity: int, seed: int) -> Tensor:
    """Images with one corruption, the same for the same arguments.

    Args:
        images: (N, channels, height, width) floats of any range.
        name: a name in `CORRUPTIONS`.
        severity: 1..5.
        seed: seeds what is drawn, which is the same at every severity.

    Returns:
        Shape, type and device of ``images``.

    Raises:
        ResultError: an unknown name.
        ValueError: another severity, or no batch of images.
        TypeError: images that are not floats.
    """
    known_name("corruption", name, CORRUPTIONS)
    key = int(generator_for(f"corruption {name}", seed).integers(2**62))
    generator = Generator(images.device).manual_seed(key)
    return CORRUPTIONS[name](images, severity, generator)


def corrupted_folder(
    folder: Path, name: str, severity: int, size: int, classes: tuple[str, ...] | None = None
) -> ImageFolder:
    """The images of ``folder/NAME/SEVERITY/CLASS/FILE``, as ImageNet-C is unpacked.

    Args:
        folder: the folder that holds a folder for each corruption.
        name: name of a corruption that lies there.
        severity: 1..5.
        size: side of the images.
        classes: the classes of the training folder, see `experiments.data.folder.ImageFolder`.

    Raises:
        DataError: no such folder (the message names those that exist), or no images in it.
        ValueError: another severity.
    """
    _require_severity(severity)
    inner = folder / name / str(severity)
    if not inner.is_dir():
        found = sorted(path.name for path in folder.glob("*") if (path / str(severity)).is_dir())
        raise DataError(
            f"There is no folder {inner}; with severity {severity} {folder} has "
            f"{', '.join(found) or 'no corruption'}. Expected CORRUPTION/SEVERITY/CLASS/FILE."
        )
    return ImageFolder(inner, size, classes)


def _require_severity(severity: int) -> None:
    if severity not in SEVERITIES:
        raise ValueError(
            f"severity must be one of 1..5, got {severity!r}; for clean images corrupt nothing."
        )


def _corruption(*strengths: Any) -> Callable[[Callable[..., Tensor]], Corruption]:
    """Register a function of images in ImageNet's units, a strength and a generator."""

    def register(function: Callable[..., Tensor]) -> Corruption:
        @wraps(function)
        def corruption(images: Tensor, severity: int, generator: Generator) -> Tensor:
            _require_severity(severity)
            if images.ndim != 4 or not images.numel():
                raise ValueError(
                    "Expected a batch of images (N, channels, height, width), got shape "
                    f"{tuple(images.shape)}."
                )
            if not images.is_floating_point():
                raise TypeError(
                    f"Expected images of floats, got {images.dtype}; divide bytes by 255."
                )
            x = images.float()
            mean = x.mean((1, 2, 3), keepdim=True)
            scale = x.std((1, 2, 3), correction=0, keepdim=True) / _STD
            unit = _MEAN + (x - mean) / torch.where(scale > 0, scale, 1.0)
            corrupted = function(unit, strengths[severity - 1], generator)
            return (mean + (corrupted - _MEAN) * scale).to(images.dtype)

        CORRUPTIONS[function.__name__] = corruption
        return corruption

    return register


# -- noise ---------------------------------------------------------------------------------------


def _normal(like: Tensor, generator: Generator, shape: Sequence[int] | None = None) -> Tensor:
    return torch.randn(shape or like.shape, generator=generator, device=like.device)


def _uniform(like: Tensor, generator: Generator, shape: Sequence[int] | None = None) -> Tensor:
    return torch.rand(shape or like.shape, generator=generator, device=like.device)


@_corruption(0.08, 0.12, 0.18, 0.26, 0.38)
def gaussian_noise(x: Tensor, deviation: float, generator: Generator) -> Tensor:
    """x + deviation N(0, 1)."""
    return x + deviation * _normal(x, generator)


@_corruption(60, 25, 12, 5, 3)
def shot_noise(x: Tensor, photons: float, generator: Generator) -> Tensor:
    """Poisson(photons x) / photons, of what is above 0."""
    rate = photons * x.clamp_min(0)
    return x + (torch.poisson(rate, generator) - rate) / photons


@_corruption(0.03, 0.06, 0.09, 0.17, 0.27)
def impulse_noise(x: Tensor, share: float, generator: Generator) -> Tensor:
    """A share of the pixels at 0 or 1."""
    drawn = _uniform(x, generator)
    return torch.where(drawn < share / 2, 0.0, torch.where(drawn < share, 1.0, x))


# -- blur ----------------------------------------------------------------------------------------


def _pixels(x: Tensor, length: float) -> float:
    """A length at 224 pixels in pixels of these images."""
    return length * max(min(x.shape[2:]), _LEAST_SIDE) / _SIDE


def _blurred(x: Tensor, deviation: float) -> Tensor:
    from kornia.filters import gaussian_blur2d  # slow to import

    size = 2 * math.ceil(3 * deviation) + 1
    return gaussian_blur2d(x, size, (deviation, deviation), "replicate")


def _moved(x: Tensor, offsets: Tensor) -> Tensor:
    """Each pixel from where its offset points, (N or 1, 2, height, width): right and down."""
    height, width = x.shape[2:]
    sides = torch.tensor([width, height], device=x.device)
    rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
    places = places + offsets.permute(0, 2, 3, 1).expand(len(x), -1, -1, -1)
    grid = (2 * places + 1) / sides - 1
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


@_corruption(3, 4, 6, 8, 10)
def defocus_blur(x: Tensor, radius: float, generator: Generator) -> Tensor:
    """Averages over a disk with a soft edge."""
    from kornia.filters import filter2d

    radius = _pixels(x, radius)
    reach = math.ceil(radius) + 2
    along = torch.arange(-reach, reach + 1, device=x.device)
    distance = torch.hypot(along[:, None].float(), along.float())
    disk = _blurred((radius + 0.5 - distance).clamp(0, 1)[None, None], 0.5)[0]
    return filter2d(x, disk / disk.sum(), "replicate")


@_corruption((0.7, 1), (0.9, 1.5), (1, 2), (1.1, 3), (1.5, 4))
def glass_blur(x: Tensor, strength: tuple[float, float], generator: Generator) -> Tensor:
    """Every pixel from a place nearby, between two blurs."""
    deviation, reach = (_pixels(x, length) for length in strength)
    offsets = 2 * _uniform(x, generator, (len(x), 2, *x.shape[2:])) - 1
    return _blurred(_moved(_blurred(x, deviation), reach * offsets), deviation)


def _dragged(x: Tensor, deviation: float, generator: Generator) -> Tensor:
    """Averages along a line of -45 to 45 degrees, with the weights of half a Gaussian."""
    taps = max(math.ceil(2 * deviation), 8) + 1
    angle = (_uniform(x, generator, (len(x), 1, 1, 1)) - 0.5) * math.pi / 2
    direction = torch.cat([angle.cos(), angle.sin()], 1).expand(-1, -1, *x.shape[2:])
    distances = torch.linspace(0, 2, taps).tolist()
    weights = [math.exp(-(d**2) / 2) for d in distances]
    parts = zip(weights, distances, strict=True)
    total = sum(w * _moved(x, d * deviation * direction) for w, d in parts)
    return torch.as_tensor(total) / sum(weights)


@_corruption(3, 5, 8, 12, 15)
def motion_blur(x: Tensor, deviation: float, generator: Generator) -> Tensor:
    """Averages along a random line."""
    return _dragged(x, _pixels(x, deviation), generator)


@_corruption(1.10, 1.15, 1.20, 1.25, 1.31)
def zoom_blur(x: Tensor, largest: float, generator: Generator) -> Tensor:
    """The average of 11 magnifications, from 1 on."""
    height, width = x.shape[2:]
    across, down = (torch.arange(n, device=x.device) - (n - 1) / 2 for n in (width, height))
    centred = torch.stack(torch.meshgrid(across, down, indexing="xy"))[None]
    factors = torch.linspace(1, largest, 11).tolist()
    return torch.stack([_moved(x, (1 / f - 1) * centred) for f in factors]).mean(0)


# -- weather -------------------------------------------------------------------------------------


@_corruption(
    (0.1, 3, 0.5, 4, 0.8),
    (0.2, 2, 0.5, 4, 0.7),
    (0.55, 4, 0.9, 8, 0.7),
    (0.55, 4.5, 0.85, 8, 0.65),
    (0.55, 2.5, 0.85, 12, 0.55),
)
def snow(x: Tensor, strength: tuple[float, ...], generator: Generator) -> Tensor:
    """Flakes that fall along a line, in front of a whitened image."""
    mean, size, threshold, drag, clear = strength
    coarse = [math.ceil(side / max(_pixels(x, size), 1)) for side in x.shape[2:]]
    flakes = mean + 0.3 * _normal(x, generator, (len(x), 1, *coarse))
    flakes = F.interpolate(flakes, x.shape[2:], mode="bilinear", align_corners=False)
    flakes = torch.where(flakes < threshold, 0.0, flakes.clamp_max(1))
    flakes = _dragged(flakes, _pixels(x, drag), generator)
    white = torch.maximum(x, 1.5 * x.mean(1, keepdim=True) + 0.5)
    return clear * x + (1 - clear) * white + flakes + flakes.rot90(2, (2, 3))


@_corruption(1.5, 2, 2.5, 3, 3.5)
def fog(x: Tensor, thickness: float, generator: Generator) -> Tensor:
    """A plasma fractal on top, and the brightest pixel as bright as before."""
    from kornia.contrib import diamond_square

    plasma = diamond_square(
        (len(x), 1, x.shape[2], x.shape[3]),
        random_fn=partial(torch.rand, generator=generator),
        normalize_range=(0, 1),
        device=x.device,
        dtype=x.dtype,
    )
    brightest = x.amax((1, 2, 3), keepdim=True)
    return (x + thickness * plasma) * brightest / (brightest + thickness)


@_corruption(0.1, 0.2, 0.3, 0.4, 0.5)
def brightness(x: Tensor, shift: float, generator: Generator) -> Tensor:
    """x + shift."""
    return x + shift


# -- digital -------------------------------------------------------------------------------------


@_corruption(0.4, 0.3, 0.2, 0.1, 0.05)
def contrast(x: Tensor, share: float, generator: Generator) -> Tensor:
    """Differences from the mean of the channel, scaled down."""
    mean = x.mean((2, 3), keepdim=True)
    return mean + share * (x - mean)


@_corruption(2, 4, 6, 8, 10)
def elastic_transform(x: Tensor, length: float, generator: Generator) -> Tensor:
    """A smooth random displacement of about this length, independent beyond a fourth of a side."""
    coarse = _normal(x, generator, (len(x), 2, 5, 5))
    smooth = F.interpolate(coarse, x.shape[2:], mode="bicubic", align_corners=True)
    return _moved(x, _pixels(x, length) * smooth)


@_corruption(0.6, 0.5, 0.4, 0.3, 0.25)
def pixelate(x: Tensor, share: float, generator: Generator) -> Tensor:
    """Averages over cells, as if there were fewer pixels."""
    down, across = (_cells(x, side, share) for side in x.shape[2:])
    return down @ x @ across


def _cells(x: Tensor, side: int, share: float) -> Tensor:
    """The (symmetric) projection on what is constant in each of ``share * side`` cells."""
    cells = torch.arange(side, device=x.device) * max(round(share * side), 1) // side
    same = (cells[:, None] == cells).to(x)
    return same / same.sum(0)


@_corruption(25, 18, 15, 10, 7)
def jpeg_compression(x: Tensor, quality: float, generator: Generator) -> Tensor:
    """Compression of each channel as a grey image, its range filling the bytes."""
    from kornia.enhance import jpeg_codec_differentiable

    height, width = x.shape[2:]
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    span = torch.where(high > low, high - low, 1.0)
    grey = ((x - low) / span).flatten(0, 1)[:, None]
    grey = F.pad(grey, (0, -width % 16, 0, -height % 16), mode="replicate").expand(-1, 3, -1, -1)
    done = jpeg_codec_differentiable(grey, torch.tensor([quality], device=x.device))
    return low + span * done[:, 0, :height, :width].unflatten(0, x.shape[:2])
