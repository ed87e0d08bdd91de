"""Images for self-supervised training: two views of each, and labels to judge by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.data import augmentation
from experiments.data.archives import ImageData, load
from experiments.data.hierarchies import RHMImages
from linlocal.analysis.local_losses import (
    hybrid_images,
)
from linlocal.analysis.probing import stratified_split
from linlocal.rhm import RandomHierarchyModel
from linlocal.seeds import stream

SourceName = Literal["digits", "RHM images", "cifar10", "stl10", "tiny_imagenet"]
Labelled = tuple[Tensor, Tensor]

HELD_OUT = 0.2
# What the archives unpack to.
_FOLDERS: dict[SourceName, str] = {
    "cifar10": "cifar-10-batches-bin",
    "stl10": "stl10_binary",
    "tiny_imagenet": "tiny-imagenet-200",
}
_RHM_TEST = 512


def named_data(folder: Path | None) -> tuple[SourceName, ...]:
    """The data sets of natural images whose unpacked archives lie in a folder."""
    if folder is None:
        return ()
    return tuple(name for name, inner in _FOLDERS.items() if (folder / inner).is_dir())


@dataclass(frozen=True)
class Images:
    """Images in 0..1 (of the RHM: of mean 0), split three ways.

    Attributes:
        known: all training images and their labels.
        rows: of ``known``, to learn from.
        held_out: the other rows, to choose learning rates by.
        test: images and labels, to report.
        num_classes: how many classes there are.
        make_views: from rows of ``known`` and a seed to both views, stacked (2N, ...).
    """

    known: Labelled
    rows: Tensor
    held_out: Tensor
    test: Labelled
    num_classes: int
    make_views: Callable[[Tensor, int], Tensor]

    @property
    def train(self) -> Labelled:
        """Images to learn from and their labels."""
        return self.known[0][self.rows], self.known[1][self.rows]

    @property
    def validation(self) -> Labelled:
        """Images to choose learning rates by and their labels."""
        return self.known[0][self.held_out], self.known[1][self.held_out]

    def views(self, step: int, batch: int, seed: int) -> Tensor:
        """Both views of the batch of a step."""
        return self.make_views(self._batch(step, batch, seed), _view_seed(seed, step))

    def held_out_views(self, number: int, batch: int, seed: int) -> Labelled:
        """Both views of a batch that is never trained on, with the label of each."""
        rows = self.held_out[rows_of(number, len(self.held_out), batch, seed)]
        labels = self.known[1][rows].repeat(2)
        return self.make_views(rows, _view_seed(seed, -1 - number)), labels

    def labelled_views(self, step: int, batch: int, seed: int) -> Labelled:
        """The same as `views`, with the label of each."""
        labels = self.known[1][self._batch(step, batch, seed)]
        return self.views(step, batch, seed), labels.repeat(2)

    def _batch(self, step: int, batch: int, seed: int) -> Tensor:
        return self.rows[rows_of(step, len(self.rows), batch, seed)]


def with_hybrids(views: Tensor, seed: int) -> Tensor:
    """The first views, and hybrids of them in place of the second ones: for Forward-Forward."""
    first, _ = views.chunk(2)
    generator = torch.Generator(first.device).manual_seed(_view_seed(seed, 0))
    return torch.cat([first, hybrid_images(first, generator)])


# A sweep asks for the same images at point after point.
@lru_cache(maxsize=4)
def source(
    name: SourceName,
    seed: int,
    *,
    folder: Path | None = None,
    size: int | None = None,
    device: str = "cpu",
) -> Images:
    """Images of a data set.

    Args:
        name: of the data set. The digits are seen through shifts by up to a pixel and noise,
            natural images through the augmentation of SimCLR; views of an RHM image (v = n = 8,
            m = 4, L = 2, 2x2 tuples) have everything below its latents of level 1 drawn anew.
        seed: of the splits (and of the grammar).
        folder: of natural images.
        size: side of the images, to which they are enlarged or reduced; None leaves them.
        device: where images and views are.

    Raises:
        DataError: files that are missing or damaged.
    """
    if name == "RHM images":
        return _rhm(seed, device)
    data = load(name, folder, seed=seed)
    train, test = (_resized(part, size).to(device) for part in (data.train, data.test))
    side, channels = train.shape[-1], train.shape[1]
    augment = augmentation.mild(side) if name == "digits" else augmentation.simclr(side, channels)
    rest, held_out = map(torch.from_numpy, stratified_split(data.train_labels, HELD_OUT, seed))
    return _split(
        data,
        (train, test),
        (rest, held_out),
        lambda rows, view_seed: augmentation.two_views(train[rows], augment, view_seed),
    )


def _rhm(seed: int, device: str) -> Images:
    rhm = RandomHierarchyModel(
        num_classes=8, num_symbols=8, num_synonyms=4, num_levels=2, tuple_size=4, seed=seed
    )
    drawn = RHMImages(rhm, train=1280, test=_RHM_TEST, patch_size=2, seed=seed)
    data = drawn.data()
    rest, held_out = map(torch.from_numpy, stratified_split(data.train_labels, HELD_OUT, seed))
    train, test = (torch.as_tensor(part).to(device) for part in (data.train, data.test))
    return _split(
        data,
        (train, test),
        (rest, held_out),
        lambda rows, view_seed: drawn.two_views(rows.numpy(), level=1, seed=view_seed).to(device),
    )


def _split(
    data: ImageData,
    images: tuple[Tensor, Tensor],
    parts: tuple[Tensor, Tensor],
    make_views: Callable[[Tensor, int], Tensor],
) -> Images:
    (train, test), (rest, held_out) = images, parts
    known = (train, torch.from_numpy(data.train_labels).to(train.device))
    judged = (test, torch.from_numpy(data.test_labels).to(test.device))
    return Images(known, rest, held_out, judged, len(data.classes), make_views)


def _resized(images: object, size: int | None) -> Tensor:
    tensor = torch.as_tensor(images)
    pixels = tensor.float() / 255 if tensor.dtype == torch.uint8 else tensor
    if size is None or size == pixels.shape[-1]:
        return pixels
    return F.interpolate(pixels, (size, size), mode="bilinear", align_corners=True)


def _view_seed(seed: int, step: int) -> int:
    return int(stream("views of a batch", seed, step).integers(2**62))


def rows_of(step: int, count: int, size: int, seed: int) -> Tensor:
    """Rows of the batch of a step: each epoch is a new permutation, cut into whole batches."""
    per_epoch = max(count // size, 1)
    epoch, number = divmod(step, per_epoch)
    order = stream("epoch", seed, epoch).permutation(count)
    return torch.from_numpy(order[number * size : (number + 1) * size])


def in_batches(labelled: Labelled, size: int = 512) -> list[Labelled]:
    """Images and labels in pieces that fit into memory."""
    images, labels = labelled
    return list(zip(torch.split(images, size), torch.split(labels, size), strict=True))
