"""How the agreement of local and global updates develops while each local rule trains."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from paper_figures.claims import Claim, decided
from paper_figures.look import comparisons, panels, style

INPUTS = ("local_rules",)
PAPER = "A"


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """A map for each data set: rules as rows, recorded steps as columns."""
    data = datasets["local_rules"]
    mean = data["cosine"].isel(layer=slice(-1)).mean(["layer", "repetition"])
    verdicts = _verdicts(data)
    figure = Figure(figsize=(style.PAGE, 0.24 * data.sizes["rule"] + 1.5))
    grid = figure.subplots(1, data.sizes["data"], squeeze=False)[0]
    for axes, name in zip(grid, data["data"].values, strict=True):
        here = {rule: word for (where, rule), word in verdicts.items() if where == name}
        picture = _map(axes, mean.sel(data=name, drop=True), here)
        axes.set_title(str(name))
    figure.colorbar(picture, ax=grid, label="mean cosine below the top", shrink=0.9)
    panels.headline(figure, _result(data, verdicts))
    return panels.finish(figure, data)


def _map(axes: Axes, mean: xr.DataArray, verdicts: Mapping[str, str]) -> AxesImage:
    """Rules from the highest last cosine to the lowest; arrows mark what training changes."""
    last = mean.isel(step=-1).fillna(-2)
    ordered = mean.isel(rule=np.argsort(-last.values, kind="stable")).transpose("rule", "step")
    picture = axes.imshow(
        ordered, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", interpolation="none"
    )
    signs = {"holds": " \N{UPWARDS ARROW}", "fails": " \N{DOWNWARDS ARROW}"}
    names = [f"{rule}{signs.get(verdicts[str(rule)], '')}" for rule in ordered["rule"].values]
    axes.set_yticks(range(len(names)), names, size=7)
    axes.set_xticks(range(mean.sizes["step"]), [str(s) for s in mean["step"].values], size=7)
    axes.set_xlabel("steps of training")
    for row, values in enumerate(ordered.values):
        for column in (0, -1):
            value = float(values[column])
            if np.isfinite(value):
                place = column % len(values)
                color = "white" if abs(value) > 0.6 else "black"
                axes.text(
                    place,
                    row,
                    f"{round(value, 1) + 0.0:.1f}",
                    ha="center",
                    va="center",
                    size=7,
                    color=color,
                )
    return picture


def _verdicts(data: xr.Dataset) -> dict[tuple[str, str], str]:
    """The verdict on "training raises the mean cosine", by data and rule."""
    cells = [(str(name), str(r)) for name in data["data"].values for r in data["rule"].values]
    found = decided(claims({"local_rules": data}))
    return {cell: claim.here for cell, claim in zip(cells, found, strict=True)}


def _result(data: xr.Dataset, verdicts: Mapping[tuple[str, str], str]) -> str:
    """What the headline says: of how many rules training raises and lowers the cosine."""
    told = []
    for name in data["data"].values:
        found = [word for (where, _), word in verdicts.items() if where == name]
        up, down = found.count("holds"), found.count("fails")
        told.append(f"{name} {up} up, {down} down, {len(found) - up - down} undecided")
    return (
        f"How local training changes the cosine with backpropagation, of {data.sizes['rule']} "
        f"rules:\n{'; '.join(told)} (marked \N{UPWARDS ARROW} and \N{DOWNWARDS ARROW})"
    )


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Whether training keeps, raises or loses alignment, for each rule."""
    data = datasets["local_rules"]
    mean = data["cosine"].isel(layer=slice(-1)).mean("layer")
    change = mean.isel(step=-1) - mean.isel(step=0)
    found = []
    for name in data["data"].values:
        for rule in data["rule"].values:
            first, last = (
                float(mean.sel(data=name, rule=rule).isel(step=step).mean()) for step in (0, -1)
            )
            known = np.isfinite(first) and np.isfinite(last)
            words = f"{first:+.2f} to {last:+.2f}, change {last - first:+.2f}"
            found.append(
                Claim(
                    f"{name}, {rule}: training raises the mean cosine",
                    comparisons.above(change.sel(data=name, rule=rule)) if known else None,
                    words if known else "an undefined cosine",
                )
            )
    return found
