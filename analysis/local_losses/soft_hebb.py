"""SoftHebb: Hebbian plasticity of a soft winner-take-all layer, a rule that has no loss.

For a layer u = W x whose units k compete at every place, and the inverse of a temperature T,

    delta W_k = mean over rows and places of  y_k (x - u_k W_k),
    y = s softmax(u / T),   s = 1 of the winner (the unit with the largest u), -1 of the losers.

Journe, Garcia Rodriguez, Guo and Moraitis 2023 (arXiv 2209.11883), whose s makes losers
anti-Hebbian; Moraitis et al. 2022 (arXiv 2107.05747) have s = 1 for all. Then, and for weights of
norm 1, the update is the gradient of mean T log sum_k exp(u_k / (T ||W_k||)). With losers it is the
gradient of nothing: its Jacobian is not symmetric.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from linlocal import inputs
from linlocal.analysis.local_losses.contract import LocalLoss
from linlocal.analysis.local_losses.pooling import Shape, as_map, shapes_of

Layer = nn.Linear | nn.Conv2d

_LINEAR = 1e-3  # how far the presynaptic sums of units may be apart, relative to their size


@torch.no_grad()
def soft_hebb_update(
    layer: Layer, below: Tensor, *, temperature: float = 1.0, anti_hebbian: bool = True
) -> Tensor:
    """delta W of one layer, as it is added to the weights, by hand without autograd.

    Args:
        layer: a Linear or Conv2d without a bias and with one group.
        below: (rows, ...) the layer's input.
        temperature: T; the published code has its inverse, ``t_invert``.
        anti_hebbian: whether losers move away from the input, or all units towards it.

    Returns:
        The update, in the shape of the weights.

    Raises:
        TypeError, ValueError: as `SoftHebb`.
    """
    temperature = inputs.positive(temperature, "temperature")
    x = _presynaptic(_checked(layer, "layer"), below)
    weight = layer.weight.flatten(1)
    u = torch.einsum("ki,nip->nkp", weight, x)
    y = _competing(u, temperature, inputs.flag(anti_hebbian, "anti_hebbian"))
    pulled = torch.einsum("nkp,nip->ki", y, x)
    kept = torch.einsum("nkp,nkp->k", y, u)[:, None] * weight
    return ((pulled - kept) / (len(u) * u.shape[2])).view_as(layer.weight)


class SoftHebbUpdate(LocalLoss):
    """Carries the update of a layer: its gradient by the weights is -|norm - 1|^power delta W.

    Built by `SoftHebb`.

    Args:
        layer: the layer, whose output the loss is given.
        temperature: T.
        anti_hebbian: whether losers move away from the input.
        power: the power of every unit's distance from norm 1.
    """

    is_loss = False

    def __init__(self, layer: Layer, temperature: float, anti_hebbian: bool, power: float) -> None:
        super().__init__()
        # In a tuple, because the layer is a part of the network and not of this module.
        self._layers = (layer,)
        self.temperature, self.anti_hebbian, self.power = temperature, anti_hebbian, power
        self._looked = False

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        weight = self._layers[0].weight.flatten(1)
        u = as_map(here).flatten(2)
        u = u.to(torch.promote_types(u.dtype, torch.float32))
        if not self._looked and here.requires_grad and not here.is_meta:
            self._looked = True
            _check_linear(u, self._layers[0].weight)
        with torch.no_grad():
            y = _competing(u, self.temperature, self.anti_hebbian)
            rate = (weight.norm(dim=1) - 1.0).abs() ** self.power
            pull = y * rate[:, None] / (len(u) * u.shape[2])
            keep = (pull * u).sum((0, 2))
        # By W: -sum y x of the first part, + (sum y u) W of the second.
        return 0.5 * (keep * weight.square().sum(1)).sum() - (pull * u).sum()


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftHebb:
    """Soft winner-take-all Hebbian plasticity of given layers, see `local_losses.soft_hebb`.

    Every layer is a block of its own: what is named as a block must return the layer's output, so
    that nonlinearity, pooling and normalisation stand between two blocks. A rule without a loss
    has no backpropagated counterpart: `LocalTrainer` and `audit_locality` take it, `GlobalTrainer`,
    `align` and `AlignmentRecorder` refuse it. The published code divides each update by its largest
    entry, which an optimiser may do; train with plain SGD, without momentum and weight decay.

    Attributes:
        layers: a Linear or Conv2d of the network for each block, without biases.
        temperature: T, one for all layers or one for each.
        anti_hebbian: whether losers move away from the input, as published in 2023.
        power: the update of a unit is multiplied by | ||W_k|| - 1 |^power; 0.5 as published, 0 for
            none. Since W_k . delta W_k = mean(y_k u_k) (1 - ||W_k||^2), a norm goes to 1 where
            mean y_k u_k is positive, as it is of units that win; that of a unit which loses
            although u_k is positive goes away from 1.

    Raises:
        TypeError: a layer is neither Linear nor Conv2d, or a number is none.
        ValueError: a layer has a bias, groups or padding by name, there are no layers or not as
            many temperatures, a temperature is not positive, or the power is negative.
    """

    layers: Sequence[Layer]
    temperature: float | Sequence[float] = 1.0
    anti_hebbian: bool = True
    power: float = 0.5

    def __post_init__(self) -> None:
        given = inputs.sequence(self.layers, "layers", "Linear or Conv2d layers")
        layers = tuple(_checked(each, "an entry of layers") for each in given)
        if not layers:
            raise ValueError("SoftHebb needs at least one layer, got none.")
        object.__setattr__(self, "layers", layers)
        if inputs.is_several(self.temperature):
            each = inputs.sequence(self.temperature, "temperature", "numbers")
            found = tuple(inputs.positive(t, "an entry of temperature") for t in each)
            if len(found) != len(layers):
                raise ValueError(
                    f"{len(found)} temperatures for {len(layers)} layers; give one, or "
                    f"{len(layers)}."
                )
            object.__setattr__(self, "temperature", found)
        else:
            inputs.keep(self, inputs.positive, "temperature")
        inputs.keep(self, inputs.flag, "anti_hebbian")
        inputs.keep(self, inputs.not_negative, "power")

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """One `SoftHebbUpdate` for each block.

        Args:
            shapes: the shapes of the blocks' outputs, without the axis of samples.
            seed: not used, there is nothing to draw.

        Raises:
            ValueError: not as many blocks as layers, or a block's output is not its layer's.
        """
        inputs.whole(seed, "seed", 0)
        shapes = shapes_of(shapes)
        if len(shapes) != len(self.layers):
            raise ValueError(
                f"{len(self.layers)} layers for {len(shapes)} blocks: name each layer as a block."
            )
        for l, (layer, shape) in enumerate(zip(self.layers, shapes, strict=True), start=1):
            channels = as_map(torch.empty(1, *shape, device="meta")).shape[1]
            if channels != len(layer.weight):
                raise ValueError(
                    f"Block {l} has {channels} channels and its layer {len(layer.weight)} units: "
                    "name the layers themselves as blocks, in their order."
                )
        several = isinstance(self.temperature, tuple)
        each = self.temperature if several else (self.temperature,) * len(shapes)
        temperatures = cast(tuple[float, ...], each)
        return nn.ModuleList(
            SoftHebbUpdate(layer, t, self.anti_hebbian, self.power)
            for layer, t in zip(self.layers, temperatures, strict=True)
        )


def _competing(u: Tensor, temperature: float, anti_hebbian: bool) -> Tensor:
    """y, (rows, units, places)."""
    y = torch.softmax(u / temperature, dim=1)
    if not anti_hebbian:
        return y
    return torch.zeros_like(y).scatter(1, u.argmax(1, keepdim=True), 2.0).sub(1.0) * y


def _checked(layer: Any, name: str) -> Layer:
    inputs.instance(layer, (nn.Linear, nn.Conv2d), name, "a Linear or Conv2d")
    if layer.bias is not None:
        raise ValueError(f"SoftHebb has no update of a bias: make {layer} with bias=False.")
    if isinstance(layer, nn.Conv2d) and (layer.groups > 1 or isinstance(layer.padding, str)):
        raise ValueError(
            "A convolution must have one group and padding in numbers: its units compete for all "
            f"channels, got {layer}."
        )
    return cast(Layer, layer)


def _check_linear(u: Tensor, weight: Tensor) -> None:
    """Raise unless all units have the same presynaptic activity, as those of one layer do."""
    # By W_k, the sum over rows and places of r u_k is the sum of r x: the same for all units k.
    r = torch.arange(len(u) * u.shape[2], device=u.device, dtype=u.dtype).cos()
    weighted = (u * r.view(len(u), 1, -1)).sum()
    (sums,) = torch.autograd.grad(weighted, weight, retain_graph=True, allow_unused=True)
    if sums is None or (sums - sums[0]).abs().max() > _LINEAR * sums.abs().max():
        raise ValueError(
            "SoftHebb got an activity that is not the output of its layer, u = W x: a "
            "nonlinearity, a normalisation or another layer comes after it, or before the end of "
            'the block. Name the layer itself as the block, such as "0.conv", and leave what '
            "follows to the next one."
        )


def _presynaptic(layer: Layer, below: Tensor) -> Tensor:
    """(rows, synapses of a unit, places)."""
    inputs.instance(below, Tensor, "below", "a tensor, the layer's input")
    if isinstance(layer, nn.Linear):
        return as_map(below).flatten(2)
    high, wide = cast(tuple[int, int], layer.padding)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.unfold(
        functional.pad(below, (wide, wide, high, high), mode),
        cast(tuple[int, int], layer.kernel_size),
        cast(tuple[int, int], layer.dilation),
        0,
        cast(tuple[int, int], layer.stride),
    )
