"""Direct feedback is nearer to the global update than same-layer context: mostly, not always."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.claims import Claim, of_cases
from paper_figures.look import panels, style

INPUTS = ("feedback_map",)
PAPER = ""


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """How often the inequality holds for each score, and the numbers of the worst case."""
    results = datasets["feedback_map"]
    figure = Figure(figsize=(style.PAGE, 2.8))
    *maps, words = figure.subplots(1, 3, width_ratios=(1, 1, 1.05))
    colored = []
    for score, axes in zip(results["score"].values, maps, strict=True):
        share = results["holds"].sel(score=score).mean("trial").transpose("top", "pair_count")
        colored.append(
            axes.imshow(share, cmap="cividis", vmin=0.5, vmax=1, origin="lower", aspect="auto")
        )
        for (row, column), value in np.ndenumerate(share.values):
            axes.text(
                column,
                row,
                f"{100 * value:.0f}" if value in (0, 1) else f"{100 * value:.3g}",
                ha="center",
                va="center",
                size=7,
                color="white" if value < 0.8 else "black",
            )
        axes.set_xticks(range(share.sizes["pair_count"]), share["pair_count"].values)
        inputs = results.sizes["unit"]
        axes.set_yticks(
            range(share.sizes["top"]), [f"{top}/{inputs}" for top in share["top"].values]
        )
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        axes.set(title=f"{score} f", xlabel="number of positive pairs")
    maps[0].set_ylabel("narrowing, top width / width")
    figure.colorbar(colored[0], ax=maps, shrink=0.8, label="share of cases where it holds")
    _example(words, results)
    panels.headline(figure, "Direct feedback is nearer to the global update: often, not always")
    return panels.finish(figure, results)


def _example(axes: Axes, results: xr.Dataset) -> None:
    """Both distances of the worst case of each score, as bars."""
    scores = results["score"].values
    cases = [worst_case(results, str(score)) for score in scores]
    for number, (label, color) in enumerate(
        (("same layer", style.PALETTE[1]), ("direct feedback", style.PALETTE[0]))
    ):
        heights = [case[number] for case in cases]
        places = np.arange(len(cases)) + 0.4 * (number - 0.5)
        bars = axes.bar(places, heights, width=0.38, color=color, label=label)
        axes.bar_label(bars, fmt="%.3g", size=7)
    width = results.sizes["unit"]
    labels = [
        f"{score} f\n{width} to {int(results['example_top'].sel(score=score))} units\n"
        f"{int(results['example_pair_count'].sel(score=score))} pairs"
        for score in scores
    ]
    axes.set_xticks(range(len(cases)), labels, size=7)
    axes.tick_params(axis="x", length=0)
    axes.set(title="worst case found", ylabel="relative distance to global")
    axes.margins(y=0.35)
    axes.legend(loc="upper left", fontsize=7)


def worst_case(results: xr.Dataset, score: str) -> tuple[float, float, str]:
    """Distances of same-layer context and of feedback in the stored example, and where it lies."""
    top, pair_count, trial = (
        int(results[f"example_{name}"].sel(score=score)) for name in ("top", "pair_count", "trial")
    )
    case = results.sel(score=score, top=top, pair_count=pair_count, trial=trial)
    place = f"top width {top}, {pair_count} pairs, trial {trial}"
    return float(case["local_distance"]), float(case["feedback_distance"]), place


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Whether the inequality always holds, per score."""
    results = datasets["feedback_map"]
    decided = []
    for score in results["score"].values:
        holds = results["holds"].sel(score=score)
        broken = int((~holds).sum())
        near, far, place = worst_case(results, str(score))
        measured = (
            f"broken in {broken} of {holds.size} cases ({100 * float(holds.mean()):.2f} % hold)"
        )
        if broken:
            measured += f"; worst: same layer {near:.3g}, feedback {far:.3g} ({place})"
        decided.append(
            Claim(
                f"{score} f: ||local - global|| >= ||feedback - global|| always holds",
                of_cases(holds, least=1),
                measured,
                "stated for narrowing semi-orthogonal weights (arXiv 2601.21683)",
            )
        )
    return decided
