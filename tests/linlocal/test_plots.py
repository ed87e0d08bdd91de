"""Plots show the numbers of the Datasets that they are given, and refuse others in words."""

import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy.stats import ttest_1samp

import linlocal as ll
from linlocal import plots, rules, testing

X, VIEW = testing.samples(9, 5, 0)
PAIRS = ll.Pairs.from_views(X, VIEW)
NETS = [ll.DeepLinear.gaussian([5, 5, 4, 4], seed=s) for s in range(3)]
RULES = [rules.CLAPP("softplus"), rules.CLAPP_DFB("softplus")]
COMPARED = ll.compare(NETS[0], PAIRS, RULES[0])
SWEPT = ll.sweep(NETS, [PAIRS], RULES)
TREES = ll.rhm.RandomHierarchyModel(
    num_classes=3, num_symbols=4, num_synonyms=2, num_levels=3
).sample(5, seed=0)
STEPS, LAYERS = [0, 1, 10], [1, 2, 3, 4]
RECORDED = xr.Dataset(
    {"cosine": (("step", "layer"), np.linspace(-1, 1, 12).reshape(3, 4))},
    {"step": STEPS, "layer": LAYERS},
)
PROBED = xr.Dataset({"accuracy": ("block", [0.4, 0.6, 0.7])}, {"block": ["1", "2", "all"]})
MEASURED = xr.Dataset(
    {
        name: ("layer", np.linspace(k, 1.0, 4))
        for k, name in enumerate(["slopes", "feedback", "masks", "error_relative_error"])
    },
    {"layer": LAYERS},
)


@pytest.fixture
def axes():
    return Figure().subplots()


def drawn(axes, label):
    (line,) = (line for line in axes.lines if line.get_label() == label)
    return line.get_ydata()


def test_cosines_of_one_comparison_are_its_numbers(axes):
    assert plots.cosines(COMPARED, axes=axes) is axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), COMPARED["cosine"])
    assert not axes.collections


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_an_interval_is_that_of_the_t_test(level):
    values = np.random.default_rng(0).standard_normal((6, 3)) + 2
    mean, half = plots.interval(xr.DataArray(values, dims=("network", "layer")), "network", level)
    wanted = ttest_1samp(values, 0).confidence_interval(level)
    np.testing.assert_allclose(mean - half, wanted.low, rtol=1e-12)
    np.testing.assert_allclose(mean + half, wanted.high, rtol=1e-12)


def test_cosines_of_a_sweep_are_means_over_networks_with_their_interval(axes):
    plots.cosines(SWEPT, axes=axes)
    for number, rule in enumerate(RULES):
        here = SWEPT["cosine"].sel(rule=rule.name).isel(batch=0, drop=True)
        mean, half = plots.interval(here, "network")
        np.testing.assert_allclose(drawn(axes, rule.name), mean)
        edges = axes.collections[number].get_paths()[0].vertices[:, 1]
        assert edges.min() == pytest.approx(float((mean - half).min()))
        assert edges.max() == pytest.approx(float((mean + half).max()))


def test_several_datasets_are_named_as_in_the_mapping(axes):
    plots.cosines({"one": COMPARED, "two": COMPARED}, axes=axes)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["one", "two"]


def test_of_a_recording_the_last_step_counts(axes):
    plots.cosines(RECORDED, axes=axes)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), RECORDED["cosine"][-1])


@pytest.mark.parametrize(
    ("data", "terms", "whole"),
    [
        (COMPARED, ["dual", "context", "metric"], "relative_error"),
        (MEASURED, ["slopes", "feedback", "masks"], "error_relative_error"),
    ],
    ids=["theory", "network"],
)
def test_mismatch_terms_and_the_whole(axes, data, terms, whole):
    plots.mismatch(data, axes=axes)
    for term in terms:
        name = term if term in data else f"{term}_mismatch"
        np.testing.assert_array_equal(drawn(axes, term), data[name])
    np.testing.assert_array_equal(drawn(axes, "whole difference"), data[whole])


def test_training_as_lines_and_as_a_map():
    (lines,) = plots.training(RECORDED, axes=Figure().subplots())
    for layer in LAYERS:
        np.testing.assert_array_equal(drawn(lines, str(layer)), RECORDED["cosine"].sel(layer=layer))
    (picture,) = plots.training(RECORDED, kind="map", axes=Figure().subplots())
    np.testing.assert_array_equal(picture.images[0].get_array(), RECORDED["cosine"].T)
    assert picture.images[0].get_clim() == (-1.0, 1.0)


def test_training_has_a_panel_for_each_rule():
    both = xr.concat([RECORDED, -RECORDED], "rule").assign_coords(rule=["a", "b"])
    panels = plots.training(both, axes=Figure().subplots(1, 2).tolist())
    assert [panel.get_title() for panel in panels] == ["a", "b"]
    np.testing.assert_array_equal(drawn(panels[1], "2"), -RECORDED["cosine"].sel(layer=2))
    with pytest.raises(ValueError, match="2 rules to draw, but 1 axes"):
        plots.training(both, axes=Figure().subplots())


def test_knowledge_of_blocks_by_name(axes):
    plots.knowledge(PROBED, chance=0.25, axes=axes)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), PROBED["accuracy"])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "2", "all"]
    assert set(drawn(axes, "guessing")) == {0.25}


def test_knowledge_of_a_monitor_is_that_of_its_last_look(axes):
    seen = RECORDED.rename(cosine="probe_accuracy")
    plots.knowledge(seen, axes=axes)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), seen["probe_accuracy"][-1])


def test_an_explanation_tells_each_condition_of_each_layer(axes):
    found = ll.explain(NETS[0], PAIRS, RULES[0])
    plots.explanation(found, axes=axes)
    rows = [text.get_text() for text in axes.get_yticklabels()]
    words = {(t.get_position()): t.get_text() for t in axes.texts}
    for entry in found.layers:
        assert words[entry.layer - 1, 0] == f"{entry.cosine:.4f}"
        for condition in entry.conditions:
            cell = words[entry.layer - 1, rows.index(condition.name)]
            assert cell == ("holds" if condition.holds else f"{condition.distance:.1g}")
    assert len(words) == sum(1 + len(entry.conditions) for entry in found.layers)


def test_a_tree_shows_every_symbol_below_its_parent(axes):
    plots.tree(TREES, 2, axes=axes)
    for level, symbols in enumerate(TREES.symbols):
        here = sorted(
            (t.get_position()[0], t.get_text()) for t in axes.texts if t.get_position()[1] == level
        )
        assert [text for _, text in here] == [str(s) for s in symbols[2]]
    edges = {tuple(line.get_ydata()) for line in axes.lines}
    assert edges == {(l, l + 1) for l in range(3)}
    assert len(axes.lines) == sum(len(symbols[2]) for symbols in TREES.symbols[:-1])


def test_a_new_figure_is_made_where_no_axes_are_given():
    from matplotlib import pyplot

    mpl.use("Agg")
    before = pyplot.get_fignums()
    made = plots.cosines(COMPARED)
    assert isinstance(made, Axes)
    assert len(pyplot.get_fignums()) == len(before) + 1
    pyplot.close(made.figure)


@pytest.mark.parametrize("background", ["default", "dark_background"])
def test_nothing_is_drawn_in_the_colour_of_the_page(background):
    with mpl.style.context(background):
        figure = Figure()
        grid = figure.subplots(2, 2)
        plots.cosines(SWEPT, axes=grid[0, 0])
        plots.mismatch(COMPARED, axes=grid[0, 1])
        plots.training(RECORDED, axes=grid[1, 0])
        plots.tree(TREES, axes=grid[1, 1])
        page = np.array(to_rgb(mpl.rcParams["figure.facecolor"]))
        for axes in grid.flat:
            for line in axes.lines:
                assert np.abs(np.array(to_rgb(line.get_color())) - page).max() > 0.3


REFUSED = {
    "no cosine": (lambda: plots.cosines(PROBED), "needs 'cosine'.*returned by linlocal.compare"),
    "no layer": (
        lambda: plots.cosines(RECORDED.mean("layer")),
        "needs the dimension 'layer'.*returned by linlocal.compare",
    ),
    "no Dataset": (lambda: plots.cosines([1.0]), "data must be an xarray Dataset"),
    "nothing": (lambda: plots.cosines({}), "nothing to draw"),
    "another dimension": (
        lambda: plots.cosines(COMPARED.expand_dims(penalty=[1.0, 2.0])),
        r"vary along penalty.*data.sel\(penalty=",
    ),
    "no such repetition": (lambda: plots.cosines(SWEPT, over="draw"), "over must be a dimension"),
    "no axes": (lambda: plots.cosines(COMPARED, axes="left"), "axes must be a matplotlib Axes"),
    "no terms": (lambda: plots.mismatch(RECORDED), "'dual_mismatch'.*align.*terms=True"),
    "terms of several rules": (lambda: plots.mismatch(SWEPT), "several rules"),
    "no steps": (lambda: plots.training(COMPARED), "dimension 'step'.*AlignmentRecorder.dataset"),
    "no such kind": (lambda: plots.training(RECORDED, kind="heat"), 'kind must be "lines" or'),
    "no accuracy": (lambda: plots.knowledge(COMPARED), "'accuracy'.*probe_blocks"),
    "no share": (lambda: plots.knowledge(PROBED, chance=2.0), "chance"),
    "no explanation": (lambda: plots.explanation(COMPARED), "what linlocal.explain returns"),
    "no trees": (lambda: plots.tree(TREES.leaves), "Trees"),
    "no such datum": (lambda: plots.tree(TREES, 5), "below the number of data, 5, got 5"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_is_refused_in_words(name):
    call, words = REFUSED[name]
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_plots_of_theory_load_no_torch():
    code = (
        "import sys, linlocal as ll\n"
        "assert not {'matplotlib', 'torch'} & sys.modules.keys()\n"
        "ll.plots.cosines, ll.plots.tree\n"
        "assert 'torch' not in sys.modules and 'matplotlib' in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
