"""Measures local and global gradients while the caller runs the network.

Symbols: z_l is the output of block l, theta_l are its parameters, and delta_l = dLoss/dz_l is the
error signal. The local gradient of block l is (dz_l/dtheta_l)^T delta_l with the error signal of
the block's own loss. The global gradient is what the backward pass of one loss brings to theta_l.
Both come from the same graph; the local ones are computed at the end of the forward pass. Only
sums of their products are kept, in float64 on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.alignment import terms
from linlocal.analysis.alignment.meeting import Meeting
from linlocal.analysis.alignment.passes import Outputs, Passes
from linlocal.analysis.alignment.sums import (
    ErrorSignals,
    Measurement,
    Sums,
    add,
    dense,
    rows_of_views,
)
from linlocal.analysis.block import Block, refuse_inference, resolve, unwrap
from linlocal.analysis.feedback import backpropagation, feedback_parameters, is_fed
from linlocal.analysis.local_losses import (
    Activity,
    LocalLoss,
    LocalRule,
    contracted,
    match,
    on_network,
    refuse_without_loss,
    views_of,
)
from linlocal.analysis.watching import (
    Rescale,
    accumulated,
    error_signal,
    errors_below,
    gated,
    hooked,
    local_gradient,
    untouched,
    watch,
    windowed,
)
from linlocal.inputs import warn
from linlocal.rules import Rule

RuleOrLosses = Rule | LocalRule | nn.ModuleList


def _unchanged(value: Tensor) -> Tensor:
    return value


@dataclass
class _Run:
    """What one run of autograd has brought so far.

    Attributes:
        number: identifies it.
        gradients: by parameter.
        errors: batch, block, pass and error signal.
        strays: the blocks that it ran through outside of a forward pass of the network.
        accumulates: whether it adds to ``.grad``.
    """

    number: int = -1
    gradients: dict[str, Tensor] = field(default_factory=dict)
    errors: list[tuple[ErrorSignals, int, int, Tensor]] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    accumulates: bool = False


class Meter:
    """Measures what `align` returns while the caller runs the network.

    Args:
        model: the network.
        names: the names of its blocks.
        rule: the rule or rules, as for `align`.
        backward: whether the caller runs the backward pass that gives the global gradient.
            Otherwise each rule's loss on the last block is backpropagated here.
        view_parts: whether to split the gradients of the parameters into the parts of the two
            views, which runs the backward pass of each block a second time. Error signals are
            always split.
        trains_rule: whether the caller backpropagates exactly the loss of the one rule on the last
            block; the gradient of that block is then not computed twice.
        views: the number of views in each forward pass of a batch, in the order of the passes.
        teacher: the network whose passes without gradients give more views, which local losses
            compare with and nothing is learned from; the network itself if it is its own teacher.
        teacher_views: the number of views in each forward pass of the teacher for a batch.
        orders: whether to take the mismatch apart (`terms`), in one order of the steps, "ordered",
            or in "all orders".
        window: through how many blocks local losses are backpropagated.

    Raises:
        TypeError: ``rule`` is no rule.
        ValueError: as `linlocal.analysis.blocks`; no rule was given, or ``trains_rule`` with
            several rules, without ``backward`` or with ``view_parts``; terms of a global loss that
            is not the rule's, of a window, or of other than two views; more blocks in a window than
            there are; or a teacher without views, or the other way round.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Iterable[str] | None,
        rule: RuleOrLosses | Mapping[str, RuleOrLosses],
        *,
        backward: bool,
        view_parts: bool,
        trains_rule: bool = False,
        views: Sequence[int] = (2,),
        teacher: nn.Module | None = None,
        teacher_views: Sequence[int] = (),
        orders: Literal["ordered", "all orders"] | None = None,
        window: int = 1,
    ) -> None:
        self.model, self.backward, self.view_parts = model, backward, view_parts
        self.blocks = _compared(model, resolve(model, names))
        self.single = not isinstance(rule, Mapping)
        self.rules = dict(rule) if isinstance(rule, Mapping) else {"": rule}
        if not self.rules:
            raise ValueError("No rule was given: give one, or several by name.")
        self._builders = {
            name: each if isinstance(each, nn.ModuleList) else on_network(each)
            for name, each in self.rules.items()
        }
        if trains_rule and (len(self.rules) > 1 or not backward or view_parts):
            raise ValueError(
                "trains_rule says that the training backpropagates the last loss of the one rule: "
                'give one rule, against="backward" and no view_parts.'
            )
        if orders and backward and not trains_rule:
            raise ValueError(
                "The terms of a mismatch compare every block with the rule's own loss on the last "
                'block: give against="rule", or trains_rule=True where the training backpropagates '
                "that loss (and align no global_loss)."
            )
        window = inputs.whole(window, "window", 1)
        if window > len(self.blocks):
            raise ValueError(
                f"A window of {window} blocks in a network of {len(self.blocks)}: window="
                f"{len(self.blocks)} is backpropagation."
            )
        if orders and window > 1:
            raise ValueError(
                "The terms of a mismatch are those of a block's own loss: take window=1, or leave "
                "the terms out."
            )
        if (teacher is None) != (not teacher_views):
            raise ValueError(
                "A teacher gives views of a batch: declare both the network, teacher=..., and the "
                "number of views in each of its forward passes, teacher_views=(1,)."
            )
        if orders and (sum(views) != 2 or teacher is not None):
            raise ValueError(
                "The terms of a mismatch are defined for two views of the network itself: leave "
                "the terms out, or record two views without a teacher."
            )
        self.trains_rule, self.orders, self.window = trains_rule, orders, window
        self.views, self.teacher, self.teacher_views = (*views,), teacher, (*teacher_views,)
        self._losses: list[list[LocalLoss]] = []
        self._checked = False
        self._memories: dict[str, Sequence[Any]] = {}
        self._stored: dict[str, dict[str, Tensor]] = {}
        self._meeting = Meeting()
        self._sums = self._empty()
        self._busy = False
        self._rescale: Rescale = _unchanged
        self._factor: Rescale = _unchanged
        self._batch: Any = None
        self._passes = self._expected(1)
        self._stray = ""
        self._run = _Run()

    @property
    def _all_losses(self) -> list[LocalLoss]:
        return [loss for losses in self._losses for loss in losses]

    @property
    def _parameters(self) -> dict[str, nn.Parameter]:
        return {n: p for block in self.blocks for n, p in block.parameters.items()}

    @property
    def parameter_names(self) -> list[str]:
        """The names of all parameters that are compared."""
        return list(self._parameters)

    @contextmanager
    def watching(
        self,
        rescale: Rescale = _unchanged,
        factor: Rescale = _unchanged,
        batch: Any = None,
        batches: int = 1,
    ) -> Iterator[None]:
        """Measure the forward (and backward) passes inside; `finish` gives the sums.

        Args:
            rescale: scales the local losses, as the caller scales the global loss.
            factor: the part of that scale that must not show in the norms (the factor of a
                gradient scaler).
            batch: (inputs, labels), for local losses that read labels.
            batches: the largest number of batches of all views that may come.
        """
        # Resolved again, because parts of the network may have been replaced meanwhile.
        named = {block.name: block.layout for block in self.blocks}
        self.blocks = _compared(self.model, resolve(self.model, named))
        if self.orders and is_fed(self.model):
            raise ValueError(
                "The terms of a mismatch are those of local losses against backpropagation, but "
                "this network has feedback weights (feedback_alignment): leave the terms out, or "
                "undo the transformation."
            )
        refuse_inference(self.model)
        self._sums = self._empty()
        self._rescale, self._factor, self._batch = rescale, factor, batch
        self._passes = self._expected(batches)
        self._run, self._stray = _Run(), ""
        handles = self._sums.handles
        trained = {n: p for n, p in self._parameters.items() if p.requires_grad}
        try:
            with (
                gated(trained.values(), lambda: self._busy),
                self._watching_teacher(self._on_teacher),
            ):
                if self.backward:
                    for name, parameter in trained.items():
                        handles.append(hooked(parameter, partial(self._on_parameter, name)))
                        handles.append(accumulated(parameter, self._on_accumulation))
                with watch(self.model, self.blocks, self._on_forward, on_stray=self._on_stray):
                    yield
        finally:
            for handle in handles:
                handle.remove()
            handles.clear()

    @property
    def remembers(self) -> bool:
        """Whether a loss keeps what the teacher gives; until the losses are built, one may."""
        unknown = not self._losses
        return self.teacher is not None and (unknown or any(l.remembers for l in self._all_losses))

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Let the losses remember what the teacher gives inside; nothing is measured."""
        taught: list[Outputs] = []

        def keep(blocks: Sequence[Block], outputs: Outputs) -> None:
            with torch.inference_mode(False):
                taught.append(tuple(z.clone() if z.is_inference() else z for z in outputs))
                self._build(taught[-1])
                if len(taught) == len(self.teacher_views):
                    self._remember(taught)
                    taught.clear()

        with self._watching_teacher(keep):
            yield

    def memories(self) -> dict[str, list[Any]]:
        """What the losses remember, by rule."""
        return {
            name: [deepcopy(loss.state_dict()) for loss in losses]
            for name, losses in zip(self.rules, self._losses, strict=False)
            if any(loss.remembers for loss in losses)
        }

    def recall(self, memories: Mapping[str, Sequence[Any]]) -> None:
        """Give the losses back what `memories` gave, now or when they are built."""
        self._memories = dict(memories)
        for name, losses in zip(self.rules, self._losses, strict=False):
            for loss, state in zip(losses, self._memories.pop(name, []), strict=False):
                loss.load_state_dict(state)

    @contextmanager
    def _watching_teacher(
        self, on_forward: Callable[[Sequence[Block], Outputs], None]
    ) -> Iterator[None]:
        if self.teacher is None:
            yield
            return
        try:
            blocks = resolve(self.teacher, {b.name: b.layout for b in self.blocks})
        except ValueError as error:
            raise ValueError(f"A teacher has the blocks of the network. {error}") from error
        shared = unwrap(self.teacher) is unwrap(self.model)

        def counts() -> bool:
            return not (shared and torch.is_grad_enabled())

        with watch(self.teacher, blocks, partial(on_forward, blocks), counts=counts):
            yield

    @torch.no_grad()
    def finish(self, step: int = 0) -> Measurement:
        """The measurement, on the device, averaged over processes.

        Args:
            step: the number of the measurement, the same on all processes.

        Raises:
            RuntimeError: the network ran no forward pass or no backward pass, one view ran without
                the other, or another process does not measure.
        """
        sums = self._sums
        self._close_run()
        self._passes.check_complete()
        if sums.factor is None:
            raise RuntimeError(
                "No forward pass with gradients was seen: call the network itself (not one of its "
                "methods, nor a copy that torch.compile made of it) inside, once per batch of both "
                "views. Passes of LocalTrainer do not count, because it cuts the network after "
                "every block and nothing is backpropagated: call align between its steps. In a "
                "step that skips its batch on purpose, call recorder.skip()."
            )
        if not any(sums.global_) and any(p.requires_grad for p in self._parameters.values()):
            raise RuntimeError(
                "No gradient of the global loss reached a block: run loss.backward() inside, on a "
                "loss of the network's output. In a step that skips its batch on purpose, call "
                "recorder.skip()."
            )
        if self._stray:
            raise RuntimeError(
                f"Block {self._stray!r} also ran outside of the forward passes of the network, and "
                "what was backpropagated through it is in .grad, so local and global gradients "
                "would be of different data. Call the network itself for every view, not one of "
                "its methods or parts; what is not trained belongs under torch.no_grad()."
            )
        for signals in [*sums.open]:
            self._reduce(signals)
        if self.trains_rule:
            last = self.blocks[-1].parameters
            sums.local[0].update({n: g for n, g in sums.global_[0].items() if n in last})
        self._meeting.attend(step)
        measured = sums.measured(self._parameters, self.view_parts)
        self._sums = self._empty()
        return measured

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """What projections that are solved for keep of earlier batches, by rule."""
        return {
            name: nn.ModuleList(losses).state_dict()
            for name, losses in zip(self.rules, self._losses, strict=False)
            if self._solves(name, losses)
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue where `state_dict` was called, also before the losses were built."""
        # Cloned, because a state_dict shares its memory with what goes on.
        self._stored = {
            name: {key: value.clone() for key, value in kept.items()}
            for name, kept in state.items()
        }
        self._restore()

    def _restore(self) -> None:
        if self._losses:
            for name, losses in zip(self.rules, self._losses, strict=True):
                if name in self._stored:
                    nn.ModuleList(losses).load_state_dict(self._stored[name])
            self._stored = {}

    def _solves(self, name: str, losses: Sequence[LocalLoss]) -> bool:
        """Whether the losses are built here and matched to the backpropagated error."""
        given = isinstance(self._builders[name], nn.ModuleList)
        return not given and any(loss.needs_global_error for loss in losses)

    # -- during the step -----------------------------------------------------------------------

    def _on_forward(self, outputs: Outputs) -> None:
        self._close_run()
        sums = self._sums
        batch = self._passes.add(outputs, self.blocks)
        if len(batch.passes) == 1:
            for signals in [each for each in sums.open if each.complete]:
                self._reduce(signals)  # as they take memory
            sums.open.append(batch.signals)
        if self.backward:
            pass_ = len(batch.passes) - 1
            for l, z in enumerate(outputs):
                if z.requires_grad:
                    batch.signals.awaited.add(pass_)
                    keep = partial(self._on_error, batch.signals, l, pass_)
                    sums.handles.append(hooked(z, keep))
        self._judge_complete()

    def _on_teacher(self, blocks: Sequence[Block], outputs: Outputs) -> None:
        self._close_run()
        self._passes.teach(outputs, blocks)
        self._judge_complete()

    def _judge_complete(self) -> None:
        for batch, taught in self._passes.complete():
            self._busy = True
            try:
                # The last pass may be a teacher's, without gradients.
                with torch.inference_mode(False), torch.enable_grad():
                    self._judge(batch.signals, batch.passes, taught)
            finally:
                self._busy = False

    def _reduce(self, signals: ErrorSignals) -> None:
        if any(p.requires_grad for p in self._parameters.values()):
            self._passes.check_reached(signals)
        self._sums.reduce(signals)

    def _judge(
        self,
        signals: ErrorSignals,
        passes: Sequence[tuple[Tensor, ...]],
        taught: Sequence[tuple[Tensor, ...]],
    ) -> None:
        """Compute what the local losses say of a batch of all views."""
        blocks = list(zip(*passes, strict=True))
        # Joined rows, because a loss compares the views. One pass needs no copy.
        outputs = [_joined(z) for z in zip(*passes, *taught, strict=True)]
        top, sums = outputs[-1], self._sums
        self._build(passes[0])
        if not self._checked:
            self._check_outputs(outputs)
        if sums.factor is None:
            sums.factor = self._factor(passes[0][-1].new_ones((), dtype=torch.float32)).double()
        self._solve(passes, outputs)
        # A block under activation checkpointing runs once more here, and writes no weights.
        modules = (*(block.module for block in self.blocks), *self._all_losses)
        with untouched(*modules, weights=False, records=False):
            for r, losses in enumerate(self._losses):
                errors: list[Sequence[Tensor]] = [
                    _of_passes(error_signal(loss, z, top, self._rescale, self._batch), of)
                    for loss, z, of in zip(
                        losses, outputs[self.window - 1 :], blocks[self.window - 1 :], strict=True
                    )
                ]
                if self.window > 1:
                    errors = windowed(passes, errors, self.window)
                signals.local.append([[*error] for error in errors])
                if self.orders:
                    whole = terms.joined(errors[-1])
                    found = terms.between(losses, passes, whole, self._rescale, self.orders)
                    signals.between.append(found)
                for l, (z, error) in enumerate(zip(blocks, errors, strict=True)):
                    if not (self.trains_rule and l == len(outputs) - 1):
                        self._add_local(r, l, z, error)
                if not self.backward:
                    self._add_global(signals, r, passes, errors[-1])
            signals.complete = not self.backward
        self._remember(taught)

    def _remember(self, taught: Sequence[Outputs]) -> None:
        """Give the losses that remember what the teacher gave for a batch."""
        for losses, rule in zip(self._losses, self.rules.values(), strict=True):
            # What the caller built and trains, the caller's own loop lets remember.
            for loss, keys in zip(losses, zip(*taught, strict=True), strict=False):
                if loss.remembers and not isinstance(rule, nn.ModuleList):
                    loss.remember(terms.joined(keys).detach())

    def _build(self, outputs: Outputs) -> None:
        """Build the losses, once; raise if they do not compare the views that were declared."""
        if self._losses:
            return
        self._losses = [self._built(each, outputs) for each in self._builders.values()]
        self.recall(self._memories)
        self._restore()
        count = sum(self.views) + sum(self.teacher_views)
        for loss in self._all_losses:
            if loss.remembers and self.teacher is None:
                raise ValueError(
                    f"{loss.title} compares with keys of a teacher and remembers them: declare it, "
                    "AlignmentRecorder(views=(1,), teacher=..., teacher_views=(1,))."
                )
            if loss.compares and loss.num_views != count:
                raise ValueError(
                    f"{loss.title} compares {loss.num_views} views, and a batch was declared to "
                    f"have {count}, those of a teacher included: declare its forward passes "
                    "(views=..., teacher_views=...), or take ManyViewsRule(rule, views="
                    f"{count}), which compares pairs of them."
                )

    def _check_outputs(self, outputs: Sequence[Activity]) -> None:
        """Raise if the losses cannot compare outputs of these shapes; warn if views are equal."""
        self._checked, losses = True, self._all_losses
        count = sum(self.views) + sum(self.teacher_views)
        apart = next((z for z in outputs if isinstance(z, tuple)), None)
        if apart and not all(loss.per_pass for loss in losses):
            loss = next(loss for loss in losses if not loss.per_pass)
            shapes = " and ".join(str(tuple(z.shape)) for z in apart)
            raise ValueError(
                f"The views of a batch gave outputs {shapes} in one block, which {loss.title} "
                f"cannot compare: take ManyViewsRule(rule, views={count}), which pools each of "
                "them, or views of one size."
            )
        top = outputs[-1]
        compares = any(loss.compares for loss in losses) and count == 2
        if compares and isinstance(top, Tensor) and torch.equal(*views_of(top)):
            warn(
                f"Both views gave equal outputs in the last block ({len(top) // 2} rows each, "
                "difference 0): local losses compare every datum with itself. Were the same "
                "inputs stacked twice, or is the augmentation off?"
            )

    def _solve(self, passes: Sequence[Outputs], outputs: Sequence[Any]) -> None:
        """Solve for projections that are matched to the backpropagated error of their rule."""
        top = outputs[-1]
        for name, losses in zip(self.rules, self._losses, strict=True):
            if not self._solves(name, losses):
                continue
            with untouched(*(block.module for block in self.blocks), weights=False, records=False):
                error = error_signal(losses[-1], top, top, _unchanged, self._batch)
                of_passes = _of_passes(error, [each[-1] for each in passes])
                pieces = zip(passes, of_passes, strict=True)
                errors = zip(*(errors_below(*each) for each in pieces), strict=True)
                match(losses, outputs, [terms.joined(each) for each in errors])

    def _add_local(self, r: int, l: int, z: tuple[Tensor, ...], errors: Sequence[Tensor]) -> None:
        trained = {n: p for n, p in self.blocks[l].parameters.items() if p.requires_grad}
        pieces = []
        for of, error, count in zip(z, errors, self.views, strict=True):
            if self.view_parts and count > 1:
                pieces += [(of, _of_rows(error, rows)) for rows in rows_of_views(error, count)]
            else:
                pieces.append((of, error))
        taken = [local_gradient(of, list(trained.values()), piece) for of, piece in pieces]
        parts = [[dense(gradient) for gradient in part] for part in taken]
        for i, name in enumerate(trained):
            new = [part[i] for part in parts]
            if self.view_parts:
                before = self._sums.parts[r].get(name)
                together = [a + b for a, b in zip(before, new, strict=True)] if before else new
                self._sums.parts[r][name] = together
            add(self._sums.local[r], name, sum(new[1:], new[0]))

    def _add_global(
        self,
        signals: ErrorSignals,
        r: int,
        passes: Sequence[tuple[Tensor, ...]],
        errors: Sequence[Tensor],
    ) -> None:
        signals.global_[r][-1] = [*errors]
        trained = {n: p for n, p in self._parameters.items() if p.requires_grad}
        below = [
            (l, p)
            for p, outputs in enumerate(passes)
            for l, z in enumerate(outputs[:-1])
            if z.requires_grad
        ]
        if not (trained or below):
            return
        with backpropagation():
            gradients = torch.autograd.grad(
                [outputs[-1] for outputs in passes],
                [*trained.values(), *(passes[p][l] for l, p in below)],
                errors,
                retain_graph=True,
                materialize_grads=True,
            )
        for name, gradient in zip(trained, gradients, strict=False):
            add(self._sums.global_[r], name, gradient)
        for (l, p), gradient in zip(below, gradients[len(trained) :], strict=True):
            signals.global_[r][l][p] = gradient

    # A hook is also called where somebody takes gradients by torch.autograd.grad: this meter,
    # another one, or the user before the backward pass (to log or balance them). What trains the
    # network is what is accumulated into .grad, so a run of autograd counts if it accumulates.

    def differentiate(self, loss: Tensor) -> None:
        """Take the gradient of a global loss without touching ``.grad``, and count it."""
        trained = [p for p in self._parameters.values() if p.requires_grad]
        with backpropagation():
            torch.autograd.grad(loss, trained, allow_unused=True)
        self._run.accumulates = True

    def _on_parameter(self, name: str, gradient: Tensor) -> None:
        if not self._busy:
            # The very object: seeing it in use, autograd makes a copy for .grad. A detached one
            # would share its memory with .grad, which clipping and scalers overwrite.
            add(self._present_run().gradients, name, gradient)

    def _on_error(self, of: ErrorSignals, l: int, p: int, gradient: Tensor) -> None:
        if not self._busy:
            self._present_run().errors.append((of, l, p, gradient))

    def _on_stray(self, l: int, z: Tensor) -> None:
        if self.backward and z.requires_grad and not self._busy:
            name = self.blocks[l].name
            self._sums.handles.append(hooked(z, lambda gradient: self._on_stray_error(name)))

    def _on_stray_error(self, name: str) -> None:
        if not self._busy:
            self._present_run().strays.append(name)

    def _on_accumulation(self, parameter: Tensor) -> None:
        if not self._busy:
            self._present_run().accumulates = True

    def _present_run(self) -> _Run:
        number = torch._C._current_graph_task_id()
        if self._run.number != number:
            self._close_run()
            self._run = _Run(number)
        return self._run

    def _close_run(self) -> None:
        run, self._run = self._run, _Run()
        if not run.accumulates:
            return
        for name, gradient in run.gradients.items():
            add(self._sums.global_[0], name, gradient)
        for of, l, p, gradient in run.errors:
            if of not in self._sums.open:
                raise RuntimeError(
                    "A backward pass came back to a batch after the forward pass of the next one, "
                    "when its error signals were summed up already: run all backward passes of a "
                    "batch before the next forward pass, or one backward pass for all batches."
                )
            before = of.global_[0][l][p]
            of.global_[0][l][p] = gradient if before is None else before + gradient
            of.complete = True
        self._stray = self._stray or next(iter(run.strays), "")

    def _built(self, rule: LocalRule | nn.ModuleList, outputs: Sequence[Tensor]) -> list[LocalLoss]:
        if isinstance(rule, nn.ModuleList):
            losses = rule
        else:
            with torch.random.fork_rng([]):
                losses = rule.build([tuple(z.shape[1:]) for z in outputs])
            dtypes = (p.dtype for p in self._parameters.values() if p.is_floating_point())
            losses = losses.to(outputs[-1].device, next(dtypes, outputs[-1].dtype))
        # The losses below the top of the lowest window teach nothing; a trainer has none there.
        idle = self.window - 1
        if len(losses) not in (len(self.blocks), len(self.blocks) - idle):
            below = f", or {len(self.blocks) - idle} from block {self.window} on" if idle else ""
            raise ValueError(
                f"A rule needs one local loss per block{below}: {len(losses)} losses for "
                f"{len(self.blocks)} blocks."
            )
        judges = [cast(LocalLoss, loss) for loss in contracted(nn.ModuleList(losses))]
        refuse_without_loss(judges, "A comparison of error signals")
        return judges[len(losses) - len(self.blocks) + idle :]

    def _empty(self) -> Sums:
        return Sums.empty(len(self.rules), self._num_globals, self.views)

    def _expected(self, batches: int) -> Passes:
        return Passes(self.views, self.teacher_views, batches, self._num_globals)

    @property
    def _num_globals(self) -> int:
        return 1 if self.backward else len(self.rules)


def _joined(passes: Sequence[Tensor]) -> Activity:
    """The rows of all passes, stacked and detached; by pass where they have other shapes."""
    if len({z.shape[1:] for z in passes}) > 1:
        return tuple(z.detach() for z in passes)
    return terms.joined(passes).detach()


def _of_passes(error: Activity, passes: Sequence[Tensor]) -> list[Tensor]:
    """The error signals of the network's own passes, which come before those of a teacher."""
    if isinstance(error, Tensor):
        if len(passes) == 1 and len(error) == len(passes[0]):
            return [error]
        first = error[: sum(map(len, passes))]
        error = first.split([len(z) for z in passes])
    return [e.to(z.dtype) for e, z in zip(error, passes, strict=False)]


def _compared(model: nn.Module, blocks: Sequence[Block]) -> tuple[Block, ...]:
    """The blocks without feedback weights, whose gradient is that of the weights once more."""
    aside = {id(p) for p in feedback_parameters(model)}
    return tuple(
        replace(block, parameters={n: p for n, p in block.parameters.items() if id(p) not in aside})
        for block in blocks
    )


def _of_rows(error: Tensor, rows: slice) -> Tensor:
    """The error signal with zeros in all other rows."""
    part = torch.zeros_like(error)
    part[rows] = error[rows]
    return part
