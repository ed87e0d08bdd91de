"""Classifiers that read labelled features as they come, while a network trains.

Each is asked about the features of a step before it learns from them, so it is never tested on what
it has seen in this form. Earlier features are those of earlier weights: while these change, the
accuracy is a lower bound of what `linear_probe` finds at rest.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from linlocal import inputs
from linlocal.analysis.probing.representations import unit_rows


def knn_accuracy(
    features: Tensor,
    labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> float:
    """Accuracy of argmax_c sum_(i in N_k(z), y_i = c) exp(cos(z, z_i) / temperature).

    N_k(z) are the k features with the largest cosine. Wu et al. 2018 (arXiv 1805.01978); the
    defaults are those of Caron et al. 2021 (arXiv 2104.14294). Cosines are in float64; a feature
    that is 0 has the cosine 0 with all others.

    Args:
        features: (samples, features) with known labels.
        labels: (samples,) whole numbers.
        test_features: (test samples, features).
        test_labels: (test samples,) whole numbers.
        neighbours: k, or all samples where there are fewer.
        temperature: of the votes.

    Raises:
        ValueError: shapes do not fit, there are no samples, or a number is too small.
        TypeError: a label or a number is none.
    """
    k, temperature = (
        inputs.whole(neighbours, "neighbours", 1),
        inputs.positive(temperature, "temperature"),
    )
    for which, z, y in (("known", features, labels), ("test", test_features, test_labels)):
        _check(which, z, y)
    if features.shape[1] != test_features.shape[1]:
        raise ValueError(
            f"{features.shape[1]} known features and {test_features.shape[1]} in the test: take "
            "both from the same block."
        )
    classes, known = labels.unique(return_inverse=True)
    bank, asked = (
        unit_rows(z.detach().double()).nan_to_num(0.0) for z in (features, test_features)
    )
    cosines, nearest = (asked @ bank.T).topk(min(k, len(bank)), dim=1)
    # The largest vote is 1, whatever the temperature: none overflows.
    votes = ((cosines - cosines.amax(1, keepdim=True)) / temperature).exp()
    scores = votes.new_zeros(len(asked), len(classes)).scatter_add_(1, known[nearest], votes)
    return float((classes[scores.argmax(1)] == test_labels).double().mean())


class Bank:
    """The newest labelled features.

    Args:
        rows: the number of rows that are kept.
    """

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self.features, self.labels = torch.empty(0, 0), torch.empty(0, dtype=torch.long)

    def add(self, features: Tensor, labels: Tensor) -> None:
        """Keep features (in float32) and their labels, and drop the oldest."""
        new = features.detach().float()
        if not len(self.labels):
            self.features, self.labels = new[:0], labels[:0]
        self.features = torch.cat([self.features, new])[-self._rows :]
        self.labels = torch.cat([self.labels, labels])[-self._rows :]

    def __len__(self) -> int:
        return len(self.labels)

    def state_dict(self) -> dict[str, Tensor]:
        """Features and labels."""
        return {"features": self.features, "labels": self.labels}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue with what `state_dict` gave."""
        self.features, self.labels = state["features"], state["labels"]


class RunningProbe:
    """A ridge classifier from running sums: argmin_W mean ||Y - mean(Y) - X W||^2 + s ||W||^2.

    X are features at mean 0 and variance 1, Y one-hot labels, and means weigh a sample by
    decay^(number of later calls of `learn`). Nothing is kept but the sums of 1, x, y, x x^T and
    x y^T, in float64. At decay = 1 it is the ridge classifier of `linear_probe` at one strength.

    Args:
        ridge: s.
        decay: the weight of what was learned before, at each call of `learn`.

    Raises:
        ValueError: ``ridge`` is not positive, or ``decay`` not in 0..1.
        TypeError: a number is none.
    """

    def __init__(self, ridge: float = 0.01, decay: float = 0.9) -> None:
        self.ridge = inputs.positive(ridge, "ridge")
        self.decay = inputs.share(decay, "decay")
        self._classes = torch.empty(0, dtype=torch.long)
        self._count = 0.0
        # Of (x, 1): the sums of products with itself, and with y.
        self._inner, self._labelled = torch.empty(0, 0), torch.empty(0, 0)

    def learn(self, features: Tensor, labels: Tensor) -> None:
        """Add labelled features.

        Args:
            features: (samples, features).
            labels: (samples,) whole numbers.

        Raises:
            ValueError: shapes do not fit, or the width is another than before.
            TypeError: labels are no whole numbers.
        """
        _check("known", features, labels)
        x = self._augmented(features)
        if not self._count:
            self._inner = x.new_zeros(x.shape[1], x.shape[1])
            self._labelled = x.new_zeros(x.shape[1], 0)
            self._classes = labels[:0]
        classes = torch.cat([self._classes, labels]).unique()
        sums = x.new_zeros(x.shape[1], len(classes))
        sums[:, torch.searchsorted(classes, self._classes)] = self.decay * self._labelled
        y = F.one_hot(torch.searchsorted(classes, labels), len(classes)).double()
        self._labelled, self._classes = sums + x.T @ y, classes
        self._inner = self.decay * self._inner + x.T @ x
        self._count = self.decay * self._count + len(x)

    def accuracy(self, features: Tensor, labels: Tensor) -> float:
        """The share of features that are classified correctly; NaN before anything was learned.

        Raises:
            ValueError: shapes do not fit, or the width is another than before.
            TypeError: labels are no whole numbers.
        """
        _check("test", features, labels)
        if not self._count:
            return math.nan
        self._augmented(features)
        found = self._classes[self.scores(features).argmax(1)]
        return float((found == labels).double().mean())

    def scores(self, features: Tensor) -> Tensor:
        """(samples, classes) X W + mean(Y), for the classes in ascending order."""
        inner, labelled = self._inner / self._count, self._labelled / self._count
        mean, of_classes = inner[-1, :-1], labelled[-1]
        covariance = inner[:-1, :-1] - mean.outer(mean)
        variance = covariance.diagonal()
        # What does not vary but by rounding is left out.
        varies = variance > 1e-12 * inner.diagonal()[:-1]
        scale = torch.where(varies, variance, torch.inf).rsqrt()
        correlation = scale[:, None] * covariance * scale
        targets = scale[:, None] * (labelled[:-1] - mean.outer(of_classes))
        penalty = self.ridge * torch.eye(len(mean), dtype=torch.double, device=mean.device)
        weights = torch.linalg.solve(correlation + penalty, targets)
        return ((features.detach().double() - mean) * scale) @ weights + of_classes

    def state_dict(self) -> dict[str, Any]:
        """The sums."""
        return {
            "count": self._count,
            "classes": self._classes,
            "inner": self._inner,
            "labelled": self._labelled,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with what `state_dict` gave."""
        self._count, self._classes = float(state["count"]), state["classes"]
        self._inner, self._labelled = state["inner"], state["labelled"]

    def _augmented(self, features: Tensor) -> Tensor:
        x = F.pad(features.detach().double(), (0, 1), value=1.0)
        if self._count and x.shape[1] != len(self._inner):
            raise ValueError(
                f"{features.shape[1]} features came, but {len(self._inner) - 1} before: take them "
                "from the same block."
            )
        return x


def _check(which: str, features: Tensor, labels: Tensor) -> None:
    for name, value in ((f"{which} features", features), (f"{which} labels", labels)):
        inputs.instance(value, Tensor, name, "a tensor")
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
        raise ValueError(
            f"{which} features must be (samples, features) with one label for each sample, got "
            f"{tuple(features.shape)} and {tuple(labels.shape)}."
        )
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{which} labels must be whole numbers, got {labels.dtype}.")
