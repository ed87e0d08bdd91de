"""Laws of the linear classifiers: what they minimise, in both of their forms."""

import numpy as np
import pytest
import torch
from torch import nn

from linlocal.analysis.probing import ridge_scores
from linlocal.analysis.probing.linear_classifiers import logistic


@pytest.mark.parametrize(("samples", "width"), [(40, 7), (7, 40), (20, 20)])
@pytest.mark.parametrize("strength", [1e-3, 1.0, 100.0])
def test_primal_and_dual_are_the_solution_of_the_normal_equations(samples, width, strength):
    rng = np.random.default_rng(samples)
    x, y, new = (
        rng.standard_normal(shape) for shape in ((samples, width), (samples, 3), (5, width))
    )
    x -= x.mean(axis=0)
    weight = np.linalg.solve(x.T @ x / samples + strength * np.eye(width), x.T @ y / samples)
    expected = new @ weight + y.mean(axis=0)
    # The shift of y is absorbed by the bias, as x has mean 0.
    tensors = [torch.from_numpy(a) for a in (x, y, new)]
    for form in ("primal", "dual", None):
        np.testing.assert_allclose(
            ridge_scores(*tensors, form)(strength).numpy(), expected, rtol=0, atol=1e-8
        )


def test_the_logistic_fit_is_stationary():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((80, 6)))
    labels = (x[:, 0] + torch.from_numpy(rng.standard_normal(80)) > 0).long()
    # The scores of zero and of the unit vectors are the bias and the weights.
    new = torch.cat([torch.zeros(1, 6), torch.eye(6)]).double()
    targets = nn.functional.one_hot(labels).double()
    fit = logistic(x, targets)(new)
    for strength in (10.0, 0.1):
        scores = fit(strength)
        bias, weight = scores[0], scores[1:] - scores[0]
        slope = x.T @ (torch.softmax(x @ weight + bias, 1) - targets) / len(x)
        assert weight.abs().max() > 1e-3
        torch.testing.assert_close(slope, -strength * weight, rtol=0, atol=1e-6)
