"""The error signals of one rule on one network and batch: local, global, and what lies between.

An *error signal* (error, for short) is minus the derivative of a loss by the activities, (samples,
width). The update of a weight is the error signal, times the derivative of the nonlinearity, times
the activities below (`Network.update`), so rules differ in their error signals only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, cast

import numpy as np

from linlocal import inputs
from linlocal.inputs import Array, Index
from linlocal.losses import Goodness, PairLoss, ViewLoss
from linlocal.networks import DeepLinear, Masks, Network, average_pooling
from linlocal.pairs import Direction, Pairs
from linlocal.projection import Projection, Rows, optimal_projection
from linlocal.rules import JudgedContext, Rule

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
    """

    direction: Direction
    coefficients: Array | csr_array
    projected: Array
    contexts: Array
    projection: Projection | None

    @property
    def error(self) -> Array:
        """The local error signal at the anchors, (anchors, width_l)."""
        return np.asarray(self.coefficients @ self.projected)


class Signals:
    """All error signals of ``rule``; each is computed when first asked for, and kept.

    Args:
        network: a `DeepLinear` or `DeepReLU`.
        pairs: the batch.
        rule: the local rule; its top-layer loss is the global one.

    Raises:
        ValueError: network, pairs and rule do not go together; the message says why.
        TypeError: one of the three is of another type.
    """

    def __init__(self, network: Network, pairs: Pairs, rule: Rule) -> None:
        check_kinds(network, pairs, rule)
        self.network, self.pairs, self.rule = network, pairs, rule
        self.penalty = rule.penalty
        self.activities = network.activities(pairs.samples)
        self._scored: dict[int, tuple[Scored, ...]] = {}
        self._seen: dict[int, Array] = {}
        self._rows: dict[tuple[int, bytes], Rows] = {}
        self._check()

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
            for l in network.layers:
                if network.map_shape(l) is None and rule.pooling[l - 1] != 1:
                    raise ValueError(f"Layer {l} has no feature map to pool; its window must be 1.")
        needs_linear = rule.projection == "matched" or self.penalty.metric == "downstream"
        if needs_linear and not isinstance(network, DeepLinear):
            raise ValueError(
                "A matched projection and the metric penalty need one downstream map for all "
                f"samples: a linear network, got a {type(network).__name__}."
            )
        onto_top = rule.context == "top" and rule.projection == "identity"
        if onto_top and len(set(network.widths[1:])) > 1:
            raise ValueError(
                "An identity projection onto the top layer needs layers of equal width, got "
                f"{list(network.widths[1:])}."
            )

    @property
    def size(self) -> int:
        """The largest number of rows of a matrix in these computations."""
        return max(*self.network.widths, *(d.num_pairs for d in self.pairs.directions))

    # -- read-outs and contexts ----------------------------------------------------------------

    def _pooling(self, layer: int) -> Array | None:
        shape = self.network.map_shape(layer)
        if self.rule.pooling is None or shape is None or self.rule.pooling[layer - 1] == 1:
            return None
        return average_pooling(shape, self.rule.pooling[layer - 1])

    def readout(self, layer: int) -> Array | None:
        """The map P_l through which a projection sees layer l; None for the identity.

        It pools the feature map. Under the metric penalty, where B = V^T M V, it is the downstream
        map V_l followed by the pooling of the top layer.

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

    def _read(self, layer: int) -> Array:
        """P_l z_l for all samples."""
        if layer not in self._seen:
            readout, z = self.readout(layer), self.activities.z[layer]
            self._seen[layer] = z if readout is None else z @ readout.T
        return self._seen[layer]

    def _prepared(self, layer: int, rows: Index) -> Rows:
        """The read-out activities of some samples, shared by all problems that use these rows."""
        key = (layer, rows.tobytes())
        if key not in self._rows:
            self._rows[key] = Rows(self._read(layer)[rows])
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
            return self._read(top)
        if context == "both":
            return np.hstack([self._read(layer), self._read(top)])
        return self._read(layer)

    # -- local errors --------------------------------------------------------------------------

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
        z = self._read(layer)[direction.anchor_rows]
        c = self.contexts(layer, context)[direction.reference_rows]
        strength = self.penalty.at(layer, self.network.depth)
        kind = self.rule.projection
        if kind == "optimal" or (kind != "identity" and layer == self.network.depth):
            source = self.network.depth if context == "top" else layer
            twofold = context == "both" and layer != self.network.depth
            solved = optimal_projection(
                self._prepared(layer, direction.anchor_rows),
                c if twofold else self._prepared(source, direction.reference_rows),
                direction,
                loss,
                strength,
            )
            coefficients, projected = solved.coefficients, solved.projected
        else:
            solved = None
            matrix = self._fixed_matrix(layer, number, context, z.shape[1], c.shape[1])
            projected = c @ matrix.T
            if kind == "matched":
                # The scores are those of the top layer, so the slopes are too, even at a kink.
                coefficients = self.scored(self.network.depth)[number].coefficients
            else:
                scores = direction.scores(z, projected)
                contrasts = loss.contrasts(direction)
                by_score = contrasts.adjoint(loss.gradient(contrasts.apply(scores), direction))
                coefficients = direction.coefficient_matrix(-by_score)
        if readout is not None:
            projected = projected @ readout
        return Scored(direction, coefficients, projected, c, solved)

    def _fixed_matrix(
        self, layer: int, number: int, context: JudgedContext, width: int, context_width: int
    ) -> Array:
        if self.rule.projection == "identity":
            return np.eye(width)
        if self.rule.projection == "random":
            rng = np.random.default_rng([self.rule.seed, layer, number])
            return rng.uniform(-1.0, 1.0, (width, context_width)) / np.sqrt(width)
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

    def local_error(self, layer: int) -> Array:
        """The local error signal: minus the derivative of layer l's loss by z_l.

        Returns:
            (samples, width_l).
        """
        layer = inputs.layer_number(layer, self.network.depth)
        z = self.activities.z[layer]
        if self.rule.kind == "pair":
            scored = self.scored(layer)
            return self._spread(layer, scored, [s.error for s in scored])
        if self.rule.kind == "goodness":
            return self.goodness_matrix(layer) @ z
        first, second = cast(tuple[Index, Index], self.pairs.views)
        by_first, by_second = cast(ViewLoss, self.rule.loss).gradients(z[first], z[second])
        error = np.zeros_like(z)
        np.add.at(error, first, -by_first)
        np.add.at(error, second, -by_second)
        return error

    def _spread(self, layer: int, scored: Sequence[Scored], errors: Sequence[Array]) -> Array:
        """The error signals at the anchors of each entry, added up in rows of all samples."""
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

    # -- global errors -------------------------------------------------------------------------

    @cached_property
    def global_errors(self) -> tuple[Array, ...]:
        """The top layer's error signal, backpropagated: errors[l - 1] is (samples, width_l)."""
        return self.backpropagated("sample")

    def backpropagated(self, masks: Masks) -> tuple[Array, ...]:
        """`global_errors`, with other masks downstream of each layer.

        Args:
            masks: "sample" keeps the masks, "batch" averages them over the batch, and "none"
                removes them.
        """
        top = self.local_error(self.network.depth)
        return self.network.backpropagate(self.activities, top, masks)

    # -- between local and global --------------------------------------------------------------

    def mismatch_errors(self, layer: int) -> dict[str, Array] | None:
        """The difference of a layer's error signals, global - local, as a sum of three terms.

        Three steps lead from the local error signal to the global one. Each step replaces one
        quantity of the layer by that of the top layer, and each term is what its step adds:

        local  =   A_l [C_l C_l^T] A_l^T Z_l / lam_l
        step 1 = s A_L [C_l C_l^T] A_L^T Z_l              "dual": the dual variables
        step 2 = t A_L [C_L C_L^T] A_L^T Z_l              "context": the context kernel
        global =   A_L [C_L C_L^T] A_L^T Z_L V_l / lam_L  "metric": the downstream map, twice

        A is the matrix of the slopes beta (`Scored.coefficients`). The factors s and t bring each
        step as near as possible to the one before it. Quantities that differ by a factor only
        (conformal maps, rescaled penalties) thus count as equal, no term is larger than the
        updates themselves, and the difference in scale remains in the metric term.

        A fixed projection takes the place of [C C^T] A^T Z, so its context term is zero. So is
        that of a goodness, which has no context.

        Returns:
            The terms by the names "dual", "context" and "metric", each (samples, width_l). None
            for losses of two views, which have no dual form.
        """
        layer = inputs.layer_number(layer, self.network.depth)
        if self.rule.kind == "view":
            return None
        local, global_ = self.local_error(layer), self.global_errors[layer - 1]
        if self.rule.kind == "goodness":
            dual = self.goodness_matrix(self.network.depth) @ self.activities.z[layer]
            context = dual
        else:
            dual, context = self._hybrids(layer)
        dual = _nearest_multiple(dual, local)
        context = _nearest_multiple(context, dual)
        return {"dual": dual - local, "context": context - dual, "metric": global_ - context}

    def _hybrids(self, layer: int) -> tuple[Array, Array]:
        """The error signals after step 1 and step 2, up to a factor."""
        readout, read = self.readout(layer), self._read(layer)
        dual, context = [], []
        scored = self.scored(layer)
        for here, top in zip(scored, self.scored(self.network.depth), strict=True):
            rows = here.direction.anchor_rows
            push = top.coefficients
            if here.projection is None:
                dual.append(push @ here.projected)
                context.append(dual[-1])
                continue
            left = read[rows] if readout is None else read[rows] @ readout
            sent = push.T @ left
            dual.append(push @ (here.contexts @ (here.contexts.T @ sent)))
            context.append(push @ (top.contexts @ (top.contexts.T @ sent)))
        return self._spread(layer, scored, dual), self._spread(layer, scored, context)


def check_kinds(network: Network, pairs: Pairs, rule: Rule) -> None:
    """Raise a TypeError unless the arguments are a network, pairs and a rule."""
    inputs.instance(network, Network, "network", "a `DeepLinear` or `DeepReLU`")
    inputs.instance(pairs, Pairs, "pairs", "a `Pairs`, made by Pairs.from_views or its like")
    inputs.instance(rule, Rule, "rule", "a `Rule`, made by rules.CLAPP() or its like")


def _nearest_multiple(of: Array, to: Array) -> Array:
    """The multiple of the matrix ``of`` that is nearest to ``to`` in Frobenius norm."""
    size = float(np.sum(of**2))
    return of * (float(np.sum(of * to)) / size) if size > 0 else of
