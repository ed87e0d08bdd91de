"""Local and global updates, and their comparison layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.networks import Masks, Network, Parameters
from linlocal.pairs import Pairs
from linlocal.rules import Goal, Rules
from linlocal.threads import one_if_small
from linlocal.updates.rounding import Rounding
from linlocal.updates.signals import Signals
from linlocal.vocabulary import described

if TYPE_CHECKING:
    import xarray as xr


def local_update(
    network: Network,
    pairs: Pairs,
    rule: Rules,
    window: int = 1,
    of: Parameters = "weights",
) -> tuple[Array, ...]:
    """Update of every layer by its own loss: -dLoss_e/dW_l, e = min(l + window - 1, L).

    The gradient is stopped at the input of layer l. With window 1 each layer has its own loss. In
    the dual form (rules of scored pairs, Frobenius penalty, linear network):
    Delta W_l = lam V_{l..e}^T Z_e^T [alpha_e alpha_e^T * C_e C_e^T] Z_{l-1}, where
    V_{l..e} = W_e ... W_{l+1}.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
        rule: the local rule, or one for each of the layers 1..L.
        window: w in 1..L, how many layers learn from one loss; L is backpropagation.
        of: "weights", or "biases" for -dLoss_e/db_l.

    Returns:
        ``updates[l - 1]`` in the shape of W_l (of the kernel, for a convolution), or of b_l (empty
        where a layer has none), for l = 1..L.

    Raises:
        ValueError: network, pairs and rule do not go together, the window does not fit, or there
            are no biases.
        ConvergenceError: an optimal projection was not found.
    """
    signals = Signals(network, pairs, rule, window)
    with one_if_small(signals.size):
        errors = [signals.taught_error(l) for l in network.layers]
        return network.updates(signals.activities, errors, of)


def global_update(
    network: Network,
    pairs: Pairs,
    rule: Rules,
    masks: Masks = "sample",
    goal: Goal | None = None,
    of: Parameters = "weights",
) -> tuple[Array, ...]:
    """Update of every layer by backpropagation (BP-SSL): -dLoss_L/dW_l of the top layer's loss.

    In the dual form: Delta W_l = lam G_l Z_l^T [alpha_L alpha_L^T * C_L C_L^T] Z_{l-1}.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
        rule: the local rule, or one for each layer; that of the top layer is the global one.
        masks: which derivatives of the nonlinearities downstream of a layer to use: "sample" uses
            those of each sample (backpropagation), "batch" their average over the batch, and
            "none" replaces them by 1 (statement 10).
        goal: another global loss: a rule, or a supervised loss with its labels
            (`linlocal.losses.CrossEntropy`, `linlocal.losses.SquaredError`).
        of: as in `local_update`.

    Returns:
        As `local_update`.

    Raises:
        ValueError, ConvergenceError: as `local_update`.
    """
    signals = Signals(network, pairs, rule, goal=goal)
    with one_if_small(signals.size):
        return network.updates(signals.activities, signals.backpropagated(masks), of)


def mismatch(
    network: Network,
    pairs: Pairs,
    rule: Rules,
    layer: int,
    window: int = 1,
    goal: Goal | None = None,
) -> dict[str, Array]:
    """The difference global - local of a layer's updates, as a sum of three terms.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
        rule: the local rule, or one for each of the layers 1..L.
        layer: l in 1..L.
        window: as in `local_update`.
        goal: as in `global_update`.

    Returns:
        The terms by name, each shaped like the weight, with a further column for the bias if there
        is one: "dual" (the dual variables of layer e = min(l + window - 1, L) differ from those of
        the global loss), "context" (the context kernels differ) and "metric" (the downstream metric
        of layer e is not the identity). They add up to the difference.

    Raises:
        ValueError: the losses have no common dual form, or the network has no such layer.
    """
    signals = Signals(network, pairs, rule, window, goal)
    layer = inputs.layer_number(layer, network.depth)
    terms = signals.mismatch_errors(layer)
    if terms is None:
        here = signals.rules[signals.teacher(layer) - 1]
        why = (
            f"{here.name} is a loss of two views, which has no dual form"
            if here.kind == "view"
            else f"{here.name} and the goal are of different kinds, without a common dual form"
        )
        raise ValueError(f"{why}; `compare` and `explain` work without it.")
    return {k: network.joint_update(layer, signals.activities, e) for k, e in terms.items()}


def compare(
    network: Network,
    pairs: Pairs,
    rule: Rules,
    window: int = 1,
    goal: Goal | None = None,
) -> xr.Dataset:
    """Compare the local with the global update, layer by layer.

    The update of a layer with a bias is the joint one, of W_l and b_l.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
        rule: the local rule, or one for each of the layers 1..L.
        window: as in `local_update`.
        goal: as in `global_update`.

    Returns:
        A Dataset over ``layer`` = 1..L with

        * ``cosine``: <local, global> / (||local|| ||global||);
        * ``relative_error``: ||local - global|| / ||global||;
        * ``norm_ratio``: ||local|| / ||global||. All three are NaN where an update that they divide
          by is zero, or not larger than what rounding makes of the terms that cancel in it: there
          is no update to compare then;
        * ``dual_mismatch``, ``context_mismatch``, ``metric_mismatch``: the norms of the three terms
          of `mismatch` over ||global||, NaN where the losses have no common dual form;
        * ``residual``, ``condition_number``, ``iterations``: how the optimal projections were
          found of the layer whose loss trains this one, the worst over the view directions, NaN
          where B is fixed. The condition number is that of the Newton matrix, or the cancellation
          in B where that is larger.

    Raises:
        ValueError, ConvergenceError: as `local_update`.
    """
    return compare_signals(Signals(network, pairs, rule, window, goal))


def compare_signals(signals: Signals) -> xr.Dataset:
    """`compare` for signals that exist already, so nothing is solved twice."""
    import xarray as xr

    network, rules = signals.network, signals.rules
    with one_if_small(signals.size):
        columns = compared(signals)
    return described(
        xr.Dataset(
            {name: ("layer", values) for name, values in columns.items()},
            coords={"layer": list(network.layers)},
            attrs={
                "rule": _joined(rule.name for rule in rules),
                "context": _joined(rule.context for rule in rules),
                "projection": _joined(rule.projection_name for rule in rules),
                "window": signals.window,
                "goal": signals.goal_name,
                "network": repr(network),
                "pairs": signals.pairs.num_pairs,
            },
        )
    )


def compared(signals: Signals) -> dict[str, list[float]]:
    """The variables of `compare`, each with one value for each layer."""
    rounding = Rounding(signals)
    rows = [_compare_layer(signals, rounding, l) for l in signals.network.layers]
    return {name: [row[name] for row in rows] for name in rows[0]}


def vanishing_updates(signals: Signals) -> dict[int, tuple[str, ...]]:
    """By layer, which of the "local" and the "global" update is zero up to rounding."""
    with one_if_small(signals.size):
        rounding = Rounding(signals)
        found = {}
        for l in signals.network.layers:
            local, global_ = (
                signals.network.joint_update(l, signals.activities, error)
                for error in (signals.taught_error(l), signals.global_errors[l - 1])
            )
            found[l] = _vanishing(rounding, l, local, global_)
        return found


def _joined(names: Iterable[str]) -> str:
    """The names of the layers' rules, each run of equal ones once."""
    return ", ".join(name for name, _ in groupby(names))


def _compare_layer(signals: Signals, rounding: Rounding, layer: int) -> dict[str, float]:
    network, activities = signals.network, signals.activities
    local = network.joint_update(layer, activities, signals.taught_error(layer))
    global_ = network.joint_update(layer, activities, signals.global_errors[layer - 1])
    vanishing = _vanishing(rounding, layer, local, global_)
    local_norm = 0.0 if "local" in vanishing else float(np.linalg.norm(local))
    global_norm = 0.0 if "global" in vanishing else float(np.linalg.norm(global_))

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
            np.nan
            if terms is None
            else relative(network.joint_update(layer, activities, terms[name]))
        )
    solved = []
    teacher = signals.teacher(layer)
    if signals.rules[teacher - 1].kind == "pair":
        solved = [s.projection for s in signals.scored(teacher) if s.projection is not None]
    row["residual"] = max((p.residual for p in solved), default=np.nan)
    row["condition_number"] = max(
        (max(p.condition_number, p.cancellation) for p in solved), default=np.nan
    )
    row["iterations"] = max((float(p.iterations) for p in solved), default=np.nan)
    return row


def _vanishing(rounding: Rounding, layer: int, local: Array, global_: Array) -> tuple[str, ...]:
    sizes = {
        "local": (local, rounding.of_local(layer)),
        "global": (global_, rounding.of_global(layer)),
    }
    return tuple(k for k, (update, noise) in sizes.items() if np.linalg.norm(update) <= noise)
