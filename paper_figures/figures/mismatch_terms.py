"""Why local updates depart from backpropagation in a trained network: masks, feedback, slopes."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim
from paper_figures.look import comparisons, panels, style, training_panels

INPUTS = ("trained_cnn",)
PAPER = "A"

RULES = ("CLAPP++", "CLAPP++ DFB", "CLAPP++ DFB, matched B")
TERMS = {
    "feedback": ("feedback: what B sends back", style.PALETTE[0]),
    "masks": ("masks: derivatives of each sample", style.PALETTE[1]),
    "slopes": ("slopes: how pairs are weighted", style.PALETTE[2]),
}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """What each term takes from the cosine, per layer after training and on average along it."""
    data = datasets["trained_cnn"]
    figure = Figure(figsize=(style.PAGE, 4.4))
    after, along = figure.subplots(2, len(RULES), sharey=True)
    for rule, here, path in zip(RULES, after, along, strict=True):
        missing = 1 - data["error_cosine"].sel(rule=rule, drop=True)
        for term, (label, color) in TERMS.items():
            share = data[f"{term}_shapley"].sel(rule=rule, drop=True)
            style.band(here, share.isel(step=-1), "repetition", color=color, label=label)
            mean = share.isel(layer=slice(-1)).mean("layer")
            style.band(path, mean, "repetition", color=color, label=label)
        style.band(
            here, missing.isel(step=-1), "repetition", color="#777777", label="all: 1 - cosine"
        )
        mean = missing.isel(layer=slice(-1)).mean("layer")
        style.band(path, mean, "repetition", color="#777777", label="all: 1 - cosine")
        here.set_title(rule)
        panels.layer_axis(here, data["layer"])
        training_panels.step_axis(path)
        for axes in (here, path):
            axes.axhline(0, color="#999999", linewidth=0.5)
    after[0].set_ylabel(f"taken from the cosine\nafter {int(data['step'][-1])} steps")
    below = panels.span(data["layer"][:-1])
    along[0].set_ylabel(f"taken from the cosine,\nmean of layers {below}")
    panels.legend_below(figure, after[0], columns=2)
    least, *_, most = sorted(TERMS, key=lambda term: float(_after_training(data, term).mean()))
    panels.headline(
        figure,
        f"{most.capitalize()} separates local from backpropagated errors most, {least} least",
    )
    return panels.finish(figure, data)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """What direct feedback and a matched B mend, and what masks cost."""
    data = datasets["trained_cnn"]

    def taken(term: str, rule: str) -> xr.DataArray:
        return _after_training(data, term).sel(rule=rule, drop=True)

    plain, direct, matched = RULES
    return [
        comparisons.raises(
            "trained encoder: feedback takes less from the cosine with direct feedback than with "
            "same-layer context, in every layer",
            taken("feedback", plain),
            taken("feedback", direct),
            "repetition",
            published="direct feedback comes nearer to what is backpropagated (arXiv 2601.21683)",
            elsewhere=None if str(data["data"].values) == "stl10" else "STL-10",
        ),
        comparisons.raises(
            "trained encoder, direct feedback: feedback takes less once B is matched to the "
            "backpropagated error, in every layer",
            taken("feedback", direct),
            taken("feedback", matched),
            "repetition",
            published=None,
        ),
        comparisons.raises(
            "trained encoder, direct feedback: masks take more from the cosine than feedback, in "
            "every layer",
            taken("masks", direct),
            taken("feedback", direct),
            "repetition",
            published="masks are why direct feedback fails (arXiv 2605.18557)",
            elsewhere="random hierarchies",
        ),
    ]


def _after_training(data: xr.Dataset, term: str) -> xr.DataArray:
    """What a term takes from the cosine below the top, over rule, repetition and layer."""
    return data[f"{term}_shapley"].isel(step=-1, layer=slice(-1)).sel(rule=list(RULES))
