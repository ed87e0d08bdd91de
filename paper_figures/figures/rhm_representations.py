"""Which layer becomes invariant to which synonyms, and which symbols it tells apart."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim, both, of_networks
from paper_figures.look import learners, panels, style

INPUTS = ("rhm_representations",)
PAPER = "B"

INVARIANT = 0.5
READ = 0.05  # the smallest gain in accuracy that we call one


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Sensitivity above, decodability below, one column for each rule, at the largest P."""
    data = datasets["rhm_representations"]
    rules = data["rule"].values
    figure = Figure(figsize=(style.PAGE, 4.9))
    grid = figure.subplots(3, len(rules), squeeze=False)
    largest = data.isel(multiple=-1)
    for row, (name, label, cmap) in enumerate(
        (
            ("sensitivity", "sensitivity", "magma"),
            ("decodability", "decodability", "cividis"),
        )
    ):
        for column, rule in enumerate(rules):
            axes = grid[row, column]
            values = largest[name].sel(rule=rule).mean("repetition")
            image = axes.imshow(
                values.transpose("layer", "level"), origin="lower", vmin=0, vmax=1, cmap=cmap
            )
            for k in range(data.sizes["layer"]):
                for l in range(data.sizes["level"]):
                    value = float(values.values[k, l])
                    axes.text(
                        l,
                        k,
                        f"{value:.2f}",
                        ha="center",
                        va="center",
                        size=7,
                        color="black" if value > 0.55 else "white",
                    )
            axes.set_xticks(range(data.sizes["level"]), data["level"].values)
            axes.set_yticks(range(data.sizes["layer"]), data["layer"].values)
            axes.spines[:].set_visible(False)
            axes.tick_params(length=0)
            if row == 0:
                axes.set_title(textwrap.fill(str(rule), 16), size=7)
            axes.set_xlabel("level", size=7)
        grid[row, 0].set_ylabel(f"{label}\nlayer")
        figure.colorbar(image, ax=grid[row].tolist(), fraction=0.02)
    for column, rule in enumerate(rules):
        axes = grid[2, column]
        for level, color in zip(data["level"].values, style.PALETTE, strict=False):
            style.band(
                axes,
                data["sensitivity"].sel(rule=rule, layer=data["layer"][-1], level=level),
                "repetition",
                color=color,
                label=f"level {level}",
            )
        axes.set_xscale("log", base=2)
        axes.set_ylim(0, 1.4)
        axes.set_xlabel("P / (n m^L)", size=7)
        if column:
            axes.set_yticklabels([])
    grid[2, 0].set_ylabel("sensitivity of\nthe top layer")
    panels.legend_below(figure, grid[2, 0], columns=data.sizes["level"])
    multiple = float(data["multiple"][-1])
    panels.headline(figure, f"What each layer knows of the tree (maps: P = {multiple:g} n m^L)")
    return panels.finish(figure, data)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Invariance after training, its fall with P, and the same for rules without labels."""
    data = learners.with_coordinates(datasets["rhm_representations"])
    top = data["sensitivity"].isel(layer=-1)
    below_class = data["level"].values[:-1]
    few, many = top.isel(multiple=0), top.isel(multiple=-1)
    first, last = (f"{float(data['multiple'][i]):g} P*" for i in (0, -1))
    decided = []
    several = data.sizes["multiple"] > 1
    taught = learners.rules(data, credit="backpropagation")
    viewing = learners.rules(data, credit="local", positives="views")
    for rule in (*taught, *viewing, *learners.rules(data, credit="direct feedback")):
        before, after = (each.sel(rule=rule, level=below_class) for each in (few, many))
        insensitive = of_networks(after, "repetition", below=INVARIANT)
        fell = of_networks(after.drop_vars("multiple") - before, "repetition", below=0)
        decided.append(
            Claim(
                f"{rule}: the top layer becomes insensitive (below {INVARIANT:g}) to synonyms of "
                f"the levels below the class between {first} and {last}",
                both(insensitive, fell) if several else insensitive,
                f"{panels.numbers(before.mean('repetition'))} to "
                f"{panels.numbers(after.mean('repetition'))} at levels "
                f"{below_class[0]}-{below_class[-1]}",
                "falls at P ~ n m^L (arXiv 2307.02129)" if rule in taught else None,
            )
        )
    own = data["decodability"].isel(multiple=-1)
    levels = data["level"].values[1:-1]
    (untrained,) = learners.rules(data, credit="")
    for rule in learners.rules(data, credit="local"):
        if levels.size:
            gain = own.sel(rule=rule, drop=True) - own.sel(rule=untrained, drop=True)
            at = xr.DataArray(levels, {"level": levels}, ("level",))
            gains = gain.sel(layer=at, level=at)
            decided.append(
                Claim(
                    f"{rule}: layer l reads the symbols of level l better than an untrained layer, "
                    "between the first level and the class",
                    of_networks(gains, "repetition", above=READ),
                    "gain "
                    + ", ".join(
                        f"level {l} {float(gains.sel(level=l).mean()):+.2f}" for l in levels
                    ),
                )
            )
    return decided
