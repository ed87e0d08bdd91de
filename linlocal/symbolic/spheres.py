"""Means over all directions, exactly: why sliced normality knows norms and distances only.

For a uniform on the unit sphere of R^D and any d,

    E_a (a.d)^(2k) = ||d||^(2k) (1/2)_k / (D/2)_k,        (x)_k = x (x + 1) ... (x + k - 1),

and the series of the cosine gives E_a cos(a.d) = 0F1(; D/2; -||d||^2/4), which is
Gamma(D/2) (2/x)^(D/2-1) J_(D/2-1)(x) at x = ||d|| (statement 13).
"""

from __future__ import annotations

import sympy as sp

from linlocal import inputs


def power_mean(k: int, dimension: int) -> sp.Expr:
    """E_a (a.d)^(2k) as a polynomial in d_0..d_{D-1}, monomial by monomial.

    A normal vector g has E prod g_i^(2 k_i) = prod (2 k_i - 1)!! and is its length times a uniform
    direction, independent of each other, with E ||g||^(2k) = D (D + 2) ... (D + 2k - 2).

    Raises:
        ValueError, TypeError: no whole numbers of at least 0 and 1.
    """
    k, dimension = inputs.whole(k, "k", 0), inputs.whole(dimension, "dimension", 1)
    a, d = sp.symbols(f"a:{dimension}"), sp.symbols(f"d:{dimension}")
    length = sp.prod([dimension + 2 * i for i in range(k)])
    power = sp.Poly(sum(x * y for x, y in zip(a, d, strict=True)) ** (2 * k), *a)
    return sp.expand(
        sum(
            coefficient * sp.prod([sp.factorial2(p - 1) for p in powers]) / length
            for powers, coefficient in power.terms()
            if all(p % 2 == 0 for p in powers)
        )
    )


def power_mean_is_radial(k: int, dimension: int) -> bool:
    """Whether E_a (a.d)^(2k) = ||d||^(2k) (1/2)_k / (D/2)_k for all d, exactly."""
    d = sp.symbols(f"d:{inputs.whole(dimension, 'dimension', 1)}")
    half = sp.Rational(1, 2)
    radial = sum(x**2 for x in d) ** k * sp.rf(half, k) / sp.rf(sp.Integer(dimension) * half, k)
    return bool(sp.expand(power_mean(k, dimension) - radial) == 0)


def cosine_mean(squared_length: sp.Expr, dimension: sp.Expr) -> sp.Expr:
    """E_a cos(a.d) = 0F1(; D/2; -||d||^2/4), which has no root of the length in it."""
    return sp.hyper((), (sp.sympify(dimension) / 2,), -squared_length / 4)


def series_is_that_of_the_cosine() -> bool:
    """Whether (1/2)_k / (2k)! = 1/(4^k k!) for every k, so that the means add up to 0F1."""
    k = sp.Symbol("k", integer=True, nonnegative=True)
    ratio = sp.rf(sp.Rational(1, 2), k) / sp.factorial(2 * k) * 4**k * sp.factorial(k)
    return bool(sp.simplify(sp.gammasimp(ratio.rewrite(sp.gamma)) - 1) == 0)
