"""Local and global updates, and the loss of a layer, each by a call of ``torch.autograd.grad``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from linlocal import inputs
from linlocal.autodiff.graph import Graph, Projections, TorchLoss
from linlocal.autodiff.supervised import supervised_formula
from linlocal.networks import Masks, Network, Parameters
from linlocal.pairs import Pairs
from linlocal.rules import Goal, Rule, Rules, Trained, checked_goal, of_each_layer

Array = NDArray[np.float64]


def local_update(
    network: Network,
    pairs: Pairs,
    rule: Rules,
    projections: Projections | None = None,
    loss: TorchLoss | None = None,
    window: int = 1,
    of: Parameters = "weights",
) -> tuple[Array, ...]:
    """Update of every layer by its own loss: -dLoss_e/dW_l by autograd, e = min(l + window - 1, L).

    The gradient is stopped at the input of layer l.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
        rule: the local rule, or one for each of the layers 1..L.
        projections: ``projections[l - 1][d]`` is the B of layer l and view direction d to use
            instead of the rule's, (read-out width, context width); the M of a penalty in the
            downstream metric. With context "each", those of the same and of the top layer follow
            each other in each direction.
        loss: a torch function to use instead of ``rule.loss``:
            ``loss(u, direction)`` of the scores (pairs,) of a direction (of their goodness, for a
            rule of goodness), or ``loss(z, z_view)``. Returns a scalar.
        window: w in 1..L, how many layers learn from one loss.
        of: "weights", or "biases" for -dLoss_e/db_l.

    Returns:
        ``updates[l - 1]`` in the shape of W_l (of the kernel, for a convolution), or of b_l (empty
        where a layer has none), for l = 1..L.

    Raises:
        ValueError: autograd cannot give the update (a margin on the kink of a hinge), the
            projection is too large for the dense Hessian, the window does not fit, or there are no
            biases.
        TypeError: an argument of another type.
    """
    graphs = _graph_of_each_layer(network, pairs, rule, projections, loss)
    window = inputs.window(window, network.depth)
    network.check_parameters(of)
    updates = []
    for l in network.layers:
        teacher = min(l + window - 1, network.depth)
        graph = graphs[teacher - 1]
        weight, bias = _parameters(graph, l)
        z = [*graph.z[:l], graph.layer(l, graph.z, weight, bias)]
        for above in range(l + 1, teacher + 1):
            z.append(graph.layer(above, z, graph.weights[above - 1], graph.biases[above - 1]))
        updates += _descent(graph.loss(teacher, z[-1]), [weight if of == "weights" else bias])
    return tuple(updates)


def global_update(
    network: Network,
    pairs: Pairs,
    rule: Rules,
    projections: Projections | None = None,
    masks: Masks = "sample",
    loss: TorchLoss | None = None,
    goal: Goal | None = None,
    of: Parameters = "weights",
) -> tuple[Array, ...]:
    """Update of every layer by autograd: -dLoss_L/dW_l of the top-layer loss.

    Args:
        network: as in `local_update`.
        pairs: as in `local_update`.
        rule: the local rule, or one for each layer; that of the top layer is backpropagated.
        projections: as in `local_update`; only those of the top layer are used.
        masks: "sample" is backpropagation. "batch" and "none" replace the layers above l by linear
            ones, with the derivatives of the nonlinearity averaged over the batch or left out, and
            pair what reaches the top with -dLoss_L/dz_L.
        loss: as in `local_update`; instead of the loss of the rule that is backpropagated.
        goal: another rule, or a supervised loss, to backpropagate instead.
        of: as in `local_update`.

    Returns:
        As `local_update`.

    Raises:
        ValueError, TypeError: as `local_update`.
    """
    if masks not in ("sample", "batch", "none"):
        raise ValueError(f'masks must be "sample", "batch" or "none", got {masks!r}.')
    inputs.instance(network, Network, "network", "a `DeepLinear` or `DeepReLU`")
    rules = of_each_layer(rule, network.depth)
    chosen = rules[-1] if goal is None else checked_goal(goal)
    judging = chosen if isinstance(chosen, Rule) else rules[-1]
    graph = Graph(network, pairs, judging, projections, loss)
    network.check_parameters(of)

    def judge(top: torch.Tensor) -> torch.Tensor:
        if isinstance(chosen, Rule):
            return graph.loss(graph.depth, top)
        return supervised_formula(chosen)(top)

    parameters = [_parameters(graph, l) for l in range(1, graph.depth + 1)]
    wanted = [weight if of == "weights" else bias for weight, bias in parameters]
    if masks == "sample":
        z = [graph.z[0]]
        for l, (weight, bias) in enumerate(parameters, start=1):
            z.append(graph.layer(l, z, weight, bias))
        return tuple(_descent(judge(z[-1]), wanted))

    top = graph.z[-1].clone().requires_grad_(True)
    (by_top,) = torch.autograd.grad(judge(top), top)
    updates = []
    for l, (weight, bias) in enumerate(parameters, start=1):
        # A change of z_l on its way to the top; the layers below l do not change.
        change = {l: graph.layer(l, graph.z, weight, bias)}
        for above in range(l + 1, graph.depth + 1):
            z_above = graph.drive(above, change[above - 1], graph.weights[above - 1], None)
            if masks == "batch":
                z_above = z_above * graph.slope(above).mean(dim=0)
            for k, scale in network.links.get(above, {}).items():
                z_above = z_above + scale * change.get(k, torch.zeros(()))
            change[above] = z_above
        updates += _descent(torch.sum(change[graph.depth] * by_top), [wanted[l - 1]])
    return tuple(updates)


def _parameters(graph: Graph, layer: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """W_l and b_l as leaves of a graph."""
    weight, bias = graph.weights[layer - 1], graph.biases[layer - 1]
    return (
        weight.clone().requires_grad_(True),
        None if bias is None else bias.clone().requires_grad_(True),
    )


def _descent(value: torch.Tensor, leaves: Sequence[torch.Tensor | None]) -> list[Array]:
    """Minus the gradient by each leaf; empty for None."""
    there = [leaf for leaf in leaves if leaf is not None]
    gradients = iter(torch.autograd.grad(value, there) if there else ())
    return [np.zeros(0) if leaf is None else -next(gradients).numpy() for leaf in leaves]


def loss(
    network: Network,
    pairs: Pairs,
    rule: Rules,
    layer: int,
    projections: Projections | None = None,
) -> float:
    """The loss of one layer, summed over view directions, penalty on an optimal B included.

    So is the penalty on a B that is trained.

    Args:
        network: as in `local_update`.
        pairs: as in `local_update`.
        rule: as in `local_update`.
        layer: l in 1..L.
        projections: as in `local_update`.
    """
    graphs = _graph_of_each_layer(network, pairs, rule, projections, None)
    layer = inputs.layer_number(layer, network.depth)
    graph = graphs[layer - 1]
    rule = graph.rule
    total = graph.loss(layer, graph.z[layer])
    penalised = rule.projection == "optimal" or isinstance(rule.projection, Trained)
    if rule.kind == "pair" and (penalised or graph.optimal_top(layer)):
        strength = rule.penalty.at(layer, graph.depth)
        for score in graph.scorers(layer):
            total = total + 0.5 * strength * torch.sum(score.b**2)
    return float(total)


def _graph_of_each_layer(
    network: Network,
    pairs: Pairs,
    rule: Rules,
    projections: Projections | None,
    loss: TorchLoss | None,
) -> list[Graph]:
    """One graph for each rule, listed for the layers that it judges."""
    inputs.instance(network, Network, "network", "a `DeepLinear` or `DeepReLU`")
    rules = of_each_layer(rule, network.depth)
    distinct = {id(each): each for each in rules}
    graphs = {key: Graph(network, pairs, r, projections, loss) for key, r in distinct.items()}
    return [graphs[id(each)] for each in rules]
