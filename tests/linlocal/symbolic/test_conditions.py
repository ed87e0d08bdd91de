"""`derive` reads the exact condition off a rule; Groebner bases say what it means for G."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import sympy as sp

import linlocal as ll
from linlocal import losses, rules
from linlocal.losses import scores
from linlocal.rules import Penalty, Rule
from linlocal.symbolic import NotApplicable, derive
from linlocal.symbolic.conditions import metric_symbols
from linlocal.testing import Exponential

g00, g01, g11 = metric_symbols(2)[0, 0], metric_symbols(2)[0, 1], metric_symbols(2)[1, 1]
ISOMETRY = {g00 - 1, g01, g11 - 1}


@pytest.mark.parametrize(
    ("rule", "equation", "factored"),
    [
        (rules.CLAPP("linear"), "G M G N = M N", "(G M G - M) N = 0"),
        (rules.CLAPP_DFB("linear"), "G X = X", "(G - I) X = 0"),
        (rules.CLAPP_BOTH("linear"), "G M G N = M G N + M N", "(G M G - M G - M) N = 0"),
        (
            rules.CLAPP_EACH("linear"),
            "G M G N = 1/2 M G N + 1/2 M N",
            "(G M G - 1/2 M G - 1/2 M) N = 0",
        ),
        (rules.PhyLL("linear"), "G X = X", "(G - I) X = 0"),
        (
            Rule("FF", losses.Goodness(1.0, scores.Linear()), "self", "none"),
            "G Z_l^T D_l Z_{l-1} = Z_l^T D_l Z_{l-1}",
            "(G - I) Z_l^T D_l Z_{l-1} = 0",
        ),
    ],
    ids=["CLAPP", "DFB", "both", "each", "PhyLL", "FF"],
)
def test_the_condition_of_a_linear_score_is_read_off(rule, equation, factored):
    found = derive(rule)
    assert found.equation == equation
    assert found.factored == factored
    assert found.slopes is None
    assert "if and only if" in str(found)


@pytest.mark.parametrize(
    ("rule", "slopes"),
    [
        (rules.CLAPP("softplus"), "[C_l C_l^T * Z_l Z_l^T] = [C_l G C_l^T * Z_l G Z_l^T]"),
        (rules.GreedyInfoMax(), "[C_l C_l^T * Z_l Z_l^T] = [C_l G C_l^T * Z_l G Z_l^T]"),
        (rules.ForwardForward(), "[I * Z_l G Z_l^T] = [I * Z_l Z_l^T]"),
        (rules.SCFF(), "[I * Z_l G Z_l^T] = [I * Z_l Z_l^T]"),
        (rules.SpectralContrastive(), "Z_l G Z_l^T = Z_l Z_l^T"),
    ],
    ids=lambda v: v if isinstance(v, str) else v.name,
)
def test_a_nonlinear_score_has_a_second_condition(rule, slopes):
    found = derive(rule)
    assert sorted(found.slopes.equation.split(" = ")) == sorted(slopes.split(" = "))
    assert "if and only if" not in str(found)
    assert slopes.split(" = ")[0] in str(found)


def test_rules_that_are_always_exact():
    metric = rules.CLAPP("softplus", penalty=Penalty(0.1, "downstream"))
    for rule in (metric, replace(rules.CLAPP_DFB(), projection="matched")):
        found = derive(rule)
        assert found.always
        assert "for every V" in str(found)
        assert found.on_metric(2) == ()
        assert found.implied_by("orthonormal rows", 2, 1).holds
    assert not derive(rules.CLAPP()).always


def test_what_equality_for_all_data_says_of_the_metric():
    assert set(derive(rules.CLAPP_DFB("linear")).on_metric(2)) == ISOMETRY
    assert set(derive(rules.ForwardForward()).on_metric(2)) == ISOMETRY
    # G = I or G = -I, and only the first is positive semidefinite.
    assert set(derive(rules.CLAPP("linear")).on_metric(2)) == {
        g00 - g11,
        g01,
        (g11 - 1) * (g11 + 1),
    }
    three = derive(rules.CLAPP_DFB("linear")).on_metric(3)
    assert set(three) == set(metric_symbols(3) - sp.eye(3))


def test_the_penalty_of_a_conformal_map_is_read_off():
    # Statement 3, lam_l = lam/a^2, comes out, nobody put it in.
    rule = rules.CLAPP("linear", penalty=Penalty((0.1, 0.2)))
    lam, lam_l = sp.symbols("lam lam_l", positive=True)
    assert set(derive(rule).on_metric(2)) == {g00 - g11, g01, g11**2 * lam_l - lam}
    implied = derive(rule).implied_by("conformal", 2, 2)
    assert not implied.holds
    a = sp.Symbol("a", positive=True)
    assert {sp.simplify(r.subs(lam_l, lam / a**2)) for r in implied.remainders} == {0}


def test_both_contexts_under_one_penalty_want_the_golden_ratio():
    rule = rules.CLAPP_BOTH("linear", penalty=0.3)
    assert g11**2 - g11 - 1 in derive(rule).on_metric(2)
    golden = (1 + np.sqrt(5)) / 2
    x, view = ll.testing.samples(5, 3, 0)
    pairs = ll.Pairs.from_views(x, view)
    for a, equal in ((golden, True), (1.0, False)):
        net = ll.DeepLinear.conformal([3, 3, 3], np.sqrt(a), seed=1)
        error = float(ll.compare(net, pairs, rule).sel(layer=1)["relative_error"])
        assert (error < 1e-13) == equal


def test_a_loss_of_each_context_has_a_condition_on_the_slopes_of_each():
    found = derive(rules.CLAPP_EACH("softplus"))
    parts = [derive(rule("softplus")) for rule in (rules.CLAPP, rules.CLAPP_DFB)]
    assert [found.slopes, found.second_slopes] == [part.slopes for part in parts]
    assert all(part.slopes.equation in str(found) for part in parts)
    assert all(part.second_slopes is None for part in parts)
    assert set(found.on_metric(2)) == ISOMETRY
    # Constant slopes leave G = -I/2 as well, which is not positive semidefinite.
    constant = derive(rules.CLAPP_EACH("linear")).on_metric(2)
    assert set(constant) == {g00 - g11, g01, (g11 - 1) * (2 * g11 + 1)}
    for options in ({"projection": "matched"}, {"penalty": Penalty(0.1, "downstream")}):
        assert derive(replace(rules.CLAPP_EACH(), **options)).always


@pytest.mark.parametrize("rule", [rules.CLAPP("linear"), rules.CLAPP_DFB("softplus"), rules.SCFF()])
def test_groebner_bases_decide_what_a_condition_implies(rule):
    found = derive(rule)
    for width, top in ((1, 1), (1, 2), (2, 2), (2, 3), (3, 3)):
        assert found.implied_by("isometry", width, top).holds
    narrowing = found.implied_by("orthonormal rows", 2, 1)
    assert not narrowing.holds
    assert narrowing.remainders
    # For a square matrix both sides are the same condition.
    assert found.implied_by("orthonormal rows", 2, 2).holds
    assert not found.implied_by("conformal", 2, 2).holds
    assert found.implied_by(lambda v: v - sp.eye(2), 2, 2).holds
    assert not found.implied_by(lambda v: v - 2 * sp.eye(2), 2, 2).holds
    with pytest.raises(ValueError, match="Unknown condition 'nice'"):
        found.implied_by("nice", 2, 2)


@dataclass(frozen=True)
class PerUnit:
    def value(self, z, z_view):
        return float(np.sum(z**4))

    def gradients(self, z, z_view):
        return 4 * z**3, 0 * z_view


@dataclass(frozen=True)
class Pull:
    def value(self, z, z_view):
        return float(np.sum((z - z_view) ** 2))

    def gradients(self, z, z_view):
        return 2 * (z - z_view), 2 * (z_view - z)


def test_rules_of_a_user():
    rule = Rule("mine", losses.TypeTwo(Exponential()), "top", "optimal", 0.1)
    assert derive(rule).factored == "(G - I) X = 0"
    assert derive(rule).slopes is not None
    assert derive(Rule("pull", Pull(), "views", "none")).factored.startswith("(G - I) Z_l^T")
    with pytest.raises(NotApplicable, match="inner products"):
        derive(Rule("per unit", PerUnit(), "views", "none"))
    with pytest.raises(NotApplicable, match="random"):
        derive(replace(rules.CLAPP(), projection="random"))


def test_a_pooled_rule_is_read_in_words():
    found = derive(replace(rules.CLAPP("linear"), pooling=(2, 1)))
    assert not found.always
    assert "P_L V" in found.equation
    with pytest.raises(NotApplicable, match="read it as words"):
        found.on_metric(2)


def test_the_condition_decides_on_data():
    # G M G N = M N with G != I: the condition of statement 6 holds, the isometry does not.
    v = np.diag([1.0, 2.0])
    z = np.array([[1.0, 0.0], [2.0, 0.0]])
    samples = np.vstack([z, [[3.0, 0.0], [1.0, 0.0]]])
    direction = ll.Direction(
        np.array([0, 1]), np.array([2, 3]), np.array([1.0, -1.0]), np.array([0, 0])
    )
    pairs = ll.Pairs(samples, (direction,))
    for first, equal in ((v, True), (v @ np.array([[0.6, -0.8], [0.8, 0.6]]), False)):
        net = ll.DeepLinear([np.eye(2), first])
        ds = ll.compare(net, pairs, rules.CLAPP("linear"))
        assert (float(ds.sel(layer=1)["relative_error"]) < 1e-13) == equal
