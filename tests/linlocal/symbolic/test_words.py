"""The calculus of matrix words, against numpy and against what must not be provable."""

import numpy as np
import pytest
import sympy as sp

from linlocal.symbolic.words import (
    Renaming,
    Rewrite,
    Substitution,
    evaluate,
    hadamard,
    identity,
    letter,
    reduce,
    zero,
)

V, Z, C = letter("V", "L", "l"), letter("Z", "P", "l"), letter("C", "P", "l")
G = letter("G", "l", "l", symmetric=True)
a = sp.Symbol("a", positive=True)

COLUMNS = Rewrite("orthonormal columns", V.T @ V, identity("l"))
ROWS = Rewrite("orthonormal rows", V @ V.T, identity("L"))


def residual(expression, *rules):
    return reduce(expression, rules).result


def test_products_are_simplified_on_the_correct_side_only():
    assert residual(V.T @ V @ Z.T - Z.T, COLUMNS).is_zero
    assert residual(V @ V.T - identity("L"), COLUMNS) == V @ V.T - identity("L")
    assert residual(V @ V.T - identity("L"), ROWS).is_zero
    assert residual(V.T @ V @ Z.T - Z.T, ROWS) == V.T @ V @ Z.T - Z.T
    # On either side V V^T V = V, so V^T V is a projection.
    for rule in (COLUMNS, ROWS):
        assert residual(V @ V.T @ V - V, rule).is_zero


def test_sympys_refine_is_wrong_for_a_rectangular_matrix():
    # A 3 x 2 matrix can have orthonormal columns, but its three rows cannot be orthonormal.
    x = sp.MatrixSymbol("X", 3, 2)
    columns = np.array([[0.6, 0.0], [0.8, 0.0], [0.0, 1.0]])
    assert np.allclose(columns.T @ columns, np.eye(2))
    assert not np.allclose(columns @ columns.T, np.eye(3))
    # Wrong twice: there is no identity here, and the product is 3 x 3.
    assert sp.refine(x * x.T, sp.Q.orthogonal(x)).doit() == sp.Identity(2)
    ours = letter("X", "three", "two")
    rule = Rewrite("orthonormal columns", ours.T @ ours, identity("two"))
    assert residual(ours @ ours.T - identity("three"), rule) == ours @ ours.T - identity("three")


def test_shapes_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="Cannot multiply"):
        V @ V
    with pytest.raises(ValueError, match="Cannot add"):
        V + V.T
    with pytest.raises(ValueError, match="elementwise"):
        hadamard(Z, Z.T)
    with pytest.raises(ValueError, match="cannot be symmetric"):
        letter("V", "L", "l", symmetric=True)
    with pytest.raises(ValueError, match="equate"):
        Rewrite("wrong", V @ V.T, identity("l"))


def test_a_rewrite_has_one_word_on_its_left():
    for left in (V.T @ V + identity("l"), 2 * G, identity("l"), zero("l", "l")):
        with pytest.raises(ValueError, match="single word"):
            Rewrite("wrong", left, identity("l"))


def test_rewriting_in_a_circle_is_noticed():
    rules = Rewrite("there", V.T @ V, G), Rewrite("back", G, V.T @ V)
    with pytest.raises(ValueError, match="undo each other"):
        reduce(G @ Z.T, rules)


def test_arithmetic_is_that_of_matrices():
    rng = np.random.default_rng(0)
    values = {"V": rng.normal(size=(3, 2)), "Z": rng.normal(size=(4, 2))}
    values |= {"C": rng.normal(size=(4, 2)), "G": np.eye(2) + 1}
    v, z, c, g = (values[k] for k in "VZCG")
    cases = [
        (2 * (Z @ V.T) - Z @ V.T, z @ v.T),
        ((Z @ G - C).T, (z @ g - c).T),
        ((Z + a * C) @ (V.T @ V - G), (z + 3 * c) @ (v.T @ v - g)),
        (hadamard(Z @ Z.T, C @ C.T + Z @ G @ Z.T), (z @ z.T) * (c @ c.T + z @ g @ z.T)),
        (hadamard(Z @ C.T, Z @ Z.T).T, ((z @ c.T) * (z @ z.T)).T),
        (hadamard(identity("P"), Z @ C.T) @ Z, np.diag(np.diag(z @ c.T)) @ z),
    ]
    for expression, expected in cases:
        np.testing.assert_allclose(evaluate(expression, values, {a: 3}), expected, rtol=1e-13)


def test_like_words_merge_and_cancel():
    assert (V - V).is_zero
    assert (Z @ G).T == G @ Z.T
    assert hadamard(Z @ Z.T, C @ C.T) == hadamard(C @ C.T, Z @ Z.T)
    assert hadamard(Z @ Z.T, C @ C.T) == hadamard(Z @ Z.T, C @ C.T).T
    assert hadamard(Z @ C.T, C @ Z.T) != hadamard(Z @ C.T, Z @ C.T)
    assert V.T @ V @ G != G @ V.T @ V


def test_rewriting_reaches_into_elementwise_products():
    kernel = hadamard(Z @ V.T @ V @ Z.T, C @ V.T @ V @ C.T) - hadamard(Z @ Z.T, C @ C.T)
    derivation = reduce(kernel, [COLUMNS])
    assert derivation.result.is_zero
    assert str(derivation).splitlines() == [
        "    -[C C^T * Z Z^T] + [C V^T V C^T * Z V^T V Z^T]",
        "  = [C C^T * Z V^T V Z^T] - [C C^T * Z Z^T]",
        "        by orthonormal columns: V^T V = I",
        "  = 0",
        "        by orthonormal columns: V^T V = I",
    ]
    assert derivation.used == ("orthonormal columns",)
    assert not residual(kernel, ROWS).is_zero


def test_a_rewrite_holds_for_the_transpose():
    rule = Rewrite("isometry on Z", Z @ G, Z)
    assert residual(G @ Z.T - Z.T, rule).is_zero
    assert not residual(G @ C.T - C.T, rule).is_zero


def test_inverses():
    inverse = letter("G^-1", "l", "l", symmetric=True)
    rule = Rewrite("inverse", inverse @ G, identity("l"))
    assert residual(G @ inverse @ G - G, rule).is_zero


def test_scalars_are_substituted():
    rule = Substitution("factor", a, sp.Integer(2))
    assert residual(a * G - 2 * G, rule).is_zero
    assert not residual(a * G - 3 * G, rule).is_zero


def test_common_factors_are_taken_out():
    m, n = letter("M", "l", "l"), letter("N", "l", "k")
    assert (G @ n - n).factored == "(G - I) N"
    assert (G @ m @ G @ n - m @ n).factored == "(G M G - M) N"
    assert (G @ m @ G @ n - m @ n).equation == "G M G N = M N"
    assert (a * (m @ G) - a * m).factored == "a M (G - I)"
    assert (m - m).equation == "0 = 0"
    left, middle, right = (n.T @ G @ n - n.T @ n).common
    assert [str(f) for f in (*left, *right)] == ["N^T", "N"]
    assert middle == G - identity("l")


def test_renamed_expressions_are_the_same_in_other_words():
    spoken = Renaming({"V": "U", "Z": "Y"}, {"l": "e"}, {a: sp.Symbol("b", positive=True)})
    expression = a * (hadamard(Z @ V.T, C @ V.T) @ V) + hadamard(Z @ V.T, Z @ V.T) @ V
    found = spoken.of(expression)
    rng = np.random.default_rng(0)
    shapes = {"V": (2, 3), "Z": (4, 3), "C": (4, 3)}
    env = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    other = {"U": env["V"], "Y": env["Z"], "C": env["C"]}
    b = spoken.scalars[a]
    np.testing.assert_allclose(
        evaluate(found, other, {b: 2.0}), evaluate(expression, env, {a: 2.0})
    )
    assert (found.rows, found.columns) == ("P", "e")
    renamed = spoken.of_equation(COLUMNS)
    assert str(renamed) == "U^T U = I"
    assert spoken.of_equation(Substitution("s", a, a**0 * 2)).symbol == b


def test_single_matrices_get_other_shapes():
    stacked = Renaming({}, {}, shapes={"C": ("P", "k")})
    kernel = stacked.of(Z.T @ C @ C.T @ Z)
    assert {(l.rows, l.columns) for l in kernel.letters.values()} == {("P", "l"), ("P", "k")}
    assert (kernel.rows, kernel.columns) == ("l", "l")
