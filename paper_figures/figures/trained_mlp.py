"""Direct feedback, and B matched to the backpropagated error, in a trained ReLU network."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim
from paper_figures.look import comparisons, panels, style, training_panels

INPUTS = ("trained_mlp",)
PAPER = "A"

COLORS = {
    "same layer": style.PALETTE[0],
    "direct feedback": style.PALETTE[1],
    "direct feedback, matched B": style.PALETTE[2],
    "direct feedback, random B": style.PALETTE[3],
}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Left: cosine per layer at the end. Right: its mean below the top along training."""
    data = datasets["trained_mlp"]
    figure = Figure(figsize=(style.PAGE, 2.9))
    trained, along = figure.subplots(1, 2)
    training_panels.cosines(trained, along, data, COLORS)
    panels.legend_below(figure, trained, columns=2)
    kind = str(data["data"].values)
    panels.headline(
        figure,
        f"A ReLU network trained on halves of {kind} (published: MNIST, curves only)",
    )
    return panels.finish(figure, data)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """The order of the rules in the trained network, layer by layer."""
    data = datasets["trained_mlp"]
    below = data["cosine"].isel(step=-1, layer=slice(-1))
    elsewhere = None if str(data["data"].values) == "mnist" else "MNIST"
    steps = int(data["step"][-1])
    rule = {name: below.sel(rule=name, drop=True) for name in COLORS}
    return [
        comparisons.raises(
            f"trained network: {text} in every layer below the top, after {steps} steps",
            rule[better],
            rule[worse],
            "repetition",
            published="as curves only, after 20 epochs (37,500 steps)",
            elsewhere=elsewhere,
        )
        for text, better, worse in (
            ("direct feedback raises the cosine", "direct feedback", "same layer"),
            (
                "B matched to the backpropagated error raises it further",
                "direct feedback, matched B",
                "direct feedback",
            ),
            (
                "trained B is better than a frozen random one",
                "direct feedback",
                "direct feedback, random B",
            ),
        )
    ]
