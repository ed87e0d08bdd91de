"""The theorems of the package, numbered as in the theory."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import sympy as sp

from linlocal import inputs, losses, rules
from linlocal.losses import scores
from linlocal.rules import Rule
from linlocal.symbolic import formulas
from linlocal.symbolic.formulas import (
    BELOW,
    C_TOP,
    DEFINITIONS,
    FOLD_TOP,
    FOLDS_SAME,
    LAM,
    LAM_LAYER,
    METRIC,
    POOL,
    POOL_TOP,
    A,
    C,
    D,
    Formulas,
    G,
    Kind,
    M,
    N,
    V,
    X,
    Z,
)
from linlocal.symbolic.theorems import Hypothesis, Lemma, Theorem
from linlocal.symbolic.words import (
    Equation,
    Expression,
    Rewrite,
    Substitution,
    hadamard,
    identity,
    letter,
)

SMALLEST, LARGEST = sp.symbols("kappa_1 kappa_2", positive=True)
INVERSE = letter("G^-1", "l", "l", symmetric=True)
Q, SPECTRUM = letter("Q", "l", "l"), letter("Lambda", "l", "l", symmetric=True)
SEEN = letter("S", "l", "l", symmetric=True)
U = letter("U", "p_L", "p_l")
B_POOLED = letter("B_L", "p_L", "p_L")


# -- building blocks -----------------------------------------------------------------------------


def _slopes_and_updates(
    f: Formulas,
    given: tuple[Equation, ...],
    claim: Expression | None = None,
    folded: tuple[Equation, ...] = (),
) -> tuple[Lemma, ...]:
    """The slopes agree, of each loss; then global_ - local = claim (zero, if left out).

    ``folded`` are abbreviations for the second lemma; they come before the definitions, whose
    letters they may contain.
    """
    difference = f.global_ - f.local if claim is None else f.global_ - f.local - claim
    updates = (*folded, *DEFINITIONS, *given)
    if f.constant_slopes:
        return (Lemma("updates", difference, (f.same_slopes, *updates)),)
    known = (*DEFINITIONS, *given)
    name = f"slopes: same {f.meaning}"
    slopes = [Lemma(name, f.global_scores - f.local_scores, known, f.same_slopes)]
    if f.second is not None:
        apart = f.global_scores - f.second[0]
        slopes.append(Lemma(f"{name}, top context", apart, known, f.same_second_slopes))
    return (*slopes, Lemma("updates", difference, updates))


def _isometric(kept: frozenset[str]) -> tuple[Equation, ...]:
    if "isometry" not in kept:
        return (METRIC,)
    return (
        METRIC,
        Rewrite("isometry on the anchors", Z @ G, Z),
        Rewrite("isometry on the contexts", C @ G, C),
    )


def _same_penalty(rule: Rule, kept: frozenset[str]) -> tuple[Equation, ...]:
    if "same_penalty" not in kept:
        return ()
    twice = 2 if rule.context == "both" else 1
    return (Substitution("same penalty", LAM_LAYER, twice * LAM),)


def _projection(kept: frozenset[str]) -> Kind:
    return "optimal" if "optimal" in kept else "free"


def _frobenius(rule: Rule) -> Rule:
    return replace(rule, penalty=replace(rule.penalty, metric="frobenius"))


def _trained(rule: Rule) -> str:
    if rule.kind != "pair":
        return f"it has a {rule.kind} loss, which needs no projection"
    if rule.projection == "identity":
        return "its projection is fixed at the identity"
    if rule.projection == "random":
        return "its projection is random"
    if not isinstance(rule.projection, str):
        return f"its projection is {rule.projection_name}"
    return ""


def _optimal(rule: Rule) -> str:
    if _trained(rule):
        return _trained(rule)
    if rule.projection != "optimal":
        return f"its projection is {rule.projection_name}, not optimal"
    return ""


def _unpooled(rule: Rule) -> str:
    if rule.pooling is not None and any(size != 1 for size in rule.pooling):
        return "it pools its maps (see 'convolution')"
    return ""


OPTIMAL = Hypothesis(
    "optimal",
    "B_l minimises the penalised loss of its layer, lam > 0 (then it is unique)",
    r"B_l = \arg\min_B \mathcal L_l(B) + \tfrac{\lambda_l}{2}\|B\|_F^2,\ \lambda_l > 0",
    "a B_l that happens to match (statement 1) does as well",
)
SAME_PENALTY = Hypothesis(
    "same_penalty",
    "lam_l = lam_L (twice that for a rule with both contexts, which sees each context twice)",
    r"\lambda_l = \lambda_L",
)
ISOMETRY = Hypothesis(
    "isometry",
    "the downstream map keeps the anchors and contexts of the layer: G_l z = z, G_l c = c",
    r"G_l = V_l^\top V_l = I \text{ on } \operatorname{span}(Z_l, C_l)",
    "for linear f the exact condition is statement 6",
)

_SOFTPLUS = "softplus"
_CLAPP = rules.CLAPP(_SOFTPLUS)
_DFB = rules.CLAPP_DFB(_SOFTPLUS)
_BOTH = rules.CLAPP_BOTH(_SOFTPLUS)
_TYPE_ONE = replace(
    rules.CLAPP(),
    name="type 1, trained B",
    loss=losses.TypeOne(scores.Softplus()),
)
_TRAINED = (_CLAPP, _DFB, _BOTH, _TYPE_ONE, rules.GreedyInfoMax())


# -- 1 score matching ----------------------------------------------------------------------------


def _score_matching(rule: Rule, kept: frozenset[str]) -> tuple[Lemma, ...]:
    kind: Kind = "matched" if "matching" in kept else "free"
    return _slopes_and_updates(formulas.of_rule(_frobenius(rule), kind), ())


SCORE_MATCHING = Theorem(
    "score_matching",
    1,
    "Score matching",
    "If the projection of a layer is the top layer's, pulled back through the downstream map, the "
    "local and the global update are equal for every input, every f and every W.",
    r"B_l = V_l^\top B_L V_l \ (\text{same-layer context}),\quad B_l = V_l^\top B_L\ "
    r"(\text{direct feedback}) \implies \Delta W_l^{\mathrm{local}} = \Delta W_l^{\mathrm{global}}",
    (
        Hypothesis(
            "matching",
            "B_l = V_l^T B_L V_l, V_l^T B_L, or half of each for both contexts",
            r"B_l = V_l^\top B_L V_l",
            "on given data B_l c = V_l^T B_L c_L for the contexts c suffices",
        ),
    ),
    "local and global update of every layer are equal",
    "Equal scores give equal slopes; they are the same function of the scores.",
    "Wu et al. 2026, arXiv 2601.21683",
    _TRAINED,
    _score_matching,
    lambda rule: _trained(rule) or _unpooled(rule),
)


# -- 2 isometry ----------------------------------------------------------------------------------


def _isometry(rule: Rule, kept: frozenset[str]) -> tuple[Lemma, ...]:
    f = formulas.of_rule(rule, _projection(kept))
    return _slopes_and_updates(f, (*_isometric(kept), *_same_penalty(rule, kept)))


ISOMETRY_THEOREM = Theorem(
    "isometry",
    2,
    "Isometry",
    "If the map downstream of a layer is an isometry on its anchors and contexts and both "
    "projections are optimal under the same penalty, the updates are equal for every f. The layer "
    "itself and those below are unrestricted; widths may grow.",
    r"G_l = I \text{ on } \operatorname{span}(Z_l, C_l),\ \lambda_l = \lambda_L \implies "
    r"\Delta W_l^{\mathrm{local}} = \Delta W_l^{\mathrm{global}}",
    (ISOMETRY, OPTIMAL, SAME_PENALTY),
    "local and global update are equal",
    "Equal kernels give the same dual equation; for lam > 0 its primal is strictly convex, so "
    "scores and slopes are the same. (At a kink of a hinge slopes are a choice; both problems have "
    "the same ones to choose from.)",
    "generalises Wu et al. 2026, arXiv 2601.21683 (orthonormal W, equal widths)",
    _TRAINED,
    _isometry,
    lambda rule: _optimal(rule) or _unpooled(rule),
)


# -- 3 conformal ---------------------------------------------------------------------------------


def _conformal(rule: Rule, kept: frozenset[str]) -> tuple[Lemma, ...]:
    given: list[Equation] = [METRIC]
    if "conformal" in kept:
        given += [
            Rewrite("conformal on the anchors", Z @ G, A * Z),
            Rewrite("conformal on the contexts", C @ G, A * C),
        ]
    if "rescaled_penalty" in kept:
        value = {"same": LAM / A**2, "top": LAM / A, "both": LAM * (1 + A) / A**2}[rule.context]
    else:
        value = 2 * LAM if rule.context == "both" else LAM
    name = "rescaled penalty" if "rescaled_penalty" in kept else "equal penalty"
    given.append(Substitution(name, LAM_LAYER, value))
    return _slopes_and_updates(formulas.of_rule(rule, _projection(kept)), tuple(given))


CONFORMAL = Theorem(
    "conformal",
    3,
    "Conformal maps",
    "If the downstream map is an isometry up to a factor, a rescaled penalty restores equality: "
    "lam_l = lam/a^2 with same-layer context, lam/a with direct feedback, lam(1+a)/a^2 with both. "
    "An equal penalty does not.",
    r"G_l = a I,\ \lambda_l = \lambda/a^2\ (\text{same layer}),\ \lambda/a\ (\text{direct "
    r"feedback}) \implies \Delta W_l^{\mathrm{local}} = \Delta W_l^{\mathrm{global}}",
    (
        Hypothesis("conformal", "G_l z = a z, G_l c = a c", r"G_l = a I"),
        Hypothesis(
            "rescaled_penalty",
            "lam_l = lam/a^2, lam/a or lam(1+a)/a^2",
            r"\lambda_l = \lambda / a^2",
            "not needed for a = 1",
        ),
        OPTIMAL,
    ),
    "local and global update are equal",
    ISOMETRY_THEOREM.inference,
    "this package",
    _TRAINED,
    _conformal,
    lambda rule: (
        _optimal(rule)
        or _unpooled(rule)
        or ("it is exact already" if rule.penalty.metric == "downstream" else "")
        or ("its two losses want lam/a^2 and lam/a at once" if rule.context == "each" else "")
    ),
)


# -- 4 metric penalty ----------------------------------------------------------------------------


def _metric_penalty(rule: Rule, kept: frozenset[str]) -> tuple[Lemma, ...]:
    metric: rules.Metric = "downstream" if "metric" in kept else "frobenius"
    ruled = replace(rule, penalty=replace(rule.penalty, metric=metric))
    f = formulas.of_rule(ruled, _projection(kept))
    lemmas = _slopes_and_updates(f, (METRIC, *_same_penalty(rule, kept)))
    plain = rule.context in ("same", "top") and not _unpooled(rule)
    if not plain or not {"metric", "optimal"} <= kept:
        return lemmas
    # Stationarity of lam/2 tr(G^-1 B G^-1 B^T) or lam/2 tr(B^T G^-1 B) at B = V^T M V or V^T M.
    same = rule.context == "same"
    context = C if same else C_TOP
    matrix = V @ Z.T @ D @ (context @ V.T if same else context)
    pulled = V.T @ matrix @ V if same else V.T @ matrix
    gradient = INVERSE @ pulled @ INVERSE if same else INVERSE @ pulled
    inverse = Lemma(
        "invertible G: the same B",
        gradient - Z.T @ D @ context,
        (METRIC, Rewrite("inverse of G", INVERSE @ G, identity("l"))),
    )
    return (*lemmas, inverse)


METRIC_PENALTY = Theorem(
    "metric_penalty",
    4,
    "Metric penalty",
    "For any downstream map: write B_l = V_l^T M V_l (or V_l^T M) and penalise M. For invertible "
    "G_l that is lam/2 tr(G^-1 B G^-1 B^T) (or lam/2 tr(B^T G^-1 B)). The updates are equal for "
    "any widths, any spectrum and any f.",
    r"B_l = V_l^\top M V_l,\ \tfrac{\lambda}{2}\|M\|_F^2 \implies "
    r"\Delta W_l^{\mathrm{local}} = \Delta W_l^{\mathrm{global}}",
    (
        Hypothesis(
            "metric",
            "B_l is penalised in the downstream metric",
            r"\tfrac{\lambda}{2}\operatorname{tr}(G^{-1} B G^{-1} B^\top)",
            "for an isometry both metrics are the same",
        ),
        OPTIMAL,
        SAME_PENALTY,
    ),
    "local and global update are equal",
    ISOMETRY_THEOREM.inference,
    "this package",
    _TRAINED,
    _metric_penalty,
    _optimal,
)


# -- 5 invariance --------------------------------------------------------------------------------


def _invariance(rule: Rule, kept: frozenset[str]) -> tuple[Lemma, ...]:
    f = formulas.of_rule(rule)
    if "inner_products" not in kept:
        error, top_error = letter("E_l", "P", "l"), letter("E_L", "P", "L")
        f = replace(
            f,
            local=error.T @ BELOW,
            global_=V.T @ top_error.T @ BELOW,
            local_scores=error,
            global_scores=top_error @ V,
        )
    return _slopes_and_updates(f, _isometric(kept))


def _no_inner_products(rule: Rule) -> str:
    if rule.kind == "view" and not formulas.depends_on_inner_products(
        cast(losses.ViewLoss, rule.loss)
    ):
        return "its loss is no function of inner products between samples (it has terms per unit)"
    if rule.kind == "pair" and (rule.projection, rule.context) != ("identity", "same"):
        return (
            "its scores depend on a projection; once that is optimal, statement 2 covers it"
            if rule.projection != "identity"
            else "inner products with another layer are not among those of its own"
        )
    return ""


INVARIANCE = Theorem(
    "invariance",
    5,
    "Invariance principle",
    "For a loss that depends on activities only through inner products between samples and for an "
    "isometric downstream map the updates are equal. Covers goodness, fixed identity projections, "
    "InfoNCE with cosine similarity, spectral contrastive, ||cov - I||_F^2 and log-determinants.",
    r"\mathcal L = F(Z_l Z_l^\top),\ G_l = I \text{ on } \operatorname{span}(Z_l) \implies "
    r"\Delta W_l^{\mathrm{local}} = \Delta W_l^{\mathrm{global}}",
    (
        ISOMETRY,
        Hypothesis(
            "inner_products",
            "the loss is a function of the inner products between samples",
            r"\mathcal L = F(Z Z^\top)",
            "per-unit terms (VICReg, Barlow Twins, LPL) break it even for square orthogonal W",
        ),
    ),
    "local and global update are equal",
    "The error of F(Z Z^T) is S Z with S = -2 dF/dK, a function of the inner products.",
    "this package",
    (
        rules.ForwardForward(),
        rules.SCFF(),
        rules.PhyLL(),
        rules.SimCLR(),
        rules.SpectralContrastive(),
        rules.Whitening(),
        rules.LogDet(),
    ),
    _invariance,
    _no_inner_products,
)


# -- 6 linear score ------------------------------------------------------------------------------


def _is_not_linear(rule: Rule) -> str:
    return "" if rule.has_linear_score else "its score is not linear"


def _linear_score(rule: Rule, kept: frozenset[str]) -> tuple[Lemma, ...]:
    f = formulas.of_rule(rule, _projection(kept))
    f = replace(f, constant_slopes="linear_score" in kept)
    claim = G @ M @ G @ N - M @ N if rule.context == "same" else G @ X - X
    folded = FOLDS_SAME if rule.context == "same" else (FOLD_TOP,)
    given = (METRIC, *_same_penalty(rule, kept))
    return _slopes_and_updates(f, given, (1 / LAM) * claim, folded)


LINEAR_SCORE = Theorem(
    "linear_score",
    6,
    "Linear f, closed form",
    "For linear f the slopes are constants, beta = y/n, and the difference of the updates is "
    "(G M G N - M N)/lam with same-layer context and (G X - X)/lam with direct feedback, "
    "M = sum beta z c^T, N = sum beta c z_{l-1}^T, X = sum over pairs of beta beta' z (c.c') "
    "z_{l-1}'^T. So the updates are equal if and only if G M G N = M N or G X = X.",
    r"\Delta W_l^{\mathrm{global}} - \Delta W_l^{\mathrm{local}} = \tfrac1\lambda (G M G N - M N)"
    r"\ \text{or}\ \tfrac1\lambda (G - I) X",
    (
        Hypothesis(
            "linear_score",
            "f(u) = -u, so the slopes are y/n",
            r"f(u) = -u",
            "any case in which the slopes of both layers agree",
        ),
        OPTIMAL,
        SAME_PENALTY,
    ),
    "necessary and sufficient condition, per layer and data set",
    "Stationarity of B_l: lam_l B_l = Z_l^T D C_l.",
    "this package",
    (rules.CLAPP("linear"), rules.CLAPP_DFB("linear")),
    _linear_score,
    lambda rule: (
        _optimal(rule)
        or _unpooled(rule)
        or _is_not_linear(rule)
        or ("it has two contexts; see derive" if rule.context in ("both", "each") else "")
        or ("its penalty makes it exact" if rule.penalty.metric != "frobenius" else "")
    ),
)


# -- 7 alignment bound ---------------------------------------------------------------------------


def _alignment(rule: Rule, kept: frozenset[str]) -> tuple[Lemma, ...]:
    context: rules.Context = "top" if "direct_feedback" in kept else "same"
    f = formulas.of_rule(replace(rule, context=context), _projection(kept))
    f = replace(f, constant_slopes="linear_score" in kept)
    same = Substitution("same penalty", LAM_LAYER, LAM)
    updates = _slopes_and_updates(f, (METRIC, same), (1 / LAM) * (G @ X - X), (FOLD_TOP,))
    local = Lemma("local update is X/lam", f.local - (1 / LAM) * X, (FOLD_TOP, *DEFINITIONS, same))
    # A sum of squares: with extreme eigenvalues m and M,
    # (m + M) <X, GX> - ||GX||^2 - m M ||X||^2 = <QX, (Lambda - m)(M - Lambda) QX>.
    gap = (SMALLEST + LARGEST) * (X.T @ G @ X) - X.T @ G @ G @ X
    gap -= (SMALLEST * LARGEST) * (X.T @ X)
    seen = Q @ X
    squares = (SMALLEST + LARGEST) * (seen.T @ SPECTRUM @ seen)
    squares -= seen.T @ SPECTRUM @ SPECTRUM @ seen
    squares -= (SMALLEST * LARGEST) * (seen.T @ seen)
    spectral = (
        Rewrite("spectral theorem", G, Q.T @ SPECTRUM @ Q),
        Rewrite("Q orthogonal", Q @ Q.T, identity("l")),
        Rewrite("Q orthogonal", Q.T @ Q, identity("l")),
    )
    narrowing = (
        Rewrite("definition of G", G, V.T @ V),
        Rewrite("V V^T = I", V @ V.T, identity("L")),
    )
    return (
        *updates,
        local,
        Lemma("Kantorovich: a sum of squares", gap - squares, spectral),
        Lemma("narrowing: G is a projection", X.T @ G @ G @ X - X.T @ G @ X, narrowing),
    )


ALIGNMENT = Theorem(
    "alignment_bound",
    7,
    "Alignment bounds",
    "Linear f with direct feedback: the local update is X, the global one G X (over lam), hence "
    "cos >= 2 sqrt(kappa)/(1 + kappa) with kappa = cond(G_l), and the bound is attained. If V has "
    "orthonormal rows (narrowing), cos = ||P X||/||X|| with P = V^T V.",
    r"\cos \ge \frac{2\sqrt{\kappa}}{1+\kappa},\ \kappa = \operatorname{cond}(G_l);\quad "
    r"V V^\top = I \implies \cos = \frac{\|P X\|}{\|X\|}",
    (
        Hypothesis("direct_feedback", "the context is the top layer's", r"c_l = z'_L"),
        Hypothesis("linear_score", "f(u) = -u", r"f(u) = -u"),
        OPTIMAL,
    ),
    "a lower bound on the cosine of local and global update",
    "With m, M the extreme eigenvalues of G, each term (lambda - m)(M - lambda) (q.x)^2 of the "
    "sum of squares is >= 0, so (m + M) <X, GX> >= ||GX||^2 + m M ||X||^2 >= "
    "2 sqrt(m M) ||GX|| ||X|| (means); for a projection <X, GX> = ||GX||^2.",
    "Kantorovich's inequality; this package",
    (rules.CLAPP_DFB("linear"),),
    _alignment,
    lambda rule: (
        _optimal(rule)
        or _unpooled(rule)
        or _is_not_linear(rule)
        or ("its context is not the top layer" if rule.context != "top" else "")
    ),
)


# -- 8 direct feedback against same-layer context ------------------------------------------------


def _feedback_order(rule: Rule, kept: frozenset[str]) -> tuple[Lemma, ...]:
    f = formulas.of_rule(rule)
    feedback = formulas.of_rule(replace(rule, context="top"))
    given = (METRIC, Substitution("same penalty", LAM_LAYER, LAM))
    ruled = (f.same_slopes, *DEFINITIONS, METRIC, *FOLDS_SAME, given[-1])
    scale = 1 / LAM
    off_local = M @ N - G @ M @ G @ N
    off_feedback = M @ G @ N - G @ M @ G @ N
    rest = M @ N - M @ G @ N
    hypotheses: list[Equation] = []
    if "decorrelated" in kept:
        hypotheses.append(Rewrite("S, symmetric as G commutes with N N^T", G @ N @ N.T, SEEN))
    if "narrowing" in kept:
        hypotheses.append(Rewrite("G G = G", G @ SEEN, SEEN))
    squares = off_local @ off_local.T - off_feedback @ off_feedback.T - rest @ rest.T
    return (
        Lemma("local - global", f.local - f.global_ - scale * off_local, ruled),
        Lemma("feedback - global", feedback.local - f.global_ - scale * off_feedback, ruled),
        Lemma("a difference of squares", squares, tuple(hypotheses)),
    )


FEEDBACK_ORDER = Theorem(
    "feedback_order",
    8,
    "Direct feedback against same-layer context",
    "For linear f, V with orthonormal rows and N N^T that commutes with G, direct feedback is "
    "nearer to the global update than same-layer context: ||local - global||^2 = "
    "||DFB - global||^2 + ||M (I - G) N||^2 / lam^2. Without the condition on N the inequality, "
    "stated in the literature for narrowing orthonormal W, is false.",
    r"V V^\top = I,\ G N N^\top = N N^\top G \implies \|\Delta W^{\mathrm{local}} - "
    r"\Delta W^{\mathrm{global}}\| \ge \|\Delta W^{\mathrm{DFB}} - \Delta W^{\mathrm{global}}\|",
    (
        Hypothesis(
            "decorrelated",
            "N N^T commutes with G, N = sum beta c z_{l-1}^T",
            r"G N N^\top = N N^\top G",
            "the inequality holds for most random data without it",
        ),
        Hypothesis("narrowing", "V has orthonormal rows, so G is a projection", r"V V^\top = I"),
    ),
    "direct feedback is at least as near to the global update",
    "Both differences are taken at the same M and N; traces of the matrix identity are squared "
    "norms, and the last one is not negative.",
    "the inequality: Wu et al. 2026, arXiv 2601.21683; the condition: this package",
    (rules.CLAPP("linear"),),
    _feedback_order,
    lambda rule: (
        _optimal(rule)
        or _unpooled(rule)
        or _is_not_linear(rule)
        or ("it compares same-layer context with direct feedback" if rule.context != "same" else "")
    ),
    "data with G N N^T = N N^T G have no parametrisation by free symbols",
)


# -- 9 convolution -------------------------------------------------------------------------------


def _convolution(rule: Rule, kept: frozenset[str]) -> tuple[Lemma, ...]:
    z, c, top_c = Z @ POOL.T, C @ POOL.T, formulas.C_TOP @ POOL_TOP.T
    top_z = formulas.Z_TOP @ POOL_TOP.T
    top = rule.context == "top"
    if "matching" in kept:
        projection = U.T @ B_POOLED if top else U.T @ B_POOLED @ U
    else:
        projection = letter("B_l", "p_l", "p_L" if top else "p_l")
    sent = (top_c if top else c) @ projection.T
    sent_top = top_c @ B_POOLED.T
    f = Formulas(
        POOL.T @ sent.T @ D @ BELOW,
        V.T @ POOL_TOP.T @ sent_top.T @ formulas.D_TOP @ BELOW,
        hadamard(formulas.EYE, z @ sent.T),
        hadamard(formulas.EYE, top_z @ sent_top.T),
        "scores",
        D,
        formulas.D_TOP,
        rule.has_linear_score,
    )
    commuting = (
        (Rewrite("pooling commutes", POOL_TOP @ V, U @ POOL),) if "commuting" in kept else ()
    )
    return _slopes_and_updates(f, commuting)


CONVOLUTION = Theorem(
    "convolution",
    9,
    "Convolutions",
    "A linear convolution is a matrix on flattened maps, and the update of its kernel is a linear "
    "function of the update of that matrix: statements 1 to 7 hold with it where pooling is 1 x 1. "
    "With pooling before the loss, score matching holds if the downstream map commutes with it, "
    "P_L V = U P_l, for B_l = U^T B_L U (or U^T B_L).",
    r"P_L V_l = U P_l,\ B_l = U^\top B_L U \implies "
    r"\Delta W_l^{\mathrm{local}} = \Delta W_l^{\mathrm{global}}",
    (
        Hypothesis(
            "commuting",
            "the downstream map commutes with the pooling: P_L V_l = U P_l (1 x 1 kernels do)",
            r"P_L V_l = U P_l",
            "without it no projection at all can match, whatever its loss: the local error is "
            "constant within a window, the global one is not",
        ),
        Hypothesis("matching", "B_l = U^T B_L U or U^T B_L", r"B_l = U^\top B_L U"),
    ),
    "local and global update of the kernel are equal",
    "Equal scores give equal slopes; the kernel's update is the adjoint of kernel -> matrix.",
    "Wu et al. 2026, arXiv 2601.21683 (spatial dependence); this package",
    (_CLAPP, _DFB),
    _convolution,
    lambda rule: (
        _trained(rule) or ("it has two contexts" if rule.context in ("both", "each") else "")
    ),
)

THEOREMS: dict[str, Theorem] = {
    t.name: t
    for t in (
        SCORE_MATCHING,
        ISOMETRY_THEOREM,
        CONFORMAL,
        METRIC_PENALTY,
        INVARIANCE,
        LINEAR_SCORE,
        ALIGNMENT,
        FEEDBACK_ORDER,
        CONVOLUTION,
    )
}


def theorem(name: str) -> Theorem:
    """The theorem of that name.

    Raises:
        ValueError: there is none.
    """
    if not inputs.is_one_of(name, THEOREMS):
        raise ValueError(f"Unknown theorem {name!r}; known theorems are {', '.join(THEOREMS)}.")
    return THEOREMS[name]
