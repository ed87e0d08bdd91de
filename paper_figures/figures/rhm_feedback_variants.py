"""What unshared weights, SGD and batch normalisation change in the data that feedback needs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim
from paper_figures.look import feedback, needed, panels, style

INPUTS = ("rhm_feedback_variants",)
PAPER = "B"


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """The data that every rule needs, a panel for each variant."""
    data = datasets["rhm_feedback_variants"]
    figure = Figure(figsize=(style.PAGE, 0.2 * data.sizes["rule"] + 1.5))
    feedback.panels_of_ratios(figure, data)
    panels.headline(figure, headline(data))
    return panels.finish(figure, data)


def headline(data: xr.Dataset) -> str:
    """What direct feedback alignment needs in each variant."""
    here = feedback.ratios(data).sel(rule=feedback.DIRECT)["estimate"].values
    names = feedback.setting_names(data)
    listed = ", ".join(
        f"{name} {value:.1f}" if np.isfinite(value) else f"{name} not learned"
        for name, value in zip(names, here, strict=True)
    )
    return f"Direct feedback alignment, times as many data as backpropagation:\n{listed}"


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """In which variant direct feedback learns, and whether any rule learns in one variant only."""
    data = datasets["rhm_feedback_variants"]
    size, factors = feedback.sizes(data), feedback.ratios(data)
    decided = []
    for name, setting in zip(feedback.setting_names(data), data["setting"].values, strict=True):
        part = data.sel(setting=[setting])
        base = size.sel(setting=setting, rule=feedback.BACKPROPAGATION)
        learned = size["estimate"].sel(setting=setting, rule=feedback.DIRECT).notnull()
        verdict, note = needed.decided(part.sel(rule=[feedback.DIRECT]), bool(learned))
        factor = needed.words(factors.sel(setting=setting, rule=feedback.DIRECT))
        decided.append(
            Claim(
                f"{name}: direct feedback alignment learns the grammar from the data tried",
                verdict,
                f"{factor} times the data of backpropagation, which needs "
                f"{needed.words(base)} P*{note}",
            )
        )
    learned = size["estimate"].notnull()
    differing = [
        str(rule)
        for rule in data["rule"].values
        if len(set(learned.sel(rule=rule).values.tolist())) > 1
    ]
    verdict, note = needed.decided(data, not differing)
    decided.append(
        Claim(
            "whether a rule learns at all does not depend on the variant",
            verdict,
            (f"it does for {', '.join(differing)}" if differing else "for no rule it does") + note,
        )
    )
    return decided
