"""Where rules that send the error directly to each layer fail to learn the hierarchy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.claims import Claim, of_networks
from paper_figures.look import feedback, panels, style

INPUTS = ("rhm_feedback",)
PAPER = "B"

FAILED = 0.5
DIRECT = (
    "direct feedback alignment",
    "direct feedback, no local derivative",
    "direct random target projection",
)


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Test accuracy of every rule (row) at every setting (column), with its interval."""
    data = datasets["rhm_feedback"]
    figure = Figure(figsize=(style.PAGE, 0.32 * data.sizes["rule"] + 1.9))
    axes = figure.subplots()
    heatmap(figure, axes, data, data["rule"].values.tolist())
    panels.headline(figure, headline(data))
    return panels.finish(figure, data)


def heatmap(figure: Figure, axes: Axes, data: xr.Dataset, rules: list[str]) -> None:
    """Accuracies as colours and numbers; settings are named by what differs from the first."""
    mean, half = style.interval(data["test_accuracy"].sel(rule=rules), "repetition")
    image = axes.imshow(
        mean.transpose("rule", "setting"), vmin=0, vmax=1, aspect="auto", cmap="cividis"
    )
    for row, rule in enumerate(rules):
        for column in range(data.sizes["setting"]):
            value = float(mean.sel(rule=rule)[column])
            spread = float(half.sel(rule=rule)[column])
            note = f"\n±{spread:.2f}" if np.isfinite(spread) else ""
            axes.text(
                column,
                row,
                f"{value:.2f}{note}",
                ha="center",
                va="center",
                size=5.5,
                color="black" if value > 0.55 else "white",
            )
    axes.set_yticks(range(len(rules)), rules)
    axes.set_xticks(range(data.sizes["setting"]), feedback.setting_names(data), size=6.5)
    axes.set_xlabel("what differs from the reference", size=7)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="test accuracy", fraction=0.03)


def headline(data: xr.Dataset) -> str:
    """What the accuracies say of direct feedback, as a count."""
    mean = data["test_accuracy"].mean("repetition")
    solved = mean.sel(rule=feedback.BACKPROPAGATION) >= feedback.LEARNED
    best = mean.sel(rule=list(DIRECT)).max("rule")
    low = int((best < feedback.LEARNED)[solved].sum())
    return (
        f"Direct feedback stays below {feedback.LEARNED:g} in {low} of the "
        f"{int(solved.sum())} settings that backpropagation solves"
    )


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """The published failure, setting by setting."""
    data = datasets["rhm_feedback"]
    accuracy = data["test_accuracy"]
    mean = accuracy.mean("repetition")
    taught = mean.sel(rule=feedback.BACKPROPAGATION)
    solved = taught >= feedback.LEARNED
    names = np.array([text.replace("\n", " ") for text in feedback.setting_names(data)])
    best = mean.sel(rule=list(DIRECT)).max("rule")
    gap = taught - best
    if not bool(solved.any()):
        return [
            Claim(
                "all direct-feedback rules fail where backpropagation learns",
                None,
                f"backpropagation reaches at most {float(taught.max()):.2f} here: nothing "
                "to compare",
                "all fail (arXiv 2605.18557)",
                feedback.SETTINGS,
            )
        ]
    here = accuracy.assign_coords(setting=names).isel(setting=solved.values)
    direct = here.sel(rule=list(DIRECT))
    listed = ", ".join(
        f"{name}: {float(value):.2f}"
        for name, value, relevant in zip(names, best, solved, strict=True)
        if bool(relevant)
    )
    ahead = here.sel(rule=feedback.BACKPROPAGATION, drop=True) - direct
    return [
        Claim(
            f"all direct-feedback rules fail (accuracy below {FAILED:g}) wherever backpropagation "
            f"learns (above {feedback.LEARNED:g})",
            of_networks(direct, "repetition", below=FAILED),
            f"best direct-feedback rule {listed}",
            "all fail (arXiv 2605.18557)",
            feedback.SETTINGS,
        ),
        Claim(
            "backpropagation is better than every direct-feedback rule in every setting that it "
            "solves",
            of_networks(ahead, "repetition", above=0),
            f"better by {float(gap[solved].min()):.2f} to {float(gap[solved].max()):.2f}",
        ),
        *(
            Claim(
                f"{rule}: fails (below {FAILED:g}) in every setting that backpropagation solves",
                of_networks(direct.sel(rule=rule), "repetition", below=FAILED),
                f"{float(mean.sel(rule=rule)[solved].min()):.2f} to "
                f"{float(mean.sel(rule=rule)[solved].max()):.2f}",
                "fails (arXiv 2605.18557)",
                feedback.SETTINGS,
            )
            for rule in DIRECT
        ),
    ]
