"""Factorisations in place, against numpy's."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from linlocal.projection.factors import extreme_eigenvalues, factorise, solve

EPS = np.finfo(float).eps


def positive(size, seed):
    rows = np.random.default_rng(seed).normal(size=(size, size))
    return rows @ rows.T + np.eye(size)


@given(st.integers(1, 40), st.integers(0, 99))
def test_the_factor_solves_the_equation(size, seed):
    matrix = positive(size, seed)
    x = np.random.default_rng(seed).normal(size=size)
    factor = matrix.copy()
    assert factorise(factor)
    allowed = 10 * size * EPS * np.linalg.cond(matrix) * np.linalg.norm(x)
    assert np.linalg.norm(solve(factor, matrix @ x) - x) <= allowed


@given(st.integers(1, 20), st.integers(0, 99))
def test_a_matrix_with_a_negative_eigenvalue_has_no_factor(size, seed):
    matrix = positive(size, seed)
    lowest = np.linalg.eigvalsh(matrix)[0]
    assert not factorise(matrix - 1.01 * lowest * np.eye(size))


@given(st.integers(1, 40), st.integers(0, 99))
def test_the_extreme_eigenvalues_are_those_of_all(size, seed):
    rows = np.random.default_rng(seed).normal(size=(size, size))
    matrix = rows + rows.T
    before = matrix.copy()
    values = np.linalg.eigvalsh(matrix)
    found = extreme_eigenvalues(matrix)
    np.testing.assert_allclose(found, values[[0, -1]], atol=20 * size * EPS * np.abs(values).max())
    np.testing.assert_array_equal(matrix, before)


def test_eigenvalues_of_what_is_not_finite_are_refused():
    with pytest.raises(np.linalg.LinAlgError, match="not finite"):
        extreme_eigenvalues(np.array([[1.0, np.nan], [np.nan, 1.0]]))
