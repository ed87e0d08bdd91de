"""What unshared weights, SGD and batch normalisation change in the data that feedback needs."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim, Question, decide
from paper_figures.look import comparisons, feedback, needed, panels, style

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
    """What direct feedback alignment needs in each variant, with the interval."""
    here = feedback.ratios(data).sel(rule=feedback.DIRECT)
    listed = [
        f"{name} {needed.words(here.sel(setting=setting))}"
        for name, setting in zip(feedback.setting_names(data), data["setting"].values, strict=True)
    ]
    half = (len(listed) + 1) // 2
    lines = (", ".join(part) for part in (listed[:half], listed[half:]) if part)
    return "Direct feedback alignment, times the data of backpropagation:\n" + ",\n".join(lines)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """In which variant direct feedback learns, and whether any rule learns in one variant only."""
    data = datasets["rhm_feedback_variants"]
    size, factors = feedback.sizes(data), feedback.ratios(data)
    found, learned = [], {}
    for name, setting in zip(feedback.setting_names(data), data["setting"].values, strict=True):
        part = data.sel(setting=setting)
        base = size.sel(setting=setting, rule=feedback.BACKPROPAGATION)
        for rule in data["rule"].values:
            one = part.sel(rule=[rule])
            question, note = needed.decided(one, needed.learns(one))
            learned[str(rule), name] = question
            if rule != feedback.DIRECT:
                continue
            times = needed.words(factors.sel(setting=setting, rule=rule))
            found.append(
                Claim(
                    f"{name}: direct feedback alignment learns the grammar from the data tried",
                    question,
                    f"{times} times the data of backpropagation, which needs "
                    f"{needed.words(base)} P*{note}",
                )
            )
    return [*found, _same_rules(data, learned), *comparisons.searches_inside(data)]


def _same_rules(data: xr.Dataset, learned: Mapping[tuple[str, str], Question | None]) -> Claim:
    """Whether the same rules learn in all variants, all cells decided together."""
    asked = [question for question in learned.values() if question is not None]
    decisions = iter(decide(asked))
    answers: dict[str, set[bool | None]] = {}
    for (rule, _), question in learned.items():
        answer = None if question is None else next(decisions).holds
        answers.setdefault(rule, set()).add(answer)
    differing = [rule for rule, given in answers.items() if {True, False} <= given]
    open_ones = [rule for rule, given in answers.items() if None in given]
    return Claim(
        "whether a rule learns at all does not depend on the variant",
        False if differing else None if open_ones else True,
        (f"it does for {', '.join(differing)}" if differing else "for no rule it surely does")
        + (f"; open for {', '.join(open_ones)}" if open_ones else "")
        + f" ({data.sizes['repetition']} grammars, Holm over {len(asked)} cells)",
    )
