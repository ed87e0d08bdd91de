"""The training loop that `LocalTrainer` and `GlobalTrainer` share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from itertools import filterfalse
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from linlocal.analysis.block import resolve
from linlocal.analysis.local_losses import LocalLoss, LocalRule, contracted, on_network
from linlocal.analysis.random_states import (
    drawing,
    random_states,
    seed_everything,
    set_random_states,
)
from linlocal.analysis.training.checkpoints import Checkpoints
from linlocal.analysis.training.loaders import Loader
from linlocal.analysis.training.sharding import (
    exchange,
    load_module,
    load_optimiser,
    shard,
    sharded,
    whole,
)
from linlocal.analysis.training.synchronise import GradientMeans
from linlocal.analysis.watching import complete_from_above, survey
from linlocal.inputs import described
from linlocal.rules import Rule
from linlocal.seeds import seed_for

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MakeOptimiser = Callable[[list[nn.Parameter]], Optimizer]
MakeScheduler = Callable[[Optimizer], LRScheduler]
Log = Callable[[int, Mapping[str, float]], None]

ADAMW: MakeOptimiser = partial(torch.optim.AdamW, lr=2e-4)
_ROWS = 2  # rows of a pass that shows shapes; BatchNorm of a single pixel needs 2


class Trainer(ABC):
    """The part of training that is common to local and global training.

    The network's forward pass runs as it is written, and train and eval modes stay as the user set
    them. What lies between two blocks (a stem, an embedding) is trained with the upper block.

    With several processes of Fabric (its strategy "ddp") the trainer averages gradients itself,
    block by block, while other blocks are computed; `training.synchronise` says what happens to a
    parameter that has no gradient on some processes. Each process holds the whole network or, with
    ``shard``, its part of each block. Batch normalisation sees the rows of its process, unless
    ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` has converted the network and the losses
    before (it runs on GPUs only). A checkpoint holds the global random states of the first process
    only, so with several processes draw random numbers in ``augment``.

    Args:
        model: the network, which is moved to the device of ``fabric``.
        blocks: the names of its blocks, as for `linlocal.analysis.blocks`.
        rule: the rule, one of `local_losses` or your own.
        shape: the shape of one input of the network, without the axis of samples.
        optimiser: makes the optimiser of all parameters, those of the losses included; or a list
            with one maker for each block, called with the parameters of the block and its loss.
        scheduler: makes the scheduler of each optimiser; it is stepped after every step.
        augment: makes stacked views (2N, ...) of a batch's inputs, on the device; None if the
            loader gives views. All that it draws from torch is a function of (seed, process, step).
        fabric: the device, precision and strategy; by default one device and float32.
        shard: whether each process holds only a part of the weights, gradients and optimiser states
            of each block and its loss, see `training.sharding`. With one process nothing changes.
        seed: seeds the projections of the losses, what networks, losses and ``augment`` draw in
            each step, and the global random states at the first step.
        log: called after every step with its number and the losses by block, "loss/1" and so on.

    Raises:
        ImportError: lightning-fabric is missing.
        ValueError: the blocks cannot be trained this way, there is not one optimiser for each, or
            ``shard`` is given with a precision that scales the loss.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Iterable[str] | None,
        rule: Rule | LocalRule | None,
        *,
        shape: Sequence[int],
        optimiser: MakeOptimiser | Sequence[MakeOptimiser] = ADAMW,
        scheduler: MakeScheduler | None = None,
        augment: Callable[[Any], Tensor] | None = None,
        fabric: Fabric | None = None,
        shard: bool = False,
        seed: int = 0,
        log: Log | None = None,
    ) -> None:
        self.fabric = fabric or _default_fabric()
        self.augment, self.seed, self.log = augment, seed, log
        self._precision = self.fabric.strategy.precision
        self._scaler = getattr(self._precision, "scaler", None)
        if shard and self._scaler is not None:
            raise ValueError(
                "Sharded training does not scale the loss, which this precision needs: use "
                '"bf16-mixed" or "32-true", or shard=False.'
            )
        self.model = self._precision.convert_module(model).to(self.fabric.device)
        self.blocks = resolve(self.model, blocks)
        dtypes = (p.dtype for p in self.model.parameters() if p.is_floating_point())
        self._dtype = next(dtypes, torch.float32)
        if self.fabric.world_size > 1:
            own = self.model.state_dict()
            own = {name: value for name, value in own.items() if not sharded(value)}
            self.model.load_state_dict(self.fabric.broadcast(own), strict=False)
        with self.fabric.autocast():
            zeros = torch.zeros(_ROWS, *shape, dtype=self._dtype, device=self.fabric.device)
            found = survey(self.model, self.blocks, zeros)
        self.shapes = found.shapes
        losses = [] if rule is None else [*contracted(on_network(rule).build(found.shapes, seed))]
        if rule is not None and len(losses) != len(self.blocks):
            raise ValueError(
                f"A rule needs one local loss per block: {len(losses)} losses for "
                f"{len(self.blocks)} blocks."
            )
        self.losses = nn.ModuleList(losses[-1:] if self.end_to_end else losses)
        self._judges = cast(Sequence[LocalLoss], self.losses)
        self.losses.to(self.fabric.device, self._dtype)
        self.parameters = self._parameters(found.parameters)
        # One optimiser for all computes the same as one for each block, in a single call.
        makers, groups = [optimiser], [[p for group in self.parameters for p in group]]
        if not callable(optimiser):
            makers, groups = list(optimiser), list(self.parameters)
        if len(makers) != len(groups):
            raise ValueError(f"{len(makers)} optimisers for {len(self.blocks)} blocks.")
        self.optimisers = [
            make(group)
            for make, group in zip(cast(list[MakeOptimiser], makers), groups, strict=True)
            if group
        ]
        self.schedulers = [scheduler(o) for o in self.optimisers] if scheduler else []
        self.epoch = self.position = self.steps = 0
        self._shard = shard and self.fabric.world_size > 1
        self._means: GradientMeans | None = None
        self._list()

    end_to_end = False
    """Whether one loss trains all blocks."""

    @abstractmethod
    def backward(self, views: Tensor, batch: Any = None) -> dict[int, Tensor]:
        """Add the gradients of a batch to ``.grad``.

        Args:
            views: (2N, ...) both views stacked, on the device.
            batch: the batch as the loader gave it, for losses that read labels.

        Returns:
            The loss of each block that has one, by its number 1..L.
        """

    @abstractmethod
    def _parameters(
        self, parameters: Sequence[Sequence[nn.Parameter]]
    ) -> tuple[list[nn.Parameter], ...]:
        """The parameters that the optimiser of each block trains, given what the survey found."""

    def step(self, batch: Any) -> dict[int, float]:
        """One step of all optimisers.

        Args:
            batch: both views, stacked in one tensor (2N, ...) or as a pair of tensors (N, ...); or
                a tuple or list that begins with one of these, such as (inputs, labels). With
                ``augment``, what it takes, or a tuple or list that begins with that.

        Returns:
            The loss of each block that has one, by its number 1..L.

        Raises:
            FloatingPointError: a loss or a gradient is not finite. After this and any other error
                in the passes, weights, buffers and optimisers are as before the step.
            TypeError: the batch is something else, such as a dict.
            ValueError: it has more than two views.
        """
        self._distribute()
        # Gradients that the user's own backward pass may have left are not part of this step.
        self._clear()
        buffers = [
            (of_module, name, buffer, buffer.clone())
            for of_module in self._buffers
            for name, buffer in of_module.items()
            if buffer is not None
        ]
        batch = self._on_device(batch)
        drawn = drawing(self.fabric.device, self.seed, self.fabric.global_rank, self.steps)
        try:
            with drawn, self._averaging():
                losses = self.backward(self._views(batch), batch)
            values = self._finite(losses)
        except BaseException:
            for of_module, name, buffer, before in buffers:
                of_module[name] = buffer.copy_(before)
            self._clear()
            raise
        self._update()
        self.steps += 1
        return values

    def _finite(self, losses: Mapping[int, Tensor]) -> dict[int, float]:
        """The losses as numbers, the means over processes, after a look at the gradients."""
        together = torch.stack([*losses.values()]).double()
        if self.fabric.world_size > 1:
            together = self._mean(together)
        # A scaler looks at gradients itself, and passes over a step; sharded ones lie elsewhere.
        gradients = [p.grad for p in self._all_parameters if p.grad is not None]
        if gradients and self._scaler is None and not self._shard:
            norms = torch.stack(torch._foreach_norm(gradients))
            together = torch.cat([together, norms.sum(0, keepdim=True)])
        numbers = together.tolist()
        values = dict(zip(losses, numbers, strict=False))
        for l, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"The loss of block {l} ({self.blocks[l - 1].name}) is {value} at step "
                    f"{self.steps}; nothing was changed by this step. Look for inputs that are not "
                    "finite, lower the learning rate, or use a wider precision."
                )
        if not math.isfinite(numbers[-1]):
            raise FloatingPointError(
                f"The losses are finite at step {self.steps}, but gradients are not: of "
                f"{', '.join(self._not_finite()[:3])}. Nothing was changed by this step. A root or "
                "a quotient at 0 has no finite derivative (one is the distance of equal views): "
                "add an epsilon inside; or use a wider precision."
            )
        return values

    def _not_finite(self) -> list[str]:
        named = (pair for root in (self.model, self.losses) for pair in root.named_parameters())
        return [n for n, p in named if p.grad is not None and not p.grad.isfinite().all()]

    def fit(
        self,
        loader: Loader,
        epochs: int,
        *,
        checkpoints: Checkpoints | None = None,
        every: int = 1000,
    ) -> None:
        """Train, starting from the newest checkpoint if there is one.

        Args:
            loader: gives the batches of an epoch from a given one on, like
                `training.SeededLoader`.
            epochs: the total number of epochs, those of earlier calls included.
            checkpoints: where the state is stored; None stores nothing.
            every: the number of steps between checkpoints; the last step is always stored.

        Raises:
            ValueError: an epoch has no batches, or the checkpoint is that of another training.
            CheckpointError: there are checkpoints, but none can be read.
            FloatingPointError: as `step`.
        """
        state = checkpoints.load() if checkpoints else None
        if state is not None:
            self.load_state_dict(state)
        elif self.steps == 0:
            seed_everything(seed_for(self.seed, self.fabric.global_rank))
        while self.epoch < epochs:
            described = f"epoch {self.epoch + 1}/{epochs}"
            batches = loader.batches(self.epoch, self.position)
            for batch in tqdm(batches, described, initial=self.position, disable=None):
                values = self.step(batch)
                self.position += 1
                if self.log:
                    self.log(self.steps, {f"loss/{l}": value for l, value in values.items()})
                if checkpoints and self.steps % every == 0:
                    self._save(checkpoints)
            if self.position == 0:
                raise ValueError(
                    f"The loader gave no batch in epoch {self.epoch}: are there fewer data than a "
                    "batch holds?"
                )
            self.epoch, self.position = self.epoch + 1, 0
        if checkpoints:
            self._save(checkpoints)

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed training needs, as `Checkpoints` can store it.

        Sharded values are put together, so any number of processes can resume from them. All
        processes must call this if values are sharded.
        """
        return {
            "training": self._identity(),
            "place": (self.epoch, self.position, self.steps),
            "model": whole(dict(self.model.state_dict())),
            "losses": whole(dict(self.losses.state_dict())),
            "optimisers": [whole(o.state_dict()) for o in self.optimisers],
            "schedulers": [s.state_dict() for s in self.schedulers],
            "scaler": self._precision.state_dict(),
            "random": random_states(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where `state_dict` was called; this sets the global random states too.

        Raises:
            ValueError: the state is that of another training.
        """
        if state["training"] != self._identity():
            raise ValueError(
                f"The checkpoint belongs to the training {state['training']}, but this training is "
                f"{self._identity()}: use the same trainer, blocks and seed, or another folder."
            )
        self._distribute()
        self.epoch, self.position, self.steps = state["place"]
        load_module(self.model, state["model"])
        load_module(self.losses, state["losses"])
        for optimiser, stored in zip(self.optimisers, state["optimisers"], strict=True):
            load_optimiser(optimiser, stored)
        for scheduler, stored in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(stored)
        self._precision.load_state_dict(state["scaler"])
        set_random_states(state["random"])

    def _identity(self) -> dict[str, Any]:
        names = [block.name for block in self.blocks]
        return {"trainer": type(self).__name__, "blocks": names, "seed": self.seed}

    def _save(self, checkpoints: Checkpoints) -> None:
        state = self.state_dict() if self._shard or self.fabric.is_global_zero else {}
        if self.fabric.is_global_zero:
            checkpoints.save(self.steps, state)
        self.fabric.barrier()

    def _on_device(self, batch: Any) -> Any:
        if isinstance(batch, Tensor):
            return batch.to(self.fabric.device)
        return self.fabric.to_device(batch)

    def _views(self, batch: Any) -> Tensor:
        inputs = batch
        if isinstance(batch, tuple | list) and batch:
            alike = sum(_are_two_views(batch[0], each) for each in batch)
            if alike > 2 and not self.augment:
                raise ValueError(
                    f"A batch came with {alike} tensors of one shape, which look like so many "
                    "views: a local loss compares two. Give two, or make two by augment."
                )
            inputs = batch if alike == len(batch) == 2 and not self.augment else batch[0]
        views = self.augment(inputs) if self.augment else inputs
        if isinstance(views, tuple | list) and len(views) == 2 and _are_two_views(*views):
            views = torch.cat([*views])
        if not isinstance(views, Tensor):
            made = f" and from augment {described(views)}" if self.augment else ""
            raise TypeError(
                "A batch is a tensor with both views stacked (2N, ...), a pair of views (N, ...), "
                f"or a tuple that begins with one of these, got {described(batch)}{made}."
            )
        return views.to(self._dtype) if views.is_floating_point() else views

    def _backpropagate(self, loss: Tensor) -> None:
        if not loss.requires_grad:  # as for a frozen block, which may have nothing to train
            return
        device = self.fabric.device.type
        if not torch.is_autocast_enabled(device):
            self.fabric.backward(loss)
            return
        # A cut pass gets here in the middle of a forward pass under autocast.
        with torch.autocast(device, enabled=False):
            self.fabric.backward(loss)

    def _distribute(self) -> None:
        """Shard the network, at the first step: until then its losses may be run whole."""
        if self.fabric.world_size == 1 or self._means is not None:
            return
        if self._shard:
            moved = shard(self.model, self.blocks, self.losses, self.fabric.device.type)
            self.parameters = tuple([moved[p] for p in group] for group in self.parameters)
            for optimiser in self.optimisers:
                exchange(optimiser, moved)
            self._list()
        self._means = GradientMeans([list(filterfalse(sharded, g)) for g in self.parameters])

    @contextmanager
    def _averaging(self) -> Iterator[None]:
        """Enclose backward passes; afterwards their gradients are means over processes."""
        if self._means is None:
            yield
            return
        above = complete_from_above(self.blocks, self._ready)
        reported = above if self.end_to_end else nullcontext()
        with self._means.sending(), reported:
            yield

    def _ready(self, position: int) -> None:
        """Tell that the gradients of block ``position`` (from 0) are complete.

        ``backward`` calls it, except where one loss trains several blocks.
        """
        if self._means is not None:
            self._means.start(position)

    def _mean(self, value: Tensor) -> Tensor:
        return cast(Tensor, self.fabric.all_reduce(value))

    def _update(self) -> None:
        # Fabric's optimisers are not used: each would change the loss scale for the next ones.
        for optimiser in self.optimisers:
            if self._scaler is None:
                optimiser.step()
            else:
                self._scaler.step(optimiser)
        if self._scaler is not None:
            self._scaler.update()
        for scheduler in self.schedulers:
            scheduler.step()
        self._clear()

    def _clear(self) -> None:
        for parameter in self._all_parameters:
            parameter.grad = None

    def _list(self) -> None:
        """List the modules once, because walking through them costs as much as a small network."""
        modules = [part for root in (self.model, self.losses) for part in root.modules()]
        self._buffers = [part._buffers for part in modules if part._buffers]
        self._all_parameters = [*self.model.parameters(), *self.losses.parameters()]


def _are_two_views(first: Any, second: Any) -> bool:
    """Whether two things are views of the same data: tensors of inputs in one shape."""
    return (
        isinstance(first, Tensor)
        and isinstance(second, Tensor)
        and first.shape == second.shape
        and first.ndim > 1
        and first.is_floating_point()
    )


def _default_fabric() -> Fabric:
    if find_spec("lightning_fabric") is None:
        raise ImportError(
            "Training needs lightning-fabric: pip install 'linlocal[train]' (or lightning-fabric)."
        )
    from lightning_fabric import Fabric

    return Fabric(devices=1)
