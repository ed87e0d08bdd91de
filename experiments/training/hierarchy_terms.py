"""Why the error that a rule sends to a layer differs from the backpropagated one: three terms.

With e the error of the output, J_l(x) the map from the activity of layer l to the output, Jbar_l
the same with the masks of the layers above as the rule has them, and e' what the rule sends in
place of e, the error signals of layer l and their difference are

    backpropagated  D_l J_l(x)^T e,        sent  s D_l B_l e'

    their difference = D_l (J_l(x) - t Jbar_l)^T e     masks
                     + D_l (t Jbar_l^T e - s B_l e)    feedback
                     + s D_l B_l (e - e')              slopes

with the scales s, t > 0 at which all have one norm: a cosine asks for no scale. Masks of a rule
that passes errors from layer to layer are its own: all of them, averaged ones or none; what it
passes takes the place of B_l e. A fixed matrix has none, and at best is a linear map that suits the
batch: its Jbar_l has the masks averaged over the batch. The terms are those of
`linlocal.analysis.align`, for labels in place of pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from experiments.training.convergence import Convergence
from experiments.training.hierarchy_stack import (
    Examples,
    Pass,
    Remedy,
    Rule,
    Stack,
    fit_together,
)
from experiments.training.hierarchy_tasks import (
    NetworkRecipe,
    Task,
    accuracy,
    class_labels,
    one_hot_leaves,
)
from linlocal.networks import Masks

TERMS = ("masks", "feedback", "slopes")


def error_terms(stack: Stack, leaves: Tensor, labels: Tensor) -> xr.Dataset:
    """Terms of one batch, of every network and layer; sums in float64.

    Args:
        stack: networks and their rule.
        leaves: (networks, batch, d).
        labels: (networks, batch).

    Returns:
        Over network and layer 1..L: ``error_cosine`` between the sent and the backpropagated
        signal; for each term its norm in units of the backpropagated signal, and ``_shapley``: what
        it contributes to 1 - error_cosine, averaged over all orders in which the terms are mended.
    """
    made = stack.forward(leaves, labels)
    true = _signals(stack, made, "sample")
    masked = _signals(stack, made, _masks_of(stack))
    sent, plain = _sent(stack, made)
    rows = [
        _layer(*(each[l].flatten(1).double() for each in (true, masked, sent, plain)))
        for l in range(len(true))
    ]
    names = rows[0].keys()
    return xr.Dataset(
        {name: (("network", "layer"), np.stack([row[name] for row in rows], 1)) for name in names},
        {"layer": np.arange(1, len(rows) + 1)},
    )


def terms_along_training(
    tasks: Sequence[Task],
    rule: Rule,
    *,
    width: int,
    learning_rate: float,
    times: Sequence[int],
    until: Convergence,
) -> xr.Dataset:
    """Train convolutional networks by Adam, and record the terms before certain steps.

    Args:
        tasks: one for each network.
        rule: how the error reaches the layers.
        width: units per position.
        learning_rate: learning rate of Adam.
        times: numbers of steps before which the terms of the step's batch are recorded.
        until: when a training is finished.

    Returns:
        The variables of `error_terms` over repetition, time and layer, NaN after the end of a
        training; ``test_accuracy``, ``steps`` and ``finished`` over repetition.
    """
    feedback = rule.network if isinstance(rule, Remedy) else rule
    recipe = NetworkRecipe(width=width)
    parts = [task.split() for task in tasks]
    nets = [recipe.network(task.rhm, task.seed, feedback) for task in tasks]
    rows: list[xr.Dataset] = []

    def look(step: int, running: list[int], stack: Stack, leaves: Tensor, labels: Tensor) -> None:
        if step in times:
            found = error_terms(stack, leaves, labels)
            found = found.assign_coords(network=running).reindex(network=range(len(tasks)))
            rows.append(found.assign_coords(time=step))

    fits = fit_together(
        nets,
        rule,
        [
            Examples(train.leaves, train.labels, task.seed)
            for task, (train, _, _) in zip(tasks, parts, strict=True)
        ],
        optimiser="adam",
        learning_rates=[learning_rate] * len(tasks),
        until=until,
        look=look,
    )
    found = xr.concat(rows, "time").reindex(time=list(times))
    found = found.rename(network="repetition").drop_vars("repetition")
    right = [
        accuracy(net, one_hot_leaves(task.rhm, test.leaves), class_labels(test))
        for net, task, (_, _, test) in zip(nets, tasks, parts, strict=True)
    ]
    return found.assign(
        test_accuracy=("repetition", right),
        steps=("repetition", [fit.steps for fit in fits]),
        finished=("repetition", [fit.finished for fit in fits]),
    )


def _masks_of(stack: Stack) -> Masks:
    """Those on the way of what the rule sends."""
    if stack.path in ("direct", "target", "aligned"):
        return "batch"
    return "sample" if isinstance(stack.rule, Remedy) else stack.rule.masks


def _signals(stack: Stack, made: Pass, kind: Masks) -> list[Tensor]:
    """Backpropagated signals with masks of this kind on the way, own masks included."""
    carried = stack.carried(made, stack.readout, stack.weights, kind, at_outputs=True)
    return [g * mask for g, mask in zip(carried, made.masks, strict=True)]


def _sent(stack: Stack, made: Pass) -> tuple[list[Tensor], list[Tensor]]:
    """What the rule sends, own masks included if it has them; and the same of the error e."""
    if stack.path in ("direct", "target", "aligned"):
        moments = [each.clone() for each in stack.moments]
        stack.signals(made)  # fits aligned feedback, which the step itself will do again
        stack.moments = moments
        own = stack.rule.local_derivative
        masks = [mask if own else torch.ones_like(mask) for mask in made.masks]
        sent = [g * mask for g, mask in zip(stack.sent(made), masks, strict=True)]
        plain = [
            torch.bmm(made.error, matrix).view_as(mask) * mask
            for matrix, mask in zip(stack.direct, masks, strict=True)
        ]
        return sent, plain
    sent = stack.carried(
        made,
        stack.direct[0] if stack.path == "gated" else stack.readout,
        stack.carriers or stack.weights,
        _masks_of(stack),
        stack.rule.local_derivative,
        at_outputs=True,
    )
    sent = [g * mask for g, mask in zip(sent, made.masks, strict=True)]
    return sent, sent


def _layer(true: Tensor, masked: Tensor, sent: Tensor, plain: Tensor) -> dict[str, NDArray[Any]]:
    size = true.norm(dim=1, keepdim=True)
    scale = size / sent.norm(dim=1, keepdim=True)
    sent, plain = scale * sent, scale * plain
    masked = masked * size / masked.norm(dim=1, keepdim=True)
    terms = {"masks": true - masked, "feedback": masked - plain, "slopes": plain - sent}

    def missing(mended: tuple[str, ...]) -> Tensor:
        """1 - cosine once these terms are added to what is sent."""
        signal = sent + sum((terms[name] for name in mended), torch.zeros_like(sent))
        return 1 - torch.cosine_similarity(signal, true, dim=1, eps=1e-300)

    found = {"error_cosine": (1 - missing(())).numpy()}
    for name in TERMS:
        found[name] = (terms[name].norm(dim=1) / size[:, 0]).numpy()
        rest = [other for other in TERMS if other != name]
        share = torch.zeros(len(true), dtype=torch.float64)
        for count in range(len(TERMS)):
            weight = factorial(count) * factorial(len(rest) - count) / factorial(len(TERMS))
            for before in combinations(rest, count):
                share += weight * (missing(before) - missing((*before, name)))
        found[f"{name}_shapley"] = share.numpy()
    return found
