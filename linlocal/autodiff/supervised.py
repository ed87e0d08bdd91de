"""Supervised losses in torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from linlocal.autodiff.numpy_only import by_numpy
from linlocal.autodiff.tensors import index, tensor
from linlocal.inputs import Array
from linlocal.losses import CrossEntropy, SquaredError, SupervisedLoss

SupervisedFormula = Callable[[Tensor], Tensor]


def supervised_formula(loss: SupervisedLoss) -> SupervisedFormula:
    """A supervised loss in torch: a function of the top layer's activities (samples, width).

    A loss of your own, a subclass of a named one included, is evaluated by its numpy methods; its
    derivative is its own ``gradient``.

    Args:
        loss: one of `linlocal.losses`, or your own.
    """
    if type(loss) is CrossEntropy:
        return lambda z: F.cross_entropy(_outputs(loss.readout, z), index(loss.labels))
    if type(loss) is SquaredError:
        targets = tensor(loss.targets)
        weights = 1.0 if loss.mask is None else tensor(loss.mask)

        def squared_error(z: Tensor) -> Tensor:
            squares = (_outputs(loss.readout, z) - targets).square()
            return 0.5 * (weights * squares).sum(1).mean()

        return squared_error
    return lambda z: _by_numpy(loss, z)


def _outputs(readout: Array | None, z: Tensor) -> Tensor:
    return z if readout is None else F.linear(z, tensor(readout))


def _by_numpy(loss: SupervisedLoss, z: Tensor) -> Tensor:
    moved = torch.sum((z - z.detach()) * by_numpy(loss.gradient, z))
    return by_numpy(loss.value, z) + moved
