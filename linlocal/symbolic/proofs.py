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
from itertools import chain, product
from typing import cast

import sympy as sp

from linlocal import inputs
from linlocal.rules import Rule
from linlocal.symbolic.assumptions import Assumption, NotApplicable, verdict
from linlocal.symbolic.formulas import A
from linlocal.symbolic.matrices import RationalMatrix, Symbols, inverse, semi_orthogonal
from linlocal.symbolic.statements import theorem
from linlocal.symbolic.theorems import Lemma
from linlocal.symbolic.windows import SPOKEN
from linlocal.symbolic.words import (
    Equation,
    Expression,
    Letter,
    Renaming,
    Rewrite,
    Substitution,
    evaluate,
    reduce,
)

MAX_WIDTH = 4
MAX_PAIRS = 4
"""Above these, rational functions have more terms than memory and patience allow."""

PROVED_WIDTHS: tuple[tuple[int, ...], ...] = tuple(
    chain(product((1, 2, 3), repeat=3), product((1, 2, 3), repeat=4))
)
"""The sizes at which the tests prove every theorem: all widths up to 3, two and three layers."""

PROVED_WINDOWS: tuple[tuple[int, ...], ...] = (
    *((1, *widths) for widths in product((1, 2), repeat=3)),
    (1, 3, 2, 3),
    (2, 2, 3, 2),
    (1, 2, 2, 1, 2),
)
"""The sizes at which the tests prove every theorem about windows."""

DEFINES = "definition of "
"""How the names of equations begin that define a letter."""
DIRECTIONS = 2
"""View directions in models of statements that hold for the sum over them."""
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
        hypotheses: the hypotheses that were used, in words.
        assumptions: what was taken for granted of the rule's loss, and whether that is proved.
        covers: which networks the proof is about. At a size an isometry is a block of a Cayley
            transform, which is dense among the isometries that such a network can realise.
        seconds: how long the proof took.
    """

    theorem: str
    rule: str
    without: str | None
    size: str
    lemmas: tuple[LemmaProof, ...]
    hypotheses: tuple[str, ...]
    assumptions: tuple[Assumption, ...]
    covers: tuple[str, ...]
    seconds: float = field(compare=False)

    @property
    def holds(self) -> bool | None:
        """True if all lemmas hold and all assumptions are proved, False if a lemma fails.

        None, which is not true, if the lemmas hold but rest on an assumption that is not proved;
        see `holds_if_assumed`.
        """
        return verdict(self.holds_if_assumed, self.assumptions)

    @property
    def holds_if_assumed(self) -> bool:
        """Whether all lemmas hold, once all `assumptions` are granted."""
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
        lines += [f"    given    {text}" for text in self.hypotheses]
        lines += [f"    assumed  {text}" for text in self.assumptions]
        lines += [f"    covers   {text}" for text in self.covers]
        if self.holds is None:
            lines.append("    NOT PROVED: it holds if what is assumed is true")
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
            and every layer below the top (channels of 2 x 2 maps for "convolution"), or every
            window of several layers that ends below the top; None for a proof by words for all
            sizes.
        rule: the learning rule to which the theorem is applied; by default the first of its own.
        num_pairs: the number of pairs at a size (in words it is arbitrary).
        without: a hypothesis to leave out; the residual is then what it would have removed.

    Returns:
        A `Proof`; ``proof.holds``, ``proof.residual``, ``proof.derivation``. It holds only if what
        it assumes of the loss is proved too; see `Proof.assumptions`.

    Raises:
        NotApplicable: the rule violates a hypothesis or is of another kind, its loss was caught
            violating what the proof takes for granted, or the size is not supported; the message
            says why.
        ValueError: there is no such theorem or hypothesis.
        TypeError: a size that is no whole number.
    """
    stated, num_pairs = theorem(name), inputs.whole(num_pairs, "num_pairs")
    chosen = stated.rules[0] if rule is None else rule
    start = time.perf_counter()
    assumed, lemmas = stated.check(chosen, without), stated.lemmas(chosen, without)
    given = tuple(f"{h.name}: {h.meaning}" for h in stated.hypotheses if h.name != without)
    if widths is None:
        size, proved = "all sizes", _in_words(lemmas, SPOKEN if stated.base else None)
        covers = ["every width, depth, number of pairs, and V that satisfies what is given"]
    else:
        if stated.words_only:
            raise NotApplicable(f"{name!r} is proved in words only: {stated.words_only}.")
        sizes = _checked(widths, num_pairs, chosen)
        size = f"widths {' -> '.join(map(str, sizes))}, {num_pairs} pairs"
        proved, covers = [], []
        for l, e in _judged(sizes, window=bool(stated.base)):
            at, about = _at_size(
                lemmas, sizes[l - 1], sizes[e], sizes[-1], num_pairs, min(sizes[e:]), sizes[l]
            )
            where = f"layer {l}" if l == e else f"layers {l} to {e}"
            proved += [replace(p, name=f"{where}, {p.name}") for p in at]
            covers.append(f"{where}: {about}")
    if stated.name.endswith("conformal") and without is None:
        covers.append(_factors(chosen))
    return Proof(
        name,
        chosen.name,
        without,
        size,
        tuple(proved),
        given,
        assumed,
        tuple(covers),
        time.perf_counter() - start,
    )


def _judged(sizes: Sequence[int], window: bool) -> list[tuple[int, int]]:
    """The layers l that are trained and the layers e < L whose loss trains them."""
    below = range(1, len(sizes) - 1)
    if not window:
        return [(l, l) for l in below]
    found = [(l, e) for l in below for e in below if l < e]
    if not found:
        raise NotApplicable(
            f"widths {tuple(sizes)} have no window of several layers below the top one; give at "
            "least n_0, n_1, n_2, n_3."
        )
    return found


def _factors(rule: Rule) -> str:
    """The factors a of conformal maps for which the penalties of a rule are the rescaled ones."""
    given = rule.penalty.strength
    *below, top = given if isinstance(given, tuple) else (given, given)
    factors = []
    for strength in below:
        r = top / strength
        # lam_l = lam/a^2, lam/a, lam (1 + a)/a^2.
        roots = {"same": r**0.5, "top": r, "both": (r + (r * r + 4.0 * r) ** 0.5) / 2.0}
        factors.append(f"{roots[rule.context]:.4g}")
    if isinstance(given, tuple):
        return f"under the penalties {given} of the rule: a = {', '.join(factors)} by layer"
    return f"under one penalty for all layers, as the rule has it: a = {factors[0]} only"


def _checked(widths: Sequence[int], num_pairs: int, rule: Rule) -> tuple[int, ...]:
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
    strengths = rule.penalty.strength
    if isinstance(strengths, tuple) and len(strengths) != len(sizes) - 1:
        raise NotApplicable(
            f"{rule.name} has {len(strengths)} penalties, one for each layer, but widths {sizes} "
            f"have {len(sizes) - 1} layers."
        )
    return sizes


# -- all sizes -----------------------------------------------------------------------------------


def _in_words(lemmas: Sequence[Lemma], spoken: Renaming | None = None) -> list[LemmaProof]:
    gained: list[Rewrite] = []
    proved = []
    for raw in lemmas:
        lemma = raw if spoken is None else _spelled(raw, spoken)
        derivation = reduce(lemma.expression, (*gained, *lemma.given))
        rest = derivation.result
        proved.append(LemmaProof(lemma.name, rest, rest.is_zero, str(derivation)))
        if rest.is_zero and lemma.gives is not None:
            gained.append(lemma.gives)
    return proved


def _spelled(lemma: Lemma, spoken: Renaming) -> Lemma:
    gives = lemma.gives and cast(Rewrite, spoken.of_equation(lemma.gives))
    given = tuple(map(spoken.of_equation, lemma.given))
    return Lemma(lemma.name, spoken.of(lemma.expression), given, gives)


# -- one size ------------------------------------------------------------------------------------


@cache
def _at_size(
    lemmas: tuple[Lemma, ...],
    below: int,
    width: int,
    top: int,
    num_pairs: int,
    rank: int | None = None,
    trained: int = 1,
) -> tuple[tuple[LemmaProof, ...], str]:
    """Prove the lemmas for one layer, and say which downstream maps V that covers.

    V is any matrix of its kind and of a rank that the layers above allow, so products
    W_L ... W_{l+1} are covered whatever lies between; and rules with the same lemmas (type 1,
    type 2, InfoNCE) share one proof.

    Args:
        lemmas: what must vanish.
        below: the width of what the trained layer reads.
        width: the width of the layer whose loss is taken.
        top: the width of the top layer.
        num_pairs: the number of pairs.
        rank: the smallest width from the layer of the loss to the top, by default of those two.
        trained: the width of the trained layer, where that is below the layer of the loss.
    """
    gained: list[Rewrite] = []
    proved = []
    narrowest = min(width, top) if rank is None else rank
    sizes = {"P": num_pairs, "l-1": below, "l": width, "L": top, "r": narrowest, "t": trained}
    about: dict[str, None] = {}
    for lemma in lemmas:
        model = _Model(lemma, gained, sizes)
        if model.objection:
            text = f"    holds vacuously: {model.objection}"
            proved.append(LemmaProof(lemma.name, sp.zeros(1, 1), True, text))
            continue
        about[model.coverage] = None
        model.check(lemma)
        value = model.value(lemma.expression)
        holds = value is None or value.is_zero
        matrix = sp.zeros(1, 1) if value is None else value.to_sympy()
        text = f"    = 0 in {model.description}" if holds else f"    = {matrix}"
        proved.append(LemmaProof(lemma.name, matrix, holds, text))
        if holds and lemma.gives is not None:
            gained.append(lemma.gives)
    return tuple(proved), "; ".join(about)


_REST = "the others in words"


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
        self.derived = dict(filter(None, map(_definition, lemma.given)))
        letters = self._base_letters(lemma)
        if "V_c" in letters:
            self.sizes |= {"k": DIRECTIONS * sizes["l"], "K": DIRECTIONS * sizes["L"]}
        if any(name in letters for name in ("P_l", "P_L")):
            self.sizes |= {"p_l": sizes["l"], "p_L": sizes["L"]}
            self.sizes |= {"l": WINDOW * sizes["l"], "L": WINDOW * sizes["L"]}
        self._make(letters, lemma)

    def _objection(self) -> str:
        width, top, rank = (self.sizes[k] for k in ("l", "L", "r"))
        if "V V^T = I" in self.given and rank < top:
            return f"V maps to {top} dimensions and has rank {rank}, its rows are not orthonormal"
        if "inverse of G" in self.given and rank < width:
            return f"G has rank {rank} < {width}, it has no inverse"
        return ""

    @property
    def coverage(self) -> str:
        """Which V the model stands for."""
        width, top, rank = (self.sizes[k] for k in ("l", "L", "r"))
        rotations = f"the rotations of {{}} dimensions without an eigenvalue -1 (dense; {_REST})"
        if "spectral theorem" in self.given:
            return f"G = Q^T Lambda Q, Q among {rotations.format(width)}, any Lambda"
        if "pooling commutes" in self.given:
            return "V = U on each pixel, any U"
        conformal = "conformal on the anchors" in self.given
        rows = "V V^T = I" in self.given
        if not (conformal or rows or "isometry on the anchors" in self.given):
            return "any V"
        scaled = "s V, s > 0, V" if conformal else "V"
        seen = f" and activities in its row space, {rank} of {width} dimensions"
        seen = "" if rank == width or rows else seen
        if rank < min(width, top):
            blocks = f"{top} x {rank} by {rank} x {width} blocks of"
            turned = rotations.format(f"{top} and {width}")
            return f"{scaled} of rank {rank} = {blocks} {turned}{seen}"
        if width == top == 1:
            return f"{scaled} = 1"
        if width == top:
            return f"{scaled} among {rotations.format(width)}{seen}"
        block = f"a {top} x {width} block of {rotations.format(max(width, top))}"
        return f"{scaled} = {block}{seen}"

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
            rank = min(self.sizes["r"], n, top)
            if rank < min(n, top):
                rotations |= {"V": top, "R": n}
            for name in {"Z_l", "C_l"} & shapes.keys():
                shapes[name] = (self.sizes["P"], rank)
        stacked = shapes.pop("V_c", None) is not None
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
            if rank < min(n, top):
                rows = semi_orthogonal(made.pop("R"), rank, n)
                made["V"] = semi_orthogonal(made["V"], top, rank) @ rows
            else:
                rows = made["V"] = semi_orthogonal(made["V"], top, n)
            if rank < n:
                # Activities in the row space of V: there G is the identity (times a).
                made |= {k: made[k] @ rows for k in {"Z_l", "C_l"} & made.keys()}
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
        if stacked:
            made["V_c"] = made["V"].eye(DIRECTIONS).kronecker(made["V"])
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
            if isinstance(rule, Rewrite) and not rule.name.startswith(DEFINES):
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


def _definition(rule: Equation) -> tuple[str, Expression] | None:
    """The name of a letter that stands for a product, and the product."""
    if not rule.name.startswith(DEFINES) or isinstance(rule, Substitution):
        return None
    name = rule.name.removeprefix(DEFINES)
    return name, rule.right if str(rule.left) == name else rule.left


def _renaming(rule: Rewrite) -> tuple[str, str] | None:
    """The names of both sides, if each is one letter: two matrices that are the same."""
    sides = [e.terms[0][0] for e in (rule.left, rule.right) if len(e.terms) == 1]
    if len(sides) < 2 or any(len(w) != 1 or not isinstance(w[0], Letter) for w in sides):
        return None
    left, right = (word[0] for word in sides)
    return str(left), str(right)
