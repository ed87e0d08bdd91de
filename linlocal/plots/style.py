"""What all plots share: colours, markers, intervals, bands, axes of layers and of steps."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.typing import ColorType
from scipy.special import stdtrit

from linlocal import inputs

# Okabe and Ito: told apart with every common kind of colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP<>X*"


def series_look(number: int) -> tuple[str, str]:
    """Colour and marker of the series with this number; no colour is black on black."""
    colors = PALETTE[:-1]
    return colors[number % len(colors)], MARKERS[number % len(MARKERS)]


def graded(count: int) -> list[ColorType]:
    """Colours from the lowest layer to the highest, readable on white and on black."""
    return [*mpl.colormaps["plasma"](np.linspace(0.25, 0.8, count))]


def band(
    axes: Axes, values: xr.DataArray, over: str, *, color: str, label: str, marker: str = "o"
) -> None:
    """Draw the mean over repetitions as a line and its 95 % confidence interval as a band.

    The interval is Student's t; undefined values (NaN) are left out.

    Args:
        axes: the panel to draw in.
        values: two dimensions: the repetitions, and the one along the horizontal axis.
        over: the dimension of the repetitions.
        color: colour of line and band.
        label: entry in the legend.
        marker: marker of the line.

    Raises:
        ValueError: not these two dimensions.
    """
    if values.ndim != 2 or over not in values.dims:
        raise ValueError(f"band needs {over!r} and one other dimension, got {values.dims}.")
    (along,) = (dim for dim in values.dims if dim != over)
    mean, half = interval(values, over)
    axes.plot(values[along], mean, color=color, label=label, marker=marker)
    axes.fill_between(values[along], mean - half, mean + half, color=color, alpha=0.2, linewidth=0)
    if along == "layer":  # there is no layer 1.5
        axes.set_xticks(values[along])


def interval(
    values: xr.DataArray, over: str, level: float = 0.95
) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean over repetitions and half the width of its confidence interval (Student's t).

    Args:
        values: numbers, of which undefined ones (NaN) are left out.
        over: the dimension of the repetitions.
        level: the confidence.

    Returns:
        Mean and half width, without ``over``; the latter NaN for a single repetition.
    """
    level = inputs.share(level, "level")
    count = values.count(over)
    half = stdtrit(count - 1, (1 + level) / 2) * values.std(over, ddof=1) / np.sqrt(count)
    return values.mean(over), half


def spread(
    values: xr.DataArray, over: str, level: float = 0.95
) -> tuple[xr.DataArray, xr.DataArray]:
    """Mean over repetitions and half the width of the interval that holds one more of them.

    The prediction interval of Student's t, mean +- t sd sqrt(1 + 1/n): where a further repetition
    falls with probability ``level``, if repetitions are normally distributed.

    Args:
        values: numbers, of which undefined ones (NaN) are left out.
        over: the dimension of the repetitions.
        level: the probability.

    Returns:
        Mean and half width, without ``over``; the latter NaN for a single repetition.
    """
    level = inputs.share(level, "level")
    count = values.count(over)
    deviation = values.std(over, ddof=1) * np.sqrt(1 + 1 / count)
    return values.mean(over), stdtrit(count - 1, (1 + level) / 2) * deviation


def layer_axis(axes: Axes, layers: xr.DataArray, widths: Sequence[int] | None = None) -> None:
    """Number the layers along the horizontal axis, with their widths below where they differ."""
    numbers: list[int] = layers.values.tolist()
    labels = [str(l) for l in numbers]
    if widths is not None:
        labels = [f"{l}\n{width}" for l, width in zip(numbers, widths, strict=True)]
    axes.set_xticks(numbers, labels)
    axes.set_xlabel("layer" if widths is None else "layer, its width below")


def step_axis(axes: Axes) -> None:
    """Make the horizontal axis logarithmic, from before the first step."""
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    axes.set_xlabel("steps of training")


def zero_line(axes: Axes) -> None:
    """A thin line where a cosine is 0."""
    axes.axhline(0, color="#999999", linewidth=0.5, zorder=0)
