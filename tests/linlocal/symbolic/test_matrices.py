"""Matrices of rational functions are exact and orthogonal where they say so."""

import numpy as np
import pytest
import sympy as sp

from linlocal.symbolic.matrices import (
    RationalMatrix,
    Symbols,
    cayley,
    inverse,
    rational_rotation,
    semi_orthogonal,
)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_cayley_transform_is_orthogonal_for_all_parameters(size):
    q = Symbols({}, {"Q": size}).matrices["Q"]
    for product in (q.T @ q, q @ q.T):
        assert (product - q.eye(size)).is_zero
    # Not a constant matrix: it has all the parameters that a rotation has.
    assert len(q.to_sympy().free_symbols) == size * (size - 1) // 2


def test_a_cayley_transform_is_that_of_sympy():
    q = Symbols({}, {"Q": 3}).matrices["Q"].to_sympy()
    point = dict(zip(sorted(q.free_symbols, key=str), (sp.Rational(1, 2), 3, -2), strict=True))
    assert q.subs(point) == rational_rotation(3, (sp.Rational(1, 2), 3, -2))


def test_a_matrix_that_is_not_skew_has_no_cayley_transform():
    a = Symbols({"A": (2, 2)}).matrices["A"]
    with pytest.raises(ValueError, match="skew"):
        cayley(a)
    assert not (a.T @ a - a.eye(2)).is_zero


@pytest.mark.parametrize(("rows", "columns"), [(3, 2), (2, 3), (3, 1), (1, 3), (2, 2)])
def test_a_block_is_semi_orthogonal_on_one_side_only(rows, columns):
    q = Symbols({}, {"Q": max(rows, columns)}).matrices["Q"]
    w = semi_orthogonal(q, rows, columns)
    assert w.shape == (rows, columns)
    assert (w.T @ w - w.eye(columns)).is_zero == (rows >= columns)
    assert (w @ w.T - w.eye(rows)).is_zero == (rows <= columns)
    with pytest.raises(ValueError, match="cut from an orthogonal"):
        semi_orthogonal(q, rows + 1, columns + 1)


def test_arithmetic_agrees_with_sympy():
    lam = sp.Symbol("lam", positive=True)
    made = Symbols({"A": (2, 3), "B": (3, 2), "C": (2, 2)}, {"Q": 2}, {"D": 2}, [lam]).matrices
    a, b, c, q, d = (made[k] for k in "ABCQD")
    sa, sb, sc, sq, sd = (m.to_sympy() for m in (a, b, c, q, d))
    cases = [
        (a @ b + c, sa * sb + sc),
        (q @ c @ q.T - c, sq * sc * sq.T - sc),
        (c * (1 / lam) + q * (2 * lam), sc / lam + 2 * lam * sq),
        (a.multiply_elementwise(b.T), sa.multiply_elementwise(sb.T)),
        (c.kronecker(d), sp.Matrix(sp.kronecker_product(sc, sd))),
        (inverse(c), sc.inv()),
        (q.T @ d, sq.T * sd),
    ]
    for ours, theirs in cases:
        assert sp.simplify(ours.to_sympy() - theirs) == sp.zeros(*theirs.shape)
        assert not ours.is_zero
    assert (inverse(c) @ c - c.eye(2)).is_zero


def test_a_singular_matrix_has_no_inverse():
    a = Symbols({"A": (1, 2)}).matrices["A"]
    with pytest.raises(ValueError, match="regular"):
        inverse(a.T @ a)


def test_zero_is_decided_without_simplification():
    a = Symbols({"A": (1, 1)}).matrices["A"]
    x = a.ring.gens[-1]
    expanded = RationalMatrix(a.ring, (((x + 1) ** 5 - x**5,),), ((x + 1, 3),))
    again = RationalMatrix(a.ring, (((x + 1) ** 7 - x**5 * (x + 1) ** 2,),), ((x + 1, 5),))
    assert (expanded - again).is_zero
    assert not (expanded - again * 2).is_zero


def test_rational_rotations_are_rotations():
    q = rational_rotation(3, (1, sp.Rational(1, 2), -3))
    assert q.T * q == sp.eye(3)
    assert np.isclose(float(q.det()), 1.0)
