"""Training by local losses, where the memory of a block is freed before the next ones run.

`LocalTrainer` and its counterpart `GlobalTrainer` (BP-SSL: the loss of the last block,
backpropagated through all blocks) have the same interface, take the same batches and draw the same
views for the same seed. Both need the extra ``train`` (lightning-fabric).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.local_losses import (
    LocalLoss,
    LocalRule,
    ScoredPairs,
    refuse_without_loss,
)
from linlocal.analysis.training.batches import Layout
from linlocal.analysis.training.identity import told
from linlocal.analysis.training.loop import ADAMW, Log, Trainer
from linlocal.analysis.training.matching import Matching
from linlocal.analysis.training.optimisers import MakeOptimiser, MakeScheduler
from linlocal.analysis.training.orthogonality import Orthogonality
from linlocal.analysis.training.placing import Device
from linlocal.analysis.training.segments import Segments
from linlocal.analysis.watching import (
    MicroBatches,
    cut,
    downstream,
    one_pass,
    own_pass,
    untouched,
)
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

    A projection that is matched to the backpropagated error (`local_losses.LeastSquares`) is solved
    for before the step, from a forward and backward pass through the whole network, which takes the
    memory of end-to-end training. It shows what the best B would do, and is no local rule. With
    ``tangents`` there is no backward pass: that many forward passes for each block carry
    directional derivatives (`watching.pushed_forward`).

    A rule whose penalty is in the downstream metric gets the averaged Jacobian of the blocks above
    from a pass of its own, every ``refresh`` steps (see `NetworkRule`). That pass backpropagates
    through the whole network, so it takes the memory of end-to-end training.

    With ``window`` = w block l learns from L_e(z_e, z_L), the loss of block e = min(l + w - 1, L),
    backpropagated through the blocks between, with z_{l-1} cut off (statement 12 of the theory).
    w = 1 is local training, and w = L is `GlobalTrainer`. The losses of the blocks 1..w-1 teach
    nothing and are not kept: ``losses`` begins with that of block w. Direct feedback acts where the
    loss is: the top activity that a loss reads is a constant for it, as without a window. The
    graphs of w blocks are alive at a time. Later losses need them, so they are not freed while an
    error goes down, as backpropagation does: nearly L blocks peak above it. Windows overlap, and
    each loss sends its own error through the blocks that they share, so errors go down through
    (L - w + 1)(w - 1) blocks in all: 0 for w = 1, L - 1 for w = L, about L^2 / 4 for w = L / 2.

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
        orthogonality: as for `Trainer`.
        views: as for `Trainer`.
        micro_batch: the number of rows that a block runs on at a time, both views counted; None
            takes all. The gradients are the same except for random numbers: dropout draws other
            masks.
        one_pass: whether to keep the graphs of all blocks and run one backward pass.
        devices: a device for each block, for a network that does not fit on one: the block, its
            loss and its optimiser lie there, and everything else on the device of ``fabric``, to
            which activities come back between blocks. In one process.
        window: the number w of blocks through which a loss is backpropagated, 1..L.

    Raises:
        ValueError: as `Trainer`; a loss that is no `ScoredPairs` needs the backpropagated error, or
            one is sharded; ``micro_batch`` is below 1 or given with ``one_pass``; ``window`` is not
            in 1..L, or is above 1 with ``one_pass``, ``shard``, ``devices``, a projection that is
            matched or a penalty in the downstream metric; or ``devices`` or ``shard`` come with
            one of the last two. A step raises it as
            `watching.MicroBatches` does; the first step also if a trainable parameter of a loss, or
            all parameters of a block, get no gradient, or if samples act on each other where the
            error is estimated from tangents.
        TypeError: ``rule`` cannot build losses.
    """

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
        orthogonality: Orthogonality | None = None,
        views: Layout | None = None,
        micro_batch: int | None = None,
        one_pass: bool = False,
        devices: Sequence[Device] | None = None,
        window: int = 1,
    ) -> None:
        self.window = inputs.whole(window, "window", 1)
        if self.window > 1 and (one_pass or shard):
            raise ValueError(
                f"A window of {window} blocks keeps the graphs of so many blocks and runs through "
                "each several times. "
                + (
                    "one_pass keeps the graphs of all blocks for one backward pass: give one of "
                    "the two."
                    if one_pass
                    else "shard gathers the weights of a block for one backward pass: use "
                    "shard=False, or window=1."
                )
            )
        if self.window > 1 and devices is not None:
            raise ValueError(
                f"A window of {window} blocks passes errors from block to block on one device: "
                "leave devices out, or use window=1."
            )
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
            orthogonality=orthogonality,
            views=views,
            devices=devices,
        )
        if one_pass and micro_batch is not None:
            raise ValueError(
                "micro_batch saves the memory that one_pass takes: give one of the two."
            )
        self._micro = None if micro_batch is None else MicroBatches(self.blocks, micro_batch)
        self.one_pass = one_pass
        self.two_passes = not one_pass and any(loss.reads_top for loss in self._judges[:-1])
        self._unseen = set(range(len(self.blocks)))
        metric = [j for j in self._judges if isinstance(j, ScoredPairs) and j.reads_downstream]
        self._refresh = metric[0].refresh if metric else 0
        if metric and shard:
            raise ValueError(
                "A penalty in the downstream metric measures the map of the whole network, which "
                'sharded training never holds: use shard=False, or the metric "frobenius".'
            )
        self._matching = Matching(self.model, self.blocks, self._judges, self.fabric.autocast)
        if self._matching.losses and shard:
            raise ValueError(
                "A projection that is matched to the backpropagated error needs a pass through "
                "the whole network, which sharded blocks do not have: take shard=False, or train "
                "the projection with the loss."
            )
        if devices is not None and (metric or self._matching.losses):
            raise ValueError(
                "A projection that is matched, or penalised in the downstream metric, needs a pass "
                "through the whole network on one device: leave devices out, or train the "
                "projection with the loss."
            )
        if self.window > 1:
            self._check_windows()

    def _check_windows(self) -> None:
        refuse_without_loss(self._judges, "A window of several blocks")
        self._told["trainer"] += f" with windows of {self.window} blocks"
        for l, loss in enumerate(self._judges, start=self.window):
            if loss.needs_global_error:
                raise ValueError(
                    f"The projection of block {l} is matched to the backpropagated error, which a "
                    "window of several blocks does not have: train it with the loss, or use "
                    "window=1."
                )
            if isinstance(loss, ScoredPairs) and loss.reads_downstream:
                raise ValueError(
                    f"The penalty of block {l} is in the metric of all blocks above, which a "
                    'window of several blocks does not measure: use the metric "frobenius", or '
                    "window=1."
                )

    def backward(self, views: Tensor, batch: Any = None) -> dict[int, Tensor]:
        if self._refresh and self.steps % self._refresh == 0:
            self._measure_downstream(views)
        # A recorder around this must not take the cut passes for backpropagation.
        with own_pass(), torch.enable_grad():
            if self._matching.losses:
                self._matching.solve(views, batch, first=bool(self._unseen))
            if self.one_pass:
                return self._at_once(views, batch)
            return (self._in_turn if self.window == 1 else self._in_windows)(views, batch)

    def _measure_downstream(self, views: Tensor) -> None:
        with self.fabric.autocast():
            found = downstream(self.model, self.blocks, self._judges, views)
        for loss, *measured in found:
            several = self.fabric.world_size > 1
            loss.set_downstream(*(self._mean(m) if several else m for m in measured))

    def _at_once(self, views: Tensor, batch: Any) -> dict[int, Tensor]:
        outputs: list[Tensor] = []

        def look(position: int, z: Tensor) -> Tensor:
            outputs.append(z)
            return z.detach().clone()  # what follows may work on it in place

        with self.fabric.autocast():
            with one_pass(self.blocks, look), self._places.running(self.blocks):
                self.model(views)
            top = outputs[-1].detach()
            values = [
                self._places.brought_home(loss(z, top.to(z.device), batch))
                for loss, z in zip(self._judges, outputs, strict=True)
            ]
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
            above = z.detach() if last else None if top is None else top.to(z.device)
            value = self._judges[position](z, above, batch)
            self._backpropagate(value)
            self._seen(position)
            values[position + 1] = self._places.brought_home(value.detach())

        self._run(views, cut(self.blocks, visit))
        return values

    def _in_windows(self, views: Tensor, batch: Any) -> dict[int, Tensor]:
        top = self._top(views) if self.two_passes else None
        values: dict[int, Tensor] = {}
        segments, last = Segments(), len(self.blocks) - 1

        def look(position: int, z: Tensor) -> Tensor:
            self._spread.look(position, z, self.steps)
            above, loss = segments.add(z), self._teacher(position)
            if loss is None:
                return above
            value = loss(z, z.detach() if position == last else top, batch)
            values[position + 1] = value.detach()
            lowest = position - self.window + 1
            pupils = range(lowest, (position if position == last else lowest) + 1)
            own = [p for p in loss.parameters() if p.requires_grad]
            with self._without_autocast():
                for pupil in segments.send(value, own, pupils, self.fabric.backward):
                    self._seen(pupil)
            return above

        self._run(views, one_pass(self.blocks, look))
        return values

    def _teacher(self, position: int) -> LocalLoss | None:
        """The loss of a block, if it teaches."""
        place = position - self._first_teacher()
        return self._judges[place] if place >= 0 else None

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
            self._run(views, cut(self.blocks, visit))
        return kept[0]

    def _run(self, views: Tensor, watched: AbstractContextManager[None]) -> None:
        parts = self._micro.cut() if self._micro else nullcontext()
        placing = self._places.running(self.blocks)
        with self.fabric.autocast(), parts, watched, placing:
            self.model(views)

    def _check_that_it_trains(self, position: int) -> None:
        """Raise if the first backward pass of a block missed what it should train."""
        loss = self._teacher(position)
        own = dict(loss.named_parameters()) if loss else {}
        idle = [name for name, p in own.items() if p.requires_grad and p.grad is None]
        if idle:
            raise ValueError(
                f"The local loss of block {position + 1} does not train its own "
                f"{', '.join(idle)}: use these parameters in its value, or freeze them."
            )
        owned = {id(p) for p in own.values()}
        trained = [p for p in self.parameters[position] if id(p) not in owned]
        # On the device meta a network has other parameters than when the trainer was made.
        moved = any(p.is_meta for p in self.model.parameters())
        if trained and not moved and all(p.grad is None for p in trained):
            block = f"block {position + 1} ({self.blocks[position].name})"
            teacher = min(position + self.window, len(self.blocks))
            which = (
                f"local loss of {block}"
                if self.window == 1
                else f"loss of block {teacher}, from which {block} learns,"
            )
            raise ValueError(
                f"The {which} reached none of the block's parameters: was its output detached, or "
                "does a reentrant checkpoint lie inside (use_reentrant=False works)? Freeze the "
                "block if it is not to be trained."
            )
        self._unseen.discard(position)

    def _parameters(
        self, parameters: Sequence[Sequence[nn.Parameter]]
    ) -> tuple[list[nn.Parameter], ...]:
        losses = map(self._teacher, range(len(parameters)))
        return tuple(
            [*own, *(p for p in (loss.parameters() if loss else ()) if p.requires_grad)]
            for own, loss in zip(parameters, losses, strict=True)
        )

    def _first_teacher(self) -> int:
        if self.window > len(self.blocks):
            raise ValueError(
                f"A window of {self.window} blocks in a network of {len(self.blocks)}: window="
                f"{len(self.blocks)} is backpropagation."
            )
        return self.window - 1


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
        orthogonality: as for `Trainer`.
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
        orthogonality: Orthogonality | None = None,
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
            orthogonality=orthogonality,
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

    def _first_teacher(self) -> int:
        return len(self.blocks) - 1


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
