"""Lower bounds on the cosine of a local and the global update (statements 7, 12 and 14).

All are for linear f and direct feedback, where the update is X and the global one G X, or
V_{le}^T X and V_{le}^T G_e X in a window. An angle phi is bounded through its half: a symmetric
positive matrix of condition number kappa turns a vector by at most phi with

    tan(phi/2) = (sqrt(kappa) - 1)/(sqrt(kappa) + 1) = tanh(log(kappa)/4)          (Kantorovich),

and a metric M of condition number kappa_M widens an angle psi to psi' with

    tan(psi'/2) <= sqrt(kappa_M) tan(psi/2)                                        (Wielandt).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from linlocal import inputs
from linlocal.inputs import Array


def cosine_bound(above: float, inside: float = 1.0) -> float:
    """The smallest cosine that condition numbers allow, (1 - t^2)/(1 + t^2).

    t = sqrt(inside) (sqrt(above) - 1)/(sqrt(above) + 1). Without a window (inside = 1) this is
    2 sqrt(above)/(1 + above), Kantorovich's inequality. It is attained: for all condition numbers
    there are two layers of width 2 and an X at which the cosine has this value. For t > 1 it is
    negative, so a window can point away from the global update although both metrics are regular.

    Args:
        above: the condition number of G_e, the metric above the window (of G_l without one).
        inside: the condition number of M = V_{le} V_{le}^T.

    Raises:
        ValueError: a condition number below 1 or not finite.
        TypeError: no number.
    """
    return _bound(_condition_number(above, "above"), _condition_number(inside, "inside"))


def _bound(above: float, inside: float) -> float:
    """The bound, also for singular metrics (condition number infinity)."""
    half = math.tanh(math.log(above) / 4.0) if above < math.inf else 1.0
    if half == 0.0:
        return 1.0
    if inside == math.inf:
        return -1.0
    squared = inside * half**2
    return (1.0 - squared) / (1.0 + squared)


def window_bound(inside: ArrayLike, metric: ArrayLike) -> float:
    """The smallest cosine of V^T X and V^T G X over all X in the range of V; V = V_{le}, G = G_e.

    The update of a window and the global one, for linear f and direct feedback: the cosine is
    <X, M G X>/(||M^(1/2) X|| ||M^(1/2) G X||), M = V V^T. With y = M^(1/2) X this is the angle
    between y and T y, T = M^(1/2) G M^(-1/2), whose sine is at most min_tau ||tau T - I||. T is
    symmetric only if M and G commute; then the bound is Kantorovich's for G. Where the sine reaches
    1 the bound is `cosine_bound` of the two condition numbers. Only the range of V counts, as X
    lies in it: a window that widens costs nothing.

    Args:
        inside: V_{le}, (n_e, n_l), ``network.downstream(l, e)``.
        metric: G_e, (n_e, n_e), ``network.gram(e)``.

    Returns:
        The bound, up to rounding; NaN if V_{le} = 0 or if G vanishes on its range.

    Raises:
        ValueError: the shapes do not go together, or the metric is not symmetric and positive
            semidefinite.

    References:
        Gustafson 1968 (Bull. AMS 74, 488), the bound on the sine; Wielandt's inequality in the form
        of Bauer & Householder 1960 (Numer. Math. 2, 308).
    """
    v = inputs.matrix(inside, "inside", "(n_e, n_l)")
    g = inputs.matrix(metric, "metric", "(n_e, n_e)")
    if g.shape != (len(v), len(v)):
        raise ValueError(
            f"The metric above a window that ends at {len(v)} units must be {len(v)} x {len(v)}, "
            f"got {g.shape}: take network.downstream(l, e) and network.gram(e)."
        )
    size = float(np.abs(g).max())
    if float(np.abs(g - g.T).max()) > 1e-10 * size or np.linalg.eigvalsh(g)[0] < -1e-10 * size:
        raise ValueError("The metric must be symmetric and positive semidefinite, as V^T V is.")
    basis, singular, _ = np.linalg.svd(v, full_matrices=False)
    kept = singular > singular[0] * max(v.shape) * np.finfo(float).eps
    singular, basis = singular[kept], basis[:, kept]
    seen = basis.T @ g @ basis
    if len(singular) == 0 or not seen.any():
        return math.nan
    turned = singular[:, None] * seen / singular
    spectrum = np.linalg.eigvalsh(seen)
    regular = spectrum[0] > spectrum[-1] * len(spectrum) * np.finfo(float).eps
    above = float(spectrum[-1] / spectrum[0]) if regular else math.inf
    by_numbers = _bound(above, float((singular[0] / singular[-1]) ** 2))
    sine = _smallest_distance(turned)
    return max(by_numbers, math.sqrt(1.0 - sine**2) if sine < 1.0 else -1.0)


def _smallest_distance(turned: Array) -> float:
    """min over tau > 0 of ||tau T - I||, at most 1. Any tau gives a bound, so none is a risk."""
    eye = np.eye(len(turned))

    def distance(tau: float) -> float:
        return float(np.linalg.norm(tau * turned - eye, 2))

    largest = 2.0 / float(np.linalg.norm(turned, 2))
    found = minimize_scalar(
        distance, bounds=(0.0, largest), method="bounded", options={"xatol": 1e-12 * largest}
    )
    return min(1.0, distance(float(found.x)))


@dataclass(frozen=True)
class ResidualBounds:
    """How far a chain of residual layers can be from an isometry (statement 14).

    Attributes:
        metric_distance: an upper bound on ||G_l - I||, prod (1 + ||W_k||)^2 - 1.
        condition_number: an upper bound on cond(G_l), prod ((1 + ||W_k||)/(1 - ||W_k||))^2;
            infinite if a branch has norm 1 or more.
        cosine: a lower bound on the cosine of local and global update for linear f with direct
            feedback, 1/cosh(2 sum artanh ||W_k||): `cosine_bound` of the condition number.
    """

    metric_distance: float
    condition_number: float
    cosine: float


def residual_bounds(norms: Sequence[float]) -> ResidualBounds:
    """Bounds for V_l = (I + W_L) ... (I + W_{l+1}) by the norms of the branches alone.

    Branches of norm c/L, as depth-scaled initialisation makes them, keep the condition number below
    ((1 + c/L)/(1 - c/L))^(2L), which falls with L towards exp(4c): bounded at every depth.

    Args:
        norms: the operator norms ||W_k|| of the branches of the layers l+1..L; none at the top.

    Raises:
        ValueError: a norm that is negative or not finite.
        TypeError: no sequence of numbers.
    """
    given = [
        inputs.not_negative(x, "an entry of norms")
        for x in inputs.sequence(norms, "norms", "numbers")
    ]
    stretch = math.prod(1.0 + x for x in given) ** 2
    if any(x >= 1.0 for x in given):
        return ResidualBounds(stretch - 1.0, math.inf, 0.0)
    logarithm = 2.0 * sum(math.atanh(x) for x in given)
    # log(kappa) = 2 logarithm; beyond 700 the exponential and the cosine leave the floats.
    if logarithm > 350.0:
        return ResidualBounds(stretch - 1.0, math.inf, 0.0)
    return ResidualBounds(stretch - 1.0, math.exp(2.0 * logarithm), 1.0 / math.cosh(logarithm))


def _condition_number(value: float, name: str) -> float:
    number = inputs.finite(value, name)
    if number < 1.0:
        raise ValueError(f"{name} must be a condition number, at least 1, got {number}.")
    return number
