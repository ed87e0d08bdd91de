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
import xarray as xr
from cycler import cycler
from matplotlib.figure import Figure

from linlocal.analysis.results import of_run
from linlocal.plots import (
    MARKERS as MARKERS,
    PALETTE as PALETTE,
    band as band,
    interval as interval,
    spread as spread,
)

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


def footer(figure: Figure, *datasets: xr.Dataset) -> None:
    """Say at the lower edge, small, which runs the figure shows: experiment, preset, parameters."""
    lines = []
    for dataset in datasets:
        experiment, preset, seed, config = (
            of_run(dataset.attrs, name) for name in ("experiment", "preset", "seed", "config")
        )
        parameters = {"preset": preset, "seed": seed, **json.loads(config)}
        words = ", ".join(f"{name} {_short(value)}" for name, value in parameters.items())
        lines += textwrap.wrap(f"{experiment}: {words}", int(18 * figure.get_figwidth()))
    # It lies below the figure proper; saving includes what lies outside.
    text = "\n".join(lines)
    figure.text(0.01, -0.02, text, size=7, color=_GREY, va="top", parse_math=False)


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
