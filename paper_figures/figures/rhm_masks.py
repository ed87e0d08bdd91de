"""Why the errors of feedback rules are not the backpropagated ones: missing masks or matrices."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim, Question, of_cases, of_networks
from paper_figures.look import feedback, needed, panels, style

INPUTS = ("rhm_masks",)
PAPER = "B"

SHAPLEY = ("masks_shapley", "feedback_shapley", "slopes_shapley")
SERIES = {
    "error_cosine": ("cosine with the backpropagated error", style.PALETTE[6], "o"),
    "masks_shapley": ("missing: masks", style.PALETTE[0], "s"),
    "feedback_shapley": ("missing: feedback matrices", style.PALETTE[1], "D"),
    "slopes_shapley": ("missing: slopes", style.PALETTE[2], "v"),
}
PANELS = (
    "backpropagation, masks removed",
    "aligned direct feedback",
    "direct feedback, true masks",
    "direct feedback alignment",
    "direct random target projection",
)

# What direct feedback alignment is given, and nothing else.
GIVEN = {
    "direct feedback, true masks": "the true masks",
    "aligned direct feedback": "aligned matrices",
}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Cosine and contributions to 1 - cosine along training, in layer 1 of the first grammar."""
    data = datasets["rhm_masks"]
    rules = [rule for rule in PANELS if rule in data["rule"].values]
    figure = Figure(figsize=(style.PAGE, 2.5))
    row = figure.subplots(1, len(rules), sharey=True, squeeze=False)[0]
    grammar = data["grammar"].values[0]
    for axes, rule in zip(row, rules, strict=True):
        here = data.sel(rule=rule, grammar=grammar, layer=1)
        here = here.assign_coords(time=here["time"] + 1)
        for name, (label, color, marker) in SERIES.items():
            values = here[name].dropna("time")
            style.band(axes, values, "repetition", color=color, label=label)
            axes.lines[-1].set_marker(marker)
        axes.axhline(0, color="#777777", linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        accuracy = float(here["test_accuracy"].mean())
        title = textwrap.fill(rule, 18, break_long_words=False)
        axes.set_title(f"{title}\naccuracy {accuracy:.2f}", size=7)
        axes.set_xlabel("step + 1")
    row[0].set(ylim=(-0.15, 1.05), ylabel=f"layer 1\n{grammar}")
    panels.legend_below(figure, row[0], columns=4)
    masks, matrices = (float(_average(data, name).mean()) for name in SHAPLEY[:2])
    panels.headline(
        figure,
        f"Direct feedback alignment lacks {matrices:.2f} of the cosine for its matrices, "
        f"{masks:.2f} for masks",
    )
    return panels.finish(figure, data)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """What the masks explain of direct feedback, and what aligned matrices leave to them."""
    data = datasets["rhm_masks"]
    share = _average(data, "masks_shapley") / sum(_average(data, name) for name in SHAPLEY)
    decided = [
        Claim(
            "missing masks explain it: in direct feedback alignment they contribute at least half "
            "of the difference from the backpropagated error, in layer 1 over the training",
            *_verdict(data, feedback.DIRECT, share - 0.5, share),
            "they do (arXiv 2605.18557, abstract)",
            feedback.SETTINGS,
        )
    ]
    aligned = "aligned direct feedback"
    if aligned in data["rule"].values:
        masks, matrices = (_average(data, name, aligned) for name in SHAPLEY[:2])
        decided.append(
            Claim(
                "with least-squares matrices, missing masks contribute more than the matrices, in "
                "layer 1 over the training",
                *_verdict(data, aligned, masks - matrices, masks - matrices),
            )
        )
    decided += [
        _helps(data, rule, words) for rule, words in GIVEN.items() if rule in data["rule"].values
    ]
    others = [rule for rule in data["rule"].values if "target" not in str(rule)]
    slopes = abs(data["slopes"].sel(rule=others))
    decided.append(
        Claim(
            "slopes differ for no rule that sends the error",
            of_cases(slopes.values[slopes.notnull().values], most=0),
            f"at most {float(slopes.max()):.1g} of the backpropagated error",
        )
    )
    return decided


def _helps(data: xr.Dataset, rule: str, words: str) -> Claim:
    """That direct feedback alignment is more accurate if it is given one thing that it lacks."""
    accuracy = data["test_accuracy"]
    gain = accuracy.sel(rule=rule, drop=True) - accuracy.sel(rule=feedback.DIRECT, drop=True)
    question, note = needed.decided(
        data.sel(rule=[rule, feedback.DIRECT]), of_networks(gain, "repetition", above=0)
    )
    means = accuracy.mean("repetition")
    told = ", ".join(
        f"{name} {float(means.sel(grammar=name, rule=rule)):.3f} against "
        f"{float(means.sel(grammar=name, rule=feedback.DIRECT)):.3f}"
        for name in means["grammar"].values
    )
    return Claim(
        f"given {words}, direct feedback alignment is more accurate on every grammar",
        question,
        told + note,
    )


def _average(data: xr.Dataset, name: str, rule: str = feedback.DIRECT) -> xr.DataArray:
    """In layer 1, over the times of the training."""
    return data[name].sel(rule=rule, layer=1).mean("time")


def _verdict(
    data: xr.Dataset, rule: str, above: xr.DataArray, shown: xr.DataArray
) -> tuple[Question | None, str]:
    """Whether a number is above 0 on every grammar; and the words."""
    question, note = needed.decided(
        data.sel(rule=[rule]), of_networks(above, "repetition", above=0)
    )
    mean = shown.mean("repetition")
    listed = ", ".join(
        f"{name} {float(mean.sel(grammar=name)):.2f}" for name in mean["grammar"].values
    )
    return question, listed + note
