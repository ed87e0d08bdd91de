"""The correlations of the Random Hierarchy Model follow closed forms, and vanish at m = v^(s-1)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim, Question, of_cases, of_networks
from paper_figures.look import panels, style

INPUTS = ("rhm_covariances",)
PAPER = "B"

CLOSE = 1.25


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """One panel for each grammar: root mean squares of each kind of covariance."""
    data = datasets["rhm_covariances"]
    figure = Figure(figsize=(style.PAGE, 2.9))
    row = figure.subplots(1, data.sizes["grammar"], sharey=True, squeeze=False)[0]
    smallest = float(data["exact"].where(data["exact"] > 0).min())
    for axes, grammar in zip(row, data["grammar"].values, strict=True):
        here = data.sel(grammar=grammar).dropna("kind", subset=["expected"])
        places = np.arange(here.sizes["kind"])
        for offset, (name, color, marker) in zip(
            (-0.15, 0.15),
            (("exact", style.PALETTE[0], "o"), ("measured", style.PALETTE[1], "x")),
            strict=True,
        ):
            label = {"exact": "exact, each draw of the rules", "measured": "estimated from data"}
            for repetition in here["repetition"].values:
                axes.plot(
                    places + offset,
                    here[name].sel(repetition=repetition).where(lambda x: x > 0),
                    marker,
                    color=color,
                    markersize=3,
                    alpha=0.5,
                    label=label[name] if repetition == 0 else None,
                )
        for name, color, words in (
            ("expected", style.PALETTE[6], "closed form (ours)"),
            ("published", style.PALETTE[2], "closed form (published, leading order)"),
        ):
            axes.hlines(
                here[name].where(lambda x: x > 0),
                places - 0.35,
                places + 0.35,
                color=color,
                linewidth=1.2,
                linestyle="-" if name == "expected" else ":",
                label=words,
            )
        axes.plot(
            places,
            here["error"].mean("repetition"),
            "_",
            color="#999999",
            markersize=14,
            label="standard error of an estimate",
        )
        axes.set(yscale="log", title=grammar, xlabel="covariance of")
        axes.set_xticks(places, [_short(kind) for kind in here["kind"].values], rotation=60)
        if bool((here["expected"] == 0).any()):
            axes.text(
                0.98,
                0.97,
                "leaves: exactly 0",
                transform=axes.transAxes,
                size=7,
                ha="right",
                va="top",
            )
    row[0].set_ylim(bottom=smallest / 2)
    row[0].set_ylabel("covariance (rms)")
    panels.legend_below(figure, row[0], columns=3)
    panels.headline(figure, "Correlations in the hierarchy are as predicted, level by level")
    return panels.finish(figure, data)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Samples agree with the exact tables; these with the closed forms; none at m = v."""
    data = datasets["rhm_covariances"]
    agreeing = data["agreeing"].mean("repetition")
    deviation = (data["deviation"] ** 2).mean("repetition") ** 0.5
    exact = (data["exact"] ** 2).mean("repetition") ** 0.5
    signal = data["expected"] > 0
    ours = _factor(exact, data["expected"]).where(signal)
    published = _factor(exact, data["published"]).where(signal)
    silent = data["exact"].where(data["expected"] == 0)
    decided = [
        Claim(
            "estimates deviate from the exact covariances by one standard error (root mean "
            f"square), within a factor {CLOSE:g} for every grammar and kind",
            _within(data["deviation"].where(agreeing > 0)),
            f"{float(deviation.min()):.2f} to {float(deviation.max()):.2f} standard errors; "
            f"{float(agreeing.mean()):.1%} of all entries within 3 of them",
        ),
        Claim(
            f"our closed forms are within a factor {CLOSE:g} of the exact root mean squares",
            _within((data["exact"] / data["expected"]).where(signal)),
            f"factor up to {float(ours.max()):.2f}",
        ),
        Claim(
            f"the published leading order C_l is within a factor {CLOSE:g} at every level",
            _within((data["exact"] / data["published"]).where(signal)),
            f"factor up to {float(published.max()):.2f}",
            "leading order in large v and m (arXiv 2307.02129)",
        ),
    ]
    if bool(silent.notnull().any()):
        decided.append(
            Claim(
                "at n = v, m = v^(s-1) leaves are uncorrelated, although the classes can be "
                "learned",
                of_cases(silent.values[silent.notnull().values], most=1e-15),
                f"largest exact covariance of leaves {float(silent.max()):.0e}, of class and leaf "
                f"{float(data['exact'].sel(kind='class, leaf').min()):.0e} or more",
                "0 (arXiv 2406.00048)",
            )
        )
    return decided


def _within(ratio: xr.DataArray) -> Question:
    """Whether root mean squares over grammars differ from 1 by a factor `CLOSE` at most."""
    squares = (ratio**2).stack(part=("grammar", "kind")).dropna("part", how="all")
    return of_networks(squares, "repetition", 1 / CLOSE**2, CLOSE**2, unit="grammars")


def _factor(first: xr.DataArray, second: xr.DataArray) -> xr.DataArray:
    """The ratio of the larger of two numbers to the smaller."""
    ratio = first / second.where(second > 0)
    return ratio.where(ratio > 1, 1 / ratio)


def _short(kind: str) -> str:
    return kind.replace("leaves, level ", "leaves ")
