"""Images for self-supervised training: two views of each, and labels to judge by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.data.contract import Labelled, MakeViews
from experiments.data.labelled_register import known_sets, load
from experiments.data.pixels import LabelledPixels, Pixels, sized
from linlocal.analysis.local_losses import hybrid_images
from linlocal.analysis.probing import stratified_split
from linlocal.seeds import generator_for

HELD_OUT = 0.2


@dataclass(frozen=True)
class Images:
    """Images in 0..1 (those of the RHM have mean 0), split three ways.

    Images of files lie there as bytes, once for all seeds, and become floats batch by batch.

    Attributes:
        known: all training images and their labels.
        rows: the rows of ``known`` to learn from.
        held_out: the other rows, by which learning rates are chosen.
        test: images and labels on which results are reported.
        num_classes: number of classes.
        make_views: makes both views of rows of ``known``.
    """

    known: LabelledPixels
    rows: Tensor
    held_out: Tensor
    test: LabelledPixels
    num_classes: int
    make_views: MakeViews

    @property
    def train(self) -> tuple[Pixels, Tensor]:
        """Images to learn from and their labels."""
        return self._part(self.rows)

    @property
    def validation(self) -> tuple[Pixels, Tensor]:
        """Images to choose learning rates by and their labels."""
        return self._part(self.held_out)

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

    def _part(self, rows: Tensor) -> tuple[Pixels, Tensor]:
        images, labels = self.known
        return (images if isinstance(images, Pixels) else Pixels(images)).at(rows), labels[rows]

    def _batch(self, step: int, batch: int, seed: int) -> Tensor:
        return self.rows[rows_of(step, len(self.rows), batch, seed)]


def with_hybrids(views: Tensor, seed: int) -> Tensor:
    """The first views, and hybrids of them in place of the second views, for Forward-Forward."""
    first, _ = views.chunk(2)
    generator = torch.Generator(first.device).manual_seed(_view_seed(seed, 0))
    return torch.cat([first, hybrid_images(first, generator)])


# A sweep asks for the same images at point after point.
@lru_cache(maxsize=4)
def source(
    name: str,
    seed: int,
    *,
    folder: Path | str | None = None,
    size: int | None = None,
    device: str = "cpu",
) -> Images:
    """Images of a data set.

    Args:
        name: name of the data set.
        seed: seeds the splits, and the data where they are drawn.
        folder: where the files of the data set lie.
        size: side of the images, to which they are enlarged or reduced; None leaves them.
        device: the device on which images and views lie.

    Raises:
        DataError: unknown name, files that are missing or damaged.
    """
    # What lies in files is the same for every seed.
    from_files = name in known_sets() and known_sets()[name].FOLDER is not None
    stored = _stored(name, 0 if from_files else seed, folder, device)
    train, test = Pixels(stored.train, size), Pixels(stored.test, size)
    labels = stored.train_labels.cpu().numpy()
    rest, held_out = map(torch.from_numpy, stratified_split(labels, HELD_OUT, seed))
    make_views = known_sets()[name].views(train, seed)
    return Images(
        known=(train, stored.train_labels),
        rows=rest,
        held_out=held_out,
        test=(test, stored.test_labels),
        num_classes=stored.num_classes,
        make_views=lambda rows, view_seed: sized(make_views(rows, view_seed), size),
    )


class _Stored(NamedTuple):
    """A data set on a device."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    num_classes: int


@lru_cache(maxsize=4)
def _stored(name: str, seed: int, folder: Path | str | None, device: str) -> _Stored:
    data = load(name, folder, seed=seed)
    return _Stored(
        train=torch.as_tensor(data.train).to(device),
        train_labels=torch.from_numpy(data.train_labels).to(device),
        test=torch.as_tensor(data.test).to(device),
        test_labels=torch.from_numpy(data.test_labels).to(device),
        num_classes=len(data.classes),
    )


def _view_seed(seed: int, step: int) -> int:
    return int(generator_for("views of a batch", seed, step).integers(2**62))


def rows_of(step: int, count: int, size: int, seed: int) -> Tensor:
    """Rows of the batch of a step: each epoch is a new permutation, cut into whole batches."""
    per_epoch = max(count // size, 1)
    epoch, number = divmod(step, per_epoch)
    order = generator_for("epoch", seed, epoch).permutation(count)
    return torch.from_numpy(order[number * size : (number + 1) * size])


@dataclass(frozen=True)
class _Batches:
    """Images and labels in pieces, made anew whenever one goes through them."""

    images: Tensor | Pixels
    labels: Tensor
    size: int

    def __len__(self) -> int:
        return ceil(len(self.labels) / self.size)

    def __iter__(self) -> Iterator[Labelled]:
        pieces = zip(self.images.split(self.size), self.labels.split(self.size), strict=True)
        for piece, known in pieces:
            yield piece.contiguous(memory_format=torch.channels_last), known


def in_batches(labelled: LabelledPixels, size: int | None = None) -> _Batches:
    """Images and labels in pieces; one can go through them many times.

    On a processor, pieces whose maps fit into its caches, with the channels of a pixel side by
    side, take a third of the time: a network gives the same features to rounding.

    Args:
        labelled: the images and their labels.
        size: the number of images in a piece; by default one that suits the device.
    """
    if size is None:
        size = 64 if labelled[0].device.type == "cpu" else 512
    return _Batches(*labelled, size)
