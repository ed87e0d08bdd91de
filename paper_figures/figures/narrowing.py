"""Where layers narrow, local updates differ by what the layers above do not pass on."""

from __future__ import annotations

import json
from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim, of_cases
from paper_figures.look import comparisons, panels, style

INPUTS = ("narrowing",)
PAPER = "A"

LIMIT = 1e-10
LOOKS = {
    "same layer": (style.PALETTE[1], "s"),
    "direct feedback": (style.PALETTE[0], "o"),
}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Cosines per layer with both contexts; one column per score, one row per kind of images."""
    results = datasets["narrowing"]
    widths = json.loads(results.attrs["config"])["widths"]
    sources, scores = results["data"].values, results["score"].values
    mean_cosine = results["cosine"].mean("batch")
    figure = Figure(figsize=(style.PAGE, 0.9 + 1.75 * len(sources)))
    grid = figure.subplots(len(sources), len(scores), sharex=True, sharey=True, squeeze=False)
    for source, row in zip(sources, grid, strict=True):
        for score, axes in zip(scores, row, strict=True):
            for feedback, (color, marker) in LOOKS.items():
                measured = mean_cosine.sel(data=source, score=score, feedback=feedback)
                style.band(axes, measured, "network", color=color, label=feedback, marker=marker)
            if score == "linear":
                axes.plot(
                    results["layer"],
                    results["predicted_cosine"].sel(data=source).mean(("network", "batch")),
                    linestyle="none",
                    marker="o",
                    markersize=8,
                    markerfacecolor="none",
                    markeredgecolor="black",
                    markeredgewidth=0.8,
                    label="predicted for direct feedback, ||PX|| / ||X||",
                )
            axes.set(title=f"{source}, {score} f")
            axes.set_xticks(results["layer"].values)
            axes.tick_params(labelbottom=source == sources[-1])
            if source == sources[-1]:
                panels.layer_axis(axes, results["layer"], widths)
        row[0].set_ylabel("cosine of local\nand global update")
    mean, half = style.interval(mean_cosine, "network")
    grid[0, 0].set_ylim(min(0.0, float((mean - half.fillna(0)).min())) - 0.03, 1.05)
    panels.legend_below(figure, grid[0, 0], columns=3)
    panels.headline(figure, "Narrowing layers: the cosine is what the layers above pass on")
    return panels.finish(figure, results)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """The prediction for linear f, and what direct feedback gains."""
    results = datasets["narrowing"]
    linear = results["cosine"].sel(score="linear", feedback="direct feedback")
    apart = abs(linear - results["predicted_cosine"])
    decided = [
        Claim(
            f"linear f with direct feedback: cosine = ||PX|| / ||X|| to {LIMIT:g}",
            of_cases(apart, most=LIMIT),
            f"differs by at most {float(apart.max()):.1e}",
        )
    ]
    below = results.sel(layer=results["layer"][:-1])
    for source in results["data"].values:
        for score in results["score"].values:
            here = below.sel(data=source, score=score)
            same, feedback = (here.sel(feedback=name) for name in LOOKS)
            decided.append(
                comparisons.raises(
                    f"{source}, {score} f: direct feedback raises the cosine in every layer below "
                    "the top",
                    feedback["cosine"].mean("batch"),
                    same["cosine"].mean("batch"),
                    "network",
                    elsewhere=None if source == "mnist" else "MNIST",
                )
            )
            nearer = same["relative_error"] - feedback["relative_error"]
            decided.append(
                Claim(
                    f"{source}, {score} f: direct feedback is at least as near to the global "
                    "update in every network, layer and batch",
                    of_cases(nearer, least=0),
                    f"in {int((nearer >= 0).sum())} of {nearer.size} cases",
                    "stated for narrowing semi-orthogonal weights",
                )
            )
    return decided
