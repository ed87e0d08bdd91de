"""The contract of a local loss, and of what builds one for every block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from linlocal import inputs
from linlocal.analysis.local_losses.pooling import Shape

Activity = Tensor | tuple[Tensor, ...]
"""A block's output: one tensor, or one of each forward pass where these give other shapes."""


class LocalLoss(nn.Module, ABC):
    """The loss of one block.

    It may have parameters of its own (a projection, a head), which are trained with the block. The
    global counterpart (BP-SSL) of a rule is the loss of the last block, backpropagated through all.

    Attributes:
        reads_top: whether the loss reads the last block's activity, which costs one more forward
            pass in local training. If False, ``top`` may be None.
        needs_global_error: whether the loss's own parameters learn from the backpropagated error
            signal, which local training does not have.
        compares: what the first half of the rows is to the last half: the other "views" of the same
            data, row by row, which then have the same labels; or "contrasts", positive and negative
            data. None: a batch is not checked for it.
        is_loss: False of a rule without a loss (`SoftHebb`): the value carries an update, which is
            minus its gradient by the block's parameters, and says nothing about other blocks. Local
            training takes it; what backpropagates it, or compares error signals, refuses it.
        num_views: the number of views, or contrasts, that are compared.
        per_pass: whether ``here`` and ``top`` may be tuples with a tensor for each forward pass,
            where the passes of a step give outputs of other shapes (crops of several sizes).
        remembers: whether the loss keeps what a teacher gives, see `remember`.
    """

    reads_top: bool = False
    needs_global_error: bool = False
    compares: Literal["views", "contrasts"] | None = None
    is_loss: bool = True
    num_views: int = 2
    per_pass: bool = False
    remembers: bool = False

    def __call__(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        """The loss, which is given the top activity only where it says that it reads it.

        Raises:
            ValueError: what ``forward`` returned is no scalar.
        """
        value = super().__call__(here, top if self.reads_top else None, batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"A local loss must return one number, {self.title} returned {got}: take the "
                "mean over samples in it."
            )
        return value

    @property
    def title(self) -> str:
        """What messages call it."""
        return type(self).__name__

    @abstractmethod
    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        """The loss.

        Args:
            here: (2N, ...) this block's output: one view in the first N rows, the other view of the
                same data, in the same order, in the last N rows.
            top: (2N, ...) the last block's output, stacked in the same way and detached.
            batch: the batch as the loader gave it, with its labels; None if the caller gave none.

        Returns:
            A scalar.
        """

    def activity_loss(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        """The part of the loss that depends on ``here``, cheaper where a penalty does not."""
        return self(here, top, batch)

    def remember(self, keys: Tensor) -> None:
        """Keep the outputs of this block of a teacher, after the loss of their batch.

        Args:
            keys: (views N, ...) the outputs, stacked.
        """
        raise NotImplementedError(f"{self.title} remembers nothing.")


class PlainLoss(LocalLoss):
    """A plain module as a local loss: it is called with ``here`` and ``top``, and may read both.

    Args:
        loss: the module.
    """

    reads_top = True

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        value: Tensor = self.loss(here, top)
        return value

    @property
    def title(self) -> str:
        return type(self.loss).__name__


@runtime_checkable
class LocalRule(Protocol):
    """Anything that builds one local loss for each block."""

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """One local loss for each block.

        Args:
            shapes: the shapes of the blocks' outputs, without the axis of samples.
            seed: seeds the parameters of the losses.
        """
        ...


def contracted(losses: nn.ModuleList) -> nn.ModuleList:
    """The same losses, with every plain module wrapped as a `LocalLoss`."""
    for l, loss in enumerate(losses):
        if not isinstance(loss, LocalLoss):
            losses[l] = PlainLoss(loss)
    return losses


def refuse_without_loss(losses: Iterable[LocalLoss], what: str) -> None:
    """Raise if one of the losses is none.

    Args:
        losses: the losses.
        what: what needs them to be losses, for the message.

    Raises:
        ValueError: one of them only carries an update.
    """
    for loss in losses:
        if not loss.is_loss:
            raise ValueError(
                f"{what} needs a loss, which {loss.title} is not: it carries the update of a rule "
                "without a loss, and what is backpropagated from it means nothing. Train it by "
                "LocalTrainer."
            )


def labels_of(batch: Any, rows: int, device: torch.device) -> Tensor:
    """The label of each row of both views.

    Args:
        batch: (inputs, labels, ...) or (view 1, view 2, labels, ...) with a label for each row of
            both views, or for each datum, which then counts for both views.
        rows: the number of rows of both views together.
        device: the device of the returned labels.

    Raises:
        ValueError: the batch has no labels, or labels for another number of rows.
        TypeError: labels that are not whole numbers.
    """
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError(
            "This loss reads labels: give it batches (inputs, labels), got "
            f"{inputs.described(batch)}."
        )
    rows = inputs.whole(rows, "rows", 0)
    entry = batch[1]
    if len(batch) > 2 and isinstance(entry, Tensor) and isinstance(batch[0], Tensor):
        entry = batch[2] if entry.ndim > 1 and entry.shape == batch[0].shape else entry
    labels = torch.as_tensor(inputs.plain(entry, "labels"), device=device)
    if labels.ndim != 1 or len(labels) not in (rows, rows // 2):
        raise ValueError(
            f"A batch of {rows} rows, both views together, came with labels of shape "
            f"{tuple(labels.shape)}: give one label for each row, or one for each datum."
        )
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(f"labels must be whole numbers, got {labels.dtype}.")
    return labels if len(labels) == rows else torch.cat([labels, labels])


def views_of(here: Tensor) -> tuple[Tensor, Tensor]:
    """Both views of a stacked batch (2 samples, ...).

    Raises:
        ValueError: an odd number of rows, or fewer than 2 samples.
    """
    if len(here) % 2 or len(here) < 4:
        raise ValueError(
            f"A local loss needs both views of at least 2 samples, stacked: an even number of rows "
            f"from 4 on, got {len(here)}; concatenate the views, and use drop_last=True in the "
            "loader."
        )
    half = len(here) // 2
    return here[:half], here[half:]
