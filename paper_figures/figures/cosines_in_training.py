"""How the agreement of local and global updates develops while each local rule trains."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from paper_figures.claims import Claim
from paper_figures.look import panels, style

INPUTS = ("local_rules",)
PAPER = "A"


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """A map for each data set: rules as rows, recorded steps as columns."""
    data = datasets["local_rules"]
    mean = data["cosine"].isel(layer=slice(-1)).mean(["layer", "repetition"])
    figure = Figure(figsize=(style.PAGE, 0.24 * data.sizes["rule"] + 1.5))
    grid = figure.subplots(1, data.sizes["data"], squeeze=False)[0]
    for axes, name in zip(grid, data["data"].values, strict=True):
        picture = _map(axes, mean.sel(data=name, drop=True), _verdicts(data, str(name)))
        axes.set_title(str(name))
    figure.colorbar(picture, ax=grid, label="mean cosine below the top", shrink=0.9)
    panels.headline(figure, _result(data))
    return panels.finish(figure, data)


def _map(axes: Axes, mean: xr.DataArray, verdicts: Mapping[str, bool | None]) -> AxesImage:
    """Rules from the highest last cosine to the lowest; + and - mark what training changes."""
    last = mean.isel(step=-1).fillna(-2)
    ordered = mean.isel(rule=np.argsort(-last.values, kind="stable")).transpose("rule", "step")
    picture = axes.imshow(
        ordered, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", interpolation="none"
    )
    signs = {True: " +", False: " \N{MINUS SIGN}", None: ""}
    names = [f"{rule}{signs[verdicts[str(rule)]]}" for rule in ordered["rule"].values]
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


def _change(data: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """How training changes the mean cosine, and half its 95 % interval."""
    mean = data["cosine"].isel(layer=slice(-1)).mean("layer")
    return style.interval(mean.isel(step=-1) - mean.isel(step=0), "repetition")


def _verdict(value: float, half: float) -> bool | None:
    return True if value - half > 0 else False if value + half < 0 else None


def _verdicts(data: xr.Dataset, name: str) -> dict[str, bool | None]:
    change, half = (part.sel(data=name) for part in _change(data))
    return {
        str(rule): _verdict(float(change.sel(rule=rule)), float(half.sel(rule=rule)))
        for rule in data["rule"].values
    }


def _result(data: xr.Dataset) -> str:
    """What the headline says: of how many rules training raises and lowers the cosine."""
    told = []
    for name in data["data"].values:
        found = list(_verdicts(data, str(name)).values())
        told.append(f"{name} {found.count(True)} up, {found.count(False)} down")
    return (
        f"How local training changes the cosine with backpropagation, of {data.sizes['rule']} "
        f"rules:\n{'; '.join(told)} (+ and \N{MINUS SIGN}: beyond the 95 % interval)"
    )


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Whether training keeps, raises or loses alignment, for each rule."""
    data = datasets["local_rules"]
    mean = data["cosine"].isel(layer=slice(-1)).mean("layer")
    change, half = _change(data)
    decided = []
    for name in data["data"].values:
        for rule in data["rule"].values:
            value, spread = (float(part.sel(data=name, rule=rule)) for part in (change, half))
            first, last = (
                float(mean.sel(data=name, rule=rule).isel(step=step).mean()) for step in (0, -1)
            )
            text = f"{name}, {rule}: training raises the mean cosine"
            if not np.isfinite(spread):
                decided.append(Claim(text, None, "one repetition, or an undefined cosine"))
                continue
            holds = _verdict(value, spread)
            measured = f"{first:+.2f} to {last:+.2f}, change {value:+.2f} ± {spread:.2f}"
            decided.append(Claim(text, holds, measured))
    return decided
