"""What a score or a loss says of its own formula is believed only as long as it is its formula."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import linlocal as ll
from linlocal import autodiff, losses, rules, testing
from linlocal.losses import scores
from linlocal.losses.shape import Bend, Line, shape_of, summand_of


class Squared:
    """max(0, 1 - m)^2 in numpy."""

    def value(self, m):
        return np.maximum(0.0, 1.0 - m) ** 2

    def slope(self, m):
        return -2.0 * np.maximum(0.0, 1.0 - m)

    def curvature(self, m):
        return np.where(m < 1.0, 2.0, 0.0)


class OfHinge(Squared, scores.Hinge): ...


class OfLinear(Squared, scores.Linear): ...


class OfSoftplus(Squared, scores.Softplus): ...


class OfSmoothedHinge(Squared, scores.SmoothedHinge): ...


class Renamed(scores.Hinge):
    """A subclass that leaves the formula as it is."""


class RenamedLinear(scores.Linear): ...


class OwnHinge:
    """A hinge of one's own, which says so."""

    shape = Bend(0.5)

    def value(self, m):
        return np.maximum(0.0, 0.5 - m)

    def slope(self, m):
        return np.where(m < 0.5, -1.0, 0.0)

    def curvature(self, m):
        return np.zeros_like(m)


class TwiceLinear:
    """A linear score of another slope, which says so."""

    shape = Line()

    def value(self, m):
        return -2.0 * m

    def slope(self, m):
        return np.full_like(m, -2.0)

    def curvature(self, m):
        return np.zeros_like(m)


class Weighted(losses.TypeTwo):
    """Three times type 2, by its own formula."""

    def value(self, m, pairs):
        return 3.0 * super().value(m, pairs)

    def gradient(self, m, pairs):
        return 3.0 * super().gradient(m, pairs)

    def curvature(self, m, pairs):
        return 3.0 * super().curvature(m, pairs)


class Softened(losses.TypeTwo):
    """Type 2 of log(1 + exp(-m)) + f, whatever f: it sums no f, though it has one."""

    def _soft(self):
        return losses.TypeTwo(scores.Softplus(0.0))

    def value(self, m, pairs):
        return super().value(m, pairs) + self._soft().value(m, pairs)

    def gradient(self, m, pairs):
        return super().gradient(m, pairs) + self._soft().gradient(m, pairs)

    def curvature(self, m, pairs):
        return super().curvature(m, pairs) + self._soft().curvature(m, pairs)


@dataclass(frozen=True)
class Heavier(losses.TypeOne):
    """Type 1 with other weights."""

    def weights(self, pairs):
        return 2.0 * super().weights(pairs)


NETWORK = ll.DeepLinear.uniform((6, 5, 4), seed=1)


def pairs(samples=9):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((samples, 6))
    return ll.Pairs.from_views(x, x + 0.4 * rng.standard_normal((samples, 6)))


def assert_same_updates(rule, other):
    for update in (ll.local_update, ll.global_update):
        for got, expected in zip(
            update(NETWORK, pairs(), rule), update(NETWORK, pairs(), other), strict=True
        ):
            testing.assert_same_update(got, expected, 1e-10)


# -- scores ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [OfHinge(), OfLinear(), OfSoftplus(), OfSmoothedHinge()])
@pytest.mark.parametrize("loss", [losses.TypeTwo, losses.TypeOne])
def test_a_subclass_with_its_own_formula_is_solved_by_that_formula(score, loss):
    rule = ll.Rule("own", loss(score), penalty=0.1)
    assert shape_of(score) is None
    assert not rule.has_linear_score
    assert_same_updates(rule, replace(rule, loss=loss(Squared())))
    for mine, oracle in (
        (ll.local_update, autodiff.local_update),
        (ll.global_update, autodiff.global_update),
    ):
        for got, expected in zip(
            mine(NETWORK, pairs(), rule), oracle(NETWORK, pairs(), rule), strict=True
        ):
            testing.assert_same_update(got, expected, 1e-9)


def test_a_subclass_of_a_hinge_is_not_solved_as_one():
    hinge, squared = rules.CLAPP("hinge"), rules.CLAPP(OfHinge())
    here, there = (ll.compare(NETWORK, pairs(), r).cosine.values[0] for r in (hinge, squared))
    assert abs(here - there) > 1e-3


def test_a_subclass_that_changes_nothing_is_what_it_was():
    assert shape_of(Renamed(0.3)) == Bend(0.3)
    assert_same_updates(rules.CLAPP(Renamed()), rules.CLAPP("hinge"))
    assert rules.CLAPP(RenamedLinear()).has_linear_score
    explained = ll.explain(NETWORK, pairs(), rules.CLAPP_DFB(RenamedLinear()))
    assert explained.layers[0].cosine_bound is not None


def test_the_oracle_refuses_the_kink_of_every_hinge():
    for score in (scores.Hinge(), Renamed(), OwnHinge()):
        with pytest.raises(ValueError, match="no derivative at its kink"):
            autodiff.local_update(NETWORK, pairs(), rules.CLAPP(score))
    zero = ll.DeepLinear([np.zeros((2, 6))])  # all margins are 0
    with pytest.raises(ValueError, match="of the kink of the hinge"):
        autodiff.local_update(zero, pairs(), rules.PhyLL(Renamed(0.0)))


def test_a_score_of_ones_own_may_say_its_shape():
    assert_same_updates(rules.CLAPP(OwnHinge()), rules.CLAPP(scores.Hinge(0.5)))
    rule = rules.CLAPP_DFB(TwiceLinear())
    assert rule.has_linear_score
    solved = ll.optimal_projection(
        pairs().samples[:9], pairs().samples[9:], pairs().directions[0], rule.loss, 0.1
    )
    assert solved.method == "closed form"
    assert solved.residual <= 1e-15


@pytest.mark.parametrize(
    ("of", "shape", "words"),
    [
        (Squared, Line(), r"says that its shape is Line\(\), but its slopes"),
        (Squared, Bend(1.0), r"says that its shape is Bend\(margin=1.0, width=0.0\)"),
        (scores.Softplus, Bend(1.0, 2.0), "leave it out"),
    ],
)
def test_a_shape_that_does_not_fit_the_slopes_is_refused(of, shape, words):
    score = type("Wrong", (of,), {"shape": shape, "value": of.value, "slope": of.slope})()
    with pytest.raises(ValueError, match=words):
        rules.CLAPP(score).has_linear_score  # noqa: B018
    with pytest.raises(ValueError, match=words):
        ll.compare(NETWORK, pairs(), rules.CLAPP(score))


def test_what_is_no_shape_is_refused():
    score = type("Wrong", (Squared,), {"shape": "hinge"})()
    with pytest.raises(TypeError, match="shape must be a `Line` or a `Bend`"):
        ll.compare(NETWORK, pairs(), rules.CLAPP(score))


def test_methods_on_the_object_count_as_well():
    score = scores.Linear()
    object.__setattr__(score, "slope", lambda m: -np.exp(-m))
    assert shape_of(score) is None


# -- losses ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [scores.Linear(), scores.SmoothedHinge(), scores.Softplus()])
def test_a_loss_with_its_own_formula_is_solved_by_that_formula(score):
    """Three times the loss with a third of the penalty has a third of the updates."""
    rule = ll.Rule("own", Weighted(score), penalty=0.3)
    assert summand_of(rule.loss) is None
    same = ll.Rule("same", losses.TypeTwo(score), penalty=0.1)
    for update in (ll.local_update, ll.global_update):
        for got, expected in zip(
            update(NETWORK, pairs(), rule), update(NETWORK, pairs(), same), strict=True
        ):
            testing.assert_same_update(got, 3.0 * expected, 1e-10)


def test_a_linear_score_in_a_loss_that_is_not_linear():
    rule = ll.Rule("own", Softened(scores.Linear()), penalty=0.1)
    assert not rule.has_linear_score
    for got, expected in zip(
        ll.local_update(NETWORK, pairs(), rule),
        autodiff.local_update(NETWORK, pairs(), rule),
        strict=True,
    ):
        testing.assert_same_update(got, expected, 1e-9)


@pytest.mark.parametrize("score", [scores.Hinge(), scores.Linear()])
def test_a_loss_may_have_other_weights(score):
    loss = Heavier(score)
    assert summand_of(loss) is score
    rule = ll.Rule("own", loss, penalty=0.2)
    same = ll.Rule("same", losses.TypeOne(score), penalty=0.1)
    for got, expected in zip(
        ll.local_update(NETWORK, pairs(), rule),
        ll.local_update(NETWORK, pairs(), same),
        strict=True,
    ):
        testing.assert_same_update(got, 2.0 * expected, 1e-10)


class Thrice(losses.Goodness):
    """Three times the goodness loss, by its own formula."""

    def value(self, goodness, pairs):
        return 3.0 * super().value(goodness, pairs)

    def gradient(self, goodness, pairs):
        return 3.0 * super().gradient(goodness, pairs)


@pytest.mark.parametrize("context", ["self", "sum"])
def test_a_goodness_with_its_own_formula(context):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 7, 6))
    batch = (
        ll.Pairs.from_positive_negative(x, y) if context == "self" else ll.Pairs.from_views(x, y)
    )
    rule = ll.Rule("own", Thrice(), context, "none")
    plain = replace(rule, loss=losses.Goodness())
    for mine, oracle in (
        (ll.local_update, autodiff.local_update),
        (ll.global_update, autodiff.global_update),
    ):
        for got, expected, single in zip(
            mine(NETWORK, batch, rule),
            oracle(NETWORK, batch, rule),
            mine(NETWORK, batch, plain),
            strict=True,
        ):
            testing.assert_same_update(got, expected, 1e-12)
            testing.assert_same_update(got, 3.0 * single, 1e-12)


def test_a_goodness_with_its_own_formula_in_torch():
    good, bad = torch.rand(4, dtype=torch.float64), torch.rand(3, dtype=torch.float64)
    good.requires_grad_()
    value = autodiff.goodness_formula(Thrice())(good, bad)
    plain = autodiff.goodness_formula(losses.Goodness())(good, bad)
    torch.testing.assert_close(value, 3.0 * plain, rtol=1e-14, atol=0)
    (slope,) = torch.autograd.grad(value, good, create_graph=True)
    torch.testing.assert_close(
        slope.detach(), 3.0 * torch.autograd.grad(plain, good)[0], rtol=1e-14, atol=0
    )
    with pytest.raises(NotImplementedError, match="a second was asked for"):
        torch.autograd.grad(slope.sum(), good)
