"""How many data layer-local self-supervised rules need, against supervised backpropagation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from paper_figures.claims import Claim, Question, both, decided, of_cases, of_networks
from paper_figures.look import comparisons, feedback, needed, panels, style

INPUTS = ("rhm_local_ssl",)
PAPER = "B"

# The error of which the number of data is told, and how many times more are as few.
ERROR, AS_FEW = 0.1, 2.0
NEGLIGIBLE = 0.05
LEARNED = 0.2
SUPERVISED = "supervised backpropagation labels"
TOLD = "supervised backpropagation labels and views"
SIBLINGS, CLASSES = "clustering siblings", "clustering labels"
UNTRAINED = "untrained"
MARKERS = "osD^vP"
# Octaves between points of one size, which would hide each other.
BESIDE = 0.08
SAME_HEAD = "read by the same head"
ALONE = ("siblings", "masked halves")


def draw(datasets: Mapping[str, xr.Dataset]) -> Figure:
    """Accuracy against data by groups of rules, and the data needed by each."""
    data = datasets["rhm_local_ssl"]
    controls = _controls(data)
    grammars = np.flatnonzero(~controls)
    main = data.isel(grammar=grammars[0])
    figure = Figure(figsize=(style.PAGE, 6.4))
    grid = figure.subplots(2, 3)
    local = _rules(data, credit="local", positives="views")
    printed = [rule for rule in local if "printed" in rule]
    _curves(grid[0, 0], main, [r for r in local if r not in printed])
    grid[0, 0].set_title(f"{main['grammar'].values}: local rules")
    taught = _rules(data, loss=_controlled(data))
    shown = [r for r in taught if "fresh" not in r]
    _curves(grid[0, 1], main, [*shown[:4], TOLD], {TOLD: "supervised, told the equalities"})
    grid[0, 1].set_title("what the pairs tell")
    measured = main["test_accuracy"].notnull().any(["multiple", "repetition"])
    windows = [r for r in main["rule"].values[measured.values] if "window" in r]
    losses = {str(main["loss"].sel(rule=rule).values) for rule in windows}
    one = [rule for rule in local if str(main["loss"].sel(rule=rule).values) in losses]
    _curves(grid[0, 2], main, [*one[:1], *windows[:3], *printed][:6])
    grid[0, 2].set_title("longer windows, printed forms")
    alone = [r for positives in ALONE for r in _rules(data, positives=positives, credit="local")]
    _curves(grid[1, 0], main, alone[:4], reference=False)
    for rule, color, marker in ((SIBLINGS, "#777777", "x"), (CLASSES, "#000000", "+")):
        _line(grid[1, 0], main["own_accuracy"].sel(rule=rule), color, marker, rule)
    grid[1, 0].set_title("no side information")
    if len(grammars) > 1:
        deep = data.isel(grammar=grammars[-1])
        there = [r for r in local if deep["test_accuracy"].sel(rule=r).notnull().any()]
        _curves(grid[1, 1], deep, there[:3])
        for rule, color, marker in ((SIBLINGS, "#777777", "x"), (CLASSES, "#000000", "+")):
            _line(grid[1, 1], deep["own_accuracy"].sel(rule=rule), color, marker, rule)
        grid[1, 1].set_title(f"{deep['grammar'].values}")
    else:
        grid[1, 1].set_axis_off()
    for axes in (axes for axes in (*grid[0], *grid[1, :2]) if axes.axison):
        axes.set_ylim(0, 1.05)
        axes.set_xscale("log", base=2)
        axes.axhline(1 - ERROR, color="#bbbbbb", linewidth=0.6, zorder=0)
        ticks = [x for x in (1, 2, 4, 8, 16, 64) if axes.get_xlim()[0] <= x <= axes.get_xlim()[1]]
        axes.set_xticks(ticks, [f"{x}" for x in ticks])
        axes.minorticks_off()
        axes.set_xlabel("data seen / (n m^L)")
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.45, -0.22))
    for axes in grid[:, 0]:
        axes.set_ylabel("test accuracy, linear readout")
    grid[1, 0].set_ylabel("test accuracy\n(siblings: top layer refitted)")
    _ratios(grid[1, 2], main, [*local, TOLD])
    open_cells = float(needed.unfinished(data.sel(rule=trained_rules(data))).mean())
    panels.headline(figure, _headline(data))
    figure.supxlabel(
        f"hollow: trainings that met the cap of steps ({open_cells:.0%} of all);\n"
        "single sizes stand side by side",
        size=7,
        x=0.8,
    )
    return panels.finish(figure, data)


def _headline(data: xr.Dataset) -> str:
    """What the claims decide together: an interval of one rule alone is shorter than theirs."""
    few = [
        f"{subject.partition(' local')[0]} on {grammar}"
        for claim in decided(claims({"rhm_local_ssl": data}))
        for grammar, found, subject in [claim.text.partition(f", {SAME_HEAD}: ")]
        if found and claim.here == "holds"
    ]
    if not few:
        return (
            f"No local rule is shown to need at most {AS_FEW:g} times the data of backpropagation"
        )
    return f"Shown to need at most {AS_FEW:g} times the data of backpropagation: {', '.join(few)}"


def _curves(
    axes: Axes,
    data: xr.Dataset,
    rules: Sequence[str],
    names: Mapping[str, str] | None = None,
    reference: bool = True,
) -> None:
    for place, (rule, color, marker) in enumerate(zip(rules, style.PALETTE, MARKERS, strict=False)):
        read = "hidden_accuracy" if "siblings" in rule else "test_accuracy"
        values = data[read].sel(rule=rule)
        if values.notnull().any("repetition").sum() == 1:
            values = values.assign_coords(multiple=values["multiple"] * 2 ** (BESIDE * (place - 2)))
        label = (names or {}).get(rule, rule)
        _line(axes, values, color, marker, label, data["finished"].sel(rule=rule))
    if reference:
        taught = data["test_accuracy"].sel(rule=SUPERVISED)
        done = data["finished"].sel(rule=SUPERVISED)
        _line(axes, taught, "#000000", "*", "supervised, same readout", done)


def _line(
    axes: Axes,
    values: xr.DataArray,
    color: str,
    marker: str,
    label: str,
    finished: xr.DataArray | None = None,
) -> None:
    mean, half = style.interval(values, "repetition")
    known = mean.notnull().values
    x, y = mean["multiple"].values[known], mean.values[known]
    axes.errorbar(
        x, y, half.values[known], color=color, marker=marker, linewidth=1, elinewidth=0.5,
        label=label.removesuffix(" views").removesuffix(" local").replace(" local", ","),
    )  # fmt: skip
    if finished is not None:
        open_ = (finished.mean("repetition") < 1 - needed.UNFINISHED).values[known]
        # Above the filled ones, which errorbar draws above other lines.
        axes.plot(x[open_], y[open_], marker, color=color, markerfacecolor="white", zorder=3)


def _ratios(axes: Axes, data: xr.Dataset, rules: Sequence[str]) -> None:
    """How many times more data than supervised backpropagation, with one head and charged."""
    for shift, (times, marker, label) in enumerate(
        (
            (times_seen(data, rules), "o", "same readout, data seen"),
            (times_charged(data, rules), "s", "all labels charged"),
        )
    ):
        y = np.arange(len(rules)) + 0.25 * shift
        high = np.minimum(times["high"].values, 64.0)
        for row, low, end, middle in zip(
            y, times["low"].values, high, times["estimate"].values, strict=True
        ):
            if np.isfinite(low):
                axes.plot([max(low, 0.1), end], [row, row], color=style.PALETTE[shift], linewidth=1)
                axes.plot([middle], [row], marker, color=style.PALETTE[shift])
        axes.plot([], [], marker, color=style.PALETTE[shift], label=label)
    names = ["supervised, told" if r == TOLD else r.split(" local")[0] for r in rules]
    axes.set_yticks(range(len(rules)), names, size=7)
    axes.set_xscale("log", base=2)
    axes.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
    axes.axvline(1, color="#bbbbbb", linewidth=0.6, zorder=0)
    axes.invert_yaxis()
    axes.set_xlabel("times the data of supervised\n(a line to the edge: no upper bound)")
    axes.set_title(f"data for an error of {ERROR:g}")
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.3, -0.32))


def times_seen(data: xr.Dataset, rules: Sequence[str]) -> xr.Dataset:
    """How many times the data seen, read by the same head, for the error in question."""
    error = 1 - data["test_accuracy"].sel(rule=[*rules, SUPERVISED])
    return needed.ratio(needed.needed(error, ERROR), {"rule": SUPERVISED}).sel(rule=list(rules))


def times_charged(data: xr.Dataset, rules: Sequence[str]) -> xr.Dataset:
    """The same of all data and labels, against the supervised network's own output.

    A rule pays for the data that it sees, the labels of its head and those of the search;
    supervised backpropagation, which brings its own readout, for its data and those of the search.
    """
    config, unit = json.loads(data.attrs["config"]), _unit(data)
    search = config["num_validation"] / unit if data.sizes["candidate"] > 1 else 0.0
    head = config["num_labelled"] / unit
    mine = 1 - data["test_accuracy"].sel(rule=list(rules))
    own = 1 - data["own_accuracy"].sel(rule=[SUPERVISED])
    parts = [
        needed.needed(error.assign_coords(multiple=error["multiple"] + cost), ERROR)
        for error, cost in ((mine, head + search), (own, search))
    ]
    sizes = xr.concat(parts, "rule")
    return needed.ratio(sizes, {"rule": SUPERVISED}).sel(rule=list(rules))


def claims(datasets: Mapping[str, xr.Dataset]) -> list[Claim]:
    """Data needed against supervised backpropagation; what pairs tell; windows; controls."""
    data = datasets["rhm_local_ssl"]
    control = _controls(data)
    local = _rules(data, credit="local", positives="views")
    found = [
        claim
        for place in np.flatnonzero(~control)
        for claim in _efficiency(data.isel(grammar=place), local)
    ]
    if not control.all():
        main = data.isel(grammar=np.flatnonzero(~control)[0])
        found += [*_learning(main, local), *_told(main), *_windows(main), *_counts(data)]
    if control.any():
        found.append(_silent(data.isel(grammar=control)))
    trained = data.sel(rule=trained_rules(data))
    share = float(needed.unfinished(trained).mean())
    found.append(
        Claim(
            f"at most {needed.UNFINISHED:.0%} of the trainings meet the cap of steps",
            of_cases(share, most=needed.UNFINISHED),
            f"{share:.1%}; steps {float(trained['steps'].quantile(0.5)):.0f} in the middle, "
            f"{float(trained['steps'].max()):.0f} at most",
        )
    )
    return [*found, *comparisons.searches_inside(data)]


def _efficiency(data: xr.Dataset, local: Sequence[str]) -> list[Claim]:
    found = []
    for how, times in (
        (SAME_HEAD, times_seen(data, local)),
        ("labels of the head and the search included", times_charged(data, local)),
    ):
        for rule in local:
            if not data["test_accuracy"].sel(rule=rule).notnull().any():
                continue
            here = times.sel(rule=rule)
            found.append(
                _claim(
                    data,
                    [rule],
                    f"{data['grammar'].values}, {how}: {rule} comes to an error of {ERROR:g} from "
                    f"at most {AS_FEW:g} times the data of supervised backpropagation",
                    needed.question(here, at_most=AS_FEW),
                    f"times {needed.middle(here)}",
                    "as data-efficient (arXiv 2605.18557)",
                    feedback.SETTINGS,
                )
            )
    return found


def _learning(main: xr.Dataset, local: Sequence[str]) -> list[Claim]:
    untrained = _last(main["hidden_accuracy"].sel(rule=UNTRAINED))
    gains = {rule: _last(main["hidden_accuracy"].sel(rule=rule)) - untrained for rule in local}
    found = [
        _claim(
            main,
            local,
            "every layer-local rule learns: at its largest number of data the top layer, refitted, "
            f"is at least {LEARNED:g} more accurate than that of an untrained network",
            _above(comparisons.together(gains), LEARNED),
            ", ".join(f"{rule} {_words(gain)}" for rule, gain in gains.items()),
            "they learn it (arXiv 2605.18557)",
            feedback.SETTINGS,
        )
    ]
    for positives in ALONE:
        for rule in _rules(main, credit="local", positives=positives):
            gain = _last(main["hidden_accuracy"].sel(rule=rule)) - untrained
            found.append(
                _claim(
                    main,
                    [rule],
                    f"{rule} learns without any side information: refitted at least {LEARNED:g} "
                    "above an untrained network at the largest number of data",
                    _above(gain, LEARNED),
                    _words(gain),
                )
            )
    return found


def _told(main: xr.Dataset) -> list[Claim]:
    """What the pairs tell, each against ordinary views of the same loss."""
    found = []
    rules = _rules(main, loss=_controlled(main))
    views, others = rules[0], rules[1:]
    statements = {
        "usable views": ("no worse than all views", -NEGLIGIBLE),
        "noisy views": ("no worse than right views", -NEGLIGIBLE),
        "fresh views": ("no worse than a fixed set", -NEGLIGIBLE),
        "same class": ("no worse than views: labels alone would tell as much", -NEGLIGIBLE),
    }
    for rule in others:
        positives = str(main["positives"].sel(rule=rule).values)
        if positives in statements:
            words, bound = statements[positives]
            gain = _common(main["test_accuracy"], rule, views)
            text = f"{rule}: {words}"
            found.append(_claim(main, [rule, views], text, _above(gain, bound), _words(gain)))
    gain = _common(main["test_accuracy"], TOLD, views)
    found.append(
        _claim(
            main,
            [TOLD, views],
            "supervised backpropagation that is told the same equalities reads no better than "
            f"{views} through the same head",
            _above(-gain, -NEGLIGIBLE),
            f"supervised and told minus local {_words(gain)}",
        )
    )
    return found


def _windows(main: xr.Dataset) -> list[Claim]:
    found = []
    for rule in (r for r in main["rule"].values if "window" in r):
        one = f"{main['loss'].sel(rule=rule).values} local views"
        if not main["test_accuracy"].sel(rule=rule).notnull().any():
            continue
        gain = _common(main["test_accuracy"], one, rule)
        found.append(
            _claim(
                main,
                [one, str(rule)],
                f"{one} reads no worse than {rule}",
                _above(gain, -NEGLIGIBLE),
                f"local minus window {_words(gain)}",
            )
        )
    return found


def _counts(data: xr.Dataset) -> list[Claim]:
    """Clustering of siblings against the depth, in data."""
    deep = data.isel(grammar=np.flatnonzero(~_controls(data)))
    if deep.sizes["grammar"] < 2:
        return []
    error = 1 - deep["own_accuracy"].sel(rule=[SIBLINGS, CLASSES])
    units = xr.DataArray([_unit(deep.isel(grammar=g)) for g in range(deep.sizes["grammar"])],
                         dims="grammar")  # fmt: skip
    sizes = needed.needed(error, ERROR)
    data_needed = {rule: sizes.sel(rule=rule) * units for rule in (SIBLINGS, CLASSES)}
    first, last = (data_needed[SIBLINGS].isel(grammar=place) for place in (0, -1))
    growth = xr.Dataset(
        {"below": last["below"] / first["above"], "above": last["above"] / first["below"]},
        attrs=sizes.attrs,
    )
    factor = float(units[-1] / units[0])
    said = "; ".join(
        f"{rule} {', '.join(needed.words(each.isel(grammar=g)) for g in range(len(units)))} data"
        for rule, each in data_needed.items()
    )
    return [
        Claim(
            "the clustering of siblings needs data that grow less with depth than n m^L, which "
            f"grows {factor:g} times",
            needed.question(growth, at_most=factor),
            said,
            "v m^3 a level, whatever the depth (arXiv 2605.27734)",
        )
    ]


def _silent(data: xr.Dataset) -> Claim:
    hidden = data["hidden_accuracy"]
    rules = [r for positives in ALONE for r in _rules(data, credit="local", positives=positives)]
    without = hidden.sel(rule=UNTRAINED, drop=True).mean("multiple")
    gain = (hidden.sel(rule=rules) - without).mean(["grammar", "multiple"])
    learned = float(data["own_accuracy"].sel(rule=SUPERVISED).mean("repetition").max())
    return _claim(
        data,
        [*rules, SUPERVISED],
        "negative control m = v^(s-1): rules without side information gain less than "
        f"{NEGLIGIBLE:g} over an untrained network, supervised backpropagation learns",
        both(
            of_networks(gain, "repetition", below=NEGLIGIBLE),
            of_cases(learned, above=0.9),
        ),
        "gain "
        + ", ".join(f"{r} {_words(gain.sel(rule=r))}" for r in rules)
        + f"; supervised {learned:.2f}",
        "no signal: the covariance of leaves is 0 (arXiv 2406.00048)",
    )


# -- parts -----------------------------------------------------------------------------------------


def _claim(
    data: xr.Dataset,
    rules: Sequence[str],
    text: str,
    question: Question,
    measured: str,
    published: str | None = None,
    elsewhere: str | None = None,
) -> Claim:
    """A claim on these rules, open where too many of their trainings met the cap of steps."""
    verdict, open_ = needed.decided(data.sel(rule=list(rules)), question)
    return Claim(text, verdict, f"{measured}{open_}", published, elsewhere)


def _rules(data: xr.Dataset, **coordinates: str) -> list[str]:
    chosen = np.logical_and.reduce([data[key].values == word for key, word in coordinates.items()])
    return [str(rule) for rule in data["rule"].values[chosen]]


def _controlled(data: xr.Dataset) -> str:
    """The loss whose pairs are varied; without one, the first loss."""
    chosen = data["loss"].values[data["positives"].values == "same class"]
    return str(chosen[0] if len(chosen) else data["loss"].values[0])


def trained_rules(data: xr.Dataset) -> list[str]:
    """The rules that train a network."""
    kept = (data["positives"].values != "") & (data["loss"].values != "clustering")
    return [str(rule) for rule in data["rule"].values[kept]]


def _unit(data: xr.Dataset) -> float:
    """P* = n m^L of the one grammar, which is named v=.. m=.. L=.."""
    v, m, levels = (int(part[2:]) for part in str(data["grammar"].values).split())
    return float(v * m**levels)


def _last(values: xr.DataArray) -> xr.DataArray:
    """Over repetition, at the largest number of data that was measured."""
    known = values.notnull().any("repetition").values
    return values.isel(multiple=int(np.flatnonzero(known)[-1]), drop=True).drop_vars(
        ["rule", "loss", "credit", "positives"], errors="ignore"
    )


def _common(values: xr.DataArray, first: str, second: str) -> xr.DataArray:
    """First minus second over repetition, the mean over the numbers of data of both."""
    pair = [values.sel(rule=rule, drop=True).reset_coords(drop=True) for rule in (first, second)]
    return (pair[0] - pair[1]).mean("multiple")


def _above(gain: xr.DataArray, bound: float) -> Question:
    return of_networks(gain, "repetition", above=bound)


def _words(gain: xr.DataArray) -> str:
    return f"{float(gain.mean()):+.2f}"


def _controls(data: xr.Dataset) -> NDArray[np.bool_]:
    """Which grammars are negative controls: those in which any leaves are possible."""
    grammars: list[Any] = json.loads(data.attrs["config"])["grammars"]
    return np.array([num_symbols == num_synonyms for num_symbols, num_synonyms, _ in grammars])
