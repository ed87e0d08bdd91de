"""`derive`: the exact condition under which a rule's local update equals the global one.

The difference of the updates (and of what the slopes depend on) is rewritten until only the layer's
own activities and the downstream metric G = V^T V are left. It is then abbreviated and factored,
and the condition can be read off. At a size it is a system of polynomials in the entries of G, and
Groebner bases decide what it says about G and whether a condition on V implies it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import sympy as sp

from linlocal import inputs
from linlocal.rules import Rule
from linlocal.symbolic import formulas
from linlocal.symbolic.assumptions import Assumption, NotApplicable, assumptions, verdict
from linlocal.symbolic.formulas import (
    FOLD_TOP,
    FOLDS_SAME,
    LAM,
    LAM_LAYER,
    METRIC,
    A,
)
from linlocal.symbolic.words import (
    Derivation,
    Equation,
    Expression,
    Letter,
    Rewrite,
    Substitution,
    evaluate,
    reduce as rewrite,
)

Equations = Callable[[sp.Matrix], sp.Matrix]

CONDITIONS: dict[str, Equations] = {
    "isometry": lambda v: v.T * v - sp.eye(v.cols),
    "orthonormal rows": lambda v: v * v.T - sp.eye(v.rows),
    "conformal": lambda v: v.T * v - A * sp.eye(v.cols),
}
"""Conditions on V by name, as matrices that must vanish."""


@dataclass(frozen=True)
class Implication:
    """Whether a condition on V makes the updates equal for all data, at one size.

    Attributes:
        holds: whether every residual polynomial lies in the ideal of the condition; None if they
            do, but the polynomials rest on an assumption that is not proved.
        basis: a Groebner basis of that ideal.
        remainders: what is left of the residual modulo the ideal; empty if it holds.
    """

    holds: bool | None
    basis: tuple[sp.Expr, ...]
    remainders: tuple[sp.Expr, ...]


@dataclass(frozen=True)
class DerivedCondition:
    """What local = global comes down to for one rule; print it.

    Attributes:
        rule: the name of the rule.
        update: the difference global - local of the updates at equal slopes, in terms of G; zero
            if they are always equal.
        slopes: the difference of what the slopes are a function of, in terms of G; None if the
            slopes are constant. Where it does not vanish, the slopes may differ, and the condition
            on the updates is not the whole one.
        second_slopes: the same for a layer's second loss (context "each"), which has slopes of its
            own; else None.
        derivations: the rewritings that led to ``update`` and ``slopes``.
        abbreviations: the names and meanings of the letters that stand for products.
        directions: how the condition is to be read for several view directions, whose updates add
            up: "" if no letter changes its meaning.
        assumptions: what was taken for granted of the rule's loss.
    """

    rule: str
    update: Expression
    slopes: Expression | None
    second_slopes: Expression | None
    derivations: tuple[Derivation, ...]
    abbreviations: tuple[tuple[str, str], ...]
    directions: str
    assumptions: tuple[Assumption, ...]

    @property
    def always(self) -> bool | None:
        """Whether the local and the global update are equal whatever V is.

        None if they are, provided that an assumption holds which is not proved.
        """
        return verdict(self._vanishes, self.assumptions)

    @property
    def _vanishes(self) -> bool:
        return all(e.is_zero for e in self._parts)

    @property
    def _parts(self) -> list[Expression]:
        """All that must vanish."""
        found = (self.update, self.slopes, self.second_slopes)
        return [e for e in found if e is not None]

    @property
    def scalars(self) -> set[sp.Symbol]:
        """The symbols in its coefficients: the penalties."""
        return {s for e in self._parts for _, c in e.terms for s in c.free_symbols}

    @property
    def equation(self) -> str:
        """The condition on the updates, as an equation: "G M G N = M N"."""
        return self.update.equation

    @property
    def factored(self) -> str:
        """The same with common factors taken out: "(G - I) X = 0"."""
        return f"{self.update.content[1].factored} = 0"

    def residuals(self, width: int, below: int = 1, num_pairs: int = 2) -> list[sp.Matrix]:
        """The residual at a size, polynomials in the entries g_ij of G and of everything else.

        Args:
            width: the width of the layer.
            below: the width of the layer below.
            num_pairs: the number of pairs.

        Raises:
            NotApplicable: the residual has letters (pooling) without a size of their own.
        """
        sizes = {
            "P": inputs.whole(num_pairs, "num_pairs", 1),
            "l": inputs.whole(width, "width", 1),
            "l-1": inputs.whole(below, "below", 1),
        }
        return [
            evaluate(e, _free(e, sizes), {LAM: LAM, LAM_LAYER: LAM_LAYER})
            for e in self._parts
            if not e.is_zero
        ]

    def polynomials(self, width: int, below: int = 1, num_pairs: int = 2) -> list[sp.Expr]:
        """Polynomials in the g_ij alone whose vanishing means equality for all data of a size."""
        metric = sorted(metric_symbols(width).free_symbols, key=str)
        return _coefficients(self.residuals(width, below, num_pairs), metric)

    def on_metric(self, width: int) -> tuple[sp.Expr, ...]:
        """A Groebner basis of `polynomials`, factored: what equality for all data says of G."""
        metric = sorted(metric_symbols(width).free_symbols, key=str)
        system = self.polynomials(width)
        if not system:
            return ()
        return tuple(sp.factor(e) for e in sp.groebner(system, *metric, order="lex").exprs)

    def implied_by(
        self, condition: str | Equations, width: int, top: int, below: int = 1
    ) -> Implication:
        """Decide by Groebner reduction whether a condition on V implies equality for all data.

        Args:
            condition: a key of `CONDITIONS`, or a function of V (top x width) that returns a
                matrix of polynomials that must vanish.
            width: the width of the layer.
            top: the width of the top layer.
            below: the width of the layer below.

        Returns:
            An `Implication`. If it does not hold, the residual lies outside the ideal; use
            `counterexample` to find a rational point that shows it.

        Raises:
            ValueError: the condition is unknown.
        """
        if isinstance(condition, str) and condition not in CONDITIONS:
            raise ValueError(f"Unknown condition {condition!r}; known are {', '.join(CONDITIONS)}.")
        width, top = inputs.whole(width, "width", 1), inputs.whole(top, "top", 1)
        equations = CONDITIONS[condition] if isinstance(condition, str) else condition
        v = sp.Matrix(top, width, lambda i, j: sp.Symbol(f"v_{i}{j}"))
        wanted = [e for e in equations(v) if e != 0]
        unknowns = [*v, *sorted({s for e in wanted for s in e.free_symbols} - set(v), key=str)]
        # Penalties are parameters, not unknowns.
        field = sp.QQ.frac_field(LAM, LAM_LAYER) if LAM_LAYER in self.scalars else sp.QQ
        basis = sp.groebner(wanted, *unknowns, order="grevlex", domain=field)
        metric, gram = metric_symbols(width), v.T * v
        values = {metric[i, j]: gram[i, j] for i in range(width) for j in range(i, width)}
        rests = []
        for polynomial in self.polynomials(width, below):
            rest = basis.reduce(sp.expand(polynomial.subs(values, simultaneous=True)))[1]
            if rest != 0:
                rests.append(rest)
        holds = verdict(not rests, self.assumptions)
        return Implication(holds, tuple(basis.exprs), tuple(dict.fromkeys(rests)))

    def __str__(self) -> str:
        doubts = [f"    assumed: {a}" for a in self.assumptions if not a.verified]
        if self._vanishes:
            return "\n".join([f"{self.rule}: local = global for every V", *doubts])
        lines = [f"{self.rule}: local = global"]
        lines += [
            f"    if {slopes.equation}   (then the slopes agree) and"
            for slopes in (self.slopes, self.second_slopes)
            if slopes is not None and not slopes.is_zero
        ]
        lines.append(f"    {'if and only if' if self.slopes is None else 'if'} {self.factored}")
        lines += [f"    where {name} = {meaning}" for name, meaning in self.abbreviations]
        if self.slopes is None and self.directions:
            lines.append(f"    several view directions: {self.directions}")
        lines += doubts
        return "\n".join(lines)


def derive(rule: Rule) -> DerivedCondition:
    """The condition under which a layer's local update equals the global one.

    Reads the context, the projection, the kind of loss, the penalty and whether the score is linear
    from the rule, so it works for one that you wrote. A layer's penalty strength is lam_l where the
    rule gives each layer its own, and lam otherwise.

    Args:
        rule: any rule whose projection is not random.

    Returns:
        The condition. It is necessary and sufficient if the slopes are constant (linear f), else
        sufficient.

    Raises:
        NotApplicable: a random projection, or a loss that is no function of inner products, not
            convex, or has slopes that are not its derivatives.
    """
    f = formulas.of_rule(rule)
    one_strength = not isinstance(rule.penalty.strength, tuple)
    scalars: list[Substitution] = (
        [Substitution("one penalty", LAM_LAYER, LAM)] if one_strength else []
    )
    folds = _folds(rule, f.local)
    given: tuple[Equation, ...] = (*folds, *formulas.DEFINITIONS, METRIC, *scalars)
    known: tuple[Equation, ...] = (*formulas.DEFINITIONS, METRIC, *scalars)
    derivations, agreed = [], [f.same_slopes]
    if not f.constant_slopes:
        derivations.append(rewrite(f.global_scores - f.local_scores, known))
        if f.second is not None and f.same_second_slopes is not None:
            derivations.append(rewrite(f.global_scores - f.second[0], known))
            agreed.append(f.same_second_slopes)
    slopes, second, *_ = [*(d.result for d in derivations), None, None]
    derivations.append(rewrite(f.global_ - f.local, (*agreed, *given)))
    update = derivations[-1].result
    meanings = tuple(
        (str(r.right), str(r.left))
        for r in folds
        if r.right.letters.keys() <= update.letters.keys()
    )
    directions = {
        (): "",
        (FOLD_TOP,): "X is the sum of theirs",
        FOLDS_SAME: "M = [M_1, M_2, ...], N = [N_1; N_2; ...], and each G to the right of M is "
        "diag(G, G, ...)",
    }
    return DerivedCondition(
        rule.name,
        update,
        slopes,
        second,
        tuple(derivations),
        meanings,
        directions.get(folds, "X is the sum of theirs"),
        assumptions(rule),
    )


def _folds(rule: Rule, local: Expression) -> tuple[Rewrite, ...]:
    """Abbreviations of the local update: M N, or X for all of it."""
    if rule.kind != "pair" or rule.projection == "matched" or "P_l" in local.letters:
        return ()
    if rule.projection == "identity":
        return (Rewrite("definition of X", local, FOLD_TOP.right),)
    return (FOLD_TOP,) if rule.context == "top" else FOLDS_SAME


def metric_symbols(width: int) -> sp.Matrix:
    """G of free symbols g_ij, symmetric."""
    width = inputs.whole(width, "width", 1)
    return sp.Matrix(width, width, lambda i, j: sp.Symbol(f"g_{min(i, j)}{max(i, j)}"))


def _free(expression: Expression, sizes: dict[str, int]) -> dict[str, sp.Matrix]:
    made = {}
    for name, entry in expression.letters.items():
        if entry.rows not in sizes or entry.columns not in sizes:
            raise NotApplicable(
                f"The residual contains {name}, {entry.rows} x {entry.columns}, which is no "
                "function of G and the layer's own activities; read it as words."
            )
        made[name] = metric_symbols(sizes["l"]) if name == "G" else _matrix(entry, sizes)
    return made


def _matrix(entry: Letter, sizes: dict[str, int]) -> sp.Matrix:
    rows, columns = sizes[entry.rows], sizes[entry.columns]
    if entry.name.startswith("D_"):
        return sp.diag(*(sp.Symbol(f"{entry.name}_{i}") for i in range(rows)))
    return sp.Matrix(
        rows,
        columns,
        lambda i, j: sp.Symbol(
            f"{entry.name}_{min(i, j)}{max(i, j)}" if entry.symmetric else f"{entry.name}_{i}{j}"
        ),
    )


def _coefficients(residuals: Sequence[sp.Matrix], keep: Sequence[sp.Symbol]) -> list[sp.Expr]:
    """Coefficients of all monomials in the symbols not in ``keep``; penalties are parameters."""
    found: dict[sp.Expr, None] = {}
    for matrix in residuals:
        for i, j in product(range(matrix.rows), range(matrix.cols)):
            entry = sp.expand(sp.numer(sp.together(matrix[i, j])))
            others = sorted(entry.free_symbols - {*keep, LAM, LAM_LAYER}, key=str)
            for c in sp.Poly(entry, *others).coeffs() if others else [entry]:
                if c != 0:
                    found[sp.Poly(c, *keep).primitive()[1].as_expr()] = None
    return list(found)
