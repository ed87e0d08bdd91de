"""Images of a Random Hierarchy Model drawn on the device, batch after batch, without end.

The distribution is that of `RHMImages`, whose data are drawn by numpy and kept. Here the tables of
rules and textures lie on the device and no batch ever comes from the host.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from linlocal.rhm import RandomHierarchyModel, images
from linlocal.seeds import seed_for

Levels = list[Tensor]

_ATTEMPTS = 100
# The purposes of draws, so that draws for different purposes are unrelated.
_TRAINING, _LABELLED, _HASH = range(3)


class DeviceImages:
    """Training views that never show a test image, and the test images.

    A training image is drawn uniformly from the data that are not test data. Its second view has
    everything below the latents of ``level`` drawn anew, until it is not a test datum either.

    Args:
        rhm: with tuples of 4, 9, ... symbols, uniform rules and no blanks.
        test: number of test images.
        level: the level 1..L of the lowest latents that two views share.
        patch_size: side of a symbol in pixels.
        num_channels: channels of the images.
        seed: seeds the test set, the textures and all draws.
        device: the device on which everything lies.

    Raises:
        ValueError: a model of another kind, or no such level.
    """

    def __init__(
        self,
        rhm: RandomHierarchyModel,
        *,
        test: int,
        level: int = 1,
        patch_size: int = 7,
        num_channels: int = 3,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        if rhm.sparse or not rhm.uniform:
            raise ValueError(
                "Only models with uniform rules and no blanks are drawn on the device; use "
                "`experiments.data` for this one."
            )
        self.rhm, self.level, self.seed = rhm, rhm.check_level(level), seed
        self.device = torch.device(device)
        self.size = images.side(rhm) * patch_size
        self._rules = [self._moved(table.reshape(-1, table.shape[-1])) for table in rhm.rules]
        self._place = self._moved(images.grid(rhm, np.arange(rhm.num_leaves)[None])[0])
        textures = images.textures(rhm.num_values(0), patch_size, num_channels, seed=seed)
        self._textures = torch.from_numpy(textures).to(self.device)
        # Odd, so that a single changed leaf changes the sum modulo 2^64.
        drawn = torch.Generator().manual_seed(seed_for(seed, _HASH))
        weights = torch.randint(-(2**63), 2**63 - 1, (rhm.num_leaves,), generator=drawn)
        self._weights = (weights | 1).to(self.device)
        _, judged = rhm.split(train=0, test=test, seed=seed)
        self.test_leaves = self._moved(judged.leaves)
        self.test_labels = self._moved(judged.labels)
        self._test_hashes = self._hashed(self.test_leaves)

    def views(self, num: int, rank: int, step: int) -> tuple[Tensor, Tensor]:
        """(2N, channels, size, size) two views of N images, stacked, and (2N,) their labels.

        Args:
            num: the number of images N.
            rank: number of the process; the draws are a function of (seed, rank, step).
            step: number of the training step.
        """
        levels = self.symbols(num, rank, step)
        return self.render(levels[0]), levels[-1][:, 0]

    def symbols(self, num: int, rank: int, step: int) -> Levels:
        """For the levels 0..L: (2N, symbols of the level) of what `views` shows.

        Raises:
            ValueError: nearly all possible views are test data.
        """
        generator = self._generator(_TRAINING, rank, step)
        first = self._unseen(num, generator)
        second = [level.clone() for level in first]
        rows = torch.arange(num, device=self.device)
        for _ in range(_ATTEMPTS):
            shared = [level[rows] for level in second[self.level :]]
            drawn = self._below(shared, self.level, generator)
            for old, new in zip(second, drawn, strict=True):
                old[rows] = new
            rows = rows[self._tested(drawn[0])]
            if not len(rows):
                return [torch.cat(pair) for pair in zip(first, second, strict=True)]
        raise ValueError(_MOSTLY_TEST_DATA)

    def labelled(self, num: int, number: int) -> tuple[Tensor, Tensor]:
        """Single images that are not test images, and their labels: to fit a probe.

        Args:
            num: the number of images.
            number: number of the batch; the draws are a function of (seed, number).
        """
        levels = self._unseen(num, self._generator(_LABELLED, number))
        return self.render(levels[0]), levels[-1][:, 0]

    def test_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All test images and their labels, ``size`` at a time."""
        for leaves, labels in zip(
            self.test_leaves.split(size), self.test_labels.split(size), strict=True
        ):
            yield self.render(leaves), labels

    def render(self, leaves: Tensor) -> Tensor:
        """(data, channels, size, size) of (data, d) leaves; as `linlocal.rhm.images.render`."""
        looks = self._textures[leaves[:, self._place]]
        pixels = looks.permute(0, 3, 1, 4, 2, 5)
        return pixels.reshape(len(leaves), -1, self.size, self.size)

    def _unseen(self, num: int, generator: torch.Generator) -> Levels:
        """Data that are not test data, each drawn again until it is not one."""
        levels = self._drawn(num, generator)
        rows = self._tested(levels[0]).nonzero()[:, 0]
        for _ in range(_ATTEMPTS):
            if not len(rows):
                return levels
            drawn = self._drawn(len(rows), generator)
            for old, new in zip(levels, drawn, strict=True):
                old[rows] = new
            rows = rows[self._tested(drawn[0])]
        raise ValueError(_MOSTLY_TEST_DATA)

    def _drawn(self, num: int, generator: torch.Generator) -> Levels:
        top = torch.randint(self.rhm.num_classes, (num, 1), generator=generator, device=self.device)
        return self._below([top], self.rhm.num_levels, generator)

    def _below(self, upper: Levels, level: int, generator: torch.Generator) -> Levels:
        """All levels from 0 on: ``upper`` from ``level`` on, and the levels below drawn anew."""
        levels = list(upper)
        tables = zip(self._rules[:level], self.rhm.synonym_counts, strict=False)
        for rules, m in reversed(list(tables)):
            above = levels[0]
            choice = torch.randint(m, above.shape, generator=generator, device=self.device)
            levels.insert(0, rules[above * m + choice].flatten(1))
        return levels

    def _tested(self, leaves: Tensor) -> Tensor:
        """Whether each datum is a test datum (or, with a chance of about 2^-60, hashed as one)."""
        return torch.isin(self._hashed(leaves), self._test_hashes)

    def _hashed(self, leaves: Tensor) -> Tensor:
        return (leaves * self._weights).sum(1)

    def _generator(self, *key: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(seed_for(self.seed, *key))

    def _moved(self, table: np.ndarray) -> Tensor:
        return torch.from_numpy(table.astype(np.int64)).to(self.device)


_MOSTLY_TEST_DATA = (
    "Some data have (almost) no views but test data; use a higher level, fewer test data or more "
    "synonyms."
)
