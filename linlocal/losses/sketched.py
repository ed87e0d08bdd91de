"""VISReg: variance, invariance and a sketch of the shape of the distribution."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import scipy.special

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.losses.normality import unit_vectors


@dataclass(frozen=True)
class VISReg:
    """(1 - trade_off) mean (z_v - mean over views)^2 + trade_off (mean over views of R(z_v)).

    R = scale S + shape P + center C of one view, with the mean m_j and the standard deviation s_j
    (over samples, not below 1e-6) of each unit j:

    * S, the mean over units of (s_j - 1)^2;
    * C, the mean over units of m_j^2;
    * P, the mean over slices a and ranks k of (k-th largest of a.y - q_k)^2, y_j = (z_j - m_j)/s_j,
      q_k the normal quantile of k/(samples + 1): a squared sliced Wasserstein distance to the
      normal distribution. No gradient runs through s_j in it, as in the released code.

    Wu, Balestriero and Levine 2026 (arXiv 2606.02572), as their code computes it for two views.
    Units are standardised one by one, so it is not invariant under rotations, for no number of
    slices; P alone is invariant under shifts and scalings of units. Where a unit hardly varies, P
    pushes it with up to 1e6 times the force that others feel.

    Attributes:
        trade_off: the weight of R against that of invariance, 0.9 in the released configuration.
        scale, shape, center: the weights of the three terms.
        slices: the number of random slices; the released configuration has 4096.
        seed: seeds the slices, which are the same in each call (a training draws them anew with
            ``NetworkRule(rule=..., fresh_slices=True)`` of `linlocal.analysis.local_losses`).

    Raises:
        ValueError: fewer than 1 slice, or a number that is not finite.
    """

    trade_off: float = 0.9
    scale: float = 1.0
    shape: float = 1.0
    center: float = 1.0
    slices: int = 256
    seed: int = 0

    floor: ClassVar[float] = 1e-6
    """The least standard deviation of a unit, below which it counts as this large."""

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.finite, "trade_off", "scale", "shape", "center")
        inputs.keep(self, partial(inputs.whole, least=1), "slices")
        inputs.keep(self, partial(inputs.whole, least=0), "seed")

    def value(self, z: Array, z_view: Array) -> float:
        pull = float(np.mean((z - z_view) ** 2)) / 4.0
        regularised = (self._view_value(z) + self._view_value(z_view)) / 2.0
        return (1.0 - self.trade_off) * pull + self.trade_off * regularised

    def gradients(self, z: Array, z_view: Array) -> tuple[Array, Array]:
        pull = (1.0 - self.trade_off) * (z - z_view) / (2.0 * z.size)
        half = self.trade_off / 2.0
        return pull + half * self._view_gradient(z), -pull + half * self._view_gradient(z_view)

    def directions(self, width: int) -> Array:
        """The slices of a layer, (slices, width).

        Args:
            width: the width of the layer.

        Raises:
            ValueError, TypeError: this is no width.
        """
        return unit_vectors(self.slices, inputs.whole(width, "width", 1), self.seed)

    def quantiles(self, samples: int) -> Array:
        """q_k, the normal quantiles of k/(samples + 1), (samples,).

        Args:
            samples: the number of samples.

        Raises:
            ValueError, TypeError: this is no number of samples.
        """
        samples = inputs.whole(samples, "samples", 1)
        return np.asarray(scipy.special.ndtri(np.arange(1.0, samples + 1) / (samples + 1)))

    def _view_value(self, z: Array) -> float:
        mean, centred, std = _moments(z, self.floor)
        sliced = np.sort(centred / std @ self.directions(z.shape[1]).T, axis=0)
        return float(
            self.scale * np.mean((std - 1.0) ** 2)
            + self.shape * np.mean((sliced - self.quantiles(len(z))[:, None]) ** 2)
            + self.center * np.mean(mean**2)
        )

    def _view_gradient(self, z: Array) -> Array:
        mean, centred, std = _moments(z, self.floor)
        samples, width = z.shape
        directions = self.directions(width)
        by_center = 2.0 * mean / (width * samples)
        by_std = np.where(std > self.floor, 2.0 * (std - 1.0) / width, 0.0)
        by_scale = by_std * centred / (samples * std)
        sliced = centred / std @ directions.T
        order = np.argsort(sliced, axis=0, kind="stable")
        apart = np.take_along_axis(sliced, order, axis=0) - self.quantiles(samples)[:, None]
        by_sliced = np.empty_like(sliced)
        np.put_along_axis(by_sliced, order, 2.0 * apart / sliced.size, axis=0)
        by_unit = by_sliced @ directions
        by_shape = (by_unit - by_unit.mean(axis=0)) / std
        return self.scale * by_scale + self.shape * by_shape + self.center * by_center


def _moments(z: Array, floor: float) -> tuple[Array, Array, Array]:
    """The mean, the centred activities and the standard deviation of each unit."""
    if len(z) < 2:
        raise ValueError(
            "VISReg estimates standard deviations: it needs at least 2 samples, got 1."
        )
    mean = z.mean(axis=0)
    centred = z - mean
    return mean, centred, np.maximum(np.sqrt(np.mean(centred**2, axis=0)), floor)
