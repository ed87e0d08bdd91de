"""Matrices of rational functions, exact: free symbols, orthogonal and semi-orthogonal matrices.

A `RationalMatrix` is a matrix of polynomials over one common denominator, which is kept as a
product of known factors. Nothing is simplified but those factors; a matrix is zero if and only if
its numerators are the zero polynomial, and polynomials are kept expanded. So "is zero" is decided
exactly, without a search for a simplification.

Orthogonal matrices come from the Cayley transform Q = (I - A)(I + A)^-1 of a skew A in free
symbols: all rotations but those with an eigenvalue -1. These are dense, so an identity that holds
on them holds for all rotations, and for all semi-orthogonal matrices that are not square.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import sympy as sp
from sympy.polys.domains import QQ
from sympy.polys.rings import PolyElement, PolyRing

Rows = tuple[tuple[PolyElement, ...], ...]
Denominator = tuple[tuple[PolyElement, int], ...]


@dataclass(frozen=True, eq=False)
class RationalMatrix:
    """numerators / denominator, where all entries are polynomials of one ring.

    Attributes:
        ring: the ring of all polynomials.
        numerators: the numerators row by row, expanded.
        denominator: the factors of the denominator with their powers.
    """

    ring: PolyRing
    numerators: Rows
    denominator: Denominator = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return len(self.numerators), len(self.numerators[0])

    @property
    def is_zero(self) -> bool:
        """Whether all entries are the zero function."""
        return not any(e for row in self.numerators for e in row)

    @property
    def T(self) -> RationalMatrix:
        """The transpose."""
        return RationalMatrix(
            self.ring, tuple(zip(*self.numerators, strict=True)), self.denominator
        )

    def eye(self, size: int) -> RationalMatrix:
        """The identity over the same ring."""
        return _constant(self.ring, [[int(i == j) for j in range(size)] for i in range(size)])

    def row(self, entries: Sequence[Any]) -> RationalMatrix:
        """One row of numbers over the same ring."""
        return _constant(self.ring, [entries])

    def kronecker(self, other: RationalMatrix) -> RationalMatrix:
        """The Kronecker product."""
        rows = tuple(
            tuple(x * y for x in r for y in s) for r in self.numerators for s in other.numerators
        )
        return RationalMatrix(self.ring, rows, self._product_of_denominators(other))._cancelled()

    def __add__(self, other: RationalMatrix) -> RationalMatrix:
        mine, theirs = dict(self.denominator), dict(other.denominator)
        both = {f: max(mine.get(f, 0), theirs.get(f, 0)) for f in (mine | theirs)}
        a, b = self._lifted(both), other._lifted(both)
        rows = tuple(
            tuple(x + y for x, y in zip(r, s, strict=True)) for r, s in zip(a, b, strict=True)
        )
        return RationalMatrix(self.ring, rows, tuple(both.items()))._cancelled()

    def __sub__(self, other: RationalMatrix) -> RationalMatrix:
        return self + other * -1

    def __matmul__(self, other: RationalMatrix) -> RationalMatrix:
        columns = list(zip(*other.numerators, strict=True))
        rows = tuple(tuple(self._dot(row, column) for column in columns) for row in self.numerators)
        return RationalMatrix(self.ring, rows, self._product_of_denominators(other))._cancelled()

    def __mul__(self, scalar: Any) -> RationalMatrix:
        """Times a number or a sympy expression in the symbols of the ring."""
        above, below = sp.fraction(sp.cancel(scalar))
        factor = self.ring.from_expr(above)
        rows = tuple(tuple(e * factor for e in row) for row in self.numerators)
        if not below.is_Number:
            under = _powers(self.denominator, ((self.ring.from_expr(below), 1),))
            return RationalMatrix(self.ring, rows, under)._cancelled()
        inverse = QQ.from_sympy(1 / below)
        return RationalMatrix(
            self.ring, tuple(tuple(e * inverse for e in row) for row in rows), self.denominator
        )

    __rmul__ = __mul__

    def multiply_elementwise(self, other: RationalMatrix) -> RationalMatrix:
        """The Hadamard product."""
        rows = tuple(
            tuple(x * y for x, y in zip(r, s, strict=True))
            for r, s in zip(self.numerators, other.numerators, strict=True)
        )
        return RationalMatrix(self.ring, rows, self._product_of_denominators(other))._cancelled()

    def to_sympy(self) -> sp.Matrix:
        """As a sympy matrix of quotients."""
        under = sp.prod([f.as_expr() ** power for f, power in self.denominator])
        rows, columns = self.shape
        return sp.Matrix(rows, columns, lambda i, j: self.numerators[i][j].as_expr() / under)

    def _dot(self, row: Sequence[PolyElement], column: Sequence[PolyElement]) -> PolyElement:
        total = self.ring.zero
        for a, b in zip(row, column, strict=True):
            if a and b:
                total += a * b
        return total

    def _lifted(self, target: Mapping[PolyElement, int]) -> Rows:
        """The numerators over another denominator, which this one divides."""
        mine = dict(self.denominator)
        factor = self.ring.one
        for f, power in target.items():
            factor *= f ** (power - mine.get(f, 0))
        if factor == 1:
            return self.numerators
        return tuple(tuple(e * factor for e in row) for row in self.numerators)

    def _product_of_denominators(self, other: RationalMatrix) -> Denominator:
        return _powers(self.denominator, other.denominator)

    def _cancelled(self) -> RationalMatrix:
        """Factors of the denominator that divide every entry taken out."""
        rows, kept = self.numerators, []
        for f, given in self.denominator:
            power = given
            while power and (divided := _divided(rows, f)) is not None:
                rows, power = divided, power - 1
            if power:
                kept.append((f, power))
        return RationalMatrix(self.ring, rows, tuple(kept))


def _powers(a: Denominator, b: Denominator) -> Denominator:
    merged = dict(a)
    for f, power in b:
        merged[f] = merged.get(f, 0) + power
    return tuple(merged.items())


def _divided(rows: Rows, factor: PolyElement) -> Rows | None:
    result = []
    for row in rows:
        line = []
        for e in row:
            (quotient,), rest = e.div([factor]) if e else ((e,), e)
            if rest:
                return None
            line.append(quotient)
        result.append(tuple(line))
    return tuple(result)


def _constant(ring: PolyRing, rows: Sequence[Sequence[Any]]) -> RationalMatrix:
    return RationalMatrix(
        ring, tuple(tuple(ring(QQ.from_sympy(sp.sympify(e))) for e in row) for row in rows)
    )


class Symbols:
    """Free symbols for everything a proof needs, in one polynomial ring.

    Args:
        generic: shapes of the matrices with independent entries, by name.
        rotations: sizes of the skew matrices whose Cayley transforms are made, by name.
        diagonal: sizes of the diagonal matrices, by name.
        scalars: the scalar symbols.

    Attributes:
        matrices: the generic, orthogonal and diagonal matrices by name.
    """

    def __init__(
        self,
        generic: Mapping[str, tuple[int, int]],
        rotations: Mapping[str, int] = {},
        diagonal: Mapping[str, int] = {},
        scalars: Sequence[sp.Symbol] = (),
    ) -> None:
        names: list[Any] = [*scalars]
        for name, (rows, columns) in generic.items():
            names += [f"{name}_{i}{j}" for i in range(rows) for j in range(columns)]
        for name, size in rotations.items():
            names += [f"{name}_a{i}{j}" for i, j in combinations(range(size), 2)]
        for name, size in diagonal.items():
            names += [f"{name}_{i}" for i in range(size)]
        self.ring = PolyRing([sp.Symbol("unused"), *map(_symbol, names)], QQ, "lex")
        free = iter(self.ring.gens[1 + len(scalars) :])
        self.matrices: dict[str, RationalMatrix] = {}
        for name, (rows, columns) in generic.items():
            entries = tuple(tuple(next(free) for _ in range(columns)) for _ in range(rows))
            self.matrices[name] = RationalMatrix(self.ring, entries)
        for name, size in rotations.items():
            self.matrices[name] = cayley(skew(self.ring, size, free))
        for name, size in diagonal.items():
            zero, values = self.ring.zero, [next(free) for _ in range(size)]
            self.matrices[name] = RationalMatrix(
                self.ring,
                tuple(
                    tuple(v if i == j else zero for j in range(size)) for i, v in enumerate(values)
                ),
            )


def skew(ring: PolyRing, size: int, entries: Iterator[PolyElement]) -> RationalMatrix:
    """A with A^T = -A, its entries above the diagonal taken from ``entries``."""
    table = [[ring.zero] * size for _ in range(size)]
    for i, j in combinations(range(size), 2):
        table[i][j] = next(entries)
        table[j][i] = -table[i][j]
    return RationalMatrix(ring, tuple(map(tuple, table)))


def cayley(a: RationalMatrix) -> RationalMatrix:
    """(I - A)(I + A)^-1, orthogonal for every skew A.

    Raises:
        ValueError: A is not skew.
    """
    if not (a + a.T).is_zero:
        raise ValueError("The Cayley transform is orthogonal for a skew matrix only.")
    one = a.eye(a.shape[0])
    adjugate, determinant = _adjugate(one + a)
    return RationalMatrix(
        a.ring, ((one - a) @ adjugate).numerators, ((determinant, 1),)
    )._cancelled()


def semi_orthogonal(q: RationalMatrix, rows: int, columns: int) -> RationalMatrix:
    """The first rows or columns of an orthogonal matrix of size max(rows, columns).

    Returns:
        W with W^T W = I if rows >= columns, W W^T = I if rows <= columns.

    Raises:
        ValueError: q has another size.
    """
    if q.shape != (max(rows, columns),) * 2:
        raise ValueError(
            f"A {rows} x {columns} block with orthonormal rows or columns is cut from an "
            f"orthogonal matrix of size {max(rows, columns)}, got {q.shape}."
        )
    cut = tuple(row[:columns] for row in q.numerators[:rows])
    return RationalMatrix(q.ring, cut, q.denominator)


def inverse(m: RationalMatrix) -> RationalMatrix:
    """The inverse of a matrix of polynomials, as a rational function.

    Raises:
        ValueError: it is singular for all values of the symbols, or has a denominator.
    """
    adjugate, determinant = _adjugate(m)
    if m.denominator or not determinant:
        raise ValueError("Only a regular matrix of polynomials can be inverted.")
    return RationalMatrix(m.ring, adjugate.numerators, ((determinant, 1),))._cancelled()


def _adjugate(m: RationalMatrix) -> tuple[RationalMatrix, PolyElement]:
    """Adjugate and determinant by Faddeev and LeVerrier: no division but by whole numbers."""
    n = m.shape[0]
    step = m.eye(n)
    coefficient = m.ring.one
    for k in range(1, n + 1):
        product = m @ step
        trace = sum((product.numerators[i][i] for i in range(n)), m.ring.zero)
        coefficient = trace * QQ(-1, k)
        if k < n:
            shift = tuple(
                tuple(e + coefficient if i == j else e for j, e in enumerate(row))
                for i, row in enumerate(product.numerators)
            )
            step = RationalMatrix(m.ring, shift)
    sign = (-1) ** n
    return step * sign * -1, coefficient * sign


def rational_rotation(size: int, parameters: Sequence[Any]) -> sp.Matrix:
    """The Cayley transform of the skew matrix with these rational entries above the diagonal."""
    a = sp.zeros(size, size)
    for (i, j), value in zip(combinations(range(size), 2), parameters, strict=True):
        a[i, j], a[j, i] = sp.Rational(value), -sp.Rational(value)
    return (sp.eye(size) - a) * (sp.eye(size) + a).inv()


def _symbol(name: Any) -> sp.Symbol:
    return name if isinstance(name, sp.Symbol) else sp.Symbol(name)
