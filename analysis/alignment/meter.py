"""Measures local and global gradients while the caller runs the network.

Symbols: z_l is the output of block l, theta_l are its parameters, and delta_l = dLoss/dz_l is the
error signal. The local gradient of block l is (dz_l/dtheta_l)^T delta_l with the error signal of
the block's own loss. The global gradient is what the backward pass of one loss brings to theta_l.
Both come from the same graph; the local ones are computed at the end of the forward pass. Only
sums of their products are kept, in float64 on the device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.alignment import terms
from linlocal.analysis.alignment.meeting import Meeting
from linlocal.analysis.alignment.sums import (
    VIEWS,
    ErrorSignals,
    Measurement,
    Sums,
    add,
    dense,
    views,
)
from linlocal.analysis.block import Block, refuse_inference, resolve
from linlocal.analysis.feedback import backpropagation, feedback_parameters, is_fed
from linlocal.analysis.local_losses import LocalLoss, LocalRule, contracted, on_network, views_of
from linlocal.analysis.warned import warn
from linlocal.analysis.watching import (
    Rescale,
    accumulated,
    error_signal,
    gated,
    hooked,
    local_gradient,
    untouched,
    watch,
    windowed,
)
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
        accumulates: whether it adds to ``.grad``.
    """

    number: int = -1
    gradients: dict[str, Tensor] = field(default_factory=dict)
    errors: list[tuple[ErrorSignals, int, int, Tensor]] = field(default_factory=list)
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
        separate: whether each view runs in a forward pass of its own, first view first.
        orders: whether to take the mismatch apart (`terms`), in one order of the steps, "ordered",
            or in "all orders".
        window: through how many blocks local losses are backpropagated.

    Raises:
        TypeError: ``rule`` is no rule.
        ValueError: as `linlocal.analysis.blocks`; no rule was given, or ``trains_rule`` with
            several rules, without ``backward`` or with ``view_parts``; terms of a global loss that
            is not the rule's, or of a window; or more blocks in a window than there are.
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
        separate: bool = False,
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
        self.trains_rule, self.orders, self.window = trains_rule, orders, window
        self._passes_of_batch = VIEWS if separate else 1
        self._losses: list[list[LocalLoss]] = []
        self._meeting = Meeting()
        self._sums = self._empty()
        self._busy = False
        self._rescale: Rescale = _unchanged
        self._factor: Rescale = _unchanged
        self._batch: Any = None
        self._batches = 1
        self._begun: list[tuple[Tensor, ...]] = []
        self._signals = ErrorSignals([])
        self._run = _Run()

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
            batches: the largest number of batches of both views that may come.
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
        self._batches, self._begun, self._run = batches, [], _Run()
        handles = self._sums.handles
        trained = {n: p for n, p in self._parameters.items() if p.requires_grad}
        try:
            with gated(trained.values(), lambda: self._busy):
                if self.backward:
                    for name, parameter in trained.items():
                        handles.append(hooked(parameter, partial(self._on_parameter, name)))
                        handles.append(accumulated(parameter, self._on_accumulation))
                with watch(self.model, self.blocks, self._on_forward):
                    yield
        finally:
            for handle in handles:
                handle.remove()
            handles.clear()

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
        if self._begun:
            raise RuntimeError(
                f"After {sums.passes} forward passes the second view of the last batch is missing: "
                'views="separate" takes the passes in pairs, first view first.'
            )
        for signals in [*sums.open]:
            sums.reduce(signals)
        if sums.errors is None or sums.factor is None:
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
        if self.trains_rule:
            last = self.blocks[-1].parameters
            sums.local[0].update({n: g for n, g in sums.global_[0].items() if n in last})
        self._meeting.attend(step)
        measured = sums.measured(self._parameters, self.view_parts)
        self._sums, self._signals = self._empty(), ErrorSignals([])
        return measured

    # -- during the step -----------------------------------------------------------------------

    def _on_forward(self, outputs: tuple[Tensor, ...]) -> None:
        self._close_run()
        sums = self._sums
        sums.passes += 1
        self._check_pass(outputs)
        if not self._begun:
            sums.settle()
            each = range(self._passes_of_batch)
            self._signals = ErrorSignals(
                [[[None for _ in each] for _ in outputs] for _ in sums.global_]
            )
            sums.open.append(self._signals)
        if self.backward:
            for l, z in enumerate(outputs):
                if z.requires_grad:
                    keep = partial(self._on_error, self._signals, l, len(self._begun))
                    sums.handles.append(hooked(z, keep))
        self._begun.append(outputs)
        if len(self._begun) == self._passes_of_batch:
            passes, self._begun = self._begun, []
            self._busy = True
            try:
                self._judge(self._signals, passes)
            finally:
                self._busy = False

    def _check_pass(self, outputs: tuple[Tensor, ...]) -> None:
        declared = self._batches * self._passes_of_batch
        if self._sums.passes > declared:
            raise RuntimeError(
                f"This is forward pass {self._sums.passes} of the network in a step that was "
                f"declared to have {declared}. Where each view runs in a pass of its own, say so: "
                'AlignmentRecorder(views="separate"). Micro-batches, of both views each, are '
                "declared by step(micro_batches=...). What is not trained belongs under "
                "torch.no_grad()."
            )
        if not self._begun:
            return
        if self._signals.complete:
            raise RuntimeError(
                "A backward pass came between the forward passes of the two views. A local loss "
                "compares the views: run both forward passes, then the backward pass."
            )
        first, second = (tuple(z[-1].shape) for z in (self._begun[0], outputs))
        if first != second:
            raise ValueError(
                f"The views of a batch gave outputs {first} and {second} in the last block: both "
                "views of the same data, with as many rows, are expected one after the other."
            )

    def _judge(self, signals: ErrorSignals, passes: Sequence[tuple[Tensor, ...]]) -> None:
        """Compute what the local losses say of a batch of both views."""
        blocks = list(zip(*passes, strict=True))
        # Joined rows, because a loss compares both views. One pass needs no copy.
        outputs = [terms.joined(z).detach() for z in blocks]
        top, sums = outputs[-1], self._sums
        if not self._losses:
            self._losses = [self._built(each, outputs) for each in self._builders.values()]
            compares = any(loss.compares for losses in self._losses for loss in losses)
            if compares and torch.equal(*views_of(top)):
                warn(
                    f"Both views gave equal outputs in the last block ({len(top) // 2} rows each, "
                    "difference 0): local losses compare every datum with itself. Were the same "
                    "inputs stacked twice, or is the augmentation off?"
                )
        if sums.factor is None:
            sums.factor = self._factor(top.new_ones((), dtype=torch.float32)).double()
        # A block under activation checkpointing runs once more here, and writes no weights.
        judges = [loss for losses in self._losses for loss in losses]
        modules = (*(block.module for block in self.blocks), *judges)
        with untouched(*modules, weights=False, records=False):
            for r, losses in enumerate(self._losses):
                errors = [
                    error_signal(loss, z, top, self._rescale, self._batch)
                    for loss, z in zip(losses, outputs, strict=True)
                ]
                if self.window > 1:
                    errors = windowed(passes, errors, self.window)
                signals.local.append(errors)
                if self.orders:
                    found = terms.between(losses, passes, errors[-1], self._rescale, self.orders)
                    signals.between.append(found)
                for l, (z, error) in enumerate(zip(blocks, errors, strict=True)):
                    if not (self.trains_rule and l == len(outputs) - 1):
                        self._add_local(r, l, z, error)
                if not self.backward:
                    self._add_global(signals, r, passes, errors[-1])
            signals.complete = not self.backward

    def _add_local(self, r: int, l: int, z: tuple[Tensor, ...], error: Tensor) -> None:
        trained = {n: p for n, p in self.blocks[l].parameters.items() if p.requires_grad}
        pieces = list(zip(z, error.chunk(len(z)), strict=True))
        if self.view_parts and len(z) == 1:
            pieces = [(z[0], _of_rows(error, rows)) for rows in views(error)]
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
        error: Tensor,
    ) -> None:
        signals.global_[r][-1] = [*error.chunk(len(passes))]
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
                error.chunk(len(passes)),
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
            before = of.global_[0][l][p]
            of.global_[0][l][p] = gradient if before is None else before + gradient
            of.complete = True

    def _built(self, rule: LocalRule | nn.ModuleList, outputs: Sequence[Tensor]) -> list[LocalLoss]:
        if isinstance(rule, nn.ModuleList):
            losses = rule
        else:
            with torch.random.fork_rng([]):
                losses = rule.build([tuple(z.shape[1:]) for z in outputs])
            dtypes = (p.dtype for p in self._parameters.values() if p.is_floating_point())
            losses = losses.to(outputs[-1].device, next(dtypes, outputs[-1].dtype))
        if len(losses) != len(self.blocks):
            raise ValueError(
                f"A rule needs one local loss per block: {len(losses)} losses for "
                f"{len(self.blocks)} blocks."
            )
        return [cast(LocalLoss, loss) for loss in contracted(nn.ModuleList(losses))]

    def _empty(self) -> Sums:
        return Sums.empty(len(self.rules), 1 if self.backward else len(self.rules))


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
