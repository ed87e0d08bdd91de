"""`ll.sweep` is a loop of `ll.compare`: the same values, labels for all, failures by name."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import linlocal as ll
from linlocal import rules, testing
from linlocal.losses import TypeTwo
from linlocal.projection import Scratch, StackedLoss, StackedRows, optimal_projection

WIDTHS = (12, 10, 10, 8)
RULE = rules.CLAPP("softplus", penalty=0.05)
RULES = {
    "softplus": RULE,
    "random": replace(RULE, projection="random"),
    "top": rules.CLAPP_DFB("softplus", penalty=0.05),
    "hinge": rules.CLAPP("hinge", penalty=0.05),
    "two views": rules.VICReg(),
}
NETWORKS = {
    "orthogonal": ll.DeepLinear.orthogonal((12, 12, 12, 12), 1),
    "uniform": ll.DeepLinear.uniform(WIDTHS, 2),
    "ReLU": ll.DeepReLU.gaussian((12, 10, 10), 3),
}


def views(seed, **options):
    x, view = testing.samples(9, 12, seed)
    return ll.Pairs.from_views(x, view, **options)


# The first and the last have the same pairs, so they are stacked.
BATCHES = [views(0), views(1, num_negatives=2), views(2)]


class Step:
    """A score with a kink that the solvers do not know, so Newton's method finds no optimum."""

    def value(self, m):
        return np.maximum(0.0, 0.5 - m)

    def slope(self, m):
        return np.where(m < 0.5, -1.0, 0.0)

    def curvature(self, m):
        return np.zeros_like(m)


STUCK = rules.Rule("stuck", TypeTwo(Step()), penalty=0.05)


def assert_same(cell, network, pairs, rule, **options):
    """The cell of a sweep has the values of `compare`."""
    alone = ll.compare(network, pairs, rule, **options)
    assert set(cell) == set(alone)
    known = alone["condition_number"].fillna(1.0)
    # Values above a layer depend on the projections there.
    allowed = testing.tolerance(condition_number=float(known.max()))
    for name in set(alone) - {"iterations", "residual"}:
        got, expected = cell[name].values[: network.depth], alone[name].values
        assert np.array_equal(np.isnan(got), np.isnan(expected)), name
        error = np.abs(got - expected) / np.maximum(1.0, np.abs(expected))
        assert np.nanmax(error, initial=0.0) <= allowed, name
        assert np.isnan(cell[name].values[network.depth :]).all(), name
    assert (cell["residual"].fillna(0.0) <= 1e-13).all()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_cell_is_compare(data):
    network = data.draw(testing.networks(width=(1, 12), depth=(1, 4)))
    rule = data.draw(
        st.one_of(
            testing.pair_rules(),
            testing.pair_rules(projection="random"),
            testing.pair_rules(projection="matched"),
            testing.pair_rules(metric="downstream"),
            testing.named_rules(("CLAPP_BOTH", "CLAPP_EACH", "GreedyInfoMax", "PhyLL", "SCFF")),
        )
    )
    if rule.projection == "identity" and rule.context == "top":
        return
    pairs = data.draw(testing.pairs(network, (2, 24), rule=rule))
    result = ll.sweep([network], [pairs], [rule])
    assert_same(result.isel(network=0, batch=0, rule=0), network, pairs, rule)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_grid_is_a_loop(workers):
    result = ll.sweep(NETWORKS, BATCHES, RULES, workers=workers)
    for name, network in NETWORKS.items():
        for number, pairs in enumerate(BATCHES):
            for label, rule in RULES.items():
                cell = result.sel(network=name, batch=number, rule=label)
                assert_same(cell, network, pairs, rule)


def test_a_penalty_replaces_that_of_every_rule():
    metric = rules.CLAPP("softplus", penalty=rules.Penalty(0.3, "downstream"))
    downstream = rules.Penalty(1, "downstream")
    several = {"weak": 0.01, "growing": (0.01, 0.02, 0.03), "metric": downstream}
    network, pairs = NETWORKS["uniform"], BATCHES[0]
    result = ll.sweep([network], [pairs], {"plain": RULE, "metric": metric}, several)
    assert result.sizes == {"network": 1, "batch": 1, "rule": 2, "penalty": 3, "layer": 3}
    for label, rule in (("plain", RULE), ("metric", metric)):
        for name in ("weak", "growing"):
            cell = result.sel(network=0, batch=0, rule=label, penalty=name)
            assert_same(cell, network, pairs, rule.with_penalty(several[name]))
        cell = result.sel(network=0, batch=0, rule=label, penalty="metric")
        assert_same(cell, network, pairs, replace(rule, penalty=downstream))


def test_windows_and_goals_are_those_of_compare():
    options = {"window": 2, "goal": RULES["top"]}
    network, pairs = NETWORKS["uniform"], BATCHES[0]
    result = ll.sweep([network], [pairs], {"rule": RULE}, **options)
    cell = result.isel(network=0, batch=0, rule=0)
    assert_same(cell, network, pairs, RULE, **options)
    plain = ll.compare(network, pairs, RULE)
    assert abs(cell["cosine"].values[0] - plain["cosine"].values[0]) > 1e-3


@pytest.mark.parametrize("platform", [sys.platform, "another"])
def test_the_number_of_workers_changes_no_bit(platform, monkeypatch):
    one = ll.sweep(NETWORKS, BATCHES, RULES)
    monkeypatch.setattr(sys, "platform", platform)  # elsewhere than on Linux, threads
    assert one.identical(ll.sweep(NETWORKS, BATCHES, RULES, workers=2))


def test_sequences_have_labels():
    result = ll.sweep(list(NETWORKS.values()), BATCHES, [RULE], [0.5, 2])
    assert list(result["network"].values) == [0, 1, 2]
    assert list(result["batch"].values) == [0, 1, 2]
    assert list(result["rule"].values) == [RULE.name]
    assert list(result["penalty"].values) == [0.5, 2.0]
    assert list(result["layer"].values) == [1, 2, 3]


def test_equal_kernels_are_solved_once():
    result = ll.sweep(NETWORKS, BATCHES, [RULE])
    later = result["iterations"].isel(rule=0).sel(layer=[2])
    first = result["iterations"].isel(rule=0).sel(layer=[1])
    # All layers of a square orthogonal network have the kernel of the input.
    assert (later.sel(network="orthogonal").values <= 3).all()
    assert (first.sel(network="orthogonal").values > 3).all()
    assert (later.sel(network="uniform").values > 3).all()


def test_a_cell_that_does_not_converge_costs_no_other():
    with pytest.raises(ll.ConvergenceError):
        ll.compare(NETWORKS["uniform"], BATCHES[1], STUCK)
    with pytest.warns(RuntimeWarning, match="network 'uniform', batch 1, rule 'stuck'"):
        result = ll.sweep(NETWORKS, BATCHES, {"before": RULE, "stuck": STUCK, "after": RULE})
    assert all(np.isnan(result[name].sel(rule="stuck")).all() for name in result)
    alone = ll.sweep(NETWORKS, BATCHES, {"before": RULE})
    for name in set(alone) - {"iterations", "residual"}:
        good = result[name].sel(rule=["before", "after"])
        wanted = alone[name].sel(rule=["before", "before"])
        np.testing.assert_allclose(good, wanted, rtol=1e-10, atol=1e-12)


def test_a_sweep_without_any_value_raises():
    with pytest.raises(ll.ConvergenceError, match="No cell could be computed"):
        ll.sweep([NETWORKS["uniform"]], BATCHES, [STUCK])


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unexpected_error_says_where_it_happened(workers):
    class Broken(Step):
        def value(self, m):
            raise RuntimeError("no value")

    broken = rules.Rule("broken", TypeTwo(Broken()), penalty=0.05)
    with pytest.raises(RuntimeError, match="no value") as caught:
        ll.sweep({"a": NETWORKS["uniform"]}, BATCHES, {"b": broken}, workers=workers)
    assert re.search("network 'a', batch [0-2], rule 'b'", caught.value.__notes__[0])


def test_what_does_not_go_together_is_named_before_anything_is_computed():
    narrow = ll.DeepLinear.uniform((11, 10), 0)
    with pytest.raises(ValueError, match=r"network 1, batch 0, rule 'CLAPP': .* 11 features"):
        ll.sweep([NETWORKS["uniform"], narrow], BATCHES, [RULE], progress=pytest.fail)
    onto_top = replace(rules.CLAPP_DFB(), projection="identity")
    with pytest.raises(
        ValueError, match=r"network 'n', batch 'b', rule 'top', penalty 0.1: .*equal"
    ):
        ll.sweep({"n": NETWORKS["uniform"]}, {"b": BATCHES[0]}, {"top": onto_top}, [0.1])


NETS = [NETWORKS["ReLU"]]


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            (NETWORKS["ReLU"], BATCHES, [RULE]),
            TypeError,
            "networks must be a sequence of `Network`",
        ),
        (([], BATCHES, [RULE]), ValueError, "networks must hold at least one"),
        (([1], BATCHES, [RULE]), TypeError, "an entry of networks must be a `Network`"),
        (
            (NETS, BATCHES, [RULE, RULE]),
            ValueError,
            "Two entries of rules",
        ),
        (
            (NETS, BATCHES, [RULE], [0.1, 0.1]),
            ValueError,
            "called 0.1",
        ),
        ((NETS, BATCHES, [RULE], [-1.0]), ValueError, "penalty must be positive"),
        (
            ({(1, 2): NETS[0]}, BATCHES, [RULE]),
            TypeError,
            "label of networks",
        ),
    ],
)
def test_bad_arguments_are_explained(arguments, kind, message):
    with pytest.raises(kind, match=message):
        ll.sweep(*arguments)


def test_progress_counts_cells():
    seen = []
    ll.sweep(NETWORKS, BATCHES, [RULE], [0.1, 0.2], progress=lambda *done: seen.append(done))
    counts = [0, *(done for done, _ in seen)]
    # Each of three networks has a stack of two batches and one of a single batch.
    assert sorted(np.diff(counts)) == [2, 2, 2, 4, 4, 4]
    assert {cells for _, cells in seen} == {18}
    assert counts[-1] == 18


def test_small_stacks_give_the_same(monkeypatch):
    together = ll.sweep(NETWORKS, BATCHES, [RULE])
    monkeypatch.setattr("linlocal.updates.stacked.ROOM", 1)
    seen = []
    alone = ll.sweep(NETWORKS, BATCHES, [RULE], progress=lambda *done: seen.append(done))
    assert seen == [(n, 9) for n in range(1, 10)]
    for name in set(alone) - {"iterations", "residual"}:
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-10, atol=1e-12)


def test_cells_that_stack_are_not_computed_by_compare(monkeypatch):
    # By the table of modules: in the package the name means the function.
    monkeypatch.setattr(sys.modules["linlocal.updates.sweep"], "compared", pytest.fail)
    ll.sweep(NETWORKS, BATCHES, {name: RULES[name] for name in ("softplus", "random", "top")})


# -- the solver of stacks --------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 99),
    score=testing.score_functions(),
    penalty=st.sampled_from([1e-3, 0.02, 1.0]),
    width=st.integers(1, 20),
)
def test_stacked_projections_are_optimal(seed, score, penalty, width):
    loss = TypeTwo(score)
    samples = [testing.samples(10, width, seed + i) for i in range(3)]
    direction = ll.Pairs.from_views(*samples[0], num_negatives=2).directions[0]
    if not StackedLoss.suits(loss, direction):
        return
    # The third no longer fits into the memory that is used again.
    stack, scratch, near = StackedLoss(loss, direction), Scratch(100_000), None
    # The second is the first up to rounding, by a rotation, and the third is another.
    turn = ll.DeepLinear.orthogonal((width, width), seed).matrix(1)
    for change in (np.eye(width), turn, 0.7 * turn):
        z, c = (np.stack([pair[side] @ change for pair in samples]) for side in (0, 1))
        rows = StackedRows.of(z, scratch), StackedRows.of(c, scratch)
        near = stack.solve(*rows, penalty, stack.kernel(*rows, scratch), scratch, near)
        for i, (one, other) in enumerate(zip(z, c, strict=True)):
            alone = optimal_projection(one, other, direction, loss, penalty)
            worst = max(alone.condition_number, alone.cancellation)
            allowed = testing.tolerance(condition_number=worst)
            assert near.found[i]
            assert near.residual[i] <= 1e-13
            size = np.linalg.norm(alone.slopes)
            assert np.linalg.norm(near.slopes[i] - alone.slopes) <= allowed * size
            for name in ("norm", "condition_number", "cancellation"):
                found, expected = getattr(near, name)[i], getattr(alone, name)
                np.testing.assert_allclose(found, expected, rtol=allowed)
