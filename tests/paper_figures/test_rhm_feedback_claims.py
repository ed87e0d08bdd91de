"""Claims on direct feedback and masks follow the numbers: other numbers, other verdicts."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from paper_figures.claims import decide
from paper_figures.figures import rhm_feedback, rhm_feedback_variants, rhm_masks
from paper_figures.look import feedback as feedback_look, needed
from tests.paper_figures.hierarchies import FAILS, HOLDS, NEVER, OPEN, feedback, unfinished, verdict

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
