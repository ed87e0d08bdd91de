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

from experiments.data.pixels import Pixels
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
        test: test images, of the same shape and type as ``train``.
        test_labels: (test samples,) numbers of classes.
        classes: names of the classes.
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

        Every choice that must not see the test data is made on this split.

        Args:
            fraction: share of the training data that takes the place of the test data.
            seed: decides which images those are.
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
    """What a module of either kind defines.

    Attributes:
        NAME: the name by which experiments ask for it.
        FOLDER: the folder that its archive unpacks to, "" where the archive has none; None where
            the data set needs no files. One with files comes with its split: no seed changes it.
    """

    NAME: str
    FOLDER: str | None

    def files(self, folder: Path) -> list[Path]:
        """The files, and folders of files, that are read; only data sets with a FOLDER define it.

        Args:
            folder: an existing folder, that of the unpacked archive or the one above it.

        Raises:
            DataError: some are missing.
        """
        ...


class LabelledSet(DataSet, Protocol):
    """A module of `labelled_sets`: images with labels, to train on."""

    def load(self, folder: Path | None, seed: int) -> ImageData:
        """Read or make the whole data set.

        Args:
            folder: an existing folder, that of the unpacked archive or the one above it; None where
                none is needed.
            seed: seeds what is drawn, where no files are needed.

        Raises:
            DataError: files that are missing, damaged or of another format.
        """
        ...

    def views(self, images: Tensor | Pixels, seed: int) -> MakeViews:
        """What makes both views of training images.

        Args:
            images: all training images, indexed in 0..1, on the device where views are wanted.
            seed: the seed given to `load`.
        """
        ...


class GreySet(DataSet, Protocol):
    """A module of `grey_sets`: grey images, to cut patches from."""

    def grey(self, folder: Path | None, count: int, size: int, rng: np.random.Generator) -> Array:
        """Draw images, intensities in [0, 1], shape (count, size, size).

        Args:
            folder: an existing folder with the files, see `LabelledSet.load`.
            count: number of images.
            size: height and width in pixels.
            rng: the generator that draws the images.

        Raises:
            DataError: too many, too large or too small images, damaged or no files.
        """
        ...
