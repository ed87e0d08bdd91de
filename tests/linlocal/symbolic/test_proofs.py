"""Every theorem is proved for all sizes and at sizes, and not without one of its hypotheses."""

from dataclasses import replace
from itertools import product

import pytest
import sympy as sp

import linlocal.symbolic as symbolic
from linlocal import losses, rules
from linlocal.symbolic import THEOREMS, NotApplicable, formulas, proofs, prove, statements
from linlocal.symbolic.formulas import C, G, V, Z
from linlocal.symbolic.theorems import Lemma
from linlocal.symbolic.words import Expression, Rewrite, identity

CASES = [
    pytest.param(name, rule, id=f"{name}: {rule.name}")
    for name, theorem in THEOREMS.items()
    for rule in theorem.rules
]
AT_SIZES = [c for c in CASES if not THEOREMS[c.values[0]].words_only]
DROPPED = [(name, h.name) for name, t in THEOREMS.items() for h in t.hypotheses]


def test_statements_1_to_9_are_there():
    assert sorted(t.number for t in THEOREMS.values()) == list(range(1, 10))


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_proved_for_all_sizes(name, rule):
    proof = prove(name, rule=rule)
    assert proof.holds, proof.derivation
    assert proof.residual.is_zero
    # No lemma is zero before anything is used.
    assert all(" by " in lemma.text for lemma in proof.lemmas)


@pytest.mark.parametrize(("name", "rule"), AT_SIZES)
@pytest.mark.timeout(300)
def test_proved_at_all_sizes_up_to_three(name, rule):
    # Networks of three layers are made of the same cases as those of two.
    for widths in proofs.PROVED_WIDTHS:
        proof = prove(name, widths, rule)
        assert proof.holds, proof.derivation
    assert len(proofs.PROVED_WIDTHS) == 27 + 81


@pytest.mark.parametrize(("name", "rule"), AT_SIZES)
def test_proved_for_other_numbers_of_pairs(name, rule):
    for num_pairs in (1, 3):
        for widths in ((1, 2, 3), (3, 2, 1), (2, 2, 2)):
            assert prove(name, widths, rule, num_pairs).holds


@pytest.mark.parametrize(("name", "without"), DROPPED)
def test_no_hypothesis_can_be_dropped(name, without):
    proof = prove(name, without=without)
    assert not proof.holds
    assert not proof.residual.is_zero
    print(f"\n{name} without {without}: {proof.residual}")
    if not THEOREMS[name].words_only:
        at_size = prove(name, (1, 1, 1) if name == "convolution" else (1, 2, 2), without=without)
        assert not at_size.holds
        assert any(e != 0 for e in at_size.residual)


@pytest.mark.parametrize("name", THEOREMS)
def test_every_hypothesis_is_used_in_words(name):
    theorem = THEOREMS[name]
    assert len({h.name for h in theorem.hypotheses}) == len(theorem.hypotheses) > 0
    with pytest.raises(ValueError, match="has no hypothesis 'warmth'"):
        prove(name, without="warmth")


def test_the_call_of_the_issue():
    proof = symbolic.prove("isometry", widths=(2, 2, 3))
    assert proof.holds
    assert proof.residual == sp.zeros(2, 2)
    assert proof.size == "widths 2 -> 2 -> 3, 2 pairs"
    assert proof.seconds > 0
    assert "free symbols" in str(proof)


def test_the_derivation_names_the_rule_of_each_step():
    text = prove("isometry").derivation
    for line in (
        "by isometry on the anchors: Z_l G = Z_l",
        "by same dual equation: D_L = D_l",
        "by same penalty: lam_l = lam",
        "slopes: same dual equation: 0, as claimed",
    ):
        assert line in text
    assert "NOT zero" in prove("isometry", without="isometry").derivation


def test_slopes_are_shared_only_once_they_are_proved_equal():
    # Without an isometry the dual equations differ, and so may the slopes.
    in_words = prove("isometry", without="isometry")
    assert {"D_l", "D_L"} <= in_words.residual.letters.keys()
    at_size = prove("isometry", (1, 2, 2), without="isometry")
    symbols = {str(s) for s in at_size.residual.free_symbols}
    assert {"D_l_0", "D_L_0"} <= symbols
    # With a linear score they are constants.
    linear = prove("isometry", rule=rules.CLAPP("linear"), without="isometry")
    assert "D_L" not in linear.residual.letters


def test_the_bound_on_the_cosine_is_attained():
    g, x = sp.diag(1, 4), sp.Matrix([2, 1])
    cosine = (x.T * g * x)[0] / sp.sqrt((x.T * x)[0] * (x.T * g * g * x)[0])
    kappa = sp.Integer(4)
    assert cosine == 2 * sp.sqrt(kappa) / (1 + kappa) == sp.Rational(4, 5)


def test_pooled_maps_under_the_metric_penalty():
    rule = replace(rules.CLAPP(), pooling=(2, 2))
    assert prove("metric_penalty", rule=rule).holds
    assert not prove("metric_penalty", rule=rule, without="metric").holds


def test_a_product_of_isometries_is_one():
    # The theorems speak of V; in a network it is W_L ... W_{l+1}: one step of the induction.
    w, above = formulas.letter("W", "m", "l"), formulas.letter("U", "L", "m")
    given = (
        Rewrite("W_{l+1} isometric", w.T @ w, identity("l")),
        Rewrite("downstream isometric", above.T @ above, identity("m")),
    )
    v = above @ w
    assert proofs.reduce(v.T @ v - identity("l"), given).result.is_zero
    assert not proofs.reduce(v.T @ v - identity("l"), given[:1]).result.is_zero
    # Widths may not shrink on the way: with orthonormal rows nothing follows.
    rows = Rewrite("narrowing", w @ w.T, identity("m"))
    assert not proofs.reduce(v.T @ v - identity("l"), (rows, given[1])).result.is_zero


# -- reasons -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rule", "reason"),
    [
        ("isometry", rules.PhyLL(), "fixed at the identity"),
        ("isometry", rules.ForwardForward(), "goodness loss"),
        ("isometry", replace(rules.CLAPP(), projection="matched"), "matched, not optimal"),
        ("isometry", replace(rules.CLAPP(), pooling=(2, 1)), "pools its maps"),
        ("score_matching", replace(rules.CLAPP(), projection="random"), "random"),
        ("score_matching", rules.SimCLR(), "view loss"),
        ("conformal", rules.CLAPP(penalty=rules.Penalty(0.1, "downstream")), "exact already"),
        ("metric_penalty", rules.SCFF(), "goodness loss"),
        ("invariance", rules.VICReg(), "per unit"),
        ("invariance", rules.BarlowTwins(), "per unit"),
        ("invariance", rules.LPL(), "per unit"),
        ("invariance", rules.CLAPP(), "statement 2"),
        ("linear_score", rules.CLAPP("softplus"), "not linear"),
        ("linear_score", rules.GreedyInfoMax(), "not linear"),
        ("linear_score", rules.CLAPP_BOTH("linear"), "two contexts"),
        ("alignment_bound", rules.CLAPP("linear"), "not the top layer"),
        ("feedback_order", rules.CLAPP_DFB("linear"), "compares"),
        ("convolution", rules.CLAPP_BOTH(), "two contexts"),
        ("linear_score", rules.CLAPP_EACH("linear"), "two contexts"),
        ("conformal", rules.CLAPP_EACH(), "lam/a\\^2 and lam/a at once"),
        ("convolution", rules.CLAPP_EACH(), "two contexts"),
    ],
)
def test_a_theorem_that_does_not_apply_says_why(name, rule, reason):
    for widths in (None, (2, 2, 2)):
        with pytest.raises(NotApplicable, match=reason):
            prove(name, widths, rule)


@pytest.mark.parametrize(
    ("widths", "num_pairs", "reason"),
    [
        ((2, 2), 2, "no layer below the top"),
        ((2, 2, 5), 2, "widths 1..4"),
        ((2, 0, 2), 2, "widths 1..4"),
        ((2, 2, 2), 0, "1..4 pairs"),
        ((2, 2, 2), 9, "1..4 pairs"),
    ],
)
def test_an_unsupported_size_says_why(widths, num_pairs, reason):
    with pytest.raises(NotApplicable, match=reason):
        prove("isometry", widths, num_pairs=num_pairs)


def test_unknown_theorems_and_words_only():
    with pytest.raises(ValueError, match="Unknown theorem 'flatness'; known theorems are"):
        prove("flatness")
    with pytest.raises(NotApplicable, match="words only"):
        prove("feedback_order", (2, 2, 2))


def test_a_rule_of_a_user_is_proved_too():
    rule = rules.Rule("mine", losses.InfoNCE(0.3), "both", "optimal", 0.2)
    for name in ("score_matching", "isometry", "conformal", "metric_penalty"):
        assert prove(name, rule=rule).holds
        assert prove(name, (1, 2, 2), rule).holds


@pytest.mark.parametrize("name", ["score_matching", "isometry", "metric_penalty"])
def test_a_loss_of_each_context_is_proved_and_needs_every_hypothesis(name):
    rule = rules.CLAPP_EACH("softplus")
    for widths in (None, (1, 2, 2), (2, 1, 2)):
        assert prove(name, widths, rule).holds
    for hypothesis in THEOREMS[name].hypotheses:
        assert not prove(name, rule=rule, without=hypothesis.name).holds


# -- sabotage: what must not be provable -----------------------------------------------------------


def broken(monkeypatch, change):
    """Prove the isometry theorem from sabotaged formulas, in words and at a size."""
    original = formulas.of_rule
    monkeypatch.setattr(statements.formulas, "of_rule", lambda *a: change(original(*a)))
    return prove("isometry"), prove("isometry", (1, 2, 2))


@pytest.mark.parametrize(
    "change",
    [
        lambda f: replace(f, local=2 * f.local),
        lambda f: replace(f, local=-f.local),
        lambda f: replace(f, global_=V.T @ V @ f.global_),
        lambda f: replace(f, local=f.local @ formulas.BELOW.T @ formulas.BELOW),
        lambda f: replace(f, local_scores=2 * f.local_scores),
        lambda f: replace(f, local_scores=formulas.hadamard(Z @ C.T, Z @ C.T)),
    ],
    ids=["factor", "sign", "extra G", "extra factor", "kernel scaled", "wrong kernel"],
)
def test_a_wrong_formula_is_noticed(monkeypatch, change):
    in_words, at_size = broken(monkeypatch, change)
    # An additional G = V^T V is the identity here, so nothing but that may pass.
    expected = (
        change(formulas.of_rule(rules.CLAPP())).global_ != formulas.of_rule(rules.CLAPP()).global_
    )
    assert in_words.holds == expected
    assert at_size.holds == expected


def test_an_isometry_on_the_wrong_side_proves_nothing(monkeypatch):
    wrong = (Rewrite("wrong side", V @ V.T, identity("L")),)
    monkeypatch.setattr(statements, "_isometric", lambda kept: wrong)
    assert not prove("isometry").holds


def test_a_model_that_violates_its_hypotheses_is_noticed(monkeypatch):
    monkeypatch.setattr(proofs, "semi_orthogonal", lambda q, rows, columns: q * 2)
    with pytest.raises(AssertionError, match="violates isometry on the anchors"):
        prove("isometry", (1, 2, 2), rules.CLAPP("smoothed_hinge"), num_pairs=4)


def test_both_calculi_reject_a_false_lemma():
    false = Lemma("false", G @ Z.T - 2 * Z.T, (formulas.METRIC, Rewrite("iso", Z @ G, Z)))
    assert isinstance(false.expression, Expression)
    assert not proofs._in_words([false])[0].holds
    false = replace(
        false, given=(formulas.METRIC, *statements._isometric(frozenset({"isometry"}))[1:2])
    )
    for size in product((1, 2), repeat=3):
        assert not proofs._at_size((false,), *size, 2)[0].holds
