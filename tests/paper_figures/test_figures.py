"""Every figure draws from small results, the same bytes each time; its claims follow the data."""

import hashlib
import itertools
from typing import get_args

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from typer.testing import CliRunner

from linlocal.analysis import results
from paper_figures import registry
from paper_figures.__main__ import app
from paper_figures.claims import Question, Verdict
from paper_figures.look import style

VERDICTS = {*get_args(Verdict)}


@pytest.fixture
def load(smoke):
    def datasets(name):
        return {each: results.read(smoke(each)) for each in registry.load(name).INPUTS}

    return datasets


@pytest.mark.parametrize("name", registry.NAMES)
def test_a_figure_draws_the_same_bytes_twice_with_nothing_small_or_over_a_panel(
    name, smoke, tmp_path, monkeypatch
):
    folders = {smoke(experiment).parent for experiment in registry.load(name).INPUTS}
    (folder,) = folders

    def digests(out):
        options = ["--preset", "smoke", "--results", str(folder), "--out", str(out)]
        done = CliRunner().invoke(app, [name, *options])
        assert done.exit_code == 0, done.output
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}

    first = digests(tmp_path / "a")
    assert set(first) == {f"{name}.png", f"{name}.svg", "claims.json", "claims.md"}
    figures, places = watched(registry.load(name), monkeypatch)
    # What differs in a figure is in its SVG; the PNG, its digest in claims.json, takes as long.
    monkeypatch.setattr(Figure, "savefig", svg_alone(Figure.savefig))
    second = digests(tmp_path / "b")
    assert [second[k] for k in (f"{name}.svg", "claims.md")] == [
        first[k] for k in (f"{name}.svg", "claims.md")
    ]
    (figure,) = figures
    words = [text for text in figure.findobj(Text) if text.get_text().strip()]
    assert min(text.get_fontsize() for text in words) >= 7  # points, at the printed size
    footers = [places[id(text)] for text in figure.texts if text.get_position()[1] < 0]
    legends = [places[id(legend)] for legend in figure.legends]
    labels = [
        places[id(axes.xaxis.label)] for axes in figure.axes if axes.axison and axes.get_xlabel()
    ]
    shared = figure.get_supxlabel()
    labels += [places[id(text)] for text in figure.texts if shared and text.get_text() == shared]
    assert footers
    assert labels
    levels = [footers, legends, labels]
    for lower, upper in itertools.combinations(levels, 2):
        assert all(one.y1 <= other.y0 + 1 for one in lower for other in upper)


def svg_alone(savefig):
    def saved(figure, file, *, format, **options):
        if format == "svg":
            savefig(figure, file, format=format, **options)

    return saved


def watched(module, monkeypatch):
    """The figures that a module draws from now on, and where their texts and legends then lie."""
    figures, places, draw = [], {}, module.draw

    def kept(datasets):
        figures.append(draw(datasets))
        return figures[-1]

    def recorded(draw):
        def record(artist, renderer):
            # The last drawing counts: only then is the canvas as large as the saved picture.
            places[id(artist)] = artist.get_window_extent(renderer)
            draw(artist, renderer)

        return record

    monkeypatch.setattr(module, "draw", kept)
    for kind in (Legend, Text):
        monkeypatch.setattr(kind, "draw", recorded(kind.draw))
    return figures, places


@pytest.mark.parametrize("name", registry.NAMES)
def test_every_claim_has_numbers_and_a_verdict(name, load):
    module = registry.load(name)
    decided = module.claims(load(name))
    assert decided
    assert {claim.verdict for claim in decided} <= VERDICTS
    # One function decides; sizes of data needed alone have intervals of their own.
    asked = [claim.question for claim in decided if claim.question is not None]
    assert hasattr(module, "needed") or all(isinstance(each, Question) for each in asked)
    assert all(claim.published is None or claim.paper or module.PAPER for claim in decided)
    assert all(claim.measured and "nan" not in claim.measured for claim in decided)
    texts = [claim.text for claim in decided]
    assert len(set(texts)) == len(texts)


def verdicts(name, datasets):
    return [claim.here for claim in registry.load(name).claims(datasets)]


def find(name, datasets, text):
    (claim,) = [c for c in registry.load(name).claims(datasets) if text in c.text]
    return claim


# What the claim is about, spoiled: (figure, words of the claim, variable, selection, factor).
SPOILED = {
    "exactness": ("linear_alignment", "relative error at most", "worst_error", 1e9),
    "prediction": ("narrowing", "||PX||", "predicted_cosine", 1.001),
    "metric penalty": ("remedies", "metric penalty: relative", "relative_error", 1e9),
    "bound": ("spectrum", "cosine at least", "cosine", 1e-9),
    "attained": ("spectrum", "attain", "worst_case_cosine", 1.001),
    "all slices": ("sliced_normality", "all slices, one D", "relative_error", 1e9),
    "own dimension": ("sliced_normality", "own D", "relative_error", 1e-9),
    "the largest window": ("windows", "reaches the top", "cosine", 0.999),
    "a trained window": ("trained_windows", "reaches the top", "cosine", 0.999),
    "learning curves": ("learning_curves", "is the closed form", "closed_form", 1.01),
    "balance": ("learning_curves", "conserves the balance", "imbalance_change", 1e6),
    "isometric training": (
        "exactness_in_training",
        "isometric weights: relative",
        "relative_error",
        1e9,
    ),
}


@pytest.mark.parametrize(
    ("name", "text", "variable", "factor"), SPOILED.values(), ids=SPOILED.keys()
)
def test_a_spoiled_result_loses_its_claim(name, text, variable, factor, load):
    datasets = load(name)
    assert find(name, datasets, text).here == "holds"
    (dataset,) = datasets.values()
    dataset[variable] = dataset[variable] * factor
    assert find(name, datasets, text).here == "fails"


@pytest.mark.parametrize("name", ["local_rules_table", "trained_windows", "blockwise_ssl"])
def test_a_figure_says_whether_its_learning_rates_were_enclosed(name, load):
    datasets = load(name)
    (source,) = datasets
    scores = datasets[source]["search_accuracy"].sum("candidate")
    datasets[source] = datasets[source].drop_dims("candidate").drop_vars("inside", errors="ignore")
    for rates, verdict in (([0.1, 0.9, 0.2], "holds"), ([0.9, 0.2, 0.1], "fails")):
        tried = xr.DataArray(rates, dims="candidate").broadcast_like(scores)
        datasets[source]["search_accuracy"] = tried
        assert find(name, datasets, "inside its grid").here == verdict


def test_the_exponent_of_slices_is_fitted(load):
    datasets = load("sliced_normality")
    deviation = datasets["sliced_normality"]["deviation"]
    rooted = deviation.isel(slices=0) * deviation["slices"] ** -0.5
    for exponent, verdict in ((0.0, "holds"), (-0.2, "fails")):
        deviation[:] = (rooted * deviation["slices"] ** exponent).transpose(*deviation.dims)
        claim = find("sliced_normality", datasets, "slices^(-1/2)")
        assert claim.here == verdict
        assert claim.measured.startswith(f"exponent {-0.5 + exponent:.3f};")


@pytest.mark.parametrize(("rise", "verdict"), [(0.1, "holds"), (-0.1, "fails"), (0.0, "undecided")])
def test_accuracy_follows_the_alignment_of_windows_by_its_slope(rise, verdict, load):
    datasets = load("trained_windows")
    dataset = datasets["trained_windows"]
    for name in ("cosine", "accuracy"):
        dataset[name] = dataset[name].astype(float)
    window = dataset["window"].astype(float)
    dataset["cosine"][:] = (0 * dataset["cosine"] + 0.1 * window).transpose(*dataset["cosine"].dims)
    noise = xr.DataArray(np.linspace(-1, 1, dataset.sizes["repetition"]), dims="repetition")
    accuracy = 0 * dataset["accuracy"] + (rise + 0.001 * noise) * window
    dataset["accuracy"][:] = accuracy.transpose(*dataset["accuracy"].dims)
    claims = registry.load("trained_windows").claims(datasets)
    found = [claim for claim in claims if "more alignment reads the class" in claim.text]
    assert {claim.here for claim in found} == {verdict}
    assert {float(claim.measured.split()[1]) for claim in found} == {10 * rise}
    title = registry.load("trained_windows").draw(datasets).get_suptitle()
    assert f"VICReg {verdict} (slope {10 * rise:+.3f})" in title


def test_a_gain_counts_only_beyond_its_interval(load):
    datasets = load("linear_cnn")
    dataset = datasets["linear_cnn"]
    cosine = dataset["cosine"]
    text = "photographs: direct feedback raises"
    better = {"data": "photographs", "condition": "2D dependence + direct feedback"}
    base = cosine.sel(data="photographs", condition="2D dependence").values
    cosine.loc[better] = base + 0.1
    assert find("linear_cnn", datasets, text).here == "holds"
    cosine.loc[better] = base - 0.1
    lower = find("linear_cnn", datasets, text)
    assert lower.here == "fails"
    assert "outside: layer 1, layer 2, layer 3" in lower.numbers
    cosine.loc[better] = base
    cosine.loc[better][0] += 0.1
    assert find("linear_cnn", datasets, text).here == "undecided"
    assert "undecided" in find("linear_cnn", datasets, text).numbers


@pytest.mark.parametrize(
    ("name", "feedback"),
    [
        ("narrowing", {"feedback": "direct feedback"}),
        ("linear_cnn", {"condition": "2D dependence"}),
    ],
)
def test_networks_decide_and_not_the_batches_of_one(name, feedback, load):
    datasets = load(name)
    cosine = datasets[name]["cosine"]
    (axis,) = feedback
    gains = np.linspace(0.3, -0.1, cosine.sizes["network"])
    # The same in every batch, so that an interval over batches would have no width.
    base = 0.0 * cosine.isel({axis: 0}, drop=True)
    cosine[:] = base
    cosine.loc[feedback] = base + xr.DataArray(gains, dims="network")
    raised = [c for c in registry.load(name).claims(datasets) if " raises the cosine" in c.text]
    assert raised
    assert {claim.here for claim in raised} == {"undecided"}


@pytest.mark.parametrize(
    "name",
    [
        *("alignment_accuracy", "blockwise_robustness", "blockwise_ssl", "feedback_alignment"),
        *("linear_cnn", "local_rules_table", "mismatch_terms", "narrowing", "rhm_feedback"),
        *("rhm_masks", "trained_cnn", "trained_mlp", "training_cost"),
    ],
)
def test_what_was_published_on_other_data_is_never_compared(name, load):
    claims = registry.load(name).claims(load(name))
    # What is stated for all data binds on any.
    bound = [c for c in claims if c.published and not c.published.startswith("stated for")]
    assert bound
    assert {claim.verdict for claim in bound} == {"not comparable"}


def test_a_single_counterexample_decides(load):
    datasets = load("feedback_map")
    dataset = datasets["feedback_map"]
    dataset["holds"][:] = True
    assert verdicts("feedback_map", datasets) == ["holds", "holds"]
    dataset["holds"][0, 0, 0, 0] = False
    assert verdicts("feedback_map", datasets) == ["fails", "holds"]


def test_published_numbers_bind_mnist_only(load):
    datasets = load("linear_alignment")
    text = "digits, default init: the mean cosines"
    assert find("linear_alignment", datasets, text).verdict == "not comparable"
    dataset = datasets["linear_alignment"]
    as_mnist = dataset.assign_coords(data=["photographs", "mnist"])
    claim = find(
        "linear_alignment", {"linear_alignment": as_mnist}, text.replace("digits", "mnist")
    )
    assert claim.verdict in ("reproduced", "contradicted", "undecided")


def test_a_published_row_is_reproduced_only_by_means_that_are_surely_near(load):
    dataset = load("linear_alignment")["linear_alignment"]
    dataset = dataset.assign_coords(data=["photographs", "mnist"])
    text = "mnist, default init: the mean cosines"
    published = registry.load("linear_alignment").PUBLISHED["default init"]
    networks = 1e-4 * np.linspace(-1, 1, dataset.sizes["network"])
    rows = networks[:, None] + np.array(published)
    cosine = dataset["cosine"]
    where = {"data": "mnist", "condition": "default init"}
    cosine.loc[where] = rows
    inside = find("linear_alignment", {"linear_alignment": dataset}, text)
    assert inside.here == "holds"
    cosine.loc[where | {"layer": 2}] = rows[..., 1] + 0.3
    outside = find("linear_alignment", {"linear_alignment": dataset}, text)
    assert outside.here == "fails"
    assert "outside: layer 2" in outside.numbers
    # Networks that vary much prove nothing, however near their mean is.
    cosine.loc[where] = 1e4 * networks[:, None] + np.array(published)
    wide = find("linear_alignment", {"linear_alignment": dataset}, text)
    assert wide.here == "undecided"
    one = dataset.isel(network=[0])
    assert find("linear_alignment", {"linear_alignment": one}, text).here == "undecided"


def test_the_released_fit_is_judged_beside_the_optimum():
    figure = registry.load("released_fit")
    published = np.array(figure.PUBLISHED)
    fits = [figure.OPTIMUM, figure.FITTED, figure.BEFORE, figure.DRAWN]
    conditions = [figure.EXACT, "default init", "ReLU + orthogonal", figure.SMALL]
    levels = np.zeros((4, 4, 1, 6)) + np.array([0.5, 0.5, -0.2, -0.1])[:, None, None]
    levels[3, :2] = np.stack([2 * published, published])[:, None]
    noise = np.linspace(-0.01, 0.01, 5)[:, None]
    data = xr.Dataset(
        {"cosine": (("condition", "fit", "network", "layer"), levels + noise)},
        {"condition": conditions, "fit": fits, "layer": range(1, 7), "data": "mnist"},
    )

    def verdicts(dataset):
        return [claim.verdict for claim in figure.claims({"released_fit": dataset})]

    assert verdicts(data) == ["reproduced", "contradicted", *["holds"] * 5]
    assert verdicts(data.assign_coords(data="digits"))[:2] == ["not comparable"] * 2
    assert set(verdicts(data.isel(network=[0]))) == {"undecided"}
    # The optimum and the released fit change places, and so do the last two.
    swapped = data.assign_coords(fit=[fits[k] for k in (1, 0, 3, 2)])
    assert verdicts(swapped) == ["contradicted", "reproduced", "fails", *["holds"] * 3, "fails"]
    away = data.copy(deep=True)
    away["cosine"].loc[{"condition": "default init", "fit": figure.FITTED, "layer": 2}] += 0.1
    assert verdicts(away)[3:6] == ["holds", "fails", "holds"]


def test_a_window_that_falls_costs_its_claim(load):
    datasets = load("windows")
    dataset = datasets["windows"]
    text = "ReLU, same layer: one layer more"
    cosine = dataset["cosine"]
    where = {"network": "ReLU", "feedback": "same layer", "layer": 1}
    for window, value in ((1, 0.2), (2, 0.5), (3, 1.0)):
        cosine.loc[{**where, "window": window}] = value
    for window, value in ((1, 0.3), (2, 1.0)):
        cosine.loc[{**where, "layer": 2, "window": window}] = value
    assert find("windows", datasets, text).here == "holds"
    assert find("windows", datasets, "ReLU, same layer: a layer in").here == "holds"
    cosine.loc[{**where, "window": 2}] = 0.1
    fallen = find("windows", datasets, text)
    assert fallen.here == "fails"
    assert "outside: layer 1 from w = 1" in fallen.numbers
    assert find("windows", datasets, "ReLU, same layer: a layer in").here == "fails"
    # One network of two that falls decides nothing.
    cosine.loc[{**where, "window": 2, "repetition": 0}] = 0.9
    assert find("windows", datasets, text).here == "undecided"
    kept = "ReLU: smaller windows"
    assert find("windows", datasets, kept).here == "holds"
    dataset["units_kept"][:] = 1
    assert find("windows", datasets, kept).here == "fails"


def test_the_layers_of_fig_2_are_judged_together(load):
    """Between the interval of one layer and that of all, a sign is open."""
    dataset = load("linear_alignment")["linear_alignment"]
    dataset = dataset.assign_coords(data=["photographs", "mnist"])
    noise = xr.DataArray(
        np.linspace(-0.02, 0.02, dataset.sizes["network"]), dims="network"
    ).expand_dims(layer=dataset["layer"])
    layers = dataset.sizes["layer"] - 1

    def between(interval):
        halves = [interval(noise, "network", 1 - 0.05 / n)[1] for n in (1, layers)]
        assert (halves[1] > 1.2 * halves[0]).all()
        return float(sum(halves)[0]) / 2

    cosine = dataset["cosine"]
    datasets = {"linear_alignment": dataset}
    rises = between(style.interval)
    steps = (noise + rises).T.values.cumsum(axis=1)
    cosine.loc[{"data": "mnist", "condition": "ReLU + default"}] = steps
    text = "mnist, ReLU + default: the cosine increases"
    assert find("linear_alignment", datasets, text).here == "undecided"
    cosine.loc[{"data": "mnist", "condition": "ReLU + default"}] = (
        2 * steps - noise.T.values.cumsum(axis=1)
    )
    assert find("linear_alignment", datasets, text).here == "holds"


@pytest.mark.parametrize(("power", "verdict"), [(2.0, "holds"), (2.3, "undecided"), (3.0, "fails")])
def test_the_growth_of_time_is_decided_by_networks_and_not_by_one_timing(power, verdict, load):
    data = load("scaling")["scaling"]
    noise = xr.DataArray([-0.1, -0.05, 0.0, 0.05, 0.1], dims="network")
    widths = xr.DataArray([64.0, 256.0, 1024.0], dims="width", name="width")
    seconds = (widths / 64.0) ** (power + noise)
    seconds[{"width": 0}] *= 7.0  # small networks may take what they like
    others = data.drop_vars(["by_width", "width", "network"]).isel(network=[0, 1, 0, 1, 0])
    data = others.assign(by_width=seconds.assign_coords(width=widths))
    claim = find("scaling", {"scaling": data}, "time grows with width")
    assert claim.verdict == verdict, str(claim)
    assert "5 networks" in claim.decision.units
