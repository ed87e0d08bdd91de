"""Supervised losses of the top layer: functions of its activities and of given targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from linlocal import inputs
from linlocal.inputs import Array, Index


@runtime_checkable
class SupervisedLoss(Protocol):
    """A loss of the activities z of all samples, (samples, width); it holds their targets."""

    def value(self, z: Array) -> float:
        """The loss."""
        ...

    def gradient(self, z: Array) -> Array:
        """Its derivative by z, (samples, width)."""
        ...


@dataclass(frozen=True, eq=False)
class CrossEntropy:
    """mean over k of -log softmax(o_k) at the label of sample k, with logits o_k = R z_k.

    Attributes:
        labels: (samples,) whole numbers from 0, one for each row of the batch; the batch of
            `Pairs.from_views` has both views, one after the other.
        readout: R, (classes, width), fixed; None takes the units themselves as logits.

    Raises:
        ValueError: labels are no vector or below 0, or readout is no finite matrix.
        TypeError: labels are not whole numbers.
    """

    labels: Index
    readout: Array | None = None

    __repr__ = inputs.brief

    def __post_init__(self) -> None:
        inputs.keep(self, inputs.rows, "labels")
        if self.labels.ndim != 1 or not self.labels.size or self.labels.min() < 0:
            raise ValueError(
                "labels must be a vector of class numbers from 0, one for each sample, got shape "
                f"{self.labels.shape}"
                + (f" with a least of {self.labels.min()}." if self.labels.size else ".")
            )
        _keep_readout(self)

    def logits(self, z: Array) -> Array:
        """o, (samples, classes).

        Raises:
            ValueError: labels and readout do not fit the activities.
        """
        outputs = _outputs(z, self.readout, len(self.labels), "labels")
        if self.labels.max() >= outputs.shape[1]:
            raise ValueError(
                f"Label {self.labels.max()} needs {self.labels.max() + 1} logits, but there are "
                f"{outputs.shape[1]}; give a readout with one row for each class."
            )
        return outputs

    def value(self, z: Array) -> float:
        logits = self.logits(z)
        rows = np.arange(len(logits))
        return float(np.mean(np.logaddexp.reduce(logits, axis=1) - logits[rows, self.labels]))

    def gradient(self, z: Array) -> Array:
        logits = self.logits(z)
        by_logit = np.exp(logits - np.logaddexp.reduce(logits, axis=1)[:, None])
        by_logit[np.arange(len(logits)), self.labels] -= 1.0
        return _through(by_logit / len(logits), self.readout)


@dataclass(frozen=True, eq=False)
class SquaredError:
    """1/2 mean over k of ||m_k * (R z_k - t_k)||^2.

    With a mask it is masked reconstruction (He et al. 2022, arXiv 2111.06377), where the activities
    are those of inputs with these entries hidden.

    Attributes:
        targets: t, (samples, outputs), one row for each row of the batch; the batch of
            `Pairs.from_views` has both views, one after the other.
        readout: R, (outputs, width), fixed; None takes the units themselves as outputs.
        mask: m, of 0 and 1 (or True) in the shape of the targets: which errors count; None counts
            all.

    Raises:
        ValueError: targets, readout or mask are no finite matrix, or the mask has another shape
            than the targets or other entries than 0 and 1.
        TypeError: they are not real numbers.
    """

    targets: Array
    readout: Array | None = None
    mask: Array | None = None

    __repr__ = inputs.brief

    def __post_init__(self) -> None:
        targets = inputs.matrix(self.targets, "targets", "(samples, outputs)")
        object.__setattr__(self, "targets", targets)
        _keep_readout(self)
        if self.mask is not None:
            given = np.asarray(self.mask)
            given = given.astype(np.float64) if given.dtype == bool else self.mask
            mask = inputs.matrix(given, "mask", "(samples, outputs)")
            if mask.shape != targets.shape or not np.isin(mask, (0.0, 1.0)).all():
                raise ValueError(
                    f"mask must be of 0 and 1 in the shape of the targets, {targets.shape}, got "
                    f"shape {mask.shape} with entries from {mask.min()} to {mask.max()}."
                )
            object.__setattr__(self, "mask", mask)

    def errors(self, z: Array) -> Array:
        """m_k * (R z_k - t_k), (samples, outputs).

        Raises:
            ValueError: targets and readout do not fit the activities.
        """
        outputs = _outputs(z, self.readout, len(self.targets), "targets")
        if outputs.shape != self.targets.shape:
            raise ValueError(
                f"The targets have {self.targets.shape[1]} columns, but there are "
                f"{outputs.shape[1]} outputs; give a readout with one row for each column."
            )
        errors = np.asarray(outputs - self.targets)
        return errors if self.mask is None else self.mask * errors

    def value(self, z: Array) -> float:
        errors = self.errors(z)
        return 0.5 * float(np.sum(errors**2)) / len(errors)

    def gradient(self, z: Array) -> Array:
        errors = self.errors(z)
        return _through(errors / len(errors), self.readout)


def _keep_readout(loss: CrossEntropy | SquaredError) -> None:
    readout: ArrayLike | None = loss.readout
    if readout is not None:
        matrix = inputs.matrix(readout, "readout", "(outputs, width)")
        object.__setattr__(loss, "readout", matrix)


def _outputs(z: Array, readout: Array | None, count: int, what: str) -> Array:
    if count != len(z):
        raise ValueError(
            f"{count} {what} for {len(z)} samples; give one for each row of the batch. The batch "
            "of Pairs.from_views has both views, one after the other, so repeat them for the "
            "second view."
        )
    if readout is None:
        return z
    if readout.shape[1] != z.shape[1]:
        raise ValueError(
            f"The readout reads {readout.shape[1]} units, but the layer has {z.shape[1]}; it must "
            f"be (outputs, {z.shape[1]})."
        )
    return np.asarray(z @ readout.T)


def _through(by_output: Array, readout: Array | None) -> Array:
    return by_output if readout is None else np.asarray(by_output @ readout)
