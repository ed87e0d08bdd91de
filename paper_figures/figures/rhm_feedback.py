"""How many times more data each feedback rule needs than backpropagation to learn a hierarchy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim, decided, of_networks
from paper_figures.look import comparisons, feedback, needed, panels, style

INPUTS = ("rhm_feedback",)
PAPER = "B"

FAILED = 0.5
DIRECT = (
    "direct feedback alignment",
    "direct feedback, no derivative",
    "direct random target projection",
)


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """The data that every rule needs, a panel for each grammar."""
    data = datasets["rhm_feedback"]
    figure = Figure(figsize=(style.PAGE, 0.2 * data.sizes["rule"] + 1.5))
    feedback.panels_of_ratios(figure, data)
    panels.headline(figure, headline(data))
    return panels.finish(figure, data)


def headline(data: xr.Dataset) -> str:
    """What the claims decide together on direct feedback alignment."""
    solved = feedback.solved(data)
    if not bool(solved.any()):
        return "Backpropagation learns no grammar from so few data"
    here = feedback.last_accuracy(data).sel(rule=feedback.DIRECT).where(solved)
    accuracy = " to ".join(sorted({f"{float(end):.2f}" for end in (here.min(), here.max())}))
    (found,) = (
        claim.here
        for claim in decided(claims({"rhm_feedback": data}))
        if claim.text.startswith(f"{feedback.DIRECT} fails")
    )
    said = {
        "holds": "Direct feedback alignment fails where backpropagation learns",
        "fails": "Direct feedback alignment does not fail where backpropagation learns",
    }
    return f"{said.get(found, 'Undecided: direct feedback alignment fails')}: accuracy {accuracy}"


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """The failure of direct feedback that the abstract states, and what each rule needs."""
    data = datasets["rhm_feedback"]
    data = data.assign_coords(setting=feedback.setting_names(data))
    solved = feedback.solved(data)
    if not bool(solved.any()):
        text = "every direct-feedback rule fails where backpropagation learns"
        measured = "backpropagation learned no grammar here: nothing to compare"
        published = "they fail (arXiv 2605.18557, abstract)"
        return [Claim(text, None, measured, published, feedback.SETTINGS)]
    return [
        *(_failure(data, rule, solved) for rule in DIRECT if rule in data["rule"].values),
        *(
            _more(data, str(rule), solved)
            for rule in data["rule"].values
            if rule != feedback.BACKPROPAGATION
        ),
        *_compared(data, solved),
        *comparisons.searches_inside(data),
    ]


def _failure(data: xr.Dataset, rule: str, solved: xr.DataArray) -> Claim:
    last = needed.last(data["test_accuracy"].sel(rule=rule)).isel(setting=np.flatnonzero(solved))
    question, note = needed.decided(
        data.sel(rule=[rule]), of_networks(last, "repetition", below=FAILED, unit="grammars")
    )
    listed = ", ".join(
        f"{name} {float(last.sel(setting=name).mean()):.2f}" for name in last["setting"].values
    )
    return Claim(
        f"{rule} fails, whatever the data: its accuracy at the largest size is below {FAILED:g} on "
        "every grammar that backpropagation learns",
        question,
        f"accuracy {listed}{note}",
        "it fails (arXiv 2605.18557, abstract); differs in our set-up, in this region, where it "
        "learns",
        feedback.SETTINGS,
    )


def _more(data: xr.Dataset, rule: str, solved: xr.DataArray) -> Claim:
    return _costlier(
        data,
        rule,
        feedback.BACKPROPAGATION,
        solved,
        f"{rule} needs more data than backpropagation on every grammar that backpropagation learns",
    )


def _compared(data: xr.Dataset, solved: xr.DataArray) -> list[Claim]:
    """Random matrices against missing masks, and direct feedback that is given the masks."""
    return [
        _costlier(data, rule, other, solved, text)
        for rule, other, text in (
            (
                "feedback alignment",
                "backpropagation, masks removed",
                "random matrices on the way down cost more data than missing masks, on every "
                "grammar that backpropagation learns",
            ),
            (
                feedback.DIRECT,
                "direct feedback, true masks",
                "giving direct feedback the true masks saves data, on every grammar that "
                "backpropagation learns",
            ),
        )
        if {rule, other} <= set(data["rule"].values.tolist())
    ]


def _costlier(data: xr.Dataset, rule: str, other: str, solved: xr.DataArray, text: str) -> Claim:
    """Whether a rule needs more data than another one in every solved setting."""
    places = np.flatnonzero(solved)
    times = needed.ratio(feedback.sizes(data), {"rule": other}).sel(rule=rule).isel(setting=places)
    question, note = needed.decided(data.sel(rule=[rule, other]), needed.question(times, 1.0))
    listed = "; ".join(
        f"{name} {needed.middle(times.sel(setting=name))}" for name in times["setting"].values
    )
    return Claim(text, question, f"times the data of {other}: {listed}{note}")
