"""Corrupted images read from networks trained blockwise, with noise and without, and end to end."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import LineStyleType

from paper_figures.claims import Claim
from paper_figures.look import blockwise, comparisons, panels, style

INPUTS = ("blockwise_ssl",)
PAPER = "C"

PUBLISHED = "measured in arXiv 2302.01647, numbers not public to us"
DIFFERENCE = "here the same types of corruption except frost, on small images ({})"
NOISE = "Barlow Twins, simultaneous, noise per {}"
LABELS = {
    blockwise.BASE: "blockwise",
    NOISE.format("channel"): "blockwise, noise per channel",
    blockwise.END_TO_END: "end to end",
    blockwise.UNTRAINED: "untrained",
}
LINES: dict[str, LineStyleType] = dict(zip(LABELS, ("-", "-", "--", "-."), strict=True))
COLORS = dict(zip(LABELS, (*style.PALETTE[:3], "#999999"), strict=True))


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Left: accuracy against severity, the mean over corruptions. Right: each corruption."""
    data = datasets["blockwise_ssl"]
    figure = Figure(figsize=(style.PAGE, 3.6))
    along, each = figure.subplots(1, 2, width_ratios=[1, 1.3])
    _severities(along, data)
    _corruptions(each, data)
    figure.supxlabel(
        f"Published on ImageNet-C: {PUBLISHED};\n{_difference(data)}.", size=7, color="#555555"
    )
    panels.headline(figure, _result(data))
    return panels.finish(figure, data)


def _difference(data: xr.Dataset) -> str:
    """What keeps our numbers from being the published ones."""
    return DIFFERENCE.format(data["data"].values)


def _result(data: xr.Dataset) -> str:
    """What the headline says: the accuracy on corrupted images, and what noise does to it."""
    harmed = _harmed(data)
    base, noisy, whole = (float(harmed.sel(variant=name).mean()) for name in list(LABELS)[:3])
    sign = comparisons.sign(
        harmed.sel(variant=NOISE.format("channel")) - harmed.sel(variant=blockwise.BASE)
    )
    verdict = {1: "helps", -1: "harms", 0: "undecided"}[sign]
    return (
        f"Corrupted images: {base:.2f} blockwise, {noisy:.2f} with noise, {whole:.2f} end to end; "
        f"noise {verdict}"
    )


def _severities(axes: Axes, data: xr.Dataset) -> None:
    accuracy = data["corrupted_accuracy"].mean("corruption")
    for name, label in LABELS.items():
        values = accuracy.sel(variant=name)
        style.band(axes, values, "repetition", color=COLORS[name], label=label)
        axes.lines[-1].set_linestyle(LINES[name])
    axes.axhline(float(data["chance"]), color="#999999", linestyle=":", linewidth=0.8)
    axes.set_ylim(0, 1.25 * float(accuracy.sel(variant=[*LABELS]).max()))  # room for the legend
    axes.set_xlabel("severity (0: clean)")
    axes.set_ylabel("accuracy of the last block's linear probe", size=7)
    axes.set_title("mean over corruptions; bands: 95 %")
    axes.legend(fontsize=7, loc="upper right")


def _corruptions(axes: Axes, data: xr.Dataset) -> None:
    harmed = data["corrupted_accuracy"].sel(severity=slice(1, None)).mean("severity")
    places = np.arange(harmed.sizes["corruption"])
    for name, shift in zip(list(LABELS)[:3], (-0.22, 0, 0.22), strict=True):
        mean, half = style.interval(harmed.sel(variant=name), "repetition")
        axes.errorbar(
            mean, places + shift, xerr=half, color=COLORS[name], fmt="o", markersize=3, elinewidth=1
        )
    axes.set_yticks(places, [str(c).replace("_", " ") for c in harmed["corruption"].values], size=7)
    axes.invert_yaxis()
    axes.axvline(float(data["chance"]), color="#999999", linestyle=":", linewidth=0.8)
    axes.set_xlim(left=0)
    axes.set_xlabel("accuracy, mean over severities 1 to 5")
    axes.set_title("each corruption")


def _harmed(data: xr.Dataset) -> xr.DataArray:
    """The mean over corruptions and severities, over variant and repetition."""
    return data["corrupted_accuracy"].sel(severity=slice(1, None)).mean(("severity", "corruption"))


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Corruption harms; blockwise against end to end; whether noise helps."""
    data = datasets["blockwise_ssl"]
    harmed = _harmed(data)
    clean = data["corrupted_accuracy"].sel(severity=0, drop=True).mean("corruption")
    accuracy = data["corrupted_accuracy"].mean("corruption")
    trained = [name for name in data["variant"].values.tolist() if name != blockwise.UNTRAINED]
    fallen = (accuracy.isel(severity=0) - accuracy.isel(severity=-1)).sel(variant=trained)
    base = accuracy.sel(variant=blockwise.BASE).mean("repetition")
    paper = {"published": PUBLISHED, "elsewhere": f"ImageNet-C; {_difference(data)}"}
    return [
        Claim(
            "the mean accuracy over corruptions falls from clean images to severity 5, for every "
            "trained variant",
            comparisons.above(fallen),
            f"{len(trained)} variants, by {float(fallen.mean('repetition').min()):.2f} or more; "
            f"blockwise {panels.numbers(base)} at severities 0 to 5",
        ),
        comparisons.difference(
            harmed,
            blockwise.BASE,
            blockwise.END_TO_END,
            "Barlow Twins: corrupted images are read no worse after blockwise training than after "
            "end-to-end training (within 0.05)",
            least=-0.05,
            **paper,
        ),
        comparisons.difference(
            harmed - clean,
            blockwise.BASE,
            blockwise.END_TO_END,
            "Barlow Twins: blockwise training loses no more accuracy to corruptions than "
            "end-to-end training (within 0.05)",
            least=-0.05,
            **paper,
        ),
        *(
            comparisons.difference(
                harmed,
                NOISE.format(spread),
                blockwise.BASE,
                f"noise per {spread} between the blocks raises the accuracy on corrupted images",
                least=0.0,
                **paper,
            )
            for spread in ("channel", "map", "tensor")
            if NOISE.format(spread) in trained
        ),
    ]
