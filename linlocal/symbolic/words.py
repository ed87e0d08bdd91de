"""Matrix words: noncommutative polynomials in matrices, rewritten step by step.

An `Expression` is a sum of words with scalar coefficients; a word is a product of letters (named
matrices, perhaps transposed) and of elementwise products of two words. The empty word is the
identity. Every letter knows its shape by name, so V^T V and V V^T are different things wherever V
is rectangular, and a sum or product that does not fit raises.

A `Rewrite` replaces a subword by an expression and holds for its transpose too. `reduce` applies
rewrites until none fits and keeps every step; an expression that ends at zero is proved to be zero
for matrices of any size that satisfy the rewrites used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import sympy as sp

MAX_STEPS = 200
"""Rewriting longer than this goes in circles: some rewrites undo each other."""


@dataclass(frozen=True)
class Letter:
    """A named matrix as it stands in a word: ``rows`` x ``columns``, transposed or not."""

    name: str
    rows: str
    columns: str
    symmetric: bool = False
    transposed: bool = False

    @property
    def transpose(self) -> Letter:
        """The letter of the transposed matrix."""
        if self.symmetric:
            return self
        return Letter(self.name, self.columns, self.rows, False, not self.transposed)

    def __str__(self) -> str:
        return f"{self.name}^T" if self.transposed else self.name


@dataclass(frozen=True)
class Hadamard:
    """The elementwise product of two words of the same shape; the order does not matter."""

    left: Word
    right: Word
    rows: str
    columns: str

    @classmethod
    def of(cls, left: Word, right: Word, rows: str, columns: str) -> Hadamard:
        """With the two words in a canonical order."""
        first, second = sorted((left, right), key=_spell)
        return cls(first, second, rows, columns)

    @property
    def transpose(self) -> Hadamard:
        """(A * B)^T = A^T * B^T."""
        return Hadamard.of(_transpose(self.left), _transpose(self.right), self.columns, self.rows)

    def __str__(self) -> str:
        return f"[{_spell(self.left)} * {_spell(self.right)}]"


Factor = Letter | Hadamard
Word = tuple[Factor, ...]


def _transpose(word: Word) -> Word:
    return tuple(f.transpose for f in reversed(word))


def _spell(word: Word) -> str:
    return " ".join(map(str, word)) if word else "I"


@dataclass(frozen=True)
class Expression:
    """A sum of words of one shape with scalar (sympy) coefficients, in canonical order.

    Made by `letter`, `identity` and `zero` and by arithmetic: ``a + b``, ``a - b``, ``a @ b``,
    ``s * a``, ``a.T``, ``hadamard(a, b)``. Equal expressions compare equal.
    """

    rows: str
    columns: str
    terms: tuple[tuple[Word, sp.Expr], ...]

    @classmethod
    def collect(cls, rows: str, columns: str, terms: Iterable[tuple[Word, sp.Expr]]) -> Expression:
        """The sum of ``terms``, like words merged and zeros dropped."""
        table: dict[Word, sp.Expr] = {}
        for word, coefficient in terms:
            table[word] = table.get(word, sp.S.Zero) + coefficient
        kept = [(w, c) for w, raw in table.items() if (c := sp.cancel(raw)) != 0]
        return cls(rows, columns, tuple(sorted(kept, key=lambda t: (-len(t[0]), _spell(t[0])))))

    @property
    def is_zero(self) -> bool:
        """Whether no word is left."""
        return not self.terms

    @property
    def T(self) -> Expression:
        """The transpose."""
        terms = ((_transpose(w), c) for w, c in self.terms)
        return Expression.collect(self.columns, self.rows, terms)

    def __add__(self, other: Expression) -> Expression:
        _same_shape(self, other, "add")
        return Expression.collect(self.rows, self.columns, (*self.terms, *other.terms))

    def __sub__(self, other: Expression) -> Expression:
        return self + (-1) * other

    def __neg__(self) -> Expression:
        return (-1) * self

    def __rmul__(self, scalar: Any) -> Expression:
        factor = sp.sympify(scalar)
        return Expression.collect(self.rows, self.columns, ((w, factor * c) for w, c in self.terms))

    def __matmul__(self, other: Expression) -> Expression:
        if self.columns != other.rows:
            raise ValueError(
                f"Cannot multiply ({self}) of shape {self.rows} x {self.columns} by ({other}) of "
                f"shape {other.rows} x {other.columns}."
            )
        terms = ((a + b, x * y) for a, x in self.terms for b, y in other.terms)
        return Expression.collect(self.rows, other.columns, terms)

    def substitute(self, scalars: Mapping[sp.Symbol, sp.Expr]) -> Expression:
        """With scalars replaced in the coefficients."""
        terms = ((w, c.subs(scalars)) for w, c in self.terms)
        return Expression.collect(self.rows, self.columns, terms)

    @property
    def letters(self) -> dict[str, Letter]:
        """All matrices in it by name, as they are untransposed."""
        return {l.name: l for w, _ in self.terms for l in _letters(w)}

    @cached_property
    def common(self) -> tuple[Word, Expression, Word]:
        """(left, middle, right) with this = left middle right, and both ends as long as can be."""
        words = [w for w, _ in self.terms]
        if len(words) < 2:
            return (), self, ()
        left = _common_prefix(words)
        right = _transpose(_common_prefix([_transpose(w[len(left) :]) for w in words]))
        rows = left[-1].columns if left else self.rows
        columns = right[0].rows if right else self.columns
        middle = [(w[len(left) : len(w) - len(right)], c) for w, c in self.terms]
        return left, Expression.collect(rows, columns, middle), right

    @property
    def factored(self) -> str:
        """This, with the factors and coefficients common to all its words taken out."""
        if len(self.terms) < 2:
            return str(self)
        left, middle, right = self.common
        scale, middle = middle.content
        inner = str(middle) if not left and not right and scale == 1 else f"({middle})"
        parts = [_spell(left)] if left else []
        parts = [*parts, inner, *([_spell(right)] if right else [])]
        return " ".join([f"{_scalar(scale)}"] * (scale != 1) + parts)

    @property
    def content(self) -> tuple[sp.Expr, Expression]:
        """(scale, rest): the first coefficient, if all others are rational multiples of it."""
        if self.is_zero:
            return sp.S.One, self
        scale = self.terms[0][1]
        if all(sp.cancel(c / scale).is_Rational for _, c in self.terms):
            return scale, (1 / scale) * self
        return sp.S.One, self

    @property
    def equation(self) -> str:
        """That this is zero: negative words on the other side, common scalars cancelled."""
        if self.is_zero:
            return "0 = 0"
        _, plain = self.content
        positive = [(w, c) for w, c in plain.terms if not c.could_extract_minus_sign()]
        negative = [(w, -c) for w, c in plain.terms if c.could_extract_minus_sign()]
        sides = (Expression(self.rows, self.columns, tuple(t)) for t in (positive, negative))
        return " = ".join(map(str, sides))

    def __str__(self) -> str:
        if self.is_zero:
            return "0"
        text = ""
        for word, coefficient in self.terms:
            minus = coefficient.could_extract_minus_sign()
            size = -coefficient if minus else coefficient
            sign = ("-" if minus else "") if not text else (" - " if minus else " + ")
            text += sign + (f"{_scalar(size)} " if size != 1 else "") + _spell(word)
        return text


def _scalar(value: sp.Expr) -> str:
    text = sp.sstr(sp.factor(value))
    return text if value.is_Atom or value.is_Pow else f"({text})"


def _letters(word: Word) -> Iterable[Letter]:
    for f in word:
        if isinstance(f, Letter):
            yield f.transpose if f.transposed else f
        else:
            yield from _letters(f.left)
            yield from _letters(f.right)


def _common_prefix(words: Sequence[Word]) -> Word:
    shortest = min(words, key=len)
    for i, f in enumerate(shortest):
        if any(w[i] != f for w in words):
            return shortest[:i]
    return shortest


def _same_shape(a: Expression, b: Expression, verb: str) -> None:
    if (a.rows, a.columns) != (b.rows, b.columns):
        raise ValueError(
            f"Cannot {verb} ({a}) of shape {a.rows} x {a.columns} and ({b}) of shape "
            f"{b.rows} x {b.columns}."
        )


@dataclass(frozen=True)
class Renaming:
    """Other names for matrices, dimensions and scalars.

    Attributes:
        letters: new names of matrices.
        sizes: new names of dimensions.
        scalars: new symbols.
        shapes: new dimensions of single matrices, by their old names.
    """

    letters: Mapping[str, str]
    sizes: Mapping[str, str]
    scalars: Mapping[sp.Symbol, sp.Symbol] = field(default_factory=dict)
    shapes: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def of(self, expression: Expression) -> Expression:
        """``expression`` with the new names."""
        terms = ((self._word(w), c.subs(self.scalars)) for w, c in expression.terms)
        return Expression.collect(
            self._size(expression.rows), self._size(expression.columns), terms
        )

    def of_equation(self, equation: Equation) -> Equation:
        """The same equation in the new names."""
        if isinstance(equation, Rewrite):
            return Rewrite(equation.name, self.of(equation.left), self.of(equation.right))
        symbol = self.scalars.get(equation.symbol, equation.symbol)
        return Substitution(equation.name, symbol, equation.value.subs(self.scalars))

    def _size(self, name: str) -> str:
        return self.sizes.get(name, name)

    def _word(self, word: Word) -> Word:
        return tuple(self._factor(f) for f in word)

    def _factor(self, f: Factor) -> Factor:
        rows, columns = self._size(f.rows), self._size(f.columns)
        if isinstance(f, Letter) and f.name in self.shapes:
            rows, columns = self.shapes[f.name][:: -1 if f.transposed else 1]
        if isinstance(f, Hadamard):
            return Hadamard.of(self._word(f.left), self._word(f.right), rows, columns)
        name = self.letters.get(f.name, f.name)
        return Letter(name, rows, columns, f.symmetric, f.transposed)


def letter(name: str, rows: str, columns: str, symmetric: bool = False) -> Expression:
    """The matrix ``name`` of shape ``rows`` x ``columns`` (names of dimensions).

    Raises:
        ValueError: symmetric but not square.
    """
    if symmetric and rows != columns:
        raise ValueError(f"{name} of shape {rows} x {columns} cannot be symmetric.")
    return Expression(rows, columns, (((Letter(name, rows, columns, symmetric),), sp.S.One),))


def identity(size: str) -> Expression:
    """I, ``size`` x ``size``."""
    return Expression(size, size, (((), sp.S.One),))


def zero(rows: str, columns: str) -> Expression:
    """0, ``rows`` x ``columns``."""
    return Expression(rows, columns, ())


def hadamard(a: Expression, b: Expression) -> Expression:
    """The elementwise product, bilinear in ``a`` and ``b``.

    Raises:
        ValueError: the shapes differ.
    """
    _same_shape(a, b, "multiply elementwise")
    terms = (
        ((Hadamard.of(v, w, a.rows, a.columns),), x * y) for v, x in a.terms for w, y in b.terms
    )
    return Expression.collect(a.rows, a.columns, terms)


# -- rewriting -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rewrite:
    """The equation ``left`` = ``right``, used from left to right, and its transpose.

    Attributes:
        name: why it holds; printed beside each step that uses it.
        left: a single word with coefficient 1.
        right: the expression that replaces it, of the same shape.

    Raises:
        ValueError: left is no single word with coefficient 1, or the shapes differ.
    """

    name: str
    left: Expression
    right: Expression

    def __post_init__(self) -> None:
        _same_shape(self.left, self.right, "equate")
        if len(self.left.terms) != 1 or self.left.terms[0][1] != 1 or not self.left.terms[0][0]:
            raise ValueError(f"The left side of a rewrite must be a single word, not {self.left}.")

    @cached_property
    def _forms(self) -> tuple[tuple[Word, Expression], ...]:
        word = self.left.terms[0][0]
        if _transpose(word) == word:
            return ((word, self.right),)
        return ((word, self.right), (_transpose(word), self.right.T))

    def apply(self, expression: Expression) -> Expression:
        """``expression`` with the first occurrence in each of its words replaced."""
        result = zero(expression.rows, expression.columns)
        for word, coefficient in expression.terms:
            found = self._in_word(word, expression.rows, expression.columns)
            kept = Expression(expression.rows, expression.columns, ((word, sp.S.One),))
            result += coefficient * (kept if found is None else found)
        return result

    def _in_word(self, word: Word, rows: str, columns: str) -> Expression | None:
        for left, right in self._forms:
            for i in range(len(word) - len(left) + 1):
                if word[i : i + len(left)] == left:
                    return _around(word[:i], right, word[i + len(left) :], rows, columns)
        for i, f in enumerate(word):
            if isinstance(f, Hadamard):
                for inner, other in ((f.left, f.right), (f.right, f.left)):
                    found = self._in_word(inner, f.rows, f.columns)
                    if found is not None:
                        kept = Expression(f.rows, f.columns, ((other, sp.S.One),))
                        new = hadamard(found, kept)
                        return _around(word[:i], new, word[i + 1 :], rows, columns)
        return None

    def __str__(self) -> str:
        return f"{self.left} = {self.right}"


@dataclass(frozen=True)
class Substitution:
    """The equation ``symbol`` = ``value`` between scalars, used from left to right."""

    name: str
    symbol: sp.Symbol
    value: sp.Expr

    def apply(self, expression: Expression) -> Expression:
        """``expression`` with the symbol replaced in all coefficients."""
        return expression.substitute({self.symbol: self.value})

    def __str__(self) -> str:
        return f"{self.symbol} = {self.value}"


Equation = Rewrite | Substitution


def _around(before: Word, middle: Expression, after: Word, rows: str, columns: str) -> Expression:
    terms = ((before + w + after, c) for w, c in middle.terms)
    return Expression.collect(rows, columns, terms)


@dataclass(frozen=True)
class Step:
    """One rewriting: the rule that was used and what it left."""

    rule: Equation
    expression: Expression


@dataclass(frozen=True)
class Derivation:
    """A chain of rewritings; print it."""

    start: Expression
    steps: tuple[Step, ...] = field(default=())

    @property
    def result(self) -> Expression:
        """What is left in the end."""
        return self.steps[-1].expression if self.steps else self.start

    @property
    def used(self) -> tuple[str, ...]:
        """The names of the rules that were used, each once, in order."""
        return tuple(dict.fromkeys(s.rule.name for s in self.steps))

    def __str__(self) -> str:
        lines = [f"    {self.start}"]
        for step in self.steps:
            lines += [f"  = {step.expression}", f"        by {step.rule.name}: {step.rule}"]
        return "\n".join(lines)


def reduce(expression: Expression, rules: Sequence[Equation]) -> Derivation:
    """Rewrite until no rule changes anything; of several that would, the first one is used.

    Args:
        expression: where to start.
        rules: the equations that may be used, in order of preference.

    Returns:
        All steps. ``reduce(...).result.is_zero`` proves that the rules imply expression = 0; if
        something is left, nothing is proved.

    Raises:
        ValueError: the rules rewrite without end.
    """
    steps: list[Step] = []
    current = expression
    while (step := _next(current, rules)) is not None:
        steps.append(step)
        current = step.expression
        if len(steps) == MAX_STEPS:
            raise ValueError(
                f"{MAX_STEPS} rewritings and no end; some of these rules undo each other: "
                + "; ".join(map(str, rules))
            )
    return Derivation(expression, tuple(steps))


def _next(expression: Expression, rules: Sequence[Equation]) -> Step | None:
    for rule in rules:
        changed = rule.apply(expression)
        if changed != expression:
            return Step(rule, changed)
    return None


# -- evaluation ----------------------------------------------------------------------------------


def evaluate(
    expression: Expression, matrices: Mapping[str, Any], scalars: Mapping[sp.Symbol, Any]
) -> Any:
    """The value of an expression for given matrices: numpy arrays, sympy or `RationalMatrix`.

    Args:
        expression: what to compute.
        matrices: by name; they need ``@``, ``.T``, ``+`` and multiplication by a scalar.
        scalars: values of the symbols in the coefficients; numbers or sympy expressions.

    Returns:
        A matrix of the same kind; None for the zero expression, whose shape is not known.

    Raises:
        KeyError: a letter is not in ``matrices``.
        ValueError: the expression has the identity as a word of its own.
    """
    total: Any = None
    cache: dict[Word, Any] = {}
    for word, coefficient in expression.terms:
        scale = coefficient.subs(scalars)
        value = _value(word, matrices, cache)
        # A plain number where there is one: numpy must not fall back to arrays of objects.
        term = value * (float(scale) if _is_array(value) else scale)
        total = term if total is None else total + term
    return total


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def _value(word: Word, matrices: Mapping[str, Any], cache: dict[Word, Any]) -> Any:
    if not word:
        raise ValueError("The identity has no size here; multiply it by a letter.")
    if word not in cache:
        head, last = word[:-1], _factor_value(word[-1], matrices, cache)
        cache[word] = _value(head, matrices, cache) @ last if head else last
    return cache[word]


def _factor_value(f: Factor, matrices: Mapping[str, Any], cache: dict[Word, Any]) -> Any:
    if isinstance(f, Letter):
        return matrices[f.name].T if f.transposed else matrices[f.name]
    inner = [w for w in (f.left, f.right) if w]
    values = [_value(w, matrices, cache) for w in inner]
    if len(values) == 1:
        return _diagonal(values[0])
    if _is_array(values[0]):
        return values[0] * values[1]
    return values[0].multiply_elementwise(values[1])


def _diagonal(value: Any) -> Any:
    """I * A: the diagonal of A, as a matrix."""
    if _is_array(value):
        return np.diag(np.diag(value))
    return value.multiply_elementwise(value.eye(value.shape[0]))
