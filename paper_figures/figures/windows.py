"""Layers that learn from a loss some layers above come nearer to backpropagation."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.claims import Claim, of_cases, of_networks
from paper_figures.look import comparisons, panels, style

INPUTS = ("windows",)
PAPER = ""

ROUNDING = 1e-10
NEAR = 0.05
NARROWING = "linear, orthogonal, narrowing"
COSTS = {
    "units_kept": ("activations kept", style.PALETTE[6], "-"),
    "error_products": ("work of sending errors down", style.PALETTE[5], "--"),
}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Cosine against window, layer by layer, for each network and context; the costs below."""
    results = datasets["windows"]
    networks, feedback = results["network"].values, results["feedback"].values
    figure = Figure(figsize=(style.PAGE, 6.0))
    rows = figure.subplots(
        len(feedback) + 1,
        len(networks),
        sharex=True,
        sharey="row",
        squeeze=False,
        height_ratios=[*[1.0] * len(feedback), 0.7],
    )
    for name, row in zip(feedback, rows, strict=False):
        for network, axes in zip(networks, row, strict=True):
            _cosines(axes, results["cosine"].sel(network=network, feedback=name))
            axes.set_title(f"{name}" if name != feedback[0] else f"{network}\n{name}")
        row[0].set_ylabel("cosine of local\nand global update")
        row[0].set_ylim(0, 1.05)
    for network, axes in zip(networks, rows[-1], strict=True):
        for cost, (label, color, dashes) in COSTS.items():
            relative = _relative(results[cost].sel(network=network))
            axes.plot(results["window"], relative, dashes, color=color, marker="o", label=label)
        axes.axhline(1, color="#777777", linewidth=0.8)
        axes.set_xticks(results["window"].values)
        axes.set_xlabel("window w in layers")
    rows[-1][0].set_ylabel("cost over that of\nbackpropagation")
    rows[-1][0].set_ylim(0, None)
    extra = list(zip(*rows[-1][0].get_legend_handles_labels(), strict=True))
    panels.legend_below(figure, rows[0][0], columns=4, extra=extra)
    panels.headline(
        figure, "Each further layer in the window brings updates nearer to backpropagation"
    )
    return panels.finish(figure, results)


def _cosines(axes: Axes, cosines: xr.DataArray) -> None:
    below = cosines.sel(layer=cosines["layer"][:-1])
    for layer, color in zip(below["layer"].values, style.PALETTE, strict=False):
        values = below.sel(layer=layer).transpose("repetition", "window")
        style.band(axes, values, "repetition", color=color, label=f"layer {layer}")


def _relative(cost: xr.DataArray) -> xr.DataArray:
    """The cost over that of backpropagation, the largest window."""
    return cost / cost.isel(window=-1)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Where windows help, what the layers inside them cost, and the price."""
    results = datasets["windows"]
    cosine = results["cosine"]
    depth = int(results["layer"][-1])
    teacher = results["layer"] + results["window"] - 1
    reached = teacher >= depth
    apart = abs(cosine.transpose(*reached.dims, ...).values[reached.values] - 1)
    decided = [
        Claim(
            f"a window that reaches the top is backpropagation: cosine 1 to {ROUNDING:g}",
            of_cases(apart, most=ROUNDING),
            f"differs by at most {apart.max():.1e}",
        )
    ]
    for network in results["network"].values:
        for name in results["feedback"].values:
            here = cosine.sel(network=network, feedback=name)
            decided.append(_grows(f"{network}, {name}", here, depth))
    for network in results["network"].values:
        for name in results["feedback"].values:
            here = cosine.sel(network=network, feedback=name)
            decided.append(_against_teacher(f"{network}, {name}", here, network == NARROWING))
    return [*decided, *_prices(results)]


def _grows(where: str, cosine: xr.DataArray, depth: int) -> Claim:
    """That one layer more raises the cosine."""
    steps = comparisons.together(
        {
            f"layer {l} from w = {w}": cosine.sel(layer=l, window=w + 1, drop=True)
            - cosine.sel(layer=l, window=w, drop=True)
            for l in range(1, depth)
            for w in range(1, depth - l + 1)
        }
    )
    return Claim(
        f"{where}: one layer more in the window raises the mean cosine of every layer",
        comparisons.above(steps),
        f"{steps.sizes['part']} steps, {float(steps.mean('repetition').min()):+.3f} or more; of "
        f"single networks it falls in {int((steps < 0).sum())} of {steps.size}",
    )


def _against_teacher(where: str, cosine: xr.DataArray, isometric_inside: bool) -> Claim:
    """How the layers inside a window change the cosine that their teacher has by itself.

    They do not where V_{l..e} has orthonormal rows: both updates pass it unchanged.
    """
    depth = int(cosine["layer"][-1])
    pairs = {
        f"layer {l} of {e}": cosine.sel(layer=l, window=e - l + 1, drop=True)
        - cosine.sel(layer=e, window=1, drop=True)
        for e in range(2, depth)
        for l in range(1, e)
    }
    gained = comparisons.together(pairs) if pairs else None
    measured = "no pairs of layer and teacher"
    if gained is not None:
        means = gained.mean("repetition")
        measured = (
            f"differences {float(means.min()):+.3f} to {float(means.max()):+.3f}, {len(pairs)} "
            "pairs of layer and teacher"
        )
    if isometric_inside:
        text = f"{where}: a layer in a window has the cosine of its teacher, to {NEAR:g}"
        edges = (-NEAR, NEAR)
    else:
        text = f"{where}: a layer in a window has a larger cosine than its teacher"
        edges = (0.0, np.inf)
    question = None if gained is None else of_networks(gained, "repetition", *edges)
    return Claim(text, question, measured)


def _prices(results: xr.Dataset) -> list[Claim]:
    smaller = results["window"][:-1]
    found = []
    for network in results["network"].values:
        kept, work = (
            _relative(results[cost].sel(network=network)).sel(window=smaller) for cost in COSTS
        )
        found.append(
            Claim(
                f"{network}: smaller windows keep fewer activations",
                of_cases(kept, below=1),
                f"w = {panels.span(smaller)}: {panels.numbers(kept)} of the activations, "
                f"{panels.numbers(work)} of the work",
            )
        )
    return found
