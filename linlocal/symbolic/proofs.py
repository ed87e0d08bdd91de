"""`prove`: a theorem for all sizes by words, or at one size for all parameter values.

In words the hypotheses are equations by which the lemmas are rewritten to zero. At a size each
hypothesis has a *model*, a parametrisation by free symbols of the matrices that satisfy it (an
isometry is a block of a Cayley transform, say); the lemmas are evaluated on it in exact rational
functions. The model is first checked against the equations it is to satisfy, so the two proofs rest
on the same hypotheses, but share no calculus.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain, pairwise, product

import sympy as sp

from linlocal import inputs
from linlocal.rules import Rule
from linlocal.symbolic.formulas import ABBREVIATIONS, A, NotApplicable
from linlocal.symbolic.matrices import RationalMatrix, Symbols, inverse, semi_orthogonal
from linlocal.symbolic.statements import theorem
from linlocal.symbolic.theorems import Lemma
from linlocal.symbolic.words import Expression, Letter, Rewrite, Substitution, evaluate, reduce

MAX_WIDTH = 4
MAX_PAIRS = 4
"""Above these, rational functions have more terms than memory and patience allow."""

PROVED_WIDTHS: tuple[tuple[int, ...], ...] = tuple(
    chain(product((1, 2, 3), repeat=3), product((1, 2, 3), repeat=4))
)
"""The sizes at which the tests prove every theorem: all widths up to 3, two and three layers."""

SCALE = sp.Symbol("s", positive=True)
WINDOW = 4
"""Pixels of the map that is pooled to one (2 x 2) in models of pooling."""


@dataclass(frozen=True)
class LemmaProof:
    """What became of one lemma.

    Attributes:
        name: the name of the lemma and, for a proof at a size, the layer.
        residual: what is left of the lemma: an `Expression` in words, a sympy matrix at a size.
        holds: whether the residual is zero.
        text: the derivation, in words.
    """

    name: str
    residual: Expression | sp.Matrix
    holds: bool
    text: str


@dataclass(frozen=True)
class Proof:
    """A proof, or what is left of one whose hypothesis was dropped; print it.

    Attributes:
        theorem: the name of the theorem.
        rule: the name of the rule that the theorem was applied to.
        without: the hypothesis that was not used, if any.
        size: "all sizes", or the widths and the number of pairs.
        lemmas: the proofs of the lemmas, each with its residual.
        seconds: how long the proof took.
    """

    theorem: str
    rule: str
    without: str | None
    size: str
    lemmas: tuple[LemmaProof, ...]
    seconds: float = field(compare=False)

    @property
    def holds(self) -> bool:
        """Whether all lemmas hold."""
        return all(lemma.holds for lemma in self.lemmas)

    @property
    def residual(self) -> Expression | sp.Matrix:
        """What is left of the last lemma that fails, or the zero of the last lemma."""
        failed = [lemma for lemma in self.lemmas if not lemma.holds]
        return (failed or self.lemmas)[-1].residual

    @property
    def derivation(self) -> str:
        """All steps, with the rule that each of them uses."""
        dropped = f" without {self.without!r}" if self.without else ""
        lines = [f"{self.theorem}{dropped} for {self.rule}, {self.size}"]
        for lemma in self.lemmas:
            lines += ["", f"{lemma.name}: {'0, as claimed' if lemma.holds else 'NOT zero'}"]
            lines.append(lemma.text)
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.derivation


def prove(
    name: str,
    widths: Sequence[int] | None = None,
    rule: Rule | None = None,
    num_pairs: int = 2,
    without: str | None = None,
) -> Proof:
    """Prove a theorem exactly.

    Args:
        name: the name of the theorem, a key of `linlocal.symbolic.THEOREMS`.
        widths: n_0..n_L for a proof at this size in rational functions, for all parameter values
            and every layer below the top (channels of 2 x 2 maps for "convolution"); None for a
            proof by words for all sizes.
        rule: the learning rule to which the theorem is applied; by default the first of its own.
        num_pairs: the number of pairs at a size (in words it is arbitrary).
        without: a hypothesis to leave out; the residual is then what it would have removed.

    Returns:
        A `Proof`; ``proof.holds``, ``proof.residual``, ``proof.derivation``.

    Raises:
        NotApplicable: the theorem does not apply to the rule, or the size is not supported; the
            message says why.
        ValueError: there is no such theorem or hypothesis.
        TypeError: a size that is no whole number.
    """
    stated, num_pairs = theorem(name), inputs.whole(num_pairs, "num_pairs")
    chosen = stated.rules[0] if rule is None else rule
    start = time.perf_counter()
    lemmas = stated.lemmas(chosen, without)
    if widths is None:
        size, proved = "all sizes", _in_words(lemmas)
    else:
        if stated.words_only:
            raise NotApplicable(f"{name!r} is proved in words only: {stated.words_only}.")
        sizes = _checked(widths, num_pairs)
        size = f"widths {' -> '.join(map(str, sizes))}, {num_pairs} pairs"
        proved = []
        for l, (below, width) in enumerate(pairwise(sizes[:-1]), start=1):
            at = _at_size(lemmas, below, width, sizes[-1], num_pairs)
            proved += [replace(p, name=f"layer {l}, {p.name}") for p in at]
    return Proof(name, chosen.name, without, size, tuple(proved), time.perf_counter() - start)


def _checked(widths: Sequence[int], num_pairs: int) -> tuple[int, ...]:
    sizes = tuple(
        inputs.whole(width, "an entry of widths")
        for width in inputs.sequence(widths, "widths", "whole numbers")
    )
    if len(sizes) < 3:
        raise NotApplicable(
            f"widths {sizes} have no layer below the top one, where local and global loss are the "
            "same; give at least n_0, n_1, n_2."
        )
    if not all(1 <= n <= MAX_WIDTH for n in sizes):
        raise NotApplicable(
            f"Proofs at a size are for whole widths 1..{MAX_WIDTH}, got {sizes}; use "
            "widths=None for all sizes at once."
        )
    if not 1 <= num_pairs <= MAX_PAIRS:
        raise NotApplicable(
            f"Proofs at a size are for 1..{MAX_PAIRS} pairs, got {num_pairs}; use "
            "widths=None for any number."
        )
    return sizes


# -- all sizes -----------------------------------------------------------------------------------


def _in_words(lemmas: Sequence[Lemma]) -> list[LemmaProof]:
    gained: list[Rewrite] = []
    proved = []
    for lemma in lemmas:
        derivation = reduce(lemma.expression, (*gained, *lemma.given))
        rest = derivation.result
        proved.append(LemmaProof(lemma.name, rest, rest.is_zero, str(derivation)))
        if rest.is_zero and lemma.gives is not None:
            gained.append(lemma.gives)
    return proved


# -- one size ------------------------------------------------------------------------------------


@cache
def _at_size(
    lemmas: tuple[Lemma, ...], below: int, width: int, top: int, num_pairs: int
) -> tuple[LemmaProof, ...]:
    """Prove the lemmas for one layer, given the widths of the layer, of its input and of the top.

    V is any matrix of its kind, so products W_L ... W_{l+1} are covered whatever lies between; and
    rules with the same lemmas (type 1, type 2, InfoNCE) share one proof.
    """
    gained: list[Rewrite] = []
    proved = []
    sizes = {"P": num_pairs, "l-1": below, "l": width, "L": top}
    for lemma in lemmas:
        model = _Model(lemma, gained, sizes)
        if model.objection:
            text = f"    holds vacuously: {model.objection}"
            proved.append(LemmaProof(lemma.name, sp.zeros(1, 1), True, text))
            continue
        model.check(lemma)
        value = model.value(lemma.expression)
        holds = value is None or value.is_zero
        matrix = sp.zeros(1, 1) if value is None else value.to_sympy()
        text = f"    = 0 in {model.description}" if holds else f"    = {matrix}"
        proved.append(LemmaProof(lemma.name, matrix, holds, text))
        if holds and lemma.gives is not None:
            gained.append(lemma.gives)
    return tuple(proved)


class _Model:
    """Matrices in free symbols that satisfy what a lemma is given."""

    def __init__(self, lemma: Lemma, gained: Sequence[Rewrite], sizes: Mapping[str, int]) -> None:
        self.given = {r.name for r in lemma.given}
        self.sizes = dict(sizes)
        self.objection = self._objection()
        self.scalars = {r.symbol: r.value for r in lemma.given if isinstance(r, Substitution)}
        # Substituted one after the other: lam_l = lam / a^2, then a = s^2.
        if "conformal on the anchors" in self.given:
            self.scalars = {k: sp.sympify(v).subs(A, SCALE**2) for k, v in self.scalars.items()}
            self.scalars[A] = SCALE**2
        if self.objection:
            return
        known = [*gained, *(r for r in lemma.given if isinstance(r, Rewrite))]
        self.alike = dict(filter(None, map(_renaming, known)))
        self.derived = {
            n: ABBREVIATIONS[n] for n in ABBREVIATIONS if f"definition of {n}" in self.given
        }
        letters = self._base_letters(lemma)
        if any(name in letters for name in ("P_l", "P_L")):
            self.sizes |= {"p_l": sizes["l"], "p_L": sizes["L"]}
            self.sizes |= {"l": WINDOW * sizes["l"], "L": WINDOW * sizes["L"]}
        self._make(letters, lemma)

    def _objection(self) -> str:
        width, top = self.sizes["l"], self.sizes["L"]
        if "V V^T = I" in self.given and top > width:
            return f"V maps {width} to {top} dimensions, so its rows cannot be orthonormal"
        if "inverse of G" in self.given and top < width:
            return f"G has rank {top} < {width}, it has no inverse"
        return ""

    def _base_letters(self, lemma: Lemma) -> dict[str, Letter]:
        """Letters that are no abbreviation, those in abbreviations and hypotheses included."""
        todo = [lemma.expression]
        todo += [e for r in lemma.given if isinstance(r, Rewrite) for e in (r.left, r.right)]
        letters: dict[str, Letter] = {}
        while todo:
            for name, entry in todo.pop().letters.items():
                if name in self.derived:
                    todo.append(self.derived[name])
                else:
                    letters[self.alike.get(name, name)] = entry
        return letters

    def _make(self, letters: Mapping[str, Letter], lemma: Lemma) -> None:
        n, top = self.sizes["l"], self.sizes["L"]
        orthogonal = self.given & {
            "isometry on the anchors",
            "conformal on the anchors",
            "V V^T = I",
        }
        shapes = {k: (self.sizes[e.rows], self.sizes[e.columns]) for k, e in letters.items()}
        rotations: dict[str, int] = {}
        if orthogonal:
            del shapes["V"]
            rotations["V"] = max(n, top)
            for name in {"Z_l", "C_l"} & shapes.keys():
                shapes[name] = (self.sizes["P"], min(n, top))
        if "spectral theorem" in self.given:
            del shapes["G"], shapes["Q"]
            rotations["Q"] = n
        if "pooling commutes" in self.given:
            del shapes["P_l"], shapes["P_L"], shapes["V"]
        has_inverse = shapes.pop("G^-1", None) is not None
        known = ("D_l", "D_l'", "D_L", "Lambda")
        diagonal = {k: shapes.pop(k)[0] for k in known if k in shapes}
        scalars = {s for _, c in lemma.expression.terms for s in c.free_symbols} - {A}
        scalars |= {s for v in self.scalars.values() for s in sp.sympify(v).free_symbols}
        self.symbols = Symbols(
            shapes, rotations, diagonal, sorted(scalars - self.scalars.keys(), key=str)
        )
        made = dict(self.symbols.matrices)
        for name in {"S_l", "S_L"} & made.keys():
            made[name] = made[name] + made[name].T
        if orthogonal:
            made["V"] = semi_orthogonal(made["V"], top, n)
            if top < n:
                # Activities in the row space of V: there G is the identity (times a).
                made |= {k: made[k] @ made["V"] for k in {"Z_l", "C_l"} & made.keys()}
            if "conformal on the anchors" in self.given:
                made["V"] = made["V"] * SCALE
        if "spectral theorem" in self.given:
            made["G"] = made["Q"].T @ made["Lambda"] @ made["Q"]
        if "pooling commutes" in self.given:
            u = made["U"]
            made["V"] = u.kronecker(u.eye(WINDOW))
            mean = u.row([sp.Rational(1, WINDOW)] * WINDOW)
            made["P_l"], made["P_L"] = (
                u.eye(self.sizes[k]).kronecker(mean) for k in ("p_l", "p_L")
            )
        made |= {k: made[v] for k, v in self.alike.items() if v in made}
        self.matrices = _Matrices(made, self)
        if has_inverse:
            self.matrices["G^-1"] = inverse(self.matrices["G"])

    @property
    def description(self) -> str:
        """How many symbols the identity holds for."""
        return f"{len(self.symbols.ring.gens) - 1} free symbols"

    def value(self, expression: Expression) -> RationalMatrix | None:
        """The expression on this model."""
        found = evaluate(expression, self.matrices, self.scalars)
        assert found is None or isinstance(found, RationalMatrix)
        return found

    def check(self, lemma: Lemma) -> None:
        """Assert that the model satisfies the hypotheses of the lemma."""
        for rule in lemma.given:
            if isinstance(rule, Rewrite) and not rule.name.startswith("definition"):
                assert self._satisfies(rule), f"The model violates {rule.name}: {rule}."

    def _satisfies(self, rule: Rewrite) -> bool:
        left = self.value(rule.left)
        assert left is not None
        if any(not word for word, _ in rule.right.terms):
            return (left - left.eye(left.shape[0])).is_zero
        right = self.value(rule.right)
        return left.is_zero if right is None else (left - right).is_zero


class _Matrices(dict[str, RationalMatrix]):
    """Matrices by name; abbreviations are computed when first asked for."""

    def __init__(self, made: Mapping[str, RationalMatrix], model: _Model) -> None:
        super().__init__(made)
        self.model = model

    def __missing__(self, name: str) -> RationalMatrix:
        value = self.model.value(self.model.derived[name])
        assert value is not None
        self[name] = value
        return value


def _renaming(rule: Rewrite) -> tuple[str, str] | None:
    """The names of both sides, if each is one letter: two matrices that are the same."""
    sides = [e.terms[0][0] for e in (rule.left, rule.right) if len(e.terms) == 1]
    if len(sides) < 2 or any(len(w) != 1 or not isinstance(w[0], Letter) for w in sides):
        return None
    left, right = (word[0] for word in sides)
    return str(left), str(right)
