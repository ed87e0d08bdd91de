"""Local and global updates, and their comparison layer by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.networks import Masks, Network
from linlocal.pairs import Pairs
from linlocal.rules import Rule
from linlocal.threads import one_if_small
from linlocal.updates.signals import Signals

if TYPE_CHECKING:
    import xarray as xr


def local_update(network: Network, pairs: Pairs, rule: Rule) -> tuple[Array, ...]:
    """-dLoss_l/dW_l of the loss of every layer, with the gradient stopped at the layer's input.

    In the dual form (rules of scored pairs, Frobenius penalty, linear network):
    Delta W_l = lam Z_l^T [alpha_l alpha_l^T * C_l C_l^T] Z_{l-1}.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
        rule: the local rule.

    Returns:
        ``updates[l - 1]`` in the shape of W_l (of the kernel, for a convolution), for l = 1..L.

    Raises:
        ValueError: network, pairs and rule do not go together.
        ConvergenceError: an optimal projection was not found.
    """
    signals = Signals(network, pairs, rule)
    with one_if_small(signals.size):
        return tuple(
            network.update(l, signals.activities, signals.local_error(l)) for l in network.layers
        )


def global_update(
    network: Network, pairs: Pairs, rule: Rule, masks: Masks = "sample"
) -> tuple[Array, ...]:
    """-dLoss_L/dW_l of the top-layer loss, backpropagated (BP-SSL).

    In the dual form: Delta W_l = lam G_l Z_l^T [alpha_L alpha_L^T * C_L C_L^T] Z_{l-1}.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
        rule: the local rule, whose loss on the top layer is backpropagated.
        masks: which derivatives of the nonlinearities downstream of a layer to use: "sample" uses
            those of each sample (backpropagation), "batch" their average over the batch, and
            "none" replaces them by 1 (statement 10).

    Returns:
        As `local_update`.

    Raises:
        ValueError, ConvergenceError: as `local_update`.
    """
    signals = Signals(network, pairs, rule)
    with one_if_small(signals.size):
        errors = signals.backpropagated(masks)
        return tuple(network.update(l, signals.activities, errors[l - 1]) for l in network.layers)


def mismatch(network: Network, pairs: Pairs, rule: Rule, layer: int) -> dict[str, Array]:
    """The difference global - local of a layer's updates, as a sum of three terms.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
        rule: the local rule.
        layer: l in 1..L.

    Returns:
        The terms by name, each shaped like the weight: "dual" (the dual variables differ from those
        of the top layer), "context" (the context kernels differ) and "metric" (the downstream
        metric is not the identity). They add up to the difference.

    Raises:
        ValueError: the loss has no dual form, or the network has no such layer.
    """
    signals = Signals(network, pairs, rule)
    layer = inputs.layer_number(layer, network.depth)
    terms = signals.mismatch_errors(layer)
    if terms is None:
        raise ValueError(
            f"{rule.name} is a loss of two views, which has no dual form; `compare` and `explain` "
            "work without it."
        )
    return {k: network.update(layer, signals.activities, e) for k, e in terms.items()}


def compare(network: Network, pairs: Pairs, rule: Rule) -> xr.Dataset:
    """Compare the local with the global update, layer by layer.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
        rule: the local rule.

    Returns:
        A Dataset over ``layer`` = 1..L with

        * ``cosine``: <local, global> / (||local|| ||global||), NaN where a norm is 0;
        * ``relative_error``: ||local - global|| / ||global||;
        * ``norm_ratio``: ||local|| / ||global||;
        * ``dual_mismatch``, ``context_mismatch``, ``metric_mismatch``: the norms of the three terms
          of `mismatch` over ||global||, NaN where the loss has no dual form;
        * ``residual``, ``condition_number``, ``iterations``: how the optimal projections were
          found, the worst over the view directions, NaN where B is fixed. The condition number is
          that of the Newton matrix, or the cancellation in B where that is larger.

    Raises:
        ValueError, ConvergenceError: as `local_update`.
    """
    return compare_signals(Signals(network, pairs, rule))


def compare_signals(signals: Signals) -> xr.Dataset:
    """`compare` for signals that exist already, so nothing is solved twice."""
    import xarray as xr

    network, pairs, rule = signals.network, signals.pairs, signals.rule
    with one_if_small(signals.size):
        rows = [compare_layer(signals, l) for l in network.layers]
    return xr.Dataset(
        {name: ("layer", [row[name] for row in rows]) for name in rows[0]},
        coords={"layer": list(network.layers)},
        attrs={
            "rule": rule.name,
            "context": rule.context,
            "projection": rule.projection,
            "network": repr(network),
            "pairs": pairs.num_pairs,
        },
    )


def compare_layer(signals: Signals, layer: int) -> dict[str, float]:
    """The variables of `compare` in one layer."""
    network, activities = signals.network, signals.activities
    local = network.update(layer, activities, signals.local_error(layer))
    global_ = network.update(layer, activities, signals.global_errors[layer - 1])
    local_norm, global_norm = float(np.linalg.norm(local)), float(np.linalg.norm(global_))

    def relative(difference: Array) -> float:
        return float(np.linalg.norm(difference)) / global_norm if global_norm > 0 else np.nan

    both = local_norm * global_norm
    row = {
        "cosine": float(np.sum(local * global_)) / both if both > 0 else np.nan,
        "relative_error": relative(local - global_),
        "norm_ratio": local_norm / global_norm if global_norm > 0 else np.nan,
    }
    terms = signals.mismatch_errors(layer)
    for name in ("dual", "context", "metric"):
        row[f"{name}_mismatch"] = (
            np.nan if terms is None else relative(network.update(layer, activities, terms[name]))
        )
    solved = []
    if signals.rule.kind == "pair":
        solved = [s.projection for s in signals.scored(layer) if s.projection is not None]
    row["residual"] = max((p.residual for p in solved), default=np.nan)
    row["condition_number"] = max(
        (max(p.condition_number, p.cancellation) for p in solved), default=np.nan
    )
    row["iterations"] = max((float(p.iterations) for p in solved), default=np.nan)
    return row
