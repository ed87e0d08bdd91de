"""Convolution and average pooling as exact matrices on flattened feature maps.

A map of shape (channels, height, width) is flattened in that order, as ``torch.flatten`` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from linlocal import inputs
from linlocal.inputs import Array

MapShape = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Convolution:
    """A bias-free two-dimensional convolution (cross-correlation, as in torch) on one map shape.

    It adds up as matrices do, so ``w + rate * update`` is a step of either: an array shaped like
    the kernel is added to the kernel or taken from it, and a number multiplies it.

    Attributes:
        kernel: (out channels, in channels / groups, height, width).
        input_shape: (in channels, height, width) of the maps that it reads.
        stride, padding, dilation: (vertical, horizontal); padding is with zeros.
        groups: number of blocks of channels that do not mix.

    Raises:
        ValueError: kernel not four-dimensional, channels that do not fit, or an empty output.
        TypeError: a kernel that holds no real numbers, or another argument that is not whole.
    """

    kernel: Array
    input_shape: MapShape
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    __repr__ = inputs.brief

    def __post_init__(self) -> None:
        for name, size, least in (
            ("input_shape", 3, 1),
            ("stride", 2, 1),
            ("padding", 2, 0),
            ("dilation", 2, 1),
        ):
            inputs.keep(self, partial(_several, size=size, least=least), name)
        inputs.keep(self, partial(inputs.whole, least=1), "groups")
        kernel = inputs.numbers(self.kernel, "kernel")
        if kernel.ndim != 4:
            raise ValueError(
                "A kernel must be (out channels, in channels / groups, height, width), got shape "
                f"{kernel.shape}."
            )
        if kernel.size == 0:
            raise ValueError(f"kernel is empty: shape {kernel.shape}.")
        inputs.all_finite(kernel, "kernel")
        out_channels, fan_channels = kernel.shape[:2]
        if fan_channels * self.groups != self.input_shape[0] or out_channels % self.groups:
            raise ValueError(
                f"A kernel {kernel.shape} with groups={self.groups} does not fit maps of "
                f"{self.input_shape[0]} channels."
            )
        object.__setattr__(self, "kernel", inputs.frozen(kernel))
        if min(self.output_shape) < 1:
            raise ValueError(
                f"A kernel {kernel.shape} with stride {self.stride} leaves nothing of maps "
                f"{self.input_shape}."
            )

    # So that numpy leaves array + convolution to the convolution.
    __array_ufunc__ = None

    def __add__(self, change: ArrayLike) -> Convolution:
        return self._with(self.kernel + self._change(change))

    __radd__ = __add__

    def __sub__(self, change: ArrayLike) -> Convolution:
        return self._with(self.kernel - self._change(change))

    def __mul__(self, factor: float) -> Convolution:
        return self._with(inputs.finite(factor, "the factor of a convolution") * self.kernel)

    __rmul__ = __mul__

    def _with(self, kernel: Array) -> Convolution:
        return replace(self, kernel=kernel)

    def _change(self, change: ArrayLike) -> Array:
        if isinstance(change, Convolution):
            raise TypeError(
                "What is added to a convolution is an array shaped like its kernel, as updates "
                "are, got another convolution; add its kernel."
            )
        array = inputs.numbers(change, "what is added to a convolution")
        if array.shape != self.kernel.shape:
            raise ValueError(
                f"What is added to a convolution has the shape of its kernel {self.kernel.shape}, "
                f"as its update has, got shape {array.shape}."
            )
        return array

    @property
    def output_shape(self) -> MapShape:
        """(out channels, height, width) of the maps that it writes."""
        side = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                self.input_shape[1:],
                self.padding,
                self.dilation,
                self.kernel.shape[2:],
                self.stride,
                strict=True,
            )
        ]
        return (self.kernel.shape[0], side[0], side[1])

    @cached_property
    def _entries(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Row, column and flat kernel index of every nonzero place of the matrix."""
        (co, ci, kh, kw), (_, ho, wo) = self.kernel.shape, self.output_shape
        o, i, a, b, y, x = np.indices((co, ci, kh, kw, ho, wo)).reshape(6, -1)
        row_in = y * self.stride[0] - self.padding[0] + a * self.dilation[0]
        column_in = x * self.stride[1] - self.padding[1] + b * self.dilation[1]
        _, h, w = self.input_shape
        inside = (row_in >= 0) & (row_in < h) & (column_in >= 0) & (column_in < w)
        channel_in = o // (co // self.groups) * ci + i
        rows = np.ravel_multi_index((o, y, x), self.output_shape)[inside]
        columns = ((channel_in * h + row_in) * w + column_in)[inside]
        kernel_index = np.ravel_multi_index((o, i, a, b), self.kernel.shape)[inside]
        return rows, columns, kernel_index

    @cached_property
    def matrix(self) -> Array:
        """(flattened output map, flattened input map)."""
        shape = (math.prod(self.output_shape), math.prod(self.input_shape))
        inputs.room(math.prod(shape), "the matrix of a convolution")
        rows, columns, kernel_index = self._entries
        matrix = np.zeros(shape)
        matrix[rows, columns] = self.kernel.ravel()[kernel_index]
        matrix.setflags(write=False)
        return matrix

    def kernel_gradient(self, matrix_gradient: Array) -> Array:
        """The adjoint of kernel -> matrix: sums a gradient of the matrix over shared entries.

        Args:
            matrix_gradient: shaped like `matrix`.

        Returns:
            Shaped like `kernel`.
        """
        rows, columns, kernel_index = self._entries
        values = matrix_gradient[rows, columns]
        total = np.bincount(kernel_index, values, minlength=self.kernel.size)
        return np.asarray(total, dtype=np.float64).reshape(self.kernel.shape)


def _several(values: Any, name: str, size: int, least: int) -> tuple[int, ...]:
    found = inputs.wholes(values, name, least)
    if len(found) != size:
        raise ValueError(f"{name} must be {size} whole numbers, got {found}.")
    return found


def average_pooling(shape: MapShape, size: int) -> Array:
    """The matrix of average pooling with window and stride ``size``; rest at the border is dropped.

    Args:
        shape: (channels, height, width) of the maps.
        size: side of the square window in pixels.

    Returns:
        (channels * height // size * width // size, channels * height * width).

    Raises:
        ValueError: the window is larger than the map.
        TypeError: a number that is not whole.
    """
    channels, height, width = _several(shape, "shape", 3, 1)
    size = inputs.whole(size, "size")
    if not 1 <= size <= min(height, width):
        raise ValueError(
            f"A pooling window of {size} does not fit maps of {height} x {width}; use a size of "
            f"1..{min(height, width)}."
        )

    def along(length: int) -> Array:
        windows = length // size
        kept = np.repeat(np.eye(windows), size, axis=1) / size
        return np.hstack([kept, np.zeros((windows, length - windows * size))])

    return np.kron(np.eye(channels), np.kron(along(height), along(width)))


Weight = Array | Convolution
