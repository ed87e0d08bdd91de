"""From local learning to backpropagation: what a wider window buys in training, and its price."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from paper_figures.claims import Claim, decided, of_cases
from paper_figures.look import comparisons, panels, style

INPUTS = ("trained_windows",)
PAPER = ""

ROUNDING = 1e-5  # of gradients in float32
SMALL = Fraction(1, 3)
TIMES = {"start": "before training", "end": "after training"}
FOLLOWS = ": the window with more alignment reads the class better in the last block"
COSTS = {"bytes": "peak memory of a pass", "multiplications": "multiplications of a pass"}


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Cosines and accuracies against the window, rule by rule; the costs on the right."""
    data = datasets["trained_windows"]
    rules = data["rule"].values
    figure = Figure(figsize=(style.PAGE, 6.4))
    grid = figure.subplots(3, len(rules) + 1, squeeze=False)
    for rule, column in zip(rules, grid.T, strict=False):
        here = data.sel(rule=rule)
        for axes, (time, words) in zip(column, TIMES.items(), strict=False):
            _cosines(axes, here["cosine"].sel(time=time))
            axes.set_title(f"{rule}, {words}")
        _accuracies(column[-1], here, data["untrained_accuracy"])
        column[-1].axhline(float(data["chance"]), color="#999999", linestyle=":", linewidth=0.8)
        column[-1].set_title(f"{rule}, accuracy")
        for axes in column:
            axes.set_xticks(data["window"].values)
            axes.set_xlabel("window w in blocks")
    for row, label in zip(
        grid, ["cosine with backpropagation"] * 2 + ["test accuracy"], strict=True
    ):
        row[0].set_ylabel(label)
    deep, usual = int(data["deep_window"][-1]), int(data["window"][-1])
    for axes, (cost, words) in zip(grid[:, -1], COSTS.items(), strict=False):
        _costs(axes, data, cost, usual, deep)
        axes.set_title(words)
        axes.set_ylabel("over backpropagation")
    handles = [axes.get_legend_handles_labels() for axes in (grid[0, 0], grid[2, 0], grid[0, -1])]
    entries = [pair for found in handles for pair in zip(*found, strict=True)]
    grid[2, -1].axis("off")
    grid[2, -1].legend(*zip(*entries, strict=True), loc="center", fontsize=7)
    panels.headline(figure, _headline(data))
    return panels.finish(figure, data)


def _cosines(axes: Axes, cosines: xr.DataArray) -> None:
    below = cosines.sel(layer=cosines["layer"][:-1])
    for layer, color in zip(below["layer"].values, style.PALETTE, strict=False):
        values = below.sel(layer=layer).transpose("repetition", "window")
        style.band(axes, values, "repetition", color=color, label=f"block {layer}")
    axes.axhline(0, color="#999999", linewidth=0.8)
    axes.set_ylim(-1.05, 1.05)


def _accuracies(axes: Axes, here: xr.Dataset, untrained: xr.DataArray) -> None:
    for values, color, label in (
        (here["accuracy"].isel(layer=-1), style.PALETTE[5], "probe of the last block"),
        (here["joint_accuracy"], style.PALETTE[6], "probe of all blocks"),
    ):
        found = values.transpose("repetition", "window")
        style.band(axes, found, "repetition", color=color, label=label)
    axes.axhline(
        float(untrained.isel(layer=-1).mean()),
        color=style.PALETTE[5],
        linestyle="--",
        linewidth=0.8,
        label="last block, untrained",
    )
    axes.set_ylim(0, None)


def _costs(axes: Axes, data: xr.Dataset, cost: str, usual: int, deep: int) -> None:
    for rule, marker in zip(data["rule"].values, "os", strict=False):
        for name, along, blocks, color in (
            (cost, "window", usual, style.PALETTE[1]),
            (f"deep_{cost}", "deep_window", deep, style.PALETTE[0]),
        ):
            axes.plot(
                data[along] / blocks,
                _relative(data[name].sel(rule=rule), along),
                color=color,
                marker=marker,
                markersize=3,
                label=f"{rule}, {blocks} blocks",
            )
    axes.axhline(1, color="#777777", linewidth=0.8)
    axes.set_xlabel("window over number of blocks")
    axes.set_ylim(0, None)


def _relative(cost: xr.DataArray, along: str) -> xr.DataArray:
    """The cost over that of backpropagation, the largest window."""
    return cost / cost.isel({along: -1})


def _headline(data: xr.Dataset) -> str:
    """Whether accuracy follows alignment, as the claims decide it together."""
    asked = [c for c in decided(claims({"trained_windows": data})) if c.text.endswith(FOLLOWS)]
    told = (
        f"{c.text.removesuffix(FOLLOWS)} {c.here} ({c.measured.partition(' of ')[0]})"
        for c in asked
    )
    return f"The window with more alignment reads the class better:\n{', '.join(told)}"


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """What a window does to cosines and accuracy, and the price."""
    data = datasets["trained_windows"]
    reached = data["layer"] + data["window"] - 1 >= data["layer"].max()
    cosine = data["cosine"].transpose(*reached.dims, ...)
    apart = abs(cosine.values[reached.values] - 1)
    found = [
        Claim(
            f"a block whose window reaches the top has the update of backpropagation: cosine 1 to "
            f"{ROUNDING:g}",
            of_cases(apart, most=ROUNDING),
            f"differs by at most {apart.max():.1e}",
        )
    ]
    for rule in data["rule"].values:
        here = data.sel(rule=rule)
        for time, words in TIMES.items():
            found.append(_nearer(f"{rule}, {words}", here["cosine"].sel(time=time), ~reached))
        found.append(_learns(rule, here["accuracy"].isel(layer=-1)))
        found.append(_follows(rule, here))
    return [*found, *_prices(data), *comparisons.rates_inside(data)]


def _nearer(where: str, cosine: xr.DataArray, below: xr.DataArray) -> Claim:
    """That one block more raises the cosine of every block whose window does not reach the top."""
    steps = {
        f"block {l} from w = {w}": cosine.sel(layer=l, window=w + 1, drop=True)
        - cosine.sel(layer=l, window=w, drop=True)
        for l in cosine["layer"].values.tolist()
        for w in cosine["window"].values.tolist()[:-1]
        if bool(below.sel(layer=l, window=w))
    }
    means = [float(step.mean()) for step in steps.values()]
    return Claim(
        f"{where}: one block more in the window raises the cosine of every block",
        comparisons.above(comparisons.together(steps)),
        f"{len(steps)} steps, {min(means):+.3f} to {max(means):+.3f}",
    )


def _learns(rule: str, accuracy: xr.DataArray) -> Claim:
    """That the last block learns more in every window than by its own loss alone."""
    wider = accuracy["window"].values.tolist()[1:]
    gains = {w: accuracy.sel(window=w) - accuracy.sel(window=1) for w in wider}
    measured = "; ".join(f"w = {w}: {float(gain.mean()):+.3f}" for w, gain in gains.items())
    return Claim(
        f"{rule}: in every wider window the last block reads the class better than in w = 1",
        comparisons.above(comparisons.together({f"w = {w}": gain for w, gain in gains.items()})),
        f"w = 1: {float(accuracy.sel(window=1).mean()):.3f}; {measured}",
    )


def _follows(rule: str, here: xr.Dataset) -> Claim:
    """That accuracy follows alignment where the loss, the data and the start are the same."""
    aligned = here["cosine"].mean("time").isel(layer=slice(-1)).mean("layer")
    slope = comparisons.slope(here["accuracy"].isel(layer=-1), aligned, "window")
    return Claim(
        f"{rule}{FOLLOWS}",
        comparisons.above(slope),
        f"slope {float(slope.mean()):+.3f} of accuracy on the mean cosine below the top",
    )


def _prices(data: xr.Dataset) -> list[Claim]:
    found = []
    for prefix, along in (("", "window"), ("deep_", "deep_window")):
        smaller = data[along][:-1]
        for rule in data["rule"].values:
            memory, work = (
                _relative(data[prefix + cost].sel(rule=rule), along).sel({along: smaller})
                for cost in COSTS
            )
            blocks = int(data[along][-1])
            measured = (
                f"w = {' '.join(map(str, smaller.values))}: {panels.numbers(memory)} of the "
                f"memory of backpropagation, {panels.numbers(work)} of the multiplications"
            )
            for which, kept in (
                (
                    f"windows of up to {SMALL} of the blocks",
                    memory[smaller <= float(SMALL) * blocks],
                ),
                ("all smaller windows", memory),
            ):
                text = f"{rule}, {blocks} blocks: {which} need less memory than backpropagation"
                found.append(Claim(text, of_cases(kept, below=1), measured))
    return found
