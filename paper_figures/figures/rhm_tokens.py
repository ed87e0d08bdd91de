"""With more data, networks pass the smallest loss of one context after the other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim, of_networks
from paper_figures.look import comparisons, panels, style

INPUTS = ("rhm_tokens",)
PAPER = "B"

NEAR = 0.1  # nats above a floor that count as being there


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """One panel for each network: its test loss against data, and the floors of all contexts."""
    data = datasets["rhm_tokens"]
    figure = Figure(figsize=(style.PAGE, 2.9))
    row = figure.subplots(1, data.sizes["network"], sharey=True, squeeze=False)[0]
    for axes, network, color in zip(row, data["network"].values, style.PALETTE, strict=False):
        style.band(
            axes, data["loss"].sel(network=network), "repetition", color=color, label=network
        )
        for level in data["level"].values:
            floor = float(data["floor"].sel(level=level).mean("repetition"))
            axes.axhline(floor, color="#777777", linewidth=0.8, linestyle="--")
            if axes is row[-1]:
                axes.text(
                    1.02,
                    floor,
                    f"floor, context {2**level - 1}",
                    transform=axes.get_yaxis_transform(),
                    size=7,
                    color="#555555",
                    va="center",
                )
        axes.set_xscale("log", base=2)
        axes.set(title=network, xlabel="training data, drawn anew in each batch", ylim=(0, None))
    row[0].set_ylabel("loss of the last token, nats")
    panels.headline(figure, "The more data, the longer the context that a network uses")
    return panels.finish(figure, data)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """No loss below the floor; the longest context is used; longer contexts take more data."""
    data = datasets["rhm_tokens"]
    least = data["floor"].isel(level=-1)
    decided = []
    for network in data["network"].values:
        loss = data["loss"].sel(network=network)
        last = loss.isel(count=-1)
        decided.append(
            Claim(
                f"{network}: the loss ends within {NEAR:g} nats of the floor of all leaves",
                of_networks(last - least, "repetition", below=NEAR),
                f"{float(last.mean()):.3f} against {float(least.mean()):.3f}, difference "
                f"{float((last - least).mean()):+.3f}",
            )
        )
        gained = data["floor"].isel(level=1) - last
        decided.append(
            Claim(
                f"{network}: it ends below what its nearest neighbour tells",
                comparisons.above(gained),
                f"gained {float(gained.mean()):+.3f} nats",
            )
        )
        mean, floors = loss.mean("repetition"), data["floor"].mean("repetition")
        first = [_reached(mean, float(floors.sel(level=l)) + NEAR) for l in data["level"].values]
        reached = [place for place, count in enumerate(first[:-1]) if count is not None]
        # How far the loss still is from the next floor, where it first reaches this one.
        left = {
            f"context {2 ** int(data['level'][place]) - 1}": loss.sel(count=first[place])
            - data["floor"].isel(level=place + 1)
            for place in reached
        }
        decided.append(
            Claim(
                f"{network}: data that suffice for one context do not suffice for the next longer "
                "one",
                comparisons.above(comparisons.together(left), NEAR) if left else None,
                "within reach of the floors of contexts "
                + " ".join(str(2**level - 1) for level in data["level"].values)
                + " after "
                + " ".join("-" if count is None else str(count) for count in first),
            )
        )
    return decided


def _reached(loss: xr.DataArray, floor: float) -> int | None:
    """The first number of data at which the loss is that low."""
    below = np.flatnonzero(loss.values <= floor)
    return int(loss["count"].values[below[0]]) if below.size else None
