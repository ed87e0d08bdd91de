"""Recorders and monitors in a training by Lightning's Trainer.

>>> recorder = AlignmentRecorder(module.encoder, rule=rule, every=100, log=logger.log_metrics)
>>> trainer = lightning.Trainer(logger=logger, callbacks=[InstrumentsCallback(recorder)])
>>> trainer.fit(module, loader)
>>> recorder.dataset()
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from linlocal import inputs
from linlocal.analysis.alignment import AlignmentRecorder
from linlocal.analysis.probing import Monitor
from linlocal.doors import missing_explained

with missing_explained(__name__):
    if TYPE_CHECKING or "pytorch_lightning" not in sys.modules or "lightning" in sys.modules:
        from lightning.pytorch import Callback, LightningModule, Trainer
    else:  # the same code under its older name, whose classes are others
        from pytorch_lightning import Callback, LightningModule, Trainer


class _NoLoss(Exception):
    """Ends a step in which training_step gave no loss."""


class InstrumentsCallback(Callback):
    """Lets a recorder and a monitor watch every step of a Lightning training.

    A step is what lies between two steps of the optimiser. Of ``accumulate_grad_batches=k`` batches
    the recorder gets the weight 1/k, by which Lightning multiplies their losses, and the gradient
    scaler of 16-bit training if there is one. A step without a loss (``training_step`` returned
    None) is skipped. The state goes into Lightning's checkpoints.

    Local losses and accuracies that read labels get the batch, which must then be (inputs, labels);
    with several batches in a step they get none.

    Args:
        recorder: records gradients of blocks of the module.
        monitor: watches outputs of blocks of the module.

    Raises:
        TypeError: neither, or another object.
        RuntimeError: in fit, where the module optimises by hand, or where several processes train.
    """

    def __init__(
        self, recorder: AlignmentRecorder | None = None, monitor: Monitor | None = None
    ) -> None:
        if recorder is None and monitor is None:
            raise TypeError("Give InstrumentsCallback a recorder, a monitor, or both.")
        if recorder is not None:
            inputs.instance(recorder, AlignmentRecorder, "recorder", "an AlignmentRecorder(...)")
        if monitor is not None:
            inputs.instance(monitor, Monitor, "monitor", "a Monitor(...)")
        self._recorder, self._monitor = recorder, monitor
        self._open: ExitStack | None = None
        self._learned = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be watched from here."""
        if not pl_module.automatic_optimization:
            raise RuntimeError(
                "A module that optimises by hand says itself where a step begins: put `with "
                "recorder.step():` around its forward and backward passes, without a callback."
            )
        if trainer.world_size > 1:
            raise RuntimeError(
                f"InstrumentsCallback watches one process, and {trainer.world_size} train. In a "
                "loop of your own, AlignmentRecorder takes a network in DistributedDataParallel."
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a step, unless it began with an earlier batch."""
        if self._open is not None:
            return
        count = trainer.accumulate_grad_batches
        labelled = batch if count == 1 else None
        with ExitStack() as stack:
            if self._recorder is not None:
                scaler = getattr(trainer.precision_plugin, "scaler", None)
                stack.enter_context(
                    self._recorder.step(
                        weight=1 / count, scaler=scaler, batch=labelled, micro_batches=count
                    )
                )
            if self._monitor is not None:
                stack.enter_context(self._monitor.step(batch=labelled))
            self._open, self._learned = stack.pop_all(), False

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that there is something to record."""
        self._learned = True

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Any
    ) -> None:
        """End the step: all its gradients are there."""
        stack, self._open = self._open, None
        if stack is not None and self._learned:
            stack.close()
        elif stack is not None:
            self._leave(stack, _NoLoss())

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Take the hooks away; what was recorded stays."""
        stack, self._open = self._open, None
        if stack is not None:
            self._leave(stack, exception)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what waits."""
        for instrument in (self._recorder, self._monitor):
            if instrument is not None:
                instrument.flush()

    def state_dict(self) -> dict[str, Any]:
        """The states of the instruments, for Lightning's checkpoint."""
        known = {"recorder": self._recorder, "monitor": self._monitor}
        return {name: each.state_dict() for name, each in known.items() if each is not None}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue where the checkpoint was made."""
        if self._recorder is not None and "recorder" in state_dict:
            self._recorder.load_state_dict(state_dict["recorder"])
        if self._monitor is not None and "monitor" in state_dict:
            self._monitor.load_state_dict(state_dict["monitor"])

    def _leave(self, stack: ExitStack, reason: BaseException) -> None:
        """End a step without recording it."""
        with suppress(type(reason)), stack:
            raise reason
