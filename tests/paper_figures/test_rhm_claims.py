"""The claims on the Random Hierarchy Model follow the numbers: other numbers, other verdicts."""

import json

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from linlocal.analysis import results
from paper_figures.claims import decide
from paper_figures.figures import (
    rhm_covariances,
    rhm_diffusion,
    rhm_feedback,
    rhm_feedback_variants,
    rhm_images,
    rhm_local_ssl,
    rhm_masks,
    rhm_representations,
    rhm_sample_complexity,
)
from paper_figures.look import feedback as feedback_look, learners, needed

HOLDS, FAILS, OPEN = "holds", "fails", "undecided"


@pytest.fixture
def stored(smoke):
    """A fresh copy of the smoke result of an experiment."""
    return lambda name: results.read(smoke(name))


def verdict(module, dataset, words):
    """The verdict of the one claim with these words."""
    (name,) = module.INPUTS
    (claim,) = (claim for claim in module.claims({name: dataset}) if words in claim.text)
    return claim.here


def assigned(dataset, variable, numbers, default, dim="rule"):
    """``variable`` set to a number for each label of a dimension."""
    values = xr.DataArray(
        [float(numbers.get(str(label), default)) for label in dataset[dim].values],
        {dim: dataset[dim].values},
    )
    full = xr.full_like(dataset[variable].astype(float), 0.0) + values
    return dataset.assign({variable: full.transpose(*dataset[variable].dims)})


# -- the data that rules need ----------------------------------------------------------------------

GRID = [1.0, 2.0, 4.0, 8.0, 16.0]
NEVER = float("nan")


def learned_from(needs, dims, repetitions=4):
    """Accuracies 1 from the given multiples on and .25 below, in every repetition."""
    values = np.where(np.asarray(needs, float)[..., None] <= np.array(GRID), 1.0, 0.25)
    return ((*dims, "multiple", "repetition"), np.repeat(values[..., None], repetitions, -1))


def feedback(default=NEVER, settings=1, **rules):
    """Rules that learn from so many multiples of P*; underscores are blanks."""
    numbers = {name.replace("_", " "): value for name, value in rules.items()}
    names = [name.replace("  ", ", ") for name in numbers]
    needs = [[value] * settings for value in numbers.values()]
    data = xr.Dataset(
        {"test_accuracy": learned_from(needs, ("rule", "setting"))},
        {
            "rule": names,
            "setting": range(settings),
            "multiple": GRID,
            **{key: ("setting", [4] * settings) for key in ("num_symbols", "num_synonyms")},
            "num_levels": ("setting", [3] * settings),
        },
        {"config": json.dumps({"error": 0.1})},
    )
    return searched(data)


def searched(data):
    """The same after five steps each, finished, with rates inside their grids."""
    every = xr.ones_like(data["test_accuracy"])
    return data.assign(finished=every, steps=5 * every, inside=every.isel(repetition=0, drop=True))


def unfinished(data, share):
    """The same with this share of the trainings at the cap."""
    count = data.sizes["repetition"]
    done = xr.DataArray(np.arange(count) >= share * count, dims="repetition")
    return data.assign(finished=data["finished"] * done)


RATES = "best learning rate lies inside"
DFA_FAILS = "direct feedback alignment fails"
DFA_MORE = "direct feedback alignment needs more"


def test_direct_feedback_fails_only_where_no_size_is_enough():
    fails = feedback(backpropagation=2, direct_feedback_alignment=NEVER)
    assert verdict(rhm_feedback, fails, DFA_FAILS) == HOLDS
    assert verdict(rhm_feedback, fails, DFA_MORE) == HOLDS
    worse = feedback(backpropagation=2, direct_feedback_alignment=8)
    assert verdict(rhm_feedback, worse, DFA_FAILS) == FAILS
    assert verdict(rhm_feedback, worse, DFA_MORE) == HOLDS
    better = feedback(backpropagation=8, direct_feedback_alignment=2)
    assert verdict(rhm_feedback, better, DFA_MORE) == FAILS
    # Next to each other on the grid: the crossing may be anywhere between.
    near = feedback(backpropagation=2, direct_feedback_alignment=4)
    assert verdict(rhm_feedback, near, DFA_MORE) == OPEN


@pytest.mark.parametrize(
    ("direct", "share", "expected"),
    [
        (NEVER, 0.0, "alignment fails where backpropagation learns: accuracy 0.25"),
        (8, 0.0, "alignment does not fail where backpropagation learns: accuracy 1.00"),
        (8, 0.25, "Undecided: direct feedback alignment fails: accuracy 1.00"),
    ],
)
def test_the_headline_on_direct_feedback_says_what_the_claim_decides(direct, share, expected):
    data = unfinished(feedback(backpropagation=2, direct_feedback_alignment=direct), share)
    assert expected in rhm_feedback.headline(data)


def test_the_headline_leaves_out_grammars_that_backpropagation_does_not_learn():
    data = feedback(backpropagation=2, direct_feedback_alignment=8, settings=2)
    data["test_accuracy"].loc[{"setting": 1}] = 0.25
    assert rhm_feedback.headline(data).endswith("accuracy 1.00")


def test_the_headline_on_variants_gives_each_interval():
    data = feedback(backpropagation=2, direct_feedback_alignment=8, settings=3)
    data = data.assign_coords(variant=("setting", ["reference", "SGD", "unshared weights"]))
    data["test_accuracy"].loc[{"rule": "direct feedback alignment", "setting": 1}] = 0.25
    data["test_accuracy"].loc[{"setting": 2}] = 0.25
    times = feedback_look.ratios(data).sel(rule="direct feedback alignment", setting=0)
    low, high = float(times["low"]), float(times["high"])
    head = rhm_feedback_variants.headline(data)
    assert f"reference 4.0 ({low:.1f} to {high:.1f}), SGD above " in head
    assert head.endswith("unshared weights unknown")


@pytest.mark.parametrize(("share", "hollow"), [(0.0, False), (0.25, True)])
@pytest.mark.parametrize("direct", [8, NEVER])
def test_what_has_unfinished_trainings_is_hollow(direct, share, hollow):
    data = unfinished(feedback(backpropagation=2, direct_feedback_alignment=direct), share)
    (axes,) = feedback_look.panels_of_ratios(Figure(), data)
    (mark,) = (line for line in axes.lines if line.get_marker() in ("o", "X"))
    assert (mark.get_markerfacecolor() == "white") is hollow


def test_unfinished_trainings_leave_a_claim_open():
    data = feedback(backpropagation=2, direct_feedback_alignment=8)
    assert verdict(rhm_feedback, unfinished(data, 0.25), DFA_FAILS) == OPEN
    assert verdict(rhm_feedback, unfinished(data, 0.25), DFA_MORE) == OPEN
    assert verdict(rhm_feedback, unfinished(data, 0.0), DFA_MORE) == HOLDS


@pytest.mark.parametrize(("inside", "expected"), [(1.0, HOLDS), (0.0, FAILS)])
@pytest.mark.parametrize(
    "figure",
    [rhm_feedback, rhm_feedback_variants, rhm_sample_complexity, rhm_local_ssl, rhm_images],
)
def test_learning_rates_count_as_searched_if_they_lie_inside(stored, figure, inside, expected):
    rules = feedback(backpropagation=2, direct_feedback_alignment=8)
    data = {
        rhm_feedback: rules,
        rhm_feedback_variants: rules.assign_coords(variant=("setting", ["reference"])),
        rhm_sample_complexity: complexity([2, 4, 16], [NEVER] * 3),
        rhm_local_ssl: ssl(stored, local=2.0, other=2.0),
        rhm_images: blocks(stored),
    }[figure]
    told = xr.full_like(data["inside"], inside)
    assert verdict(figure, data.assign(inside=told), RATES) == expected
    unsearched = data.assign(inside=np.nan * data["inside"])
    assert not [c for c in figure.claims({figure.INPUTS[0]: unsearched}) if RATES in c.text]


def test_masks_and_matrices_are_compared_by_the_data_they_cost():
    data = feedback(
        backpropagation=1,
        backpropagation__masks_removed=2,
        feedback_alignment=8,
        direct_feedback__true_masks=4,
        direct_feedback_alignment=16,
    )
    assert verdict(rhm_feedback, data, "random matrices on the way down") == HOLDS
    assert verdict(rhm_feedback, data, "giving direct feedback the true masks") == HOLDS
    swapped = feedback(
        backpropagation=1,
        backpropagation__masks_removed=8,
        feedback_alignment=2,
        direct_feedback__true_masks=16,
        direct_feedback_alignment=4,
    )
    assert verdict(rhm_feedback, swapped, "random matrices on the way down") == FAILS
    assert verdict(rhm_feedback, swapped, "giving direct feedback the true masks") == FAILS


def test_a_variant_counts_if_it_decides_whether_a_rule_learns():
    data = feedback(backpropagation=2, direct_feedback_alignment=8, settings=2)
    data = data.assign_coords(variant=("setting", ["reference", "SGD"]))
    same = "whether a rule learns at all"
    assert verdict(rhm_feedback_variants, data, same) == HOLDS
    assert verdict(rhm_feedback_variants, data, "SGD: direct feedback") == HOLDS
    data["test_accuracy"].loc[{"rule": "direct feedback alignment", "setting": 1}] = 0.25
    assert verdict(rhm_feedback_variants, data, same) == FAILS
    assert verdict(rhm_feedback_variants, data, "SGD: direct feedback") == FAILS


def test_of_a_paper_whose_abstract_alone_is_known_nothing_is_reproduced(stored):
    local = {"rhm_local_ssl": ssl(stored, local=2.0, other=2.0)}
    for module, datasets in (
        (rhm_feedback, {"rhm_feedback": feedback(backpropagation=2, direct_feedback_alignment=8)}),
        (rhm_masks, {"rhm_masks": stored("rhm_masks")}),
        (rhm_local_ssl, local),
    ):
        said = [c for c in module.claims(datasets) if "2605.18557" in (c.published or "")]
        assert said
        assert {claim.verdict for claim in said} == {"not comparable"}


def test_where_backpropagation_learned_nothing_the_question_stays_open():
    data = feedback(backpropagation=NEVER, direct_feedback_alignment=NEVER)
    claims = rhm_feedback.claims({"rhm_feedback": data})
    assert [claim.here for claim in claims] == [OPEN]


def test_the_interval_of_a_size_holds_grammars_and_the_grid():
    error = 1 - feedback(backpropagation=4)["test_accuracy"]
    same = needed.needed(error, 0.1).squeeze()
    # All grammars agree: what is left is the step of the grid.
    assert (float(same["low"]), float(same["high"])) == (2.0, 4.0)
    assert 2.0 < float(same["estimate"]) <= 4.0
    error[{"repetition": 0}] = 1 - feedback(backpropagation=16)["test_accuracy"].isel(repetition=0)
    wider = needed.needed(error, 0.1).squeeze()
    assert (float(wider["low"]), float(wider["high"])) == (2.0, 16.0)
    first, none = (
        needed.needed(1 - feedback(backpropagation=value)["test_accuracy"], 0.1).squeeze()
        for value in (1, NEVER)
    )
    assert (float(first["low"]), float(first["high"])) == (0.0, 1.0)
    assert float(none["low"]) == 16.0
    assert np.isinf(none["high"])
    assert np.isnan(none["estimate"])


def test_a_size_between_is_interpolated_and_unmeasured_ones_are_left_out():
    error = 1 - feedback(backpropagation=8)["test_accuracy"]
    error.loc[{"multiple": 4.0}] = np.nan
    error.loc[{"multiple": 2.0}], error.loc[{"multiple": 8.0}] = 0.2, 0.0
    found = needed.needed(error, 0.1).squeeze()
    assert float(found["estimate"]) == pytest.approx(4.0)
    assert (float(found["low"]), float(found["high"])) == (2.0, 8.0)


def test_claims_on_data_are_decided_wrongly_as_rarely_as_they_say():
    """Grammars learn from sizes of their own; the interval holds what most grammars would need."""
    rng = np.random.default_rng(0)
    sizes = 2.0 ** np.arange(-1, 4.5, 0.5)

    def named(values):
        return xr.DataArray(values, {"multiple": sizes}, ("rule", "multiple", "repetition"))

    def errors(cells, grammars):
        start = rng.normal(1.5, 0.6, (cells, 1, grammars))
        return named(1 / (1 + np.exp(4 * (np.log2(sizes)[:, None] - start))))

    many = errors(1, 100_000).mean("repetition", keepdims=True)
    truth = float(needed.needed(many, 0.1)["estimate"].squeeze())
    found = needed.needed(errors(200, 8), 0.1)
    above, below = (
        np.mean([each.holds is True for each in one_by_one(found, **limit)])
        for limit in ({"more_than": truth}, {"at_most": truth})
    )
    assert above < 0.025 + 0.03
    assert below < 0.025 + 0.03
    wrong = [each.holds for each in one_by_one(found, more_than=truth / 3)]
    assert np.mean([holds is True for holds in wrong]) > 0.9


def one_by_one(sizes, **limits):
    """The decision on each rule alone."""
    return [
        decide([needed.question(sizes.isel(rule=[place]), **limits)])[0]
        for place in range(sizes.sizes["rule"])
    ]


def test_the_error_of_a_size_is_that_of_its_grammars():
    error = 1 - feedback(backpropagation=4)["test_accuracy"]
    same = needed.question(needed.needed(error, 0.1))
    assert same.error == 0
    assert 2.0**same.low == pytest.approx(2.0)
    assert 2.0**same.high == pytest.approx(4.0)
    error[{"repetition": 0}] = 1 - feedback(backpropagation=8)["test_accuracy"].isel(repetition=0)
    found = needed.needed(error, 0.1)
    spread = np.log2(found["below"]).squeeze().values.std()
    assert needed.question(found).error == pytest.approx(spread * np.sqrt(4 / 3))
    assert needed.question(found).freedom == 3
    assert spread > 0.1
    alone = needed.needed(error.isel(repetition=[0]), 0.1)
    assert decide([needed.question(alone, 0.1)])[0].holds is None
    # Where some draw of grammars learns from no size, there is no upper bound.
    error[{"repetition": 0}] = 1.0
    unbounded = needed.question(needed.needed(error, 0.1), more_than=100.0)
    assert unbounded.high == np.inf
    assert decide([unbounded])[0].holds is None


MASKS_EXPLAIN = "missing masks explain it"


@pytest.mark.parametrize(("masks", "expected"), [(0.6, HOLDS), (0.1, FAILS)])
def test_masks_explain_it_if_they_contribute_half(stored, masks, expected):
    data = stored("rhm_masks")
    noise = xr.DataArray(0.001 * np.arange(data.sizes["repetition"]), dims="repetition")
    for name, value in (("masks", masks), ("feedback", 0.3), ("slopes", 0.0)):
        data[f"{name}_shapley"] = 0 * data["masks_shapley"] + value + noise
    data["finished"] = xr.ones_like(data["finished"])
    assert verdict(rhm_masks, data, MASKS_EXPLAIN) == expected
    aligned = "with least-squares matrices"
    assert verdict(rhm_masks, data, aligned) == (HOLDS if masks > 0.3 else FAILS)
    assert verdict(rhm_masks, data, "slopes differ for no rule") == HOLDS
    assert verdict(rhm_masks, data.assign(slopes=data["slopes"] + 1), "slopes differ") == FAILS
    data["finished"] = 0 * data["finished"]
    assert verdict(rhm_masks, data, MASKS_EXPLAIN) == OPEN


@pytest.mark.parametrize(("gain", "expected"), [(0.1, HOLDS), (-0.1, FAILS), (0.0, OPEN)])
def test_what_is_given_to_direct_feedback_helps_if_it_is_more_accurate(stored, gain, expected):
    data = stored("rhm_masks")
    data["finished"] = xr.ones_like(data["finished"])
    noise = xr.DataArray(0.001 * np.arange(data.sizes["repetition"]), dims="repetition")
    accuracy = 0 * data["test_accuracy"] + 0.5
    accuracy.loc[{"rule": "direct feedback, true masks"}] += gain
    accuracy.loc[{"rule": "direct feedback alignment"}] += noise - noise.mean()
    data["test_accuracy"] = accuracy
    assert verdict(rhm_masks, data, "given the true masks, direct feedback") == expected
    assert verdict(rhm_masks, data, "given aligned matrices, direct feedback") == OPEN


# -- local learning --------------------------------------------------------------------------------

EFFICIENT = "same head: CLAPP local views comes to"
CHARGED = "included: CLAPP local views comes to"
LEARNS = "every layer-local rule learns"
SIZES = (1.0, 1.4, 2.0, 2.8, 4.0)
REPETITIONS = 3


def ssl(stored, grammar=(4, 2, 3), finished=1.0, spread=0.0, **learned_at):
    """Rules of the smoke result, each perfect from some size on and .3 below it.

    Names are those of rules with underscores for blanks, or "local" and "other" for the rest.
    """
    data = stored("rhm_local_ssl").isel(repetition=0, multiple=0)
    config = json.loads(data.attrs["config"]) | {"grammars": [list(grammar)]}
    sizes = xr.DataArray(list(SIZES), {"multiple": list(SIZES)}, dims="multiple")
    tilt = spread * xr.DataArray(np.linspace(-1, 1, REPETITIONS), dims="repetition")
    parts = []
    for rule in data["rule"].values:
        credit = str(data["credit"].sel(rule=rule).values)
        start = learned_at.get(rule.replace(" ", "_"), learned_at["local" if credit else "other"])
        parts.append(xr.where(sizes >= start, 1.0, 0.3) + tilt)
    accuracy = xr.concat(parts, "rule").expand_dims("grammar")
    names = {"test_accuracy", "hidden_accuracy", "own_accuracy"}
    data = data.drop_vars([*names, "finished", "steps"]).drop_vars("multiple")
    fresh = dict.fromkeys(names, accuracy)
    fresh |= {"finished": 0 * accuracy + finished, "steps": 0 * accuracy + 5}
    return data.assign(fresh).assign_attrs(config=json.dumps(config))


def test_a_rule_is_as_efficient_if_it_needs_few_times_the_data(stored):
    level = ssl(stored, local=2.0, other=2.0, untrained=9.0)
    assert verdict(rhm_local_ssl, level, EFFICIENT) == HOLDS
    behind = ssl(stored, local=2.0, other=2.0, CLAPP_local_views=9.0)
    assert verdict(rhm_local_ssl, behind, EFFICIENT) == OPEN  # above 4, between 1 and 2 times
    far = ssl(stored, local=1.4, other=1.4, CLAPP_local_views=9.0)
    assert verdict(rhm_local_ssl, far, EFFICIENT) == FAILS
    assert verdict(rhm_local_ssl, far, "same head: VICReg local views") == HOLDS
    unfinished = ssl(stored, local=2.0, other=2.0, finished=0.9)
    assert verdict(rhm_local_ssl, unfinished, EFFICIENT) == OPEN
    assert verdict(rhm_local_ssl, unfinished, "meet the cap") == FAILS
    assert verdict(rhm_local_ssl, level, "meet the cap") == HOLDS


def test_the_headline_names_what_the_claims_of_the_figure_decide(stored):
    def headline(data):
        return rhm_local_ssl.draw({"rhm_local_ssl": data}).get_suptitle()

    behind = ssl(stored, local=2.0, other=2.0, CLAPP_local_views=9.0)
    assert "VICReg on v=" in headline(behind)
    assert "CLAPP" not in headline(behind)
    far = ssl(stored, local=9.0, other=1.4)
    assert headline(far).startswith("No local rule is shown")


def test_a_rule_is_charged_for_the_labels_of_its_head(stored):
    """64 labels are 2 P* here."""
    level = ssl(stored, local=1.4, other=1.4)
    assert verdict(rhm_local_ssl, level, EFFICIENT) == HOLDS
    assert verdict(rhm_local_ssl, level, CHARGED) == FAILS
    (claim,) = (c for c in rhm_local_ssl.claims({"rhm_local_ssl": level}) if CHARGED in c.text)
    # The error falls from .7 to 0 between two sizes, so to .1 after 6/7 of the step in logarithms.
    charged, seen = (start * (end / start) ** (6 / 7) for start, end in ((3.0, 3.4), (1.0, 1.4)))
    assert claim.measured.startswith(f"times {charged / seen:.1f}")
    free = level.assign_attrs(
        config=json.dumps(json.loads(level.attrs["config"]) | {"num_labelled": 0})
    )
    assert verdict(rhm_local_ssl, free, CHARGED) == HOLDS


def test_rules_that_stay_at_an_untrained_network_learned_nothing(stored):
    assert verdict(rhm_local_ssl, ssl(stored, local=9.0, other=1.0, untrained=9.0), LEARNS) == FAILS
    learned = ssl(stored, local=2.0, other=1.0, untrained=9.0, InfoNCE_local_siblings=9.0)
    assert verdict(rhm_local_ssl, learned, LEARNS) == HOLDS
    assert verdict(rhm_local_ssl, learned, "InfoNCE local siblings learns") == FAILS
    assert verdict(rhm_local_ssl, learned, "InfoNCE local masked halves learns") == HOLDS


PAIRS = ("usable views", "noisy views", "fresh views", "same class")


@pytest.mark.parametrize("positives", PAIRS)
def test_pairs_are_judged_against_ordinary_views(stored, positives):
    worse = {f"CLAPP local {positives}".replace(" ", "_"): 9.0}
    assert verdict(rhm_local_ssl, ssl(stored, local=2.0, other=2.0), positives + ":") == HOLDS
    assert verdict(rhm_local_ssl, ssl(stored, local=2.0, other=2.0, **worse), positives) == FAILS


@pytest.mark.parametrize(
    ("rule", "open_"),
    [
        ("CLAPP local noisy views", ("noisy views:",)),
        ("VICReg window 2 views", ("no worse than VICReg window 2",)),
        ("supervised backpropagation labels and views", ("told the same equalities",)),
        ("CLAPP local views", (*(f"{p}:" for p in PAIRS), "told the same equalities", LEARNS)),
    ],
)
def test_what_rests_on_unfinished_trainings_is_open_and_nothing_else(stored, rule, open_):
    data = ssl(stored, local=2.0, other=2.0)
    others = (
        *(f"{p}:" for p in PAIRS),
        "told the same equalities",
        "no worse than VICReg window 2",
    )
    assert {verdict(rhm_local_ssl, data, words) for words in others} == {HOLDS}
    data["finished"].loc[{"rule": rule}] = 0.0
    for words in open_:
        assert verdict(rhm_local_ssl, data, words) == OPEN
    for words in set(others) - set(open_):
        assert verdict(rhm_local_ssl, data, words) == HOLDS


def test_windows_and_told_equalities_are_judged_against_local_views(stored):
    level = ssl(stored, local=2.0, other=2.0)
    for words in ("no worse than VICReg window 2", "told the same equalities"):
        assert verdict(rhm_local_ssl, level, words) == HOLDS
    better = ssl(stored, local=4.0, other=1.0, VICReg_window_2_views=1.0)
    for words in ("no worse than VICReg window 2", "told the same equalities"):
        assert verdict(rhm_local_ssl, better, words) == FAILS


def test_clustering_is_judged_by_how_its_data_grow_with_depth(stored):
    def deep(siblings):
        parts = [
            ssl(stored, (4, 2, levels), local=2.0, other=2.0, clustering_siblings=at)
            for levels, at in zip((3, 6), siblings, strict=True)
        ]
        names = ["v=4 m=2 L=3", "v=4 m=2 L=6"]
        grammars = [[4, 2, 3], [4, 2, 6]]
        data = xr.concat(parts, "grammar", combine_attrs="override")
        config = json.loads(data.attrs["config"]) | {"grammars": grammars}
        return data.assign_coords(grammar=names).assign_attrs(config=json.dumps(config))

    assert verdict(rhm_local_ssl, deep((4.0, 1.4)), "grow less with depth") == HOLDS
    assert verdict(rhm_local_ssl, deep((1.4, 4.0)), "grow less with depth") == FAILS
    assert verdict(rhm_local_ssl, deep((2.0, 2.0)), "grow less with depth") == OPEN


@pytest.mark.parametrize(
    ("gain", "supervised", "expected"),
    [(False, 1.0, HOLDS), (True, 1.0, FAILS), (False, 9.0, FAILS)],
)
def test_the_control_is_silent_only_if_labels_teach_it_and_siblings_do_not(
    stored, gain, supervised, expected
):
    data = ssl(stored, (4, 4, 2), local=1.0 if gain else 9.0, other=supervised, untrained=9.0)
    assert verdict(rhm_local_ssl, data, "negative control") == expected


def test_without_side_information_unfinished_trainings_leave_claims_open(stored):
    grammars = {"negative control": (4, 4, 2), "learns without any side information": (4, 2, 3)}
    for words, grammar in grammars.items():
        control = words == "negative control"
        at = 9.0 if control else 2.0
        data = ssl(stored, grammar, local=at, other=1.0, untrained=9.0)
        rule = data["rule"].values[data["positives"].values == "siblings"][0]
        asked = words if control else f"{rule} {words}"
        assert verdict(rhm_local_ssl, data, asked) == HOLDS
        data["finished"].loc[{"rule": rule}] = 0.0
        assert verdict(rhm_local_ssl, data, asked) == OPEN


# -- images ----------------------------------------------------------------------------------------


def blocks(stored, finished=1.0, **numbers):
    """Accuracies of the blocks by rule, with a small spread over repetitions."""
    data = stored("rhm_images")
    named = {name.replace("_", " "): value for name, value in numbers.items()}
    for rule in data["rule"].values:
        word = str(rule).removeprefix("cross-entropy ").removesuffix(" local")
        data["accuracy"].loc[{"rule": rule}] = np.array(named.get(word, (0.2, 0.3)))
    data["accuracy"] += xr.DataArray([-1e-4, 1e-4], dims="repetition")
    data["finished"][...] = finished
    return data


def test_images_need_all_blocks_if_the_last_is_read_much_better(stored):
    deep = blocks(stored, backpropagation=(0.3, 0.9), VICReg=(0.3, 0.9), direct_feedback=(0.5, 0.4))
    assert verdict(rhm_images, deep, "needs all blocks") == HOLDS
    assert verdict(rhm_images, deep, "VICReg local: the last block") == HOLDS
    assert verdict(rhm_images, deep, "VICReg local: every block") == HOLDS
    assert verdict(rhm_images, deep, "direct feedback: the last block") == FAILS
    assert verdict(rhm_images, deep, "direct feedback: every block") == FAILS
    flat = blocks(stored, backpropagation=(0.8, 0.9))
    assert verdict(rhm_images, flat, "needs all blocks") == FAILS
    unfinished = blocks(stored, 0.0, backpropagation=(0.3, 0.9))
    assert {c.here for c in rhm_images.claims({"rhm_images": unfinished})} == {OPEN}


# -- representations -------------------------------------------------------------------------------

INVARIANT = "backpropagation: the top layer becomes insensitive"


@pytest.mark.parametrize(("value", "expected"), [(0.1, HOLDS), (0.9, FAILS)])
def test_a_layer_is_invariant_below_one_half(stored, value, expected):
    data = stored("rhm_representations")
    data["sensitivity"][...] = 0.9
    data["sensitivity"].loc[{"rule": "backpropagation"}] = value
    assert verdict(rhm_representations, data, INVARIANT) == expected
    assert verdict(rhm_representations, data, "local VICReg: the top layer") == FAILS


@pytest.mark.parametrize(
    ("few", "many", "expected"), [(0.9, 0.1, HOLDS), (0.1, 0.3, FAILS), (0.95, 0.8, FAILS)]
)
def test_invariance_has_to_come_with_the_data(stored, few, many, expected):
    one = stored("rhm_representations")
    data = xr.concat([one, one], "multiple").assign_coords(multiple=[1.0, 8.0])
    data["sensitivity"].loc[{"multiple": 1.0}] = few
    data["sensitivity"].loc[{"multiple": 8.0}] = many
    assert verdict(rhm_representations, data, INVARIANT) == expected


@pytest.mark.parametrize(("value", "expected"), [(0.9, HOLDS), (0.5, FAILS)])
def test_a_layer_reads_its_level_only_if_it_gained_by_training(stored, value, expected):
    data = stored("rhm_representations")
    data["decodability"][...] = 0.5
    data["decodability"].loc[{"rule": "local VICReg"}] = value
    assert verdict(rhm_representations, data, "local VICReg: layer l reads") == expected
    assert verdict(rhm_representations, data, "local InfoNCE: layer l reads") == FAILS


# -- sample complexity -----------------------------------------------------------------------------


def complexity(deep, shallow, power=1.0):
    """Grammars that the networks learn from so many multiples of P*, NaN for never.

    P* grows with the multiples that deep networks need so that their data grow with this power.
    """
    count = len(deep)
    stars = 32.0 * 4.0 ** np.arange(count)
    if power != 1:
        stars = np.array(deep, float) ** (1 / (power - 1))
    data = xr.Dataset(
        {"test_accuracy": learned_from([deep, shallow], ("architecture", "grammar"))},
        {
            "architecture": ["convolutional", "shallow"],
            "grammar": [f"grammar {k}" for k in range(count)],
            "multiple": GRID,
            "num_symbols": ("grammar", [4] * count),
            "P_star": ("grammar", stars),
            "P_max": ("grammar", [1e6] * count),
        },
        {"config": json.dumps({"error": 0.1})},
    )
    return searched(data)


LEARNED, COLLAPSE = "learns every grammar", "n m^L times a constant"
POWER = "to a power within 0.2 of 1"


def test_the_curves_collapse_if_the_same_multiple_is_enough():
    same = complexity([2] * 8, [NEVER] * 8)
    assert verdict(rhm_sample_complexity, same, LEARNED) == HOLDS
    assert verdict(rhm_sample_complexity, same, COLLAPSE) == HOLDS
    assert verdict(rhm_sample_complexity, same, POWER) == HOLDS
    assert verdict(rhm_sample_complexity, unfinished(same, 0.25), LEARNED) == OPEN
    growing = complexity([2, 4, 16], [NEVER] * 3)
    assert verdict(rhm_sample_complexity, growing, LEARNED) == HOLDS
    # 1 to 2 against 8 to 16: at least a factor 4, at most 16.
    assert verdict(rhm_sample_complexity, growing, COLLAPSE) == OPEN
    unlearned = complexity([2, 2, NEVER], [NEVER] * 3)
    assert verdict(rhm_sample_complexity, unlearned, LEARNED) == FAILS


@pytest.mark.parametrize(
    ("deep", "shallow", "expected"),
    [
        (4, [16, 16, 16], HOLDS),
        (4, [NEVER] * 3, HOLDS),
        (8, [NEVER, NEVER, 2], FAILS),
        (8, [2, 2, 2], FAILS),
        (4, [16, 16, 4], OPEN),
        # 2 to 4 against 4 to 8: the ratio may be anything above 1, and the grid decides nothing.
        (4, [8, 8, 8], OPEN),
    ],
)
def test_shallow_networks_need_more_only_if_they_do_on_every_grammar(deep, shallow, expected):
    data = complexity([deep] * 3, shallow)
    assert verdict(rhm_sample_complexity, data, "one hidden layer needs more") == expected


def test_the_power_differs_from_one_if_the_multiple_grows_steadily():
    squares = complexity([2, 4, 8, 16] * 2, [NEVER] * 8, power=2)
    assert verdict(rhm_sample_complexity, squares, POWER) == FAILS
    few = complexity([2, 2, 2], [NEVER] * 3)
    assert verdict(rhm_sample_complexity, few, POWER) == OPEN


# -- covariances -----------------------------------------------------------------------------------

OURS, SAMPLES = "our closed forms", "estimates deviate"


def test_covariances_agree_while_deviation_and_ratios_are_near_one(stored):
    data = stored("rhm_covariances")
    data["deviation"][...] = 1.0
    # Powers of one number: root mean squares of equal entries are exact.
    data["exact"][...] = data["expected"] + xr.zeros_like(data["exact"])
    assert verdict(rhm_covariances, data, SAMPLES) == HOLDS
    assert verdict(rhm_covariances, data, OURS) == HOLDS
    off = data.assign(deviation=3 * data["deviation"], exact=2 * data["exact"])
    assert verdict(rhm_covariances, off, SAMPLES) == FAILS
    assert verdict(rhm_covariances, off, OURS) == FAILS


@pytest.mark.parametrize(("leaf", "expected"), [(0.0, HOLDS), (1e-3, FAILS)])
def test_leaves_are_silent_only_at_zero(stored, leaf, expected):
    data = stored("rhm_covariances")
    zero = data["expected"] == 0
    if not bool(zero.any()):
        leaves = data["kind"] != "class, leaf"
        data["expected"] = data["expected"].where(~leaves, 0.0)
        zero = data["expected"] == 0
    data["exact"] = data["exact"].where(~zero, leaf)
    assert verdict(rhm_covariances, data, "leaves are uncorrelated") == expected


def test_results_of_older_code_get_the_coordinates_that_rules_have_now(stored):
    data = stored("rhm_representations")
    older = data.drop_vars(["credit", "positives", "loss"])
    found = learners.with_coordinates(older)
    for key in ("credit", "positives"):
        assert found[key].values.tolist() == data[key].values.tolist()
    assert learners.with_coordinates(data) is data


def test_claims_of_diffusion_follow_the_data(stored):
    """Swapped depths hurt where they should help; levels that are all alike need the same steps."""
    data, words = stored("rhm_diffusion"), "below the critical noise depth helps"
    grammars = xr.DataArray(1e-5 * np.arange(data.sizes["repetition"]), dims="repetition")
    theory = (data["mean_field"] + 0 * data["belief"]) * (1 - grammars)
    data["belief"] = theory.transpose(*data["belief"].dims)
    assert verdict(rhm_diffusion, data, "the mean field is within") == HOLDS
    assert verdict(rhm_diffusion, data, words) == HOLDS
    data["belief"] = (data["belief"].dims, data["belief"].values[::-1])
    assert verdict(rhm_diffusion, data, words) == FAILS
    assert verdict(rhm_diffusion, data, "the mean field is within") == FAILS
    falling = 0 * data["valid"] + 1 / (1 + data["level"]) - grammars
    data["valid"] = falling.transpose(*data["valid"].dims)
    assert verdict(rhm_diffusion, data, "masking: as soon as") == HOLDS
    data["valid"] = (1 - falling).transpose(*data["valid"].dims)
    assert verdict(rhm_diffusion, data, "masking: as soon as") == FAILS
    data["valid"] = data["valid"] * 0 + 0.5
    assert verdict(rhm_diffusion, data, "masking: as soon as") == OPEN


def test_where_backpropagation_did_not_learn_others_stand_in_units_of_p_star():
    data = feedback(backpropagation=NEVER, feedback_alignment=4, direct_feedback_alignment=NEVER)
    figure = Figure()
    (axes,) = feedback_look.panels_of_ratios(figure, data)
    words = [text.get_text() for text in axes.texts]
    assert sum(word.endswith(" P*") for word in words) == 1
    assert sum(line.get_marker() == "X" for line in axes.lines) == 1
    assert "not learned" in axes.get_title()
    solved = feedback(backpropagation=2, feedback_alignment=4, direct_feedback_alignment=NEVER)
    (axes,) = feedback_look.panels_of_ratios(Figure(), solved)
    assert not any(text.get_text().endswith(" P*") for text in axes.texts)
    assert "not learned" not in axes.get_title()
