"""What a proof takes for granted about the loss of a rule, and what was done to refute it.

A proof in words reads a rule's context, projection and penalty, and takes from its loss one
property: that it is convex, or that it is a function of inner products. For the losses and scores
of this package the property is a matter of exact algebra. Code of a user cannot be proved to have
it, but it can be refuted, so a search over many points and scales looks for a violation. What it
does not find remains an assumption, and the proof says so.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Literal, cast

import numpy as np
import sympy as sp

from linlocal import losses
from linlocal.inputs import Array
from linlocal.losses import Goodness, PairLoss, ViewLoss, scores
from linlocal.pairs import Direction
from linlocal.rules import Rule
from linlocal.symbolic.inner_products import form_of

Status = Literal["checked symbolically", "checked numerically", "unverified"]
Property = Literal["inner products", "convex", "slopes of scores"]

SCALES = (1e-2, 1e-1, 1.0, 1e1, 1e2)
"""Sizes of the activities and scores at which a violation is searched for."""
SHAPES = ((4, 2, 3), (4, 3, 3), (6, 1, 2), (5, 3, 5))
"""Samples, width, and width above of the activities and isometric maps that are tried."""
DRAWS = 3

MEANINGS: dict[Property, str] = {
    "inner products": "the loss is a function of the inner products between samples",
    "convex": "the loss is convex in the scores; its slopes and curvatures are its derivatives",
    "slopes of scores": "equal scores give equal slopes",
}


class NotApplicable(ValueError):
    """A theorem or derivation does not cover this rule or size; the message says why."""


@dataclass(frozen=True)
class Assumption:
    """A property of a rule's loss that a proof uses.

    Attributes:
        name: "inner products", "convex" or "slopes of scores".
        meaning: the property in words.
        status: "checked symbolically" if exact algebra shows it, "checked numerically" if a search
            found no violation, "unverified" if nothing could be searched. Only the first is a
            proof.
        evidence: what shows it, or what was searched.
    """

    name: Property
    meaning: str
    status: Status
    evidence: str

    @property
    def verified(self) -> bool:
        """Whether exact algebra shows it."""
        return self.status == "checked symbolically"

    def __str__(self) -> str:
        doubt = ", NOT PROVED" if not self.verified else ""
        return f"{self.name}: {self.meaning} ({self.status}{doubt}: {self.evidence})"


def verdict(holds: bool, assumptions: tuple[Assumption, ...]) -> bool | None:
    """False if something fails, None if it holds under unverified assumptions, else True."""
    return None if holds and not all(a.verified for a in assumptions) else holds


def assumptions(rule: Rule, optimal: bool = True) -> tuple[Assumption, ...]:
    """What a statement about ``rule`` takes for granted of its loss.

    Args:
        rule: any rule.
        optimal: whether the statement uses that an optimal projection is unique, which a convex
            loss ensures.

    Raises:
        NotApplicable: the property was refuted; the message shows where.
    """
    if rule.kind == "view":
        return (_assumed(rule, "inner products"),)
    if rule.kind == "pair" and rule.projection == "optimal" and optimal:
        return (_assumed(rule, "convex"),)
    return (_assumed(rule, "slopes of scores"),)


def _assumed(rule: Rule, name: Property) -> Assumption:
    known = _known(rule.loss, name)
    if known:
        return Assumption(name, MEANINGS[name], "checked symbolically", known)
    if isinstance(rule.loss, Goodness):
        return Assumption(name, MEANINGS[name], "unverified", "code of a user")
    if name == "inner products":
        violation, searched = inner_products_violation(cast(ViewLoss, rule.loss)), _VIEWS_SEARCHED
    else:
        violation = pair_loss_violation(cast(PairLoss, rule.loss), name == "convex")
        searched = _PAIRS_SEARCHED
    if violation:
        raise NotApplicable(f"{rule.name} violates the hypothesis {name!r}: {violation}.")
    return Assumption(name, MEANINGS[name], "checked numerically", searched)


def _known(loss: Any, name: Property) -> str:
    """What shows the property by exact algebra; "" if nothing does.

    Only the classes of this package count: a subclass may have changed anything.
    """
    if name == "inner products":
        return "closed form in the inner products" if form_of(loss) is not None else ""
    if type(loss) is losses.InfoNCE:
        return "log-sum-exp of the scores" if name != "convex" or log_sum_exp_is_convex() else ""
    if type(loss) not in (losses.TypeOne, losses.TypeTwo, Goodness):
        return ""
    kind = cast(Hashable, type(loss.score))
    if kind not in PIECES or (name == "convex" and not score_is_convex(kind)):
        return ""
    return f"{type(loss.score).__name__} score"


# -- functions of inner products -----------------------------------------------------------------

_VIEWS_SEARCHED = (
    f"no violation under {2 * DRAWS * len(SHAPES) * len(SCALES)} isometric maps of random "
    f"activities of sizes {SCALES[0]:g} to {SCALES[-1]:g}"
)


def depends_on_inner_products(loss: ViewLoss) -> bool:
    """Whether a loss of two views is a function of inner products between samples only.

    Known for the losses of the package; of another one it means that no violation was found.
    """
    return form_of(loss) is not None or not inner_products_violation(loss)


def inner_products_violation(loss: ViewLoss) -> str:
    """Where the gradient of a loss fails to follow an isometric map; "" if no such place is found.

    A function of inner products does not change if the activities are mapped isometrically into a
    space of at least as many dimensions, and its gradient is mapped alike. Tried are activities of
    several sizes, of two independent views and of two that are close to each other: a term can be
    inactive at one size and break the property at another.
    """
    for first, second, isometry, scale in _mapped_views():
        with np.errstate(all="ignore"):
            value = loss.value(first, second)
            plain = np.vstack(loss.gradients(first, second))
            above = loss.gradients(first @ isometry.T, second @ isometry.T)
            mapped = np.vstack(above) @ isometry
        if not (np.isfinite(plain).all() and np.isfinite(mapped).all()):
            continue
        gap, size = float(np.linalg.norm(mapped - plain)), float(np.linalg.norm(plain))
        # Rounding of the loss itself, for a gradient that vanishes.
        noise = abs(value) / float(np.linalg.norm(first)) if np.isfinite(value) else 0.0
        if gap > 1e-8 * max(size, float(np.linalg.norm(mapped))) + 1e-10 * noise:
            width, wider = isometry.shape[1], isometry.shape[0]
            what = "a rotation" if width == wider else f"an isometric map into {wider} dimensions"
            return (
                f"{what} of {len(first)} samples of width {width} and size {scale:g} changes its "
                f"gradient by {gap / size if size else np.inf:.1e} of its norm, as terms per unit "
                "and terms in the width do"
            )
    return ""


def _mapped_views() -> Iterator[tuple[Array, Array, Array, float]]:
    rng = np.random.default_rng(0)
    for _ in range(DRAWS):
        for samples, width, above in SHAPES:
            for scale in SCALES:
                isometry = np.linalg.qr(rng.standard_normal((above, width)))[0]
                first, other = scale * rng.standard_normal((2, samples, width))
                for second in (other, first + 0.1 * other):
                    yield first, second, isometry, scale


# -- convex losses of scored pairs ---------------------------------------------------------------

_DIRECTION = Direction(
    np.arange(6), np.arange(6), np.array([1.0, -1, -1, 1, -1, -1]), np.array([0, 0, 0, 1, 1, 1])
)
_PAIRS_SEARCHED = (
    f"no violation at {4 * DRAWS * len(SCALES)} pairs of points of sizes {SCALES[0]:g} to "
    f"{SCALES[-1]:g}"
)


def pair_loss_violation(loss: PairLoss, convex: bool = True) -> str:
    """Where a loss of scored pairs fails to be convex or has wrong slopes; "" if nowhere found.

    A differentiable phi is convex with slopes g if and only if phi(b) >= phi(a) + g(a).(b - a) for
    all a and b; where phi has a kink, g is then one of its slopes. For near a and b, both ways
    round, the inequality pins the slopes down. Curvatures are compared with differences of slopes
    where these do not depend on the step.

    Args:
        loss: the loss.
        convex: check this; else only that equal scores give equal slopes.
    """
    for a, b in _margins(loss):
        with np.errstate(all="ignore"):
            slope = np.asarray(loss.gradient(a, _DIRECTION))
            if not np.array_equal(slope, loss.gradient(a.copy(), _DIRECTION), equal_nan=True):
                return "the same scores gave two different slopes"
            if not convex:
                continue
            below, above = loss.value(a, _DIRECTION), loss.value(b, _DIRECTION)
            tangent = float(slope @ (b - a))
            reach = abs(below) + abs(above) + abs(tangent)
            if np.isfinite(reach) and above < below + tangent - 1e-9 * reach:
                return (
                    "it is not convex, or its slope is not its derivative: "
                    f"phi(b) = {above:.4g} < phi(a) + slope(a).(b - a) = {below + tangent:.4g} at "
                    f"margins a = {_short(a)}, b = {_short(b)}"
                )
            bent = _curvature_violation(loss, a, b - a)
        if bent:
            return bent
    return ""


def _curvature_violation(loss: PairLoss, a: Array, way: Array) -> str:
    given = np.asarray(loss.curvature(a, _DIRECTION))
    hessian = given if given.ndim == 2 else np.diag(given)
    if not np.isfinite(hessian).all():
        return ""
    lowest = float(np.linalg.eigvalsh((hessian + hessian.T) / 2.0)[0])
    noise = 1e-9 * float(np.linalg.norm(loss.gradient(a, _DIRECTION)))
    if lowest < -1e-9 * float(np.abs(hessian).max()) - noise:
        return f"its curvature {lowest:.4g} is negative at margins {_short(a)}"
    step = 1e-4 * way / np.linalg.norm(way) * max(1.0, float(np.linalg.norm(a)))
    # A kink or a joint nearby makes the two differences disagree.
    coarse, fine = (
        (loss.gradient(a + s * step, _DIRECTION) - loss.gradient(a - s * step, _DIRECTION))
        / (2.0 * s)
        for s in (1.0, 0.1)
    )
    claimed = hessian @ step
    size = max(float(np.linalg.norm(fine)), float(np.linalg.norm(claimed)))
    smooth = float(np.linalg.norm(coarse - fine)) <= 1e-3 * size
    gap = float(np.linalg.norm(fine - claimed))
    if np.isfinite(gap) and smooth and gap > 1e-2 * size + noise:
        return f"its curvature is not the derivative of its slope at margins {_short(a)}"
    return ""


def _margins(loss: PairLoss) -> Iterator[tuple[Array, Array]]:
    """Points a and b, far apart and near, with many slopes at one scale and with few."""
    rng = np.random.default_rng(0)
    contrasts = loss.contrasts(_DIRECTION)
    for _ in range(DRAWS):
        for scale in SCALES:
            first, other = (
                contrasts.apply(scale * u) for u in rng.standard_normal((2, len(_DIRECTION.sign)))
            )
            for near in (1.0, 1e-3):
                moved = first + near * (other - first)
                yield first, moved
                yield moved, first


def _short(point: Array) -> str:
    return "(" + ", ".join(f"{x:.3g}" for x in point) + ")"


# -- the scores of the package, exactly ----------------------------------------------------------

_M, _MARGIN = sp.symbols("m margin", real=True)
_WIDTH, _E = sp.symbols("width e", positive=True)

PIECES: dict[Hashable, tuple[tuple[sp.Expr, sp.Expr], ...]] = {
    scores.Linear: ((-_M, sp.oo),),
    scores.Softplus: ((sp.log(1 + sp.exp(_MARGIN - _M)), sp.oo),),
    scores.Hinge: ((_MARGIN - _M, _MARGIN), (sp.S.Zero, sp.oo)),
    scores.SmoothedHinge: (
        (_MARGIN - _M - _WIDTH / 2, _MARGIN - _WIDTH),
        ((_MARGIN - _M) ** 2 / (2 * _WIDTH), _MARGIN),
        (sp.S.Zero, sp.oo),
    ),
}
"""Each score as functions of m ("m", "margin", "width") with the end of the interval of each."""


@cache
def score_is_convex(kind: Hashable) -> bool:
    """Whether a score of the package is convex, for all values of its parameters, exactly.

    Each piece has a curvature that is not negative; where two pieces meet, their values agree and
    the slope does not fall.
    """
    pieces = PIECES[kind]
    # exp(margin - m) is any positive number.
    curvatures = [
        sp.factor(sp.diff(f, _M, 2).subs(_M, _MARGIN - sp.log(_E)).simplify()) for f, _ in pieces
    ]
    joined = all(
        sp.simplify((g - f).subs(_M, end)) == 0
        and (sp.diff(g, _M) - sp.diff(f, _M)).subs(_M, end).simplify().is_nonnegative
        for (f, end), (g, _) in pairwise(pieces)
    )
    return bool(joined and all(c.is_nonnegative for c in curvatures))


@cache
def log_sum_exp_is_convex() -> bool:
    """v^T (diag p - p p^T) v = sum_{i<j} p_i p_j (v_i - v_j)^2, sum p = 1, for three scores."""
    p, v = sp.symbols("p:3"), sp.symbols("v:3")
    form = sum(a * x**2 for a, x in zip(p, v, strict=True))
    form -= sum(a * x for a, x in zip(p, v, strict=True)) ** 2
    squares = sum(p[i] * p[j] * (v[i] - v[j]) ** 2 for i in range(3) for j in range(i + 1, 3))
    return bool(sp.expand((form - squares).subs(p[0], 1 - p[1] - p[2])) == 0)
