"""The projections B_l of all layers, and how near each is to what backpropagation would send."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.networks import DeepLinear, Network
from linlocal.pairs import Pairs
from linlocal.rules import JudgedContext, Rule
from linlocal.threads import one_if_small
from linlocal.updates.layer_losses import LayerLosses
from linlocal.updates.signals import Signals
from linlocal.vocabulary import described

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, eq=False)
class Projections:
    """The projections of all layers; see `projections`.

    Attributes:
        matrices: ``matrices[l - 1][d]`` is B_l of view direction d, (read-out width, context
            width); the M of B_l = V_l^T M V_l under the metric penalty. With context "each", those
            of the same and of the top layer follow each other in each direction. They can be given
            to ``rules.Given``.
    """

    matrices: tuple[tuple[Array, ...], ...]
    _losses: LayerLosses

    __repr__ = inputs.brief

    @cached_property
    def alignment(self) -> xr.Dataset:
        """The distance of B_l from V_l^T B_L V_l or V_l^T B_L: *projection alignment*.

        Where it is 0, the local update is the global one for every loss (statement 1). Pooling and
        the read-out of the metric penalty count as parts of B_l. With context "both" half of each
        of the two is compared with.

        Returns:
            A Dataset over ``layer`` = 1..L and ``direction`` = 0, 1, ... (and within it the two
            contexts of "each") with

            * ``cosine``: the cosine of B_l and T_l = V_l^T B_L V_l, as vectors;
            * ``relative_distance``: ||B_l - T_l|| / ||T_l||;
            * ``multiple``: s, the multiple of T_l that is nearest to B_l;
            * ``distance_of_multiple``: ||B_l - s T_l|| / ||B_l||;
            * ``norm_ratio``: ||B_l|| / ||T_l||. All are NaN where a norm that they divide by is 0.

        Raises:
            ValueError: the network has no downstream map, because it is not linear.
        """
        import xarray as xr

        losses = self._losses
        network = losses.network
        if not isinstance(network, DeepLinear):
            raise ValueError(
                "Projections are compared by the downstream map of a linear network, got a "
                f"{type(network).__name__}; their matrices are known all the same."
            )
        columns: dict[str, list[list[float]]] = {}
        for l in network.layers:
            rows = [
                _aligned(self._whole(l, number), self._carried_down(l, number))
                for number in range(len(self.matrices[l - 1]))
            ]
            for name in rows[0]:
                columns.setdefault(name, []).append([row[name] for row in rows])
        return described(
            xr.Dataset(
                {name: (("layer", "direction"), values) for name, values in columns.items()},
                coords={"layer": list(network.layers), "direction": range(len(self.matrices[0]))},
                attrs={"rule": losses.rule.name, "projection": losses.rule.projection_name},
            ),
            "projections",
        )

    def _context(self, number: int) -> JudgedContext:
        contexts = self._losses.rule.judged_contexts
        return contexts[number % len(contexts)]

    def _readout(self, layer: int) -> Array:
        readout = self._losses.readout(layer)
        return np.eye(self._losses.network.widths[layer]) if readout is None else readout

    def _whole(self, layer: int, number: int) -> Array:
        """B_l between activities themselves, so that u = z_l^T B_l c."""
        depth, context = self._losses.network.depth, self._context(number)
        here, top = self._readout(layer), self._readout(depth)
        left = here.T @ self.matrices[layer - 1][number]
        if layer == depth or context == "top":
            return left @ top
        if context == "same":
            return left @ here
        return np.hstack([left[:, : len(here)] @ here, left[:, len(here) :] @ top])

    def _carried_down(self, layer: int, number: int) -> Array:
        """V_l^T B_L V_l, V_l^T B_L, or half of each."""
        network = cast(DeepLinear, self._losses.network)
        down, context = network.downstream(layer), self._context(number)
        sent = down.T @ self._whole(network.depth, number)
        if layer == network.depth or context == "top":
            return sent
        return sent @ down if context == "same" else np.hstack([sent @ down, sent]) / 2.0


def projections(network: Network, pairs: Pairs, rule: Rule) -> Projections:
    """The projection B_l of every layer and view direction, with its distance from V_l^T B_L V_l.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
        rule: a rule of scored pairs, whatever its projection: optimal, fixed, given or trained.

    Returns:
        ``.matrices`` and ``.alignment``.

    Raises:
        ValueError, ConvergenceError: as `linlocal.local_update`.
        TypeError: the rule has no projections.
    """
    inputs.instance(rule, Rule, "rule", "a `Rule`, made by rules.CLAPP() or its like")
    if rule.kind != "pair":
        raise TypeError(f"{rule.name} has no projections: its loss is of {rule.kind}s.")
    signals = Signals(network, pairs, rule)
    losses = signals.losses[0]
    with one_if_small(signals.size):
        matrices = tuple(
            tuple(inputs.frozen(s.matrix) for s in losses.scored(l)) for l in network.layers
        )
    return Projections(matrices, losses)


def _aligned(b: Array, carried: Array) -> dict[str, float]:
    size, wanted = float(np.linalg.norm(b)), float(np.linalg.norm(carried))
    product = float(np.sum(b * carried))

    def over(value: float, norm: float) -> float:
        return value / norm if norm > 0 else np.nan

    multiple = over(product, wanted**2)
    return {
        "cosine": over(product, size * wanted),
        "relative_distance": over(float(np.linalg.norm(b - carried)), wanted),
        "multiple": multiple,
        "distance_of_multiple": over(float(np.linalg.norm(b - multiple * carried)), size),
        "norm_ratio": over(size, wanted),
    }
