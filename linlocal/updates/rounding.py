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

from collections.abc import Sequence
from functools import cached_property
from typing import cast

import numpy as np

from linlocal.inputs import Array, Index
from linlocal.losses import SupervisedLoss, ViewLoss
from linlocal.updates.layer_losses import LayerLosses, Scored
from linlocal.updates.signals import Signals

EPS = float(np.finfo(np.float64).eps)


class Rounding:
    """The rounding errors of the updates on one network and batch.

    Args:
        signals: the error signals.
    """

    def __init__(self, signals: Signals) -> None:
        self.signals, network = signals, signals.network
        self.size = [row_norms(z) for z in signals.activities.z]
        # The relative errors of the activities, sample by sample.
        self.activities = [np.full_like(self.size[0], EPS)]
        # By layer; the input has none.
        self.gains = [0.0, *(float(np.linalg.norm(network.matrix(l))) for l in network.layers)]
        for l in network.layers:
            passed = self.activities[-1] / np.sqrt(network.widths[l - 1]) + EPS
            relative = ratio(passed * self.gains[l] * self.size[l - 1], self.size[l])
            self.activities.append(np.maximum(relative, self.activities[-1]))

    def of_local(self, layer: int) -> float:
        """The largest norm that rounding alone can give the local update of a layer."""
        signals = self.signals
        source = signals.teacher(layer)
        errors: Sequence[Array] = [signals.local_error(source)]
        if source > layer:
            passed = signals.network.backpropagate(signals.activities, errors[0], source=source)
            errors = passed[layer - 1 :]
        return self._of_update(layer, self._of_error(signals.losses[source - 1], source), errors)

    def of_global(self, layer: int) -> float:
        """The largest norm that rounding alone can give the global update of a layer."""
        return self._of_update(layer, self._of_goal, self.signals.global_errors[layer - 1 :])

    @cached_property
    def _of_goal(self) -> Array:
        """The error of the goal's error signal, sample by sample."""
        signals, top = self.signals, self.signals.network.depth
        if signals.top is not None:
            return self._of_error(signals.top, top)
        goal = cast(SupervisedLoss, signals.goal)
        error = goal.gradient(signals.activities.z[-1])
        return row_norms(goal.gradient(self._moved(top)) - error) + EPS * row_norms(error)

    def _of_update(self, layer: int, noise: Array, errors: Sequence[Array]) -> float:
        """The error of an update.

        Args:
            layer: l.
            noise: the error of the last of the error signals.
            errors: the error signals of the layers from l upwards.
        """
        sizes, widths = [row_norms(error) for error in errors], self.signals.network.widths
        for l in range(len(errors) - 1, 0, -1):
            above = layer + l
            relative = ratio(noise, sizes[l])
            noise = self.gains[above] * (noise / np.sqrt(widths[above]) + EPS * sizes[l])
            noise = np.maximum(noise, relative * sizes[l - 1])
        below, relative = self.size[layer - 1], self.activities[layer - 1]
        return float(noise @ below + sizes[0] @ (below * (EPS + relative)))

    def _of_error(self, losses: LayerLosses, layer: int) -> Array:
        """The error of the error signal of a layer's own loss, sample by sample."""
        size = self.size[layer]
        if losses.rule.kind == "goodness":
            return np.abs(losses.goodness_matrix(layer)) @ (size * self.activities[layer])
        if losses.rule.kind == "view":
            return self._of_views(losses, layer)
        noise = np.zeros_like(size)
        tops = losses.scored(losses.network.depth)
        for here, top in zip(losses.scored(layer), tops, strict=True):
            anchors = np.abs(here.coefficients) @ self._of_sent(losses, layer, here, top)
            noise[here.direction.anchor_rows] += anchors
        return noise

    def _moved(self, layer: int) -> Array:
        """The activities of a layer, moved by their rounding errors."""
        z = self.signals.activities.z[layer]
        sizes = (self.activities[layer] * self.size[layer])[:, None] / np.sqrt(z.shape[1])
        return z + sizes * np.random.default_rng(0).standard_normal(z.shape)

    def _of_views(self, losses: LayerLosses, layer: int) -> Array:
        """How far the error signal moves when the activities move by their rounding errors."""
        moved = self._moved(layer)
        first, second = cast(tuple[Index, Index], losses.pairs.views)
        error = np.zeros_like(moved)
        by_views = cast(ViewLoss, losses.rule.loss).gradients(moved[first], moved[second])
        for rows, by_view in zip((first, second), by_views, strict=True):
            np.add.at(error, rows, -by_view)
        own = losses.error(layer)
        return row_norms(error - own) + EPS * row_norms(own)

    def _of_sent(self, losses: LayerLosses, layer: int, here: Scored, top: Scored) -> Array:
        """The error of what each reference sends, B c."""
        rule, projection = losses.rule, here.projection
        reads_top = rule.context in ("top", "both", "each")
        seen = losses.network.depth if reads_top else layer
        relative = self.activities[seen][here.direction.reference_rows]
        if projection is None:
            if rule.projection == "matched" and top.projection is not None:
                relative = relative + EPS * top.projection.cancellation
            return relative * row_norms(here.projected)
        readout = losses.readout(layer)
        through = 1.0 if readout is None else float(np.linalg.norm(readout, 2))
        terms = projection.cancellation * projection.norm * through
        rows = here.direction.anchor_rows
        size = self.size[layer][rows]
        # Against the largest: what is nearly silent adds nearly nothing.
        anchors = np.max(self.activities[layer][rows] * size) / (np.max(size) or 1.0)
        return (relative + anchors) * terms * row_norms(here.contexts)


def row_norms(rows: Array) -> Array:
    """The norm of each row, along the last axis."""
    return np.asarray(np.linalg.norm(rows, axis=-1))


def ratio(error: Array, size: Array) -> Array:
    """A relative error, at most 1; 0 of what is silent, such as all units of a ReLU."""
    safe = np.where(size > 0, size, 1.0)
    return np.where(size > 0, np.minimum(error / safe, 1.0), 0.0)
