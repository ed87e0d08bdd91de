"""The forward passes of a step, put together to batches of all views; the rest is refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from linlocal.analysis.alignment.sums import ErrorSignals
from linlocal.analysis.block import Block

Outputs = tuple[Tensor, ...]
"""The outputs of all blocks in one forward pass."""

_BACKWARD_BETWEEN = (
    "A backward pass came between the forward passes of a batch. A local loss compares the views: "
    "run the passes of both views (of all, and those of a teacher), then the backward pass."
)


@dataclass(eq=False)
class Batch:
    """A batch whose local losses are not computed yet: its error signals and its passes so far."""

    signals: ErrorSignals
    passes: list[Outputs] = field(default_factory=list)


class Passes:
    """Puts the forward passes of one step together to batches, as they were declared.

    Args:
        views: the number of views in each forward pass of the network for a batch.
        teacher_views: that in each forward pass of a teacher.
        batches: the largest number of batches in the step.
        num_globals: the number of global losses.
    """

    def __init__(
        self, views: Sequence[int], teacher_views: Sequence[int], batches: int, num_globals: int
    ) -> None:
        self._views, self._teacher_views = views, teacher_views
        self._batches, self._num_globals = batches, num_globals
        self._begun: list[Batch] = []
        self._taught: list[Outputs] = []
        self._modes: dict[str, list[bool]] = {}
        self._seen = self._seen_of_teacher = 0

    def add(self, outputs: Outputs, blocks: Sequence[Block]) -> Batch:
        """The batch to which a forward pass of the network belongs.

        Raises:
            RuntimeError: more passes than declared, another mode, or a backward pass between.
            ValueError: the rows are those of other data.
        """
        self._seen += 1
        declared = self._batches * len(self._views)
        if self._seen > declared:
            raise RuntimeError(
                f"This is forward pass {self._seen} of the network in a step that was "
                f"declared to have {declared}. Where each view runs in a pass of its own, say so: "
                'AlignmentRecorder(views="separate"), or views=(1, 1, 1) for three. Micro-batches, '
                "of all views each, are declared by step(micro_batches=...). What is not trained "
                "belongs under torch.no_grad()."
            )
        self._check_mode("network", blocks)
        if self._complete(self._begun[-1:]):
            shape = self._num_globals, len(outputs), len(self._views)
            self._begun.append(Batch(ErrorSignals.empty(*shape)))
        else:
            self._check_fits(outputs)
        batch = self._begun[-1]
        batch.passes.append(outputs)
        return batch

    def teach(self, outputs: Outputs, blocks: Sequence[Block]) -> None:
        """Take a forward pass of the teacher.

        Raises:
            RuntimeError: it ran with gradients or in another mode, or is one more than declared.
        """
        if any(z.requires_grad for z in outputs):
            raise RuntimeError(
                "A forward pass of the teacher ran with gradients, so the loss may train it: run "
                "it under torch.no_grad(). If it is trained, its views are those of the network."
            )
        self._seen_of_teacher += 1
        declared = self._batches * len(self._teacher_views)
        if self._seen_of_teacher > declared:
            raise RuntimeError(
                f"This is forward pass {self._seen_of_teacher} of the teacher in a step that was "
                f"declared to have {declared}: declare the views of each, teacher_views=(1, 1), "
                "micro-batches by step(micro_batches=...); other passes run outside of the step."
            )
        self._check_mode("teacher", blocks)
        # Under inference mode a network gives tensors that no graph may hold.
        self._taught.append(tuple(z.clone() if z.is_inference() else z for z in outputs))

    def complete(self) -> Iterator[tuple[Batch, list[Outputs]]]:
        """The batches whose passes have all come, in their order, with those of the teacher.

        Raises:
            RuntimeError: a backward pass came between, or the rows are those of other data.
        """
        count = len(self._teacher_views)
        while self._begun and self._complete(self._begun[:1]) and len(self._taught) >= count:
            batch = self._begun.pop(0)
            taught, self._taught = self._taught[:count], self._taught[count:]
            if batch.signals.complete:
                raise RuntimeError(_BACKWARD_BETWEEN)
            first = batch.passes[0]
            for outputs, views in zip(taught, self._teacher_views, strict=True):
                self._check_rows(first, outputs, views)
            yield batch, taught

    def check_complete(self) -> None:
        """Raise a RuntimeError if a batch has not had all its forward passes."""
        last = self._begun[-1:]
        if not self._complete(last):
            at = len(last[0].passes) + 1
            raise RuntimeError(
                f"After {self._seen} forward passes with gradients the "
                f"{'second view' if self._views == (1, 1) else f'pass {at} of {len(self._views)}'} "
                f"of the last batch is missing: views={self._views} declares the number of views "
                "in each pass, and all of them run with gradients. Views that come without (from a "
                "momentum encoder, or from the network itself under torch.no_grad()) are those of "
                "a teacher: AlignmentRecorder(views=(1,), teacher=..., teacher_views=(1,))."
            )
        if self._begun or self._taught:
            raise RuntimeError(
                f"There were {self._seen} forward passes of the network and "
                f"{self._seen_of_teacher} of the teacher, declared by views={self._views} and "
                f"teacher_views={self._teacher_views} for each batch: run both inside the step. "
                "Where the network is its own teacher, these passes run under torch.no_grad()."
            )

    def check_reached(self, signals: ErrorSignals) -> None:
        """Raise a RuntimeError if no global gradient came back to a forward pass."""
        for p in sorted(signals.awaited):
            if all(passes[p] is None for passes in signals.global_[0]):
                raise RuntimeError(
                    f"No gradient of the global loss came back to forward pass {p + 1} of "
                    f"{len(self._views)} of a batch, so its local gradients would be compared with "
                    "nothing. A monitor belongs under torch.no_grad(). So do views whose outputs "
                    "the loss detaches; they are declared as those of a teacher: "
                    "AlignmentRecorder(views=(1,), teacher=model, teacher_views=(1,)). In a step "
                    "that skips its batch on purpose, call recorder.skip()."
                )

    def _complete(self, batches: Sequence[Batch]) -> bool:
        return all(len(batch.passes) == len(self._views) for batch in batches)

    def _check_fits(self, outputs: Outputs) -> None:
        begun = self._begun[-1]
        if begun.signals.complete:
            raise RuntimeError(_BACKWARD_BETWEEN)
        self._check_rows(begun.passes[0], outputs, self._views[len(begun.passes)])

    def _check_rows(self, first: Outputs, outputs: Outputs, views: int) -> None:
        one, other = tuple(first[-1].shape), tuple(outputs[-1].shape)
        if one[0] * views != other[0] * self._views[0]:
            raise ValueError(
                f"The forward passes of a batch gave outputs {one} and {other} in the last block, "
                f"for {self._views[0]} and {views} of its views. Every view has one row for each "
                "datum, in the same order."
            )

    def _check_mode(self, who: str, blocks: Sequence[Block]) -> None:
        parts = [m for block in blocks for member in block.members for m in member.modules()]
        modes = [part.training for part in parts]
        before = self._modes.setdefault(who, modes)
        if modes != before:
            pairs = zip(parts, before, strict=False)
            part = next(part for part, training in pairs if part.training != training)
            now, then = ("train", "eval") if part.training else ("eval", "train")
            raise RuntimeError(
                f"A {type(part).__name__} of the {who} is in {now} mode, and was in {then} mode in "
                "an earlier forward pass of the step, but views that are compared run in one mode. "
                "A validation or a monitor belongs under torch.no_grad(), or after the step."
            )
