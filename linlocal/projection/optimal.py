"""The optimal projection B of a convex pair loss: the public call that picks the solver.

A linear score has a closed form, a hinge leads to a box problem (`projection.box`), and Newton's
method solves all others (`projection.newton`). `projection.problem` states the problem itself.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from linlocal import inputs
from linlocal.losses import PairLoss
from linlocal.losses.shape import Bend, Line, shape_of, summand_of
from linlocal.pairs import Direction
from linlocal.projection import box as hinge, newton
from linlocal.projection.problem import TOLERANCE, ConvergenceError, Projection, Rows, ScoreProblem
from linlocal.threads import one_if_small

Method = Literal["auto", "dual", "primal", "iterative"]

_UNSAID = (
    " If its score has a kink, the score must say so (`shape`), and a loss that sums it as well "
    "(`summand`), as `Hinge` and `TypeTwo` do."
)


def optimal_projection(
    z: ArrayLike | Rows,
    c: ArrayLike | Rows,
    pairs: Direction,
    loss: PairLoss,
    penalty: float,
    method: Method = "auto",
) -> Projection:
    """Find the best projection: argmin_B phi(T u) + penalty/2 ||B||_F^2, u[p] = z[a_p]^T B c[r_p].

    Args:
        z: (anchors, width) activities of ``pairs.anchor_rows``, in that order; a `Rows` where
            several problems share them, so that they are prepared only once.
        c: (references, context width) contexts of ``pairs.reference_rows``, in that order.
        pairs: who is scored against whom.
        loss: `TypeTwo`, `TypeOne`, `InfoNCE`, `SupervisedInfoNCE`, `SpectralScores` or a `PairLoss`
            of your own.
        penalty: lam > 0.
        method: the unknowns of Newton's method: "dual" (one for each margin), "primal" (width x
            context width); "iterative" for Newton's method with preconditioned conjugate
            gradients, which builds no Newton matrix; or "auto": the fewer of the two sets of
            unknowns, and "iterative" where both exceed 2,048 (512 for InfoNCE and kin). A linear
            score is solved in closed form and a hinge by its dual active set, whatever the method.
            All methods reach the same residual; "iterative" mostly goes on to a relative gradient
            of 1e-13.

    Returns:
        The unique minimiser with its dual variables, residual and condition number.

    Raises:
        ValueError: shapes do not fit, input is not finite, the pairs have no negatives, or the
            penalty is not positive.
        TypeError: pairs, loss or penalty are something else.
        ConvergenceError: the residual stayed above 1e-13.
        MemoryError: a hinge, or the dual or primal method, needs a matrix that cannot fit.
    """
    inputs.instance(pairs, Direction, "pairs", "a `Direction`, one of `Pairs.directions`")
    inputs.instance(loss, PairLoss, "loss", "a `PairLoss`: TypeTwo, TypeOne, InfoNCE or kin")
    penalty = inputs.real(penalty, "penalty")
    anchors = z if isinstance(z, Rows) else Rows(inputs.matrix(z, "z", "(anchors, width)"))
    contexts = c if isinstance(c, Rows) else Rows(inputs.matrix(c, "c", "(references, width)"))
    for given, used, name in (
        (anchors, pairs.anchor_rows, "z"),
        (contexts, pairs.reference_rows, "c"),
    ):
        if len(given.rows) != len(used):
            raise ValueError(
                f"{name} has {len(given.rows)} rows, but the pairs use {len(used)} different "
                "samples."
            )
    if not (np.isfinite(penalty) and penalty > 0):
        raise ValueError(
            f"The penalty must be positive and finite, got {penalty}: without it the optimal "
            "projection need not exist."
        )
    if pairs.num_negatives == 0:
        raise ValueError(
            'The pairs have no negatives; build them with negatives="next" or negatives="random".'
        )
    if not inputs.is_one_of(method, get_args(Method)):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}.")

    problem = ScoreProblem(anchors, contexts, pairs, loss, penalty)
    shape = shape_of(summand_of(loss))
    with one_if_small(problem.contrasts.num_margins):
        if isinstance(shape, Line):
            solution = _closed_form(problem)
        elif isinstance(shape, Bend):
            solution = hinge.solve(problem, shape)
        else:
            solution = newton.solve(problem, method)
    if not np.isfinite(solution.margins).all():
        raise ConvergenceError(
            "The scores of the optimal projection are beyond the largest float64: scale the input "
            "down, or raise the penalty."
        )
    if not solution.residual <= TOLERANCE:
        raise ConvergenceError(
            f"The optimal projection stopped at a residual of {solution.residual:.1e} after "
            f"{solution.iterations} Newton steps (demanded: {TOLERANCE:.0e}). The problem is too "
            "badly conditioned for float64: raise the penalty, or scale the input down."
            + (_UNSAID if shape is None else "")
        )
    return solution


def _closed_form(problem: ScoreProblem) -> Projection:
    """Linear f: the gradient of phi is constant, so B is known without solving."""
    nothing = np.zeros(problem.contrasts.num_margins)
    by_margin = problem.loss.gradient(nothing, problem.pairs)
    b = -problem.combine(by_margin) / problem.penalty
    return problem.solution(b, problem.margins(b), by_margin, nothing, 0, "closed form")
