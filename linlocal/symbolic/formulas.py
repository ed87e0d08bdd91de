"""The local and the global update of a layer below the top, as matrix words, for any rule.

Dimensions: P pairs (or samples); l, L, l-1 the widths of a layer, of the top layer and of the layer
below. Letters (rows are pairs, repeated as often as a sample occurs):

    Z_l (P x l)      anchors            Z_{l-1} (P x l-1)  what the layer reads of them
    C_l (P x l)      contexts           Z_L, C_L (P x L)   both in the top layer
    V (L x l)        downstream map     G (l x l)          V^T V, the downstream metric
    D_l, D_L (P x P) slopes of the layer's own loss and of the top layer's, diagonal
    D_l'     (P x P) those of the loss with top context, where a layer has one with each context
    S_l, S_L         the same for a loss of all inner products, symmetric
    P_l, P_L         average pooling of a layer's map

The slopes beta = lam alpha = -d loss / d score are a function of the scores. Where B is optimal,
the scores are K beta with the kernel K = [Z Z^T * C C^T] / lam. Two layers with the same kernel
then have the same dual equation beta = -f'(K beta). Its penalised primal is strictly convex for
lam > 0, so they also have the same scores and slopes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Literal, cast

import numpy as np
import sympy as sp

from linlocal.losses import ViewLoss
from linlocal.rules import JudgedContext, Rule
from linlocal.symbolic.words import Expression, Rewrite, hadamard, identity, letter

Kind = Literal["optimal", "identity", "matched", "free"]

Z, C = letter("Z_l", "P", "l"), letter("C_l", "P", "l")
BELOW = letter("Z_{l-1}", "P", "l-1")
Z_TOP, C_TOP = letter("Z_L", "P", "L"), letter("C_L", "P", "L")
V, G = letter("V", "L", "l"), letter("G", "l", "l", symmetric=True)
D, D_TOP = letter("D_l", "P", "P", symmetric=True), letter("D_L", "P", "P", symmetric=True)
D_ONTO_TOP = letter("D_l'", "P", "P", symmetric=True)
S, S_TOP = letter("S_l", "P", "P", symmetric=True), letter("S_L", "P", "P", symmetric=True)
B, B_TOP = letter("B_l", "l", "l"), letter("B_L", "L", "L")
B_ONTO_TOP = letter("B_l'", "l", "L")
POOL, POOL_TOP = letter("P_l", "p_l", "l"), letter("P_L", "p_L", "L")
EYE = identity("P")

M, N, X = letter("M", "l", "l"), letter("N", "l", "l-1"), letter("X", "l", "l-1")

LAM, LAM_LAYER, A = sp.symbols("lam lam_l a", positive=True)
"""Penalties of the top and of another layer; the factor of a conformal map."""

DEFINITIONS = (
    Rewrite("definition of Z_L", Z_TOP, Z @ V.T),
    Rewrite("definition of C_L", C_TOP, C @ V.T),
)
METRIC = Rewrite("definition of G", V.T @ V, G)
FOLDS_SAME = (
    Rewrite("definition of M", Z.T @ D @ C, M),
    Rewrite("definition of N", C.T @ D @ BELOW, N),
)
FOLD_TOP = Rewrite("definition of X", Z.T @ D @ C_TOP @ C_TOP.T @ D @ BELOW, X)

ABBREVIATIONS: dict[str, Expression] = {
    "Z_L": Z @ V.T,
    "C_L": C @ V.T,
    "G": V.T @ V,
    "M": Z.T @ D @ C,
    "N": C.T @ D @ BELOW,
    "X": FOLD_TOP.left,
}
"""Letters that stand for products of others, each with a rewrite "definition of ..."."""


class NotApplicable(ValueError):
    """A theorem or derivation does not cover this rule or size; the message says why."""


@dataclass(frozen=True)
class Formulas:
    """Updates of one layer below the top, and what their slopes depend on.

    Attributes:
        local, global_: the local and the global update, (l x l-1).
        local_scores, global_scores: slopes are the same function of both; equal words mean
            equal slopes.
        meaning: what those two are.
        local_slopes, global_slopes: the letters that stand for the slopes.
        constant_slopes: whether the slopes depend on nothing (linear score).
        second: of a layer's second loss (context "each") what its slopes depend on, and the letter
            that stands for them.
    """

    local: Expression
    global_: Expression
    local_scores: Expression
    global_scores: Expression
    meaning: str
    local_slopes: Expression
    global_slopes: Expression
    constant_slopes: bool
    second: tuple[Expression, Expression] | None = None

    @property
    def same_slopes(self) -> Rewrite:
        """The equation to be used once the slopes are known to agree."""
        name = "linear score, slopes are y/n" if self.constant_slopes else f"same {self.meaning}"
        return Rewrite(name, self.global_slopes, self.local_slopes)

    @property
    def same_second_slopes(self) -> Rewrite | None:
        """The same for the second loss, if there is one."""
        if self.second is None:
            return None
        return Rewrite(f"{self.same_slopes.name}, top context", self.second[1], self.local_slopes)


def of_rule(rule: Rule, projection: Kind | None = None) -> Formulas:
    """The updates of ``rule`` in words.

    Args:
        rule: any rule, one of your own too; its context, projection, penalty and pooling count,
            of its loss only the kind and whether its score is linear.
        projection: instead of the rule's; "free" is a fixed B_l without any property.

    Raises:
        NotApplicable: a random projection, or a loss of two views that is no function of inner
            products.
    """
    if rule.kind == "view":
        return _of_views(rule)
    if rule.kind == "goodness":
        return _of_goodness(rule)
    if projection is None and rule.projection not in ("optimal", "identity", "matched"):
        raise NotApplicable(
            f"The projection of {rule.name} is {rule.projection_name}, about which nothing is "
            "known that a proof in words could use."
        )
    kind = cast(Kind, projection or rule.projection)
    return _of_pairs(rule, kind)


def _of_views(rule: Rule) -> Formulas:
    """Loss = F(Z Z^T): the error is S Z with S = -2 dF/dK, symmetric."""
    if not depends_on_inner_products(cast(ViewLoss, rule.loss)):
        raise NotApplicable(
            f"{rule.name} is no function of the inner products between samples: an isometric map "
            "of the activities changes its gradient, as terms per unit do."
        )
    return Formulas(
        Z.T @ S @ BELOW,
        V.T @ Z_TOP.T @ S_TOP @ BELOW,
        Z @ Z.T,
        Z_TOP @ Z_TOP.T,
        "inner products",
        S,
        S_TOP,
        constant_slopes=False,
    )


def _of_goodness(rule: Rule) -> Formulas:
    """Scores ||z||^2 of the judged activity (SCFF: the sum of a pair, z and what it reads)."""
    return Formulas(
        2 * (Z.T @ D @ BELOW),
        2 * (V.T @ Z_TOP.T @ D_TOP @ BELOW),
        hadamard(EYE, Z @ Z.T),
        hadamard(EYE, Z_TOP @ Z_TOP.T),
        "goodness",
        D,
        D_TOP,
        rule.has_linear_score,
    )


def _of_pairs(rule: Rule, kind: Kind) -> Formulas:
    pooled = rule.pooling is not None and any(size != 1 for size in rule.pooling)
    top_readout = POOL_TOP if pooled else identity("L")
    in_metric = rule.penalty.metric == "downstream"
    readout = POOL if pooled else identity("l")
    if in_metric:
        readout = top_readout @ V
    top_z, top_c = Z_TOP @ top_readout.T, C_TOP @ top_readout.T
    z, same = Z @ readout.T, C @ readout.T
    losses = _losses_of(rule)

    if kind == "optimal":
        # B = Z^T D C / lam, hence the error D C B^T = D (C C^T) D Z / lam.
        kernels: dict[JudgedContext, Expression] = {
            "same": same @ same.T,
            "top": top_c @ top_c.T,
            "both": same @ same.T + top_c @ top_c.T,
        }
        parts = [
            (1 / LAM_LAYER) * (readout.T @ z.T @ d @ kernels[name] @ d @ BELOW)
            for name, d in losses.items()
        ]
        own = {name: (1 / LAM_LAYER) * hadamard(z @ z.T, kernels[name]) for name in losses}
        sent = top_readout.T @ top_z.T @ D_TOP @ top_c @ top_c.T @ D_TOP
        return Formulas(
            _total(parts),
            (len(losses) / LAM) * (V.T @ sent @ BELOW),
            next(iter(own.values())),
            (1 / LAM) * hadamard(top_z @ top_z.T, top_c @ top_c.T),
            "dual equation",
            D,
            D_TOP,
            rule.has_linear_score,
            (own["top"], D_ONTO_TOP) if len(losses) > 1 else None,
        )
    if pooled:
        raise NotApplicable(
            "Words know a fixed projection of a pooled map only through the theorem 'convolution'."
        )
    top_b = identity("L") if kind == "identity" else B_TOP
    # B_l c_l of all pairs, as rows; a fixed projection reads the activities themselves.
    of_context = {name: _sent_locally(name, kind) for name in losses}
    sent_top = C_TOP @ top_b.T
    own = {name: hadamard(EYE, Z @ rows.T) for name, rows in of_context.items()}
    return Formulas(
        _total(of_context[name].T @ d @ BELOW for name, d in losses.items()),
        len(losses) * (V.T @ sent_top.T @ D_TOP @ BELOW),
        next(iter(own.values())),
        hadamard(EYE, Z_TOP @ sent_top.T),
        "scores",
        D,
        D_TOP,
        rule.has_linear_score,
        (own["top"], D_ONTO_TOP) if len(losses) > 1 else None,
    )


def _losses_of(rule: Rule) -> dict[JudgedContext, Expression]:
    """The slopes of each loss of a layer, by its context; constant slopes are one letter."""
    first, *more = rule.judged_contexts
    return {first: D} | dict.fromkeys(more, D if rule.has_linear_score else D_ONTO_TOP)


def _sent_locally(context: JudgedContext, kind: Kind) -> Expression:
    """B_l c_l of all pairs, as rows, for a fixed projection."""
    if kind == "identity":
        b, onto_top = identity("l"), letter("I_{lL}", "l", "L")
    elif kind == "free":
        b, onto_top = B, B_ONTO_TOP
    else:
        b, onto_top = V.T @ B_TOP @ V, V.T @ B_TOP
    if context == "both":
        half = sp.Rational(1, 2) if kind == "matched" else sp.S.One
        return half * (C @ b.T) + half * (C_TOP @ onto_top.T)
    return C @ b.T if context == "same" else C_TOP @ onto_top.T


def _total(terms: Iterable[Expression]) -> Expression:
    return reduce(operator.add, terms)


def depends_on_inner_products(loss: ViewLoss) -> bool:
    """Whether a loss of two views is a function of inner products between samples only.

    Its gradient must then follow every isometric map into a space of at least as many dimensions.
    Tested on one map into a larger space, in floating point; the named losses that pass have a
    closed form in the inner products (`linlocal.symbolic.inner_products.FORMS`).
    """
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 4, 2))
    isometry = np.linalg.qr(rng.standard_normal((3, 2)))[0]
    plain = np.vstack(loss.gradients(first, second))
    mapped = np.vstack(loss.gradients(first @ isometry.T, second @ isometry.T)) @ isometry
    return bool(np.linalg.norm(mapped - plain) <= 1e-8 * np.linalg.norm(plain))
