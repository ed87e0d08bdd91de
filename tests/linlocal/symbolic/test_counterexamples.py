"""Every hypothesis has a witness, and the witnesses are what linlocal and autograd compute too."""

from dataclasses import replace

import numpy as np
import pytest
import sympy as sp

import linlocal as ll
from linlocal import autodiff
from linlocal.symbolic import (
    THEOREMS,
    counterexample,
    counterexamples,
    directions_counterexample,
    literature_counterexample,
)
from linlocal.testing import assert_same_update
from linlocal.updates import Signals

DROPPED = [(name, h.name) for name, t in THEOREMS.items() for h in t.hypotheses]


def numbers(matrix):
    return np.array(matrix.tolist(), dtype=float)


def updates(witness):
    """Local and global update of layer 1 by the dual form, by autograd where B is the witness's."""
    net, pairs = witness.setting()
    rule = witness.rule
    named = ("B_l", "B_l'", "B_e", "B_e'")
    given = next((witness.matrices[k] for k in named if k in witness.matrices), None)
    if "V_{le}" in witness.matrices:
        return of_window(net, pairs, rule, given), ll.global_update(net, pairs, rule)[0]
    if given is None:
        return ll.local_update(net, pairs, rule)[0], ll.global_update(net, pairs, rule)[0]
    # The local loss of layer 1 with the B of the witness; that of the top does not matter.
    rule = replace(rule, penalty=1.0)
    size = 1 if rule.pooling is not None else net.widths[-1]
    projections = [[numbers(given)], [np.zeros((size, size))]]
    local = autodiff.local_update(net, pairs, rule, projections)[0]
    return local, ll.global_update(net, pairs, rule)[0]


def of_window(net, pairs, rule, projection):
    """The update of layer 1 by the loss of layer 2: one sweep down from there."""
    error = error_above(net, pairs, rule, projection)
    activities = net.activities(pairs.samples)
    errors = net.backpropagate(activities, error, source=2)
    return net.update(1, activities, errors[0])


def error_above(net, pairs, rule, projection):
    """The error signal of layer 2; for a linear score with a projection of the witness, by hand."""
    if projection is None:
        return Signals(net, pairs, rule).local_error(2)
    (way,) = pairs.directions
    z = net.activities(pairs.samples).z[2]
    slopes = way.coefficient_matrix(way.sign * way.weights)
    error = np.zeros_like(z)
    error[way.anchor_rows] = slopes @ (z[way.reference_rows] @ numbers(projection).T)
    return error


@pytest.mark.parametrize(("name", "without"), DROPPED)
def test_each_hypothesis_has_a_witness(name, without):
    witness = counterexample(name, without)
    print(f"\n{witness}")
    assert any(e != 0 for e in witness.residual)
    entries = [e for m in (*witness.matrices.values(), witness.residual) for e in m]
    assert all(isinstance(e, sp.Rational) for e in entries)
    assert counterexample(name, without) == witness


DIFFERENCES = [
    (name, without)
    for name, without in DROPPED
    if (THEOREMS[name].base or name) not in ("linear_score", "alignment_bound", "feedback_order")
]


@pytest.mark.parametrize(("name", "without"), DIFFERENCES)
def test_linlocal_and_autograd_find_the_same_residual(name, without):
    witness = counterexample(name, without)
    local, tops = updates(witness)
    difference = (tops - local).reshape(numbers(witness.residual).shape)
    assert_same_update(difference, numbers(witness.residual), 1e-12, str(witness))


def linear_parts(witness):
    """M, N, G of the linear score."""
    z, c, v = (numbers(witness.matrices[k]) for k in ("Z_l", "C_l", "V"))
    y = np.diag([1.0, -1.0])
    return z.T @ y @ c, c.T @ y @ z, v.T @ v


@pytest.mark.parametrize("without", ["linear_score", "optimal", "same_penalty"])
def test_the_closed_form_needs_its_hypotheses(without):
    witness = counterexample("linear_score", without)
    local, tops = updates(witness)
    if without == "linear_score":
        # M and N of the closed form are made with the slopes of the local loss.
        assert not np.allclose(tops, local)
    else:
        m, n, g = linear_parts(witness)
        residual = tops - local - (g @ m @ g @ n - m @ n)
        assert_same_update(residual, numbers(witness.residual), 1e-12)


@pytest.mark.parametrize("without", ["direct_feedback", "linear_score", "optimal"])
def test_the_bound_on_the_cosine_needs_its_hypotheses(without):
    witness = counterexample("alignment_bound", without)
    local, tops = updates(witness)
    cosine = np.sum(local * tops) / np.linalg.norm(local) / np.linalg.norm(tops)
    spectrum = np.linalg.eigvalsh(linear_parts(witness)[2])
    kappa = spectrum[-1] / spectrum[0]
    bound = 2 * np.sqrt(kappa) / (1 + kappa)
    assert cosine < bound
    assert np.isclose(cosine * abs(cosine) - bound**2, float(witness.residual[0]), atol=1e-12)


def distances(witness):
    net, pairs = witness.setting()
    rule = witness.rule
    tops = ll.global_update(net, pairs, rule)[0]
    local = ll.local_update(net, pairs, rule)[0]
    feedback = ll.local_update(net, pairs, replace(rule, context="top"))[0]
    return np.sum((local - tops) ** 2), np.sum((feedback - tops) ** 2)


@pytest.mark.parametrize("without", ["decorrelated", "narrowing"])
def test_direct_feedback_can_be_farther_from_the_global_update(without):
    witness = counterexample("feedback_order", without)
    local, feedback = distances(witness)
    assert local < feedback
    assert np.isclose(local - feedback, float(witness.residual[0]), rtol=1e-12)
    _, n, g = linear_parts(witness)
    moment = n @ n.T
    assert np.allclose(g @ moment, moment @ g) == (without == "narrowing")
    assert np.allclose(g @ g, g) == (without == "decorrelated")


def test_the_claim_of_the_literature_fails_on_the_stored_witness():
    witness = literature_counterexample()
    v = witness.matrices["V"]
    assert v * v.T == sp.eye(1)
    assert witness.residual == sp.Matrix([[sp.Rational(-173, 25)]])
    assert witness == counterexample("feedback_order", "decorrelated")
    local, feedback = distances(witness)
    assert np.isclose(local - feedback, -173 / 25, rtol=1e-12)


def test_two_directions_fail_together_where_each_keeps_the_theorem():
    witness = directions_counterexample()
    net, pairs = witness.setting()
    local, feedback = distances(witness)
    assert np.isclose(local - feedback, -1.0, rtol=1e-12)
    assert witness.residual == sp.Matrix([[-1]])
    g = net.gram(1)
    stacked = []
    for way in pairs.directions:
        z = net.activities(pairs.samples).z
        push = way.coefficient_matrix(way.sign * way.weights)
        n = z[1][way.reference_rows].T @ push.T @ z[0][way.anchor_rows]
        np.testing.assert_allclose(g @ n @ n.T, n @ n.T @ g, atol=1e-14)
        stacked.append(n)
        # Alone, each direction has the order that the theorem claims.
        one = replace_directions(pairs, way)
        rule, feed = witness.rule, replace(witness.rule, context="top")
        tops = ll.global_update(net, one, rule)[0]
        apart = [np.linalg.norm(ll.local_update(net, one, r)[0] - tops) for r in (rule, feed)]
        assert apart[0] >= apart[1] - 1e-12
    n, h = np.vstack(stacked), np.kron(np.eye(2), g)
    assert np.abs(h @ n @ n.T - n @ n.T @ h).max() > 0.5


def replace_directions(pairs, way):
    return ll.Pairs(pairs.samples, (way,))


def test_stacked_directions_keep_the_theorem_where_they_commute():
    # H N N^T = N N^T H with H = diag(G, G) restores the order of the sum.
    rng = np.random.default_rng(1)
    for _ in range(20):
        v = np.linalg.qr(rng.normal(size=(3, 2)))[0].T
        h, m = np.kron(np.eye(2), v.T @ v), rng.normal(size=(3, 6))
        values, basis = np.linalg.eigh(h)
        inner = np.zeros((6, 6))
        for value in (0.0, 1.0):
            block = np.abs(values - value) < 1e-9
            inner[np.ix_(block, block)] = rng.normal(size=(block.sum(), block.sum()))
        n = basis @ inner
        top = v.T @ v @ m @ h @ n
        gap = np.sum((m @ n - top) ** 2) - np.sum((m @ h @ n - top) ** 2)
        assert np.isclose(gap, np.sum((m @ (np.eye(6) - h) @ n) ** 2))


def test_feedback_is_nearer_where_the_theorem_says_so():
    rng = np.random.default_rng(0)
    for _ in range(20):
        v = np.linalg.qr(rng.normal(size=(4, 2)))[0].T
        g, m = v.T @ v, rng.normal(size=(4, 4))
        basis = np.linalg.qr(np.hstack([v.T, rng.normal(size=(4, 2))]))[0]
        n = basis @ np.diag(rng.normal(size=4)) @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
        goal = g @ m @ g @ n
        gap = np.sum((m @ n - goal) ** 2) - np.sum((m @ g @ n - goal) ** 2)
        assert np.isclose(gap, np.sum((m @ (np.eye(4) - g) @ n) ** 2))


def test_unknown_names_raise_with_the_known_ones():
    with pytest.raises(ValueError, match="Unknown theorem 'x'; known theorems are"):
        counterexample("x", "isometry")
    with pytest.raises(ValueError, match="it has isometry, optimal, same_penalty"):
        counterexample("isometry", "x")


def test_a_search_without_result_says_so(monkeypatch):
    # The difference of a true theorem is never found to be wrong.
    monkeypatch.setattr(counterexamples, "MAX_DRAWS", 5)
    with pytest.raises(LookupError, match="5 draws and no witness"):
        counterexamples._first((None for _ in range(9)), "nothing")
