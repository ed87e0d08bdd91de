"""Claims of several figures of the Random Hierarchy Model, or of one each, follow the numbers."""

import numpy as np
import pytest
import xarray as xr

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
from paper_figures.look import learners
from tests.paper_figures.hierarchies import (
    FAILS,
    HOLDS,
    NEVER,
    OPEN,
    blocks,
    complexity,
    feedback,
    ssl,
    unfinished,
    verdict,
)

RATES = "best learning rate lies inside"


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
