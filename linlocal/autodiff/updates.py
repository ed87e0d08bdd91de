"""Local and global updates, and the loss of a layer, each by a call of ``torch.autograd.grad``."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from linlocal import inputs
from linlocal.autodiff.graph import Graph, Projections, TorchLoss
from linlocal.networks import Masks, Network
from linlocal.pairs import Pairs
from linlocal.rules import Rule

Array = NDArray[np.float64]


def local_update(
    network: Network,
    pairs: Pairs,
    rule: Rule,
    projections: Projections | None = None,
    loss: TorchLoss | None = None,
) -> tuple[Array, ...]:
    """-dLoss_l/dW_l of the loss of every layer, with the gradient stopped at the layer's input.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
        rule: the local rule.
        projections: ``projections[l - 1][d]`` is the B of layer l and view direction d to use
            instead of the rule's, (read-out width, context width); the M of a penalty in the
            downstream metric. With context "each", those of the same and of the top layer follow
            each other in each direction.
        loss: a torch function to use instead of ``rule.loss``:
            ``loss(u, direction)`` of the scores (pairs,) of a direction (of their goodness, for a
            rule of goodness), or ``loss(z, z_view)``. Returns a scalar.

    Returns:
        ``updates[l - 1]`` in the shape of W_l (of the kernel, for a convolution), for l = 1..L.

    Raises:
        ValueError: autograd cannot give the update (a margin on the kink of a hinge), or the
            projection is too large for the dense Hessian.
        TypeError: an argument of another type.
    """
    graph = Graph(network, pairs, rule, projections, loss)
    updates = []
    for l in range(1, graph.depth + 1):
        weight = graph.weights[l - 1].clone().requires_grad_(True)
        z = graph.layer(l, graph.z[l - 1], weight)
        (gradient,) = torch.autograd.grad(graph.loss(l, z), weight)
        updates.append(-gradient.numpy())
    return tuple(updates)


def global_update(
    network: Network,
    pairs: Pairs,
    rule: Rule,
    projections: Projections | None = None,
    masks: Masks = "sample",
    loss: TorchLoss | None = None,
) -> tuple[Array, ...]:
    """-dLoss_L/dW_l of the top-layer loss, backpropagated through the whole network.

    Args:
        network: as in `local_update`.
        pairs: as in `local_update`.
        rule: the local rule, whose loss on the top layer is backpropagated.
        projections: as in `local_update`; only those of the top layer are used.
        masks: "sample" is backpropagation. "batch" and "none" replace the layers above l by linear
            ones, with the derivatives of the ReLU averaged over the batch or left out, and pair
            what reaches the top with -dLoss_L/dz_L.
        loss: as in `local_update`.

    Returns:
        As `local_update`.

    Raises:
        ValueError, TypeError: as `local_update`.
    """
    if masks not in ("sample", "batch", "none"):
        raise ValueError(f'masks must be "sample", "batch" or "none", got {masks!r}.')
    graph = Graph(network, pairs, rule, projections, loss)
    if masks == "sample":
        weights = [w.clone().requires_grad_(True) for w in graph.weights]
        z = graph.z[0]
        for l, weight in enumerate(weights, start=1):
            z = graph.layer(l, z, weight)
        gradients = torch.autograd.grad(graph.loss(graph.depth, z), weights)
        return tuple(-g.numpy() for g in gradients)

    top = graph.z[-1].clone().requires_grad_(True)
    (by_top,) = torch.autograd.grad(graph.loss(graph.depth, top), top)
    updates = []
    for l in range(1, graph.depth + 1):
        weight = graph.weights[l - 1].clone().requires_grad_(True)
        z = graph.layer(l, graph.z[l - 1], weight)
        for above in range(l + 1, graph.depth + 1):
            z = graph.drive(above, z)
            if masks == "batch" and not network.is_linear:
                open_units = graph.drive(above, graph.z[above - 1]) > 0
                z = z * open_units.double().mean(dim=0)
        (gradient,) = torch.autograd.grad(torch.sum(z * by_top), weight)
        updates.append(-gradient.numpy())
    return tuple(updates)


def loss(
    network: Network,
    pairs: Pairs,
    rule: Rule,
    layer: int,
    projections: Projections | None = None,
) -> float:
    """The loss of one layer, summed over view directions, penalty on an optimal B included.

    Args:
        network: as in `local_update`.
        pairs: as in `local_update`.
        rule: as in `local_update`.
        layer: l in 1..L.
        projections: as in `local_update`.
    """
    graph = Graph(network, pairs, rule, projections, None)
    layer = inputs.layer_number(layer, graph.depth)
    total = graph.loss(layer, graph.z[layer])
    if rule.kind == "pair" and (rule.projection == "optimal" or graph.optimal_top(layer)):
        strength = rule.penalty.at(layer, graph.depth)
        for score in graph.scorers(layer):
            total = total + 0.5 * strength * torch.sum(score.b**2)
    return float(total)
