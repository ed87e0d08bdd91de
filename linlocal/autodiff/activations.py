"""Nonlinearities of layers in torch, without their slopes: those are left to autograd."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from linlocal.autodiff.numpy_only import elementwise
from linlocal.networks import GELU, Activation, LeakyReLU, ReLU, Tanh


def activation_formula(activation: Activation) -> Callable[[Tensor], Tensor]:
    """phi as a torch function; one of your own uses its own slope, as torch knows no other."""
    # The class itself and not its subclasses, whose value may be another.
    if type(activation) is ReLU:
        return F.relu
    if type(activation) is LeakyReLU:
        return partial(F.leaky_relu, negative_slope=activation.negative_slope)
    if type(activation) is Tanh:
        return torch.tanh
    if type(activation) is GELU:
        return F.gelu
    return partial(elementwise, (activation.value, activation.slope))
