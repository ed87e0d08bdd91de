"""Records local against global gradients while you train a network in your own loop.

>>> recorder = AlignmentRecorder(model, blocks=["layer1", "layer2"], rule=rule, every=100)
>>> for images in loader:
...     with recorder.step():
...         loss = global_loss(model(images))
...         loss.backward()
...     optimizer.step()
>>> recorder.dataset().cosine.sel(layer=1)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
import xarray as xr
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.alignment import series
from linlocal.analysis.alignment.batch import to_dataset
from linlocal.analysis.alignment.loggers import Log, checked, tell
from linlocal.analysis.alignment.meter import Meter, RuleOrLosses
from linlocal.analysis.alignment.sums import Measurement
from linlocal.analysis.feedback import is_fed
from linlocal.analysis.results import Provenance, ResultError
from linlocal.analysis.training import told
from linlocal.vocabulary import described

Cadence = int | Callable[[int], bool]


def log_spaced(per_decade: int) -> Callable[[int], bool]:
    """A cadence for ``every``: step 0, then ``per_decade`` steps in each decade, even in log(step).

    Raises:
        ValueError: fewer than one per decade.
    """
    inputs.whole(per_decade, "per_decade", 1)

    def due(step: int) -> bool:
        if step <= 1:
            return True
        return math.floor(per_decade * math.log10(step)) > math.floor(
            per_decade * math.log10(step - 1)
        )

    return due


class AlignmentRecorder:
    """Measures what `alignment.align` measures, in some steps of a training.

    A recorded step costs no forward pass. The block outputs are those of the training's own pass,
    the global gradient is that of its own ``loss.backward()``, and the local gradients come from
    the same graph, with the same dropout masks and batch statistics. In the other steps nothing is
    hooked. ``.grad``, buffers and random state stay what they would be without a recorder. A
    recorded step holds a copy of every block's output, its error signals and two more gradients of
    all parameters, so its peak memory is up to twice that of the training (`docs/benchmarks.md`
    measures it); a step that is not recorded takes none.

    By default the forward pass is one call of the network on both views, stacked along the batch.
    With ``views="separate"`` it is one call for each view, the first view first, and batch
    statistics are then those of one view. Other loops say how many views each of their forward
    passes has, for losses of so many views (`ManyViewsRule`): (3,) is one pass of three stacked
    views, (1, 1, 1) a pass for each, (2, 6) two large crops in one pass and six small ones in
    another (Caron et al. 2021, arXiv 2104.14294). Several batches in a step (gradient accumulation)
    add up, if `step` is told how many.

    Passes without gradients do not count, unless they are those of a ``teacher``: the keys of a
    momentum encoder (He et al. 2020, arXiv 1911.05722), or of the network itself where it gives
    targets without gradients. Local losses then see the views of the network and after them those
    of the teacher, and only the network's own rows are measured. A loss with a bank of earlier keys
    (`MomentumContrast`) gets those of every step, so the teacher is watched in all of them. MoCo is
    ``views=(1,), teacher=momentum_encoder, teacher_views=(1,)``, and BYOL ``views=(1, 1)`` with
    ``teacher_views=(1, 1)``. What does not fit the declaration raises: another number of passes, a
    pass in another mode, one to which no gradient came back, a block called by itself.

    What counts is what a backward pass adds to ``.grad``, not the gradients that somebody takes on
    the way. It is recorded as the pass gives it, before hooks on parameters change it; these hooks
    are not called for the recorder's own gradients. With several processes (DDP) the recorder
    compares the averaged local gradient with the averaged global one, and the first process writes;
    every process needs a recorder.

    Args:
        model: the network, inside DistributedDataParallel or Fabric's wrapper if it is trained so.
        blocks: the names of its blocks, as for `linlocal.analysis.blocks`.
        rule: a `linlocal.Rule`, a `NetworkRule`, or a rule of your own with a method build; or the
            losses of a rule themselves (if they are trained); or several of these by name, recorded
            side by side.
        every: n to record the steps 0, n, 2 n, ..., or a function of the step such as `log_spaced`.
        path: the folder of the recorded series, which `alignment.series.read` reads at any time;
            None keeps the series in memory. A series that exists is continued after its last step.
        flush_every: how many recorded steps lie between two writes, and between two transfers from
            the device.
        against: where the global gradient comes from. "backward": the backward pass in the step.
            "rule": each rule's own loss on the last block, which costs one more backward pass for
            each rule.
        view_parts: whether to split the gradients of the parameters into the parts of the two
            views, as for `alignment.meter.Meter`; error signals are always split.
        trains_rule: whether the training backpropagates exactly the rule's loss on the last block;
            the gradient there is then not computed twice. This is checked at every write.
        views: whether both views run in one forward pass, "stacked", or in a pass each, "separate";
            or the number of views in each forward pass of a batch, in the order of the passes.
        teacher: a network with the same blocks whose forward passes, all without gradients, give
            more views to compare with; ``model`` itself if these are its passes under
            `torch.no_grad`.
        teacher_views: the number of views in each forward pass of the teacher for a batch. Its rows
            are the same data in the same order: local losses cannot know of a teacher whose batch
            was shuffled (the shuffled batch normalisation of MoCo's code).
        terms: whether to record why local and global error signals differ, as ``slopes``,
            ``feedback`` and ``masks`` (see `align`; in one order of the steps). It needs the rule's
            own loss as the global one, so ``against="rule"`` or ``trains_rule``, and costs one more
            backward pass through activities. With several processes, masks are averaged over the
            rows of each.
        window: through how many blocks the loss of a block is backpropagated, as for `align`.
        log: called with the numbers of each recorded step by name, ``log(numbers, step=step)``, by
            the process that writes, see `alignment.loggers.tell`; such as ``wandb.log``,
            ``mlflow.log_metrics`` or ``logger.log_metrics``. Loggers want steps in order, so each
            recorded step is then fetched and written at once.

    Raises:
        ValueError: as `linlocal.analysis.blocks`; a cadence is below 1; or views, a teacher, terms
            or a window do not go together.
        ResultError: ``path`` holds a series of another rule, or one that was recorded in another
            way; the message names what differs. Of other parameters: when the recorder writes.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Iterable[str] | None = None,
        *,
        rule: RuleOrLosses | Mapping[str, RuleOrLosses],
        every: Cadence = 100,
        path: Path | str | None = None,
        flush_every: int = 10,
        against: Literal["backward", "rule"] = "backward",
        view_parts: bool = False,
        trains_rule: bool = False,
        views: Literal["stacked", "separate"] | Sequence[int] = "stacked",
        teacher: nn.Module | None = None,
        teacher_views: Sequence[int] | None = None,
        terms: bool = False,
        window: int = 1,
        log: Log | None = None,
    ) -> None:
        if not callable(every):
            every = inputs.whole(every, "every", 1)
        inputs.whole(flush_every, "flush_every", 1)
        checked(log)
        if against not in ("backward", "rule"):
            raise ValueError(f'against must be "backward" or "rule", got {against!r}.')
        passes = _passes(views)
        taught: tuple[int, ...] = ()
        if teacher_views is not None:
            taught = inputs.wholes(teacher_views, "teacher_views", 1)
        self._every, self._log = every, log
        self._flush_every = 1 if log is not None else flush_every
        self._meter = Meter(
            model,
            blocks,
            rule,
            backward=against == "backward",
            view_parts=view_parts,
            trains_rule=trains_rule,
            views=passes,
            teacher=teacher,
            teacher_views=taught,
            orders="ordered" if inputs.flag(terms, "terms") else None,
            window=window,
        )
        self._path = None if path is None else inputs.path(path, "path")
        self._waiting: list[tuple[int, Measurement]] = []
        self._kept: list[xr.Dataset] = []
        config = {
            "blocks": [block.name for block in self._meter.blocks],
            "rules": {name: _told_rule(rule) for name, rule in self._meter.rules.items()},
            "every": every if isinstance(every, int) else told(every),
            "against": against,
            "view_parts": view_parts,
            "trains_rule": trains_rule,
            "views": {(2,): "stacked", (1, 1): "separate"}.get(passes, list(passes)),
            "terms": terms,
            "window": window,
        }
        if taught:
            config["teacher_views"] = list(taught)
        self._step, self._skipped = 0, False
        if self._path is not None:
            self._provenance = Provenance.collect("alignment", "recorded", 0, config)
            last = series.last_step(self._path, self._provenance)
            self._step = 0 if last is None else last + 1

    @contextmanager
    def step(
        self,
        *,
        weight: float = 1.0,
        scaler: torch.amp.GradScaler | None = None,
        batch: Any = None,
        micro_batches: int = 1,
    ) -> Iterator[bool]:
        """Enclose one step of the training: the forward and backward passes of all micro-batches.

        Args:
            weight: the factor by which the training multiplies its loss (1/k for k micro-batches).
            scaler: the gradient scaler of the training; norms are recorded without its factor.
            batch: (inputs, labels), for local losses that read labels.
            micro_batches: the number of batches in the step, each of all views of other data, and
                each of as many forward passes as ``views`` declares.

        Yields:
            Whether this step is recorded.

        Raises:
            RuntimeError: a recorded step enclosed no forward or no backward pass of the network, or
                more forward passes than were declared, or one view without the other; a pass ran
                in another mode than the others, or no gradient came back to it; its blocks did not
                run once each in order, or ran by themselves; a teacher ran with gradients; or
                another process has no recorder; or the backward pass in the step is not
                backpropagation, but that of `feedback_alignment`.
            ValueError, TypeError: the passes have rows of other data, or views that the rule does
                not compare; or a number is none.
        """
        weight = inputs.positive(weight, "weight")
        micro_batches = inputs.whole(micro_batches, "micro_batches", 1)
        step, self._step = self._step, self._step + 1
        due = step % self._every == 0 if isinstance(self._every, int) else self._every(step)
        if not due:
            with self._meter.remembering() if self._meter.remembers else nullcontext():
                yield False
            return
        if self._meter.backward and is_fed(self._meter.model):
            raise RuntimeError(
                "The backward pass of this network is not backpropagation, because layers have "
                "feedback weights (feedback_alignment), so it gives no global gradient: record "
                'with against="rule".'
            )

        def factor(value: Tensor) -> Tensor:
            return value if scaler is None else scaler.scale(value)

        self._skipped = False
        with self._meter.watching(lambda v: factor(v * weight), factor, batch, micro_batches):
            yield True
        if self._skipped:
            return
        self._waiting.append((step, self._meter.finish(step)))
        if len(self._waiting) >= self._flush_every:
            self.flush()

    def skip(self) -> None:
        """Say that the present step skips its batch, so that there is nothing to record.

        With several processes, all must skip the same step.
        """
        self._skipped = True

    def flush(self) -> None:
        """Fetch the measurements that wait on the device, in one transfer, and write them."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        steps, sums = zip(*waiting, strict=True)
        if dist.is_available() and dist.is_initialized() and dist.get_rank() != 0:
            return
        stacked = Measurement(*(torch.stack(part) for part in zip(*sums, strict=True)))
        piece = to_dataset(self._meter, stacked)
        piece = described(piece.assign_coords(step=np.asarray(steps)), "alignment")
        top_error = piece.error_relative_error.isel(layer=-1).values
        # Both errors come from the same operations; only the order of summation may differ.
        if self._meter.trains_rule and (top_error > 1e-3).any():
            raise ValueError(
                "trains_rule says that the training backpropagates the rule's loss, but at the "
                "last block the backpropagated error signal differs from the rule's by "
                f"{top_error.max():.1e} of its size: the training has another loss, or a weight "
                "that step() was not told. Give step() the weight, or leave trains_rule out."
            )
        if self._path is None:
            self._kept.append(piece)
        else:
            try:
                series.append(self._path, piece, self._provenance)
            except ResultError:
                self._waiting = waiting  # for when there is room on the disk
                raise
        if self._log is not None:
            tell(self._log, piece)

    def dataset(self) -> xr.Dataset:
        """Everything recorded so far: the variables of `align` over ``step``.

        Raises:
            ResultError: no step was recorded yet, or not by this process.
        """
        self.flush()
        if self._path is not None:
            return series.read(self._path)
        if not self._kept:
            raise ResultError("No step was recorded (by this process) yet.")
        self._kept = [xr.concat(self._kept, "step")] if len(self._kept) > 1 else self._kept
        return self._kept[0]

    def state_dict(self) -> dict[str, Any]:
        """The number of the next step, for a checkpoint; writes the waiting measurements first.

        With it come the keys that losses with a bank remember, and the rows that projections by
        least squares keep of earlier steps.
        """
        self.flush()
        kept = {"memories": self._meter.memories(), "projections": self._meter.state_dict()}
        return {"step": self._step} | {name: each for name, each in kept.items() if each}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the checkpoint was made; steps recorded after it are recorded again.

        What memory holds of these steps is dropped. What a series on disk holds of them stays until
        they are recorded again.

        Raises:
            ValueError, TypeError: the state is not one of `state_dict`.
        """
        inputs.instance(state, Mapping, "state", "what `state_dict` gave")
        if "step" not in state:
            raise ValueError(f"The state of a recorder has a step, got {sorted(map(str, state))}.")
        self._step = inputs.whole(state["step"], "step", 0)
        memories = state.get("memories", {})
        inputs.instance(memories, Mapping, "memories", "the keys by rule")
        self._meter.recall(memories)
        self._meter.load_state_dict(state.get("projections", {}))
        self._waiting = [each for each in self._waiting if each[0] < self._step]
        before = [piece.isel(step=piece.step.values < self._step) for piece in self._kept]
        self._kept = [piece for piece in before if piece.sizes["step"]]

    def __enter__(self) -> AlignmentRecorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.flush()


def _passes(views: Any) -> tuple[int, ...]:
    """The number of views in each forward pass of a batch."""
    if not isinstance(views, str):
        return inputs.wholes(views, "views", 1)
    named = {"stacked": (2,), "separate": (1, 1)}
    if views not in named:
        raise ValueError(
            'views must be "stacked" or "separate", or the number of views in each forward pass of '
            f"a batch, such as (1, 1, 1), got {views!r}."
        )
    return named[views]


def _told_rule(rule: RuleOrLosses) -> str:
    """A rule in words; of losses, their modules and options, not what they have learned."""
    if not isinstance(rule, nn.ModuleList):
        return told(rule)
    return told(
        {
            name: [type(part).__qualname__, part.extra_repr(), _options(part)]
            for name, part in rule.named_modules()
        }
    )


def _options(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_")
        and name != "training"
        and not isinstance(value, Tensor | nn.Module)
    }
