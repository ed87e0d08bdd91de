"""Batches of image patches as in Wu et al. 2026 (arXiv 2601.21683)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from experiments.data.contract import Array
from experiments.data.errors import DataError
from experiments.data.grey_register import load_images
from linlocal import Pairs

PIXELS = 28
PATCH = 14
PATCH_WIDTH = PATCH**2  # width of the input of every network that reads patches


def sources(folder: Path | None) -> tuple[str, ...]:
    """The kinds of images to measure on: always two that need no download, MNIST where it is."""
    ours = ("photographs", "digits")
    return ours if folder is None else (*ours, "mnist")


def standardised(images: Array) -> Array:
    """``images`` minus their mean, over their standard deviation; one number for all pixels.

    Raises:
        DataError: all pixels are the same, so the standard deviation is 0.
    """
    if not images.size or images.min() == images.max():
        raise DataError(
            f"All pixels of the {len(images)} images are the same, so they have no standard "
            "deviation: draw more images, or look at the file that they come from."
        )
    centred: Array = images - images.mean()
    return centred / centred.std()


def patch_batches(
    source: str,
    batches: int,
    images_per_batch: int,
    seed: int,
    folder: Path | None,
    negatives: Literal["next", "stacked"] = "next",
) -> list[Pairs]:
    """Batches of vertically adjacent 14x14 patches of 28x28 images, both columns.

    Args:
        source: the kind of images.
        batches: number of batches.
        images_per_batch: each gives two positive pairs per view direction; the negative is the same
            place in the next image.
        seed: seeds the draw of images.
        folder: the folder of MNIST.
        negatives: "next" is next among the patches of one row, "stacked" (as published) next in the
            stack of both rows; see `linlocal.Pairs`.

    Returns:
        One `Pairs` per batch; samples are standardised over all batches together.
    """
    images = load_images(source, batches * images_per_batch, PIXELS, seed, folder)
    blocks = standardised(images).reshape(batches, images_per_batch, PIXELS, PIXELS)
    return [Pairs.from_image_patches(block, PATCH, negatives=negatives) for block in blocks]
