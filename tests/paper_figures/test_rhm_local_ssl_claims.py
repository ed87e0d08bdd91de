"""Claims on local learning of hierarchies follow the numbers."""

import json

import pytest
import xarray as xr

from paper_figures.figures import rhm_local_ssl
from tests.paper_figures.hierarchies import FAILS, HOLDS, OPEN, ssl, verdict

EFFICIENT = "same head: CLAPP local views comes to"
CHARGED = "included: CLAPP local views comes to"
LEARNS = "every layer-local rule learns"


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
