"""The answer to a question: conditions of every layer, the cosine bound, remedies."""

from __future__ import annotations

from typing import cast

import numpy as np
import xarray as xr

from linlocal.conditions.bounds import window_bound
from linlocal.conditions.facts import (
    Facts,
    closed_form_gap,
    global_metric,
    is_led_around,
    isometry_gap,
    measured,
    rotation_gap,
    same_loss,
)
from linlocal.conditions.findings import TOLERANCE, Condition, LayerExplanation
from linlocal.conditions.remedies import nearer, remedies
from linlocal.conditions.report import Explanation
from linlocal.inputs import Array
from linlocal.networks import DeepLinear, DeepNonlinear, Network
from linlocal.pairs import Pairs
from linlocal.rules import Goal, Rules
from linlocal.updates import LayerLosses, Signals, compare_signals, vanishing_updates


def explain(
    network: Network,
    pairs: Pairs,
    rule: Rules,
    window: int = 1,
    goal: Goal | None = None,
) -> Explanation:
    """Tell which conditions for local = global hold, which fail and by how much, and what helps.

    Layer l learns from the loss of its teacher, layer e = min(l + window - 1, L). So conditions are
    asked of e: of the metric G_e above the window, and of the teacher's loss.

    Args:
        network: a `DeepLinear` or `DeepNonlinear`.
        pairs: the batch; conditions are measured on the activities that it excites.
        rule: the local rule, or one for each of the layers 1..L.
        window: how many layers learn from one loss, as in `linlocal.local_update`.
        goal: another global loss, as in `linlocal.global_update`.

    Returns:
        An `Explanation`; print it, or use its parts. ``explanation.remedy(name).apply()`` gives
        the changed network, pairs and rule. Remedies are known for one rule that is also the goal.

    Raises:
        ValueError, ConvergenceError: as `linlocal.compare`.
    """
    signals = Signals(network, pairs, rule, window, goal)
    comparison = compare_signals(signals)
    facts = {e: measured(signals, e) for e in sorted(set(map(signals.teacher, network.layers)))}
    vanishing, spreads = vanishing_updates(signals), _spreads(signals)
    layers = tuple(
        _explain_layer(signals, comparison, facts, spreads, vanishing[l], l) for l in network.layers
    )
    exact = all(e.exact for e in layers)
    helping = () if exact else remedies(signals, facts)
    bettering = () if exact else nearer(signals, comparison)
    return Explanation(_subject(signals, comparison), layers, comparison, helping, bettering)


def _subject(signals: Signals, comparison: xr.Dataset) -> str:
    names = comparison.attrs
    subject = (
        f"{names['rule']} (context {names['context']}, projection {names['projection']}) on "
        f"{signals.network}"
    )
    if signals.window > 1:
        subject += f", windows of {signals.window} layers"
    if signals.goal is not signals.rules[-1]:
        subject += f", below {signals.goal_name}"
    return subject


def _explain_layer(
    signals: Signals,
    comparison: xr.Dataset,
    facts: dict[int, Facts],
    spreads: dict[int, float],
    vanishing: tuple[str, ...],
    layer: int,
) -> LayerExplanation:
    row = comparison.sel(layer=layer)
    error = float(row["relative_error"])
    worst = float(np.nan_to_num(row["condition_number"], nan=1.0))
    allowed = max(1e-12, 16.0 * np.finfo(float).eps * worst)
    bound, source = _cosine_bound(signals, layer)
    return LayerExplanation(
        layer,
        float(row["cosine"]),
        error,
        len(vanishing) == 2 or bool(not vanishing and error <= allowed < 1.0),
        tuple(_conditions(signals, facts, spreads, layer)),
        bound,
        source,
        vanishing,
    )


def _spreads(signals: Signals) -> dict[int, float]:
    """How much V_l(x) of a network that is not linear differs between samples, for each layer."""
    if not isinstance(signals.network, DeepNonlinear):
        return {}
    maps = signals.network.jacobians(signals.pairs.samples)
    return {
        l: float(np.linalg.norm(v - v.mean(axis=0)) / np.linalg.norm(v))
        for l, v in enumerate(maps, start=1)
    }


def _conditions(
    signals: Signals, facts: dict[int, Facts], spreads: dict[int, float], layer: int
) -> list[Condition]:
    """Conditions on the teacher, which make its error signal and those below it the global ones."""
    network, teacher = signals.network, signals.teacher(layer)
    losses, top, fact = signals.losses[teacher - 1], signals.top, facts[teacher]
    rule = losses.rule
    if losses is top and teacher == network.depth:
        return []
    if top is None or not same_loss(rule, top.rule):
        return [Condition("same loss", "the goal is the loss of this layer, too", 1.0)]
    if spreads:
        return [Condition("linear network", "V_l(x) the same for all x", spreads[teacher])]
    alone = _no_other_way(signals, layer)
    if rule.kind == "view":
        return [
            *alone,
            Condition(
                "invariant loss", "unchanged by isometric maps of z", rotation_gap(signals, teacher)
            ),
            Condition("isometry", "G_l z = z for all z of the batch", isometry_gap(fact)),
        ]
    if rule.kind == "goodness":
        return [
            *alone,
            Condition("isometry", "G_l z = z for all z of the batch", isometry_gap(fact)),
        ]
    down = cast(DeepLinear, network).downstream(teacher)
    sent = [s.projected for s in losses.scored(teacher)]
    sent_by_top = [s.projected @ down for s in top.scored(network.depth)]
    gap = np.linalg.norm(np.concatenate(sent) - np.concatenate(sent_by_top))
    size = float(np.linalg.norm(np.concatenate(sent_by_top)))
    matching = Condition(
        "score matching", "B_l c_l = V_l^T B_L c_L", float(gap) / size if size > 0 else float(gap)
    )
    if rule.projection != "optimal" or top.rule.projection != "optimal":
        return [*alone, matching]
    return [
        *alone,
        *_closed_form(signals, layer),
        Condition(
            "proportional anchors",
            f"G_l z = a P^T P z, nearest a = {fact.anchor_factor:.4g}",
            fact.anchor_distance,
        ),
        Condition(
            "proportional contexts",
            f"C_l C_l^T = e C_L C_L^T, nearest e = {fact.context_factor:.4g}",
            fact.context_distance,
        ),
        Condition("matching penalty", "lam_l = lam_L e / a", abs(fact.penalty_ratio - 1.0)),
        matching,
    ]


def _no_other_way(signals: Signals, layer: int) -> list[Condition]:
    """Biases and links may bring something to the top layer past the teacher, or past the window.

    The first does not count where B sees it, too. The second does: it is an error that the top
    layer sends to layer l and the teacher does not know.
    """
    network, teacher = cast(DeepLinear, signals.network), signals.teacher(layer)
    rule, z = signals.rules[teacher - 1], signals.activities.z
    down = network.downstream(teacher)
    found = []
    sees_it = rule.projection == "matched" or rule.penalty.metric == "downstream"
    if not (sees_it or network.only_through(teacher)):
        distance = _relative(z[-1] - z[teacher] @ down.T, z[-1])
        found.append(Condition("no other way to the top", "z_L = V_l z_l", distance))
    if is_led_around(signals, layer):
        whole = network.downstream(layer)
        distance = _relative(whole - down @ network.downstream(layer, teacher), whole)
        found.append(Condition("no way around the window", "V_l = V_e V_{l..e}", distance))
    return found


def _relative(difference: Array, whole: Array) -> float:
    size = float(np.linalg.norm(whole))
    return float(np.linalg.norm(difference)) / (size if size > 0 else 1.0)


def _closed_form(signals: Signals, layer: int) -> list[Condition]:
    """Statement 6, necessary and sufficient, over the sum of all view directions."""
    network, teacher = cast(DeepLinear, signals.network), signals.teacher(layer)
    rule = signals.losses[teacher - 1].rule
    goal = cast(LayerLosses, signals.top).rule
    plain = rule.penalty.metric == "frobenius" and rule.pooling is None and goal.pooling is None
    shared = network.map_shape(layer) is not None
    if not (rule.has_linear_score and plain and network.only_through(teacher)) or shared:
        return []
    words = {
        "same": "G M H N / lam_L = M N / lam_l",
        "top": "G X / lam_L = X / lam_l",
        "both": "G M H N / lam_L = M (H + I) N / lam_l",
        "each": "2 G M H N / lam_L = M (H + I) N / lam_l",
    }
    meaning = f"{words[rule.context]}, all directions together; if and only if"
    return [Condition("closed form", meaning, closed_form_gap(signals, layer))]


def _cosine_bound(signals: Signals, layer: int) -> tuple[float | None, str]:
    """Statements 7 and 12: linear f with direct feedback, local = V^T X, global = V^T G X."""
    network, teacher = signals.network, signals.teacher(layer)
    losses, top = signals.losses[teacher - 1], signals.top
    rule = losses.rule
    if losses is top and teacher == network.depth:
        return 1.0, "the top layer's loss is the global one"
    if losses is not top:
        return None, "a bound is known for one rule that is also the goal only"
    if not isinstance(network, DeepLinear):
        return None, "the network is not linear"
    fitting = rule.kind == "pair" and rule.projection == "optimal" and rule.context == "top"
    if not (fitting and rule.has_linear_score) or losses.readout(teacher) is not None:
        return None, "a bound is known for linear f with direct feedback only"
    if network.map_shape(layer) is not None:
        return None, "the bound is for weights that are not shared"
    if not network.only_through(teacher):
        return None, "biases or links lead past the layer"
    metric = global_metric(signals, teacher)
    if teacher != layer:
        least = window_bound(network.downstream(layer, teacher), metric)
        # NaN where the global update is zero.
        return None if np.isnan(least) else least, "statement 12: V_{l..e} inside, G_e above"
    spectrum = np.linalg.eigvalsh(metric)
    smallest, largest = max(float(spectrum[0]), 0.0), float(spectrum[-1])
    if largest <= 0.0:
        return None, "V_l = 0, the global update is zero"
    # If G is a multiple of a projector P, the cosine is known exactly.
    if np.all(np.minimum(np.abs(spectrum), largest - spectrum) <= TOLERANCE * largest):
        local = network.joint_update(layer, signals.activities, signals.local_error(layer))
        norm = largest * float(np.linalg.norm(local))
        kept = float(np.linalg.norm(metric @ local)) / norm if norm > 0 else 1.0
        return kept, "statement 7: ||P X|| / ||X||, attained"
    bound = 2.0 * np.sqrt(smallest * largest) / (smallest + largest)
    return float(bound), "statement 7: 2 sqrt(k) / (1 + k), k = cond(G_l)"
