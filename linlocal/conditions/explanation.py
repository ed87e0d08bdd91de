"""The answer to a question: conditions of every layer, the cosine bound, remedies."""

from __future__ import annotations

from typing import cast

import numpy as np
import xarray as xr

from linlocal.conditions.facts import (
    Facts,
    global_metric,
    isometry_gap,
    measured,
    rotation_gap,
)
from linlocal.conditions.remedies import remedies
from linlocal.conditions.report import TOLERANCE, Condition, Explanation, LayerExplanation
from linlocal.networks import DeepLinear, DeepReLU, Network
from linlocal.pairs import Pairs
from linlocal.rules import Rule
from linlocal.updates import Signals, compare_signals, vanishing_updates


def explain(network: Network, pairs: Pairs, rule: Rule) -> Explanation:
    """Tell which conditions for local = global hold, which fail and by how much, and what helps.

    Args:
        network: a `DeepLinear` or `DeepReLU`.
        pairs: the batch; conditions are measured on the activities that it excites.
        rule: the local rule.

    Returns:
        An `Explanation`; print it, or use its parts. ``explanation.remedy(name).apply()`` gives
        the changed network, pairs and rule.

    Raises:
        ValueError, ConvergenceError: as `linlocal.compare`.
    """
    signals = Signals(network, pairs, rule)
    comparison = compare_signals(signals)
    facts = {l: measured(signals, l) for l in network.layers}
    vanishing = vanishing_updates(signals)
    layers = tuple(
        _explain_layer(signals, comparison, facts[l], vanishing[l], l) for l in network.layers
    )
    helping = remedies(signals, facts) if not all(e.exact for e in layers) else ()
    subject = f"{rule.name} (context {rule.context}, projection {rule.projection}) on {network}"
    return Explanation(subject, layers, comparison, helping)


def _explain_layer(
    signals: Signals,
    comparison: xr.Dataset,
    facts: Facts,
    vanishing: tuple[str, ...],
    layer: int,
) -> LayerExplanation:
    row = comparison.sel(layer=layer)
    error = float(row["relative_error"])
    worst = float(np.nan_to_num(row["condition_number"], nan=1.0))
    allowed = max(1e-12, 16.0 * np.finfo(float).eps * worst)
    bound, source = _cosine_bound(signals, facts, layer)
    return LayerExplanation(
        layer,
        float(row["cosine"]),
        error,
        len(vanishing) == 2 or bool(not vanishing and error <= allowed < 1.0),
        tuple(_conditions(signals, facts, layer)),
        bound,
        source,
        vanishing,
    )


def _conditions(signals: Signals, facts: Facts, layer: int) -> list[Condition]:
    rule, network = signals.rule, signals.network
    if layer == network.depth:
        return []
    if isinstance(network, DeepReLU):
        jacobians = network.downstream(layer, signals.pairs.samples)
        spread = np.linalg.norm(jacobians - jacobians.mean(axis=0)) / np.linalg.norm(jacobians)
        return [Condition("linear network", "V_l(x) the same for all x", float(spread))]
    if rule.kind == "view":
        return [
            Condition(
                "invariant loss", "unchanged by rotations of z", rotation_gap(signals, layer)
            ),
            Condition("isometry", "G_l z = z for all z of the batch", isometry_gap(facts)),
        ]
    if rule.kind == "goodness":
        return [Condition("isometry", "G_l z = z for all z of the batch", isometry_gap(facts))]
    sent = [s.projected for s in signals.scored(layer)]
    sent_by_top = [
        s.projected @ cast(DeepLinear, network).downstream(layer)
        for s in signals.scored(network.depth)
    ]
    gap = np.linalg.norm(np.concatenate(sent) - np.concatenate(sent_by_top))
    size = float(np.linalg.norm(np.concatenate(sent_by_top)))
    matching = Condition(
        "score matching", "B_l c_l = V_l^T B_L c_L", float(gap) / size if size > 0 else float(gap)
    )
    if rule.projection != "optimal":
        return [matching]
    return [
        Condition(
            "proportional anchors",
            f"G_l z = a P^T P z, nearest a = {facts.anchor_factor:.4g}",
            facts.anchor_distance,
        ),
        Condition(
            "proportional contexts",
            f"C_l C_l^T = e C_L C_L^T, nearest e = {facts.context_factor:.4g}",
            facts.context_distance,
        ),
        Condition("matching penalty", "lam_l = lam_L e / a", abs(facts.penalty_ratio - 1.0)),
        matching,
    ]


def _cosine_bound(signals: Signals, facts: Facts, layer: int) -> tuple[float | None, str]:
    """Statement 7: linear f with direct feedback, global = G X, local = X."""
    network, rule = signals.network, signals.rule
    if layer == network.depth:
        return 1.0, "the top layer's loss is the global one"
    if not isinstance(network, DeepLinear):
        return None, "the network is not linear"
    fitting = rule.kind == "pair" and rule.projection == "optimal" and rule.context == "top"
    if not (fitting and rule.has_linear_score) or signals.readout(layer) is not None:
        return None, "a bound is known for linear f with direct feedback only"
    if network.map_shape(layer) is not None:
        return None, "the bound is for weights that are not shared"
    metric = global_metric(signals, layer)
    spectrum = np.linalg.eigvalsh(metric)
    smallest, largest = max(float(spectrum[0]), 0.0), float(spectrum[-1])
    if largest <= 0.0:
        return None, "V_l = 0, the global update is zero"
    # If G is a multiple of a projector P, the cosine is known exactly.
    if np.all(np.minimum(np.abs(spectrum), largest - spectrum) <= TOLERANCE * largest):
        local = network.update(layer, signals.activities, signals.local_error(layer))
        norm = largest * float(np.linalg.norm(local))
        kept = float(np.linalg.norm(metric @ local)) / norm if norm > 0 else 1.0
        return kept, "statement 7: ||P X|| / ||X||, attained"
    bound = 2.0 * np.sqrt(smallest * largest) / (smallest + largest)
    return float(bound), "statement 7: 2 sqrt(k) / (1 + k), k = cond(G_l)"
