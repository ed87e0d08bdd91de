"""What each block learns when it is trained on its own, against the same loss end to end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.claims import Claim
from paper_figures.look import blockwise, comparisons, panels, style

INPUTS = ("blockwise_ssl",)
PAPER = "C"

PUBLISHED = (
    "ImageNet, ResNet-50, block 4: with noise 70.48, without 70.15 (secondary source), end to end "
    "71.57 (arXiv 2302.01647)"
)
DIFFERENCE = (
    "here small RHM images and a narrow network: differences can be compared, accuracies cannot"
)

ELSEWHERE = f"ImageNet; {DIFFERENCE}"


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Losses, pooling and order, noise; the cosines along training."""
    data = datasets["blockwise_ssl"]
    figure = Figure(figsize=(style.PAGE, 6.0))
    grid = figure.subplots(2, 2)
    _losses(grid[0, 0], data)
    _variants(grid[0, 1], data, "heads and order", _where(data, noise="", loss="Barlow Twins"))
    noisy = [blockwise.BASE, blockwise.END_TO_END, *(v for v in _names(data) if "noise" in v)]
    _variants(grid[1, 0], data, "noise between the blocks", noisy)
    _cosines(grid[1, 1], data)
    for axes in grid.flat[:3]:
        axes.axhline(float(data["chance"]), color="#999999", linestyle=":", linewidth=0.8)
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("test accuracy of a linear probe", size=7)
        panels.layer_axis(axes, data["layer"])
        axes.set_xlabel("block")
    figure.supxlabel(f"Published: {PUBLISHED};\n{DIFFERENCE}.", size=6, color="#555555")
    panels.headline(figure, _result(data))
    return panels.finish(figure, data)


def _result(data: xr.Dataset) -> str:
    """What the headline says: the last block, blockwise against end to end."""
    top = data["accuracy"].isel(layer=-1)
    sign = comparisons.sign(top.sel(variant=blockwise.BASE) - top.sel(variant=blockwise.END_TO_END))
    local, whole = (
        float(top.sel(variant=name).mean()) for name in (blockwise.BASE, blockwise.END_TO_END)
    )
    verdict = {1: "better", -1: "worse", 0: "not shown to differ"}[sign]
    return (
        f"Barlow Twins, last block: {local:.2f} blockwise against {whole:.2f} end to end, {verdict}"
    )


def _losses(axes: Axes, data: xr.Dataset) -> None:
    losses = list(dict.fromkeys(data["loss"].values.tolist()))
    for loss, color in zip(losses, style.PALETTE, strict=False):
        for order, line in (("simultaneous", "-"), ("end to end", "--")):
            label = loss if order == "simultaneous" else ""
            _line(axes, data, f"{loss}, {order}", color, line, label)
    _line(axes, data, blockwise.UNTRAINED, "#999999", "-.", blockwise.UNTRAINED)
    axes.set_title("losses; dashed: end to end")
    axes.legend(fontsize=6, loc="upper left")


def _variants(axes: Axes, data: xr.Dataset, title: str, names: Sequence[str]) -> None:
    for name, color in zip(names, style.PALETTE, strict=False):
        label = name.removeprefix("Barlow Twins, ").removeprefix("simultaneous, ")
        _line(axes, data, name, color, "--" if name == blockwise.END_TO_END else "-", label)
    axes.set_title(f"Barlow Twins: {title}")
    axes.legend(fontsize=6, loc="upper left")


def _line(axes: Axes, data: xr.Dataset, name: str, color: str, line: str, label: str) -> None:
    mean, half = style.interval(data["accuracy"].sel(variant=name), "repetition")
    axes.errorbar(
        data["layer"],
        mean,
        half,
        color=color,
        linestyle=line,
        marker="o",
        linewidth=1,
        elinewidth=0.5,
        label=label or None,
    )


def _cosines(axes: Axes, data: xr.Dataset) -> None:
    cosine = data["cosine"].sel(variant=blockwise.BASE)
    for layer, color in zip(data["layer"].values[:-1], style.PALETTE, strict=False):
        values = cosine.sel(layer=layer)
        style.band(axes, values, "repetition", color=color, label=f"block {layer}")
    axes.axhline(0, color="#999999", linewidth=0.5)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    axes.set_xlabel("step")
    axes.set_ylabel("cosine of blockwise and end-to-end gradient", size=7)
    axes.set_title("Barlow Twins, blockwise training; bands: 95 %")
    axes.legend(fontsize=6)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Learning in every block; blockwise against end to end; noise, pooling, order."""
    data = datasets["blockwise_ssl"]
    accuracy = data["accuracy"]
    trained = accuracy.sel(variant=[v for v in _names(data) if v != blockwise.UNTRAINED])
    chance = float(data["chance"])
    decided = [
        Claim(
            "a linear probe reads every block of every trained variant above chance",
            comparisons.above(trained, chance),
            f"lowest accuracy {float(trained.mean('repetition').min()):.2f}, chance {chance:.3f}",
        )
    ]
    top = accuracy.isel(layer=-1)
    for loss in dict.fromkeys(data["loss"].values.tolist()):
        local = f"{loss}, simultaneous"
        decided.append(
            comparisons.difference(
                top,
                local,
                blockwise.UNTRAINED,
                f"{loss}, blockwise: a probe reads the last block better than without training",
                least=0.0,
            )
        )
    decided.append(
        comparisons.difference(
            top,
            blockwise.BASE,
            blockwise.END_TO_END,
            "Barlow Twins: blockwise training comes within 0.05 of end-to-end training in the last "
            "block",
            least=-0.05,
            published=f"0.7015 against 0.7157; {PUBLISHED}",
            elsewhere=ELSEWHERE,
        )
    )
    decided.append(
        comparisons.difference(
            top,
            "Barlow Twins, simultaneous, noise per channel",
            blockwise.BASE,
            "noise per channel raises the accuracy of the last block",
            least=0.0,
            published="0.7048 against 0.7015",
            elsewhere=ELSEWHERE,
        )
    )
    decided.extend(
        comparisons.difference(
            top,
            blockwise.BASE,
            f"{blockwise.BASE}, {words}",
            f"the expansion is better than {words} in the last block",
            least=0.0,
            published="the expansion is the choice of the paper, curves only",
            elsewhere=ELSEWHERE,
        )
        for words in ("local pooling", "global pooling")
    )
    decided.append(
        comparisons.difference(
            top,
            blockwise.BASE,
            "Barlow Twins, sequential",
            "training all blocks at once is no worse than training one after the other, with as "
            "many steps for each block (within 0.02)",
            least=-0.02,
            published="both in the paper, numbers not public to us",
            elsewhere=ELSEWHERE,
        )
    )
    return decided


def _names(data: xr.Dataset) -> list[str]:
    names: list[str] = data["variant"].values.tolist()
    return names


def _where(data: xr.Dataset, **coordinates: str) -> list[str]:
    chosen = np.logical_and.reduce([data[k].values == v for k, v in coordinates.items()])
    return [
        name
        for name, here in zip(_names(data), chosen, strict=True)
        if here and name != blockwise.UNTRAINED
    ]
