"""A B that is solved for by least squares brings local errors nearer than one that is trained."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim
from paper_figures.look import comparisons, panels, style, training_panels

INPUTS = ("closed_forms",)
PAPER = "A"

TRAINED, OPTIMAL, NEAREST = "trained", "penalty-optimal", "least squares"


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Cosine of error signals per layer after training, and its mean during training."""
    data = datasets["closed_forms"]
    figure = Figure(figsize=(style.PAGE, 3.1))
    after, along = figure.subplots(1, 2, sharey=True)
    for name, color in zip(data["projection"].values, style.PALETTE, strict=False):
        cosine = data["error_cosine"].sel(projection=name, drop=True)
        style.band(after, cosine.isel(step=-1), "repetition", color=color, label=f"{name}")
        mean = cosine.isel(layer=slice(-1)).mean("layer")
        style.band(along, mean, "repetition", color=color, label=f"{name}")
    panels.layer_axis(after, data["layer"])
    training_panels.step_axis(along)
    after.set_title(f"after {int(data['step'][-1])} steps")
    along.set_title(f"mean of layers {panels.span(data['layer'][:-1])}")
    after.set_ylabel("cosine of local and\nbackpropagated error")
    after.set_ylim(-0.1, 1.05)
    for axes in (after, along):
        axes.axhline(0, color="#999999", linewidth=0.5)
    panels.legend_below(figure, after, columns=3)
    panels.headline(figure, _headline(data))
    return panels.finish(figure, data)


def _headline(data: xr.Dataset) -> str:
    mean = data["error_cosine"].isel(step=-1, layer=slice(-1)).mean(("layer", "repetition"))
    nearest, trained = (float(mean.sel(projection=name)) for name in (NEAREST, TRAINED))
    verb = "comes" if nearest > trained else "comes no"
    return (
        f"B by least squares {verb} nearer than a trained B: cosine {nearest:.2f}, not "
        f"{trained:.2f}"
    )


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """The order of the projections in every layer below the top, along training and after it."""
    data = datasets["closed_forms"]
    below = data["error_cosine"].isel(layer=slice(-1))
    *_, fewer, more, _ = data["projection"].values
    ordered = (
        ("least squares comes nearer to backpropagation than the trained B", NEAREST, TRAINED),
        ("least squares comes nearer than the penalty-optimal B", NEAREST, OPTIMAL),
        (f"{more} comes nearer than the trained B", more, TRAINED),
        (f"{more} comes nearer than {fewer}", more, fewer),
    )
    times = {
        f"on the mean of {below.sizes['step']} recorded steps": below.mean("step"),
        f"after {int(data['step'][-1])} steps": below.isel(step=-1, drop=True),
    }
    return [
        comparisons.raises(
            f"encoder in training, direct feedback: {text}, in every layer, {when}",
            cosine.sel(projection=better, drop=True),
            cosine.sel(projection=worse, drop=True),
            "repetition",
            published=None,
        )
        for when, cosine in times.items()
        for text, better, worse in ordered
    ]
