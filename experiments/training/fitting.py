"""Training by local losses or by backpropagation of the last one, and the alignment on the way.

One process, one thread: a run then gives the same numbers on any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import xarray as xr
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.runner import stack
from linlocal.analysis.alignment import align, log_spaced
from linlocal.analysis.local_losses import LocalRule, NetworkRule, ScoredPairs
from linlocal.analysis.training import GlobalTrainer, LocalTrainer, Trainer
from linlocal.analysis.watching import capture, masked_gradients
from linlocal.networks import Masks
from linlocal.rules import Rule

Credit = Literal["local", "backpropagation"]
Batches = Callable[[int], Tensor]
Batch = tuple[Tensor, ...]

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

    def optimiser(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW of these parameters, in one kernel: of small networks it is a tenth of a step."""
        return torch.optim.AdamW(
            parameters, lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
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
    rule: Rule | LocalRule,
    batches: Batches,
    schedule: Schedule,
    *,
    credit: Credit = "local",
    seed: int = 0,
    watched: Sequence[Batch] = (),
) -> tuple[nn.ModuleList, xr.Dataset]:
    """Train the blocks of a network by a rule.

    Args:
        network: its children are the blocks.
        rule: builds the local losses.
        batches: from the number of a step to both views, stacked (2N, ...).
        schedule: of the training.
        credit: "local": every block by its own loss; "backpropagation": the loss of the last block
            through all blocks.
        seed: seeds the projections.
        watched: batches on which the alignment is recorded, of local training; without them nothing
            is.

    Returns:
        The losses, that of the last block alone after backpropagation; and `aligned` over ``step``.

    Raises:
        Divergence: a loss, or an activity after training, is not finite.
    """
    torch.set_num_threads(1)
    first = batches(0)
    matched = isinstance(rule, NetworkRule) and rule.rule.projection == "matched"
    local = MatchingTrainer if matched else LocalTrainer
    options: dict[str, Any] = {
        "shape": first.shape[1:],
        "optimiser": schedule.optimiser,
        "fabric": fabric_on(first.device),
        "seed": seed,
    }
    trainer: Trainer = (
        local(network, None, rule, one_pass=True, **options)
        if credit == "local"
        else GlobalTrainer(network, None, rule, **options)
    )
    if isinstance(trainer, MatchingTrainer):
        trainer.match(MATCHING_SPEED * schedule.learning_rate)
    recorded = {}
    for step in range(schedule.steps + 1):
        if watched and step in schedule.recorded:
            recorded[step] = aligned(network, trainer.losses, watched)
        if step < schedule.steps:
            try:
                trainer.step(batches(step))
            except FloatingPointError as error:
                raise Divergence(str(error)) from error
    _require_finite(network, first)
    return trainer.losses, (
        stack(recorded.values(), "step", [*recorded]) if recorded else xr.Dataset()
    )


class MatchingTrainer(LocalTrainer):
    """Local training in which B learns from the backpropagated error only, ten times as fast.

    It stands for the "theoretical optimum" of Wu et al. 2026 (arXiv 2601.21683): the network is
    trained by local losses, and each B moves to where the local error is nearest to the
    backpropagated one. That takes the gradient of the last block's loss, which no local rule has.
    """

    knows_global_error = True

    def match(self, learning_rate: float) -> None:
        """Let each B below the last block learn at a rate of its own."""
        (optimiser,) = self.optimisers
        optimiser.add_param_group({"params": self._matched(), "lr": learning_rate})

    def _matched(self) -> list[nn.Parameter]:
        return [p for loss in self.losses[:-1] for p in loss.parameters() if p.requires_grad]

    def _parameters(
        self, parameters: Sequence[Sequence[nn.Parameter]]
    ) -> tuple[list[nn.Parameter], ...]:
        (*_, last) = super()._parameters(parameters)
        return (*(list(group) for group in parameters[:-1]), last)

    def backward(self, views: Tensor, batch: Any = None) -> dict[int, Tensor]:
        values = super().backward(views, batch)
        with capture(self.model, [block.name for block in self.blocks]) as outputs:
            self.model(views)
        activities = [*outputs.values()]
        matching_loss(activities, self.losses).backward()
        return values


def matching_loss(activities: Sequence[Tensor], losses: nn.ModuleList) -> Tensor:
    """The sum over blocks below the last of ||dL_global/dz_l - dL_l/dz_l||^2, of projections.

    Args:
        activities: z_1..z_L, with their graph.
        losses: of the blocks.
    """
    top = activities[-1].detach()
    (*below, last) = losses
    errors = torch.autograd.grad(last(activities[-1], top), activities[:-1])
    parts = [
        loss.matching_loss(z, top, error)
        for loss, z, error in zip(below, activities[:-1], errors, strict=True)
        if isinstance(loss, ScoredPairs)
    ]
    return torch.stack(parts).sum()


def fabric_on(device: torch.device) -> Fabric:
    """One process on a device."""
    cuda = device.type == "cuda"
    return Fabric(accelerator="cuda" if cuda else "cpu", devices=[device.index or 0] if cuda else 1)


def aligned(network: nn.Module, losses: nn.ModuleList, watched: Sequence[Batch]) -> xr.Dataset:
    """Cosine of the local and the global update per ``layer``, the mean over batches.

    Args:
        network: its children are the blocks.
        losses: of the blocks.
        watched: both views of each batch, stacked (2N, ...), and what else the losses read.
    """
    parts = [align(network, None, losses, each[0], batch=each)[["cosine"]] for each in watched]
    return xr.concat(parts, "batch").mean("batch").drop_vars(("parameter", "view"), errors="ignore")


def masked_cosines(
    network: nn.Sequential, last: nn.Module, watched: Sequence[Batch]
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
    for row, (views, *_) in enumerate(watched):
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


def _require_finite(network: nn.Sequential, inputs: Tensor) -> None:
    with torch.no_grad():
        z = inputs
        for block in network:
            z = block(z)
            if not z.isfinite().all():
                raise Divergence("Training left activities that are not finite.")


def _of(parameter: str, block: str) -> bool:
    return parameter.startswith(f"{block}.")
