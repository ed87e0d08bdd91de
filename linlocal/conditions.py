"""Why a local update does or does not equal backpropagation, and what would make it equal.

From the dual form, with the projection reading layer l through P_l (identity, pooling or, under a
penalty in the downstream metric, V_l itself) and the top layer through P_L V_l:

    local  = P_l^T P_l Z_l^T  [beta_l beta_l^T * C_l C_l^T / lam_l] Z_{l-1}
    global = G_l       Z_l^T  [beta_L beta_L^T * C_L C_L^T / lam_L] Z_{l-1},
    G_l    = (P_L V_l)^T (P_L V_l).

If  G_l z = a P_l^T P_l z  for the anchors,  C_l C_l^T = e C_L C_L^T  for the contexts, and
lam_l = lam_L e / a,  then both dual problems have the same solution and both updates are equal, for
every score function. Isometry (a = e = 1), conformal maps (a^2 or a in the penalty) and the metric
penalty (P_l = P_L V_l) are its special cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import numpy as np
import xarray as xr

from linlocal.checks import Array
from linlocal.losses import TypeOne, TypeTwo, ViewLoss
from linlocal.network import DeepLinear, DeepReLU, Network
from linlocal.pairs import Pairs
from linlocal.rules import Penalty, Rule
from linlocal.scores import Linear
from linlocal.signals import Signals
from linlocal.updates import compare_signals

Setting = tuple[Network, Pairs, Rule]

TOLERANCE = 1e-10


@dataclass(frozen=True)
class Condition:
    """One hypothesis, measured on one layer of a network and batch.

    Attributes:
        name: of the hypothesis.
        meaning: what it says, in symbols.
        distance: relative deviation from it, 0 if it holds exactly.
    """

    name: str
    meaning: str
    distance: float

    @property
    def holds(self) -> bool:
        """Whether the deviation is within 1e-10."""
        return bool(self.distance <= TOLERANCE)


@dataclass(frozen=True)
class Remedy:
    """A change after which the local updates equal the global ones in every layer.

    Attributes:
        name: "metric penalty", "rescaled penalty", "direct feedback", "isometry" or "matched
            projection".
        action: what it changes.
        apply: returns the changed (network, pairs, rule).
    """

    name: str
    action: str
    apply: Callable[[], Setting]


@dataclass(frozen=True)
class LayerExplanation:
    """What was found for one layer.

    Attributes:
        layer: l in 1..L.
        cosine, relative_error: of the local against the global update.
        exact: whether they are equal up to rounding: relative error at most 1e-12, or 16 machine
            epsilons times the condition number of the dual problem; or both zero.
        conditions: sufficient together.
        cosine_bound: the smallest cosine that the theory allows here; None if it gives none.
        bound_source: the statement it comes from, or why there is none.
    """

    layer: int
    cosine: float
    relative_error: float
    exact: bool
    conditions: tuple[Condition, ...]
    cosine_bound: float | None
    bound_source: str


@dataclass(frozen=True)
class Explanation:
    """Conditions, mismatch and remedies for a rule on a network and batch; print it.

    Attributes:
        subject: network and rule, in words.
        layers: one entry for each of the layers 1..L.
        comparison: the Dataset of `linlocal.compare`.
        remedies: what would restore exactness in every layer; empty if nothing is known to.
    """

    subject: str
    layers: tuple[LayerExplanation, ...]
    comparison: xr.Dataset
    remedies: tuple[Remedy, ...]

    @property
    def exact(self) -> bool:
        """Whether local and global update are equal in every layer."""
        return all(layer.exact for layer in self.layers)

    def remedy(self, name: str) -> Remedy:
        """The remedy of that name.

        Raises:
            ValueError: it is not among those that help here.
        """
        for remedy in self.remedies:
            if remedy.name == name:
                return remedy
        known = ", ".join(r.name for r in self.remedies) or "none"
        raise ValueError(f"{name!r} does not restore exactness here; remedies: {known}.")

    def __str__(self) -> str:
        lines = [self.subject, ""]
        for entry in self.layers:
            verdict = "equal to" if entry.exact else "differs from"
            lines.append(
                f"layer {entry.layer}: local {verdict} global update "
                f"(cosine {entry.cosine:.4f}, relative error {entry.relative_error:.1e})"
            )
            for condition in entry.conditions:
                mark = "holds" if condition.holds else f"fails by {condition.distance:.1e}"
                lines.append(f"    {condition.name:<24} {mark:<18} {condition.meaning}")
            if not entry.exact:
                row = self.comparison.sel(layer=entry.layer)
                terms = [
                    f"{name} {float(row[f'{name}_mismatch']):.1e}"
                    for name in ("dual", "context", "metric")
                ]
                if not np.isnan(row["dual_mismatch"]):
                    lines.append(f"    mismatch over ||global||: {', '.join(terms)}")
                bound = "none" if entry.cosine_bound is None else f"{entry.cosine_bound:.4f}"
                lines.append(f"    smallest cosine: {bound} ({entry.bound_source})")
        lines.append("")
        if self.exact:
            lines.append("Nothing to remedy.")
        elif self.remedies:
            lines.append("Any one of these restores exactness in every layer:")
            lines += [f"    {r.name:<20} {r.action}" for r in self.remedies]
        else:
            lines.append("No remedy is known that restores exactness in every layer.")
        return "\n".join(lines)


def explain(network: Network, pairs: Pairs, rule: Rule) -> Explanation:
    """Which conditions for local = global hold, which fail and how far, and what would help.

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
    facts = {l: _facts(signals, l) for l in network.layers}
    layers = tuple(_explain_layer(signals, comparison, facts[l], l) for l in network.layers)
    remedies = _remedies(signals, facts) if not all(e.exact for e in layers) else ()
    subject = f"{rule.name} (context {rule.context}, projection {rule.projection}) on {network}"
    return Explanation(subject, layers, comparison, remedies)


# -- what is measured ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Facts:
    """The numbers a and e of the module docstring, and how far from such numbers we are."""

    anchor_factor: float = 1.0
    anchor_distance: float = np.nan
    context_factor: float = 1.0
    context_distance: float = np.nan
    penalty_ratio: float = 1.0


def _facts(signals: Signals, layer: int) -> _Facts:
    if not isinstance(signals.network, DeepLinear):
        return _Facts()
    z = signals.activities.z[layer]
    if signals.rule.kind == "pair":
        z = z[np.unique(np.concatenate([d.anchor_rows for d in signals.pairs.directions]))]
    global_z = z @ _global_metric(signals, layer)
    readout = signals.readout(layer) if signals.rule.kind == "pair" else None
    local_z = z if readout is None else z @ readout.T @ readout
    a, anchor_distance = _factor(global_z, local_z)
    if signals.rule.kind != "pair" or signals.rule.projection == "identity":
        return _Facts(a, anchor_distance)
    top = signals.network.depth
    kernels = []
    for direction in signals.pairs.directions:
        rows = direction.reference_rows
        here, above = signals.contexts(layer)[rows], signals.contexts(top)[rows]
        kernels.append((here @ here.T, above @ above.T))
    e, context_distance = _factor(
        np.concatenate([k.ravel() for k, _ in kernels]),
        np.concatenate([k.ravel() for _, k in kernels]),
    )
    wanted = signals.penalty.at(top, top) * e / a if a > 0 else np.nan
    return _Facts(a, anchor_distance, e, context_distance, signals.penalty.at(layer, top) / wanted)


def _global_metric(signals: Signals, layer: int) -> Array:
    """G_l, with the pooling of the top layer in it."""
    network = cast(DeepLinear, signals.network)
    top = signals.readout(network.depth) if signals.rule.kind == "pair" else None
    if top is None:
        return network.gram(layer)
    through = top @ network.downstream(layer)
    return through.T @ through


def _factor(actual: Array, reference: Array) -> tuple[float, float]:
    """The number s that brings s * reference nearest to actual, and the relative distance left."""
    size, norm = float(np.sum(reference**2)), float(np.linalg.norm(actual))
    if size == 0.0 or norm == 0.0:
        return 1.0, 0.0 if size == norm else 1.0
    s = float(np.sum(actual * reference)) / size
    return s, float(np.linalg.norm(actual - s * reference)) / norm


def _explain_layer(
    signals: Signals, comparison: xr.Dataset, facts: _Facts, layer: int
) -> LayerExplanation:
    row = comparison.sel(layer=layer)
    error = float(row["relative_error"])
    worst = float(np.nan_to_num(row["condition_number"], nan=1.0))
    allowed = max(1e-12, 16.0 * np.finfo(float).eps * worst)
    bound, source = _cosine_bound(signals, facts, layer)
    # Undefined where the global update is zero: equal if the local one is zero as well.
    local = signals.network.update(layer, signals.activities, signals.local_error(layer))
    return LayerExplanation(
        layer,
        float(row["cosine"]),
        error,
        bool(error <= allowed or (np.isnan(error) and not local.any())),
        tuple(_conditions(signals, facts, layer)),
        bound,
        source,
    )


def _conditions(signals: Signals, facts: _Facts, layer: int) -> list[Condition]:
    rule, network = signals.rule, signals.network
    if layer == network.depth:
        return []
    if isinstance(network, DeepReLU):
        jacobians = network.downstream(layer, signals.pairs.samples)
        spread = np.linalg.norm(jacobians - jacobians.mean(axis=0)) / np.linalg.norm(jacobians)
        return [Condition("linear network", "V_l(x) the same for all x", float(spread))]
    if rule.kind == "view":
        return [
            Condition("invariant loss", "unchanged by rotations of z", _variance(signals, layer)),
            Condition("isometry", "G_l z = z for all z of the batch", _off(facts)),
        ]
    if rule.kind == "goodness":
        return [Condition("isometry", "G_l z = z for all z of the batch", _off(facts))]
    sent = [s.projected for s in signals.scored(layer)]
    wanted = [
        s.projected @ cast(DeepLinear, network).downstream(layer)
        for s in signals.scored(network.depth)
    ]
    gap = np.linalg.norm(np.concatenate(sent) - np.concatenate(wanted))
    size = float(np.linalg.norm(np.concatenate(wanted)))
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


def _off(facts: _Facts) -> float:
    """Distance from G z = z, the factor a included."""
    return float(np.hypot(facts.anchor_distance, facts.anchor_factor - 1.0))


def _variance(signals: Signals, layer: int) -> float:
    """How much the gradient of a loss of two views fails to rotate with the activities."""
    first, second = cast(tuple[Array, Array], signals.pairs.views)
    z, loss = signals.activities.z[layer], cast(ViewLoss, signals.rule.loss)
    width = z.shape[1]
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))[0]
    plain = np.vstack(loss.gradients(z[first], z[second])) @ rotation
    rotated = np.vstack(loss.gradients(z[first] @ rotation, z[second] @ rotation))
    size = float(np.linalg.norm(plain))
    return float(np.linalg.norm(rotated - plain)) / size if size > 0 else 0.0


def _is_linear_score(rule: Rule) -> bool:
    return isinstance(rule.loss, TypeOne | TypeTwo) and isinstance(rule.loss.score, Linear)


def _cosine_bound(signals: Signals, facts: _Facts, layer: int) -> tuple[float | None, str]:
    """Statement 7: linear f with direct feedback, global = G X, local = X."""
    network, rule = signals.network, signals.rule
    if layer == network.depth:
        return 1.0, "the top layer's loss is the global one"
    if not isinstance(network, DeepLinear):
        return None, "the network is not linear"
    fitting = rule.kind == "pair" and rule.projection == "optimal" and rule.context == "top"
    if not (fitting and _is_linear_score(rule)) or signals.readout(layer) is not None:
        return None, "a bound is known for linear f with direct feedback only"
    if network.map_shape(layer) is not None:
        return None, "the bound is for weights that are not shared"
    metric = _global_metric(signals, layer)
    spectrum = np.linalg.eigvalsh(metric)
    smallest, largest = max(float(spectrum[0]), 0.0), float(spectrum[-1])
    if largest <= 0.0:
        return None, "V_l = 0, the global update is zero"
    # A multiple of a projector P?
    if np.all(np.minimum(np.abs(spectrum), largest - spectrum) <= TOLERANCE * largest):
        local = network.update(layer, signals.activities, signals.local_error(layer))
        norm = largest * float(np.linalg.norm(local))
        kept = float(np.linalg.norm(metric @ local)) / norm if norm > 0 else 1.0
        return kept, "statement 7: ||P X|| / ||X||, attained"
    bound = 2.0 * np.sqrt(smallest * largest) / (smallest + largest)
    return float(bound), "statement 7: 2 sqrt(k) / (1 + k), k = cond(G_l)"


# -- remedies ------------------------------------------------------------------------------------


def _remedies(signals: Signals, facts: dict[int, _Facts]) -> tuple[Remedy, ...]:
    network, pairs, rule, penalty = signals.network, signals.pairs, signals.rule, signals.penalty
    if not isinstance(network, DeepLinear):
        return ()
    found: list[Remedy] = []
    top_strength = penalty.at(network.depth, network.depth)
    below = [l for l in network.layers if l < network.depth]
    # A layer below the top with both contexts sees every context twice once they coincide.
    twofold = tuple(
        top_strength * (2.0 if rule.context == "both" and l < network.depth else 1.0)
        for l in network.layers
    )
    optimal = rule.kind == "pair" and rule.projection == "optimal"
    conformal = all(facts[l].anchor_distance <= TOLERANCE for l in below)
    proportional = all(facts[l].context_distance <= TOLERANCE for l in below)

    def change(new: Rule, changed: Network = network) -> Callable[[], Setting]:
        return lambda: (changed, pairs, new)

    def strengths(use_contexts: bool) -> tuple[float, ...]:
        return tuple(
            top_strength
            * (facts[l].context_factor if use_contexts and l < network.depth else 1.0)
            / (facts[l].anchor_factor if l < network.depth else 1.0)
            for l in network.layers
        )

    if optimal and conformal and proportional:
        new = replace(rule, penalty=Penalty(strengths(True), penalty.metric))
        found.append(
            Remedy("rescaled penalty", "lam_l = lam e / a in each layer (statement 3)", change(new))
        )
    if optimal and conformal and not proportional and rule.context != "top":
        new = replace(rule, context="top", penalty=Penalty(strengths(False), penalty.metric))
        action = "take the top layer as context (and lam_l = lam / a) (statement 2)"
        found.append(Remedy("direct feedback", action, change(new)))
    if optimal and penalty.metric != "downstream":
        new = replace(rule, penalty=Penalty(twofold, "downstream"))
        action = "B_l = V_l^T M V_l (or V_l^T M), penalise M (statement 4)"
        found.append(Remedy("metric penalty", action, change(new)))
    if _can_be_isometric(signals, optimal):
        new = replace(rule, penalty=Penalty(twofold)) if optimal else rule
        action = "replace W_2..W_L by the nearest isometries (statements 2 and 5)"
        found.append(Remedy("isometry", action, change(new, network.isometric())))
    if rule.kind == "pair" and rule.projection not in ("identity", "matched"):
        pooled = rule.pooling is not None and any(size != 1 for size in rule.pooling[:-1])
        if not pooled:
            new = replace(rule, projection="matched", penalty=Penalty(top_strength))
            action = "B_l = V_l^T B_L V_l or V_l^T B_L (statement 1)"
            found.append(Remedy("matched projection", action, change(new)))
    return tuple(found)


def _can_be_isometric(signals: Signals, optimal: bool) -> bool:
    network, rule = signals.network, signals.rule
    widths = network.widths[1:]
    narrows = any(above < below for below, above in pairwise(widths))
    shared = any(network.map_shape(l) is not None for l in network.layers if l > 1)
    if narrows or shared or rule.pooling is not None:
        return False
    if rule.kind == "view":
        return all(_variance(signals, l) <= 1e-8 for l in network.layers)
    same_identity = rule.projection == "identity" and rule.context == "same"
    return optimal or rule.kind == "goodness" or same_identity
