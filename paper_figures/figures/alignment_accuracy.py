"""Whether local rules whose updates are closer to backpropagation learn better representations."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import rankdata

from paper_figures.claims import Claim, Question, decided, of_estimates
from paper_figures.look import comparisons, panels, rows, style

INPUTS = ("local_rules",)
PAPER = "A"

FEWEST = 4  # rules to rank
PUBLISHED_ON = ("cifar10", "stl10", "tiny_imagenet")
# Joined in the figure: the released rules of one family, and one rule with nothing changed but B.
FAMILY = ("CLAPP++ without 2D", "CLAPP++", "CLAPP++ DFB", "CLAPP++ both", "CLAPP++ f(u + u')")
ONLY_B = ("CLAPP++ DFB, random B", "CLAPP++ DFB", "CLAPP++ DFB, matched B")
MARKERS = "osD^v<>PX*"
MEASURES = {
    "accuracy": "test accuracy",
    "gain": "test accuracy minus that of\nbackpropagation of the same loss",
}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """A column for each data set; a row for the accuracy and one for its distance to BP."""
    data = datasets["local_rules"]
    figure = Figure(figsize=(style.PAGE, 6.0))
    grid = figure.subplots(2, data.sizes["data"], sharex=True, squeeze=False)
    for column, name in zip(grid.T, data["data"].values, strict=True):
        for axes, (measure, words) in zip(column, MEASURES.items(), strict=True):
            scatter(axes, data.sel(data=name), measure)
            axes.set_title(f"{name}: {_correlated(data.sel(data=name), measure)[1]}", size=8)
            if axes in grid[:, 0]:
                axes.set_ylabel(words)
        column[-1].set_xlabel(
            "mean cosine along local training, layers below the top\n"
            "(solid: the released family; dotted: nothing but B differs)"
        )
    panels.headline(figure, _result(data))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for column, name in zip(grid.T, data["data"].values, strict=True):
        for axes, measure in zip(column, MEASURES, strict=True):
            _name_rules(axes, data.sel(data=name), measure)
    return panels.finish(figure, data)


def _result(data: xr.Dataset) -> str:
    """What the headline says: of which data more alignment goes with more accuracy."""
    words = {"holds": "yes", "fails": "less accuracy", "undecided": "not shown"}
    found = {claim.text: claim.here for claim in decided(claims({"local_rules": data}))}
    told = "; ".join(
        f"{name}: {words[found[_ranked(name, 'accuracy')]]}" for name in data["data"].values
    )
    return (
        f"More alignment with backpropagation, more accuracy? {data.sizes['rule']} local rules\n"
        f"{told} (rank correlation)"
    )


def _name_rules(axes: Axes, data: xr.Dataset, measure: str) -> None:
    """The names of the rules beside their points."""
    x = alignment(data).mean("repetition").values
    y = judged(data)[measure].mean("repetition").values
    shown = np.flatnonzero(np.isfinite(x) & np.isfinite(y)).tolist()
    names = [str(data["rule"].values[k]) for k in shown]
    rows.name_points(axes, x[shown], y[shown], names, [_look(k)[0] for k in shown])


def _look(number: int) -> tuple[str, str]:
    """Colour and marker of a rule."""
    return style.PALETTE[number % len(style.PALETTE)], MARKERS[number % len(MARKERS)]


def scatter(axes: Axes, data: xr.Dataset, measure: str) -> None:
    """A point for each rule, with both its intervals."""
    x, x_half = style.interval(alignment(data), "repetition")
    y, y_half = style.interval(judged(data)[measure], "repetition")
    for k, rule in enumerate(data["rule"].values):
        color, marker = _look(k)
        at = {"rule": rule}
        axes.errorbar(
            x.sel(at),
            y.sel(at),
            y_half.fillna(0).sel(at),
            x_half.fillna(0).sel(at),
            color=color,
            marker=marker,
            linestyle="",
            elinewidth=0.5,
            ecolor=to_rgba(color, 0.4),
        )
    for rules, line in ((FAMILY, "-"), (ONLY_B, ":")):
        here = [rule for rule in rules if rule in data["rule"]]
        at = {"rule": here}
        axes.plot(x.sel(at), y.sel(at), color="#555555", linewidth=1, linestyle=line, zorder=0)
    axes.margins(0.12)
    if measure == "gain":
        axes.axhline(0, color="#999999", linewidth=0.5)


def alignment(data: xr.Dataset) -> xr.DataArray:
    """Mean cosine over the recorded steps and the layers below the top."""
    return data["cosine"].isel(layer=slice(-1)).mean(["step", "layer"])


def judged(data: xr.Dataset) -> xr.Dataset:
    """Accuracy of local training, and how far it lies above backpropagation's."""
    local = data["accuracy"].sel(credit="local", drop=True)
    backpropagated = data["accuracy"].sel(credit="backpropagation", drop=True)
    return xr.Dataset({"accuracy": local, "gain": local - backpropagated})


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Rank correlations across rules; within one rule, what B alone changes."""
    data = datasets["local_rules"]
    ranks = [
        Claim(
            _ranked(name, measure),
            *_correlated(data.sel(data=name), measure),
            "more alignment goes with better accuracy, for CLAPP++ and its feedback variants "
            "(arXiv 2601.21683)",
            None if name in PUBLISHED_ON else "natural images",
        )
        for name in data["data"].values
        for measure in MEASURES
    ]
    if not set(ONLY_B) <= set(data["rule"].values.tolist()):
        return ranks
    return ranks + [_caused(name, data.sel(data=name)) for name in data["data"].values]


def _ranked(name: str, measure: str) -> str:
    """The claim that ranks decide."""
    words = {"accuracy": "accuracy", "gain": "accuracy relative to backpropagation of their loss"}
    return f"{name}: rules with more alignment have a higher {words[measure]}"


def _caused(name: str, data: xr.Dataset) -> Claim:
    """Whether accuracy rises with alignment in networks that differ in B alone.

    In each network the slope of accuracy on cosine over the choices of B, by least squares.
    """
    chosen = data.sel(rule=list(ONLY_B))
    x, y = alignment(chosen), judged(chosen)["accuracy"]
    slope = comparisons.slope(y, x, "rule")
    cosines, accuracies = (panels.numbers(each.mean("repetition"), 3) for each in (x, y))
    return Claim(
        f"{name}: CLAPP++ DFB with B random, trained or matched, all else equal, is more accurate "
        "the more it is aligned",
        comparisons.above(slope),
        f"slope {float(slope.mean()):+.3f}; cosines {cosines}, accuracies {accuracies}",
    )


def _correlated(data: xr.Dataset, measure: str) -> tuple[Question | None, str]:
    """Whether Spearman's correlation over the rules is positive, and its value as text.

    The units are rules, each by its mean over networks. Fisher's z = artanh r of a rank correlation
    has the variance 1.06 / (n - 3) (Fieller, Hartley and Pearson 1957).
    """
    x = alignment(data).mean("repetition").values
    y = judged(data)[measure].mean("repetition").values
    usable = np.isfinite(x) & np.isfinite(y)
    x, y = x[usable], y[usable]
    if len(x) < FEWEST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None, f"only {len(x)} rules to rank"
    rank = _spearman(x, y)
    # Finite where the ranks are the same.
    z = xr.DataArray(np.arctanh(0.999999 * rank))
    error = float(np.sqrt(1.06 / (len(x) - 3)))
    question = of_estimates(z, error, np.inf, len(x), "rules", above=0)
    return question, f"rank correlation {rank:+.2f}, Fisher's z {float(z):+.2f}"


def _spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Correlation of ranks; NaN where all values of one are equal."""
    a, b = (rank - rank.mean() for rank in (rankdata(x), rankdata(y)))
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norm) if norm > 0 else float("nan")
