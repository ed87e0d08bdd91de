"""The numbers a and e of `linlocal.conditions`, measured on each layer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import cast

import numpy as np

from linlocal.inputs import Array
from linlocal.losses import ViewLoss
from linlocal.networks import DeepLinear
from linlocal.rules import Rule
from linlocal.updates import LayerLosses, Signals

# -- what is measured ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Facts:
    """The numbers a and e of `linlocal.conditions`, and how far their equations are from holding.

    Attributes:
        anchor_factor: a, which brings a P_l^T P_l z nearest to G_l z.
        anchor_distance: the relative distance that is left; NaN where it was not measured.
        context_factor: e, which brings e C_L C_L^T nearest to C_l C_l^T.
        context_distance: the relative distance that is left; NaN where it was not measured.
        penalty_ratio: lam_l / (lam_L e / a), 1 if the penalties match.
    """

    anchor_factor: float = 1.0
    anchor_distance: float = np.nan
    context_factor: float = 1.0
    context_distance: float = np.nan
    penalty_ratio: float = 1.0


def measured(signals: Signals, layer: int) -> Facts:
    """The facts of one layer, on the activities of the batch."""
    losses, goal = signals.losses[layer - 1], signals.top
    if goal is None or not isinstance(signals.network, DeepLinear):
        return Facts()
    rule = losses.rule
    z = signals.activities.z[layer]
    if rule.kind == "pair":
        z = z[np.unique(np.concatenate([d.anchor_rows for d in signals.pairs.directions]))]
    global_z = z @ global_metric(signals, layer)
    readout = losses.readout(layer) if rule.kind == "pair" else None
    local_z = z if readout is None else z @ readout.T @ readout
    a, anchor_distance = nearest_factor(global_z, local_z)
    if rule.kind != "pair" or rule.projection == "identity" or goal.rule.kind != "pair":
        return Facts(a, anchor_distance)
    top = signals.network.depth
    kernels = []
    # With a loss for each of two contexts, both kernels must be the top layer's.
    for direction, context in product(signals.pairs.directions, rule.judged_contexts):
        rows = direction.reference_rows
        here = losses.contexts(layer, context)[rows]
        above = goal.contexts(top, context)[rows]
        kernels.append((here @ here.T, above @ above.T))
    e, context_distance = nearest_factor(
        np.concatenate([k.ravel() for k, _ in kernels]),
        np.concatenate([k.ravel() for _, k in kernels]),
    )
    matching = goal.penalty.at(top, top) * e / a if a > 0 else np.nan
    return Facts(a, anchor_distance, e, context_distance, losses.penalty.at(layer, top) / matching)


def global_metric(signals: Signals, layer: int) -> Array:
    """G_l = (P_L V_l)^T (P_L V_l), which includes the pooling of the top layer."""
    network = cast(DeepLinear, signals.network)
    goal = signals.top
    pooled = goal is not None and goal.rule.kind == "pair"
    top = cast(LayerLosses, goal).readout(network.depth) if pooled else None
    if top is None:
        return network.gram(layer)
    through = top @ network.downstream(layer)
    return through.T @ through


def nearest_factor(actual: Array, reference: Array) -> tuple[float, float]:
    """The number s that brings s * reference nearest to actual, and the relative distance left.

    Args:
        actual: any shape.
        reference: an array of the same shape.
    """
    size, norm = float(np.sum(reference**2)), float(np.linalg.norm(actual))
    if size == 0.0 or norm == 0.0:
        return 1.0, 0.0 if size == norm else 1.0
    s = float(np.sum(actual * reference)) / size
    return s, float(np.linalg.norm(actual - s * reference)) / norm


def isometry_gap(facts: Facts) -> float:
    """Distance from G z = z, the factor a included."""
    return float(np.hypot(facts.anchor_distance, facts.anchor_factor - 1.0))


def is_led_around(signals: Signals, layer: int) -> bool:
    """Whether a link leads around the teacher of a layer, from that layer or one in its window."""
    inside = range(layer, signals.teacher(layer))
    links = signals.network.links
    return any(k in inside for l in links if l > inside.stop for k in links[l])


def same_loss(first: Rule, second: Rule) -> bool:
    """Whether two rules put the same loss on a layer, apart from projections and penalties."""
    if first.kind != second.kind or first.loss != second.loss:
        return False
    if first.kind == "pair":
        # Context "each" has two losses.
        return len(first.judged_contexts) == len(second.judged_contexts)
    return first.context == second.context


def closed_form_gap(signals: Signals, layer: int) -> float:
    """The distance from the exact condition of statement 6, for linear f and plain penalties.

    With M = sum beta z_e c_e^T and N = sum beta c_e z_{l-1}^T of each view direction, e the
    teacher of layer l, V = V_{l..e} and G = G_e, the updates are

        local  = V^T sum over directions of M N, M G N or both (by the rule's contexts) / lam_e
        global = V^T sum over directions of G M G N / lam_L, twice that for a loss of each context.

    Returns:
        ||global - local|| / ||global||, or ||local|| where the global update vanishes.
    """
    network, teacher = cast(DeepLinear, signals.network), signals.teacher(layer)
    rule, goal = signals.losses[teacher - 1].rule, cast(LayerLosses, signals.top).rule
    z, below = signals.activities.z[teacher], signals.activities.z[layer - 1]
    inside, gram = network.downstream(layer, teacher), network.gram(teacher)
    local, above = np.zeros((z.shape[1], below.shape[1])), np.zeros((z.shape[1], below.shape[1]))
    for direction in signals.pairs.directions:
        contrasts = rule.pair_loss.contrasts(direction)
        slopes = -rule.pair_loss.gradient(np.zeros(contrasts.num_margins), direction)
        push = direction.coefficient_matrix(contrasts.adjoint(slopes))
        anchors, references = direction.anchor_rows, direction.reference_rows
        m = z[anchors].T @ push @ z[references]
        n = z[references].T @ push.T @ below[anchors]
        onto_top = gram @ n
        local += {"same": m @ n, "top": m @ onto_top}.get(rule.context, m @ (n + onto_top))
        above += gram @ m @ onto_top
    above *= len(goal.judged_contexts) / goal.penalty.at(network.depth, network.depth)
    local /= rule.penalty.at(teacher, network.depth)
    gap = float(np.linalg.norm(inside.T @ (above - local)))
    size = float(np.linalg.norm(inside.T @ above))
    return gap / size if size > 0 else gap


def rotation_gap(signals: Signals, layer: int) -> float:
    """How far the gradient of a loss of two views fails to follow an isometric map, relative.

    The map leads into the width of the top layer, or rotates where that is no wider: a loss that
    depends on the width as such changes on the way up.
    """
    first, second = cast(tuple[Array, Array], signals.pairs.views)
    z, loss = signals.activities.z[layer], cast(ViewLoss, signals.rules[layer - 1].loss)
    width = z.shape[1]
    space = max(width, signals.network.widths[-1])
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((space, space)))[0][:width]
    plain = np.vstack(loss.gradients(z[first], z[second])) @ rotation
    rotated = np.vstack(loss.gradients(z[first] @ rotation, z[second] @ rotation))
    size = float(np.linalg.norm(plain))
    return float(np.linalg.norm(rotated - plain)) / size if size > 0 else 0.0
