"""The training loop that `LocalTrainer` and `GlobalTrainer` share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from itertools import filterfalse
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from linlocal import inputs
from linlocal.analysis.block import refuse_inference, refuse_lazy
from linlocal.analysis.local_losses import LocalLoss, LocalRule, contracted, on_network
from linlocal.analysis.random_states import (
    random_states,
    seed_everything,
    set_random_states,
)
from linlocal.analysis.training.batches import (
    Layout,
    check_labels,
    check_layout,
    inputs_in,
    views_in,
    views_made,
)
from linlocal.analysis.training.checkpoints import Checkpoints
from linlocal.analysis.training.health import Spread, warn_of_equal_views
from linlocal.analysis.training.identity import (
    differences,
    told,
    told_loader,
    told_network,
    told_optimisers,
)
from linlocal.analysis.training.loaders import Loader, SeededLoader
from linlocal.analysis.training.optimisers import (
    MakeOptimiser,
    MakeScheduler,
    make_optimisers,
    make_scheduler,
)
from linlocal.analysis.training.orthogonality import Orthogonality
from linlocal.analysis.training.placing import Device, Places
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
from linlocal.inputs import warn
from linlocal.rules import Rule
from linlocal.seeds import seed_for

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Log = Callable[[int, Mapping[str, float]], None]
Around = Callable[[int, Any], AbstractContextManager[Any]]

ADAMW: MakeOptimiser = partial(torch.optim.AdamW, lr=2e-4)
_UNREACHED = (
    "Was an output detached, or does a reentrant checkpoint lie inside (use_reentrant=False works)?"
)
_BY_HAND = (
    "To change a training on purpose, load its weights into a new one: "
    'trainer.model.load_state_dict(Checkpoints(folder).load()["model"]).'
)
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
        shape: the shape of one input of the network, without the axis of samples. Inputs of
            another floating precision are cast to that of the network.
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
        orthogonality: keeps weights orthogonal, by a penalty or after each step; None leaves them
            free.
        views: how a batch (or what ``augment`` makes) holds its two views: "stacked" in one tensor
            (2N, ...), or as a "pair" of tensors (N, ...). None tells it from the batch, where two
            tensors of one shape at its beginning are a pair, and raises where a batch says that it
            holds something else: other labels in its halves, a third tensor of that shape.
        devices: a device for each block and its loss; see `LocalTrainer`.

    Raises:
        ImportError: lightning-fabric is missing.
        TypeError: an optimiser or a scheduler is given instead of what makes one.
        ValueError: the blocks cannot be trained this way, there is not one optimiser for each, an
            optimiser or a scheduler cannot be stepped or trains other parameters, ``shard`` is
            given with a precision that scales the loss or with ``orthogonality``, or this finds no
            weights.
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
        orthogonality: Orthogonality | None = None,
        views: Layout | None = None,
        devices: Sequence[Device] | None = None,
    ) -> None:
        for name, function in (("augment", augment), ("log", log)):
            if function is not None and not callable(function):
                raise TypeError(f"{name} must be a function, got {inputs.described(function)}.")
        check_layout(views)
        if not isinstance(shape, Iterable):
            raise TypeError(
                f"shape must be a sequence of whole numbers, got {inputs.described(shape)}: the "
                "shape of one input, without the axis of samples."
            )
        self._shape = tuple(inputs.whole(n, "An entry of shape", 1) for n in shape)
        seed = inputs.whole(seed, "seed", 0)
        self.fabric = fabric or _default_fabric()
        self.augment, self.seed, self.log, self.views = augment, seed, log, views
        self._precision = self.fabric.strategy.precision
        self._scaler = getattr(self._precision, "scaler", None)
        with self.fabric.autocast():
            self._casts = torch.is_autocast_enabled(self.fabric.device.type)
        if shard and self._scaler is not None:
            raise ValueError(
                "Sharded training does not scale the loss, which this precision needs: use "
                '"bf16-mixed" or "32-true", or shard=False.'
            )
        if orthogonality is not None:
            inputs.instance(orthogonality, Orthogonality, "orthogonality", "an Orthogonality(...)")
            if shard:
                raise ValueError(
                    "Sharded training holds a part of each weight, and orthogonality is a property "
                    "of the whole: use shard=False, or no orthogonality."
                )
        inputs.instance(model, nn.Module, "model", "a torch.nn.Module")
        refuse_lazy(model)
        refuse_inference(model)
        self._places = Places(self.fabric, devices)
        self.model = self._precision.convert_module(model)
        self.blocks = self._places.move(self.model, blocks)
        dtypes = (p.dtype for p in self.model.parameters() if p.is_floating_point())
        self._dtype = next(dtypes, torch.float32)
        if self.fabric.world_size > 1:
            own = self.model.state_dict()
            own = {name: value for name, value in own.items() if not sharded(value)}
            self.model.load_state_dict(self.fabric.broadcast(own), strict=False)
        with self.fabric.autocast(), self._places.running(self.blocks):
            zeros = torch.zeros(_ROWS, *self._shape, dtype=self._dtype, device=self.fabric.device)
            found = survey(self.model, self.blocks, zeros)
        self.shapes = found.shapes
        losses = [] if rule is None else [*contracted(on_network(rule).build(found.shapes, seed))]
        if rule is not None and len(losses) != len(self.blocks):
            raise ValueError(
                f"A rule needs one local loss per block: {len(losses)} losses for "
                f"{len(self.blocks)} blocks."
            )
        self.losses = nn.ModuleList(losses[self._first_teacher() :])
        self._judges = cast(Sequence[LocalLoss], self.losses)
        if any(loss.remembers for loss in self._judges):
            raise ValueError(
                "A loss that remembers keys of a teacher came to a trainer, which has no teacher: "
                "train in your own loop, which AlignmentRecorder(teacher=...) records."
            )
        if more := next((loss for loss in self._judges if loss.num_views != 2), None):
            raise ValueError(
                f"{more.title} compares {more.num_views} views, and trainers take batches of two: "
                "train in your own loop, which AlignmentRecorder(views=...) records."
            )
        judged = found.dtypes[len(found.dtypes) - len(self.losses) :]
        for position, (loss, dtype) in enumerate(zip(self.losses, judged, strict=True)):
            # A norm in float32 may stand before layers in 16 bits; autocast casts by itself.
            loss.to(self._places.of(position), self._dtype if self._casts else dtype)
        self.parameters = self._parameters(found.parameters)
        self.optimisers = make_optimisers(optimiser, self.parameters)
        made = told_optimisers(self.optimisers)
        if orthogonality is not None:
            orthogonality.keep(self.model, self.optimisers)
            made += f" {told(orthogonality)}"
        self.schedulers = (
            [] if scheduler is None else [make_scheduler(scheduler, o) for o in self.optimisers]
        )
        self._told = {
            "trainer": type(self).__name__,
            "blocks": told([block.name for block in self.blocks]),
            "seed": told(seed),
            "rule": told(rule),
            "loss": "None",
            "network": told_network(self.model),
            "losses": told_network(self.losses),
            "optimiser": made,
            "scheduler": told([scheduler, *(s.state_dict() for s in self.schedulers)]),
            "augment": told(augment),
            "views": told(views),
            "precision": str(getattr(self._precision, "precision", None)),
        }
        self._loader = ""
        self.epoch = self.position = self.steps = 0
        self._shard = shard and self.fabric.world_size > 1
        self._means: GradientMeans | None = None
        self._began = False
        self._spread = Spread(self.blocks)
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
    def _first_teacher(self) -> int:
        """The position, from 0, of the lowest block whose loss teaches."""

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
                in the passes, weights, buffers and optimisers are as before the step. It is raised
                as well when a scaled loss has been too large in so many steps that its scale fell
                below 1.
            TypeError: the batch is something else, such as a dict.
            ValueError: it does not hold two views; or, in the first step, a block gets no gradient.
            RuntimeError: inference mode is on.
        """
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "A step needs gradients, which torch.inference_mode() forbids, also to code that "
                "turns them on: call step and fit outside of it."
            )
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
        drawn = self._places.drawing(self.seed, self.fabric.global_rank, self.steps)
        try:
            with drawn, self._averaging():
                views = self._views(batch)
                losses = self.backward(views, batch)
            values = self._finite(losses, views)
            if not self._began:
                self._check_first(views)
        except BaseException:
            for of_module, name, buffer, before in buffers:
                of_module[name] = buffer.copy_(before)
            self._clear()
            raise
        self._began = True
        self._update()
        self.steps += 1
        return values

    def _finite(self, losses: Mapping[int, Tensor], views: Tensor) -> dict[int, float]:
        """The losses as numbers, the means over processes, after a look at the gradients."""
        together = torch.stack([*losses.values()]).double()
        # A scaler looks at gradients itself, and passes over a step.
        gradients = [] if self._scaler is not None else self._gradients()
        if gradients:
            home = (n.to(self.fabric.device) for n in torch._foreach_norm(gradients))
            norms = torch.stack([*home]).double()
            together = torch.cat([together, norms.sum(0, keepdim=True)])
        if self.fabric.world_size > 1:
            together = self._mean(together)
        numbers = together.tolist()
        values = dict(zip(losses, numbers, strict=False))
        for l, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"The loss of block {l} ({self.blocks[l - 1].name}) is {value} at step "
                    f"{self.steps}; nothing was changed by this step. {self._cause(views)}"
                )
        # A norm overflows before its entries do.
        if gradients and not math.isfinite(numbers[-1]):
            bad = [n for n, p in self._named() if p.grad is not None and not _all_finite(p.grad)]
            if self._on_any(bad):
                raise FloatingPointError(
                    f"The losses are finite at step {self.steps}, but gradients are not: of "
                    f"{', '.join(bad[:3]) or 'another process'}. Nothing was changed by this step. "
                    "A root or a quotient at 0 has no finite derivative (one is the distance of "
                    "equal views): add an epsilon inside; or use a wider precision."
                )
        return values

    def _gradients(self) -> list[Tensor]:
        """The numbers in the gradients, as far as they lie on this process."""
        gradients = (_local(p.grad) for p in self._all_parameters if p.grad is not None)
        return [g.coalesce().values() if g.is_sparse else g for g in gradients]

    def _cause(self, views: Tensor) -> str:
        """Why a loss is not finite."""
        bad = self._bad_weights()
        if bad:
            return (
                f"Weights are not finite already: those of {', '.join(bad[:3])}. An earlier step "
                "or other code made them so: start from a checkpoint, with a lower learning rate."
            )
        finite = views.isfinite()
        if not finite.all():
            return f"{int((~finite).sum())} of {views.numel()} inputs are not finite: look there."
        return "Numbers overflow: lower the learning rate, or use a wider precision."

    def _bad_weights(self) -> list[str]:
        return [name for name, p in self._named() if not _all_finite(p.detach())]

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        return (pair for root in (self.model, self.losses) for pair in root.named_parameters())

    def _on_any(self, bad: Sequence[str]) -> bool:
        """Whether there are such names on any process."""
        if self.fabric.world_size == 1:
            return bool(bad)
        count = torch.tensor(float(bool(bad)), device=self.fabric.device)
        return float(self._mean(count)) > 0

    def _check_first(self, views: Tensor) -> None:
        """Look at what the first step did, before anything is updated."""
        if len(self.losses):
            warn_of_equal_views(views)
        # On the device meta a network has other parameters than when the trainer was made.
        if any(p.is_meta for p in self._all_parameters):
            return
        # By name, because sharding puts others in their place.
        named = {n.replace("_orig_mod.", ""): p for n, p in self.model.named_parameters()}
        for l, block in enumerate(self.blocks, start=1):
            own = {name: named[name] for name in block.parameters if name in named}
            trained = [name for name, p in own.items() if p.requires_grad]
            idle = [name for name in trained if own[name].grad is None]
            if idle and len(idle) == len(trained):
                raise ValueError(
                    f"The loss reached none of the parameters of block {l} ({block.name}): "
                    f"{_UNREACHED} Freeze the block if it is not to be trained."
                )
            if idle:
                warn(
                    f"In the first step {', '.join(idle[:3])} of block {l} ({block.name}) got no "
                    f"gradient, which is {len(idle)} of {len(trained)} parameters; without one "
                    f"they stay as they are. Are they used? {_UNREACHED}"
                )

    def fit(
        self,
        loader: Loader,
        epochs: int,
        *,
        checkpoints: Checkpoints | None = None,
        every: int = 1000,
        around: Around | None = None,
    ) -> None:
        """Train, starting from the newest checkpoint if there is one.

        Args:
            loader: gives the batches of an epoch from a given one on, like
                `training.SeededLoader`.
            epochs: the total number of epochs, those of earlier calls included.
            checkpoints: where the state is stored; None stores nothing.
            every: the number of steps between checkpoints; the last step is always stored.
            around: encloses every step, called with its number and the batch, such as the method
                ``step`` of a `probing.Monitor`.

        Raises:
            ValueError: an epoch has no batches, or the checkpoint is that of another training; what
                makes a training this one is all that changes its numbers, but not the number of
                processes, ``shard``, ``micro_batch`` and ``one_pass``.
            TypeError: ``loader`` has no method batches, as a DataLoader or a list has none.
            CheckpointError: there are checkpoints, but none can be read.
            FloatingPointError: as `step`; or weights are not finite and would be stored.
        """
        if not callable(getattr(loader, "batches", None)):
            raise TypeError(
                "fit needs a loader with a method batches(epoch, start), because it goes on from "
                f"any batch of an epoch after an interruption, got {inputs.described(loader)}: use "
                "SeededLoader(data, batch_size), or loop over your own and call trainer.step."
            )
        epochs = inputs.whole(epochs, "epochs", 0)
        every = inputs.whole(every, "every", 1)
        if checkpoints is not None:
            inputs.instance(checkpoints, Checkpoints, "checkpoints", "Checkpoints(folder)")
        if around is not None and not callable(around):
            raise TypeError(
                "around must be a function of a step's number and batch that gives a context "
                f"manager, got {inputs.described(around)}: pass monitor.step, not the monitor."
            )
        self._loader = told_loader(loader)
        state = checkpoints.load() if checkpoints else None
        if state is not None:
            self.load_state_dict(state)
        elif self.steps == 0:
            seed_everything(seed_for(self.seed, self.fabric.global_rank))
        while self.epoch < epochs:
            title = f"epoch {self.epoch + 1}/{epochs}"
            batches = loader.batches(self.epoch, self.position)
            total = len(loader) if isinstance(loader, Sized) else None
            for batch in tqdm(batches, title, total, initial=self.position, disable=None):
                self._refuse_single(loader, batch)
                with around(self.steps, batch) if around else nullcontext():
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
            ValueError: the state is that of another training, or no state of a trainer.
        """
        inputs.instance(state, Mapping, "state", "a dict, as state_dict returns it")
        stored = state.get("training")
        if not isinstance(stored, Mapping) or "place" not in state:
            raise ValueError(
                "This is no state of a trainer, as state_dict returns it: it has "
                f"{', '.join(map(str, state)) or 'nothing'}."
            )
        own = self._identity()
        missing = [key for key in own if key not in stored]
        if missing:
            raise ValueError(
                "The checkpoint is of a version that did not store what makes a training this one "
                f"(missing: {', '.join(missing)}), so it may belong to another: go on with that "
                f"version, or start in another folder. {_BY_HAND}"
            )
        if not (stored["loader"] and own["loader"]):  # one of both did not run in fit
            own.pop("loader")
        changed = self.fabric.broadcast(differences(stored, own))
        if changed:
            before, now = ({key: both[k] for key, both in changed.items()} for k in (0, 1))
            raise ValueError(
                f"The checkpoint belongs to the training with {_listed(before)}, but this training "
                f"is that with {_listed(now)}: use the same trainer, blocks and seed, and the same "
                f"of what is named here, or another folder. {_BY_HAND}"
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

    def _identity(self) -> dict[str, str]:
        return {**self._told, "loader": self._loader}

    def _save(self, checkpoints: Checkpoints) -> None:
        bad = self._bad_weights()
        if self._on_any(bad):
            raise FloatingPointError(
                f"After step {self.steps} weights are not finite, those of "
                f"{', '.join(bad[:3]) or 'another process'}, so no checkpoint was written and "
                "those before stay: lower the learning rate, or use a wider precision."
            )
        state = self.state_dict() if self._shard or self.fabric.is_global_zero else {}
        if self.fabric.is_global_zero:
            checkpoints.save(self.steps, state)
        self.fabric.barrier()

    def _on_device(self, batch: Any) -> Any:
        if isinstance(batch, Tensor):
            return batch.to(self.fabric.device)
        return self.fabric.to_device(batch)

    def _views(self, batch: Any) -> Tensor:
        if self.augment:
            views = views_made(self.augment(inputs_in(batch, self.views)), self.views)
        else:
            views = views_in(batch, self.views, paired=len(self.losses) > 0)
        if views.ndim != 1 + len(self._shape):
            raise ValueError(
                f"Views of shape {tuple(views.shape)} came to a trainer of inputs of shape "
                f"{self._shape}: expected both views stacked along the first axis, "
                f"(2N, {', '.join(map(str, self._shape))})."
            )
        if self.views is None and any(loss.compares == "views" for loss in self._judges):
            check_labels(batch, len(views))
        if views.is_inference():
            views = views.clone()  # of a data set that ran in inference mode
        return views.to(self._dtype) if views.is_floating_point() else views

    def _refuse_single(self, loader: Loader, batch: Any) -> None:
        """Raise if the rows of a batch are different data, as a data set gave them one by one."""
        first, *others = batch if isinstance(batch, tuple | list) and batch else [batch]
        paired = any(isinstance(other, Tensor) and other.shape == first.shape for other in others)
        unpaired = isinstance(first, Tensor) and not paired and isinstance(loader, SeededLoader)
        compared = any(loss.compares is not None for loss in self._judges)
        if unpaired and compared and not self.augment and self.views is None:
            raise ValueError(
                f"A batch of {len(first)} rows came from a SeededLoader, so its rows are different "
                "data and its halves no two views: make two views by augment, or let the data set "
                "return (view 1, view 2) for each datum."
            )

    def _backpropagate(self, loss: Tensor) -> None:
        if not loss.requires_grad:  # as for a frozen block, which may have nothing to train
            return
        with self._without_autocast():
            self.fabric.backward(loss)

    def _without_autocast(self) -> AbstractContextManager[Any]:
        """For backward passes: a cut pass runs them in the middle of a forward pass."""
        device = self.fabric.device.type
        if not torch.is_autocast_enabled(device):
            return nullcontext()
        return torch.autocast(device, enabled=False)

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
            scale = self._scaler.get_scale()
            if scale < 1:
                raise FloatingPointError(
                    "Gradients were not finite in so many steps that the scale of the loss fell "
                    f"to {scale:g}, and those steps changed no weights. They are not finite at any "
                    'scale: look for a root or a quotient at 0, or use "bf16-mixed".'
                )
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


def _local(value: Tensor) -> Tensor:
    """The part of a tensor that lies on this process."""
    return cast(Any, value).to_local() if sharded(value) else value


def _all_finite(value: Tensor) -> bool:
    value = _local(value)
    value = value.coalesce().values() if value.is_sparse else value
    return value.is_meta or bool(value.isfinite().all())


def _listed(parts: Mapping[str, str]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in parts.items())


def _default_fabric() -> Fabric:
    if find_spec("lightning_fabric") is None:
        raise ImportError(
            "Training needs lightning-fabric: pip install 'linlocal[train]' (or lightning-fabric)."
        )
    from lightning_fabric import Fabric

    return Fabric(devices=1)
