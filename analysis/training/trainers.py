"""Training of networks by local losses, the memory of a block freed before the next one runs.

`LocalTrainer` and its counterpart `GlobalTrainer` (BP-SSL: the loss of the last block,
backpropagated through all of them) have one interface, take the same batches and draw the same
views for the same seed. Both need the extra ``train`` (lightning-fabric).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from linlocal.analysis.local_losses import LocalRule, checked_rule
from linlocal.analysis.training.loop import Log, Trainer
from linlocal.analysis.watching import MicroBatches, blockwise, untouched

GlobalLoss = Callable[[Tensor, Any], Tensor]


class LocalTrainer(Trainer):
    """Every block by its own loss: min over (theta_l, B_l) of L_l(z_l, z_L), z_{l-1} detached.

    A block runs on the detached output of the one below, its loss is backpropagated at once, and
    its graph is freed before the next block runs: the memory for activities is that of the largest
    block, whatever the depth. Gradients are those of a network with a detach between blocks and one
    backward pass of the summed losses (Loewe et al. 2019, arXiv 1905.11786). All optimisers step
    after the last block, so that a loss that is not finite changes nothing.

    Losses that read the top activity (direct feedback) need it before: a pass without gradients
    computes it, which keeps one activity, draws the same dropout masks and moves no statistics. It
    costs a forward pass; the attribute ``two_passes`` says whether it is done.

    With ``micro_batch`` a block holds the activities of so many rows at a time, beside its input,
    its output and the output's gradient; it runs once more for it. See
    `watching.MicroBatches`.

    Args:
        model: the network.
        blocks: as for `blocks`.
        rule: of `local_losses`, or your own.
        micro_batch: rows that a block runs on at a time, both views counted; None takes all. The
            gradients are the same, but for random numbers: dropout draws other masks.
        options: as of `training.Trainer`.

    Raises:
        ValueError: as `Trainer`, parameters of a loss that its value does not train, or
            ``micro_batch`` below 1; in a step, as `watching.MicroBatches`.
        TypeError: ``rule`` cannot build losses.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Iterable[str] | None,
        rule: LocalRule,
        *,
        micro_batch: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, blocks, checked_rule(rule), **options)
        self._micro = None if micro_batch is None else MicroBatches(self.blocks, micro_batch)
        outputs = self._outputs()
        with self.fabric.autocast():
            below = list(zip(self.losses, outputs, strict=True))[:-1]
            self.two_passes = any(blockwise.reads_top(loss, z) for loss, z in below)
            for l, (loss, z) in enumerate(zip(self.losses, outputs, strict=True), start=1):
                _check_that_it_trains(loss, z, outputs[-1], l)

    def backward(self, views: Tensor, batch: Any = None) -> dict[int, Tensor]:
        top = self._top(views) if self.two_passes else blockwise.no_top()
        values: dict[int, Tensor] = {}

        def visit(position: int, z: Tensor) -> None:
            last = position == len(self.blocks) - 1
            value = self.losses[position](z, z.detach() if last else top)
            self._backpropagate(value)
            self._ready(position)
            values[position + 1] = value.detach()

        with torch.enable_grad():
            self._run(views, visit)
        return values

    def _top(self, views: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def visit(position: int, z: Tensor) -> None:
            if position == len(self.blocks) - 1:
                kept.append(z.clone())  # what follows may work on it in place

        # Autocast of its own: weights that it casts without gradients must not be used again.
        with untouched(self.model), torch.no_grad():
            self._run(views, visit)
        return kept[0]

    def _run(self, views: Tensor, visit: blockwise.Visit) -> None:
        cut = self._micro.cut() if self._micro else nullcontext()
        with self.fabric.autocast(), cut, blockwise.walls(self.blocks, visit):
            self.model(views)

    def _parameters(
        self, parameters: Sequence[Sequence[nn.Parameter]]
    ) -> tuple[list[nn.Parameter], ...]:
        return tuple(
            [*own, *(p for p in loss.parameters() if p.requires_grad)]
            for own, loss in zip(parameters, self.losses, strict=True)
        )


class GlobalTrainer(Trainer):
    """BP-SSL: min over all theta of L_L(z_L), the last block's local loss, backpropagated.

    Args:
        model: the network.
        blocks: as for `blocks`.
        rule: whose loss of the last block is taken; None with a ``loss``.
        loss: of your own, instead: of the network's output and the batch as the loader gave it.
        options: as of `training.Trainer`.

    Raises:
        ValueError: as `Trainer`, or not one of rule and loss.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Iterable[str] | None,
        rule: LocalRule | None = None,
        *,
        loss: GlobalLoss | None = None,
        **options: Any,
    ) -> None:
        if (rule is None) == (loss is None):
            raise ValueError("Give a rule, whose loss of the last block is taken, or a loss.")
        self.loss = loss
        super().__init__(model, blocks, rule, **options)

    def backward(self, views: Tensor, batch: Any = None) -> dict[int, Tensor]:
        outputs: list[Tensor] = []

        def keep(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            outputs.append(output)
            return output.clone()  # what follows may work on it in place

        handle = self.blocks[-1].module.register_forward_hook(keep)
        try:
            with torch.enable_grad(), self.fabric.autocast():
                answer = self.model(views)
                if self.loss is not None:
                    value = self.loss(answer, batch)
                else:
                    value = self.losses[-1](outputs[-1], outputs[-1].detach())
        finally:
            handle.remove()
        self._backpropagate(value)
        return {len(self.blocks): value.detach()}

    def _parameters(
        self, parameters: Sequence[Sequence[nn.Parameter]]
    ) -> tuple[list[nn.Parameter], ...]:
        self.losses = self.losses[-1:]
        owned = {id(p) for group in parameters for p in group}
        head = [p for p in self.model.parameters() if p.requires_grad and id(p) not in owned]
        top = [*parameters[-1], *head, *(p for p in self.losses.parameters() if p.requires_grad)]
        return (*(list(group) for group in parameters[:-1]), top)


def tensorboard_log(folder: str | Path) -> Log:
    """A ``log`` of trainers that writes scalars for TensorBoard.

    Args:
        folder: of the event files.

    Raises:
        ImportError: tensorboard is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError("Logging for TensorBoard needs it: pip install tensorboard.") from error
    writer = SummaryWriter(str(folder))

    def log(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return log


def _check_that_it_trains(loss: nn.Module, z: Tensor, top: Tensor, l: int) -> None:
    trained = {name: p for name, p in loss.named_parameters() if p.requires_grad}
    if not trained:
        return
    with untouched(loss), torch.enable_grad():
        reached = {id(leaf) for leaf in blockwise.leaves(loss(z, top))}
    if idle := [name for name, p in trained.items() if id(p) not in reached]:
        raise ValueError(
            f"The local loss of block {l} does not train its own {', '.join(idle)}: a matched "
            "projection learns from the backpropagated error, which local training has not. Use "
            'projection="trained" or "random", or freeze these parameters.'
        )
