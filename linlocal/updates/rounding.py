"""How large an update can be by rounding alone: what is not larger is noise and no update.

A sum whose terms cancel is known up to rel times the sum of the norms of its terms, where rel is
the machine epsilon plus the relative errors of the terms. Here the sums of an update are followed:
activities W z, the projection sum_p beta_p z c^T / lam, the error signal sum_p beta_p B c, what is
backpropagated, e W, and the update sum_k e_k z_k^T itself. A loss of two views, whose terms nobody
knows, is asked how far its gradient moves with the rounding of the activities. An error that passes
through a matrix W grows as noise without a direction does, by ||W||_F / sqrt(its inputs), and no
relative error shrinks.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from linlocal.inputs import Array, Index
from linlocal.losses import ViewLoss
from linlocal.updates.signals import Scored, Signals

EPS = float(np.finfo(np.float64).eps)


class Rounding:
    """The rounding errors of the updates of one rule on one network and batch.

    Args:
        signals: the error signals.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals, network = signals, signals.network
        self.size = [_norms(z) for z in signals.activities.z]
        # The relative errors of the activities, sample by sample.
        self.activities = [np.full_like(self.size[0], EPS)]
        for l in network.layers:
            gain = float(np.linalg.norm(network.matrix(l)))
            passed = self.activities[-1] / np.sqrt(network.widths[l - 1]) + EPS
            terms = passed * gain * self.size[l - 1]
            relative = _ratio(terms, self.size[l])
            self.activities.append(np.maximum(relative, self.activities[-1]))

    def of_local(self, layer: int) -> float:
        """The largest norm that rounding alone can give the local update of a layer."""
        return self._of_update(
            layer, self._of_error(layer), _norms(self.signals.local_error(layer))
        )

    def of_global(self, layer: int) -> float:
        """The largest norm that rounding alone can give the global update of a layer."""
        network, errors = self.signals.network, self.signals.global_errors
        noise = self._of_error(network.depth)
        for l in range(network.depth, layer, -1):
            gain, above = float(np.linalg.norm(network.matrix(l))), _norms(errors[l - 1])
            relative = _ratio(noise, above)
            noise = gain * (noise / np.sqrt(network.widths[l]) + EPS * above)
            noise = np.maximum(noise, relative * _norms(errors[l - 2]))
        return self._of_update(layer, noise, _norms(errors[layer - 1]))

    def _of_update(self, layer: int, noise: Array, error: Array) -> float:
        below = self.size[layer - 1]
        return float(noise @ below + error @ (below * (EPS + self.activities[layer - 1])))

    def _of_error(self, layer: int) -> Array:
        """The error of the local error signal of a layer, sample by sample."""
        signals, size = self.signals, self.size[layer]
        if signals.rule.kind == "goodness":
            return np.abs(signals.goodness_matrix(layer)) @ (size * self.activities[layer])
        if signals.rule.kind == "view":
            return self._of_views(layer)
        noise = np.zeros_like(size)
        tops = signals.scored(signals.network.depth)
        for here, top in zip(signals.scored(layer), tops, strict=True):
            anchors = np.abs(here.coefficients) @ self._of_sent(layer, here, top)
            noise[here.direction.anchor_rows] += anchors
        return noise

    def _of_views(self, layer: int) -> Array:
        """How far the error signal moves when the activities move by their rounding errors.

        The terms of a loss of two views are its own, so it is asked.
        """
        signals, z = self.signals, self.signals.activities.z[layer]
        first, second = cast(tuple[Index, Index], signals.pairs.views)
        sizes = (self.activities[layer] * self.size[layer])[:, None] / np.sqrt(z.shape[1])
        moved = z + sizes * np.random.default_rng(0).standard_normal(z.shape)
        error = np.zeros_like(z)
        by_views = cast(ViewLoss, signals.rule.loss).gradients(moved[first], moved[second])
        for rows, by_view in zip((first, second), by_views, strict=True):
            np.add.at(error, rows, -by_view)
        own = signals.local_error(layer)
        return _norms(error - own) + EPS * _norms(own)

    def _of_sent(self, layer: int, here: Scored, top: Scored) -> Array:
        """The error of what each reference sends, B c."""
        rows = here.direction.reference_rows
        seen = max(self.signals.network.depth, layer) if self._reads_top else layer
        relative = self.activities[seen][rows]
        projection = here.projection
        if projection is None:
            if self.signals.rule.projection == "matched" and top.projection is not None:
                relative = relative + EPS * top.projection.cancellation
            return relative * _norms(here.projected)
        readout = self.signals.readout(layer)
        through = 1.0 if readout is None else float(np.linalg.norm(readout, 2))
        terms = projection.cancellation * float(np.linalg.norm(projection.matrix)) * through
        anchors = np.max(self.activities[layer][here.direction.anchor_rows])
        return (relative + anchors) * terms * _norms(here.contexts)

    @property
    def _reads_top(self) -> bool:
        return self.signals.rule.context in ("top", "both", "each")


def _norms(rows: Array) -> Array:
    """The norm of each row."""
    return np.asarray(np.linalg.norm(rows, axis=1))


def _ratio(error: Array, size: Array) -> Array:
    """A relative error; 1 where there is an error and nothing else, 0 where there is neither."""
    safe = np.where(size > 0, size, 1.0)
    return np.where(size > 0, np.minimum(error / safe, 1.0), (error > 0).astype(np.float64))
