"""The values of the losses of all layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from linlocal.losses import Goodness, PairLoss, ViewLoss
from linlocal.networks import Network
from linlocal.pairs import Pairs
from linlocal.rules import Rules, Trained
from linlocal.threads import one_if_small
from linlocal.updates.layer_losses import LayerLosses
from linlocal.updates.signals import Signals
from linlocal.vocabulary import described

if TYPE_CHECKING:
    import xarray as xr


def loss_values(network: Network, pairs: Pairs, rule: Rules) -> xr.Dataset:
    """The value of the loss of every layer, with and without the penalty on B.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
        rule: the local rule, or one for each of the layers 1..L.

    Returns:
        A Dataset over ``layer`` = 1..L with

        * ``loss``: the sum of the losses over view directions (and over both contexts of "each");
        * ``penalised_loss``: the same plus lam_l/2 ||B_l||_F^2 of each direction, where B_l is
          optimal or trained: what B_l minimises. Equal to ``loss`` where B_l is fixed or absent.

    Raises:
        ValueError, ConvergenceError: as `linlocal.local_update`.
    """
    import xarray as xr

    signals = Signals(network, pairs, rule)
    with one_if_small(signals.size):
        rows = [_of_layer(signals.losses[l - 1], l) for l in network.layers]
    loss, penalised = zip(*rows, strict=True)
    return described(
        xr.Dataset(
            {"loss": ("layer", list(loss)), "penalised_loss": ("layer", list(penalised))},
            coords={"layer": list(network.layers)},
        ),
        "losses",
    )


def _of_layer(losses: LayerLosses, layer: int) -> tuple[float, float]:
    rule, z, pairs = losses.rule, losses.activities.z[layer], losses.pairs
    if rule.kind == "view":
        assert pairs.views is not None
        first, second = pairs.views
        value = cast(ViewLoss, rule.loss).value(z[first], z[second])
        return value, value
    if rule.kind == "goodness":
        value = 0.0
        for d in pairs.directions:
            judged = z[d.anchor] if rule.context == "self" else z[d.anchor] + z[d.reference]
            value += cast(Goodness, rule.loss).value(np.sum(judged**2, axis=1), d)
        return value, value
    value = penalty = 0.0
    loss = cast(PairLoss, rule.loss)
    for scored in losses.scored(layer):
        d = scored.direction
        u = np.einsum("pi,pi->p", z[d.anchor], scored.projected[d.reference_index])
        value += loss.value(loss.contrasts(d).apply(u), d)
        if scored.projection is not None or isinstance(rule.projection, Trained):
            strength = rule.penalty.at(layer, losses.network.depth)
            penalty += 0.5 * strength * float(np.sum(scored.matrix**2))
    return value, value + penalty
