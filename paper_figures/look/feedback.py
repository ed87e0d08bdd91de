"""What the figures on feedback in hierarchies share: names, colours and the picture of ratios."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.look import needed, style

BACKPROPAGATION = "backpropagation"
DIRECT = "direct feedback alignment"
# On which arXiv 2605.18557 was published.
SETTINGS = "settings that are not public to us, who know the abstract only"
LEARNED = 0.9  # a setting counts as solved from this test accuracy on

# What a rule lacks: colour, marker.
LOOKS = {
    "backpropagation": (style.PALETTE[6], "o"),
    "backpropagation, masks averaged": (style.PALETTE[0], "s"),
    "backpropagation, masks removed": (style.PALETTE[0], "D"),
    "aligned direct feedback": (style.PALETTE[2], "o"),
    "aligned direct feedback, no derivative": (style.PALETTE[2], "D"),
    "feedback alignment": (style.PALETTE[1], "o"),
    "direct feedback, true masks": (style.PALETTE[1], "s"),
    "direct feedback alignment": (style.PALETTE[3], "o"),
    "direct feedback, no derivative": (style.PALETTE[3], "D"),
    "direct random target projection": (style.PALETTE[3], "v"),
}


def setting_names(data: xr.Dataset) -> list[str]:
    """Each setting by its variant, or by its grammar."""
    if "variant" in data.coords:
        return [str(name) for name in data["variant"].values]
    return [
        f"v={int(v)} m={int(m)} L={int(l)}"
        for v, m, l in zip(
            data["num_symbols"].values,
            data["num_synonyms"].values,
            data["num_levels"].values,
            strict=True,
        )
    ]


def sizes(data: xr.Dataset) -> xr.Dataset:
    """The data that every rule needs in every setting, in units of P*."""
    return needed.needed(needed.relative_error(data), needed.threshold(data))


def ratios(data: xr.Dataset) -> xr.Dataset:
    """How many times more data than backpropagation every rule needs."""
    return needed.ratio(sizes(data), {"rule": BACKPROPAGATION})


def solved(data: xr.Dataset) -> xr.DataArray:
    """Which settings backpropagation learns."""
    return sizes(data)["estimate"].sel(rule=BACKPROPAGATION).notnull()


def last_accuracy(data: xr.Dataset) -> xr.DataArray:
    """The mean test accuracy at the largest size that was measured."""
    return needed.last(data["test_accuracy"]).mean("repetition")


def panels_of_ratios(figure: Figure, data: xr.Dataset) -> Sequence[Axes]:
    """A panel for each setting: the rules from top to bottom, to the right how much more data.

    A rule that learned from no size is a cross at the right edge with its accuracy at the largest;
    where backpropagation did not learn, the data of a rule that did stand there in units of P*.
    What has unfinished trainings is hollow.
    """
    factors, size, open_share = ratios(data), sizes(data), needed.unfinished(data).max("multiple")
    rules = [rule for rule in LOOKS if rule in data["rule"].values and rule != BACKPROPAGATION]
    row = figure.subplots(1, data.sizes["setting"], sharey=True, squeeze=False)[0]
    finite = factors["high"].where(np.isfinite(factors["high"]))
    largest = float(np.nanmax([8.0, *finite.values.ravel()]))
    right = 2.0 ** np.ceil(np.log2(largest) + 0.6)
    last = last_accuracy(data)
    for axes, name, setting in zip(row, setting_names(data), data["setting"].values, strict=True):
        base = size.sel(setting=setting, rule=BACKPROPAGATION)
        if np.isfinite(base["estimate"]):
            title = f"{name}\nP = {needed.words(base)} P*".replace(" (", "\n(")
        else:
            reached = float(last.sel(setting=setting, rule=BACKPROPAGATION))
            title = f"{name}\nbackpropagation:\nnot learned, {reached:.2f}"
        axes.set_title(title, size=7)
        for place, rule in enumerate(rules):
            color, marker = LOOKS[rule]
            here = factors.sel(setting=setting, rule=rule)
            hollow = float(open_share.sel(setting=setting, rule=rule)) > 0
            look = {"color": color, "markerfacecolor": "white" if hollow else color}
            if np.isfinite(here["estimate"]):
                low, high = max(float(here["low"]), 2.0**-3), min(float(here["high"]), right)
                axes.plot([low, high], [place] * 2, color=color, linewidth=1)
                axes.plot(here["estimate"], place, marker, **look)
                continue
            own = float(size["estimate"].sel(setting=setting, rule=rule))
            if np.isfinite(own):
                words = f"{own:.1f} P*"
                axes.plot(right / 1.3, place, marker, **look)
            else:
                words = f"{float(last.sel(setting=setting, rule=rule)):.2f}"
                axes.plot(right / 1.3, place, "X", markersize=8, **look)
            axes.annotate(words, (right / 1.9, place), ha="right", va="center", size=7)
        axes.axvline(1, color="#777777", linewidth=0.8, linestyle=":")
        axes.set_xscale("log", base=2)
        axes.set(xlim=(2.0**-1.5, right * 1.1))
        ticks = 2.0 ** np.arange(0, np.log2(right), 2)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], size=7)
        axes.minorticks_off()
    row[0].set_yticks(range(len(rules)), rules, size=7)
    row[0].set_ylim(len(rules) - 0.5, -0.5)
    figure.supxlabel(
        "data needed, in units of what backpropagation needs; P*: where that did not learn\n"
        "x: not learned, accuracy at the largest size; hollow: trainings that met the cap of steps "
        f"({float(needed.unfinished(data).mean()):.0%} of all)",
        size=8,
    )
    return list(row)
