"""Training of a chain of blocks: all at once, block after block, or end to end.

Siddiqui et al. 2023 (arXiv 2302.01647). The head and projector of each block are in its local loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor, nn

from experiments.training.optimisers import lars, warm_up_cosine
from linlocal.analysis.local_losses import ActivityNoise, LocalRule
from linlocal.analysis.training import GlobalTrainer, LocalTrainer, Trainer

Order = Literal["simultaneous", "sequential", "end to end"]
Batches = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class LARSSchedule:
    """How LARS trains blocks: its rate rises during a warm-up and falls along a cosine.

    Attributes:
        steps: steps of training of each block.
        learning_rate: the highest learning rate.
        warm_up: share of the steps during which the rate rises.
    """

    steps: int
    learning_rate: float
    warm_up: float = 10 / 300

    @property
    def options(self) -> dict[str, Any]:
        """The options of a trainer that follows this schedule."""
        warm_up = round(self.warm_up * self.steps)
        return {
            "optimiser": partial(lars, learning_rate=self.learning_rate),
            "scheduler": partial(warm_up_cosine, steps=self.steps, warm_up=warm_up),
        }


def train_blocks(
    network: nn.Sequential,
    rule: LocalRule,
    batches: Batches,
    schedule: LARSSchedule,
    order: Order,
    *,
    window: int = 1,
    seed: int = 0,
    before_step: Callable[[int, Trainer], None] | None = None,
    **options: Any,
) -> nn.ModuleList:
    """Train the blocks of a network, in place.

    Args:
        network: a chain of blocks, as `experiments.networks.cut` makes it.
        rule: the rule that builds the loss of each block, head included.
        batches: maps the number of a step to both views (2N, ...) and the label of each row.
        schedule: steps and optimiser of the training.
        order: "simultaneous": all blocks in each step, a stop-gradient between them; "sequential":
            one after the other, those below in eval mode but for the noise; "end to end": the loss
            of the last block through all of them.
        window: in the simultaneous order, through how many blocks a loss is backpropagated; see
            `linlocal.analysis.training.LocalTrainer`.
        seed: seeds the heads and the noise.
        before_step: called with the number of each step, and after the last one with ``steps``;
            blocks trained one after the other do not call it.
        **options: further options of the trainers of `linlocal.analysis.training`, such as
            ``fabric``.

    Returns:
        The losses of the blocks that have one that teaches.

    Raises:
        ValueError: an unknown order, or a window of more than one block in another order than the
            simultaneous one.
        FloatingPointError: a loss is not finite.
    """
    if order not in get_args(Order):
        raise ValueError(f"order must be one of {', '.join(get_args(Order))}, got {order!r}.")
    if order != "simultaneous" and window != 1:
        raise ValueError(
            f"A window of {window} blocks belongs to the simultaneous order: in the sequential one "
            "the blocks above are not trained yet, and end to end is the window of all blocks. Got "
            f"order={order!r}."
        )
    names = [name for name, _ in network.named_children()]
    shape = tuple(batches(0)[0].shape[1:])
    options |= {"shape": shape, "seed": seed, **schedule.options}
    if order == "sequential":
        losses = nn.ModuleList()
        for l, name in enumerate(names, start=1):
            _freeze(network[: l - 1])
            trainer: Trainer = LocalTrainer(network[:l], [name], rule, **options)
            _run(trainer, batches, schedule.steps, None)
            losses.extend(trainer.losses)
        network.requires_grad_(True).train()
        return losses
    if order == "simultaneous":
        trainer = LocalTrainer(network, names, rule, window=window, **options)
    else:
        trainer = GlobalTrainer(network, names, rule, **options)
    _run(trainer, batches, schedule.steps, before_step)
    return trainer.losses


def _run(
    trainer: Trainer,
    batches: Batches,
    steps: int,
    before_step: Callable[[int, Trainer], None] | None,
) -> None:
    for step in range(steps + 1):
        if before_step is not None:
            before_step(step, trainer)
        if step < steps:
            trainer.step(batches(step))


def _freeze(blocks: nn.Module) -> None:
    """Stop the weights and the statistics of blocks, but not their noise."""
    blocks.requires_grad_(False).eval()
    for module in blocks.modules():
        if isinstance(module, ActivityNoise):
            module.train()
