"""Error signals on one network and batch: local, global, and what lies between.

An *error signal* (error, for short) is minus the derivative of a loss by the activities, (samples,
width). The update of a weight is the error signal, times the derivative of the nonlinearity, times
the activities below (`Network.update`), so rules differ in their error signals only.

The losses that one rule puts on the layers are in `updates.layer_losses`. `Signals` says who
teaches whom: which layer's loss reaches layer l, and through which layers.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.losses import SupervisedLoss
from linlocal.networks import Activities, Masks, Network
from linlocal.pairs import Pairs
from linlocal.rules import (
    Goal,
    Rule,
    Rules,
    checked_goal,
    of_each_layer,
)
from linlocal.updates.layer_losses import LayerLosses, Scored
from linlocal.updates.shared import Shared

if TYPE_CHECKING:
    pass


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


def check_kinds(network: Network, pairs: Pairs) -> None:
    """Raise a TypeError unless the arguments are a network and pairs."""
    inputs.instance(network, Network, "network", "a `DeepLinear` or `DeepReLU`")
    network.check_formula()
    inputs.instance(pairs, Pairs, "pairs", "a `Pairs`, made by Pairs.from_views or its like")


def _nearest_multiple(of: Array, to: Array) -> Array:
    """The multiple of the matrix ``of`` that is nearest to ``to`` in Frobenius norm."""
    size = float(np.sum(of**2))
    return of * (float(np.sum(of * to)) / size) if size > 0 else of
