"""Activities as maps, and their average pooling before a local loss.

Every activity is read as a map (samples, channels, height, width): a dense one has a single cell,
and tokens lie in one column, because nothing in their shape says where they belong in an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from linlocal import inputs

Shape = tuple[int, ...]


def as_map(z: Tensor) -> Tensor:
    """Activities as maps (samples, channels, height, width).

    Args:
        z: (samples, channels), (samples, channels, height, width), or (samples, tokens, channels).

    Returns:
        One cell, the map itself, or a column of cells, one for each token.

    Raises:
        ValueError: another number of axes.
    """
    inputs.instance(z, Tensor, "a block's output", "a tensor")
    if z.ndim == 2:
        return z[:, :, None, None]
    if z.ndim == 3:
        return z.transpose(1, 2).unsqueeze(3)
    if z.ndim == 4:
        return z
    raise ValueError(
        "A block's output must be (samples, channels), (samples, channels, height, width) or "
        f"(samples, tokens, channels), got shape {tuple(z.shape)}; choose another block, or wrap "
        "this one to reshape its output."
    )


class Pool(ABC):
    """Average pooling of a map; an axis of one cell is left as it is."""

    @abstractmethod
    def along(self, length: int) -> Tensor:
        """The pooling of one axis as a matrix, (cells, length), in float64."""

    @abstractmethod
    def pooled(self, maps: Tensor) -> Tensor:
        """(samples, channels, height, width) to (samples, channels, cells, cells)."""

    def __call__(self, z: Tensor) -> Tensor:
        """Activities of a block, pooled and flattened: (samples, features)."""
        return self.pooled(as_map(z)).flatten(1)

    def lifted(self, z: Tensor) -> Tensor:
        """Z P^T (P P^T)^-1 for rows z: the pooled rows y whose maps P^T y are nearest to z.

        Args:
            z: (samples, ...) of the shape of a block's output.

        Returns:
            (samples, features); for windows side by side the sum over each window.
        """
        maps = as_map(z)
        height, width = (torch.linalg.pinv(self.along(n)).to(maps) for n in maps.shape[2:])
        return torch.einsum("nchw,hi,wj->ncij", maps, height, width).flatten(1)

    def placed(self, rows: Tensor, z: Tensor) -> Tensor:
        """The maps v with <z, v> = <lifted(z), y> for every z: the transpose of `lifted`.

        Args:
            rows: (samples, features) rows y of pooled activities.
            z: (samples, ...) a block's output, whose shape and type the maps have.
        """
        maps = as_map(z)
        height, width = (torch.linalg.pinv(self.along(n)).to(maps) for n in maps.shape[2:])
        cells = rows.to(maps).view(*maps.shape[:2], height.shape[1], width.shape[1])
        spread = torch.einsum("ncij,hi,wj->nchw", cells, height, width)
        return spread.flatten(2).transpose(1, 2) if z.ndim == 3 else spread.reshape(z.shape)

    def metric(self, shape: Shape) -> Tensor:
        """P P^T, (features, features) in float64: what pooled errors weigh as maps.

        Args:
            shape: the shape of a block's output, without the axis of samples.
        """
        channels, *sides = as_map(torch.empty(1, *shape, device="meta")).shape[1:]
        gram = torch.eye(channels, dtype=torch.float64)
        for along in map(self.along, sides):
            gram = torch.kron(gram, along @ along.T)
        return gram

    def features(self, shape: Shape) -> int:
        """The number of features of a pooled activity.

        Args:
            shape: the shape of a block's output, without the axis of samples.
        """
        channels, *sides = as_map(torch.empty(1, *shape, device="meta")).shape[1:]
        return channels * len(self.along(sides[0])) * len(self.along(sides[1]))


@dataclass(frozen=True)
class Window(Pool):
    """Windows of ``side`` x ``side`` cells, side by side; a rest at the border is dropped.

    Raises:
        ValueError: a side below 1 or, on use, larger than the map.
    """

    side: int

    def __post_init__(self) -> None:
        inputs.keep(self, partial(inputs.whole, least=1), "side")

    def _on(self, length: int) -> int:
        if length > 1 and self.side > length:
            raise ValueError(
                f"A pooling window of {self.side} does not fit a map of side {length}; use a "
                "smaller window for this block, or Cells(n) for n cells in maps of any size."
            )
        return min(self.side, length)

    def along(self, length: int) -> Tensor:
        length = inputs.whole(length, "length", 1)
        side = self._on(length)
        matrix = torch.eye(length // side, dtype=torch.float64).repeat_interleave(side, 1) / side
        return functional.pad(matrix, (0, length - matrix.shape[1]))

    def pooled(self, maps: Tensor) -> Tensor:
        window = (self._on(maps.shape[2]), self._on(maps.shape[3]))
        return maps if window == (1, 1) else functional.avg_pool2d(maps, window)


@dataclass(frozen=True)
class Cells(Pool):
    """Windows that make ``side`` cells along each axis, or fewer where the map has fewer.

    They cover the whole map, and overlap where its side is no multiple of ``side``.

    Raises:
        ValueError: a side below 1.
    """

    side: int

    def __post_init__(self) -> None:
        inputs.keep(self, partial(inputs.whole, least=1), "side")

    def along(self, length: int) -> Tensor:
        length = inputs.whole(length, "length", 1)
        cells = min(self.side, length)
        each = torch.eye(length, dtype=torch.float64)
        return functional.adaptive_avg_pool1d(each, cells).T

    def pooled(self, maps: Tensor) -> Tensor:
        cells = (min(self.side, maps.shape[2]), min(self.side, maps.shape[3]))
        whole = cells == tuple(maps.shape[2:])
        return maps if whole else functional.adaptive_avg_pool2d(maps, cells)


Pooling = Literal["global"] | int | Pool | Sequence[int | Pool]


def checked_pooling(
    pooling: Any, name: str
) -> Literal["global"] | int | Pool | tuple[int | Pool, ...]:
    """A pooling, or one for each block as a tuple.

    Raises:
        ValueError: an unknown word, or a side below 1.
        TypeError: something else.
    """
    if isinstance(pooling, str):
        if pooling != "global":
            raise ValueError(
                f'{name} must be "global", a side, Window, Cells or one for each block, got '
                f"{pooling!r}."
            )
        return "global"
    if inputs.is_several(pooling):
        given = inputs.sequence(pooling, name, "sides of windows, Window or Cells")
        return tuple(_side(each, name) for each in given)
    return _side(pooling, name)


def _side(value: Any, name: str) -> int | Pool:
    return value if isinstance(value, Pool) else inputs.whole(value, f"a side of {name}", 1)


def shapes_of(shapes: Any) -> tuple[Shape, ...]:
    """The shapes of the blocks' outputs, without the axis of samples, as tuples.

    Raises:
        TypeError: no sequence of sequences of whole numbers.
        ValueError: a size below 1.
    """
    each = inputs.sequence(shapes, "shapes", "shapes, one for each block")
    return tuple(inputs.wholes(shape, f"shape {l} of shapes", 1) for l, shape in enumerate(each, 1))


def pools(pooling: Pooling, blocks: int) -> tuple[Pool, ...]:
    """The pooling of each block.

    Args:
        pooling: "global" (one cell), the side of a window, a `Window` or `Cells`; or one of the
            last three for each block.
        blocks: number of blocks.

    Raises:
        ValueError: there are not as many entries as blocks, or a name is unknown.
    """
    checked = checked_pooling(pooling, "pooling")
    if isinstance(checked, str):
        return (Cells(1),) * blocks
    given = checked if isinstance(checked, tuple) else (checked,) * blocks
    if len(given) != blocks:
        raise ValueError(
            f"pooling has {len(given)} entries for {blocks} blocks; give one for each block, or "
            "a single one for all."
        )
    return tuple(p if isinstance(p, Pool) else Window(p) for p in given)
