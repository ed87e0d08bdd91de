"""Linear classifiers as functions of the strength of their penalty: ridge and logistic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Form = Literal["primal", "dual"]
Scores = Callable[[float], Tensor]


def ridge_scores(x: Tensor, targets: Tensor, new: Tensor, form: Form | None = None) -> Scores:
    """``s -> new (X^T X / n + s)^-1 X^T Y / n + mean(Y)`` from one eigendecomposition.

    Args:
        x: (n, features), each of mean 0.
        targets: Y, (n, classes).
        new: (m, features) samples to score.
        form: the matrix to decompose: "primal" is X^T X, "dual" is X X^T; by default the smaller of
            the two.

    Returns:
        A function of the strength s > 0 that gives (m, classes).
    """
    n, width = x.shape
    mean = targets.mean(dim=0)
    if (form or ("primal" if width <= n else "dual")) == "primal":
        spectrum, basis = torch.linalg.eigh(x.T @ x / n)
        left, right = new @ basis, basis.T @ (x.T @ (targets - mean)) / n
    else:  # (X^T X + s)^-1 X^T = X^T (X X^T + s)^-1
        spectrum, basis = torch.linalg.eigh(x @ x.T / n)
        left, right = new @ (x.T @ basis), basis.T @ (targets - mean) / n
    spectrum = spectrum.clamp_min(0.0)  # rounding must not cancel a small strength
    return lambda strength: (left / (spectrum + strength)) @ right + mean


def logistic_scores(x: Tensor, targets: Tensor, new: Tensor) -> Scores:
    """``s -> new W + b`` at the minimum of ``cross-entropy + s ||W||^2 / 2``, by L-BFGS.

    Args:
        x: (n, features).
        targets: (n, classes) probabilities, usually one-hot.
        new: (m, features) samples to score.

    Returns:
        A function of the strength s > 0 that gives (m, classes).
    """
    # Kept between calls: the optimum at one strength is a good start for the next.
    weight = x.new_zeros(x.shape[1], targets.shape[1], requires_grad=True)
    bias = x.new_zeros(targets.shape[1], requires_grad=True)

    def scores(strength: float) -> Tensor:
        optimiser = torch.optim.LBFGS(
            [weight, bias],
            max_iter=500,
            tolerance_grad=1e-7,
            tolerance_change=1e-14,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            value = F.cross_entropy(x @ weight + bias, targets)
            value = value + strength / 2 * weight.square().sum()
            value.backward()
            return value

        with torch.enable_grad():
            optimiser.step(loss)
        return (new @ weight + bias).detach()

    return scores
