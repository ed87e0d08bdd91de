"""What the input-specific masks of backpropagation contribute to learning the hierarchy."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from numpy.typing import NDArray

from paper_figures.claims import Claim, of_networks
from paper_figures.look import feedback, panels, style

INPUTS = ("rhm_feedback",)
PAPER = "B"

# Error carried by the transposed weights or by random ones, each with and without masks.
LOOKS = {
    "backpropagation": (style.PALETTE[0], "o"),
    "backpropagation, masks averaged over the batch": (style.PALETTE[5], "s"),
    "backpropagation, masks removed": (style.PALETTE[2], "D"),
    "feedback alignment": (style.PALETTE[1], "v"),
    "feedback alignment, masks removed": (style.PALETTE[4], "^"),
    "direct feedback alignment": (style.PALETTE[6], "x"),
}
HALF = 0.5


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Accuracies side by side, one group for each setting."""
    data = datasets["rhm_feedback"]
    figure = Figure(figsize=(style.PAGE, 3.2))
    axes = figure.subplots()
    mean, half = style.interval(data["test_accuracy"], "repetition")
    places = np.arange(data.sizes["setting"])
    for number, (rule, (color, marker)) in enumerate(LOOKS.items()):
        axes.errorbar(
            places + 0.12 * (number - 2.5),
            mean.sel(rule=rule),
            half.sel(rule=rule),
            fmt=marker,
            color=color,
            markersize=4,
            markerfacecolor="none",
            elinewidth=0.8,
            label=rule,
        )
    chance = 1 / json.loads(data.attrs["config"])["num_symbols"]
    axes.axhline(chance, color="#777777", linewidth=0.8, linestyle=":")
    axes.set_xticks(places, feedback.setting_names(data), size=6.5)
    axes.set(ylim=(0, 1.05), ylabel="test accuracy", xlabel="what differs from the reference")
    axes.set_xlim(-0.5, len(places) - 0.5)
    panels.legend_below(figure, axes, columns=2)
    masks, weights, _ = (float(each.mean()) for each in contributions(data))
    panels.headline(
        figure,
        f"On average, removing the masks costs {masks:.2f} of accuracy, random weights on the way "
        f"down {weights:.2f}",
    )
    return panels.finish(figure, data)


def contributions(data: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray]:
    """What removing masks and randomising weights cost in accuracy, and masks given back."""
    of = data["test_accuracy"].sel
    taught, aligned = (
        of(rule=rule, drop=True) for rule in (feedback.BACKPROPAGATION, "feedback alignment")
    )
    masks = taught - of(rule="backpropagation, masks removed", drop=True)
    restored = aligned - of(rule="feedback alignment, masks removed", drop=True)
    return masks, taught - aligned, restored


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Whether missing masks explain the failure of direct feedback."""
    data = datasets["rhm_feedback"]
    mean = data["test_accuracy"].mean("repetition")
    taught = mean.sel(rule=feedback.BACKPROPAGATION)
    solved = (taught >= feedback.LEARNED).values
    each = contributions(data)
    masks, weights, restored = (part.mean("repetition") for part in each)
    gap = taught - mean.sel(rule="direct feedback alignment")
    if not solved.any():
        return [
            Claim(
                "missing masks explain why direct feedback fails",
                None,
                f"backpropagation reaches at most {float(taught.max()):.2f} here: nothing "
                "to explain",
                "they do (arXiv 2605.18557)",
                feedback.SETTINGS,
            )
        ]
    names = {"setting": feedback.setting_names(data)}
    accuracy, lost, scrambled = (
        part.assign_coords(names).isel(setting=solved)
        for part in (data["test_accuracy"], *each[:2])
    )
    apart = accuracy.sel(rule=feedback.BACKPROPAGATION, drop=True) - accuracy.sel(
        rule="direct feedback alignment", drop=True
    )
    aligned = accuracy.sel(rule="feedback alignment", drop=True)
    return [
        Claim(
            "missing masks explain the failure: removing the downstream masks from "
            "backpropagation costs at least half of the gap to direct feedback alignment, in "
            "every setting that backpropagation solves",
            of_networks(lost - HALF * apart, "repetition", above=0),
            f"masks cost {_range(masks, solved)}, the gap is {_range(gap, solved)}; at least half "
            f"of it in: {_where(data, (masks >= HALF * gap).values & solved)}",
            "they do (arXiv 2605.18557)",
            feedback.SETTINGS,
        ),
        Claim(
            "giving direct feedback the true masks restores it: feedback alignment with them "
            f"reaches {feedback.LEARNED:g} in every setting that backpropagation solves",
            of_networks(aligned, "repetition", above=feedback.LEARNED),
            f"{_range(mean.sel(rule='feedback alignment'), solved)}; the masks give "
            f"{_range(restored, solved, '+')}",
        ),
        Claim(
            "random weights on the way down cost more than missing masks, in every setting that "
            "backpropagation solves",
            of_networks(scrambled - lost, "repetition", above=0),
            f"random weights cost {_range(weights, solved)}, missing masks {_range(masks, solved)}",
        ),
    ]


def _where(data: xr.Dataset, chosen: NDArray[np.bool_]) -> str:
    names = [name.replace("\n", " ") for name in feedback.setting_names(data)]
    return ", ".join(name for name, here in zip(names, chosen, strict=True) if here) or "none"


def _range(values: xr.DataArray, where: NDArray[np.bool_], sign: str = "") -> str:
    chosen = values.values[where]
    return f"{chosen.min():{sign}.2f} to {chosen.max():{sign}.2f}"
