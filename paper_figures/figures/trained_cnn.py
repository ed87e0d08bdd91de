"""How much of backpropagation local rules and averaged masks recover in a trained network."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim
from paper_figures.look import comparisons, panels, style, training_panels

INPUTS = ("trained_cnn",)
PAPER = "A"

COLORS = {
    "CLAPP++": style.PALETTE[0],
    "CLAPP++ DFB": style.PALETTE[1],
    "CLAPP++ DFB, matched B": style.PALETTE[2],
}
# The networks in which masked backpropagation is compared.
MASKED_IN = "CLAPP++ DFB"
MASKS = {
    "batch": ("masks averaged over the batch", style.PALETTE[4]),
    "none": ("masks left out", style.PALETTE[6]),
}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Cosine per layer at the end; along training; of backpropagation without its masks."""
    data = datasets["trained_cnn"]
    figure = Figure(figsize=(style.PAGE, 2.9))
    trained, along, masked = figure.subplots(1, 3)
    training_panels.cosines(trained, along, data, COLORS)
    panels.legend_below(figure, trained, columns=3)
    for name, (label, color) in MASKS.items():
        curve = data["masked_cosine"].sel(rule=MASKED_IN, mask=name, drop=True)
        style.band(masked, curve, "repetition", color=color, label=label)
    masked.axhline(0, color="#999999", linewidth=0.5)
    masked.set_ylim(-0.3, 1.05)
    masked.set_title("masked backpropagation")
    masked.set_xlabel("layer")
    masked.legend(loc="lower right", fontsize=6)
    kind = str(data["data"].values)
    panels.headline(figure, f"A VGG-like encoder trained on {kind} (published: STL-10)")
    return panels.finish(figure, data)


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
            "trained encoder: B trained to match the backpropagated error raises it further",
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
            for name, (words, _) in MASKS.items()
        ),
    ]
