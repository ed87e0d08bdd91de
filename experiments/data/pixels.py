"""Images that stay as they were read until they are used."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F


class Pixels:
    """Some of many images: floats where they are indexed, bytes where they lie.

    As floats, a data set takes four times its bytes, and more where it is enlarged.

    Args:
        stored: (images, channels, height, width), bytes 0..255 that become 0..1, or floats, which
            stay what they are.
        size: side of the images, to which they are enlarged or reduced; None leaves them.
        rows: which of the stored images these are; None means all.
    """

    def __init__(self, stored: Tensor, size: int | None = None, rows: Tensor | None = None) -> None:
        self._stored, self._size, self._rows = stored, size, rows

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(images, channels, height, width) of all of them."""
        _, channels, height, width = self._stored.shape
        if self._size is not None:
            height = width = self._size
        return len(self), channels, height, width

    @property
    def device(self) -> torch.device:
        """Where they lie, and are made floats."""
        return self._stored.device

    def __len__(self) -> int:
        return len(self._stored if self._rows is None else self._rows)

    def __getitem__(self, chosen: int | slice | Tensor) -> Tensor:
        """One image, or a batch of several, as floats."""
        rows = chosen if self._rows is None else self._rows[chosen]
        images = self._stored[rows]
        if isinstance(chosen, int):
            return sized(as_floats(images[None]), self._size)[0]
        return sized(as_floats(images), self._size)

    def at(self, rows: Tensor) -> Pixels:
        """The images of these rows; nothing is copied."""
        return Pixels(self._stored, self._size, rows if self._rows is None else self._rows[rows])

    def split(self, size: int) -> Iterator[Tensor]:
        """All of them, ``size`` at a time."""
        return (self[first : first + size] for first in range(0, len(self), size))


LabelledPixels = tuple[Tensor | Pixels, Tensor]


def as_floats(images: Tensor) -> Tensor:
    """Bytes as floats in 0..1; floats as they are."""
    if images.dtype != torch.uint8:
        return images
    # By a tensor: a GPU multiplies by the reciprocal of a number, which is not quite the same.
    return images.float() / torch.full((), 255.0, device=images.device)


def sized(images: Tensor, size: int | None) -> Tensor:
    """Floats (N, channels, height, width) with sides of another length; None leaves them."""
    if size is None or size == images.shape[-1]:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=True)


def evenly_spaced(labelled: LabelledPixels, count: int | None) -> LabelledPixels:
    """At most so many images, from all over a data set that may be sorted by class; None: all."""
    images, labels = labelled
    if count is None or len(images) <= count:
        return labelled
    rows = torch.linspace(0, len(images) - 1, count).long()
    return images.at(rows) if isinstance(images, Pixels) else images[rows], labels[rows]
