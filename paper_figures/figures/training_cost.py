"""What local training costs in memory and time, against end-to-end training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

from paper_figures.claims import Claim, of_cases
from paper_figures.look import panels, style

INPUTS = ("training_cost",)
PAPER = "A"

AXES = {"depth": "blocks", "batch": "images in a batch", "side": "side of the images, pixels"}
ROWS = {"bytes": ("peak memory, MB", 1e6), "seconds": ("seconds per step", 1.0)}
MICRO = "local, in micro-batches"
COLORS = {
    "local": style.PALETTE[0],
    "end to end": style.PALETTE[1],
    MICRO: style.PALETTE[2],
}
ENCODER = "8-layer encoder"
LINES: dict[str, LineStyleType] = {
    ENCODER: "-",
    "residual network": "--",
    "residual network, expansion": ":",
}
# Share of the peak memory that local training saves (arXiv 2601.21683, from a secondary source).
PUBLISHED = {"STL-10": 0.38, "ImageNet": 0.59}
FLAT, LINEAR, CLOSE = 0.05, 0.1, 0.05


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Memory above, time below; over depth, batch and resolution, all axes logarithmic."""
    data = datasets["training_cost"]
    figure = Figure(figsize=(style.PAGE, 4.6))
    grid = figure.subplots(len(ROWS), len(AXES), sharey="row", sharex="col")
    for (row, quantity), (column, axis) in product(enumerate(ROWS), enumerate(AXES)):
        axes = grid[row, column]
        values = data[f"{quantity}_by_{axis}"] / ROWS[quantity][1]
        for network, training in product(LINES, COLORS):
            each = values.sel(network=network, training=training)
            axes.loglog(
                each[axis], each, LINES[network], color=COLORS[training], marker="o", markersize=3
            )
        axes.set_xticks(values[axis], [str(int(v)) for v in values[axis]])
        axes.minorticks_off()
        axes.grid(alpha=0.2)
        if row:
            axes.set_xlabel(AXES[axis])
        if not column:
            axes.set_ylabel(ROWS[quantity][0])
    trainings = [(Line2D([], [], color=color), name) for name, color in COLORS.items()]
    networks = [
        (Line2D([], [], color="#777777", linestyle=line), name) for name, line in LINES.items()
    ]
    # Filled column by column: trainings in the first row, networks in the second.
    entries = [each for column in zip(trainings, networks, strict=True) for each in column]
    panels.legend_below(figure, grid[0, 0], columns=3, extra=entries)
    grid[0, 0].set_title(_where(data), size=7)
    # The title reaches over the next panel.
    grid[0, 1].set_title(_savings(data), size=6.5).set_in_layout(False)
    panels.headline(figure, _result(data))
    return panels.finish(figure, data)


def _result(data: xr.Dataset) -> str:
    memory = data["bytes_by_depth"]
    local, whole = (_growth(memory.sel(training=t)).max() for t in ("local", "end to end"))
    first, last = panels.span(data["depth"]).split("-")
    return (
        f"{first} to {last} blocks: the memory of local training grows by {float(local) - 1:.0%}, "
        f"end to end up to {float(whole):.1f}-fold"
    )


def _where(data: xr.Dataset) -> str:
    config, hardware = (json.loads(data.attrs[key]) for key in ("config", "hardware"))
    if config["device"].startswith("cuda"):
        return f"{hardware.get('accelerator', config['device'])}, peak of the allocator"
    return "counted tensor by tensor"


def _saved(data: xr.Dataset) -> xr.DataArray:
    """Share of the memory for activities that each training saves, over setting and training."""
    counted = data["published_bytes"]
    return 1 - counted / counted.sel(training="end to end", drop=True)


def _savings(data: xr.Dataset) -> str:
    saved = _saved(data)
    words = (
        f"{setting} {_percent(saved, setting, 'local')} (published {share:.0%})"
        for setting, share in PUBLISHED.items()
    )
    return f"saved at the published sizes: {', '.join(words)}"


def _percent(saved: xr.DataArray, setting: str, training: str) -> str:
    return f"{float(saved.sel(setting=setting, training=training)):.0%}"


def _growth(values: xr.DataArray) -> xr.DataArray:
    """Last value over the first, along the depth."""
    return values.isel(depth=-1, drop=True) / values.isel(depth=0, drop=True)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Flat and linear growth with depth; the published savings."""
    data = datasets["training_cost"]
    memory = data["bytes_by_depth"]
    depths = panels.span(data["depth"])
    decided = []
    for network in LINES:
        local, whole = (memory.sel(network=network, training=t) for t in ("local", "end to end"))
        growth = float(_growth(local))
        decided.append(
            Claim(
                f"{network}: the memory of local training does not grow with depth (within "
                f"{FLAT:.0%})",
                of_cases(growth, most=1 + FLAT),
                f"factor {growth:.3f} over {depths} blocks",
            )
        )
        ratio = local / whole
        decided.append(
            Claim(
                f"{network}: local training needs less memory than end-to-end training at every "
                "depth",
                of_cases(ratio, below=1),
                f"{panels.numbers(ratio)} of it at {panels.numbers(ratio['depth'], 0)} blocks",
            )
        )
        slopes = np.diff(whole.values) / np.diff(whole["depth"].values)
        spread = float(slopes.max() / slopes.min()) if slopes.min() > 0 else np.inf
        decided.append(
            Claim(
                f"{network}: the memory of end-to-end training grows linearly with depth (slopes "
                f"equal within {LINEAR:.0%})",
                of_cases(spread, most=1 + LINEAR),
                f"{slopes.min() / 1e6:.3g} to {slopes.max() / 1e6:.3g} MB per block over {depths} "
                "blocks",
            )
        )
    rows = json.loads(data.attrs["config"])["micro_batch"]
    cut, local = (memory.sel(network=ENCODER, training=t) for t in (MICRO, "local"))
    time = data["seconds_by_depth"].sel(network=ENCODER)
    slower = time.sel(training=MICRO) / time.sel(training="local")
    decided.append(
        Claim(
            f"{ENCODER}: on micro-batches of {rows} rows, blocks need less memory than on the "
            "whole batch, at every depth",
            of_cases(cut / local, below=1),
            f"{panels.numbers(cut / local)} of it at {panels.numbers(cut['depth'], 0)} blocks; "
            f"{panels.numbers(slower)} of the time",
        )
    )
    saved = _saved(data)
    for setting, share in PUBLISHED.items():
        here = float(saved.sel(setting=setting, training="local"))
        decided.append(
            Claim(
                f"{setting} size: local training saves {share:.0%} of the memory for activities "
                f"(no less by more than {CLOSE:.0%})",
                of_cases(here, least=share - CLOSE),
                f"{here:.0%}; the largest block decides what is saved; in micro-batches of {rows} "
                f"rows {_percent(saved, setting, MICRO)}",
                f"{share:.0%} of the peak memory (arXiv 2601.21683, secondary source)",
                "a measure that the paper does not describe",
            )
        )
    return decided
