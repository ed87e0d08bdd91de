"""From a small start local learning escapes sooner, but learns weak modes layer by layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from linlocal.analysis.results import of_run
from paper_figures.claims import Claim, of_cases, of_networks
from paper_figures.look import comparisons, panels, style

INPUTS = ("learning_curves",)
PAPER = ""

CLOSED = 1e-4
CONSERVED = 1e-6
VISIBLE = 0.1
AT_REST = 0.02
EQUAL = 1e-6
NAMES = {"local": "local", "global": "backpropagation"}
SHORT = {"local": "local", "global": "backprop."}
SMALL: dict[str, Any] = {
    "fontsize": 7,
    "title_fontsize": 7,
    "handletextpad": 0.4,
    "borderaxespad": 0.1,
    "labelspacing": 0.3,
}
LOOKS = {"local": style.PALETTE[1], "global": style.PALETTE[0]}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Curves of both kinds of learning, their half-times, balance, weight decay, optimisers."""
    results = datasets["learning_curves"]
    figure = Figure(figsize=(style.PAGE, 4.9))
    (local, other, halves), (balance, decay, optimisers) = figure.subplots(2, 3)
    for axes, learning in ((local, "local"), (other, "global")):
        _draw_curves(axes, results, learning)
    local.set_ylabel("strength of the mode")
    other.legend(title="correlation", loc="upper left", handlelength=1, **SMALL)
    _draw_half_times(halves, results)
    _draw_balance(balance, results)
    _draw_decay(decay, results)
    _draw_optimisers(optimisers, results)
    panels.headline(
        figure, "Local learning escapes a small start sooner, but each layer delays weak modes"
    )
    return panels.finish(figure, results)


def _draw_curves(axes: Axes, results: xr.Dataset, learning: str) -> None:
    here = results.isel(layer=-1).sel(learning=learning)
    for mode, color in zip(results["mode"].values, style.PALETTE, strict=False):
        curve = here["strength"].sel(start="orthogonal", mode=mode).isel(repetition=0)
        label = f"{_correlations(results)[mode - 1]:g}"
        axes.plot(results["time"], curve, color=color, linewidth=3.2, alpha=0.45, label=label)
        closed = here["closed_form"].sel(mode=mode)
        axes.plot(results["time"], closed, color="black", linewidth=0.7, linestyle="--")
    axes.set(xscale="log", xlim=(0.1, None), ylim=(0, 1.05), xlabel="time")
    axes.set_title(f"{NAMES[learning]}, top layer\n(dashed: closed form)")


def _draw_half_times(axes: Axes, results: xr.Dataset) -> None:
    depth = results.sizes["layer"]
    series = [("local", layer) for layer in results["layer"].values[1:]] + [("global", depth)]
    colors = (style.PALETTE[4], style.PALETTE[1], style.PALETTE[3], style.PALETTE[5])
    for number, (learning, layer) in enumerate(series):
        here = results.sel(learning=learning, layer=layer)
        color = LOOKS["global"] if learning == "global" else colors[number % len(colors)]
        mean, half = style.interval(here["half_time"].sel(start="Gaussian"), "repetition")
        axes.errorbar(
            _correlations(results),
            mean,
            half,
            color=color,
            linestyle="none",
            marker="o",
            capsize=2,
            label=f"{SHORT[learning]}, layer {layer}",
        )
        axes.plot(_correlations(results), here["closed_half_time"], color=color, linewidth=0.8)
    axes.set(xscale="log", yscale="log", ylim=(0.08, None), xlabel="correlation of the mode")
    ticks = _correlations(results)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylabel("time to half the rest")
    axes.set_title("Gaussian start (lines:\northogonal, closed form)")
    axes.legend(loc="lower left", **SMALL)


def _draw_balance(axes: Axes, results: xr.Dataset) -> None:
    below = results["imbalance_change"].isel(layer=slice(-1)).sel(start="Gaussian")
    for learning, color in LOOKS.items():
        for layer, line in zip(below["layer"].values, ("-", "--", ":"), strict=False):
            values = below.sel(learning=learning, layer=layer).mean("repetition")
            axes.plot(
                results["time"],
                values.clip(min=1e-13),
                color=color,
                linestyle=line,
                label=f"{SHORT[learning]}, layers {layer}, {layer + 1}",
            )
    axes.set(xscale="log", yscale="log", xlim=(0.1, None), ylim=(1e-13, 1e3), xlabel="time")
    axes.set_ylabel("change of\n" + r"$W_{l+1}^\top W_{l+1} - W_l W_l^\top$")
    axes.set_title("balance: conserved by\nbackpropagation only")
    axes.legend(loc="center left", handlelength=1.5, **SMALL)


def _draw_decay(axes: Axes, results: xr.Dataset) -> None:
    x = results["correlation"].isel(case=0, repetition=0)
    depth = results.sizes["layer"]
    series = [
        ("local", layer, f"local, layer {layer}", color)
        for layer, color in zip((1, depth), (style.PALETTE[4], style.PALETTE[1]), strict=True)
    ]
    series += [
        ("global, large start", depth, "backprop., large start", LOOKS["global"]),
        ("global", depth, "backprop., small start", style.PALETTE[5]),
    ]
    for case, layer, label, color in series:
        here = results.sel(case=case, layer=layer)
        mean, half = style.interval(here["decayed"], "repetition")
        axes.errorbar(x, mean, half, color=color, linestyle="none", marker="o", label=label)
        axes.plot(x, here["predicted"].isel(repetition=0), color=color, linewidth=0.8)
    axes.set(xlabel="correlation of the mode", ylabel="strength at rest", ylim=(-0.05, 1.9))
    axes.set_title("with weight decay\n(lines: closed form)")
    axes.legend(loc="upper left", **SMALL)


def _draw_optimisers(axes: Axes, results: xr.Dataset) -> None:
    names = results["optimiser"].values[::-1]
    markers = {"equal": ("o", style.PALETTE[2]), "proportional": ("s", style.PALETTE[6])}
    for gradients, (marker, color) in markers.items():
        worst = results["weight_error"].sel(gradients=gradients, optimiser=names).max("repetition")
        axes.plot(
            worst.clip(min=panels.FLOOR),
            range(len(names)),
            linestyle="none",
            marker=marker,
            color=color,
            label=gradients,
        )
    axes.set(xscale="log", xlim=(panels.FLOOR / 10, 10), ylim=(-0.6, len(names) + 2))
    axes.set_yticks(range(len(names)), [name.replace("clipped,", "clip") for name in names], size=7)
    axes.set_xlabel("relative error of weights")
    axes.set_title("equality that an\noptimiser keeps")
    axes.legend(title="gradients", loc="upper left", **SMALL)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Closed forms, delays of weak modes, balance, weight decay, optimisers."""
    results = datasets["learning_curves"]
    return [
        _closed_forms(results),
        *_delays(results),
        _sooner(results),
        _all_learned(results),
        *_balance(results),
        *_decay(results),
        *_optimisers(results),
    ]


def _closed_forms(results: xr.Dataset) -> Claim:
    measured = results["strength"].sel(start="orthogonal", drop=True)
    apart = abs(measured - results["closed_form"])
    return Claim(
        f"orthogonal start: every curve is the closed form to {CLOSED:g}, in all networks",
        of_cases(apart, most=CLOSED),
        f"differs by at most {float(apart.max()):.1e}",
    )


def _delays(results: xr.Dataset) -> list[Claim]:
    """How half-times grow as the correlation falls: the power of 1/correlation, by regression."""
    logs = np.log(_correlations(results))
    centred = xr.DataArray(logs - logs.mean(), {"mode": results["mode"]}, ("mode",))
    weights = centred / float(np.sum(centred.values**2))
    powers = -(_log_times(results) * weights).sum("mode", skipna=False)
    decided = []
    for text, values in (
        (
            "local, top layer: half-times grow faster than 1/correlation",
            powers.sel(learning="local") - 1,
        ),
        (
            "the top layer delays weak modes more under backpropagation than under local learning",
            powers.sel(learning="global") - powers.sel(learning="local"),
        ),
    ):
        shown = ", ".join(
            f"{NAMES[str(learning)]} {_mean(powers.sel(learning=learning))}"
            for learning in powers["learning"].values
        )
        decided.append(
            Claim(text, comparisons.above(values), f"powers {shown}, difference {_mean(values)}")
        )
    return decided


def _sooner(results: xr.Dataset) -> Claim:
    times = _log_times(results)
    gains = times.sel(learning="global") - times.sel(learning="local")
    mean = gains.mean("repetition")
    ratios = ", ".join(
        f"{ratio:.1f}" if np.isfinite(ratio) else "undefined" for ratio in np.exp(mean.values)
    )
    return Claim(
        "from a small Gaussian start local learning brings every mode to the top layer sooner",
        comparisons.above(gains),
        f"times as long under backpropagation, from the strongest mode down: {ratios}; logarithms",
    )


def _all_learned(results: xr.Dataset) -> Claim:
    end = results["strength"].isel(time=-1, layer=-1)
    apart = abs(end - np.sqrt(_correlations(results)))
    return Claim(
        "without decay both learn every mode of positive correlation in the end",
        of_cases(apart, most=AT_REST),
        f"strengths of the top layer differ from the rest by at most {float(apart.max()):.1e}",
    )


def _balance(results: xr.Dataset) -> list[Claim]:
    change = results["imbalance_change"].isel(layer=slice(-1))
    kept = change.sel(learning="global")
    lost = change.sel(learning="local").isel(time=-1)
    least = lost.min(["start", "repetition"])
    return [
        Claim(
            f"backpropagation conserves the balance of adjacent layers to {CONSERVED:g}",
            of_cases(kept, most=CONSERVED),
            f"changes by at most {float(kept.max()):.1e}",
        ),
        Claim(
            f"local learning changes that of layers 1 and 2 by more than {VISIBLE:g}",
            of_cases(lost.sel(layer=1), above=VISIBLE),
            f"at least {panels.numbers(least)} in layers {panels.span(lost['layer'])}",
        ),
    ]


def _decay(results: xr.Dataset) -> list[Claim]:
    apart = abs(results["decayed"] - results["predicted"])
    apart = apart.sel(case=["local", "global, large start"])
    learned = (results["decayed"] > AT_REST).sum("decay_mode")
    local = learned.sel(case="local")
    more_below = local.isel(layer=0) - local.isel(layer=-1)
    counts = ", ".join(f"{value:g}" for value in local.mean("repetition").values)
    top = learned.isel(layer=-1)
    gained = top.sel(case="local") - top.sel(case="global")
    means = {str(case): float(top.sel(case=case).mean()) for case in top["case"].values}
    return [
        Claim(
            "with weight decay local learning from a small start and backpropagation from a large "
            f"one rest where the theory says, to {AT_REST:g}, in all networks",
            of_cases(apart, most=AT_REST),
            f"differs by at most {float(apart.max()):.1e}",
        ),
        Claim(
            "with weight decay the top layer of local learning never learns modes that layer 1 "
            "learns",
            of_cases(more_below, above=0),
            f"modes learned by each layer, from the first up: {counts}",
        ),
        Claim(
            "with weight decay and from the same small start local learning brings more modes to "
            "the top layer than backpropagation",
            comparisons.above(gained),
            f"{means['local']:g} modes, backpropagation from a large start "
            f"{means['global, large start']:g}, from the same {means['global']:g}; difference "
            f"{float(gained.mean()):+g}",
        ),
    ]


def _optimisers(results: xr.Dataset) -> list[Claim]:
    errors = results["weight_error"]
    equal = errors.sel(gradients="equal")
    proportional = errors.sel(gradients="proportional")
    mended = proportional.sel(optimiser="Adam, epsilon = 0")
    open_to_scale = proportional.sel(optimiser=["SGD", "momentum"])
    return [
        Claim(
            f"equal gradients make equal weights under every optimiser, to {EQUAL:g}",
            of_cases(equal, most=EQUAL),
            f"relative error at most {float(equal.max()):.1e}",
        ),
        Claim(
            f"proportional gradients do so under Adam with epsilon = 0, to {EQUAL:g}",
            of_cases(mended, most=EQUAL),
            f"relative error at most {float(mended.max()):.1e}",
        ),
        Claim(
            "and do not under SGD and momentum",
            of_networks(open_to_scale, "repetition", above=EQUAL),
            "relative errors "
            + ", ".join(f"{float(value):.1e}" for value in open_to_scale.mean("repetition")),
        ),
    ]


def _log_times(results: xr.Dataset) -> xr.DataArray:
    """Of the top layer, from Gaussian weights."""
    times = results["half_time"].sel(start="Gaussian").isel(layer=-1, drop=True)
    return times.copy(data=np.log(times.values))


def _correlations(results: xr.Dataset) -> list[float]:
    return list(json.loads(of_run(results.attrs, "config"))["correlations"])


def _mean(values: xr.DataArray) -> str:
    return f"{float(values.mean()):.2f}"
