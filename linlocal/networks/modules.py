"""The weights of a bias-free ``torch.nn.Sequential`` as exact matrices, without importing torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from linlocal import inputs
from linlocal.networks.convolution import Convolution, Weight


def weights_of_module(
    module: Any, input_shape: Sequence[int] | None, nonlinear: bool
) -> list[Weight]:
    """W_1..W_L of a module, read by class name and attributes, so torch need not be imported."""
    shape = None if input_shape is None else inputs.wholes(input_shape, "input_shape", 1)
    weights: list[Weight] = []
    waiting_for_relu = False
    for name, layer in _flat_layers(module):
        kind = type(layer).__name__
        if kind in ("Flatten", "Identity", "Dropout"):
            continue
        if kind == "ReLU":
            if not nonlinear:
                raise ValueError(f"Layer {name} is a ReLU; use DeepReLU.from_module.")
            if not waiting_for_relu:
                raise ValueError(f"Layer {name} is a ReLU that follows no weight.")
            waiting_for_relu = False
            continue
        if kind not in ("Linear", "Conv2d"):
            raise TypeError(
                f"Layer {name} is a {kind}, which is no exact matrix here; only Linear and Conv2d "
                "(with Flatten, Identity and Dropout between them) are."
            )
        if waiting_for_relu:
            raise ValueError(
                f"Layer {name} follows a layer without ReLU; DeepReLU needs one after each weight."
            )
        if layer.bias is not None:
            raise ValueError(
                f"Layer {name} has a bias; the theory is of networks without: use bias=False."
            )
        value = np.asarray(layer.weight.detach().cpu().double().numpy())
        if kind == "Linear":
            weights.append(value)
        else:
            if shape is None or len(shape) != 3:
                raise ValueError(
                    f"Layer {name} is a Conv2d: give input_shape=(channels, height, width), got "
                    f"{input_shape}."
                )
            if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
                raise ValueError(f"Layer {name}: give its padding as numbers, with zeros.")
            convolution = Convolution(
                value,
                (shape[0], shape[1], shape[2]),
                tuple(layer.stride),
                tuple(layer.padding),
                tuple(layer.dilation),
                layer.groups,
            )
            weights.append(convolution)
            shape = convolution.output_shape
        waiting_for_relu = nonlinear
    if waiting_for_relu:
        raise ValueError("The last weight has no ReLU; DeepReLU needs one after each weight.")
    return weights


def _flat_layers(module: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if type(module).__name__ == "Sequential":
        for name, child in module.named_children():
            yield from _flat_layers(child, f"{prefix}{name}.")
    else:
        yield prefix.rstrip(".") or type(module).__name__, module
