"""How much of backpropagation local rules and averaged masks recover in a trained network."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.claims import Claim
from paper_figures.look import comparisons, panels, rows, style, training_panels

INPUTS = ("trained_cnn",)
PAPER = "A"

COLORS = {
    "CLAPP++": style.PALETTE[0],
    "CLAPP++ DFB": style.PALETTE[1],
    "CLAPP++ DFB, matched B": style.PALETTE[2],
}
# The networks in which masked backpropagation is compared.
MASKED_IN = "CLAPP++ DFB"
MASKS = {"batch": "masks averaged over the batch", "none": "masks left out"}
LOOKS = (("#D55E00", "s"), ("#009E73", "D"), ("#E69F00", "^"), ("#56B4E9", "v"))


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """The mean cosine during training; paired differences by layer at its end."""
    data = datasets["trained_cnn"]
    figure = Figure(figsize=(style.PAGE, 3.8))
    along, forest = figure.subplots(1, 2, width_ratios=(2, 3))
    for (rule, color), marker in zip(COLORS.items(), style.MARKERS, strict=False):
        mean = data["cosine"].sel(rule=rule, drop=True).isel(layer=slice(-1)).mean("layer")
        style.band(along, mean, "repetition", color=color, label=rule, marker=marker)
    training_panels.step_axis(along)
    along.axhline(0, color="#999999", linewidth=0.5)
    along.set_ylabel("cosine of local and global update")
    along.set_title(f"mean of layers {panels.span(data['layer'][:-1])}")
    _forest(forest, data)
    differences = [*zip(*forest.get_legend_handles_labels(), strict=True)]
    # Each panel has a column of the legend: the shorter one is filled up.
    (blank,) = along.plot([], [], " ")
    missing = len(differences) - len(COLORS)
    panels.legend_below(figure, along, 2, [*[(blank, "")] * missing, *differences])
    panels.headline(figure, _result(data))
    return panels.finish(figure, data)


def _forest(axes: Axes, data: xr.Dataset) -> None:
    """A row for each comparison in each layer, the lowest layer at the bottom."""
    layers = data["layer"].values[:-1]
    for number, (words, gain) in enumerate(_gains(data).items()):
        color, marker = LOOKS[number]
        places = [layer + 0.3 - 0.2 * number for layer in layers]
        values = [gain.sel(layer=layer) for layer in layers]
        rows.dots(axes, places, values, "repetition", color=color, marker=marker, label=words)
    rows.zero(axes)
    axes.set_yticks(layers)
    axes.set_ylabel("layer")
    axes.set_xlabel("difference of cosines, 95 % intervals over networks")
    axes.set_title(f"after {int(data['step'][-1])} steps")


def _gains(data: xr.Dataset) -> dict[str, xr.DataArray]:
    """The paired differences that are claimed, below the top at the end of training."""
    below = data["cosine"].isel(step=-1, layer=slice(-1))
    plain, feedback, matched = (below.sel(rule=name, drop=True) for name in COLORS)
    masked = data["masked_cosine"].sel(rule=MASKED_IN, drop=True).isel(layer=slice(-1))
    return {
        "direct feedback against CLAPP++": feedback - plain,
        "matched B against direct feedback": matched - feedback,
        **{
            f"backpropagation with {words} against direct feedback": masked.sel(
                mask=name, drop=True
            )
            - feedback
            for name, words in MASKS.items()
        },
    }


def _result(data: xr.Dataset) -> str:
    """What the headline says: in how many layers, each by itself, a change raises the cosine."""
    told = []
    for gain in list(_gains(data).values())[:2]:
        mean, half = style.interval(gain, "repetition")
        told.append(f"{int((mean - half > 0).sum())} of {gain.sizes['layer']}")
    return (
        f"Encoder trained on {data['data'].values}: direct feedback raises the cosine in {told[0]} "
        f"layers,\nmatching B to backpropagation raises it further in {told[1]} "
        "(each layer judged alone)"
    )


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """The order of the rules in the trained network, and that of the masks."""
    data = datasets["trained_cnn"]
    below = data["cosine"].isel(step=-1, layer=slice(-1))
    rule = {name: below.sel(rule=name, drop=True) for name in COLORS}
    elsewhere = None if str(data["data"].values) == "stl10" else "STL-10"
    masked = data["masked_cosine"].sel(rule=MASKED_IN, drop=True).isel(layer=slice(-1))
    return [
        comparisons.raises(
            "trained encoder: direct feedback raises the cosine of CLAPP++",
            rule["CLAPP++ DFB"],
            rule["CLAPP++"],
            "repetition",
            elsewhere=elsewhere,
        ),
        comparisons.raises(
            "trained encoder: B matched to the backpropagated error raises it further",
            rule["CLAPP++ DFB, matched B"],
            rule["CLAPP++ DFB"],
            "repetition",
            elsewhere=elsewhere,
        ),
        *(
            comparisons.raises(
                f"trained encoder: backpropagation with {words} stays closer to backpropagation "
                "than CLAPP++ DFB does",
                masked.sel(mask=name, drop=True),
                rule[MASKED_IN],
                "repetition",
                published=None,
            )
            for name, words in MASKS.items()
        ),
    ]
