"""What a proof takes for granted of a loss is proved, searched for, or said to be unproved."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import sympy as sp

import linlocal as ll
from linlocal import losses, rules
from linlocal.losses import scores
from linlocal.rules import Penalty, Rule
from linlocal.symbolic import THEOREMS, NotApplicable, assumptions, derive, prove
from linlocal.testing import Exponential

OPTIMAL = ("isometry", "conformal", "metric_penalty", "window_isometry", "window_metric_penalty")


@dataclass(frozen=True)
class Variance:
    """A pull of both views and a hinge on the standard deviation of each unit."""

    target: float

    def value(self, z, z_view):
        hinge = sum(np.sum(np.maximum(0.0, self.target - a.std(axis=0))) for a in (z, z_view))
        return float(np.sum((z - z_view) ** 2) + hinge)

    def gradients(self, z, z_view):
        def push(a):
            centred, std = a - a.mean(axis=0), a.std(axis=0)
            return (
                np.where(std < self.target, -1.0, 0.0)
                * centred
                / (len(a) * np.maximum(std, 1e-300))
            )

        pull = 2.0 * (z - z_view)
        return pull + push(z), -pull + push(z_view)


def of_views(loss):
    return Rule("mine", loss, "views", "none")


def of_score(score, context="same", **options):
    return Rule("mine", losses.TypeTwo(score), context, "optimal", 0.1, **options)


# -- inner products ------------------------------------------------------------------------------


def test_a_term_that_is_inactive_at_one_size_is_found_at_another():
    # Active below a standard deviation of 0.1: not at the size of the activities, but at 0.01.
    rule = of_views(Variance(0.1))
    for ask in (lambda: prove("invariance", rule=rule), lambda: derive(rule)):
        with pytest.raises(
            NotApplicable, match=r"'inner products': .* size 0\.01 changes its grad"
        ):
            ask()


def test_what_no_search_finds_is_not_proved():
    # Active where nobody looks. The statement is false, and the proof does not say it is true.
    rule = of_views(Variance(1e-6))
    for widths in (None, (1, 2, 2)):
        proof = prove("invariance", widths, rule)
        assert proof.holds is None
        assert not proof.holds
        assert proof.holds_if_assumed
        (assumed,) = proof.assumptions
        assert (assumed.name, assumed.status) == ("inner products", "checked numerically")
        assert not assumed.verified
        assert "NOT PROVED: it holds if what is assumed is true" in str(proof)
        assert "no violation under" in str(proof)
    found = derive(rule)
    assert not found.always
    assert "assumed: inner products" in str(found)
    assert found.implied_by("isometry", 2, 2).holds is None
    assert found.implied_by("conformal", 2, 2).holds is False
    small = 1e-7 * np.vstack(ll.testing.samples(6, 3, 0))
    network = ll.DeepLinear.orthogonal([3, 3, 3], seed=0)
    pairs = ll.Pairs.from_views(small[:6], small[6:], negatives=None)
    assert float(ll.compare(network, pairs, rule).relative_error[0]) > 0.1


def test_a_lemma_that_fails_is_false_and_not_open():
    proof = prove("invariance", rule=of_views(Variance(1e-6)), without="isometry")
    assert proof.holds is False
    assert proof.holds_if_assumed is False


def test_a_subclass_of_a_known_loss_is_not_known():
    class Mine(losses.SpectralContrastive):
        pass

    known, mine = (
        prove("invariance", rule=of_views(x)) for x in (losses.SpectralContrastive(), Mine())
    )
    assert known.holds is True
    assert mine.holds is None

    class Shifted(losses.SpectralContrastive):
        def gradients(self, z, z_view):
            return z + 1.0, z_view

    with pytest.raises(NotApplicable, match="inner products"):
        prove("invariance", rule=of_views(Shifted()))


def test_a_gradient_of_rounding_errors_is_no_violation():
    class Constant:
        def value(self, z, z_view):
            return float(np.sum(z**2) - np.sum(z * z) + 1.0)

        def gradients(self, z, z_view):
            noise = 1e-17 * np.random.default_rng(len(z.T)).standard_normal(z.shape) / 1e3
            return noise, noise

    assert assumptions.inner_products_violation(Constant()) == ""


# -- convex losses -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sabotaged:
    """An exponential score with one of its functions changed."""

    change: str

    def value(self, m):
        return -np.exp(-m) if self.change == "concave" else np.exp(-m)

    def slope(self, m):
        return {"concave": 1.0, "slope": -0.5, "sign": 1.0}.get(self.change, -1.0) * np.exp(-m)

    def curvature(self, m):
        factor = {"concave": -1.0, "curvature": 2.0, "negative": -1.0}.get(self.change, 1.0)
        return factor * np.exp(-m)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("concave", "not convex"),
        ("slope", "slope is not its derivative"),
        ("sign", "slope is not its derivative"),
        ("curvature", "curvature is not the derivative of its slope"),
        ("negative", "curvature .* is negative"),
    ],
)
@pytest.mark.parametrize("name", OPTIMAL)
def test_a_score_that_violates_the_hypothesis_is_refused(change, reason, name):
    rule = of_score(Sabotaged(change))
    with pytest.raises(NotApplicable, match=f"'convex': .*{reason}"):
        prove(name, rule=rule)
    # Who drops the optimum needs no convex loss, and score matching never did.
    assert prove(name, rule=rule, without="optimal").holds is False
    assert prove("score_matching", rule=rule).holds_if_assumed


def test_derive_refuses_a_concave_score_too():
    with pytest.raises(NotApplicable, match="'convex'"):
        derive(of_score(Sabotaged("concave")))


@pytest.mark.parametrize("name", OPTIMAL)
@pytest.mark.parametrize("score", [Exponential(), Sabotaged("none")])
def test_a_score_of_a_user_is_checked_but_not_proved(name, score):
    proof = prove(name, rule=of_score(score))
    assert proof.holds is None
    assert proof.holds_if_assumed
    (assumed,) = proof.assumptions
    assert (assumed.name, assumed.status) == ("convex", "checked numerically")


@dataclass(frozen=True)
class Square:
    """(1 - m)^2: convex, but it grows again beyond 1."""

    def value(self, m):
        return (1.0 - m) ** 2

    def slope(self, m):
        return -2.0 * (1.0 - m)

    def curvature(self, m):
        return np.full_like(m, 2.0)


def test_no_theorem_needs_a_decreasing_score():
    rule = of_score(Square())
    assert prove("isometry", rule=rule).holds_if_assumed
    network = ll.DeepLinear.orthogonal([6, 5, 5, 7], seed=0)
    pairs = ll.Pairs.from_views(*ll.testing.samples(8, 6, 0))
    assert float(ll.compare(network, pairs, rule).relative_error.max()) < 1e-11


@dataclass(frozen=True)
class Kinked:
    """|1 - m|, with a kink that the search may meet."""

    def value(self, m):
        return np.abs(1.0 - m)

    def slope(self, m):
        return np.where(m < 1.0, -1.0, 1.0)

    def curvature(self, m):
        return np.zeros_like(m)


def test_a_kink_is_no_violation():
    assert assumptions.pair_loss_violation(losses.TypeTwo(Kinked())) == ""
    for named in (scores.Hinge(), scores.SmoothedHinge(), scores.Softplus(), scores.Linear()):
        for loss in (losses.TypeOne(named), losses.TypeTwo(named)):
            assert assumptions.pair_loss_violation(loss) == ""
    assert assumptions.pair_loss_violation(losses.InfoNCE(0.3)) == ""


def test_slopes_that_change_by_themselves_are_refused():
    class Random(losses.TypeTwo):
        draws = np.random.default_rng(0)

        def gradient(self, m, pairs):
            return super().gradient(m, pairs) * self.draws.uniform(size=len(m))

    rule = Rule("mine", Random(scores.Softplus()), "same", "optimal", 0.1)
    for name in ("score_matching", "isometry"):
        with pytest.raises(NotApplicable, match="two different slopes"):
            prove(name, rule=rule)


def test_a_goodness_of_a_user_cannot_be_checked():
    class Mine(losses.Goodness):
        pass

    proof = prove("invariance", rule=Rule("mine", Mine(), "self", "none"))
    assert proof.holds is None
    assert proof.assumptions[0].status == "unverified"


# -- the package's own ---------------------------------------------------------------------------


def test_everything_of_the_package_is_proved():
    for name, theorem in THEOREMS.items():
        for rule in theorem.rules:
            assumed = theorem.check(rule)
            assert assumed
            assert all(a.verified for a in assumed), f"{name}: {rule.name}"
    for name in rules.NAMES:
        rule = rules.from_name(name)
        if rule.kind != "view":
            assert derive(rule).always is False
    assert derive(rules.CLAPP(penalty=Penalty(0.1, "downstream"))).always is True


@pytest.mark.parametrize(
    "score",
    [scores.Linear(), scores.Softplus(0.7), scores.Hinge(0.7), scores.SmoothedHinge(0.7, 0.4)],
)
def test_the_exact_scores_are_those_of_the_code(score):
    assert assumptions.score_is_convex(type(score))
    m = np.linspace(-3.0, 3.0, 61)
    given = {
        assumptions._MARGIN: getattr(score, "margin", 0.0),
        assumptions._WIDTH: getattr(score, "width", 1.0),
    }
    for order, function in enumerate((score.value, score.slope, score.curvature)):
        exact = np.zeros_like(m)
        lower = -np.inf
        for piece, end in assumptions.PIECES[type(score)]:
            upper = float(end.subs(given))
            inside = (m >= lower) & (m < upper)
            form = sp.diff(piece, assumptions._M, order).subs(given)
            exact[inside] = [float(form.subs(assumptions._M, x)) for x in m[inside]]
            lower = upper
        np.testing.assert_allclose(function(m), exact, atol=1e-12)


def test_a_score_that_is_not_convex_is_not_said_to_be(monkeypatch):
    m, margin = assumptions._M, assumptions._MARGIN
    for pieces in (
        ((-sp.log(1 + sp.exp(margin - m)), sp.oo),),
        ((sp.S.Zero, margin), (margin - m, sp.oo)),
        ((margin - m, margin), (sp.S.One, sp.oo)),
    ):
        monkeypatch.setitem(assumptions.PIECES, Square, pieces)
        assert not assumptions.score_is_convex.__wrapped__(Square)


def test_an_assumption_prints_itself():
    text = str(prove("isometry", (1, 2, 2)))
    for line in ("given    isometry:", "assumed  convex:", "covers   layer 1:"):
        assert line in text
    assert "NOT PROVED" not in text
    assert replace(prove("isometry").assumptions[0], status="unverified").verified is False
