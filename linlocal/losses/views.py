"""Losses of two whole views: functions of the activities of two aligned views."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from linlocal import inputs
from linlocal.inputs import Array

VICRegForm = Literal["article", "released", "mixed"]
LPLForm = Literal["article", "released", "mixed"]


@runtime_checkable
class ViewLoss(Protocol):
    """A loss of two aligned views z, z_view, each (samples, width)."""

    def value(self, z: Array, z_view: Array) -> float:
        """The loss."""
        ...

    def gradients(self, z: Array, z_view: Array) -> tuple[Array, Array]:
        """Its derivatives by z and by z_view."""
        ...


@dataclass(frozen=True)
class NTXent:
    """SimCLR's loss: InfoNCE over cosine similarities of all 2n activities, both views anchors.

    Chen et al. 2020 (arXiv 2002.05709), eq. 1. A function of inner products only.
    """

    temperature: float = 0.5

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.positive, "temperature")

    def _logits(self, z: Array, z_view: Array) -> tuple[Array, Array, Array, Array]:
        unit, norms = _directions(np.vstack([z, z_view]))
        logits = unit @ unit.T / self.temperature
        np.fill_diagonal(logits, -np.inf)
        log_sum = np.logaddexp.reduce(logits, axis=1)
        return unit, norms, logits, log_sum

    def value(self, z: Array, z_view: Array) -> float:
        _, _, logits, log_sum = self._logits(z, z_view)
        return float(np.mean(log_sum - logits[np.arange(len(logits)), _partners(len(z))]))

    def gradients(self, z: Array, z_view: Array) -> tuple[Array, Array]:
        unit, norms, logits, log_sum = self._logits(z, z_view)
        rows = len(logits)
        by_logit = np.exp(logits - log_sum[:, None])
        by_logit[np.arange(rows), _partners(len(z))] -= 1.0
        by_unit = (by_logit + by_logit.T) @ unit / (self.temperature * rows)
        gradient = _through_direction(by_unit, unit, norms)
        return gradient[: len(z)], gradient[len(z) :]


@dataclass(frozen=True)
class CosineInfoNCE:
    """mean over k of -log softmax_j(s_kj / temperature) at j = k, where s_kj = cos(z_k, z_view_j).

    The cross-entropy of finding the partner of each sample of the first view among all samples of
    the second (van den Oord et al. 2018, arXiv 1807.03748, eq. 4), with cosine similarity, as the
    released code of Wu et al. 2026 (arXiv 2601.21683) computes "InfoNCE". Negatives are the other
    samples of the second view; `NTXent` has those of both views, and both views as anchors.
    Gradients run into both views. A function of inner products only.
    """

    temperature: float = 0.1

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.positive, "temperature")

    def value(self, z: Array, z_view: Array) -> float:
        logits = _directions(z)[0] @ _directions(z_view)[0].T / self.temperature
        return float(np.mean(np.logaddexp.reduce(logits, axis=1) - np.diag(logits)))

    def gradients(self, z: Array, z_view: Array) -> tuple[Array, Array]:
        (unit, norms), (unit_view, norms_view) = _directions(z), _directions(z_view)
        logits = unit @ unit_view.T / self.temperature
        by_logit = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None]) - np.eye(len(z))
        by_cosine = by_logit / (self.temperature * len(z))
        return (
            _through_direction(by_cosine @ unit_view, unit, norms),
            _through_direction(by_cosine.T @ unit, unit_view, norms_view),
        )


@dataclass(frozen=True)
class SpectralContrastive:
    """-2 mean z.z_view + mean over different samples of (z.z_view)^2.

    HaoChen et al. 2021 (arXiv 2106.04156), eq. 6. A function of inner products only.
    """

    def value(self, z: Array, z_view: Array) -> float:
        k = z @ z_view.T
        off = k - np.diag(np.diag(k))
        n = len(z)
        return float(-2.0 * np.trace(k) / n + np.sum(off**2) / (n * max(1, n - 1)))

    def gradients(self, z: Array, z_view: Array) -> tuple[Array, Array]:
        k = z @ z_view.T
        n = len(z)
        by_k = 2.0 * (k - np.diag(np.diag(k))) / (n * max(1, n - 1)) - 2.0 * np.eye(n) / n
        return by_k @ z_view, by_k.T @ z


@dataclass(frozen=True)
class Whitening:
    """mean ||z - z_view||^2 + weight (||cov(z) - I||_F^2 + ||cov(z_view) - I||_F^2).

    cov(z) = z^T z / samples (not centred). Invariant to rotations although written per unit.
    """

    weight: float = 1.0

    def __post_init__(self) -> None:
        _keep_numbers(self)

    def value(self, z: Array, z_view: Array) -> float:
        def spread(a: Array) -> float:
            return float(np.sum((a.T @ a / len(a) - np.eye(a.shape[1])) ** 2))

        return float(
            np.mean(np.sum((z - z_view) ** 2, axis=1)) + self.weight * (spread(z) + spread(z_view))
        )

    def gradients(self, z: Array, z_view: Array) -> tuple[Array, Array]:
        def spread(a: Array) -> Array:
            return 4.0 * a @ (a.T @ a / len(a) - np.eye(a.shape[1])) / len(a)

        pull = 2.0 * (z - z_view) / len(z)
        return pull + self.weight * spread(z), -pull + self.weight * spread(z_view)


@dataclass(frozen=True)
class LogDet:
    """mean ||z - z_view||^2 - weight sum over views of log det(I + z^T z / (samples epsilon)).

    A rate-distortion term as in Yu et al. 2020 (arXiv 2006.08558), eq. 1. Invariant to rotations.
    """

    weight: float = 0.1
    epsilon: float = 0.5

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.positive, "epsilon")
        _keep_numbers(self)

    def value(self, z: Array, z_view: Array) -> float:
        def rate(a: Array) -> float:
            return float(
                np.linalg.slogdet(np.eye(a.shape[1]) + a.T @ a / (len(a) * self.epsilon))[1]
            )

        return float(
            np.mean(np.sum((z - z_view) ** 2, axis=1)) - self.weight * (rate(z) + rate(z_view))
        )

    def gradients(self, z: Array, z_view: Array) -> tuple[Array, Array]:
        def rate(a: Array) -> Array:
            scale = len(a) * self.epsilon
            solved = np.linalg.solve(np.eye(a.shape[1]) + a.T @ a / scale, a.T)
            return np.asarray(2.0 * solved.T / scale)

        pull = 2.0 * (z - z_view) / len(z)
        return pull - self.weight * rate(z), -pull - self.weight * rate(z_view)


@dataclass(frozen=True)
class VICReg:
    """invariance s(z, z_view) + variance (v(z) + v(z_view)) + covariance (c(z) + c(z_view)).

    v is the mean over units of max(0, target_std - std), std = sqrt(variance + epsilon), and c the
    sum of squared covariances of different units over the width. Its terms are per unit: it is not
    invariant under rotations. Bardes et al. 2022 (arXiv 2105.04906) print one scaling and released
    another; neither is a multiple of the other.

    Attributes:
        invariance, variance, covariance: the weights of the three terms.
        target_std: the standard deviation below which v pushes.
        epsilon: what is added to the variance under the root.
        form: "article": eqs. 1-6, where s is the mean over samples of ||z - z_view||^2. "released":
            s is the mean over samples and units, which is less by a factor of the width, and v
            is halved (``main_vicreg.py`` of the authors). "mixed": s of the released code and v
            of the article, so "released" with twice the weight of the variance.

    Raises:
        ValueError: an unknown form, a number that is not finite, or an epsilon that is not
            positive.
    """

    invariance: float = 25.0
    variance: float = 25.0
    covariance: float = 1.0
    target_std: float = 1.0
    epsilon: float = 1e-4
    form: VICRegForm = "mixed"

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.positive, "epsilon")
        inputs.keep(self, inputs.finite, "invariance", "variance", "covariance", "target_std")
        _check_form(self.form, VICRegForm)

    def value(self, z: Array, z_view: Array) -> float:
        pull = float(np.sum((z - z_view) ** 2)) / self._pulled(z)
        return self.invariance * pull + self._view_value(z) + self._view_value(z_view)

    def gradients(self, z: Array, z_view: Array) -> tuple[Array, Array]:
        pull = self.invariance * 2.0 * (z - z_view) / self._pulled(z)
        return pull + self._view_gradient(z), -pull + self._view_gradient(z_view)

    def _pulled(self, z: Array) -> int:
        """What the squared distances are divided by."""
        return len(z) if self.form == "article" else z.size

    @property
    def _spread(self) -> float:
        """The weight of v in each view."""
        return self.variance / 2.0 if self.form == "released" else self.variance

    def _view_value(self, z: Array) -> float:
        _, std, off = self._moments(z)
        return float(
            self._spread * np.mean(np.maximum(0.0, self.target_std - std))
            + self.covariance * np.sum(off**2) / z.shape[1]
        )

    def _view_gradient(self, z: Array) -> Array:
        centred, std, off = self._moments(z)
        samples, width = z.shape
        by_std = np.where(std < self.target_std, -1.0, 0.0) / width
        by_variance = by_std * centred / (std * (samples - 1))
        by_covariance = 4.0 * centred @ off / (width * (samples - 1))
        return self._spread * by_variance + self.covariance * by_covariance

    def _moments(self, z: Array) -> tuple[Array, Array, Array]:
        _several(z, "VICReg")
        centred = z - z.mean(axis=0)
        cov = centred.T @ centred / (len(z) - 1)
        return centred, np.sqrt(np.diag(cov) + self.epsilon), cov - np.diag(np.diag(cov))


@dataclass(frozen=True)
class BarlowTwins:
    """sum_i (1 - C_ii)^2 + weight sum_{i != j} C_ij^2, C the cross-correlation of both views.

    Zbontar et al. 2021 (arXiv 2103.03230), eqs. 1-2. Standardised per unit: not invariant.
    """

    weight: float = 5e-3
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.positive, "epsilon")
        _keep_numbers(self)

    def _standardised(self, z: Array) -> tuple[Array, Array]:
        _several(z, "Barlow Twins")
        centred = z - z.mean(axis=0)
        std = np.sqrt(np.mean(centred**2, axis=0) + self.epsilon)
        return centred / std, std

    def value(self, z: Array, z_view: Array) -> float:
        a, _ = self._standardised(z)
        b, _ = self._standardised(z_view)
        c = a.T @ b / len(z)
        on = np.diag(c)
        return float(np.sum((1.0 - on) ** 2) + self.weight * (np.sum(c**2) - np.sum(on**2)))

    def gradients(self, z: Array, z_view: Array) -> tuple[Array, Array]:
        a, std_a = self._standardised(z)
        b, std_b = self._standardised(z_view)
        c = a.T @ b / len(z)
        by_c = 2.0 * self.weight * c
        np.fill_diagonal(by_c, -2.0 * (1.0 - np.diag(c)))
        by_a, by_b = b @ by_c.T / len(z), a @ by_c / len(z)

        def through(by: Array, standardised: Array, std: Array) -> Array:
            mean = by.mean(axis=0)
            return (by - mean - standardised * np.mean(by * standardised, axis=0)) / std

        return through(by_a, a, std_a), through(by_b, b, std_b)


@dataclass(frozen=True)
class LPL:
    """Latent predictive learning: prediction - Hebbian variance + decorrelation, in each view.

    Three forms of predictive p(z, z_view) + hebbian h(z) + decorrelation d(z), with var and C the
    unbiased variances (plus epsilon) and covariances of the units. Halvagal and Zenke 2023 (Nat.
    Neurosci. 26, 1906) print one form and released another; they balance prediction and variance
    differently, so no form is a multiple of another. Terms are per unit: not invariant.

    Attributes:
        predictive, hebbian, decorrelation: the weights of the three terms.
        epsilon: what is added to a variance under the logarithm.
        form: "released", as the authors' ``models/module.py``: p is the mean square of z - z_view
            over samples and units, and gradients run into both views; h = -mean log var and d =
            the mean of C_ij^2 over pairs of different units, each the mean over both views.
            "article", the mean over both views as the present one: p is half the mean square of
            z - stop(z_view), so each view predicts the other, which is constant; h is half of the
            released one, as in the learning rule (eqs. 1 and 7, whose constant alpha is then
            samples/(samples - 1)); d is eq. 6 as printed, the sum over samples of
            (z_i - mean_i)^2 (z_j - mean_j)^2 over (samples - 1) and pairs, means constant. It does
            not vanish for independent units. The authors' erratum replaces eq. 6 by the released d.
            "mixed": each view predicts the other with half of the released p, h and d are sums over
            both views. Its updates are twice those of "released" with a quarter of its
            ``predictive``.

    Raises:
        ValueError: an unknown form, a number that is not finite, or an epsilon that is not
            positive.
    """

    predictive: float = 1.0
    hebbian: float = 1.0
    decorrelation: float = 10.0
    epsilon: float = 1e-4
    form: LPLForm = "mixed"

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.positive, "epsilon")
        inputs.keep(self, inputs.finite, "predictive", "hebbian", "decorrelation")
        _check_form(self.form, LPLForm)

    def value(self, z: Array, z_view: Array) -> float:
        predictive = float(np.mean((z - z_view) ** 2))
        both = self._view_value(z) + self._view_value(z_view)
        if self.form == "article":
            return 0.5 * (self.predictive * predictive + both)
        return self.predictive * predictive + (0.5 * both if self.form == "released" else both)

    def gradients(self, z: Array, z_view: Array) -> tuple[Array, Array]:
        # Where each view predicts the other, detached, both with half the weight, the sum of both
        # halves has half the gradient of the attached square.
        pull = self.predictive * (z - z_view) / z.size
        first, second = self._view_gradient(z), self._view_gradient(z_view)
        if self.form == "mixed":
            return pull + first, -pull + second
        if self.form == "released":
            return 2.0 * pull + 0.5 * first, -2.0 * pull + 0.5 * second
        return 0.5 * (pull + first), 0.5 * (-pull + second)

    def _view_value(self, z: Array) -> float:
        centred, variance, off = self._moments(z)
        pairs_of_units = z.shape[1] * max(1, z.shape[1] - 1)
        spread = -self.hebbian * np.mean(np.log(variance))
        if self.form != "article":
            return float(spread + self.decorrelation * np.sum(off**2) / pairs_of_units)
        square = centred**2
        together = np.sum(square.sum(axis=1) ** 2 - np.sum(square**2, axis=1))
        printed = together / ((len(z) - 1) * pairs_of_units)
        return float(0.5 * spread + self.decorrelation * printed)

    def _view_gradient(self, z: Array) -> Array:
        centred, variance, off = self._moments(z)
        samples, width = z.shape
        by_variance = -2.0 * centred / (variance * (samples - 1) * width)
        pairs_of_units = width * max(1, width - 1)
        scale = 4.0 / ((samples - 1) * pairs_of_units)
        if self.form == "article":
            square = centred**2
            printed = scale * centred * (square.sum(axis=1, keepdims=True) - square)
            return 0.5 * self.hebbian * by_variance + self.decorrelation * printed
        by_covariance = 4.0 * centred @ off / ((samples - 1) * pairs_of_units)
        return self.hebbian * by_variance + self.decorrelation * by_covariance

    def _moments(self, z: Array) -> tuple[Array, Array, Array]:
        _several(z, "LPL")
        centred = z - z.mean(axis=0)
        cov = centred.T @ centred / (len(z) - 1)
        return centred, np.diag(cov) + self.epsilon, cov - np.diag(np.diag(cov))


def _check_form(form: Any, forms: Any) -> None:
    if not inputs.is_one_of(form, get_args(forms)):
        raise ValueError(f"form must be one of {', '.join(get_args(forms))}, got {form!r}.")


def _directions(z: Array) -> tuple[Array, Array]:
    """z / ||z|| row by row, 0 for a dead sample, and the norms (samples, 1)."""
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    return z / np.where(norms > 0, norms, 1.0), norms


def _through_direction(by_unit: Array, unit: Array, norms: Array) -> Array:
    """The derivative by z from that by z / ||z||; a dead sample has no direction, so none."""
    radial = np.sum(by_unit * unit, axis=1, keepdims=True)
    return np.where(norms > 0, by_unit - radial * unit, 0.0) / np.where(norms > 0, norms, 1.0)


def _partners(n: int) -> NDArray[np.int64]:
    return np.concatenate([np.arange(n, 2 * n), np.arange(n)])


def _keep_numbers(loss: Any) -> None:
    """Raise unless all fields are finite numbers."""
    inputs.keep(loss, inputs.finite, *(each.name for each in fields(loss)))


def _several(z: Array, what: str) -> None:
    if len(z) < 2:
        raise ValueError(f"{what} estimates a covariance: it needs at least 2 samples, got 1.")
