"""The weights of linear and convolutional layers as matrices: one row for each output.

A kernel (out, in, k, ...) is the matrix (out, in k ...) that acts on a patch of the input. Of a
grouped convolution every group is such a matrix, and the layer is block-diagonal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from linlocal import inputs
from linlocal.analysis.block import refuse_inference, refuse_lazy, unwrap
from linlocal.analysis.training.sharding import sharded

Layer = nn.Linear | _ConvNd


@dataclass(frozen=True)
class WeightMatrix:
    """The weight of one layer.

    Attributes:
        name: the name of the layer in the network.
        layer: the layer.
        weight: its weight, (out, in / groups, ...).
    """

    name: str
    layer: Layer
    weight: nn.Parameter

    @property
    def groups(self) -> int:
        """The number of groups of a convolution, 1 for a linear layer."""
        return self.layer.groups if isinstance(self.layer, _ConvNd) else 1

    def matrices(self, like: Tensor) -> Tensor:
        """A tensor in the shape of the weight as (groups, out / groups, columns)."""
        return like.reshape(self.groups, like.shape[0] // self.groups, -1)


def weight_matrices(
    model: nn.Module, names: str | Iterable[str] | None = None
) -> tuple[WeightMatrix, ...]:
    """The weights of the layers of a network that are matrices; a shared weight is there once.

    Args:
        model: the network.
        names: names of layers or of modules that hold them, also with wildcards ("layer?.*").
            By default all linear and convolutional layers whose weights are trained.

    Raises:
        TypeError: no module, or no names.
        ValueError: a name that fits no layer, no layer at all, a transposed convolution, weights
            that are computed from others (a parametrisation), that have no shape yet, or of which
            this process holds a part.
    """
    network = unwrap(model)
    refuse_lazy(network)
    refuse_inference(network)
    found = dict(_chosen(network, names))
    seen: set[int] = set()
    result = []
    for name, layer in found.items():
        weight = _own_weight(name, layer)
        if id(weight) not in seen:
            seen.add(id(weight))
            result.append(WeightMatrix(name, layer, weight))
    if not result:
        raise ValueError(
            "The network has no linear or convolutional layer whose weights are trained: name the "
            "layers, or unfreeze them."
        )
    return tuple(result)


def named_modules(model: nn.Module, names: str | Iterable[str]) -> dict[str, nn.Module]:
    """The submodules that names with wildcards fit, in the order of the network.

    Raises:
        TypeError: no names.
        ValueError: a name that fits nothing.
    """
    wanted = _patterns(names)
    modules = {name: module for name, module in model.named_modules() if name}
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in modules):
            raise ValueError(
                f"No submodule is called {pattern!r}; names are, for example, "
                f"{', '.join([*modules][:8])}, and * stands for any characters."
            )
    return {n: m for n, m in modules.items() if any(fnmatchcase(n, p) for p in wanted)}


def _chosen(network: nn.Module, names: str | Iterable[str] | None) -> Iterator[tuple[str, Layer]]:
    if names is None:
        for name, module in network.named_modules():
            if _is_layer(module) and any(p.requires_grad for p in module.parameters()):
                yield name, module
        return
    for pattern in _patterns(names):
        fitting = named_modules(network, pattern)
        inside = [
            (f"{name}.{n}".rstrip("."), m)
            for name, module in fitting.items()
            for n, m in module.named_modules()
            if _is_layer(m)
        ]
        if not inside:
            kinds = {type(module).__name__ for module in fitting.values()}
            raise ValueError(
                f"{pattern!r} ({', '.join(sorted(kinds))}) holds no linear or convolutional layer, "
                "so there is no weight matrix in it."
            )
        yield from inside


def _patterns(names: str | Iterable[str]) -> tuple[str, ...]:
    several = [names] if isinstance(names, str) else names
    wanted: tuple[Any, ...] = inputs.sequence(several, "names", "names of submodules")
    for pattern in wanted:
        if not isinstance(pattern, str):
            raise TypeError(f"names are names of submodules, got {inputs.described(pattern)}.")
    return wanted


def _is_layer(module: nn.Module) -> TypeGuard[Layer]:
    return isinstance(module, Layer)


def _own_weight(name: str, layer: Layer) -> nn.Parameter:
    if isinstance(layer, _ConvTransposeNd):
        raise ValueError(
            f"{name or 'The network'} is a transposed convolution, whose kernel is laid out "
            "otherwise: leave it out by naming the other layers."
        )
    if parametrize.is_parametrized(layer) or not isinstance(layer.weight, nn.Parameter):
        raise ValueError(
            f"The weight of {name or 'the network'} is computed from other parameters "
            "(a parametrisation, weight or spectral normalisation), which would undo what is set "
            "here: remove it, or leave the layer out by naming the others."
        )
    if sharded(layer.weight):
        raise ValueError(
            f"This process holds a part of the weight of {name} only, and orthogonality is a "
            "property of the whole: train without shard=True."
        )
    return layer.weight


def wide(weight: Tensor) -> Tensor:
    """A detached weight in float32 or wider."""
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
