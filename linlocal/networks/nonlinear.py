"""Deep networks with a nonlinearity: each sample has a downstream map of its own, its Jacobian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.networks.activations import Activation, ReLU, activation_of, name_of
from linlocal.networks.convolution import Convolution
from linlocal.networks.links import Links
from linlocal.networks.modules import ModuleParts
from linlocal.networks.network import Activities, Network

Readout = Literal["same", "linear"]


class DeepNonlinear(Network):
    """A deep network with a nonlinearity: z_l = phi(W_l z_{l-1} + b_l) + sum_k s_lk z_k.

    V_l is the sample's Jacobian V_l(x).

    Args:
        weights, biases, links: as `Network`.
        activation: phi, "relu", "leaky_relu", "tanh" or "gelu" (the exact one), or an object with
            the methods ``value(drive)`` and ``slope(drive)``, like `linlocal.networks.LeakyReLU`.
        readout: the top layer: "same" as the others, or "linear", without phi.

    Raises:
        ValueError: as `Network`, an unknown activation or readout, or a slope that is not the
            derivative of the value.
        TypeError: as `Network`, or an activation without value and slope.
    """

    def __init__(
        self,
        weights: Sequence[ArrayLike | Convolution],
        biases: Sequence[ArrayLike | None] | None = None,
        links: Links | None = None,
        activation: str | Activation = "relu",
        readout: Readout = "same",
    ) -> None:
        super().__init__(weights, biases, links)
        self._activation = activation_of(activation)
        if not inputs.is_one_of(readout, get_args(Readout)):
            raise ValueError(
                f'readout must be "same" or "linear", got {inputs.described(readout)}.'
            )
        self._readout: Readout = readout

    @property
    def activation(self) -> Activation:
        """phi, with its value and slope."""
        return self._activation

    @property
    def readout(self) -> Readout:
        """Whether phi acts on the top layer too ("same"), or not ("linear")."""
        return self._readout

    @property
    def is_linear(self) -> bool:
        return False

    def _like(
        self,
        weights: Sequence[ArrayLike | Convolution],
        biases: Sequence[ArrayLike | None] | None,
        links: Links,
    ) -> Self:
        return type(self)(weights, biases, links, self._activation, self._readout)

    def _features(self) -> list[str]:
        linear = ["linear readout"] if self._readout == "linear" else []
        return [name_of(self._activation), *linear, *super()._features()]

    def activities(self, x: ArrayLike) -> Activities:
        z = [self.check_input(x)]
        masks = [np.ones_like(z[0])]
        for l in self.layers:
            drive = self._drive(l, z[-1])
            if l == self.depth and self._readout == "linear":
                masks.append(np.ones_like(drive))
            else:
                masks.append(self._activation.slope(drive))
                drive = self._activation.value(drive)
            z.append(self._linked(l, drive, z))
        return Activities(tuple(z), tuple(masks))

    def downstream(self, layer: int, x: ArrayLike) -> Array:
        """V_l(x) = dz_L / dz_l for every sample, over all paths, (samples, n_L, n_l)."""
        layer = inputs.layer_number(layer, self.depth)
        return self._jacobians(x, layer)[layer]

    def jacobians(self, x: ArrayLike) -> tuple[Array, ...]:
        """`downstream` of the layers 1..L, by one pass down through the network."""
        maps = self._jacobians(x, 1)
        return tuple(maps[l] for l in self.layers)

    def _jacobians(self, x: ArrayLike, lowest: int) -> dict[int, Array]:
        activities = self.activities(x)
        assert activities.masks is not None
        maps = {self.depth: np.tile(np.eye(self.widths[-1]), (len(activities.z[0]), 1, 1))}
        for l in range(self.depth, lowest, -1):
            own = (maps[l] * activities.masks[l][:, None, :]) @ self.matrix(l)
            maps[l - 1] = maps[l - 1] + own if l - 1 in maps else own
            for k, scale in self._links[l]:
                maps[k] = maps[k] + scale * maps[l] if k in maps else scale * maps[l]
        return maps

    @classmethod
    def _of_module(cls, parts: ModuleParts, links: Links | None) -> Self:
        *hidden, last = parts.activations
        first = next((f for f in parts.activations if f is not None), None)
        if first is None:
            raise ValueError("No layer has a nonlinearity; use DeepLinear.from_module.")
        for number, (name, found) in enumerate(zip(parts.names, hidden, strict=False)):
            if found is None:
                raise ValueError(
                    f"Layer {parts.names[number + 1]} follows a layer without nonlinearity, which "
                    f"is {name}; only the last may have none."
                )
        for found in parts.activations:
            if found is not None and found.activation != first.activation:
                raise ValueError(
                    f"Layer {found.name} is a {found.activation}, and layer {first.name} a "
                    f"{first.activation}; all must be the same."
                )
        readout: Readout = "linear" if last is None else "same"
        return cls(parts.weights, parts.biases, links, first.activation, readout)


class DeepReLU(DeepNonlinear):
    """A deep ReLU network: z_l = max(0, W_l z_{l-1} + b_l) + sum_k s_lk z_k, the top one too.

    For a linear top layer, take `DeepNonlinear` with ``readout="linear"``.
    """

    def __init__(
        self,
        weights: Sequence[ArrayLike | Convolution],
        biases: Sequence[ArrayLike | None] | None = None,
        links: Links | None = None,
    ) -> None:
        super().__init__(weights, biases, links)

    def _like(
        self,
        weights: Sequence[ArrayLike | Convolution],
        biases: Sequence[ArrayLike | None] | None,
        links: Links,
    ) -> Self:
        return type(self)(weights, biases, links)

    def _features(self) -> list[str]:
        return Network._features(self)

    @classmethod
    def _of_module(cls, parts: ModuleParts, links: Links | None) -> Self:
        for number, found in enumerate(parts.activations):
            if found is not None and found.activation != ReLU():
                raise ValueError(
                    f"Layer {found.name} is a {found.kind}; use DeepNonlinear.from_module."
                )
            if found is None and number == len(parts.activations) - 1:
                raise ValueError(
                    "The last weight has no ReLU; DeepReLU needs one after each weight. With a "
                    "linear last layer, use DeepNonlinear.from_module."
                )
            if found is None:
                raise ValueError(
                    f"Layer {parts.names[number + 1]} follows a layer without ReLU; DeepReLU needs "
                    "one after each weight."
                )
        return cls(parts.weights, parts.biases, links)
