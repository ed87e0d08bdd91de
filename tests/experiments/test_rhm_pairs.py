"""Laws of pairs: what two views share, what training may see, and where gradients stop."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from experiments.training import (
    Convergence,
    NetworkRecipe,
    PairSource,
    fit_pairs,
    fit_told,
    hierarchy_pairs as rhm_pairs,
)
from linlocal.analysis.hierarchy import HierarchicalNet
from linlocal.analysis.local_losses import Views
from linlocal.losses import VICReg
from linlocal.rhm import RandomHierarchyModel

LEVELS = 3
RECIPE = NetworkRecipe(width=8, normalise=True)
UNTIL = Convergence(cap=6)
RULE = Views(VICReg())


@pytest.fixture(scope="module")
def rhm():
    return RandomHierarchyModel(
        num_classes=4, num_symbols=4, num_synonyms=3, num_levels=LEVELS, seed=1
    )


def leaves(inputs):
    """One-hot leaves back to symbols."""
    return inputs.argmax(dim=2).numpy()


def source_of(rhm, num, positives="views", seed=0, exclude=0):
    data, excluded = rhm.split(train=num, test=exclude, seed=3)
    return PairSource(rhm, data, positives, excluded, seed)


def train(rhm, positives="views", *, window=1, net=None, seed=0, num=64, until=UNTIL):
    net = RECIPE.network(rhm, 0) if net is None else net
    source = source_of(rhm, num, positives)
    fit_pairs(net, RECIPE, RULE, source, window=window, seed=seed, until=until)
    return net


def weights(net):
    return [layer.weight.detach().clone() for layer in net.layers]


@pytest.mark.parametrize("fresh", [False, True])
def test_views_share_the_symbols_of_a_level_and_above_and_no_others_but_by_chance(rhm, fresh):
    source = source_of(rhm, 4000, "fresh views" if fresh else "views")
    pair = source.fresh(0, 2000) if fresh else source.stored()
    data, views = (rhm.parse(leaves(each)) for each in pair)
    assert len(data) == len(views) == 2000
    np.testing.assert_array_equal(data.labels, views.labels)
    equal = [
        (one == other).all(axis=1) for one, other in zip(data.symbols, views.symbols, strict=True)
    ]
    for below, above in pairwise(equal):
        # Who agrees in a level agrees in all above it.
        assert not (below & ~above).any()
    # Half of the pairs keep the symbols of level 1, and with them those of level 2, which the other
    # half keep; two symbols of level 1 are written alike again only if both rules are.
    by_chance = 1 / rhm.num_synonyms
    assert equal[2].all()
    assert abs(equal[1].mean() - (0.5 + 0.5 * by_chance**2)) < 4 * np.sqrt(0.25 / 2000)
    assert equal[0].mean() < 4 * by_chance**4 + 0.02
    # The others differ: every level is drawn.
    assert (equal[1] & ~equal[0]).mean() > 0.4


@pytest.mark.parametrize("positives", ["views", "fresh views"])
def test_no_view_is_an_excluded_datum(rhm, positives):
    source = source_of(rhm, 4000, positives, exclude=4000)
    excluded = set(rhm.index(source.exclude).tolist())
    for pair in (
        [source.stored()] if positives == "views" else [source.fresh(s, 500) for s in (0, 1)]
    ):
        for each in pair:
            assert excluded.isdisjoint(rhm.index(rhm.parse(leaves(each))).tolist())
    # Without the exclusion they would be met.
    free = replace(source, exclude=source.exclude[:0])
    views = free.stored()[1] if positives == "views" else free.fresh(0, 500)[0]
    assert not excluded.isdisjoint(rhm.index(rhm.parse(leaves(views))).tolist())


def test_stored_views_count_as_data(rhm):
    for num in (4, 9, 100):
        source = source_of(rhm, num)
        data, views = source.stored()
        assert len(data) == len(views) == num // 2
        np.testing.assert_array_equal(leaves(data), source.data.leaves[: num // 2])
        for positives in ("siblings", "masked halves"):
            (alone,) = source_of(rhm, num, positives).stored()
            np.testing.assert_array_equal(leaves(alone), source.data.leaves)


def test_masked_halves_complete_each_other(rhm):
    (inputs,) = source_of(rhm, 500, "masked halves").stored()
    one, other = rhm_pairs.halves(inputs, np.random.default_rng(0))
    assert torch.equal(one + other, inputs)
    shown = one.sum(dim=2)
    assert (shown.sum(dim=1) == inputs.shape[1] // 2).all()
    # Every leaf is in either half as often, and independent of its neighbour but for the halving.
    assert (abs(shown.mean(dim=0) - 0.5) < 4 * 0.5 / 500**0.5).all()
    assert len(np.unique(shown.numpy(), axis=0)) > 30


def test_training_sees_no_more_than_the_stored_data(rhm, monkeypatch):
    seen = []
    encode = rhm_pairs.one_hot_leaves

    def counting(rhm, each):
        seen.append(len(each))
        return encode(rhm, each)

    monkeypatch.setattr(rhm_pairs, "one_hot_leaves", counting)
    for steps in (1, 40):
        seen.clear()
        train(rhm, "views", num=20, until=Convergence(cap=steps))
        assert sum(seen) == 20
    seen.clear()
    train(rhm, "fresh views", num=20, until=Convergence(cap=40))
    assert sum(seen) > 20


def test_the_same_seed_gives_the_same_pairs_and_each_step_others(rhm):
    source = source_of(rhm, 20, "fresh views", 3)
    first, again, later = source.fresh(0, 10), source.fresh(0, 10), source.fresh(1, 10)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], later[0])
    assert not torch.equal(source_of(rhm, 20, "fresh views", 4).fresh(0, 10)[0], first[0])


def test_sources_that_have_no_pairs_are_refused(rhm):
    with pytest.raises(ValueError, match="at least 4 data and 2 levels, got 3 and 3"):
        source_of(rhm, 3)
    flat = RandomHierarchyModel(num_classes=4, num_symbols=4, num_synonyms=2, num_levels=1)
    with pytest.raises(ValueError, match="got 8 and 1"):
        source_of(flat, 8)
    with pytest.raises(ValueError, match="positives must be one of"):
        source_of(rhm, 8, "labels")


@pytest.mark.parametrize("positives", ["siblings", "masked halves"])
def test_positives_without_side_information_need_leaves_only(rhm, positives):
    """Neither labels nor rules: training sees the same after everything but the leaves is lost."""
    source = source_of(rhm, 64, positives)
    blank = tuple(np.zeros_like(level) for level in source.data.symbols[1:])
    lost = replace(source, data=replace(source.data, symbols=(source.data.leaves, *blank)))
    # A grammar of the same shape and other rules.
    other = replace(lost, rhm=replace(rhm, seed=rhm.seed + 1))
    results = []
    for each in (source, lost, other):
        net = RECIPE.network(rhm, 0)
        fit_pairs(net, RECIPE, RULE, each, window=1, seed=0, until=UNTIL)
        results.append(weights(net))
    for expected, *found in zip(*results, strict=True):
        assert all(torch.equal(expected, each) for each in found)
    # Views do need them.
    assert len(replace(source, positives="views").stored()) == 2
    with pytest.raises(ValueError, match="data are not of this grammar"):
        replace(other, positives="views").stored()


@pytest.mark.parametrize("positives", ["views", "siblings", "masked halves"])
def test_no_gradient_crosses_layers_of_local_rules(rhm, positives):
    """Layer 1 learns the same whatever is above it; end to end it does not."""

    def first_layer(window, scale):
        net = RECIPE.network(rhm, 0)
        with torch.no_grad():
            net.layers[1].weight += scale * torch.randn(
                net.layers[1].weight.shape, generator=torch.Generator().manual_seed(5)
            )
        start = weights(net)[0]
        end = weights(train(rhm, positives, window=window, net=net))[0]
        assert not torch.equal(start, end)
        return end

    assert torch.equal(first_layer(1, 0.0), first_layer(1, 1.0))
    for window in (2, LEVELS):
        assert not torch.equal(first_layer(window, 0.0), first_layer(window, 1.0))


def test_end_to_end_only_the_top_loss_teaches(rhm):
    """Without the top loss nothing moves; with local rules all other layers still do."""

    class Losses:
        def __init__(self, silent):
            self.silent = silent

        def build(self, shapes, seed=0):
            losses = RULE.build(shapes, seed)
            for number in self.silent:
                losses[number] = Zero()
            return losses

    class Zero(torch.nn.Module):
        def forward(self, here, top):
            return 0.0 * here.sum()

    def moved(window, silent):
        net = RECIPE.network(rhm, 0)
        before = weights(net)
        options = {"window": window, "seed": 0, "until": UNTIL}
        fit_pairs(net, RECIPE, Losses(silent), source_of(rhm, 64), **options)
        pairs = zip(before, weights(net), strict=True)
        return [not torch.equal(one, other) for one, other in pairs]

    assert moved(LEVELS, [0, 1]) == [True, True, True]
    assert moved(LEVELS, [2]) == [False, False, False]
    assert moved(1, [2]) == [True, True, False]


def test_siblings_leave_the_top_layer_as_it_was(rhm):
    """One position has no sibling: the loss of the layer below is then the last."""
    for window in (1, LEVELS):
        before = weights(RECIPE.network(rhm, 0))
        after = weights(train(rhm, "siblings", window=window))
        assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [
            False,
            False,
            True,
        ]


def test_training_is_repeatable_and_leaves_the_global_state(rhm):
    first = weights(train(rhm))
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = weights(train(rhm))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], weights(train(rhm, seed=1))[0])


def test_the_readout_is_not_trained(rhm):
    net = RECIPE.network(rhm, 0)
    before = net.readout.weight.detach().clone()
    train(rhm, net=net)
    assert isinstance(net, HierarchicalNet)
    assert torch.equal(net.readout.weight, before)


class Seen(torch.nn.Module):
    """Keeps the rows of both views that it is given."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def forward(self, here, top, batch):
        assert torch.equal(here, top)
        self.rows.append(here.chunk(2))
        return here.sum()


def numbered(data, positions):
    """Both views of a layer; row (datum, position) of the second has the negative of the first."""
    rows = torch.arange(1.0, data * positions + 1).reshape(data, positions, 1)
    return torch.cat([rows, -rows])


def test_a_loss_sees_random_rows_of_all_and_the_same_ones_of_both_views(monkeypatch):
    monkeypatch.setattr(rhm_pairs, "LARGEST_LOSS", 10)
    data, positions, calls = 12, 4, 400
    total, seen = data * positions, Seen()
    loss = rhm_pairs._RowsLoss(seen, None, np.random.default_rng(0))
    here = numbered(data, positions)
    for _ in range(calls):
        loss(here, None)
    drawn = torch.stack([first[:, 0] for first, _ in seen.rows]).long() - 1
    assert all(torch.equal(first, -second) for first, second in seen.rows)
    assert drawn.shape == (calls, 10)
    assert all(len({*rows.tolist()}) == 10 for rows in drawn)  # none twice
    # Every row as often as any other, up to 4.5 standard deviations of a draw without replacement.
    share = 10 / total
    counts = np.bincount(drawn.flatten().numpy(), minlength=total)
    bound = 4.5 * np.sqrt(calls * share * (1 - share))
    assert len(counts) == total
    assert abs(counts - calls * share).max() < bound
    assert len({tuple(sorted(rows.tolist())) for rows in drawn}) == calls
    again = Seen()
    other = rhm_pairs._RowsLoss(again, None, np.random.default_rng(1))
    other(here, None)
    assert not torch.equal(again.rows[0][0], seen.rows[0][0])


@pytest.mark.parametrize("positions", [1, 4])
def test_a_loss_sees_each_row_once_where_there_are_few(positions):
    seen = Seen()
    data = rhm_pairs.LARGEST_LOSS // positions
    rhm_pairs._RowsLoss(seen, None, np.random.default_rng(0))(numbered(data, positions), None)
    ((first, second),) = seen.rows
    assert torch.equal(first, -second)
    assert sorted(first[:, 0].tolist()) == list(range(1, data * positions + 1))


def test_siblings_are_the_halves_of_each_tuple_projected_apart(monkeypatch):
    monkeypatch.setattr(rhm_pairs, "LARGEST_LOSS", 5)
    projectors, seen = rhm_pairs.Projectors(1, 0), Seen()
    here = torch.arange(1.0, 25.0).reshape(6, 4, 1)
    rhm_pairs._RowsLoss(seen, projectors, np.random.default_rng(0))(here, None)
    left, right = (row[:, 0] / projectors.weight[k, 0, 0] for k, row in enumerate(seen.rows[0]))
    torch.testing.assert_close(right, left + 1)
    assert {int(each) % 2 for each in left.round()} == {1}
    assert len({*left.tolist()}) == 5


# -- controls --------------------------------------------------------------------------------------


def test_usable_views_reach_the_layers_that_share_their_symbols(rhm):
    source = source_of(rhm, 2000, "usable views")
    (first, second), levels = source.stored(), source.levels()
    data, views = rhm.parse(leaves(first)), rhm.parse(leaves(second))
    assert set(levels.tolist()) == {1, 2}
    for level in (1, 2):
        rows = np.flatnonzero(levels.numpy() <= level)
        np.testing.assert_array_equal(data.symbols[level][rows], views.symbols[level][rows])
        rest = np.flatnonzero(levels.numpy() > level)
        if len(rest):
            assert (data.symbols[level][rest] != views.symbols[level][rest]).any(
                axis=1
            ).mean() > 0.5
    seen = Seen()
    here = numbered(6, 2)
    shown = torch.tensor([1, 2, 1, 2, 2, 1])
    rhm_pairs._RowsLoss(seen, None, np.random.default_rng(0), 1)(here, None, (here, shown))
    ((one, other),) = seen.rows
    assert torch.equal(one, -other)
    assert sorted(one[:, 0].tolist()) == [1, 2, 5, 6, 11, 12]


def test_a_quarter_of_the_noisy_views_belong_to_others(rhm):
    data, views = source_of(rhm, 4000).stored()
    same, noisy = source_of(rhm, 4000, "noisy views").stored()
    assert torch.equal(data, same)
    wrong = (views != noisy).flatten(1).any(dim=1).double().mean()
    assert abs(wrong - rhm_pairs.WRONG) < 4 * (0.25 * 0.75 / 2000) ** 0.5
    assert np.array_equal(np.unique(leaves(views), axis=0), np.unique(leaves(noisy), axis=0))


def test_partners_are_others_of_the_same_class_each_as_often(rhm):
    labels = np.array([0, 1, 0, 2, 0, 1, 0])
    partners, rng = rhm_pairs._Partners(labels), np.random.default_rng(0)
    found = np.stack([partners(np.arange(7), rng) for _ in range(600)])
    assert (labels[found] == labels).all()
    assert (found[:, 3] == 3).all()  # alone
    assert (found[:, [0, 1, 2, 4, 5, 6]] != [0, 1, 2, 4, 5, 6]).all()
    counts = [(found[:, 0] == other).sum() for other in (2, 4, 6)]
    assert max(abs(c - 200) for c in counts) < 4.5 * (600 * 2 / 9) ** 0.5


def test_equalities_that_labels_do_not_tell_teach_as_well(rhm):
    """With equal labels and batches, weights differ by the pull of the views alone."""

    class Silent(PairSource):
        def levels(self):
            return torch.full((32,), LEVELS + 1)

    told, ends = source_of(rhm, 64), []
    for source in (told, Silent(rhm, told.data, "views", told.exclude, 0)):
        net = RECIPE.network(rhm, 0)
        assert fit_told(net, RECIPE, source, seed=0, until=UNTIL).steps == UNTIL.cap
        ends.append(weights(net)[0])
    assert not torch.equal(*ends)


def test_other_inputs_are_read_as_they_are_encoded(rhm):
    source = replace(source_of(rhm, 64), encode=lambda leaves: torch.ones(*leaves.shape, 3))
    assert all(torch.equal(each, torch.ones(32, 8, 3)) for each in source.stored())
