"""A penalty in the downstream metric restores exactness for every width profile."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim, both, of_cases
from paper_figures.look import panels, style

INPUTS = ("remedies",)
PAPER = ""

LIMIT = 1e-10
VISIBLE = 1e-3
# Colour, marker, line and label of each remedy; those without a condition are drawn last, on top.
LOOKS = {
    "none": (style.PALETTE[6], "x", "-", "Gaussian weights, no remedy"),
    "conformal, equal penalty": (style.PALETTE[3], "v", ":", "conformal, equal penalty"),
    "conformal, rescaled penalty": (style.PALETTE[3], "^", "-", "conformal, rescaled penalty"),
    "nearest isometries": (style.PALETTE[4], "s", "-", "nearest isometries"),
    "matched projection": (style.PALETTE[2], "D", "-", "matched projection"),
    "metric penalty": (style.PALETTE[0], "o", "-", "metric penalty"),
}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Worst relative error per layer: one column per width profile, one row per rule."""
    results = datasets["remedies"]
    below = results["relative_error"].sel(layer=results["layer"][:-1])
    profiles, rules = below["profile"].values, below["rule"].values
    figure = Figure(figsize=(style.PAGE, 4.0))
    grid = figure.subplots(len(rules), len(profiles), sharex=True, sharey=True, squeeze=False)
    for rule, row in zip(rules, grid, strict=True):
        for profile, axes in zip(profiles, row, strict=True):
            for remedy, (color, marker, line, label) in LOOKS.items():
                here = below.sel(profile=profile, rule=rule, remedy=remedy).max("repetition")
                axes.plot(
                    here["layer"],
                    here.clip(min=panels.FLOOR),
                    color=color,
                    marker=marker,
                    linestyle=line,
                    linewidth=1,
                    markerfacecolor="none",
                    label=label,
                )
            axes.axhspan(1e-15, LIMIT, color="#777777", alpha=0.1, linewidth=0)
            axes.set(yscale="log", ylim=(1e-15, 1e3))
            if rule == rules[0]:
                widths = results["width"].sel(profile=profile).values
                axes.set_title(f"{profile}\n{' '.join(map(str, widths))}", size=8)
            axes.set_xticks(below["layer"].values)
        row[0].set_ylabel(f"{rule}:\nworst relative error")
    for axes in grid[-1]:
        panels.layer_axis(axes, below["layer"])
    grid[0, -2].text(1, 7e-11, "exact", size=7, color="#555555", va="top")
    panels.legend_below(figure, grid[0, 0], columns=3)
    panels.headline(figure, "The metric penalty makes local updates exact for any widths")
    return panels.finish(figure, results)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """What each remedy restores, and that there was something to restore."""
    results = datasets["remedies"]
    error = results["relative_error"].sel(layer=results["layer"][:-1])
    decided = []
    for remedy in _exact(error, "nowhere"):
        here = error.sel(remedy=remedy)
        weights, before = str(here["weights"].values), float(here.min())
        decided.append(
            Claim(
                f"equal penalties on {weights} weights: relative error above {VISIBLE:g} in every "
                "layer below the top of every network",
                of_cases(here, above=VISIBLE),
                f"at least {before:.3f}",
            )
        )
    for remedy in _exact(error, "everywhere"):
        worst = error.sel(remedy=remedy).max(("rule", "repetition", "layer"))
        decided.append(
            Claim(
                f"{remedy}: relative error at most {LIMIT:g} for every width profile and rule",
                of_cases(worst, most=LIMIT),
                _by_profile(worst),
            )
        )
    possible = never_narrower(results["width"])
    for remedy in _exact(error, "where no layer above is narrower"):
        here = error.sel(remedy=remedy).max(("rule", "repetition"))
        inside, outside = (
            here.values[where.transpose(*here.dims).values] for where in (possible, ~possible)
        )
        decided.append(
            Claim(
                f"{remedy}: relative error at most {LIMIT:g} exactly in the layers above which "
                "none is narrower",
                both(of_cases(inside, most=LIMIT), of_cases(outside, above=LIMIT)),
                f"at most {inside.max():.1e} in these, at least {outside.min():.2f} in the others",
            )
        )
    return decided


def _exact(error: xr.DataArray, where: str) -> list[str]:
    """Remedies that should make the updates equal there."""
    return [str(name) for name in error["remedy"].values[error["exact"].values == where]]


def never_narrower(width: xr.DataArray) -> xr.DataArray:
    """Whether the layers above each layer but the top can be an isometry together."""
    grows = width.diff("layer", label="lower") >= 0
    return grows.isel(layer=slice(None, None, -1)).cumprod("layer").sortby("layer").astype(bool)


def _by_profile(values: xr.DataArray) -> str:
    return ", ".join(
        f"{profile} {float(values.sel(profile=profile)):.1e}"
        for profile in values["profile"].values
    )
