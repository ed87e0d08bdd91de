"""What a ``torch.nn.Sequential`` computes, as exact matrices, without importing torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.networks.activations import GELU, Activation, LeakyReLU, ReLU, Tanh
from linlocal.networks.convolution import Convolution, Weight


@dataclass(frozen=True)
class FoundActivation:
    """A nonlinearity of a module.

    Attributes:
        name: its place in the module.
        kind: the name of its class in torch.
        activation: phi.
    """

    name: str
    kind: str
    activation: Activation


@dataclass
class ModuleParts:
    """The parts of a module, entry l - 1 for layer l.

    Attributes:
        names: the places of the weights in the module.
        weights: W_1..W_L.
        biases: b_1..b_L, None where a layer has none.
        activations: what follows each weight, None where nothing does.
    """

    names: list[str] = field(default_factory=list)
    weights: list[Weight] = field(default_factory=list)
    biases: list[Array | None] = field(default_factory=list)
    activations: list[FoundActivation | None] = field(default_factory=list)


def parts_of_module(module: Any, input_shape: Sequence[int] | None) -> ModuleParts:
    """Weights, biases and nonlinearities, read by class name and attributes.

    Raises:
        ValueError: a missing input shape, a padding that is no number, or a nonlinearity that
            follows no weight.
        TypeError: a layer that is no exact matrix.
    """
    shape = None if input_shape is None else inputs.wholes(input_shape, "input_shape", 1)
    parts = ModuleParts()
    for name, layer in _flat_layers(module):
        kind = type(layer).__name__
        if kind in ("Flatten", "Identity", "Dropout"):
            continue
        activation = _activation(name, layer)
        if activation is not None:
            if not parts.weights or parts.activations[-1] is not None:
                raise ValueError(f"Layer {name} is a {kind} that follows no weight.")
            parts.activations[-1] = FoundActivation(name, kind, activation)
            continue
        if kind not in ("Linear", "Conv2d"):
            raise TypeError(
                f"Layer {name} is a {kind}, which is no exact matrix here; only Linear and Conv2d "
                "(with Flatten, Identity, Dropout, ReLU, LeakyReLU, Tanh and GELU between them) "
                "are. What a module adds up itself is given by links."
            )
        value = _values(layer.weight)
        weight: Weight = value
        if kind == "Conv2d":
            weight = _convolution(name, layer, value, shape)
            shape = weight.output_shape
        parts.names.append(name)
        parts.weights.append(weight)
        parts.biases.append(None if layer.bias is None else _values(layer.bias))
        parts.activations.append(None)
    return parts


def _activation(name: str, layer: Any) -> Activation | None:
    kind = type(layer).__name__
    if kind == "ReLU":
        return ReLU()
    if kind == "LeakyReLU":
        return LeakyReLU(layer.negative_slope)
    if kind == "Tanh":
        return Tanh()
    if kind == "GELU":
        if layer.approximate != "none":
            raise ValueError(
                f"Layer {name} is a GELU approximated by {layer.approximate}; only the exact one "
                'is known: use approximate="none".'
            )
        return GELU()
    return None


def _convolution(
    name: str, layer: Any, kernel: Array, shape: tuple[int, ...] | None
) -> Convolution:
    if shape is None or len(shape) != 3:
        raise ValueError(
            f"Layer {name} is a Conv2d: give input_shape=(channels, height, width), got {shape}."
        )
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise ValueError(f"Layer {name}: give its padding as numbers, with zeros.")
    return Convolution(
        kernel,
        (shape[0], shape[1], shape[2]),
        tuple(layer.stride),
        tuple(layer.padding),
        tuple(layer.dilation),
        layer.groups,
    )


def _values(parameter: Any) -> Array:
    return np.asarray(parameter.detach().cpu().double().numpy())


def _flat_layers(module: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if type(module).__name__ == "Sequential":
        for name, child in module.named_children():
            yield from _flat_layers(child, f"{prefix}{name}.")
    else:
        yield prefix.rstrip(".") or type(module).__name__, module
