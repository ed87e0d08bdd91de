"""Deep linear networks: one downstream map for all samples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.networks.activations import Activation
from linlocal.networks.convolution import Convolution
from linlocal.networks.links import Links
from linlocal.networks.modules import ModuleParts
from linlocal.networks.network import Activities, Network
from linlocal.networks.nonlinear import DeepNonlinear, Readout


@dataclass(frozen=True)
class IsometryBound:
    """How far a downstream map may be from an isometry, by the norms of its blocks.

    Attributes:
        deviation: at least ||G_l - I|| (spectral norm).
        condition_number: at least cond(G_l); infinite if a block's ||R|| is 1 or more.
    """

    deviation: float
    condition_number: float


class DeepLinear(Network):
    """A deep linear network, with links and biases: z_l = W_l z_{l-1} + b_l + sum_k s_lk z_k.

    The map downstream of layer l is the derivative of the top layer, V_l = dz_L / dz_l, over all
    paths: W_L ... W_{l+1} without links, (I + W_L) ... (I + W_{l+1}) in a residual network. Where
    biases above l or links around it add something else to the top layer, z_L = V_l z_l + r; see
    `only_through`.
    """

    @property
    def is_linear(self) -> bool:
        return True

    def activities(self, x: ArrayLike) -> Activities:
        z = [self.check_input(x)]
        for l in self.layers:
            z.append(self._linked(l, self._drive(l, z[-1]), z))
        return Activities(tuple(z))

    @cached_property
    def _downstream(self) -> dict[int, tuple[Array, ...]]:
        """By e, the maps from the layers 1..e to layer e; filled when first asked for."""
        return {}

    def downstream(self, layer: int, end: int | None = None) -> Array:
        """V_{l..e} = dz_e / dz_l, (n_e, n_l); up to the top layer, V_l, without ``end``.

        It is W_e ... W_{l+1}, plus what all other paths along links contribute.
        """
        layer, end = self._span(layer, end)
        if end not in self._downstream:
            self._downstream[end] = tuple(inputs.frozen(v) for v in self._maps(1, end))
        return self._downstream[end][layer - 1]

    def _maps(self, first: int, end: int) -> list[Array]:
        """dz_end / dz_l for l = first..end, by one sweep down."""
        maps = {end: np.eye(self.widths[end])}
        for l in range(end, first, -1):
            own = maps[l] @ self._matrices[l - 1]
            maps[l - 1] = maps[l - 1] + own if l - 1 in maps else own
            for k, scale in self._links[l]:
                maps[k] = maps[k] + scale * maps[l] if k in maps else scale * maps[l]
        return [maps[l] for l in range(first, end + 1)]

    @cached_property
    def _gram(self) -> dict[tuple[int, int], Array]:
        return {}

    def gram(self, layer: int, end: int | None = None) -> Array:
        """V_{l..e}^T V_{l..e}, (n_l, n_l); the downstream metric G_l without ``end``."""
        key = self._span(layer, end)
        if key not in self._gram:
            v = self.downstream(*key)
            self._gram[key] = inputs.frozen(v.T @ v)
        return self._gram[key]

    def only_through(self, layer: int, end: int | None = None) -> bool:
        """Whether z_e = V_{l..e} z_l: no bias between the layers, and no link around layer l.

        Statements about the downstream map alone need it: isometry, conformal maps, and bounds. The
        metric penalty and matched projections do not, because they read layer l through the affine
        map z_l -> V_{l..e} z_l + r, with r what reaches layer e by other ways.

        Args:
            layer: l in 1..L.
            end: e in l..L, by default L.
        """
        layer, end = self._span(layer, end)
        if any(b.size for b in self._biases[layer:end]):
            return False
        return not any(k < layer for l in range(layer + 1, end + 1) for k, _ in self._links[l])

    def isometry_bound(self, layer: int) -> IsometryBound:
        """||G_l - I|| <= prod(1 + ||R||)^2 - 1 and cond(G_l) <= prod((1 + ||R||) / (1 - ||R||))^2.

        The products run over the blocks above layer l. A block leads from one layer to the next
        through which all paths pass and which has as many units, and R is its map minus the
        identity: W_m in a residual network with one weight in each branch, W_m W_{m-1} with two.
        The second bound needs ||R|| < 1 in each block (spectral norms).

        Args:
            layer: l in 1..L.

        Raises:
            ValueError: the top layer is not as wide as layer l.
        """
        layer, _ = self._span(layer, None)
        width = self.widths[layer]
        if self.widths[-1] != width:
            raise ValueError(
                f"A bound on the distance from the identity needs layer {layer} and the top layer "
                f"to be equally wide, got {width} and {self.widths[-1]} units."
            )
        norms, below = [], layer
        for l in range(layer + 1, self.depth + 1):
            if self.widths[l] == width and not self._led_around(l, layer):
                block = self._maps(below, l)[0]
                norms.append(float(np.linalg.norm(block - np.eye(width), 2)))
                below = l
        r = np.array(norms)
        largest = float(np.prod(1.0 + r))
        smallest = float(np.prod(1.0 - r)) if np.all(r < 1.0) else 0.0
        return IsometryBound(
            largest**2 - 1.0, (largest / smallest) ** 2 if smallest > 0.0 else np.inf
        )

    def _led_around(self, layer: int, first: int) -> bool:
        """Whether a link from one of the layers first..l-1 leads past layer l."""
        above = range(layer + 1, self.depth + 1)
        return any(first <= k < layer for l in above for k, _ in self._links[l])

    def _span(self, layer: int, end: int | None) -> tuple[int, int]:
        layer = inputs.layer_number(layer, self.depth)
        end = self.depth if end is None else inputs.layer_number(end, self.depth, "end")
        if end < layer:
            raise ValueError(f"Layer {end} is not downstream of layer {layer}.")
        return layer, end

    def isometric(self) -> Self:
        """The network whose layers 2..L map the one below by the nearest isometry.

        The nearest in Frobenius norm is U V^T of the singular value decomposition U S V^T of the
        layer's map, which is W_l, or s I + W_l with a link from the layer below. Then G_l = I for
        every layer from which the network does not narrow.

        Raises:
            ValueError: a layer above the first is a convolution, whose nearest isometry is no
                convolution, or has a link that skips a layer.
        """
        if any(isinstance(w, Convolution) for w in self._weights[1:]):
            raise ValueError(
                "The nearest isometry of a convolution is not a convolution; give the weights "
                "above the first layer as matrices."
            )
        weights: list[ArrayLike | Convolution] = [self._weights[0]]
        for l in self.layers[1:]:
            w, link = self._matrices[l - 1], 0.0
            for k, scale in self._links[l]:
                if k != l - 1:
                    raise ValueError(
                        f"The link from layer {k} to layer {l} skips a layer, so no map from one "
                        "layer to the next can be replaced by an isometry on its own."
                    )
                link = scale
            if link == 0.0:
                weights.append(nearest_isometry(w))
            else:
                skip = link * np.eye(len(w))
                weights.append(nearest_isometry(skip + w) - skip)
        return self.with_weights(weights)

    def with_scaled_branches(self, scale: float | None = None) -> Self:
        """The network whose branches are multiplied by ``scale``: W_l and b_l of linked layers.

        With scale = 1/L, a residual network stays near an isometry at any depth, by
        `isometry_bound`: prod(1 + ||W_l|| / L)^2 < exp(2 max ||W_l||). Layer 1 is left alone,
        because no downstream map contains it.

        Args:
            scale: the factor; by default 1/L.

        Raises:
            ValueError: no layer above the first has a link, or the scale is not positive.
        """
        scale = 1.0 / self.depth if scale is None else inputs.positive(scale, "scale")
        if not any(self._links[l] for l in self.layers[1:]):
            raise ValueError(
                "No layer above the first has a link, so there are no branches to scale; build a "
                'residual network with links="residual".'
            )
        weights: list[ArrayLike | Convolution] = []
        biases = []
        for l, (w, b) in enumerate(zip(self._weights, self._biases, strict=True), start=1):
            factor = scale if l > 1 and self._links[l] else 1.0
            scaled = (
                replace(w, kernel=factor * w.kernel) if isinstance(w, Convolution) else factor * w
            )
            weights.append(scaled)
            biases.append(factor * b)
        return self.with_weights(weights, biases)

    def with_activation(
        self, activation: str | Activation, readout: Readout = "same"
    ) -> DeepNonlinear:
        """The network with these weights, biases and links, and a nonlinearity in every layer.

        Args:
            activation: phi, by name or as an object, as in `DeepNonlinear`.
            readout: the top layer, "same" or "linear".
        """
        return DeepNonlinear(self._weights, self._biases, self.links, activation, readout)

    @classmethod
    def _of_module(cls, parts: ModuleParts, links: Links | None) -> Self:
        for found in parts.activations:
            if found is not None:
                user = "DeepReLU" if found.kind == "ReLU" else "DeepNonlinear"
                raise ValueError(f"Layer {found.name} is a {found.kind}; use {user}.from_module.")
        return cls(parts.weights, parts.biases, links)


def nearest_isometry(w: ArrayLike) -> Array:
    """The semi-orthogonal matrix nearest to ``w`` in Frobenius norm: U V^T of w = U S V^T."""
    u, _, vt = np.linalg.svd(inputs.matrix(w, "w", "(outputs, inputs)"), full_matrices=False)
    return np.asarray(u @ vt)
