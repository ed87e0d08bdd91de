"""Feedback without the transposed weights learns nearly as well, at growing or at fixed angles."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.claims import Claim, of_cases
from paper_figures.look import comparisons, panels, style, training_panels

INPUTS = ("feedback_alignment",)
PAPER = ""

COLORS = {
    "backpropagation": style.PALETTE[6],
    "Kolen-Pollack": style.PALETTE[2],
    "signs of the weights": style.PALETTE[5],
    "feedback alignment": style.PALETTE[0],
    "direct feedback alignment": style.PALETTE[1],
    "direct random target projection": style.PALETTE[3],
}
ROUNDING = 1e-5  # of gradients in float32
_DIRECT = "direct feedback alignment"
# Of `_DIRECT` on MNIST, in the publication with networks of several kinds and sizes.
ACCURACY = 0.97


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Test error along training; the cosines along training, and of each layer at the end."""
    data = datasets["feedback_alignment"]
    figure = Figure(figsize=(style.PAGE, 3.0))
    learned, along, trained = figure.subplots(1, 3)
    _errors(learned, data)
    training_panels.cosines(trained, along, data, COLORS)
    trained.set_ylabel("")
    along.set_ylabel("cosine with backpropagation")
    panels.legend_below(figure, learned, columns=3)
    kind = {"mnist": "MNIST", "digits": "small digits"}[str(data["data"].values)]
    panels.headline(figure, f"{_headline(data)} ({kind})")
    return panels.finish(figure, data)


def _headline(data: xr.Dataset) -> str:
    """How near learned and direct feedback come to backpropagation below the top."""
    cosine = data["cosine"].isel(step=-1, layer=slice(-1)).mean(("layer", "repetition"))
    learned, direct = (float(cosine.sel(rule=rule)) for rule in ("Kolen-Pollack", _DIRECT))
    return f"Learned feedback ends at a cosine of {learned:.2f}, direct feedback at {direct:.2f}"


def _errors(axes: Axes, data: xr.Dataset) -> None:
    for rule, color in COLORS.items():
        error = 100 * (1 - data["test_accuracy"].sel(rule=rule, drop=True))
        style.band(axes, error, "repetition", color=color, label=rule)
    axes.set_yscale("log")
    axes.set_ylim(1, 100)
    axes.set_yticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    axes.minorticks_off()
    axes.set_ylabel("test error in %")
    axes.set_title("what is learned")
    training_panels.step_axis(axes)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Which feedback comes nearer to backpropagation, and what accuracy it reaches."""
    data = datasets["feedback_alignment"]
    hidden = data["cosine"].isel(layer=slice(-1))
    after = {name: hidden.sel(rule=name, drop=True).isel(step=-1) for name in COLORS}
    before = {name: hidden.sel(rule=name, drop=True).isel(step=0) for name in COLORS}
    elsewhere = None if str(data["data"].values) == "mnist" else "MNIST"
    apart = abs(data["cosine"].sel(rule="backpropagation") - 1)
    found = [
        Claim(
            f"backpropagation through the instruments has cosine 1 to {ROUNDING:g}",
            of_cases(apart, most=ROUNDING),
            f"differs by at most {float(apart.max()):.1e}",
        )
    ]
    found += [
        comparisons.raises(
            f"{name}: training turns the gradients of hidden layers towards backpropagation",
            after[name],
            before[name],
            "repetition",
            published=f"as curves only (arXiv {number})",
            elsewhere=elsewhere,
        )
        for name, number in (
            ("feedback alignment", "1609.01596"),
            (_DIRECT, "1609.01596"),
            ("Kolen-Pollack", "1904.05391"),
        )
    ]
    found += [
        comparisons.raises(
            f"{better}: nearer to backpropagation than fixed random feedback weights",
            after[better],
            after["feedback alignment"],
            "repetition",
            published=f"as curves only (arXiv {number})",
            elsewhere=elsewhere,
        )
        for better, number in (
            ("Kolen-Pollack", "1904.05391"),
            ("signs of the weights", "1510.05067"),
        )
    ]
    accuracy = data["test_accuracy"].isel(step=-1).rename(rule="variant")
    found.append(
        comparisons.difference(
            accuracy,
            _DIRECT,
            "direct random target projection",
            "errors teach better than targets: direct feedback is more accurate",
            0.0,
            "as a table (arXiv 1909.01311)",
            elsewhere,
        )
    )
    if elsewhere is None:
        direct = accuracy.sel(variant=_DIRECT)
        found.append(
            Claim(
                f"direct feedback alignment reads more than {ACCURACY:.0%} of MNIST's test images",
                comparisons.above(direct, ACCURACY),
                f"share {float(direct.mean()):.4f}",
                "above 97 % (arXiv 1609.01596)",
            )
        )
    return found
