"""Changes after which local updates equal the global ones in every layer, or come nearer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import xarray as xr

from linlocal.conditions.facts import Facts, is_led_around, rotation_gap
from linlocal.conditions.findings import TOLERANCE, Remedy
from linlocal.networks import Convolution, DeepLinear, Network
from linlocal.rules import Penalty, Rule
from linlocal.updates import Signals, compare_signals

# -- remedies ------------------------------------------------------------------------------------


def remedies(signals: Signals, facts: dict[int, Facts]) -> tuple[Remedy, ...]:
    """The changes that would make every layer exact; empty if none is known."""
    network, pairs, rule = signals.network, signals.pairs, signals.rules[-1]
    if not (_one_rule(signals) and isinstance(network, DeepLinear)):
        return ()
    if any(is_led_around(signals, l) for l in network.layers):
        return ()
    found: list[Remedy] = []
    penalty = rule.penalty
    top_strength = penalty.at(network.depth, network.depth)
    below = [e for e in facts if e < network.depth]
    # With both contexts, a layer below the top sees every context twice once the two coincide.
    twofold = tuple(
        top_strength * (2.0 if rule.context == "both" and l < network.depth else 1.0)
        for l in network.layers
    )
    optimal = rule.kind == "pair" and rule.projection == "optimal"
    alone = all(network.only_through(l) for l in below)
    conformal = alone and all(facts[l].anchor_distance <= TOLERANCE for l in below)
    proportional = all(facts[l].context_distance <= TOLERANCE for l in below)

    def remedy(name: str, action: str, new: Rule, changed: Network = network) -> Remedy:
        return Remedy(name, action, lambda: (changed, pairs, new), _changes(signals, changed, new))

    def strengths(use_contexts: bool) -> tuple[float, ...]:
        return tuple(
            top_strength
            * (facts[l].context_factor if use_contexts and l in below else 1.0)
            / (facts[l].anchor_factor if l in below else 1.0)
            for l in network.layers
        )

    if optimal and conformal and proportional:
        new = replace(rule, penalty=Penalty(strengths(True), penalty.metric))
        action = "lam_l = lam e / a in each layer (statement 3)"
        found.append(remedy("rescaled penalty", action, new))
    if optimal and conformal and not proportional and rule.context != "top":
        new = replace(rule, context="top", penalty=Penalty(strengths(False), penalty.metric))
        action = "take the top layer as context (and lam_l = lam / a) (statement 2)"
        found.append(remedy("direct feedback", action, new))
    if optimal and penalty.metric != "downstream":
        new = replace(rule, penalty=Penalty(twofold, "downstream"))
        action = "B_l = V_l^T M V_l (or V_l^T M), penalise M (statement 4)"
        found.append(remedy("metric penalty", action, new))
    if alone and _can_be_isometric(network, signals, optimal):
        new = replace(rule, penalty=Penalty(twofold)) if optimal else rule
        action = "replace W_2..W_L by the nearest isometries (statements 2 and 5)"
        found.append(remedy("isometry", action, new, network.isometric()))
    if rule.kind == "pair" and rule.projection not in ("identity", "matched"):
        pooled = rule.pooling is not None and any(size != 1 for size in rule.pooling[:-1])
        if not pooled:
            new = replace(rule, projection="matched", penalty=Penalty(top_strength))
            action = "B_l = V_l^T B_L V_l or V_l^T B_L (statement 1)"
            found.append(remedy("matched projection", action, new))
    return tuple(found)


def nearer(signals: Signals, comparison: xr.Dataset) -> tuple[Remedy, ...]:
    """The changes that raise the smallest cosine of all layers without making it 1.

    Args:
        signals: the signals of the network as it is.
        comparison: their comparison.
    """
    network, pairs, rule = signals.network, signals.pairs, signals.rules[-1]
    linked = any(l > 1 for l in network.links)
    if not (_one_rule(signals) and isinstance(network, DeepLinear) and linked):
        return ()
    changed = network.with_scaled_branches()
    before = float(comparison["cosine"].min())
    after = float(compare_signals(Signals(changed, pairs, rule, signals.window))["cosine"].min())
    if not after > before:
        return ()
    action = (
        f"multiply the branches by 1/{network.depth}: the smallest cosine is then {after:.4f} "
        "(statement 14)"
    )
    words = _changes(signals, changed, rule)
    return (Remedy("scaled branches", action, lambda: (changed, pairs, rule), words),)


def _changes(signals: Signals, network: Network, rule: Rule) -> str:
    """What differs between the setting of the signals and a network and rule, with numbers."""
    before, depth = signals.rules[-1], network.depth
    told = [
        f"{name} from {old} to {new}"
        for name, old, new in (
            ("the context", before.context, rule.context),
            ("the projection", before.projection_name, rule.projection_name),
            ("the metric of the penalty", before.penalty.metric, rule.penalty.metric),
        )
        if old != new
    ]
    strengths = [[each.penalty.at(l, depth) for l in network.layers] for each in (before, rule)]
    if strengths[0] != strengths[1]:
        old, new = (_listed(values) for values in strengths)
        told.append(f"the penalty from {old} to {new}")
    moved = [_moved(signals.network, network, l) for l in network.layers]
    if any(moved):
        told.append(f"the weights of layers 1..{depth} by {_listed(moved)} of their norm")
    return "; ".join(told) or "nothing that a rule or a weight shows"


def _listed(values: Sequence[float]) -> str:
    """Numbers of the layers; one where they are all equal."""
    words = [f"{value:.3g}" for value in values]
    return words[0] if len(set(words)) == 1 else ", ".join(words)


def _moved(before: Network, after: Network, layer: int) -> float:
    old, new = (
        w.kernel if isinstance(w, Convolution) else w
        for w in (before.weights[layer - 1], after.weights[layer - 1])
    )
    size = float(np.linalg.norm(old))
    return float(np.linalg.norm(new - old)) / (size if size > 0 else 1.0)


def _one_rule(signals: Signals) -> bool:
    return all(rule is signals.goal for rule in signals.rules)


def _can_be_isometric(network: DeepLinear, signals: Signals, optimal: bool) -> bool:
    rule = signals.rules[-1]
    widths = network.widths[signals.teacher(1) :]
    narrows = any(above < below for below, above in pairwise(widths))
    shared = any(network.map_shape(l) is not None for l in network.layers if l > 1)
    if narrows or shared or rule.pooling is not None:
        return False
    if rule.kind == "view":
        return all(rotation_gap(signals, l) <= 1e-8 for l in map(signals.teacher, network.layers))
    same_identity = rule.projection == "identity" and rule.context == "same"
    return optimal or rule.kind == "goodness" or same_identity
