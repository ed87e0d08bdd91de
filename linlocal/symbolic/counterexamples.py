"""Witnesses: exact rational networks and data on which a theorem fails without a hypothesis.

A witness is found by a deterministic search over small rational numbers: the other hypotheses are
built in (and checked), the activities, weights and projections are drawn, and the first draw with a
residual that is not zero is it. All have two layers, W_1 = I, one positive and one negative pair,
and a linear score unless the hypothesis is about the score.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import numpy as np
import sympy as sp

from linlocal import losses, rules
from linlocal.inputs import Array
from linlocal.losses import scores
from linlocal.networks import Convolution, DeepLinear, average_pooling
from linlocal.pairs import Direction, Pairs
from linlocal.rules import Penalty, Rule
from linlocal.symbolic import formulas
from linlocal.symbolic.formulas import ABBREVIATIONS, LAM, LAM_LAYER, A
from linlocal.symbolic.matrices import rational_rotation
from linlocal.symbolic.statements import theorem
from linlocal.symbolic.theorems import Lemma, Theorem
from linlocal.symbolic.windows import SPOKEN
from linlocal.symbolic.words import Rewrite, Substitution, evaluate

Matrices = dict[str, sp.Matrix]

MAX_DRAWS = 10_000
MAP = (1, 2, 2)
"""One channel of 2 x 2 pixels."""
SIGNS = sp.diag(1, -1)
"""Slopes of the linear score for one positive and one negative pair: y/n."""
INSIDE = sp.Matrix([[1, 1], [-1, 1]])
"""V_{le}, the layers inside a window."""


@dataclass(frozen=True)
class Witness:
    """A network and data that satisfy all hypotheses of a theorem but one, and not its conclusion.

    Attributes:
        theorem: the name of the theorem, or of a claim in the literature.
        without: the hypothesis that the witness violates.
        rule: the learning rule.
        matrices: the matrices by name: "Z_{l-1}" = "Z_l" (pairs, width) anchors, "C_l" contexts,
            "V" = W_2, and what the hypothesis is about ("B_l", ...). For a window "Z_e", "C_e" and
            "V_e", where "V_{le}" = W_2 is inside it and W_1 its inverse. Where there is a "W_1",
            "Z_l" = "Z_{l-1}" W_1^T; "C_l'" are the contexts of a second view direction.
        scalars: the values of penalties and factors.
        meaning: what the residual is, in words.
        residual: what does not vanish (for an inequality, the negative difference).
    """

    theorem: str
    without: str
    rule: Rule
    matrices: Mapping[str, sp.Matrix]
    scalars: Mapping[str, sp.Expr]
    meaning: str
    residual: sp.Matrix

    def setting(self) -> tuple[DeepLinear, Pairs]:
        """The network and the batch, for `linlocal.compare` and its kin with ``self.rule``.

        Where the witness has a projection of its own ("B_l"), that is not part of the rule.
        """
        window = "V_{le}" in self.matrices
        z, v = self._numbers("Z_{l-1}"), self._numbers("V_e" if window else "V")
        rows = np.arange(len(z))
        weights: list[Any] = [np.eye(z.shape[1]), v]
        if window:
            inside = self._numbers("V_{le}")
            weights = [np.linalg.inv(inside), inside, v]
        if "W_1" in self.matrices:
            weights[0] = self._numbers("W_1")
        if self.rule.kind == "view":
            return DeepLinear(weights), Pairs.from_views(z, 0.0 * z, negatives=None)
        if self.rule.pooling is not None:
            one = np.ones((1, 1, 1, 1))
            kernel = np.array(self.matrices["kernel"].tolist(), dtype=float)[None, None]
            padding = (kernel.shape[-1] // 2,) * 2
            weights = [
                Convolution(one, MAP),
                Convolution(kernel, MAP, padding=padding),
            ]
        samples, references = [z], [rows]
        if self.rule.kind == "pair":
            named = [k for k in ("C_e", "C_l", "C_l'") if k in self.matrices]
            first = weights[0] if "W_1" in self.matrices else np.eye(z.shape[1])
            samples += [np.linalg.solve(first, self._numbers(k).T).T for k in named]
            references = [rows + (i + 1) * len(z) for i in range(len(named))]
        sign = np.array([1.0, -1.0])
        directions = tuple(Direction(rows, r, sign, 0 * rows) for r in references)
        return DeepLinear(weights), Pairs(np.vstack(samples), directions)

    def _numbers(self, name: str) -> Array:
        return np.array(self.matrices[name].tolist(), dtype=float)

    def __str__(self) -> str:
        lines = [f"{self.theorem} without {self.without} fails for {self.rule.name}:"]
        lines += [f"    {k} = {sp.sstr(v.tolist())}" for k, v in self.matrices.items()]
        lines += [f"    {k} = {v}" for k, v in self.scalars.items()]
        lines.append(f"    {self.meaning} = {sp.sstr(self.residual.tolist())}")
        return "\n".join(lines)


def counterexample(name: str, without: str) -> Witness:
    """A witness that a theorem is false without one of its hypotheses.

    Args:
        name: the name of the theorem.
        without: the name of the hypothesis.

    Returns:
        The first witness of a deterministic search.

    Raises:
        ValueError: there is no such theorem or hypothesis.
        LookupError: the search found none.
    """
    stated = theorem(name)
    stated.hypothesis(without)
    if stated.base:
        return _in_window(stated, counterexample(stated.base, without))
    special = _SPECIAL.get((name, without))
    if special is not None:
        return _first(special(stated), f"{name} without {without}")
    return _first(_generic(stated, without), f"{name} without {without}")


def _first(found: Iterator[Witness | None], what: str) -> Witness:
    for witness in islice(found, MAX_DRAWS):
        if witness is not None:
            return witness
    raise LookupError(f"{MAX_DRAWS} draws and no witness for {what}.")


def _in_window(stated: Theorem, of_layer: Witness) -> Witness:
    """A witness about layer e, seen from layer l: W_1 = V_{le}^-1, so that Z_e = Z_{l-1}."""
    matrices = {SPOKEN.letters.get(k, k): m for k, m in of_layer.matrices.items()}
    spelled = {str(k): str(v) for k, v in SPOKEN.scalars.items()}
    rule, strengths = of_layer.rule, of_layer.rule.penalty.strength
    if isinstance(strengths, tuple):
        rule = rule.with_penalty((strengths[0], *strengths))
    return replace(
        of_layer,
        theorem=stated.name,
        rule=rule,
        matrices={**matrices, "V_{le}": INSIDE},
        scalars={spelled.get(k, k): v for k, v in of_layer.scalars.items()},
        residual=INSIDE.T * of_layer.residual,
    )


# -- drawing -------------------------------------------------------------------------------------


class _Draw:
    """Small whole numbers, the same on every run."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def matrix(self, rows: int, columns: int) -> sp.Matrix:
        return sp.Matrix(rows, columns, lambda i, j: self.random.randint(-2, 2))

    def rotation(self, size: int) -> sp.Matrix:
        choices = [
            sp.Rational(p, q) for p, q in ((1, 2), (-1, 2), (1, 3), (-1, 3), (2, 1), (-2, 1))
        ]
        return rational_rotation(
            size, [self.random.choice(choices) for _ in range(size * (size - 1) // 2)]
        )

    def data(self, width: int = 2) -> Matrices:
        anchors = self.matrix(2, width)
        return {"Z_{l-1}": anchors, "Z_l": anchors, "C_l": self.matrix(2, width)}


def _complete(given: Mapping[str, sp.Matrix]) -> Matrices:
    """With all abbreviations and the optimal B_L of the linear score (lam = 1)."""
    made = {"D_l": SIGNS, "D_L": SIGNS, **given}
    made |= {k: evaluate(ABBREVIATIONS[k], made, {}) for k in ("Z_L", "C_L", "G")}
    made |= {"V_c": made["V"], "H": made["G"]}
    made["B_L"] = made["Z_L"].T * made["D_L"] * made["C_L"]
    return made | {k: evaluate(ABBREVIATIONS[k], made, {}) for k in ("M", "N", "X")}


def _value(lemma: Lemma, matrices: Matrices, scalars: Mapping[sp.Symbol, Any]) -> sp.Matrix:
    """The residual of a lemma; zero if all its words cancel."""
    found = evaluate(lemma.expression, matrices, scalars)
    return sp.zeros(1, 1) if found is None else found


def _updates(stated: Theorem, rule: Rule, without: str) -> Lemma:
    return next(l for l in stated.lemmas(rule, without) if l.name == "updates")


def _linear(rule: Rule) -> Rule:
    if rule.kind == "goodness":
        return replace(
            rule, name="Forward-Forward, linear score", loss=losses.Goodness(1.0, scores.Linear())
        )
    return replace(rule, name=f"{rule.name}, linear score", loss=losses.TypeTwo(scores.Linear()))


# -- most hypotheses -----------------------------------------------------------------------------


def _generic(stated: Theorem, without: str) -> Iterator[Witness | None]:
    """Draw everything; V is a rotation or twice one where a hypothesis that is kept asks for it."""
    rule = _linear(stated.rules[0])
    lemma = _updates(stated, rule, without)
    kept = {r.name for r in lemma.given}
    scalars = _scalars(lemma)
    strengths = (float(scalars.get(LAM_LAYER, 1)), float(scalars.get(LAM, 1)))
    metric: rules.Metric = (
        "downstream" if stated.name == "metric_penalty" and without != "metric" else "frobenius"
    )
    ruled = replace(rule, penalty=Penalty(strengths, metric))
    for seed in count():
        draw = _Draw(seed)
        drawn = draw.data()
        if "isometry on the anchors" in kept:
            drawn["V"] = draw.rotation(2)
        elif "conformal on the anchors" in kept:
            drawn["V"] = 2 * draw.rotation(2)
        else:
            drawn["V"] = draw.matrix(2, 2)
        for name in ("B_l", "B_l'"):
            if name in lemma.expression.letters:
                drawn[name] = draw.matrix(2, 2)
        made = _complete(drawn)
        _check(lemma, made, scalars)
        residual = _value(lemma, made, scalars)
        shown = {str(k): v for k, v in scalars.items()}
        linear = stated.name == "linear_score"
        meaning = "difference less its closed form" if linear else "global - local"
        found = Witness(stated.name, without, ruled, drawn, shown, meaning, residual)
        yield None if residual.is_zero_matrix else found


def _scalars(lemma: Lemma) -> dict[sp.Symbol, sp.Expr]:
    """lam = 1, a = 4, lam_l as the lemma is given it, else 2; those that occur."""
    given = {r.symbol: sp.sympify(r.value) for r in lemma.given if isinstance(r, Substitution)}
    parts = [c for _, c in lemma.expression.terms]
    parts += [c for r in lemma.given if isinstance(r, Rewrite) for _, c in r.right.terms]
    used = {s for e in (*parts, *given.values()) for s in e.free_symbols}
    values = {LAM: sp.S.One, LAM_LAYER: sp.Integer(2), A: sp.Integer(4)}
    values |= {k: v.subs(values) for k, v in given.items()}
    return {k: v for k, v in values.items() if k in used}


def _check(lemma: Lemma, made: Matrices, scalars: Mapping[sp.Symbol, Any]) -> None:
    """The hypotheses that were kept hold."""
    for r in lemma.given:
        if not isinstance(r, Rewrite) or not set(r.left.letters) <= made.keys():
            continue
        left, right = (evaluate(e, made, scalars) for e in (r.left, r.right))
        assert left == right, f"The draw violates {r.name}."


# -- hypotheses on the score ---------------------------------------------------------------------


def _smoothed(name: str) -> tuple[Rule, sp.Expr, sp.Expr]:
    margin, width = sp.S.One, sp.Integer(2)
    score = scores.SmoothedHinge(float(margin), float(width))
    rule = (
        rules.CLAPP_DFB(score, penalty=1.0)
        if name == "alignment_bound"
        else rules.CLAPP(score, penalty=1.0)
    )
    return replace(rule, name=f"{rule.name}, smoothed hinge"), margin, width


def _smoothed_slopes(kernel: sp.Matrix, margin: sp.Expr, width: sp.Expr) -> sp.Matrix | None:
    """Slopes beta = y (margin - y K beta)/width of a smoothed hinge, on its parabola.

    Returns:
        As a diagonal matrix, exact; None if a score lies off the parabola.
    """
    y = SIGNS * sp.ones(2, 1)
    beta = (width * sp.eye(2) + kernel).solve(margin * y)
    margins = [y[i] * (kernel * beta)[i] for i in range(2)]
    if not all(margin - width < m < margin for m in margins):
        return None
    return sp.diag(*beta)


def _with_slopes(stated: Theorem) -> Iterator[Witness | None]:
    """Another score: the slopes of the two layers differ."""
    rule, margin, width = _smoothed(stated.name)
    linear = replace(rule, loss=losses.TypeTwo(scores.Linear()))
    lemma = _updates(stated, linear, "linear_score")
    top = rule.context == "top"
    for seed in count():
        draw = _Draw(seed)
        drawn = draw.data() | {"V": draw.matrix(2, 2)}
        made = _complete(drawn)
        z, c = made["Z_l"], made["C_L"] if top else made["C_l"]
        here = (z * z.T).multiply_elementwise(c * c.T)
        above = (made["Z_L"] * made["Z_L"].T).multiply_elementwise(made["C_L"] * made["C_L"].T)
        slopes = [_smoothed_slopes(k, margin, width) for k in (here, above)]
        if any(s is None for s in slopes):
            yield None
            continue
        made = _complete(drawn | {"D_l": slopes[0], "D_L": slopes[1]})
        scalars = {LAM: sp.S.One, LAM_LAYER: sp.S.One}
        shown = {"lam": sp.S.One, "margin": margin, "smoothing": width}
        if stated.name == "alignment_bound":
            f = formulas.of_rule(linear)
            yield _below_bound(
                stated,
                "linear_score",
                rule,
                drawn,
                shown,
                *(evaluate(e, made, scalars) for e in (f.local, f.global_)),
            )
            continue
        residual = _value(lemma, made, scalars)
        meaning = "difference less its closed form"
        found = Witness(stated.name, "linear_score", rule, drawn, shown, meaning, residual)
        yield None if residual.is_zero_matrix else found


# -- the bound on the cosine ---------------------------------------------------------------------


def _inner(a: sp.Matrix, b: sp.Matrix) -> sp.Expr:
    return (a.T * b).trace()


def _below_bound(
    stated: Theorem,
    without: str,
    rule: Rule,
    drawn: Matrices,
    shown: Mapping[str, sp.Expr],
    local: sp.Matrix,
    global_: sp.Matrix,
) -> Witness | None:
    """4 kappa/(1 + kappa)^2 = 4 det G/(tr G)^2 for two units, so squared cosines stay rational."""
    gram = drawn["V"].T * drawn["V"]
    aligned = _inner(local, global_)
    sizes = _inner(local, local) * _inner(global_, global_)
    if sizes == 0 or gram.det() == 0:
        return None
    squared = aligned**2 / sizes * (1 if aligned >= 0 else -1)
    gap = squared - 4 * gram.det() / gram.trace() ** 2
    if gap >= 0:
        return None
    meaning = "cos |cos| - 4 kappa/(1 + kappa)^2"
    return Witness(stated.name, without, rule, drawn, shown, meaning, sp.Matrix([[gap]]))


def _bound_without(without: str) -> Callable[[Theorem], Iterator[Witness | None]]:
    def search(stated: Theorem) -> Iterator[Witness | None]:
        rule = (
            rules.CLAPP("linear", penalty=1.0)
            if without == "direct_feedback"
            else rules.CLAPP_DFB("linear", penalty=1.0)
        )
        f = formulas.of_rule(rule, "free" if without == "optimal" else None)
        scalars = {LAM: sp.S.One, LAM_LAYER: sp.S.One}
        for seed in count():
            draw = _Draw(seed)
            drawn = draw.data() | {"V": draw.matrix(2, 2)}
            if without == "optimal":
                drawn["B_l'"] = draw.matrix(2, 2)
            made = _complete(drawn)
            local, global_ = (evaluate(e, made, scalars) for e in (f.local, f.global_))
            yield _below_bound(stated, without, rule, drawn, {"lam": sp.S.One}, local, global_)

    return search


# -- losses per unit -----------------------------------------------------------------------------


def _per_unit(stated: Theorem) -> Iterator[Witness | None]:
    """VICReg's covariance term: mean over units of squared covariances, no function of Z Z^T."""
    rule = rules.VICReg(invariance=0.0, variance=0.0)
    for seed in count():
        draw = _Draw(seed)
        drawn: Matrices = {"Z_{l-1}": draw.matrix(3, 2)}
        drawn |= {"Z_l": drawn["Z_{l-1}"], "V": draw.rotation(2)}
        z, v = drawn["Z_l"], drawn["V"]
        residual = (_covariance_error(z * v.T) * v - _covariance_error(z)).T * z
        yield (
            None
            if residual.is_zero_matrix
            else Witness(
                stated.name,
                "inner_products",
                rule,
                drawn,
                {},
                "global - local (first view)",
                residual,
            )
        )


def _covariance_error(z: sp.Matrix) -> sp.Matrix:
    """Minus the derivative of sum_{i != j} cov_ij^2 / width."""
    n, width = z.shape
    centred = z - sp.ones(n, n) * z / n
    covariance = centred.T * centred / (n - 1)
    off = covariance - sp.diag(*covariance.diagonal())
    return -4 * centred * off / (width * (n - 1))


# -- direct feedback against same-layer context --------------------------------------------------


def _feedback_gap(made: Matrices) -> sp.Expr:
    """||local - global||^2 - ||DFB - global||^2 for linear f and lam = 1."""
    m, n, g = made["M"], made["N"], made["G"]
    global_ = g * m * g * n
    local, feedback = m * n - global_, m * g * n - global_
    return _inner(local, local) - _inner(feedback, feedback)


def _feedback(without: str) -> Callable[[Theorem], Iterator[Witness | None]]:
    def search(stated: Theorem) -> Iterator[Witness | None]:
        for seed in count():
            draw = _Draw(seed)
            drawn = draw.data()
            if without == "narrowing":
                drawn["V"] = sp.diag(1, draw.random.choice((1, 2, 3))) / draw.random.choice((1, 2))
            else:
                drawn["V"] = draw.rotation(2)[:1, :]
            made = _complete(drawn)
            moment = made["N"] * made["N"].T
            commutes = made["G"] * moment == moment * made["G"]
            gap = _feedback_gap(made)
            wanted = commutes if without == "narrowing" else True
            yield (
                None
                if gap >= 0 or not wanted
                else Witness(
                    stated.name,
                    without,
                    rules.CLAPP("linear", penalty=1.0),
                    drawn,
                    {"lam": sp.S.One},
                    "||local - global||^2 - ||DFB - global||^2",
                    sp.Matrix([[gap]]),
                )
            )

    return search


# -- pooling -------------------------------------------------------------------------------------


def _pooled(without: str) -> Callable[[Theorem], Iterator[Witness | None]]:
    """A 1 x 1 kernel commutes with the mean of a 2 x 2 map, a padded 3 x 3 kernel does not.

    U = P_L V P_l^T (P_l P_l^T)^-1 is the nearest to commuting. The layer itself is a 1 x 1 kernel,
    the identity, so its update is the trace of the update of its matrix.
    """
    side = 3 if without == "commuting" else 1
    pool = sp.Matrix(average_pooling(MAP, 2)).applyfunc(sp.nsimplify)

    def search(stated: Theorem) -> Iterator[Witness | None]:
        rule = replace(_linear(stated.rules[0]), pooling=(2, 2), penalty=Penalty(1.0))
        lemma = _updates(stated, rule, without)
        for seed in count():
            draw = _Draw(seed)
            kernel = draw.matrix(side, side)
            convolution = Convolution(
                np.array(kernel.tolist(), dtype=float)[None, None], MAP, padding=(side // 2,) * 2
            )
            drawn = draw.data(4) | {"kernel": kernel}
            drawn["V"] = sp.Matrix(convolution.matrix).applyfunc(sp.nsimplify)
            u = pool * drawn["V"] * pool.T * (pool * pool.T).inv()
            made = _complete(drawn) | {"P_l": pool, "P_L": pool, "U": u}
            top_z, top_c = (pool * made[k].T for k in ("Z_L", "C_L"))
            made["B_L"] = top_z * SIGNS * top_c.T
            drawn["B_l"] = draw.matrix(1, 1) if without == "matching" else u.T * made["B_L"] * u
            residual = _value(lemma, made | drawn, {}).trace()
            yield (
                None
                if residual == 0 or u.is_zero_matrix
                else Witness(
                    stated.name,
                    without,
                    rule,
                    drawn,
                    {"lam": sp.S.One},
                    "global - local, of the kernel",
                    sp.Matrix([[residual]]),
                )
            )

    return search


_SPECIAL: dict[tuple[str, str], Callable[[Theorem], Iterator[Witness | None]]] = {
    ("linear_score", "linear_score"): _with_slopes,
    ("alignment_bound", "linear_score"): _with_slopes,
    ("alignment_bound", "direct_feedback"): _bound_without("direct_feedback"),
    ("alignment_bound", "optimal"): _bound_without("optimal"),
    ("invariance", "inner_products"): _per_unit,
    ("feedback_order", "decorrelated"): _feedback("decorrelated"),
    ("feedback_order", "narrowing"): _feedback("narrowing"),
    ("convolution", "commuting"): _pooled("commuting"),
    ("convolution", "matching"): _pooled("matching"),
}


# -- claims in the literature --------------------------------------------------------------------

STORED: Matrices = {
    "Z_{l-1}": sp.Matrix([[1, 1], [-2, -1]]),
    "Z_l": sp.Matrix([[1, 1], [-2, -1]]),
    "C_l": sp.Matrix([[1, -2], [-2, -1]]),
    "V": sp.Matrix([[sp.Rational(3, 5), sp.Rational(4, 5)]]),
}


def literature_counterexample() -> Witness:
    """A counterexample to ||local - global|| >= ||DFB - global|| of the literature.

    It has a linear f and orthonormal narrowing W.

    The claim of Wu et al. 2026 (arXiv 2601.21683), statement 8; found by
    ``counterexample("feedback_order", "decorrelated")`` and kept here, so that it stays the same.
    """
    return Witness(
        "feedback_order",
        "decorrelated",
        rules.CLAPP("linear", penalty=1.0),
        STORED,
        {"lam": sp.S.One},
        "||local - global||^2 - ||DFB - global||^2",
        sp.Matrix([[_feedback_gap(_complete(STORED))]]),
    )


# -- two view directions -------------------------------------------------------------------------

TWO_DIRECTIONS: Matrices = {
    "Z_{l-1}": sp.eye(2),
    "W_1": sp.Matrix([[1, 0], [2, -1]]),
    "C_l": sp.Matrix([[0, 0], [0, -1]]),
    "C_l'": sp.Matrix([[1, 0], [-1, 0]]),
    "V": sp.Matrix([[1, 0]]),
}
"""Anchors I in both directions, so N_d = C_d^T diag(1, -1); V = (1, 0), so G = diag(1, 0)."""


def directions_counterexample() -> Witness:
    """Each of two view directions satisfies statement 8, and the sum of their updates does not.

    N_1 N_1^T and N_2 N_2^T commute with G, but N_1 N_2^T does not, so N N^T of the stacked contexts
    does not commute with the block metric diag(G, G).
    """
    made = TWO_DIRECTIONS
    return Witness(
        "feedback_order",
        "decorrelated",
        rules.CLAPP("linear", penalty=1.0),
        made,
        {"lam": sp.S.One},
        "||local - global||^2 - ||DFB - global||^2 of the sum over both directions",
        sp.Matrix([[sum_gap(made)]]),
    )


def sum_gap(made: Matrices) -> sp.Expr:
    """The gap of statement 8 for linear f, lam = 1 and two view directions."""
    g = made["V"].T * made["V"]
    moments = [_moments(made, name) for name in ("C_l", "C_l'")]
    local = sum((m * n for m, n in moments), sp.zeros(2, 2))
    feedback = sum((m * g * n for m, n in moments), sp.zeros(2, 2))
    global_ = g * feedback
    return _inner(local - global_, local - global_) - _inner(feedback - global_, feedback - global_)


def _moments(made: Matrices, contexts: str) -> tuple[sp.Matrix, sp.Matrix]:
    """M and N of one direction."""
    z, c = made["Z_{l-1}"] * made["W_1"].T, made[contexts]
    return z.T * SIGNS * c, c.T * SIGNS * made["Z_{l-1}"]
