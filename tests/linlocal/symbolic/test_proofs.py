"""Every theorem is proved for all sizes and at sizes, and not without one of its hypotheses."""

import re
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import sympy as sp

import linlocal as ll
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
AT_SIZES = [
    c for c in CASES if not (THEOREMS[c.values[0]].words_only or THEOREMS[c.values[0]].base)
]
THREE_LAYERS = {(2, 2, 2, 2), (2, 1, 2, 2), (1, 2, 2, 1), (2, 2, 1, 3)}
OF_WINDOWS = [c for c in CASES if THEOREMS[c.values[0]].base]
DROPPED = [(name, h.name) for name, t in THEOREMS.items() for h in t.hypotheses]


def deep(rule, widths):
    """The rule with as many penalties as layers, where each layer has its own."""
    if not isinstance(rule.penalty.strength, tuple):
        return rule
    below, top = rule.penalty.strength
    return rule.with_penalty((below,) * (len(widths) - 2) + (top,))


def test_statements_1_to_9_and_12_are_there():
    assert {t.number for t in THEOREMS.values()} == {*range(1, 10), 12}
    assert {t.base for t in THEOREMS.values()} - {""} <= THEOREMS.keys()


@pytest.mark.parametrize(("name", "rule"), CASES)
def test_proved_for_all_sizes(name, rule):
    proof = prove(name, rule=rule)
    assert proof.holds, proof.derivation
    assert proof.residual.is_zero
    # No lemma is zero before anything is used.
    assert all(" by " in lemma.text for lemma in proof.lemmas)


@pytest.mark.parametrize(("name", "rule"), AT_SIZES)
def test_proved_at_sizes(name, rule):
    # Three layers differ from two by bottlenecks alone, and one width of 3 has both neighbours that
    # it can be narrower or wider than: the slow test has them all.
    for widths in proofs.PROVED_WIDTHS:
        if (len(widths) == 3 and widths.count(3) < 2) or widths in THREE_LAYERS:
            proof = prove(name, widths, deep(rule, widths))
            assert proof.holds, proof.derivation


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rule"), AT_SIZES)
@pytest.mark.timeout(300)
def test_proved_at_all_sizes_up_to_three(name, rule):
    for widths in proofs.PROVED_WIDTHS:
        proof = prove(name, widths, deep(rule, widths))
        assert proof.holds, proof.derivation
    assert len(proofs.PROVED_WIDTHS) == 27 + 81


@pytest.mark.parametrize(("name", "rule"), OF_WINDOWS)
def test_windows_are_proved_at_sizes(name, rule):
    # Narrowing and widening inside the window and above it, and a window below another layer.
    for widths in proofs.PROVED_WINDOWS:
        proof = prove(name, widths, deep(rule, widths))
        assert proof.holds, proof.derivation
        windows = [c for c in proof.covers if c.startswith("layers ")]
        assert len(windows) == {3: 1, 4: 3}[len(widths) - 1]


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
        size = (1, 2, 2, 2) if THEOREMS[name].base else (1, 2, 2)
        at_size = prove(name, (1, 1, 1) if name == "convolution" else size, without=without)
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
    rule = rules.Rule("mine", losses.InfoNCE(0.3), "both", "optimal", (0.4, 0.2))
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
        assert not proofs._at_size((false,), *size, 2)[0][0].holds


# -- what a proof covers -------------------------------------------------------------------------


def test_numpy_integers_are_whole_numbers():
    for widths, pairs in (
        (np.array([2, 2, 3]), 2),
        ([np.int64(2), np.int32(2), 3], np.int64(2)),
        (iter((2, 2, 3)), np.uint8(2)),
    ):
        assert prove("isometry", widths, num_pairs=pairs) == prove("isometry", (2, 2, 3))
    with pytest.raises(TypeError, match="whole number"):
        prove("isometry", np.array([2.0, 2.0, 3.0]))


def test_a_proof_says_which_maps_it_covers():
    def covered(*widths, name="isometry"):
        return prove(name, widths).covers

    assert "every width" in prove("isometry").covers[0]
    assert covered(1, 1, 1) == ("layer 1: V = 1",)
    (square,) = covered(2, 2, 2)
    assert "rotations of 2 dimensions without an eigenvalue -1" in square
    assert "3 x 2 block" in covered(2, 2, 3)[0]
    narrowing = covered(2, 3, 2)[0]
    assert "2 x 3 block" in narrowing
    assert "activities in its row space, 2 of 3 dimensions" in narrowing
    # A bottleneck above cannot realise a rotation.
    bottleneck, above = covered(2, 3, 1, 3)
    assert "V of rank 1" in bottleneck
    assert "activities in its row space, 1 of 3 dimensions" in bottleneck
    assert "3 x 1 block" in above
    assert covered(2, 3, 1, 3, name="score_matching") == ("layer 1: any V", "layer 2: any V")


@pytest.mark.parametrize(
    ("rule", "factors"),
    [
        (rules.CLAPP(), "a = 1 only"),
        (rules.CLAPP_BOTH(penalty=0.2), "a = 1.618 only"),
        (rules.CLAPP(penalty=rules.Penalty((0.1, 0.9))), "a = 3 by layer"),
        (rules.CLAPP_DFB(penalty=rules.Penalty((0.1, 0.3, 0.9))), "a = 9, 3 by layer"),
    ],
)
def test_conformal_maps_whose_penalties_the_rule_has(rule, factors):
    proof = prove("conformal", rule=rule)
    assert proof.covers[-1].endswith(factors)
    # As claimed, on a network with these factors.
    strengths = rule.penalty.strength
    depth = len(strengths) if isinstance(strengths, tuple) else 2
    scales = [float(a) for a in re.findall(r"[\d.]+", factors)] + [1.0]
    if depth == 2 and scales[0] == 1.618:
        scales[0] = (1 + 5**0.5) / 2
    weights = [np.eye(4)]
    weights += [np.sqrt(a / b) * np.eye(4) for a, b in pairwise(scales)]
    pairs = ll.Pairs.from_views(*ll.testing.samples(6, 4, 0))
    compared = ll.compare(ll.DeepLinear(weights), pairs, rule)
    assert float(compared.relative_error.max()) < 1e-11


# -- hypotheses that the rule itself violates -----------------------------------------------------


@pytest.mark.parametrize("name", ["isometry", "metric_penalty", "linear_score", "feedback_order"])
def test_penalties_that_violate_a_theorem_are_refused(name):
    for base in (name, f"window_{name}"):
        if base not in THEOREMS:
            continue
        wrong = rules.CLAPP("linear", penalty=rules.Penalty((0.1, 0.5, 0.1)))
        with pytest.raises(NotApplicable, match=r"'same_penalty'.* in layer 2"):
            prove(base, rule=wrong)
        right = wrong.with_penalty((0.1, 0.1, 0.1))
        assert prove(base, rule=right).holds
        if name != "feedback_order":
            # Who drops the hypothesis may violate it.
            assert not prove(base, rule=wrong, without="same_penalty").holds


def test_a_number_of_penalties_that_is_not_that_of_the_layers():
    rule = rules.CLAPP(penalty=rules.Penalty((0.1, 0.1, 0.1)))
    with pytest.raises(NotApplicable, match=r"3 penalties, .* have 2 layers"):
        prove("isometry", (2, 2, 2), rule)
    assert prove("isometry", (1, 2, 2, 2), rule).holds


def test_both_contexts_need_twice_the_penalty_below_the_top():
    with pytest.raises(NotApplicable, match=r"lam_l = 2 lam_L .* take the penalty \(0.4, ..., 0.4"):
        prove("isometry", rule=rules.CLAPP_BOTH(penalty=0.2))
    network = ll.DeepLinear.orthogonal([4, 4, 4], seed=0)
    pairs = ll.Pairs.from_views(*ll.testing.samples(6, 4, 0))
    for penalty, equal in ((0.2, False), ((0.4, 0.2), True)):
        rule = rules.CLAPP_BOTH("softplus", penalty=rules.Penalty(penalty))
        error = float(ll.compare(network, pairs, rule).relative_error.max())
        assert (error < 1e-11) == equal


def test_goodness_is_not_pooled():
    with pytest.raises(NotApplicable, match="pools its maps"):
        prove("invariance", rule=replace(rules.ForwardForward(), pooling=(2, 1)))


def test_a_window_needs_a_layer_above_it():
    with pytest.raises(NotApplicable, match="no window of several layers below the top"):
        prove("window_isometry", (2, 2, 2))
