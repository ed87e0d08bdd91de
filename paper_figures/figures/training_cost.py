"""What local training costs in memory and time, against end-to-end training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.typing import LineStyleType

from paper_figures.claims import Claim, of_cases
from paper_figures.look import panels, style

INPUTS = ("training_cost",)
PAPER = "A"

AXES = {"depth": "blocks", "batch": "images in a batch", "side": "side of the images, pixels"}
ROWS = {"bytes": "peak memory", "seconds": "time of a step"}
MICRO = "local, in micro-batches"
END_TO_END = "end to end"
SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
COLORS = {
    "local": style.PALETTE[0],
    END_TO_END: style.PALETTE[1],
    MICRO: style.PALETTE[2],
}
ENCODER = "8-layer encoder"
LINES: dict[str, LineStyleType] = {
    ENCODER: "-",
    "residual network": "--",
    "residual network, expansion": ":",
}
MARKERS = dict(zip(LINES, "osD", strict=True))
# Share of the peak memory that local training saves (arXiv 2601.21683, from a secondary source).
PUBLISHED = {"STL-10": 0.38, "ImageNet": 0.59}
FLAT, LINEAR, CLOSE = 0.05, 0.1, 0.05


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Memory above, time below, as shares of end to end; over depth, batch and resolution."""
    data = datasets["training_cost"]
    figure = Figure(figsize=(style.PAGE, 4.8))
    grid = figure.subplots(len(ROWS), len(AXES), sharey="row", sharex="col")
    trainings = [name for name in COLORS if name != END_TO_END]
    for (row, quantity), (column, axis) in product(enumerate(ROWS), enumerate(AXES)):
        axes = grid[row, column]
        ratio = _ratio(data, quantity, axis)
        for network, training in product(LINES, trainings):
            each = ratio.sel(network=network, training=training)
            look = {"color": COLORS[training], "marker": MARKERS[network], "markersize": 4}
            axes.loglog(each[axis], each, LINES[network], **look)
        axes.axhline(1, color="#777777", linewidth=0.8)
        axes.set_xticks(ratio[axis], [str(int(v)) for v in ratio[axis]])
        axes.minorticks_off()
        if row:
            axes.set_xlabel(AXES[axis])
        if not column:
            axes.set_ylabel(f"{ROWS[quantity]} over that of\nend-to-end training")
    for axes in grid[:, 0]:
        _share_axis(axes)
    colored = [(Line2D([], [], color=COLORS[name], linewidth=3), name) for name in trainings]
    marked = [
        (Line2D([], [], color="#777777", linestyle=line, marker=MARKERS[name]), name)
        for name, line in LINES.items()
    ]
    panels.legend_below(figure, grid[0, 0], columns=3, extra=[*colored, *marked])
    grid[0, 0].set_title(_where(data), size=7)
    # The title reaches over the next panel.
    grid[0, 1].set_title(_savings(data), size=7).set_in_layout(False)
    panels.headline(figure, _result(data))
    return panels.finish(figure, data)


def _share_axis(axes: Axes) -> None:
    """Shares as ticks, those that lie in the panel."""
    low, high = axes.get_ylim()
    ticks = [tick for tick in SHARES if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])


def _ratio(data: xr.Dataset, quantity: str, axis: str) -> xr.DataArray:
    """What each training takes over what end-to-end training takes."""
    values = data[f"{quantity}_by_{axis}"]
    return values / values.sel(training=END_TO_END, drop=True)


def _result(data: xr.Dataset) -> str:
    """What the headline says: what local training saves with depth, and what it costs."""
    memory = data["bytes_by_depth"]
    local, whole = (_growth(memory.sel(training=t)).max() for t in ("local", END_TO_END))
    first, last = panels.span(data["depth"]).split("-")
    shares, times = (
        _range(_ratio(data, quantity, "depth").sel(training="local").isel(depth=-1))
        for quantity in ROWS
    )
    return (
        f"{first} to {last} blocks: the memory of local training grows by {float(local) - 1:.0%}, "
        f"end to end up to {float(whole):.1f}-fold;\nat {last} blocks it takes {shares} of the "
        f"memory and {times} times the time of end to end"
    )


def _range(values: xr.DataArray) -> str:
    """The smallest and the largest of the values; one number where they are equal."""
    low, high = (f"{float(value):.2g}" for value in (values.min(), values.max()))
    return low if low == high else f"{low} to {high}"


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
