"""The losses that one rule puts on the layers: scored pairs, projections, error signals.

An *error signal* (error, for short) is minus the derivative of a loss by the activities, (samples,
width). Who teaches whom, and what is backpropagated, is in `updates.signals`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, cast

import numpy as np

from linlocal import inputs
from linlocal.inputs import Array, Index
from linlocal.losses import Goodness, PairLoss, ViewLoss
from linlocal.networks import Activities, DeepLinear, average_pooling
from linlocal.pairs import Direction
from linlocal.projection import Projection, Rows, descend, optimal_projection
from linlocal.rules import (
    Given,
    JudgedContext,
    Rule,
    Trained,
)
from linlocal.updates.shared import Shared

if TYPE_CHECKING:
    from scipy.sparse import csr_array


@dataclass(frozen=True, eq=False)
class Scored:
    """The scored pairs of one view direction in one layer, under one of the rule's contexts.

    Attributes:
        direction: the view direction.
        coefficients: the slopes as a matrix, sum_p beta_p e_a e_r^T, (anchors, references); sparse
            where it is large (`Direction.coefficient_matrix`).
        projected: P_l^T B_l c, what each reference sends to an anchor, (references, width_l).
        contexts: C_l, (references, context width).
        projection: the optimal projection, or None if B_l is fixed.
        fixed: the fixed B_l, or None if it is optimal.
    """

    direction: Direction
    coefficients: Array | csr_array
    projected: Array
    contexts: Array
    projection: Projection | None
    fixed: Array | None = None

    @property
    def matrix(self) -> Array:
        """B_l, (read-out width, context width)."""
        return cast(Array, self.fixed) if self.projection is None else self.projection.matrix

    @property
    def error(self) -> Array:
        """The local error signal at the anchors, (anchors, width_l)."""
        return np.asarray(self.coefficients @ self.projected)

    def through_contexts(self, sent: Array) -> Array:
        """C_l C_l^T sent, (references, any)."""
        if self.projection is not None:
            return self.projection.through_contexts(sent)
        return self.contexts @ (self.contexts.T @ sent)


class LayerLosses:
    """The losses that one rule puts on the layers; what is solved once is kept.

    Args:
        rule: the rule.
        shared: the network and the batch, with what other rules have computed on them.

    Raises:
        ValueError: network, pairs and rule do not go together; the message says why.
    """

    def __init__(self, rule: Rule, shared: Shared) -> None:
        self.network, self.pairs, self.shared = shared.network, shared.pairs, shared
        self.rule, self.penalty = rule, rule.penalty
        self._scored: dict[int, tuple[Scored, ...]] = {}
        self._seen: dict[int, Array] = {}
        self._errors: dict[int, Array] = {}
        # Without a read-out, all rules see the same rows.
        plain = rule.pooling is None and self.penalty.metric == "frobenius"
        self._rows: dict[tuple[int, bytes], Rows] = shared.rows if plain else {}
        self._check()

    @property
    def activities(self) -> Activities:
        """What the forward pass of the batch leaves behind."""
        return self.shared.activities

    def _check(self) -> None:
        rule, network, pairs = self.rule, self.network, self.pairs
        if rule.kind == "view" and pairs.views is None:
            raise ValueError(
                f"{rule.name} compares two views; build the pairs with Pairs.from_views, these "
                "have none."
            )
        if rule.kind != "view":
            pairs.require_negatives(rule.name)
        if rule.context == "self" and any(
            (d.anchor != d.reference).any() for d in pairs.directions
        ):
            raise ValueError(
                f"{rule.name} judges single samples; build the pairs with "
                "Pairs.from_positive_negative (SCFF judges pairs)."
            )
        if rule.pooling is not None:
            if len(rule.pooling) != network.depth:
                raise ValueError(
                    f"pooling has {len(rule.pooling)} windows for {network.depth} layers; give one "
                    "window for each layer."
                )
            if rule.kind != "pair":
                raise ValueError(
                    "Pooling is defined for losses of scored pairs only, and "
                    f"{rule.name} has another loss; leave pooling out."
                )
        needs_linear = rule.projection == "matched" or self.penalty.metric == "downstream"
        if needs_linear and not isinstance(network, DeepLinear):
            raise ValueError(
                "A matched projection and the metric penalty need one downstream map for all "
                f"samples: a linear network, got a {type(network).__name__}."
            )

    def require(self, layer: int) -> None:
        """Raise a ValueError unless the rule can judge this layer."""
        layer = inputs.layer_number(layer, self.network.depth)
        rule, network = self.rule, self.network
        for l in {layer, network.depth}:
            if rule.pooling and rule.pooling[l - 1] != 1 and network.map_shape(l) is None:
                raise ValueError(f"Layer {l} has no feature map to pool; its window must be 1.")
        onto_top = rule.context == "top" and rule.projection == "identity"
        if onto_top and network.widths[layer] != network.widths[-1]:
            raise ValueError(
                "An identity projection onto the top layer needs layers of equal width, got "
                f"{list(network.widths[1:])}."
            )

    # -- read-outs and contexts ----------------------------------------------------------------

    def _pooling(self, layer: int) -> Array | None:
        shape = self.network.map_shape(layer)
        if self.rule.pooling is None or shape is None or self.rule.pooling[layer - 1] == 1:
            return None
        return average_pooling(shape, self.rule.pooling[layer - 1])

    def readout(self, layer: int) -> Array | None:
        """The map P_l through which a projection sees layer l; None for the identity.

        It pools the feature map. Under the metric penalty, where B = V^T M V, it is the downstream
        map V_l followed by the pooling of the top layer. Where biases or links add something else
        to the top layer, z_L = V_l z_l + r, the projection sees that as well: V_l is then the
        linear part of an affine read-out.

        Raises:
            ValueError: no such layer; so do all methods that take one.
        """
        layer = inputs.layer_number(layer, self.network.depth)
        if self.penalty.metric == "frobenius" or layer == self.network.depth:
            return self._pooling(layer)
        down, pool = (
            cast(DeepLinear, self.network).downstream(layer),
            self._pooling(self.network.depth),
        )
        return down if pool is None else pool @ down

    def read(self, layer: int) -> Array:
        """P_l z_l for all samples."""
        layer = inputs.layer_number(layer, self.network.depth)
        if self.penalty.metric == "downstream" and not self._only_through(layer):
            return self.read(self.network.depth)
        if layer not in self._seen:
            readout, z = self.readout(layer), self.activities.z[layer]
            self._seen[layer] = z if readout is None else z @ readout.T
        return self._seen[layer]

    def _only_through(self, layer: int) -> bool:
        return cast(DeepLinear, self.network).only_through(layer)

    def _prepared(self, layer: int, rows: Index) -> Rows:
        """The read-out activities of some samples, shared by all problems that use these rows."""
        key = (layer, rows.tobytes())
        if key not in self._rows:
            self._rows[key] = Rows(self.read(layer)[rows])
        return self._rows[key]

    def contexts(self, layer: int, context: JudgedContext) -> Array:
        """c_l for all samples, as a projection sees them.

        Args:
            layer: l in 1..L.
            context: one of the rule's `Rule.judged_contexts`.
        """
        layer = inputs.layer_number(layer, self.network.depth)
        top = self.network.depth
        if context == "top" or layer == top:
            return self.read(top)
        if context == "both":
            return np.hstack([self.read(layer), self.read(top)])
        return self.read(layer)

    # -- losses and their error signals --------------------------------------------------------

    def scored(self, layer: int) -> tuple[Scored, ...]:
        """The scored pairs in one layer (rules of scored pairs only).

        Returns:
            One entry for each view direction and, within it, for each of the rule's
            `Rule.judged_contexts`.
        """
        layer = inputs.layer_number(layer, self.network.depth)
        if layer not in self._scored:
            judged = product(self.pairs.directions, self.rule.judged_contexts)
            self._scored[layer] = tuple(self._score(layer, i, *j) for i, j in enumerate(judged))
        return self._scored[layer]

    def _score(
        self, layer: int, number: int, direction: Direction, context: JudgedContext
    ) -> Scored:
        loss = cast(PairLoss, self.rule.loss)
        readout = self.readout(layer)
        z = self.read(layer)[direction.anchor_rows]
        c = self.contexts(layer, context)[direction.reference_rows]
        strength = self.penalty.at(layer, self.network.depth)
        kind = self.rule.projection
        at_top = layer == self.network.depth
        if kind == "optimal" or (kind in ("random", "matched") and at_top):
            source = self.network.depth if context == "top" else layer
            twofold = context == "both" and layer != self.network.depth
            solved = optimal_projection(
                self._prepared(layer, direction.anchor_rows),
                c if twofold else self._prepared(source, direction.reference_rows),
                direction,
                loss,
                strength,
            )
            coefficients, projected, fixed = solved.coefficients, solved.projected, None
        else:
            solved = None
            if isinstance(kind, Given):
                matrix = kind.at(layer, number, (z.shape[1], c.shape[1]), self._counted)
            elif isinstance(kind, Trained):
                start = random_projection(self.rule.seed, layer, number, z.shape[1], c.shape[1])
                start *= kind.start == "random"
                matrix = descend(z, c, direction, loss, strength, kind.steps, kind.rate, start)
            else:
                matrix = self._fixed_matrix(layer, number, context, z.shape[1], c.shape[1])
            fixed = matrix
            projected = c @ matrix.T
            if kind == "matched":
                # The scores are those of the top layer, so the slopes are too, even at a kink.
                top = self.scored(self.network.depth)[number]
                coefficients = top.coefficients
                if self.penalty.metric == "frobenius" and not self._only_through(layer):
                    projected = top.projected @ cast(DeepLinear, self.network).downstream(layer)
            else:
                scores = direction.scores(z, projected)
                contrasts = loss.contrasts(direction)
                by_score = contrasts.adjoint(loss.gradient(contrasts.apply(scores), direction))
                coefficients = direction.coefficient_matrix(-by_score)
        if readout is not None:
            projected = projected @ readout
        return Scored(direction, coefficients, projected, c, solved, fixed)

    @property
    def _counted(self) -> tuple[int, int]:
        """The number of layers, and that of the losses of each."""
        of_layer = len(self.pairs.directions) * len(self.rule.judged_contexts)
        return self.network.depth, of_layer

    def _fixed_matrix(
        self, layer: int, number: int, context: JudgedContext, width: int, context_width: int
    ) -> Array:
        if self.rule.projection == "identity":
            return np.eye(width)
        if self.rule.projection == "random":
            return random_projection(self.rule.seed, layer, number, width, context_width)
        if self.penalty.metric == "downstream":
            # Anchors and contexts have already been read out in the top layer.
            top = self.scored(self.network.depth)[number]
            assert top.projection is not None
            matrix = top.projection.matrix
            return np.hstack([matrix, matrix]) / 2.0 if context == "both" else matrix
        network = cast(DeepLinear, self.network)
        down, pool, pool_top = (
            network.downstream(layer),
            self._pooling(layer),
            self._pooling(network.depth),
        )
        if pool is not None:
            raise ValueError(
                "A matched projection sees the whole feature map: pool the top layer only, or "
                "take the metric penalty."
            )
        if pool_top is not None:
            down = pool_top @ down
        top = self.scored(network.depth)[number]
        assert top.projection is not None
        matched = down.T @ top.projection.matrix
        if context == "top":
            return matched
        if context == "both":
            return np.hstack([matched @ down, matched]) / 2.0
        return matched @ down

    def error(self, layer: int) -> Array:
        """Minus the derivative of layer l's loss by z_l.

        Returns:
            (samples, width_l).
        """
        layer = inputs.layer_number(layer, self.network.depth)
        if layer not in self._errors:
            self._errors[layer] = self._error(layer)
            self._errors[layer].setflags(write=False)
        return self._errors[layer]

    def _error(self, layer: int) -> Array:
        z = self.activities.z[layer]
        if self.rule.kind == "pair":
            scored = self.scored(layer)
            return self.spread(layer, [s.error for s in scored])
        if self.rule.kind == "goodness":
            return self.goodness_matrix(layer) @ z
        first, second = cast(tuple[Index, Index], self.pairs.views)
        by_first, by_second = cast(ViewLoss, self.rule.loss).gradients(z[first], z[second])
        error = np.zeros_like(z)
        np.add.at(error, first, -by_first)
        np.add.at(error, second, -by_second)
        return error

    def spread(self, layer: int, errors: Sequence[Array]) -> Array:
        """The error signals at the anchors of each entry of `scored`, added up for all samples."""
        scored = self.scored(layer)
        error = np.zeros_like(self.activities.z[layer])
        for s, anchors in zip(scored, errors, strict=True):
            error[s.direction.anchor_rows] += anchors
        return error

    def goodness_matrix(self, layer: int) -> Array:
        """S with error = S z_l, (samples, samples), for a rule of goodness.

        It exists because a goodness is a function of inner products of the activities.
        """
        layer = inputs.layer_number(layer, self.network.depth)
        z, loss = self.activities.z[layer], cast(Goodness, self.rule.loss)
        total = np.zeros((len(z), len(z)))
        for d in self.pairs.directions:
            judged = z[d.anchor] if self.rule.context == "self" else z[d.anchor] + z[d.reference]
            push = -2.0 * loss.gradient(np.sum(judged**2, axis=1), d)
            ends = [d.anchor] if self.rule.context == "self" else [d.anchor, d.reference]
            for left in ends:
                for right in ends:
                    np.add.at(total, (left, right), push)
        return total


def random_projection(seed: int, layer: int, number: int, width: int, context_width: int) -> Array:
    """The fixed random B of one of the losses of a layer, (width, context width)."""
    rng = np.random.default_rng([seed, layer, number])
    return rng.uniform(-1.0, 1.0, (width, context_width)) / np.sqrt(width)
