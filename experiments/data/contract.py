"""What a data set is: what a module of `labelled_sets` or of `grey_sets` defines.

A file in one of these folders is a data set; nothing else lists it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from linlocal.analysis.probing import stratified_split

Array = NDArray[np.float64]
ImageArray = NDArray[np.uint8] | NDArray[np.float32]
LabelArray = NDArray[np.int64]
Labelled = tuple[Tensor, Tensor]
# From rows of the training images and a seed to both views, stacked (2N, ...).
MakeViews = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images with labels.

    Attributes:
        train: (samples, channels, height, width), bytes 0..255 or (for RHM images) floats.
        train_labels: (samples,) numbers of classes.
        test: as train.
        test_labels: as train_labels.
        classes: their names.
        unlabelled: further training images that have no label, read from disk when they are used.
    """

    train: ImageArray
    train_labels: LabelArray
    test: ImageArray
    test_labels: LabelArray
    classes: tuple[str, ...]
    unlabelled: ImageArray | None = None

    def without_test(self, fraction: float, seed: int) -> ImageData:
        """The training data split again, a stratified part of them in place of the test data.

        For every choice that must not see the test data.

        Args:
            fraction: of the training data that takes the place of the test data.
            seed: decides which.
        """
        rest, held_out = stratified_split(self.train_labels, fraction, seed)
        return replace(
            self,
            train=self.train[rest],
            train_labels=self.train_labels[rest],
            test=self.train[held_out],
            test_labels=self.train_labels[held_out],
        )


class DataSet(Protocol):
    """What both kinds define.

    Attributes:
        NAME: by which experiments ask for it.
        FOLDER: what its archive unpacks to, "" where that is no folder; None where it needs no
            files.
    """

    NAME: str
    FOLDER: str | None


class LabelledSet(DataSet, Protocol):
    """A module of `labelled_sets`: images with labels, to train on."""

    def load(self, folder: Path | None, seed: int) -> ImageData:
        """Read or make it whole.

        Args:
            folder: that exists, of the unpacked archive or the one above it; None where none is
                needed.
            seed: of what is drawn, where the data come without a split of their own.

        Raises:
            DataError: files that are missing, damaged or of another format.
        """
        ...

    def views(self, images: Tensor, seed: int) -> MakeViews:
        """What makes both views of training images.

        Args:
            images: all training images, in 0..1, on the device where views are wanted.
            seed: as of `load`.
        """
        ...


class GreySet(DataSet, Protocol):
    """A module of `grey_sets`: grey images, to cut patches from."""

    def grey(self, folder: Path | None, count: int, size: int, rng: np.random.Generator) -> Array:
        """Draw images, intensities in [0, 1], shape (count, size, size).

        Args:
            folder: as of `LabelledSet.load`.
            count: number of images.
            size: height and width in pixels.
            rng: of the draw.

        Raises:
            DataError: too many, too large or too small images, damaged or no files.
        """
        ...
