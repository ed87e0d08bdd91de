"""Exactness survives training if the weights stay isometric or the penalty follows their metric."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import Claim, both, of_cases
from paper_figures.look import panels, style

INPUTS = ("exactness_in_training",)
PAPER = ""

LIMIT = 1e-9
VISIBLE = 0.01
LOOKS = {
    "free weights": (style.PALETTE[1], "-"),
    "isometric weights": (style.PALETTE[2], "-"),
    "free weights, metric penalty": (style.PALETTE[0], "--"),
}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Error, deviation from an isometry, movement and loss over the steps of three trainings."""
    results = datasets["exactness_in_training"]
    below = results.sel(layer=results["layer"][:-1])
    above = results.sel(layer=results["layer"][1:])
    figure = Figure(figsize=(style.PAGE, 4.3))
    (errors, deviations), (movements, losses) = figure.subplots(2, 2)
    for training, (color, line) in LOOKS.items():
        for axes, layers, name in (
            (errors, below, "relative_error"),
            (deviations, below, "deviation"),
            (movements, above, "moved"),
        ):
            here = layers.sel(training=training)
            values = here[name].clip(min=panels.FLOOR)
            axes.fill_between(
                here["step"],
                values.min("layer"),
                values.max("layer"),
                color=color,
                alpha=0.2,
                linewidth=0,
            )
            axes.plot(
                here["step"], values.max("layer"), color=color, linestyle=line, label=training
            )
        loss = results["loss"].sel(training=training)
        losses.plot(results["step"], loss, color=color, linestyle=line)
    errors.axhline(LIMIT, color="#777777", linewidth=0.8, linestyle="--")
    errors.set(
        yscale="log", title="local against global update", ylabel="relative error, worst layer"
    )
    deviations.set(yscale="log", title="layers above, from isometry")
    deviations.set_ylabel("$||G_l - I||\\;/\\;\\sqrt{n_l}$")
    movements.set(yscale="log", title="weights of layers 2 and above, from the start")
    movements.set_ylabel("$||W_l - W_l(0)||\\;/\\;||W_l(0)||$")
    losses.set(title="training", ylabel="loss of the top layer", ylim=(0, None))
    for axes in (errors, deviations, movements, losses):
        axes.set_xlabel("step")
    panels.legend_below(figure, errors, columns=3)
    panels.headline(
        figure, "Isometries stay exact, but only layer 1 learns; the metric penalty lets all learn"
    )
    return panels.finish(figure, results)


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Which trainings stay exact, which do not, and that all of them learn."""
    results = datasets["exactness_in_training"]
    steps = int(results["step"][-1])
    decided = []
    for training in ("isometric weights", "free weights, metric penalty"):
        error = results["relative_error"].sel(training=training)
        decided.append(
            Claim(
                f"{training}: relative error at most {LIMIT:g} in every step and layer",
                of_cases(error, most=LIMIT),
                f"worst {float(error.max()):.1e} in {steps} steps",
            )
        )
    free = results.sel(training="free weights", layer=results["layer"][:-1])
    last = free.isel(step=-1)
    decided.append(
        Claim(
            f"free weights: relative error above {VISIBLE} in every layer below the top at the end",
            of_cases(last["relative_error"], above=VISIBLE),
            f"error {panels.numbers(last['relative_error'])}, cosine "
            f"{panels.numbers(last['cosine'], 3)}, deviation {panels.numbers(last['deviation'])} "
            f"in layers {panels.span(last['layer'])} after {steps} steps",
        )
    )
    moved = results["moved"].sel(layer=results["layer"][1:]).isel(step=-1)
    fixed, free_to_move = (
        moved.sel(training=training)
        for training in ("isometric weights", "free weights, metric penalty")
    )
    decided.append(
        Claim(
            f"isometric weights: no weight above layer 1 moves by more than {LIMIT:g} of its norm; "
            f"with the metric penalty each moves by more than {VISIBLE}",
            both(of_cases(fixed, most=LIMIT), of_cases(free_to_move, above=VISIBLE)),
            f"at most {float(fixed.max()):.1e}; at least {float(free_to_move.min()):.3f}",
        )
    )
    loss = results["loss"]
    first, end = loss.isel(step=0), loss.isel(step=-1)
    falls = ", ".join(
        f"{training} {before:.3f} to {after:.3f}"
        for training, before, after in zip(
            loss["training"].values, first.values, end.values, strict=True
        )
    )
    decided.append(
        Claim("the loss falls in all three trainings", of_cases(end - first, below=0), falls)
    )
    return decided
