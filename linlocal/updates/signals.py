"""Error signals on one network and batch: local, global, and what lies between.

An *error signal* (error, for short) is minus the derivative of a loss by the activities, (samples,
width). The update of a weight is the error signal, times the derivative of the nonlinearity, times
the activities below (`Network.update`), so rules differ in their error signals only.

`LayerLosses` holds the losses that one rule puts on the layers. `Signals` says who teaches whom:
which layer's loss reaches layer l, and through which layers.
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
from linlocal.losses import Goodness, PairLoss, SupervisedLoss, ViewLoss
from linlocal.networks import Activities, DeepLinear, Masks, Network, average_pooling
from linlocal.pairs import Direction, Pairs
from linlocal.projection import Projection, Rows, descend, optimal_projection
from linlocal.rules import (
    Given,
    Goal,
    JudgedContext,
    Rule,
    Rules,
    Trained,
    checked_goal,
    of_each_layer,
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


class Signals:
    """Who teaches layer l, and the error signals that reach it.

    Layer l learns from the loss of its teacher, layer e = min(l + window - 1, L), whose error
    signal is backpropagated through the layers between. The global update of every layer comes from
    the goal, a loss on the top layer. What is solved once is kept.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
        rule: the local rule, or one for each of the layers 1..L.
        window: w in 1..L, the layers from l to its teacher: 1 is local learning, and L is
            backpropagation of the top layer's rule.
        goal: the global loss, a rule or a supervised loss; None takes the rule of the top layer.
        shared: what other rules have computed on this network and batch, if there are others.

    Raises:
        ValueError: the parts do not go together; the message says why.
        TypeError: one of them is of another type.
    """

    def __init__(
        self,
        network: Network,
        pairs: Pairs,
        rule: Rules,
        window: int = 1,
        goal: Goal | None = None,
        shared: Shared | None = None,
    ) -> None:
        check_kinds(network, pairs)
        self.network, self.pairs = network, pairs
        self.rules = of_each_layer(rule, network.depth)
        self.window = inputs.window(window, network.depth)
        self.goal = self.rules[-1] if goal is None else checked_goal(goal)
        self.shared = Shared(network, pairs) if shared is None else shared
        known: dict[int, LayerLosses] = {}

        def losses(layer: int, whose: str, rule: Rule) -> LayerLosses:
            try:
                if id(rule) not in known:
                    known[id(rule)] = LayerLosses(rule, self.shared)
                known[id(rule)].require(layer)
            except ValueError as error:
                several = any(each is not self.goal for each in self.rules)
                raise ValueError(f"{whose}: {error}" if several else str(error)) from None
            return known[id(rule)]

        self.losses = tuple(
            losses(l, f"The rule of layer {l}", self.rules[l - 1]) for l in network.layers
        )
        # The goal's rule on the top layer, None for a supervised loss.
        self.top: LayerLosses | None = None
        if isinstance(self.goal, Rule):
            self.top = losses(network.depth, "The goal", self.goal)
        self._check_matched()

    @property
    def activities(self) -> Activities:
        """What the forward pass of the batch leaves behind."""
        return self.shared.activities

    def _check_matched(self) -> None:
        for l, rule in enumerate(self.rules, start=1):
            if rule.projection == "matched" and rule is not self.goal:
                raise ValueError(
                    f"The matched projection of layer {l} carries down that of the global loss, so "
                    "the rule must be the goal: give one matched rule for all layers, and no goal."
                )

    @property
    def goal_name(self) -> str:
        """The global loss in labels."""
        return self.goal.name if isinstance(self.goal, Rule) else type(self.goal).__name__

    @property
    def size(self) -> int:
        """The largest number of rows of a matrix in these computations."""
        return max(*self.network.widths, *(d.num_pairs for d in self.pairs.directions))

    # -- local ---------------------------------------------------------------------------------

    def teacher(self, layer: int) -> int:
        """e = min(l + window - 1, L), the layer whose loss trains layer l.

        Raises:
            ValueError: no such layer; so do all methods that take one.
        """
        layer = inputs.layer_number(layer, self.network.depth)
        return min(layer + self.window - 1, self.network.depth)

    def scored(self, layer: int) -> tuple[Scored, ...]:
        """The scored pairs of layer l's own loss, see `LayerLosses.scored`."""
        return self.losses[inputs.layer_number(layer, self.network.depth) - 1].scored(layer)

    def local_error(self, layer: int) -> Array:
        """Minus the derivative of layer l's own loss by z_l, (samples, width_l)."""
        return self.losses[inputs.layer_number(layer, self.network.depth) - 1].error(layer)

    def taught_error(self, layer: int) -> Array:
        """The error signal that trains layer l: its teacher's, backpropagated to it.

        Returns:
            (samples, width_l).
        """
        return self._sent_down(self.local_error(self.teacher(layer)), layer)

    def _sent_down(self, error: Array, layer: int) -> Array:
        """An error signal of layer l's teacher, backpropagated to layer l."""
        source = self.teacher(layer)
        if source == layer:
            return error
        return self.network.backpropagate(self.activities, error, source=source)[layer - 1]

    # -- global --------------------------------------------------------------------------------

    @cached_property
    def global_errors(self) -> tuple[Array, ...]:
        """The goal's error signal, backpropagated: errors[l - 1] is (samples, width_l)."""
        return self.backpropagated("sample")

    def backpropagated(self, masks: Masks) -> tuple[Array, ...]:
        """`global_errors`, with other masks downstream of each layer.

        Args:
            masks: "sample" keeps the masks, "batch" averages them over the batch, and "none"
                removes them.
        """
        if self.top is not None:
            error = self.top.error(self.network.depth)
        else:
            error = -cast(SupervisedLoss, self.goal).gradient(self.activities.z[-1])
        return self.network.backpropagate(self.activities, error, masks)

    # -- between local and global --------------------------------------------------------------

    def mismatch_errors(self, layer: int) -> dict[str, Array] | None:
        """The difference of a layer's error signals, global - local, as a sum of three terms.

        Three steps lead from the error signal that trains the layer to the global one. Each step
        replaces one quantity of the teacher e by that of the top layer, and each term is what its
        step adds. With the teacher's error signals sent down by V_{l..e}:

        local  =   A_e [C_e C_e^T] A_e^T Z_e V_{l..e} / lam_e
        step 1 = s A_L [C_e C_e^T] A_L^T Z_e V_{l..e}   "dual": the dual variables
        step 2 = t A_L [C_L C_L^T] A_L^T Z_e V_{l..e}   "context": the context kernel
        global =   A_L [C_L C_L^T] A_L^T Z_L V_l / lam  "metric": the map above the window, twice

        A is the matrix of the slopes beta (`Scored.coefficients`). The factors s and t bring each
        step as near as possible to the one before it. Quantities that differ by a factor only
        (conformal maps, rescaled penalties) thus count as equal, no term is larger than the
        updates themselves, and the difference in scale remains in the metric term.

        A fixed projection takes the place of [C C^T] A^T Z, so its context term is zero. So is
        that of a goodness, which has no context.

        Returns:
            The terms by the names "dual", "context" and "metric", each (samples, width_l). None
            for losses of two views, which have no dual form, and for a goal of another kind than
            the teacher's loss.
        """
        source = self.teacher(layer)
        here, top = self.losses[source - 1], self.top
        if top is None or here.rule.kind == "view" or here.rule.kind != top.rule.kind:
            return None
        local, global_ = self.taught_error(layer), self.global_errors[layer - 1]
        if here.rule.kind == "goodness":
            dual = top.goodness_matrix(self.network.depth) @ self.activities.z[source]
            context = dual
        else:
            dual, context = _hybrids(here, top, source)
        dual = _nearest_multiple(self._sent_down(dual, layer), local)
        context = _nearest_multiple(self._sent_down(context, layer), dual)
        return {"dual": dual - local, "context": context - dual, "metric": global_ - context}


def _hybrids(losses: LayerLosses, goal: LayerLosses, layer: int) -> tuple[Array, Array]:
    """A layer's error signals after step 1 and step 2 of `mismatch_errors`, up to a factor."""
    readout, read = losses.readout(layer), losses.read(layer)
    dual, context = [], []
    above = goal.scored(losses.network.depth)
    # In the top layer all contexts are one, so any entry of the direction serves.
    repeats = len(goal.rule.judged_contexts)
    for i, here in enumerate(losses.scored(layer)):
        top = above[i // len(losses.rule.judged_contexts) * repeats]
        rows = here.direction.anchor_rows
        push = top.coefficients
        if here.projection is None:
            dual.append(push @ here.projected)
            context.append(dual[-1])
            continue
        left = read[rows] if readout is None else read[rows] @ readout
        sent = push.T @ left
        dual.append(push @ here.through_contexts(sent))
        context.append(push @ top.through_contexts(sent))
    return losses.spread(layer, dual), losses.spread(layer, context)


def random_projection(seed: int, layer: int, number: int, width: int, context_width: int) -> Array:
    """The fixed random B of one of the losses of a layer, (width, context width)."""
    rng = np.random.default_rng([seed, layer, number])
    return rng.uniform(-1.0, 1.0, (width, context_width)) / np.sqrt(width)


def check_kinds(network: Network, pairs: Pairs) -> None:
    """Raise a TypeError unless the arguments are a network and pairs."""
    inputs.instance(network, Network, "network", "a `DeepLinear` or `DeepReLU`")
    network.check_formula()
    inputs.instance(pairs, Pairs, "pairs", "a `Pairs`, made by Pairs.from_views or its like")


def _nearest_multiple(of: Array, to: Array) -> Array:
    """The multiple of the matrix ``of`` that is nearest to ``to`` in Frobenius norm."""
    size = float(np.sum(of**2))
    return of * (float(np.sum(of * to)) / size) if size > 0 else of
