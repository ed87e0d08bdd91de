"""What orthogonal weights, small residual branches and the metric penalty bring in training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from paper_figures.claims import Claim
from paper_figures.look import comparisons, panels, style, training_panels

INPUTS = ("trained_remedies",)
PAPER = ""

NONE = "none"
# The colour of each remedy, in every kind of network.
COLORS = {
    NONE: style.PALETTE[6],
    "orthogonal start": style.PALETTE[0],
    "orthogonality penalty": style.PALETTE[5],
    "retraction": style.PALETTE[3],
    "metric penalty": style.PALETTE[1],
    "orthogonal start, metric penalty": style.PALETTE[4],
    "scaled branches": style.PALETTE[2],
    "least-squares B": "#8C564B",
}
# Its cosines lie on those of an orthogonal start: it stands among the gains alone.
ALONE = "orthogonality penalty"
KINDS = {"plain": "convolutions with ReLU", "residual": "residual blocks"}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Cosines along training and per block, a column for each network; what remedies gain."""
    data = datasets["trained_remedies"]
    figure = Figure(figsize=(style.PAGE, 6.8))
    along, per_block, ends = figure.subplots(3, 2, sharey="row")
    for kind, upper, middle, lower in zip(KINDS, along, per_block, ends, strict=True):
        for name in _remedies(data, kind):
            if name == ALONE:
                continue
            color = COLORS[name]
            cosine = _below(data, kind, name)
            style.band(upper, cosine.mean("layer"), "repetition", color=color, label=name)
            style.band(middle, cosine.mean("step"), "repetition", color=color, label=name)
        middle.axhline(0, color="#999999", linewidth=0.5)
        middle.set_xlabel("block")
        training_panels.step_axis(upper)
        upper.axhline(0, color="#999999", linewidth=0.5)
        upper.set_title(f"{kind}: {KINDS[kind]}")
        _gains(lower, data, kind)
    first, last = data["layer"].values[[0, -2]]
    along[0].set_ylabel(f"cosine of local and global\nupdate, mean of blocks {first}-{last}")
    per_block[0].set_ylabel("cosine, mean of\nthe recorded steps")
    ends[0].set_ylabel("accuracy minus that\nwithout a remedy")
    shown = along[0].get_legend_handles_labels()[1]
    more = [
        *zip(*along[1].get_legend_handles_labels(), strict=True),
        (Line2D([], [], color=COLORS[ALONE], marker="o", linestyle=""), ALONE),
    ]
    extra = [(handle, label) for handle, label in more if label not in shown]
    panels.legend_below(figure, along[0], columns=3, extra=extra)
    panels.headline(
        figure, "Orthogonal weights and least-squares B raise the cosine, not the accuracy"
    )
    return panels.finish(figure, data)


def _gains(axes: Axes, data: xr.Dataset, kind: str) -> None:
    """Gain of accuracy against gain of cosine, paired over networks, with their intervals."""
    for name in _remedies(data, kind):
        if name == NONE:
            continue
        x, x_half = style.interval(cosine_gain(data, kind, name), "repetition")
        y, y_half = style.interval(accuracy_gain(data, kind, name), "repetition")
        axes.errorbar(
            float(x),
            float(y),
            float(np.nan_to_num(y_half)),
            float(np.nan_to_num(x_half)),
            color=COLORS[name],
            marker="o",
            linestyle="",
            elinewidth=1,
        )
    axes.axhline(0, color="#999999", linewidth=0.5)
    axes.axvline(0, color="#999999", linewidth=0.5)
    axes.set_xlabel("mean cosine along training minus\nthat without a remedy")


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Whether each remedy raises the cosine, and whether it raises the accuracy."""
    data = datasets["trained_remedies"]
    found = []
    for kind in KINDS:
        for name in _remedies(data, kind):
            if name == NONE:
                continue
            found += [
                _gain(f"{kind} network, {name}: raises the cosine", cosine_gain(data, kind, name)),
                _gain(f"{kind} network, {name}: raises accuracy", accuracy_gain(data, kind, name)),
            ]
    return found


def _gain(text: str, gain: xr.DataArray) -> Claim:
    return Claim(text, comparisons.above(gain), f"difference {float(gain.mean()):+.3f}")


def _remedies(data: xr.Dataset, kind: str) -> list[str]:
    """The remedies of a kind of network, in the order of `COLORS`."""
    own = {str(name).partition(": ")[2] for name in data["remedy"].values[data["network"] == kind]}
    return [name for name in COLORS if name in own]


def _below(data: xr.Dataset, kind: str, name: str) -> xr.DataArray:
    """Cosines below the top."""
    return data["cosine"].sel(remedy=f"{kind}: {name}", drop=True).isel(layer=slice(-1))


def cosine_gain(data: xr.Dataset, kind: str, name: str) -> xr.DataArray:
    """The mean cosine of the recorded steps and the blocks below the top, minus that of none."""
    with_it, without = (_below(data, kind, each).mean(["step", "layer"]) for each in (name, NONE))
    return with_it - without


def accuracy_gain(data: xr.Dataset, kind: str, name: str) -> xr.DataArray:
    """The accuracy of a probe on all blocks, minus that without a remedy."""
    accuracy = data["accuracy"]
    return accuracy.sel(remedy=f"{kind}: {name}", drop=True) - accuracy.sel(
        remedy=f"{kind}: {NONE}", drop=True
    )
