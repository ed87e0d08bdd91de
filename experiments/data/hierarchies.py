"""Images of a Random Hierarchy Model, and views of them that share their upper latents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from experiments.data.contract import ImageData
from linlocal.rhm import RandomHierarchyModel, Trees, images, trees
from linlocal.seeds import generator_for

_ATTEMPTS = 100


class RHMImages:
    """Disjoint training and test images of a model, every symbol of level 0 drawn as a texture.

    Args:
        rhm: with tuples of 4, 9, ... symbols.
        train: number of training images.
        test: number of test images.
        patch_size: side of a symbol in pixels.
        num_channels: channels of the images.
        seed: seeds the split and the textures.

    Raises:
        ValueError: tuples that are not square, or more data than there are.
    """

    def __init__(
        self,
        rhm: RandomHierarchyModel,
        *,
        train: int,
        test: int,
        patch_size: int = 2,
        num_channels: int = 1,
        seed: int = 0,
    ) -> None:
        self.rhm = rhm
        self.train, self.test = rhm.split(train=train, test=test, seed=seed)
        self._textures = images.textures(rhm.num_values(0), patch_size, num_channels, seed=seed)
        self._test_keys = np.unique(trees.keys_of(rhm, self.test))
        images.side(rhm)

    def render(self, data: Trees) -> NDArray[np.float32]:
        """(data, channels, side, side) images of pixel mean 0 and variance 1 in each symbol."""
        return images.render(self.rhm, data.leaves, self._textures).astype(np.float32, copy=False)

    def patches(self, leaves: NDArray[Any]) -> Tensor:
        """(data, d, channels patch^2) the pixels of each leaf, in the order of the tree.

        The children of a node stand side by side, so a layer that reads tuples of them is a
        convolution of the image whose stride is its kernel.
        """
        looks = self._textures.reshape(len(self._textures), -1)
        return torch.from_numpy(looks[leaves])

    def data(self) -> ImageData:
        """All images with their classes."""
        return ImageData(
            self.render(self.train),
            self.train.labels,
            self.render(self.test),
            self.test.labels,
            tuple(str(label) for label in range(self.rhm.num_classes)),
        )

    def two_views(
        self,
        rows: NDArray[Any] | Sequence[int],
        *,
        level: int,
        seed: int,
        change: Literal["resample", "exchange"] = "resample",
    ) -> Tensor:
        """(2N, channels, side, side) training images, then a view of each that needs no label.

        "resample" draws everything below the symbols of ``level`` anew, "exchange" writes these
        symbols as synonyms and keeps all other choices; they and all that is above stay the same.
        No view is a test image.

        Args:
            rows: N rows of the training data.
            level: the level 1..L of the lowest latents that the two views share.
            seed: seeds the views.
            change: what makes the second view.

        Raises:
            ValueError: no such level or change, or nearly all possible views are test images.
        """
        if change not in ("resample", "exchange"):
            raise ValueError(f'change must be "resample" or "exchange", got {change!r}.')
        first = self.train[np.asarray(rows)]
        second = getattr(self.rhm, change)(first, level, seed=seed)
        for attempt in range(_ATTEMPTS):
            (leaked,) = np.isin(trees.keys_of(self.rhm, second), self._test_keys).nonzero()
            if not len(leaked):
                return torch.from_numpy(np.concatenate([self.render(first), self.render(second)]))
            new_seed = int(generator_for("views", seed, attempt).integers(2**62))
            redrawn = getattr(self.rhm, change)(first[leaked], level, seed=new_seed)
            for old, new in zip(second.arrays, redrawn.arrays, strict=True):
                old[leaked] = new
        raise ValueError(
            f"{len(leaked)} of {len(first)} data have (almost) no views but test data; use a "
            "higher level, fewer test data or more synonyms."
        )
