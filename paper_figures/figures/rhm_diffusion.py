"""The class of a noisy hierarchy is lost at one noise, and steps back lose its upper levels."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim, of_networks
from paper_figures.look import comparisons, panels, style

INPUTS = ("rhm_diffusion",)
PAPER = "B"

CLOSE = 0.05
CERTAIN, UNSURE = 0.75, 0.25
VALID = 0.9
DEPTHS = ("#BBBBBB", "#888888", "#555555", "#000000")
UNIT = "grammars"
NEAR = 0.01  # so near to the critical noise depth changes nothing


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """The transition, what changes there and back, and generated data, level by level."""
    data = datasets["rhm_diffusion"]
    figure = Figure(figsize=(style.PAGE, 5.2))
    rows = figure.subplots(2, 3, squeeze=False)
    axes = rows[0][0]
    for depth, color in zip(data["depth"].values, DEPTHS, strict=False):
        here = data.sel(depth=depth)
        style.band(axes, here["belief"], "repetition", color=color, label=f"L = {depth}")
        axes.plot(data["noise"], here["mean_field"], ":", color=style.PALETTE[1], linewidth=1)
    axes.axvline(float(data["critical"]), color="#777777", linewidth=0.8)
    axes.set(
        title="transition (dotted: mean field)",
        xlabel="noise e of every leaf",
        ylabel="belief in the true class",
        ylim=(0, 1.02),
    )
    axes.legend(loc="lower left", fontsize=7)
    processes = data["process"].values
    for process, panel in zip(processes[[0, -1]], (rows[0][1], rows[0][2]), strict=True):
        for level, color in zip(data["level"].values, style.PALETTE, strict=False):
            values = data["changed"].sel(process=process, level=level)
            style.band(panel, values, "repetition", color=color, label=_named(data, level))
        panel.set(
            title=f"there and back, {process}",
            xlabel="time t of the noise",
            ylabel="share of symbols changed",
            ylim=(0, 1.02),
        )
    for process, panel in zip(processes, rows[1], strict=True):
        for level, color in zip(data["level"].values, style.PALETTE, strict=False):
            if level:
                values = data["valid"].sel(process=process, level=level)
                style.band(panel, values, "repetition", color=color, label=_named(data, level))
        panel.set_xscale("log", base=2)
        panel.set(
            title=f"generated, {process}",
            xlabel="steps from noise to data",
            ylabel="share of valid nodes",
            ylim=(0, 1.02),
        )
        panel.set_xticks(data["steps"].values, [str(k) for k in data["steps"].values])
    panels.legend_below(figure, rows[0][1], columns=data.sizes["level"])
    panels.headline(
        figure, "The class is lost at one noise; few steps back lose the upper levels first"
    )
    return panels.finish(figure, data)


def _named(data: xr.Dataset, level: int) -> str:
    top = int(data["level"].max())
    return "leaves" if level == 0 else "class" if level == top else f"level {level}"


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Sharp, where the mean field has it; what changes first; what steps cost."""
    data = datasets["rhm_diffusion"]
    belief, critical = data["belief"], float(data["critical"])
    depths = data["depth"].values
    width = xr.apply_ufunc(
        lambda values: (
            _crossing(data["noise"].values, values, UNSURE)
            - _crossing(data["noise"].values, values, CERTAIN)
        ),
        belief,
        input_core_dims=[["noise"]],
        vectorize=True,
    )
    narrower = comparisons.together(
        {f"L = {a} to {b}": width.sel(depth=a) - width.sel(depth=b) for a, b in pairwise(depths)}
    )
    below, above = data["noise"] < critical - NEAR, data["noise"] > critical + NEAR
    deep = belief.sel(depth=depths[-1]) - belief.sel(depth=depths[0])
    apart = (belief - data["leaf_belief"]).sel(depth=depths[-1])
    away = belief - data["mean_field"]
    decided = [
        Claim(
            f"the deeper, the narrower the noise where the belief falls from {CERTAIN} to {UNSURE}",
            of_networks(narrower, "repetition", above=0, unit=UNIT),
            f"widths {panels.numbers(width.mean('repetition'))} at L = "
            + " ".join(map(str, depths)),
        ),
        _signed("below the critical noise depth helps the class", deep.where(below, drop=True), 1),
        _signed(
            "above the critical noise depth hurts the class",
            deep.where(above & (data["noise"] < 1), drop=True),
            -1,
        ),
        _signed(
            "below the critical noise, in the deepest hierarchy, leaves are less certain than the "
            "class",
            apart.where(below, drop=True),
            1,
        ),
        _signed(
            "above the critical noise, in the deepest hierarchy, leaves are more certain than the "
            "class",
            apart.where(above & (data["noise"] < 1), drop=True),
            -1,
        ),
        Claim(
            f"the mean field is within {CLOSE:g} of the mean belief at all depths and noises",
            of_networks(away, "repetition", -CLOSE, CLOSE, unit=UNIT),
            f"at most {float(abs(away.mean('repetition')).max()):.3f} away",
        ),
    ]
    for process in data["process"].values:
        decided += _changes(process, data["changed"].sel(process=process))
    return decided + [_steps(process, data["valid"].sel(process=process)) for process in
                      data["process"].values]  # fmt: skip


def _crossing(noise: np.ndarray, belief: np.ndarray, at: float) -> float:
    """The first noise at which the belief has fallen to ``at``, between two points by a line."""
    k = int(np.argmax(belief <= at))
    if belief[k] > at:
        return float("nan")
    if k == 0:
        return float(noise[0])
    share = (belief[k - 1] - at) / (belief[k - 1] - belief[k])
    return float(noise[k - 1] + share * (noise[k] - noise[k - 1]))


def _signed(text: str, values: xr.DataArray, sign: int) -> Claim:
    """That every noise has a difference of that sign."""
    means = values.mean("repetition")
    measured = f"differences {panels.numbers(means, 3, '+')} at e = " + " ".join(
        f"{e:g}" for e in values["noise"].values
    )
    return Claim(text, of_networks(sign * values, "repetition", above=0, unit=UNIT), measured)


def _changes(process: str, changed: xr.DataArray) -> list[Claim]:
    """What changes more often, the leaves or the class: with little noise and with much."""
    top = int(changed["level"].max())
    difference = changed.sel(level=top) - changed.sel(level=0)
    class_changes = changed.sel(level=top).mean("repetition")
    half = changed["time"].values[int(np.argmax(class_changes.values >= 0.5))]
    few = changed["time"].values[0]
    found = []
    for time, text, sign in (
        (half, "where the class changes in half of the data, its leaves change less often", 1),
        (few, "with the least noise, leaves change more often than the class", -1),
    ):
        here = changed.sel(time=time).mean("repetition")
        found.append(
            Claim(
                f"{process}: {text}",
                of_networks(sign * difference.sel(time=time), "repetition", above=0, unit=UNIT),
                f"t = {time:g}: class {float(here.sel(level=top)):.3f}, leaves "
                f"{float(here.sel(level=0)):.3f}",
            )
        )
    return found


def _steps(process: str, valid: xr.DataArray) -> Claim:
    """That upper levels need more steps than lower ones."""
    top = int(valid["level"].max())
    mean = valid.mean("repetition")
    needed = {
        level: next(
            (int(k) for k in mean["steps"] if mean.sel(level=level, steps=k) >= VALID), None
        )
        for level in (1, top)
    }
    words = [
        f"{needed[level] or 'more than ' + str(int(mean['steps'][-1]))} steps for {VALID:.0%} of "
        f"level {level}"
        for level in (1, top)
    ]
    few = needed[1] or int(mean["steps"][-1])
    fewer = (valid.sel(level=1) - valid.sel(level=top)).sel(steps=few)
    return Claim(
        f"{process}: as soon as {VALID:.0%} of level 1 are valid, fewer are at the top",
        of_networks(fewer, "repetition", above=0, unit=UNIT),
        ", ".join(words),
    )
