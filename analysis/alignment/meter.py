"""Measures local and global gradients while the caller runs the network.

Symbols: z_l is the output of block l, theta_l are its parameters, and delta_l = dLoss/dz_l is the
error signal. The local gradient of block l is (dz_l/dtheta_l)^T delta_l with the error signal of
the block's own loss. The global gradient is what the backward pass of one loss brings to theta_l.
Both come from the same graph; the local ones are computed at the end of the forward pass. Only
sums of their products are kept, in float64 on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from linlocal.analysis.alignment.sums import ErrorSignals, Measurement, Sums, add, views
from linlocal.analysis.block import Block
from linlocal.analysis.local_losses import LocalLoss, LocalRule, contracted, on_network
from linlocal.analysis.watching import (
    Rescale,
    accumulated,
    error_signal,
    hooked,
    local_gradient,
    untouched,
    watch,
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
        errors: pass, block and error signal.
        accumulates: whether it adds to ``.grad``.
    """

    number: int = -1
    gradients: dict[str, Tensor] = field(default_factory=dict)
    errors: list[tuple[ErrorSignals, int, Tensor]] = field(default_factory=list)
    accumulates: bool = False


class Meter:
    """Measures what `align` returns while the caller runs the network.

    Args:
        blocks: the blocks.
        rule: the rule or rules, as for `align`.
        backward: whether the caller runs the backward pass that gives the global gradient.
            Otherwise each rule's loss on the last block is backpropagated here.
        view_parts: whether to split the gradients of the parameters into the parts of the two
            views, which runs the backward pass of each block a second time. Error signals are
            always split.
        trains_rule: whether the caller backpropagates exactly the loss of the one rule on the last
            block; the gradient of that block is then not computed twice.

    Raises:
        TypeError: ``rule`` is no rule.
        ValueError: no rule was given, or ``trains_rule`` with several rules, without ``backward``
            or with ``view_parts``.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        rule: RuleOrLosses | Mapping[str, RuleOrLosses],
        *,
        backward: bool,
        view_parts: bool,
        trains_rule: bool = False,
    ) -> None:
        self.blocks, self.backward, self.view_parts = blocks, backward, view_parts
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
        self.trains_rule = trains_rule
        self._losses: list[list[LocalLoss]] = []
        self._parameters = {n: p for b in blocks for n, p in b.parameters.items()}
        self.parameter_names = list(self._parameters)
        self._sums = self._empty()
        self._busy = False
        self._rescale: Rescale = _unchanged
        self._factor: Rescale = _unchanged
        self._batch: Any = None
        self._passes = 1
        self._run = _Run()

    @contextmanager
    def watching(
        self,
        model: nn.Module,
        rescale: Rescale = _unchanged,
        factor: Rescale = _unchanged,
        batch: Any = None,
        passes: int = 1,
    ) -> Iterator[None]:
        """Measure the forward (and backward) passes inside; `finish` gives the sums.

        Args:
            model: the network.
            rescale: scales the local losses, as the caller scales the global loss.
            factor: the part of that scale that must not show in the norms (the factor of a
                gradient scaler).
            batch: (inputs, labels), for local losses that read labels.
            passes: the largest number of forward passes that may come.
        """
        self._sums = self._empty()
        self._rescale, self._factor, self._batch = rescale, factor, batch
        self._passes, self._run = passes, _Run()
        handles = self._sums.handles
        try:
            if self.backward:
                for name, parameter in self._parameters.items():
                    if parameter.requires_grad:
                        keep = partial(self._on_parameter, name)
                        handles.append(hooked(parameter, keep))
                        handles.append(accumulated(parameter, self._on_accumulation))
            with watch(model, self.blocks, self._on_forward):
                yield
        finally:
            for handle in handles:
                handle.remove()
            handles.clear()

    @torch.no_grad()
    def finish(self) -> Measurement:
        """The measurement, on the device, averaged over processes.

        Raises:
            RuntimeError: the network ran no forward pass or no backward pass.
        """
        sums = self._sums
        self._close_run()
        for signals in [*sums.open]:
            sums.reduce(signals)
        if sums.errors is None or sums.factor is None:
            raise RuntimeError(
                "No forward pass with gradients was seen: call the network itself (not one of its "
                "methods) inside, once per batch of both views."
            )
        if not any(sums.global_) and any(p.requires_grad for p in self._parameters.values()):
            raise RuntimeError(
                "No gradient of the global loss reached a block: run loss.backward() inside, on a "
                "loss of the network's output."
            )
        if self.trains_rule:
            last = self.blocks[-1].parameters
            sums.local[0].update({n: g for n, g in sums.global_[0].items() if n in last})
        measured = sums.measured(self._parameters, self.view_parts)
        self._sums = self._empty()
        return measured

    # -- during the step -----------------------------------------------------------------------

    def _on_forward(self, outputs: tuple[Tensor, ...]) -> None:
        self._close_run()
        self._sums.settle()
        sums, top = self._sums, outputs[-1].detach()
        sums.passes += 1
        if sums.passes > self._passes:
            raise RuntimeError(
                f"This is forward pass {sums.passes} of the network in a step that was declared to "
                f"have {self._passes}. Micro-batches, of both views each, are declared by "
                "step(micro_batches=...). Views that run in a pass each must run together, "
                "model(torch.cat([view1, view2])), because a local loss compares them. What is not "
                "trained belongs under torch.no_grad()."
            )
        if not self._losses:
            self._losses = [self._built(each, outputs) for each in self._builders.values()]
        if sums.factor is None:
            sums.factor = self._factor(top.new_ones((), dtype=torch.float32)).double()
        self._busy = True
        try:
            # A block under activation checkpointing runs once more here.
            judges = [loss for losses in self._losses for loss in losses]
            with untouched(*(block.module for block in self.blocks), *judges):
                signals = ErrorSignals([], [[None] * len(outputs) for _ in sums.global_])
                sums.open.append(signals)
                for r, losses in enumerate(self._losses):
                    errors = [
                        error_signal(loss, z, top, self._rescale, self._batch)
                        for loss, z in zip(losses, outputs, strict=True)
                    ]
                    signals.local.append(errors)
                    for l in range(len(outputs)):
                        if not (self.trains_rule and l == len(outputs) - 1):
                            self._add_local(r, l, outputs[l], errors[l])
                    if not self.backward:
                        self._add_global(signals, r, outputs, errors[-1])
                signals.complete = not self.backward
        finally:
            self._busy = False
        if self.backward:
            for l, z in enumerate(outputs):
                if z.requires_grad:
                    keep = partial(self._on_error, signals, l)
                    sums.handles.append(hooked(z, keep))

    def _add_local(self, r: int, l: int, z: Tensor, error: Tensor) -> None:
        trained = {n: p for n, p in self.blocks[l].parameters.items() if p.requires_grad}
        parameters, sums = list(trained.values()), self._sums
        if self.view_parts:
            parts = []
            for rows in views(error):
                part = torch.zeros_like(error)
                part[rows] = error[rows]
                parts.append(local_gradient(z, parameters, part))
            gradients = tuple(a + b for a, b in zip(*parts, strict=True))
            for i, name in enumerate(trained):
                new = [part[i] for part in parts]
                before = sums.parts[r].get(name, new)
                sums.parts[r][name] = (
                    new if before is new else [a + b for a, b in zip(before, new, strict=True)]
                )
        else:
            gradients = local_gradient(z, parameters, error)
        for name, gradient in zip(trained, gradients, strict=True):
            add(sums.local[r], name, gradient)

    def _add_global(
        self, signals: ErrorSignals, r: int, outputs: tuple[Tensor, ...], error: Tensor
    ) -> None:
        names = [n for n, p in self._parameters.items() if p.requires_grad]
        parameters: list[Tensor] = [self._parameters[n] for n in names]
        below = [l for l in range(len(outputs) - 1) if outputs[l].requires_grad]
        gradients = torch.autograd.grad(
            outputs[-1],
            parameters + [outputs[l] for l in below],
            error,
            retain_graph=True,
            materialize_grads=True,
        )
        for name, gradient in zip(names, gradients[: len(names)], strict=True):
            add(self._sums.global_[r], name, gradient)
        for l, global_ in zip(below, gradients[len(names) :], strict=True):
            signals.global_[r][l] = global_
        signals.global_[r][-1] = error

    # A hook is also called where somebody takes gradients by torch.autograd.grad: this meter,
    # another one, or the user before the backward pass (to log or balance them). What trains the
    # network is what is accumulated into .grad, so a run of autograd counts if it accumulates.

    def differentiate(self, loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
        """Take the gradient of a global loss without touching ``.grad``, and count it."""
        torch.autograd.grad(loss, parameters, allow_unused=True)
        self._run.accumulates = True

    def _on_parameter(self, name: str, gradient: Tensor) -> None:
        if not self._busy:
            # The very object: seeing it in use, autograd makes a copy for .grad. A detached one
            # would share its memory with .grad, which clipping and scalers overwrite.
            add(self._present_run().gradients, name, gradient)

    def _on_error(self, of: ErrorSignals, l: int, gradient: Tensor) -> None:
        if not self._busy:
            self._present_run().errors.append((of, l, gradient))

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
        for of, l, gradient in run.errors:
            before = of.global_[0][l]
            of.global_[0][l] = gradient if before is None else before + gradient
            of.complete = True

    def _built(
        self, rule: LocalRule | nn.ModuleList, outputs: tuple[Tensor, ...]
    ) -> list[LocalLoss]:
        if isinstance(rule, nn.ModuleList):
            losses = rule
        else:
            with torch.random.fork_rng([]):
                losses = rule.build([tuple(z.shape[1:]) for z in outputs])
            weight = next(iter(self._parameters.values()))
            losses = losses.to(outputs[-1].device, weight.dtype)
        if len(losses) != len(self.blocks):
            raise ValueError(
                f"A rule needs one local loss per block: {len(losses)} losses for "
                f"{len(self.blocks)} blocks."
            )
        return [cast(LocalLoss, loss) for loss in contracted(nn.ModuleList(losses))]

    def _empty(self) -> Sums:
        return Sums.empty(len(self.rules), 1 if self.backward else len(self.rules))
