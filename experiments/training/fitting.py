"""Training of a network of blocks by AdamW: by local losses, by backpropagation, or on labels.

One process, one thread: a run then gives the same numbers on any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
import xarray as xr
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from experiments.runner import stack
from experiments.training.cosines import Batch, update_cosines
from linlocal.analysis.alignment import log_spaced
from linlocal.analysis.local_losses import LocalRule
from linlocal.analysis.training import GlobalTrainer, LocalTrainer, Orthogonality, Trainer
from linlocal.analysis.watching import measure_downstream
from linlocal.rules import Rule

Credit = Literal["local", "backpropagation"]
Batches = Callable[[int], Tensor]

RECORDED_PER_DECADE = 3


@dataclass(frozen=True)
class Schedule:
    """How AdamW trains a network, and when its cosines are recorded.

    Attributes:
        steps: steps of training.
        learning_rate: learning rate of AdamW, for the network and its losses' projections.
        weight_decay: weight decay of AdamW; 0 makes it Adam.
        rate_of: the share of the learning rate that step number t has; None for all of it.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.01
    rate_of: Callable[[int], float] | None = None

    def faster(
        self, parameters: list[nn.Parameter], network: nn.Module, speed: float
    ) -> torch.optim.Optimizer:
        """AdamW in which what is not the network's, such as projections, learns faster."""
        own = {id(p) for p in network.parameters()}
        optimiser = self.optimiser(parameters)
        (group,) = optimiser.param_groups
        group["params"] = [p for p in parameters if id(p) in own]
        rest = [p for p in parameters if id(p) not in own]
        optimiser.add_param_group({"params": rest, "lr": speed * self.learning_rate})
        return optimiser

    def optimiser(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW for these parameters, in one kernel: a tenth of a step of a small network."""
        return torch.optim.AdamW(
            parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )

    @property
    def scheduler(self) -> Callable[[torch.optim.Optimizer], LambdaLR] | None:
        """Makes what lets the learning rate fall; None where it is constant."""
        return None if self.rate_of is None else partial(LambdaLR, lr_lambda=self.rate_of)

    @cached_property
    def recorded(self) -> list[int]:
        """The steps before which cosines are recorded, log-spaced; and the number of all steps."""
        due = log_spaced(RECORDED_PER_DECADE)
        return [*(step for step in range(self.steps) if due(step)), self.steps]


class Divergence(ArithmeticError):
    """A loss, or an activity after training, is not finite."""


def fit_by_rule(
    network: nn.Sequential,
    rule: Rule | LocalRule,
    batches: Batches,
    schedule: Schedule,
    *,
    credit: Credit = "local",
    seed: int = 0,
    watched: Sequence[Batch] = (),
    terms: bool = False,
    look: Callable[[nn.ModuleList], xr.Dataset] | None = None,
    orthogonality: Orthogonality | None = None,
    speed: float = 1.0,
    window: int = 1,
) -> tuple[nn.ModuleList, xr.Dataset]:
    """Train the blocks of a network by a rule.

    Args:
        network: its children are the blocks.
        rule: the rule that builds the local losses.
        batches: maps the number of a step to both views, stacked (2N, ...).
        schedule: steps and optimiser of the training.
        credit: "local": every block by its own loss; "backpropagation": the loss of the last block
            through all blocks.
        seed: seeds the projections.
        watched: batches on which cosines are recorded during local training; without them, none
            are.
        terms: whether `update_cosines` takes the mismatch apart.
        look: what to record instead, given the losses.
        orthogonality: keeps weights orthogonal; None leaves them free.
        speed: how many times as fast as the network its losses' projections learn.
        window: through how many blocks a local loss is backpropagated.

    Returns:
        The losses that taught (after backpropagation, that of the last block), and what was
        recorded over ``step``.

    Raises:
        Divergence: a loss, or an activity after training, is not finite.
    """
    torch.set_num_threads(1)
    first = batches(0)
    options: dict[str, Any] = {
        "shape": first.shape[1:],
        "optimiser": (
            schedule.optimiser
            if speed == 1
            else lambda parameters: schedule.faster(parameters, network, speed)
        ),
        "scheduler": schedule.scheduler,
        "fabric": fabric_on(first.device),
        "seed": seed,
        "orthogonality": orthogonality,
    }
    trainer: Trainer = (
        LocalTrainer(network, None, rule, one_pass=window == 1, window=window, **options)
        if credit == "local"
        else GlobalTrainer(network, None, rule, **options)
    )
    if credit == "local" and window == 1:  # cosines are recorded before the first step measures it
        measure_downstream(network, None, trainer.losses, first)
    recorded = {}
    for step in range(schedule.steps + 1):
        if (watched or look) and step in schedule.recorded:
            _require_finite(network, first)
            recorded[step] = (
                look(trainer.losses)
                if look
                else update_cosines(network, trainer.losses, watched, terms, window)
            )
        if step < schedule.steps:
            try:
                trainer.step(batches(step))
            except FloatingPointError as error:
                raise Divergence(str(error)) from error
    _require_finite(network, first)
    return trainer.losses, (
        stack(recorded.values(), "step", [*recorded]) if recorded else xr.Dataset()
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
        labelled: maps the number of a step to inputs and their labels.
        classes: number of classes.
        schedule: steps and optimiser of the training.
        seed: seeds the readout.

    Raises:
        Divergence: a loss, or an activity after training, is not finite.
    """
    torch.set_num_threads(1)
    first, _ = labelled(0)
    with torch.no_grad():
        features = network(first).flatten(1).shape[1]
    with torch.random.fork_rng([]):
        torch.default_generator.manual_seed(seed)
        readout = nn.Linear(features, classes).to(first.device)
    trainer = GlobalTrainer(
        nn.Sequential(network, nn.Flatten(), readout),
        [f"0.{name}" for name, _ in network.named_children()],
        loss=lambda answer, batch: F.cross_entropy(answer, batch[1]),
        shape=first.shape[1:],
        optimiser=schedule.optimiser,
        fabric=fabric_on(first.device),
        seed=seed,
    )
    for step in range(schedule.steps):
        try:
            trainer.step(labelled(step))
        except FloatingPointError as error:
            raise Divergence(str(error)) from error
    _require_finite(network, first)


def fabric_on(device: torch.device) -> Fabric:
    """A Fabric of one process on a device."""
    cuda = device.type == "cuda"
    return Fabric(accelerator="cuda" if cuda else "cpu", devices=[device.index or 0] if cuda else 1)


def _require_finite(network: nn.Sequential, inputs: Tensor) -> None:
    with torch.no_grad():
        z = inputs
        for block in network:
            z = block(z)
            if not z.isfinite().all():
                raise Divergence("Training left activities that are not finite.")
