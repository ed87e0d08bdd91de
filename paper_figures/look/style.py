"""One look for all figures, and files with the same bytes on every run."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtrit

from linlocal.analysis.results import of_run

# Okabe and Ito: told apart with every common kind of colour vision.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
COLUMN, PAGE = 3.4, 7.0  # widths in inches of one column and of both
_GREY = "#777777"

_HOUSE: dict[Any, Any] = {
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "figure.figsize": (COLUMN, 2.4),
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same letters on every machine
    "font.size": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "savefig.bbox": "tight",
    "svg.fonttype": "path",
    # Without it the ids inside an SVG file are random.
    "svg.hashsalt": "linlocal",
}


@contextmanager
def house() -> Iterator[None]:
    """Draw in the house style inside the ``with`` block, whatever the user's own settings are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_HOUSE)
        yield


def band(axes: Axes, values: xr.DataArray, over: str, *, color: str, label: str) -> None:
    """Draw the mean over repetitions as a line and its 95 % confidence interval as a band.

    The interval is Student's t; undefined values (NaN) are left out.

    Args:
        axes: the panel to draw in.
        values: two dimensions: the repetitions, and the one along the horizontal axis.
        over: the dimension of the repetitions.
        color: colour of line and band.
        label: entry in the legend.

    Raises:
        ValueError: not these two dimensions.
    """
    if values.ndim != 2 or over not in values.dims:
        raise ValueError(f"band needs {over!r} and one other dimension, got {values.dims}.")
    (along,) = (dim for dim in values.dims if dim != over)
    mean, half = interval(values, over)
    axes.plot(values[along], mean, color=color, label=label, marker="o")
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
    count = values.count(over)
    deviation = values.std(over, ddof=1) * np.sqrt(1 + 1 / count)
    return values.mean(over), stdtrit(count - 1, (1 + level) / 2) * deviation


def footer(figure: Figure, *datasets: xr.Dataset) -> None:
    """Say at the lower edge, small, which runs the figure shows: experiment, preset, parameters."""
    lines = []
    for dataset in datasets:
        experiment, preset, seed, config = (
            of_run(dataset.attrs, name) for name in ("experiment", "preset", "seed", "config")
        )
        parameters = {"preset": preset, "seed": seed, **json.loads(config)}
        words = ", ".join(f"{name} {_short(value)}" for name, value in parameters.items())
        lines += textwrap.wrap(f"{experiment}: {words}", int(25 * figure.get_figwidth()))
    # It lies below the figure proper; saving includes what lies outside.
    text = "\n".join(lines)
    figure.text(0.01, -0.02, text, size=5, color=_GREY, va="top", parse_math=False)


def note(figure: Figure, text: str) -> None:
    """Say above a figure what its reader must not miss."""
    lines = textwrap.fill(text, int(17 * figure.get_figwidth()))
    figure.text(0.01, 1.01, lines, size=7, weight="bold", va="bottom", parse_math=False)


def save(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Write a figure as PNG and SVG, the same bytes on every run.

    Args:
        figure: a figure drawn inside :func:`house`.
        path: path without suffix; its folder is made if needed.

    Returns:
        The paths of the two files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    png, svg = (path.with_name(path.name + suffix) for suffix in (".png", ".svg"))
    facts: dict[Path, dict[str, None]] = {png: {"Software": None}}
    facts[svg] = {"Date": None, "Creator": None}
    drawn = {}
    with house():
        for file, metadata in facts.items():
            drawn[file] = BytesIO()
            figure.savefig(drawn[file], format=file.suffix[1:], metadata=metadata)
    # Both or none.
    for file, content in drawn.items():
        file.write_bytes(content.getvalue())
    return png, svg


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return " ".join(map(_short, value))
    return str(value)
