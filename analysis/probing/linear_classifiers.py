"""Linear classifiers as functions of the strength of their penalty: ridge and logistic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Form = Literal["primal", "dual"]
Scores = Callable[[float], Tensor]
# Turns samples to score, (m, features), into the function that scores them.
Classifier = Callable[[Tensor], Scores]


def ridge_scores(x: Tensor, targets: Tensor, new: Tensor, form: Form | None = None) -> Scores:
    """Scores for any ridge s: ``new (X^T X / n + s)^-1 X^T Y / n + mean(Y)``, one decomposition.

    Args:
        x: (n, features), each of mean 0.
        targets: Y, (n, classes).
        new: (m, features) samples to score.
        form: the matrix to decompose: "primal" is X^T X, "dual" is X X^T; by default the smaller of
            the two.

    Returns:
        A function of the strength s > 0 that gives (m, classes).
    """
    return ridge(x, targets, form)(new)


def ridge(x: Tensor, targets: Tensor, form: Form | None = None) -> Classifier:
    """`ridge_scores` for any number of sets of samples, from the same eigendecomposition."""
    n, width = x.shape
    mean = targets.mean(dim=0)
    primal = (form or ("primal" if width <= n else "dual")) == "primal"
    if primal:
        spectrum, basis = torch.linalg.eigh(x.T @ x / n)
        right = basis.T @ (x.T @ (targets - mean)) / n
    else:  # (X^T X + s)^-1 X^T = X^T (X X^T + s)^-1
        spectrum, basis = torch.linalg.eigh(x @ x.T / n)
        right = basis.T @ (targets - mean) / n
    spectrum = spectrum.clamp_min(0.0)  # rounding must not cancel a small strength

    def classifier(new: Tensor) -> Scores:
        left = new @ basis if primal else new @ (x.T @ basis)
        return lambda strength: (left / (spectrum + strength)) @ right + mean

    return classifier


def logistic(x: Tensor, targets: Tensor) -> Classifier:
    """Scores ``s -> new W + b`` at the minimum of ``cross-entropy + s ||W||^2 / 2``, by L-BFGS.

    Args:
        x: (n, features).
        targets: (n, classes) probabilities, usually one-hot.
    """
    # Kept between calls: the optimum at one strength is a good start for the next.
    weight = x.new_zeros(x.shape[1], targets.shape[1], requires_grad=True)
    bias = x.new_zeros(targets.shape[1], requires_grad=True)
    fitted: float | None = None

    def fit(strength: float) -> None:
        nonlocal fitted
        if strength == fitted:
            return
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
        fitted = strength

    def classifier(new: Tensor) -> Scores:
        def scores(strength: float) -> Tensor:
            fit(strength)
            return (new @ weight + bias).detach()

        return scores

    return classifier
