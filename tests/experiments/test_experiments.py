"""Every experiment runs from the command, and its results obey the statements that it is about."""

import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import xarray as xr

from experiments.catalogue import (
    exactness_in_training,
    feedback_map,
    linear_alignment,
    linear_cnn,
    narrowing,
    remedies,
    spectrum,
    windows,
)
from experiments.data import augmented_views, patch_batches, sources, standardised
from experiments.runner import Sweep, grid, registry
from linlocal import DeepLinear, Pairs, compare, rules
from linlocal.analysis import results
from linlocal.analysis.results import Provenance

EXACT = 1e-10
MODULES = (
    linear_alignment,
    narrowing,
    linear_cnn,
    remedies,
    spectrum,
    feedback_map,
    exactness_in_training,
    windows,
)


@pytest.mark.parametrize("name", registry.NAMES)
def test_a_smoke_run_leaves_a_result_that_says_where_it_came_from(name, smoke):
    dataset = results.read(smoke(name))
    stored = Provenance.of(dataset)
    experiment = registry.load(name)
    assert (stored.experiment, stored.preset, stored.seed) == (name, "smoke", 0)
    assert set(json.loads(stored.config)) == set(vars(experiment.PRESETS["smoke"]))
    assert stored.code == results.code_version(registry.entry_of(name))
    if "layer" in dataset.dims:
        assert dataset["layer"].values.tolist() == list(range(1, dataset.sizes["layer"] + 1))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_cosines_are_cosines_and_projections_are_optimal(module, smoke):
    dataset = results.read(smoke(module.__name__.removeprefix("experiments.catalogue.")))
    if "cosine" in dataset:
        assert (np.abs(dataset["cosine"]) <= 1 + 1e-12).all()
        assert not (dataset["residual"] > 1e-12).any()
        # In the top layer local and global are one.
        np.testing.assert_array_equal(dataset["relative_error"].isel(layer=-1), 0.0)
    # Nothing undefined but what a fixed projection does not have.
    names = set(dataset.data_vars) - {"residual", "condition_number", "iterations"}
    assert not any(dataset[name].isnull().any() for name in names)


@pytest.mark.parametrize("module", [narrowing, feedback_map], ids=lambda module: module.__name__)
def test_the_seed_decides(module):
    config = module.PRESETS["smoke"]
    first, again, other = (module.run(replace(config, seed=seed)) for seed in (0, 0, 1))
    xr.testing.assert_identical(first, again)
    assert not first.drop_vars("layer", errors="ignore").equals(other)


def test_a_grid_puts_every_value_at_its_place():
    def evaluate(a, b):
        return xr.Dataset({"x": ("n", [10 * a + len(b), 0])}, attrs={"only": "mine"})

    table = grid(Sweep(), evaluate, "table", a=[3, 1, 2], b=["", "yy"])
    assert table["x"].dims == ("a", "b", "n")
    assert table["x"].sel(n=0).values.tolist() == [[30, 32], [10, 12], [20, 22]]
    assert table["x"].sel(a=1, b="yy").values.tolist() == [12, 0]
    assert table.attrs == {}


def test_patches_are_standardised_over_all_pixels_of_all_batches():
    batches = patch_batches("digits", 3, 5, seed=1, folder=None)
    assert [len(pairs.samples) for pairs in batches] == [20] * 3
    pixels = np.concatenate([pairs.samples for pairs in batches])
    assert abs(pixels.mean()) < 1e-12
    assert abs(pixels.std() - 1) < 1e-12
    # One number each for all pixels: single pixels keep their own mean and spread.
    assert pixels.mean(axis=0).std() > 0.1


def test_mnist_is_measured_only_where_it_lies(tmp_path):
    assert sources(None) == ("photographs", "digits")
    assert sources(tmp_path) == ("photographs", "digits", "mnist")


# -- linear_alignment ----------------------------------------------------------------------------


def test_only_all_assumptions_together_are_exact(smoke):
    below = results.read(smoke("linear_alignment")).isel(layer=slice(-1))
    error, exact = below["relative_error"], below["worst_error"].sel(condition="all assumptions")
    assert float(exact.max()) <= EXACT
    assert (below["worst_error"] >= error).all()
    for condition in linear_alignment.CONDITIONS[1:]:
        assert float(error.sel(condition=condition).min()) > 0.1


def test_means_and_extremes_of_fig_2_are_those_of_the_batches(smoke):
    kept = results.read(smoke("linear_alignment"))
    config = linear_alignment.PRESETS["smoke"]
    where = {"data": "digits", "condition": "default init", "network": 1}
    batches = patch_batches(
        "digits", config.batches, config.images_per_batch, config.seed, None, "stacked"
    )
    network = DeepLinear.uniform([196] + [config.width] * config.depth, config.seed + 1)
    rule = rules.CLAPP("softplus", config.margin, config.penalty)
    each = xr.concat([compare(network, pairs, rule) for pairs in batches], "batch")
    assert (each["cosine"].std("batch").isel(layer=slice(-1)) > 1e-4).all()
    for name, expected in (
        ("cosine", each["cosine"].mean("batch")),
        ("cosine_deviation", each["cosine"].std("batch", ddof=1)),
        ("relative_error", each["relative_error"].mean("batch")),
        ("worst_error", each["relative_error"].max("batch")),
        ("condition_number", each["condition_number"].max("batch")),
    ):
        np.testing.assert_allclose(kept[name].sel(where), expected, rtol=1e-9, atol=1e-9)


# -- narrowing -----------------------------------------------------------------------------------


def test_linear_feedback_through_narrowing_layers_is_a_projection(smoke):
    dataset = results.read(smoke("narrowing"))
    fed = dataset.sel(score="linear", feedback="direct feedback")
    cosine = fed["cosine"]
    np.testing.assert_allclose(cosine, dataset["predicted_cosine"], rtol=0, atol=EXACT)
    # global = P X and local = X: the angle gives norms and error too.
    np.testing.assert_allclose(fed["norm_ratio"], 1 / cosine, rtol=1e-9)
    np.testing.assert_allclose(
        fed["relative_error"], np.sqrt(np.maximum(cosine**-2 - 1, 0)), rtol=1e-6, atol=1e-7
    )


def test_the_prediction_fails_without_feedback_and_without_linear_f(smoke):
    dataset = results.read(smoke("narrowing"))
    for score, feedback in (("linear", "same layer"), ("softplus", "direct feedback")):
        cosine = dataset["cosine"].sel(score=score, feedback=feedback)
        assert float(np.abs(cosine - dataset["predicted_cosine"]).max()) > 1e-3


# -- sliced_normality ----------------------------------------------------------------------------


def test_all_slices_of_one_dimension_are_exact_and_nothing_else_is(smoke):
    dataset = results.read(smoke("sliced_normality")).isel(layer=slice(-1))
    error = dataset["relative_error"]
    assert float(error.sel(case=["square", "widening, one D"]).max()) <= EXACT
    assert float(error.sel(case=["widening, own D", "square, VICReg"]).min()) > 1e-3
    # Ten times the slices leave about a third.
    fewer = dataset["deviation"].mean("network")
    assert (fewer.isel(slices=slice(1, None)) < 0.6 * fewer.isel(slices=slice(-1)).values).all()


# -- windows -------------------------------------------------------------------------------------


def test_a_window_that_reaches_the_top_is_backpropagation(smoke):
    dataset = results.read(smoke("windows"))
    teacher = dataset["layer"] + dataset["window"] - 1
    error = dataset["relative_error"]
    reached = teacher >= dataset.sizes["layer"]
    assert float(error.where(reached).max()) <= EXACT
    assert float(error.where(~reached).min()) > 0.01


@pytest.mark.parametrize("widths", [(7, 3, 5, 2, 4), (6, 6, 6, 6)])
def test_the_cost_of_a_window_is_that_of_a_walk_through_the_network(widths):
    """What is alive and what is multiplied, counted step by step."""
    depth = len(widths) - 1
    for window in range(1, depth + 1):
        alive, most, work = {0}, 0, 0
        for e in range(1, depth + 1):
            alive.add(e)
            most = max(most, sum(widths[l] for l in alive)) if e >= window else most
            pupils = [l for l in range(1, depth + 1) if min(l + window - 1, depth) == e]
            for l in range(e, min(pupils, default=e), -1):
                work += widths[l] * widths[l - 1]
            alive -= {l - 1 for l in pupils}
        assert windows.units_kept(widths, window) == most
        assert windows.error_products(widths, window) == work
    assert windows.units_kept(widths, depth) == sum(widths)
    assert windows.error_products(widths, 1) == 0


# -- linear_cnn ----------------------------------------------------------------------------------


def test_kernels_are_semi_orthogonal_and_maps_halve():
    network = linear_cnn.orthogonal_cnn(channels=8, depth=4, side=16, seed=0)
    assert [network.map_shape(l) for l in network.layers] == [
        (8, 8, 8),
        (8, 4, 4),
        (8, 2, 2),
        (8, 1, 1),
    ]
    for convolution in network.weights:
        flat = convolution.kernel.reshape(8, -1)
        gram = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
        np.testing.assert_allclose(gram, np.eye(len(gram)), atol=1e-12)
    other = linear_cnn.orthogonal_cnn(channels=8, depth=4, side=16, seed=1)
    assert not np.allclose(other.matrix(1), network.matrix(1))


def test_pooling_is_what_tells_the_first_two_rules_apart(smoke):
    cosine = results.read(smoke("linear_cnn"))["cosine"].isel(layer=slice(-1))
    none, place, feedback = (cosine.sel(condition=name) for name in linear_cnn.CONDITIONS)
    assert float(np.abs(none - place).min()) > 1e-6
    assert float(np.abs(feedback - place).max()) > 1e-6


@pytest.mark.parametrize("name", ["linear_alignment", "linear_cnn", "narrowing"])
def test_every_network_has_weights_of_its_own(name, smoke):
    networks = results.read(smoke(name))["cosine"].isel(layer=0).transpose("network", ...)
    below = networks.values.reshape(len(networks), -1)
    unequal = np.abs(below - below[0]).max(axis=1)
    assert len(below) > 1
    assert (unequal[1:] > 1e-6).all()


RNG = np.random.default_rng


def test_views_are_crops_of_their_image():
    images = RNG(0).uniform(1, 2, (40, 28, 28)) + 10 * np.arange(40)[:, None, None]
    first, second = augmented_views(images, 16, RNG(1))
    assert first.shape == second.shape == (40, 16, 16)
    assert not np.array_equal(first, second)
    erased = 0
    for view in (first, second):
        for image, seen in zip(images, view, strict=True):
            kept = seen[seen != 0]
            assert image.min() - 1e-9 <= kept.min() <= kept.max() <= image.max() + 1e-9
            erased += kept.size < seen.size
            assert kept.size >= 0.6 * seen.size
    # In half of them; five standard deviations around 40 of 80.
    assert 17 < erased < 63


def test_views_depend_on_the_generator_only():
    images = RNG(0).standard_normal((4, 28, 28))
    first, again, other = (augmented_views(images, 16, RNG(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_crop_keeps_straight_edges_straight():
    ramp = np.broadcast_to(np.arange(1.0, 29.0), (20, 28, 28))
    (views, _) = augmented_views(ramp, 16, RNG(3))
    whole = [view for view in views if (view != 0).all()]
    assert len(whole) > 3
    for view in whole:
        # Bilinear resizing of a ramp is a ramp, the same in every row.
        np.testing.assert_allclose(np.diff(view, 2, axis=1), 0, atol=1e-12)
        np.testing.assert_allclose(np.diff(view, axis=0), 0, atol=1e-12)
        # From 15 % of the area at a ratio of 3/4 up to the whole image.
        assert 8 <= view[0, -1] - view[0, 0] <= 27


# -- remedies ------------------------------------------------------------------------------------


def test_remedies_restore_exactness_where_the_theory_says(smoke):
    error = results.read(smoke("remedies"))["relative_error"].isel(layer=slice(-1))
    for remedy in ("metric penalty", "matched projection"):
        assert float(error.sel(remedy=remedy).max()) <= EXACT
    for remedy in ("nearest isometries", "conformal, rescaled penalty"):
        here = error.sel(remedy=remedy)
        for profile in ("constant", "widening"):
            assert float(here.sel(profile=profile).max()) <= EXACT
        assert float(here.sel(profile="narrowing").min()) > 0.1
        assert float(here.sel(profile="bottleneck", layer=[3, 4, 5]).max()) <= EXACT
        assert float(here.sel(profile="bottleneck", layer=[1, 2]).min()) > 0.1
    for remedy in ("none", "conformal, equal penalty"):
        assert float(error.sel(remedy=remedy).max("layer").min()) > 0.1


def test_conformal_weights_have_the_scale_that_the_penalties_undo():
    widths, scale = [5, 6, 6, 8], 1.5
    same = rules.CLAPP("softplus", penalty=0.01)
    rescaled = remedies.REMEDIES["conformal, rescaled penalty"]
    for rule, power in ((same, 2), (rules.CLAPP_DFB("softplus", penalty=0.01), 1)):
        network, treated = remedies.treat(rescaled, widths, rule, scale, 0)
        for l in network.layers:
            factor = scale ** (2 * (3 - l))
            np.testing.assert_allclose(network.gram(l), factor * np.eye(widths[l]), atol=1e-12)
            assert treated.penalty.at(l, 3) == pytest.approx(0.01 / factor**power)


# -- spectrum ------------------------------------------------------------------------------------


def test_the_bound_holds_and_is_attained(smoke):
    dataset = results.read(smoke("spectrum"))
    k = dataset["downstream_condition"]
    bound = 2 * k / (1 + k**2)
    cosine = dataset["cosine"].sel(rule="linear f, direct feedback")
    assert float((cosine / bound).min()) >= 1 - 1e-12
    worst = dataset["worst_case_cosine"] / bound.sel(layer=1)
    np.testing.assert_allclose(worst, 1, rtol=1e-6)
    wanted = xr.ones_like(worst) * dataset["condition"]
    np.testing.assert_allclose(k.sel(layer=1), wanted, rtol=1e-6)
    np.testing.assert_allclose(k.isel(layer=-1), 1, rtol=1e-12)


def test_the_constructed_case_is_worst_only_with_its_weights():
    network = DeepLinear.with_condition_number([20, 6, 6, 6], 50.0, seed=0)
    pairs = Pairs.from_views(RNG(0).standard_normal((5, 20)), RNG(1).standard_normal((5, 20)))
    built = spectrum.worst_case(network, pairs)
    rule = rules.CLAPP_DFB("linear")
    cosine = float(compare(network, built, rule)["cosine"][0])
    assert cosine == pytest.approx(2 * 50 / (1 + 50**2), rel=1e-9)
    tilted = Pairs(built.samples + 0.1 * pairs.samples, built.directions)
    assert float(compare(network, tilted, rule)["cosine"][0]) > 1.01 * cosine


# -- feedback_map --------------------------------------------------------------------------------


@pytest.mark.parametrize("score", feedback_map.SCORES)
def test_the_stored_example_can_be_computed_again(smoke, score):
    dataset = results.read(smoke("feedback_map"))
    weights = [dataset[f"{score}_W_{l}"].values for l in (1, 2)]
    x, x_view = dataset[f"{score}_x"].values, dataset[f"{score}_x_view"].values
    place = {
        name: int(dataset[f"example_{name}"].sel(score=score))
        for name in ("top", "pair_count", "trial")
    }
    assert weights[1].shape[0] == place["top"]
    assert len(x) == place["pair_count"]
    np.testing.assert_allclose(weights[1] @ weights[1].T, np.eye(place["top"]), atol=1e-12)
    stored = dataset.sel(score=score, **place)
    network, pairs = DeepLinear(weights), Pairs.from_views(x, x_view)
    for name, make in (("local", rules.CLAPP), ("feedback", rules.CLAPP_DFB)):
        again = compare(network, pairs, make(score, 1.0, 0.01))["relative_error"][0]
        assert float(again) == pytest.approx(float(stored[f"{name}_distance"]), rel=1e-9)
    # It is the worst: nowhere is the feedback's excess larger.
    excess = (dataset["feedback_distance"] - dataset["local_distance"]).sel(score=score)
    assert float(stored["feedback_distance"] - stored["local_distance"]) == float(excess.max())


def test_whether_it_holds_is_the_order_of_the_distances(smoke):
    dataset = results.read(smoke("feedback_map"))
    order = dataset["feedback_distance"] <= dataset["local_distance"]
    assert (dataset["holds"].astype(bool) == order).all()


def test_the_linear_distances_are_those_of_the_closed_form():
    config = feedback_map.PRESETS["smoke"]
    network, x, x_view = feedback_map.draw(config, top=3, pair_count=5, trial=2)
    w_1, w_2 = network.matrix(1), network.matrix(2)
    updates = {name: np.zeros_like(w_1) for name in ("local", "feedback", "global")}
    for anchor, reference in ((x, x_view), (x_view, x)):
        # mean over positive minus mean over negative pairs; the negative anchor is the next.
        difference = (anchor - np.roll(anchor, -1, axis=0)) / len(x)
        for name, context, left in (
            ("local", reference @ w_1.T, np.eye(8)),
            ("feedback", reference @ w_1.T @ w_2.T, np.eye(8)),
            ("global", reference @ w_1.T @ w_2.T, w_2.T @ w_2),
        ):
            updates[name] += left @ w_1 @ difference.T @ context @ context.T @ difference
    expected = [
        np.linalg.norm(updates[name] - updates["global"]) / np.linalg.norm(updates["global"])
        for name in ("local", "feedback")
    ]
    measured = feedback_map.distances(network, x, x_view, "linear", 1.0, 0.01)
    np.testing.assert_allclose(measured, expected, rtol=1e-10)


# -- exactness_in_training -----------------------------------------------------------------------


def test_isometric_weights_above_the_first_layer_do_not_move(smoke):
    # The loss of a layer, minimised over B, does not change under rotations of the layer, so its
    # gradient has no part along them; the retraction removes the rest.
    moved = results.read(smoke("exactness_in_training"))["moved"].isel(step=-1)
    above = moved.isel(layer=slice(1, None))
    assert float(above.sel(training="isometric weights").max()) <= 1e-10
    assert float(moved.sel(training="isometric weights", layer=1)) > 1e-3
    assert float(above.sel(training="free weights, metric penalty").min()) > 1e-4


def test_who_keeps_the_metric_stays_exact(smoke):
    dataset = results.read(smoke("exactness_in_training"))
    error = dataset["relative_error"].isel(layer=slice(-1))
    assert float(error.isel(step=0).max()) <= EXACT
    for training in ("isometric weights", "free weights, metric penalty"):
        assert float(error.sel(training=training).max()) <= 1e-9
    assert float(error.sel(training="free weights").isel(step=-1).min()) > 1e-3
    deviation = dataset["deviation"]
    assert float(deviation.sel(training="isometric weights").max()) < 1e-12
    assert float(deviation.sel(training="free weights, metric penalty").max()) > 1e-3
    assert (dataset["loss"].diff("step") < 0).all()


def test_the_recorded_loss_is_the_minimum_over_projections():
    network = DeepLinear.gaussian([7, 5, 3], seed=0)
    x, x_view = RNG(0).standard_normal((6, 7)), RNG(1).standard_normal((6, 7))
    recorded = exactness_in_training.top_loss(
        network, Pairs.from_views(x, x_view), rules.CLAPP("softplus", margin=1.0, penalty=0.1)
    )
    v = network.matrix(2) @ network.matrix(1)
    expected = 0.0
    for z, c in ((x @ v.T, x_view @ v.T), (x_view @ v.T, x @ v.T)):

        def loss(b, z=z, c=c):
            positive = np.einsum("ki,ij,kj->k", z, b.reshape(3, 3), c)
            negative = np.einsum("ki,ij,kj->k", np.roll(z, -1, axis=0), b.reshape(3, 3), c)
            terms = np.log1p(np.exp(1 - positive)) + np.log1p(np.exp(1 + negative))
            return np.mean(terms) + 0.05 * np.sum(b**2)

        expected += scipy.optimize.minimize(loss, np.zeros(9)).fun
    assert recorded == pytest.approx(expected, rel=1e-6)


def test_standardised_images_have_mean_zero_and_variance_one():
    images = standardised(RNG(0).uniform(0, 1, (3, 4, 4)))
    assert abs(images.mean()) < 1e-14
    assert abs(images.var() - 1) < 1e-14
