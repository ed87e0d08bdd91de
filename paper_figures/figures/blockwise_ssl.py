"""What each block learns when it is trained on its own, against the same loss end to end."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.claims import Claim
from paper_figures.look import blockwise, comparisons, panels, rows, style, training_panels

INPUTS = ("blockwise_ssl",)
PAPER = "C"

PUBLISHED = (
    "ImageNet, ResNet-50, block 4: with noise 70.48, without 70.15 (secondary source), end to end "
    "71.57 (arXiv 2302.01647)"
)
DIFFERENCE = (
    "here small images ({}) and a narrow network: differences can be compared, accuracies cannot"
)


# By the order in which blocks are trained.
ORDERS = {
    "simultaneous": ("all blocks at once", "o"),
    "end to end": ("end to end", "s"),
    "sequential": ("one block after the other", "D"),
    "": ("untrained", "x"),
}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """All variants by the accuracy of their last block; the blocks; the cosines along training."""
    data = datasets["blockwise_ssl"]
    figure = Figure(figsize=(style.PAGE, 5.2))
    grid = figure.subplot_mosaic([["variants", "blocks"], ["variants", "cosines"]])
    _sorted(grid["variants"], data)
    _losses(grid["blocks"], data)
    _cosines(grid["cosines"], data)
    figure.supxlabel(f"Published: {PUBLISHED};\n{_difference(data)}.", size=7, color="#555555")
    panels.headline(figure, _result(data))
    return panels.finish(figure, data)


def _difference(data: xr.Dataset) -> str:
    """What keeps our numbers from being the published ones."""
    return DIFFERENCE.format(data["data"].values)


def _order(name: str) -> str:
    """How the blocks of a variant are trained, by its name."""
    return next(order for order in ORDERS if order in name)


def _sorted(axes: Axes, data: xr.Dataset) -> None:
    """A row for each variant, the best at the top."""
    top = data["accuracy"].isel(layer=-1)
    names = sorted(_names(data), key=lambda name: float(top.sel(variant=name).mean()))
    if blockwise.UNTRAINED in names:
        untrained = float(top.sel(variant=blockwise.UNTRAINED).mean())
        axes.axvline(untrained, color="#999999", linestyle="--", linewidth=0.8)
    axes.axvline(float(data["chance"]), color="#999999", linestyle=":", linewidth=0.8)
    for (order, (words, marker)), color in zip(ORDERS.items(), style.PALETTE, strict=False):
        places = [k for k, name in enumerate(names) if _order(name) == order]
        values = [top.sel(variant=names[k]) for k in places]
        if places:
            rows.dots(axes, places, values, "repetition", color=color, marker=marker, label=words)
    labels = [name.replace(", simultaneous", "").replace("Barlow Twins", "BT") for name in names]
    axes.set_yticks(range(len(names)), labels, size=7)
    axes.set_xlabel(
        "test accuracy of a linear probe on the last block\n(dotted: chance; dashed: untrained)"
    )
    axes.set_title("variants; BT: Barlow Twins")
    highest = float(top.max())
    axes.set_xlim(right=1.9 * highest)  # room for the legend
    axes.set_xticks([tick for tick in (0.2, 0.4, 0.6, 0.8, 1.0) if tick < highest + 0.1])
    axes.legend(fontsize=7, loc="lower right")


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
    """The accuracy of each block for each loss, trained block by block, and without training."""
    losses = list(dict.fromkeys(data["loss"].values.tolist()))
    lines = {loss: f"{loss}, simultaneous" for loss in losses} | {"untrained": blockwise.UNTRAINED}
    colors = dict(zip(lines, style.PALETTE, strict=False)) | {"untrained": "#999999"}
    ends = []
    for (label, name), marker in zip(lines.items(), style.MARKERS, strict=False):
        mean, half = style.interval(data["accuracy"].sel(variant=name), "repetition")
        axes.errorbar(
            data["layer"],
            mean,
            half,
            color=colors[label],
            marker=marker,
            linewidth=1,
            elinewidth=0.5,
        )
        ends.append(float(mean[-1]))
    beside = float(data["layer"][-1]) + 0.15
    highest = 1.15 * float(data["accuracy"].sel(variant=[*lines.values()]).max())
    for label, height in zip(lines, rows.apart(ends, 0.07 * highest), strict=True):
        axes.text(beside, height, label, color=colors[label], va="center", size=7)
    axes.axhline(float(data["chance"]), color="#999999", linestyle=":", linewidth=0.8)
    panels.layer_axis(axes, data["layer"])
    axes.set_xlabel("block")
    axes.set_ylabel("accuracy", size=7)
    axes.set_ylim(0, highest)
    axes.set_xlim(right=float(data["layer"][-1]) + 1.4)
    axes.set_title("all blocks at once, by loss")


def _cosines(axes: Axes, data: xr.Dataset) -> None:
    cosine = data["cosine"].sel(variant=blockwise.BASE)
    for number, layer in enumerate(data["layer"].values[:-1]):
        values = cosine.sel(layer=layer)
        color, marker = style.PALETTE[number], style.MARKERS[number]
        label = f"block {layer}"
        style.band(axes, values, "repetition", color=color, label=label, marker=marker)
    axes.axhline(0, color="#999999", linewidth=0.5)
    axes.set_ylim(max(-1.0, axes.get_ylim()[0]), min(1.0, axes.get_ylim()[1]))
    training_panels.step_axis(axes)
    axes.set_ylabel("cosine, blockwise and end to end", size=7)
    axes.set_title("Barlow Twins, all blocks at once")
    axes.legend(fontsize=7)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Learning in every block and end to end; one against the other; noise, pooling, order."""
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
    losses = dict.fromkeys(data["loss"].values.tolist())
    orders = {"simultaneous": "blockwise", "end to end": "end to end"}
    for loss, (order, words) in product(losses, orders.items()):
        decided.append(
            comparisons.difference(
                top,
                f"{loss}, {order}",
                blockwise.UNTRAINED,
                f"{loss}, {words}: a probe reads the last block better than without training",
                least=0.0,
            )
        )
    near = "blockwise training comes within 0.05 of end-to-end training in the last block"
    for loss in losses:
        pair = f"{loss}, simultaneous", f"{loss}, end to end"
        if pair[0] != blockwise.BASE:
            decided.append(comparisons.difference(top, *pair, f"{loss}: {near}", least=-0.05))
    compared = [
        (
            blockwise.BASE,
            blockwise.END_TO_END,
            f"Barlow Twins: {near}",
            -0.05,
            f"0.7015 against 0.7157; {PUBLISHED}",
        ),
        (
            f"{blockwise.BASE}, noise per channel",
            blockwise.BASE,
            "noise per channel raises the accuracy of the last block",
            0.0,
            "0.7048 against 0.7015",
        ),
        *(
            (
                blockwise.BASE,
                f"{blockwise.BASE}, {words}",
                f"the expansion is better than {words} in the last block",
                0.0,
                "the expansion is the choice of the paper, curves only",
            )
            for words in ("local pooling", "global pooling")
        ),
        *(
            (
                blockwise.BASE,
                f"Barlow Twins, {sequential}",
                "training all blocks at once is no worse than training one after the other, with "
                f"{steps} (within 0.02)",
                -0.02,
                "both in the paper, numbers not public to us",
            )
            for sequential, steps in (
                ("sequential", "as many steps for each block"),
                ("sequential, 25% of the steps", "as many steps for all blocks together"),
            )
        ),
    ]
    there = set(_names(data))
    decided.extend(
        comparisons.difference(
            top, better, worse, text, least, published, f"ImageNet; {_difference(data)}"
        )
        for better, worse, text, least, published in compared
        if {better, worse} <= there
    )
    return [*decided, *comparisons.rates_inside(data)]


def _names(data: xr.Dataset) -> list[str]:
    names: list[str] = data["variant"].values.tolist()
    return names
