"""Training by local losses, where the memory of a block is freed before the next one runs.

`LocalTrainer` and its counterpart `GlobalTrainer` (BP-SSL: the loss of the last block,
backpropagated through all blocks) have the same interface, take the same batches and draw the same
views for the same seed. Both need the extra ``train`` (lightning-fabric).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from linlocal.analysis.local_losses import LocalRule, refuse_without_loss
from linlocal.analysis.training.batches import Layout
from linlocal.analysis.training.identity import told
from linlocal.analysis.training.loop import ADAMW, Log, Trainer
from linlocal.analysis.training.optimisers import MakeOptimiser, MakeScheduler
from linlocal.analysis.watching import MicroBatches, cut, one_pass, own_pass, untouched
from linlocal.rules import Rule

if TYPE_CHECKING:
    from lightning_fabric import Fabric

GlobalLoss = Callable[[Tensor, Any], Tensor]


class LocalTrainer(Trainer):
    """Trains each block by its own loss: min over (theta_l, B_l) of L_l(z_l, z_L), z_{l-1} cut off.

    A block runs on the detached output of the one below, its loss is backpropagated at once, and
    its graph is freed before the next block runs: the memory for activities is that of the largest
    block, whatever the depth. Gradients are those of a network with a detach between blocks and one
    backward pass of the summed losses (Loewe et al. 2019, arXiv 1905.11786). Weights change after
    the last block has run, so a loss that is not finite changes nothing.

    Losses that read the top activity (direct feedback) need it beforehand. A pass without gradients
    computes it; that pass keeps one activity, draws the same dropout masks and moves no statistics.
    It costs a forward pass, and the attribute ``two_passes`` says whether it is run.

    With ``one_pass`` the graphs of all blocks are kept until the last one has run, and one backward
    pass serves all losses. This is faster for small networks and for direct feedback, and takes the
    memory of end-to-end training. The gradients are the same.

    With ``micro_batch`` a block holds the activities of that many rows at a time, in addition to
    its input, its output and the output's gradient. It pays for this with a second forward pass;
    see `watching.MicroBatches`.

    Args:
        model: the network.
        blocks: as for `linlocal.analysis.blocks`.
        rule: a `linlocal.Rule`, a `NetworkRule`, or a rule of your own with a method build.
        shape: as for `Trainer`.
        optimiser: as for `Trainer`.
        scheduler: as for `Trainer`.
        augment: as for `Trainer`.
        fabric: as for `Trainer`.
        shard: as for `Trainer`.
        seed: as for `Trainer`.
        log: as for `Trainer`.
        views: as for `Trainer`.
        micro_batch: the number of rows that a block runs on at a time, both views counted; None
            takes all. The gradients are the same except for random numbers: dropout draws other
            masks.
        one_pass: whether to keep the graphs of all blocks and run one backward pass.

    Raises:
        ValueError: as `Trainer`, a loss has parameters that learn from the backpropagated error
            signal, or ``micro_batch`` is below 1 or given with ``one_pass``. A step raises it as
            `watching.MicroBatches` does; the first step also if a trainable parameter of a loss, or
            all parameters of a block, get no gradient.
        TypeError: ``rule`` cannot build losses.
    """

    knows_global_error = False
    """Whether a subclass gives the backpropagated error to losses that learn from it."""

    def __init__(
        self,
        model: nn.Module,
        blocks: Iterable[str] | None,
        rule: Rule | LocalRule,
        *,
        shape: Sequence[int],
        optimiser: MakeOptimiser | Sequence[MakeOptimiser] = ADAMW,
        scheduler: MakeScheduler | None = None,
        augment: Callable[[Any], Tensor] | None = None,
        fabric: Fabric | None = None,
        shard: bool = False,
        seed: int = 0,
        log: Log | None = None,
        views: Layout | None = None,
        micro_batch: int | None = None,
        one_pass: bool = False,
    ) -> None:
        super().__init__(
            model,
            blocks,
            rule,
            shape=shape,
            optimiser=optimiser,
            scheduler=scheduler,
            augment=augment,
            fabric=fabric,
            shard=shard,
            seed=seed,
            log=log,
            views=views,
        )
        if one_pass and micro_batch is not None:
            raise ValueError(
                "micro_batch saves the memory that one_pass takes: give one of the two."
            )
        self._micro = None if micro_batch is None else MicroBatches(self.blocks, micro_batch)
        self.one_pass = one_pass
        self.two_passes = not one_pass and any(loss.reads_top for loss in self._judges[:-1])
        self._unseen = set(range(len(self.blocks)))
        for l, loss in enumerate(self._judges, start=1):
            if loss.needs_global_error and not self.knows_global_error:
                raise ValueError(
                    f"The projection of block {l} is matched: it learns from the backpropagated "
                    "error signal, which local training does not have. Train it with the loss, or "
                    "take a random one."
                )

    def backward(self, views: Tensor, batch: Any = None) -> dict[int, Tensor]:
        # A recorder around this must not take the cut passes for backpropagation.
        with own_pass(), torch.enable_grad():
            return (self._at_once if self.one_pass else self._in_turn)(views, batch)

    def _at_once(self, views: Tensor, batch: Any) -> dict[int, Tensor]:
        outputs: list[Tensor] = []

        def look(position: int, z: Tensor) -> Tensor:
            outputs.append(z)
            return z.detach().clone()  # what follows may work on it in place

        with self.fabric.autocast():
            with one_pass(self.blocks, look):
                self.model(views)
            top = outputs[-1].detach()
            values = [loss(z, top, batch) for loss, z in zip(self._judges, outputs, strict=True)]
        for position, z in enumerate(outputs):
            self._spread.look(position, z, self.steps)
        self._backpropagate(torch.stack(values).sum())
        for position in range(len(values)):
            self._seen(position)
        return {l: value.detach() for l, value in enumerate(values, start=1)}

    def _in_turn(self, views: Tensor, batch: Any) -> dict[int, Tensor]:
        top = self._top(views) if self.two_passes else None
        values: dict[int, Tensor] = {}

        def visit(position: int, z: Tensor) -> None:
            self._spread.look(position, z, self.steps)
            last = position == len(self.blocks) - 1
            value = self._judges[position](z, z.detach() if last else top, batch)
            self._backpropagate(value)
            self._seen(position)
            values[position + 1] = value.detach()

        self._run(views, visit)
        return values

    def _seen(self, position: int) -> None:
        if position in self._unseen:
            self._check_that_it_trains(position)
        self._ready(position)

    def _top(self, views: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def visit(position: int, z: Tensor) -> None:
            if position == len(self.blocks) - 1:
                kept.append(z.clone())  # what follows may work on it in place

        # Autocast of its own: weights that it casts without gradients must not be used again.
        # Weights are kept in the first step only, in which a network may initialise them.
        as_before = untouched(self.model, weights=bool(self._unseen), records=False)
        with own_pass(), as_before, torch.no_grad():
            self._run(views, visit)
        return kept[0]

    def _run(self, views: Tensor, visit: Callable[[int, Tensor], None]) -> None:
        parts = self._micro.cut() if self._micro else nullcontext()
        with self.fabric.autocast(), parts, cut(self.blocks, visit):
            self.model(views)

    def _check_that_it_trains(self, position: int) -> None:
        """Raise if the first backward pass of a block missed what it should train."""
        loss = self._judges[position]
        own = loss.named_parameters()
        idle = [name for name, p in own if p.requires_grad and p.grad is None]
        if idle and not loss.needs_global_error:
            raise ValueError(
                f"The local loss of block {position + 1} does not train its own "
                f"{', '.join(idle)}: use these parameters in its value, or freeze them."
            )
        owned = {id(p) for p in loss.parameters()}
        trained = [p for p in self.parameters[position] if id(p) not in owned]
        # On the device meta a network has other parameters than when the trainer was made.
        moved = any(p.is_meta for p in self.model.parameters())
        if trained and not moved and all(p.grad is None for p in trained):
            raise ValueError(
                f"The local loss of block {position + 1} ({self.blocks[position].name}) reached "
                "none of the block's parameters: was its output detached, or does a reentrant "
                "checkpoint lie inside (use_reentrant=False works)? Freeze the block if it is not "
                "to be trained."
            )
        self._unseen.discard(position)

    def _parameters(
        self, parameters: Sequence[Sequence[nn.Parameter]]
    ) -> tuple[list[nn.Parameter], ...]:
        return tuple(
            [*own, *(p for p in loss.parameters() if p.requires_grad)]
            for own, loss in zip(parameters, self.losses, strict=True)
        )


class GlobalTrainer(Trainer):
    """Trains by BP-SSL: min over all theta of L_L(z_L), the last block's loss, backpropagated.

    Args:
        model: the network.
        blocks: as for `linlocal.analysis.blocks`.
        rule: the rule whose loss of the last block is backpropagated; None with a ``loss``.
        loss: a loss of your own instead of a rule: a function of the network's output and of the
            batch as the loader gave it.
        shape: as for `Trainer`.
        optimiser: as for `Trainer`.
        scheduler: as for `Trainer`.
        augment: as for `Trainer`.
        fabric: as for `Trainer`.
        shard: as for `Trainer`.
        seed: as for `Trainer`.
        log: as for `Trainer`.
        views: as for `Trainer`.

    Raises:
        ValueError: as `Trainer`, not exactly one of rule and loss is given, or the rule has no
            loss.
    """

    end_to_end = True

    def __init__(
        self,
        model: nn.Module,
        blocks: Iterable[str] | None,
        rule: Rule | LocalRule | None = None,
        *,
        loss: GlobalLoss | None = None,
        shape: Sequence[int],
        optimiser: MakeOptimiser | Sequence[MakeOptimiser] = ADAMW,
        scheduler: MakeScheduler | None = None,
        augment: Callable[[Any], Tensor] | None = None,
        fabric: Fabric | None = None,
        shard: bool = False,
        seed: int = 0,
        log: Log | None = None,
        views: Layout | None = None,
    ) -> None:
        if (rule is None) == (loss is None):
            raise ValueError("Give a rule, whose loss of the last block is taken, or a loss.")
        self.loss = loss
        super().__init__(
            model,
            blocks,
            rule,
            shape=shape,
            optimiser=optimiser,
            scheduler=scheduler,
            augment=augment,
            fabric=fabric,
            shard=shard,
            seed=seed,
            log=log,
            views=views,
        )
        refuse_without_loss(self._judges, "Backpropagation")
        self._told["loss"] = told(loss)

    def backward(self, views: Tensor, batch: Any = None) -> dict[int, Tensor]:
        outputs: list[Tensor] = []

        def keep(position: int, z: Tensor) -> Tensor:
            outputs.append(z)
            return z.clone()  # what follows may work on it in place

        with torch.enable_grad(), self.fabric.autocast():
            if self.loss is not None:
                value = self.loss(self.model(views), batch)
            else:
                with one_pass(self.blocks[-1:], keep):
                    self.model(views)
                value = self._judges[-1](outputs[0], outputs[0].detach(), batch)
                self._spread.look(len(self.blocks) - 1, outputs[0], self.steps)
        if not value.requires_grad and any(self.parameters):
            raise ValueError(
                "The loss has no gradient, so nothing can be trained: was the output detached, or "
                "made under no_grad or inside a reentrant checkpoint?"
            )
        self._backpropagate(value)
        return {len(self.blocks): value.detach()}

    def _parameters(
        self, parameters: Sequence[Sequence[nn.Parameter]]
    ) -> tuple[list[nn.Parameter], ...]:
        owned = {id(p) for group in parameters for p in group}
        head = [p for p in self.model.parameters() if p.requires_grad and id(p) not in owned]
        top = [*parameters[-1], *head, *(p for p in self.losses.parameters() if p.requires_grad)]
        return (*(list(group) for group in parameters[:-1]), top)


def tensorboard_log(folder: str | Path) -> Log:
    """A ``log`` for trainers that writes scalars for TensorBoard.

    Args:
        folder: the folder of the event files.

    Raises:
        ImportError: tensorboard is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "Logging for TensorBoard needs tensorboard: pip install tensorboard."
        ) from error
    writer = SummaryWriter(str(folder))

    def log(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return log
