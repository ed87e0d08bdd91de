"""Training by local losses or by backpropagation of the last one, and the alignment on the way.

One process, one thread: a run then gives the same numbers on any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.runner import stack
from linlocal.analysis.alignment import align, log_spaced
from linlocal.analysis.local_losses import LocalRule, ScoredPairs, ScoredRule
from linlocal.analysis.watching import Masks, masked_gradients

Credit = Literal["local", "backpropagation"]
Batches = Callable[[int], Tensor]

RECORDED_PER_DECADE = 3
# Matched projections stand for an optimum: they must keep up with a network that moves.
MATCHING_SPEED = 10.0
APPROXIMATE_MASKS: tuple[Masks, ...] = ("batch", "none")


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        steps: of training.
        learning_rate: of AdamW, for the network and the projections that the loss trains.
        weight_decay: of AdamW; 0 makes it Adam.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.01

    def optimiser(
        self, slow: Sequence[nn.Module], fast: Sequence[nn.Module] = ()
    ) -> torch.optim.Optimizer:
        """Of all parameters that require a gradient; of ``fast`` ones with a higher rate."""
        groups = [
            {"params": [p for m in modules for p in m.parameters() if p.requires_grad], "lr": rate}
            for modules, rate in (
                (slow, self.learning_rate),
                (fast, MATCHING_SPEED * self.learning_rate),
            )
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]], weight_decay=self.weight_decay
        )

    @property
    def recorded(self) -> list[int]:
        """Numbers of steps taken before each measurement: log-spaced, and after the last."""
        due = log_spaced(RECORDED_PER_DECADE)
        return [*(step for step in range(self.steps) if due(step)), self.steps]


class Divergence(ArithmeticError):
    """A loss, or an activity after training, is not finite."""


def fit(
    network: nn.Sequential,
    rule: LocalRule,
    batches: Batches,
    schedule: Schedule,
    *,
    credit: Credit = "local",
    seed: int = 0,
    watched: Sequence[Tensor] = (),
) -> tuple[nn.ModuleList, xr.Dataset]:
    """Train the blocks of a network by a rule.

    Args:
        network: its children are the blocks.
        rule: builds the local losses.
        batches: from the number of a step to both views, stacked (2N, ...).
        schedule: of the training.
        credit: "local": the sum of all local losses, each block seeing a detached input;
            "backpropagation": the loss of the last block through all blocks. Projections that are
            matched learn from the backpropagated error only, ten times as fast.
        seed: of the projections.
        watched: batches on which the alignment is recorded; nothing is recorded without.

    Returns:
        The local losses, and `aligned` over ``step``.

    Raises:
        Divergence: a loss, or an activity after training, is not finite.
    """
    torch.set_num_threads(1)
    first = batches(0)
    with torch.no_grad():
        shapes = [tuple(z.shape[1:]) for z in outputs(network, first)]
    losses = rule.build(shapes, seed).to(first.device)
    matched = isinstance(rule, ScoredRule) and rule.projection == "matched"
    fast = [*losses[:-1]] if matched else []
    optimiser = schedule.optimiser([network, *(l for l in losses if l not in fast)], fast)
    recorded = {}
    for step in range(schedule.steps + 1):
        if watched and step in schedule.recorded:
            recorded[step] = aligned(network, losses, watched)
        if step == schedule.steps:
            break
        views = batches(step)
        optimiser.zero_grad()
        local = credit == "local"
        activities = outputs(network, views, detached=local)
        top = activities[-1].detach()
        judged = list(zip(losses, activities, strict=True))[0 if local else -1 :]
        loss = torch.stack([judge(z, top) for judge, z in judged]).sum()
        if not torch.isfinite(loss):
            raise Divergence(f"The loss is {loss.item()} at step {step}; lower the learning rate.")
        loss.backward()
        if matched:
            matching_loss(network, losses, views).backward()
        optimiser.step()
    _require_finite(network, first)
    return losses, stack(recorded.values(), "step", [*recorded]) if recorded else xr.Dataset()


def outputs(network: nn.Sequential, inputs: Tensor, *, detached: bool = False) -> list[Tensor]:
    """z_1..z_L; ``detached`` cuts the graph below every block."""
    activities, z = [], inputs
    for block in network:
        z = block(z.detach() if detached else z)
        activities.append(z)
    return activities


def matching_loss(network: nn.Sequential, losses: nn.ModuleList, views: Tensor) -> Tensor:
    """The sum over blocks below the last of ||dL_global/dz_l - dL_l/dz_l||^2, of projections."""
    activities = outputs(network, views)
    top = activities[-1].detach()
    goal = losses[-1](activities[-1], top)
    errors = torch.autograd.grad(goal, activities[:-1])
    total = goal.new_zeros(())
    for loss, z, error in zip(losses, activities, errors, strict=False):
        assert isinstance(loss, ScoredPairs)
        total = total + loss.matching_loss(z, top, error)
    return total


def aligned(network: nn.Module, losses: nn.ModuleList, watched: Sequence[Tensor]) -> xr.Dataset:
    """Cosine of the local and the global update per ``layer``, the mean over batches."""
    parts = [align(network, None, losses, views)[["cosine"]] for views in watched]
    return xr.concat(parts, "batch").mean("batch").drop_vars(("parameter", "view"), errors="ignore")


def masked_cosines(
    network: nn.Sequential, last: nn.Module, watched: Sequence[Tensor]
) -> xr.DataArray:
    """Cosine of masked with exact backpropagation of the last loss, over masks and layer.

    Args:
        network: its children are the blocks.
        last: the loss of the last block.
        watched: batches of both views; the mean over them is taken.
    """

    def loss_of(output: Tensor) -> Tensor:
        value: Tensor = last(output, output.detach())
        return value

    cosines = torch.zeros(len(watched), len(APPROXIMATE_MASKS), len(network), dtype=torch.float64)
    names = [name for name, _ in network.named_children()]
    for row, views in enumerate(watched):
        gradients = partial(masked_gradients, network, views, loss_of)
        exact = gradients(masks="sample")
        for column, masks in enumerate(APPROXIMATE_MASKS):
            masked = gradients(masks=masks)
            for l, name in enumerate(names):
                a, b = (
                    torch.cat([g.double().flatten() for n, g in each.items() if _of(n, name)])
                    for each in (masked, exact)
                )
                cosines[row, column, l] = a @ b / (a.norm() * b.norm())
    return xr.DataArray(
        cosines.mean(0).numpy(),
        {"masks": list(APPROXIMATE_MASKS), "layer": range(1, len(names) + 1)},
        ("masks", "layer"),
    )


def fit_supervised(
    network: nn.Sequential,
    labelled: Callable[[int], tuple[Tensor, Tensor]],
    classes: int,
    schedule: Schedule,
    seed: int,
) -> None:
    """Train a network by backpropagation of the cross-entropy of a linear readout.

    Args:
        network: trained in place.
        labelled: from the number of a step to inputs and their labels.
        classes: how many there are.
        schedule: of the training.
        seed: of the readout.

    Raises:
        Divergence: an activity after training is not finite.
    """
    torch.set_num_threads(1)
    first, _ = labelled(0)
    with torch.no_grad():
        features = network(first).flatten(1).shape[1]
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        readout = nn.Linear(features, classes).to(first.device)
    optimiser = schedule.optimiser([network, readout])
    for step in range(schedule.steps):
        inputs, labels = labelled(step)
        optimiser.zero_grad()
        F.cross_entropy(readout(network(inputs).flatten(1)), labels).backward()
        optimiser.step()
    _require_finite(network, first)


def _require_finite(network: nn.Sequential, inputs: Tensor) -> None:
    with torch.no_grad():
        if not all(z.isfinite().all() for z in outputs(network, inputs)):
            raise Divergence("Training left activities that are not finite.")


def _of(parameter: str, block: str) -> bool:
    return parameter.startswith(f"{block}.")
