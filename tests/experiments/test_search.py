"""Laws of a search that extends its learning rates while the best lies at the edge."""

import numpy as np
import pytest
import xarray as xr

from experiments.runner import Sweep
from experiments.training import Search, chosen, own_parameters, table, unsearched, words

VARIANTS = [{"variant": 0}, {"variant": 1}]
RATES = (1e-3, 3.16e-3, 1e-2)


class Measure:
    """Best at one rate of each rule, by the distance in octaves; remembers what was asked."""

    def __init__(self, best, variant=1, lucky_seed=None):
        self.best, self.variant, self.lucky = best, variant, lucky_seed
        self.asked = []

    def __call__(self, rule, learning_rate, variant, seed):
        self.asked.append((rule, learning_rate, variant, seed))
        far = abs(np.log2(learning_rate / self.best[rule]))
        found = 0.9 - 0.1 * far - 0.05 * (variant != self.variant)
        if seed == self.lucky and learning_rate == RATES[0]:
            found += 0.9
        return xr.Dataset({"validation_accuracy": found})


def search(measure, rates=RATES, extensions=2, grammars=1, others=VARIANTS, cells=None):
    cells = [{"rule": rule} for rule in measure.best] if cells is None else cells
    kind = Search(rates, extensions, grammars)
    return chosen(Sweep(), measure, cells, lambda cell: others, kind, "x", seed=5)


def test_a_best_rate_inside_asks_for_no_further_one():
    measure = Measure({"a": 3.16e-3})
    (choice,) = search(measure)
    assert choice.candidate == {"learning_rate": 3.16e-3, "variant": 1}
    assert choice.inside == 1
    assert {rate for _, rate, *_ in measure.asked} == set(RATES)
    assert len(measure.asked) == len(RATES) * len(VARIANTS)


@pytest.mark.parametrize(
    ("best", "chosen_rate", "tried", "inside"),
    [
        (1e-3, 1e-3, {3.16e-4}, 1),
        (3e-4, 3.16e-4, {3.16e-4, 1e-4}, 1),
        (1e-6, 1e-4, {3.16e-4, 1e-4}, 0),
        (1e-2, 1e-2, {3.16e-2}, 1),
        (1.0, 1e-1, {3.16e-2, 1e-1}, 0),
    ],
)
def test_a_best_rate_at_the_edge_is_followed_as_often_as_allowed(best, chosen_rate, tried, inside):
    measure = Measure({"a": best})
    (choice,) = search(measure)
    assert {rate for _, rate, *_ in measure.asked} == {*RATES, *tried}
    assert choice.candidate["learning_rate"] == pytest.approx(chosen_rate)
    assert choice.inside == inside
    (unextended,) = search(Measure({"a": best}), extensions=0)
    assert unextended.inside == 0


def test_cells_extend_alone_and_every_rate_tries_all_other_choices():
    measure = Measure({"a": 3.16e-3, "b": 3e-4})
    first, second = search(measure)
    assert (first.inside, second.inside) == (1, 1)
    assert {rate for rule, rate, *_ in measure.asked if rule == "a"} == set(RATES)
    asked = [(rule, rate, variant) for rule, rate, variant, _ in measure.asked]
    assert len(set(asked)) == len(asked) == (3 + 5) * len(VARIANTS)


def test_grammars_of_the_search_are_averaged_and_not_reported():
    measure = Measure({"a": 3.16e-3}, lucky_seed=1005)
    assert search(measure)[0].candidate["learning_rate"] == RATES[0]
    averaged = Measure({"a": 3.16e-3}, lucky_seed=1005)
    (choice,) = search(averaged, grammars=8)
    assert choice.candidate["learning_rate"] == 3.16e-3
    assert {seed for *_, seed in averaged.asked} == {1005 + k for k in range(8)}


def test_where_there_is_one_candidate_nothing_is_tried():
    measure = Measure({"a": 1.0})
    (choice,) = search(measure, rates=(3e-3,), extensions=0, others=VARIANTS[:1])
    assert measure.asked == []
    assert choice == unsearched(Search((3e-3,), 0, 1), VARIANTS[0])
    assert np.isnan(choice.inside)
    assert search(measure, cells=[]) == []


@pytest.mark.parametrize("undefined", RATES)
@pytest.mark.parametrize("variants", [(0, 1), (1,)])
def test_an_undefined_accuracy_never_wins(undefined, variants):
    class Broken(Measure):
        def __call__(self, rule, learning_rate, variant, seed):
            found = super().__call__(rule, learning_rate, variant, seed)
            lost = learning_rate == undefined and variant in variants
            return found * np.nan if lost else found

    (choice,) = search(Broken({"a": undefined}), extensions=0)
    assert choice.candidate != {"learning_rate": undefined, "variant": 1}
    assert all(score == -1 or score > 0 for score in choice.scores.values())
    if variants == (1,):
        assert choice.candidate == {"learning_rate": undefined, "variant": 0}


def test_the_table_holds_all_candidates_of_all_cells():
    rows = table(search(Measure({"a": 3.16e-3, "b": 1.0})))
    a, b = rows
    np.testing.assert_array_equal(a["candidate"], b["candidate"])
    assert a.sizes["candidate"] == 5 * len(VARIANTS)
    assert int(a["search_accuracy"].notnull().sum()) == 3 * len(VARIANTS)
    assert int(b["search_accuracy"].notnull().sum()) == 5 * len(VARIANTS)
    best = str(a["candidate"].values[int(a["search_accuracy"].fillna(0).argmax("candidate"))])
    assert best == "learning_rate 0.00316, variant 1"
    assert float(a["learning_rate"]) == 3.16e-3
    assert (float(a["inside"]), float(b["inside"])) == (1.0, 0.0)


def test_a_loss_without_a_parameter_of_its_own_has_one_choice():
    assert own_parameters("VICReg", (0, 1)) == VARIANTS
    assert own_parameters("cross-entropy", (0, 1)) == VARIANTS[:1]


def test_candidates_are_labelled_by_what_they_set():
    assert words([{"rate": 0.1, "variant": 0}]) == ["rate 0.1, variant 0"]
