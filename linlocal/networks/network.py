"""Deep networks with frozen weights: activities, downstream maps, backpropagation, updates.

Layers are numbered 1..L; z_0 is the input. Activities are matrices (samples, width).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.networks.convolution import Convolution, MapShape, Weight
from linlocal.networks.modules import weights_of_module

Masks = Literal["sample", "batch", "none"]


@dataclass(frozen=True, eq=False)
class Activities:
    """What one forward pass leaves behind.

    Attributes:
        z: z[l] is (samples, width_l) for l = 0..L.
        masks: masks[l] is the derivative of layer l's nonlinearity, (samples, width_l), and
            masks[0] is unused; None for a linear network.
    """

    z: tuple[Array, ...]
    masks: tuple[Array, ...] | None = None


class Network(ABC):
    """A bias-free feed-forward network z_l = phi(W_l z_{l-1}) with frozen weights.

    Args:
        weights: W_1..W_L as matrices (width_l, width_{l-1}) or `Convolution` objects.

    Raises:
        ValueError: no layer, non-finite weights, or widths that do not chain.
        TypeError: no sequence of matrices of real numbers.
    """

    def __init__(self, weights: Sequence[ArrayLike | Convolution]) -> None:
        weights = inputs.sequence(weights, "weights", "matrices or `Convolution`s, W_1..W_L")
        if not weights:
            raise ValueError("A network needs at least one weight matrix.")
        self._weights: tuple[Weight, ...] = tuple(
            w if isinstance(w, Convolution) else inputs.matrix(w, f"W_{l}", "(outputs, inputs)")
            for l, w in enumerate(weights, start=1)
        )
        self._matrices = tuple(w.matrix if isinstance(w, Convolution) else w for w in self._weights)
        for l in range(1, len(weights)):
            below, above = self._matrices[l - 1], self._matrices[l]
            if above.shape[1] != below.shape[0]:
                raise ValueError(
                    f"Widths do not chain: W_{l} writes {below.shape[0]} units, but W_{l + 1} "
                    f"reads {above.shape[1]}; W_{l + 1} must be (outputs, {below.shape[0]})."
                )

    # -- constructors ------------------------------------------------------------------------

    @classmethod
    def orthogonal(cls, widths: Sequence[int], seed: int = 0) -> Self:
        """Haar-distributed weights with orthonormal rows (narrowing) or columns (widening)."""
        return cls._draw(widths, seed, lambda rng, shape: _semi_orthogonal(rng, shape))

    @classmethod
    def conformal(cls, widths: Sequence[int], scale: float, seed: int = 0) -> Self:
        """Semi-orthogonal weights times ``scale``, so G_l = scale^(2(L-l)) I if no layer narrows.

        Raises:
            ValueError: scale is not a positive number.
        """
        scale = inputs.positive(scale, "scale")
        return cls._draw(widths, seed, lambda rng, shape: scale * _semi_orthogonal(rng, shape))

    @classmethod
    def uniform(cls, widths: Sequence[int], seed: int = 0) -> Self:
        """The default of ``torch.nn.Linear``: uniform on +-1/sqrt(fan in)."""
        return cls._draw(
            widths, seed, lambda rng, shape: rng.uniform(-1.0, 1.0, shape) / np.sqrt(shape[1])
        )

    @classmethod
    def gaussian(cls, widths: Sequence[int], seed: int = 0) -> Self:
        """Independent normal entries with variance 1/fan in."""
        return cls._draw(
            widths, seed, lambda rng, shape: rng.standard_normal(shape) / np.sqrt(shape[1])
        )

    @classmethod
    def with_condition_number(
        cls, widths: Sequence[int], condition_number: float, seed: int = 0
    ) -> Self:
        """Weights whose product V_1 = W_L ... W_2 has exactly this condition number.

        W_1 is semi-orthogonal. The singular vectors of the others are aligned, so their singular
        values multiply. Each has log-spaced singular values with ratio condition_number^(1/(L-1))
        and geometric mean 1. Where layers narrow, the condition number is that of the nonzero
        singular values.

        Raises:
            ValueError: condition_number below 1 or not finite, or fewer than two layers.
        """
        sizes = _sizes(widths)
        condition_number = inputs.finite(condition_number, "condition_number")
        if condition_number < 1:
            raise ValueError(f"condition_number must be at least 1, got {condition_number}.")
        if len(sizes) < 3:
            raise ValueError(
                f"A prescribed downstream spectrum needs at least two layers, got widths {sizes}."
            )
        inputs.room(max(sizes[1:]) ** 2, f"an orthogonal basis of {max(sizes[1:])} units")
        rng = _generator(seed)
        bases = [_semi_orthogonal(rng, (n, n)) for n in sizes[1:]]
        # Every factor spreads the directions that reach the top, so their ratios multiply.
        kept = min(sizes[1:])
        ratio = condition_number ** (1.0 / (len(sizes) - 2))
        values = np.ones(max(sizes))
        if kept > 1:
            values[:kept] = ratio ** np.linspace(0.5, -0.5, kept)
        weights: list[ArrayLike] = [bases[0] @ _semi_orthogonal(rng, (sizes[1], sizes[0]))]
        for below, above in pairwise(bases):
            rank = min(len(below), len(above))
            weights.append(above[:, :rank] * values[:rank] @ below[:, :rank].T)
        return cls(weights)

    @classmethod
    def from_module(cls, module: Any, input_shape: Sequence[int] | None = None) -> Self:
        """The network of a ``torch.nn.Sequential`` of bias-free Linear and Conv2d layers.

        Flatten, Identity and Dropout (as in eval mode) are skipped. Every layer of a `DeepReLU`
        must be followed by a ReLU, and no layer of a `DeepLinear`.

        Args:
            module: a ``torch.nn.Sequential``, ``Linear`` or ``Conv2d``.
            input_shape: (channels, height, width) of the input; needed if there is a Conv2d.

        Raises:
            ValueError: a bias, a missing input shape, or a nonlinearity in the wrong place.
            TypeError: a layer that is no exact matrix (normalisation, pooling by maximum, ...).
        """
        return cls(weights_of_module(module, input_shape, nonlinear=cls._nonlinear))

    @classmethod
    def _draw(
        cls,
        widths: Sequence[int],
        seed: int,
        draw: Callable[[np.random.Generator, tuple[int, int]], Array],
    ) -> Self:
        sizes, rng = _sizes(widths), _generator(seed)
        shapes = zip(sizes[1:], sizes[:-1], strict=True)
        return cls([draw(rng, shape) for shape in shapes])

    # -- shape -------------------------------------------------------------------------------

    _nonlinear: bool

    @property
    def is_linear(self) -> bool:
        """Whether phi is the identity."""
        return not self._nonlinear

    @property
    def weights(self) -> tuple[Weight, ...]:
        """W_1..W_L as they were given; ``weights[l - 1]`` belongs to layer l."""
        return self._weights

    @property
    def depth(self) -> int:
        """L, the number of layers."""
        return len(self._weights)

    @property
    def widths(self) -> tuple[int, ...]:
        """n_0..n_L."""
        return (self._matrices[0].shape[1], *(w.shape[0] for w in self._matrices))

    @property
    def layers(self) -> range:
        """1..L."""
        return range(1, self.depth + 1)

    def matrix(self, layer: int) -> Array:
        """W_l as a matrix (width_l, width_{l-1}), even if it was given as a convolution."""
        return self._matrices[inputs.layer_number(layer, self.depth) - 1]

    def map_shape(self, layer: int) -> MapShape | None:
        """The shape (channels, height, width) of layer l's map, None where it is not a map."""
        weight = self._weights[inputs.layer_number(layer, self.depth) - 1]
        return weight.output_shape if isinstance(weight, Convolution) else None

    def with_weights(self, weights: Sequence[ArrayLike | Convolution]) -> Self:
        """A network of the same kind with other weights.

        A step along updates, matrices and convolutions alike, is
        ``network.with_weights([w + rate * u for w, u in zip(network.weights, updates)])``.
        """
        return type(self)(weights)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({' -> '.join(map(str, self.widths))})"

    # -- what it computes ----------------------------------------------------------------------

    @abstractmethod
    def activities(self, x: ArrayLike) -> Activities:
        """One forward pass.

        Args:
            x: (samples, n_0).

        Raises:
            ValueError: x does not fit the first layer or is not finite.
        """

    def backpropagate(
        self,
        activities: Activities,
        error: Array,
        masks: Masks = "sample",
        source: int | None = None,
    ) -> tuple[Array, ...]:
        """The error signals of all layers up to ``source``, by one sweep down from there.

        Args:
            activities: what the forward pass left behind.
            error: (samples, n_source), minus the derivative of a loss by z_source.
            masks: which derivatives of the nonlinearities to use on the way down: "sample" uses
                those of each sample, "batch" their average over the batch, and "none" replaces
                them by 1. A linear network has none.
            source: the layer that the error enters, by default the top layer L.

        Returns:
            errors[l - 1] is (samples, width_l), for l = 1..source.

        Raises:
            ValueError: unknown masks, or no such layer.
        """
        top = self.depth if source is None else inputs.layer_number(source, self.depth)
        if not inputs.is_one_of(masks, get_args(Masks)):
            raise ValueError(f'masks must be "sample", "batch" or "none", got {masks!r}.')
        errors = [error]
        for l in range(top, 1, -1):
            signal = errors[-1]
            if activities.masks is not None and masks == "sample":
                signal = signal * activities.masks[l]
            elif activities.masks is not None and masks == "batch":
                signal = signal * activities.masks[l].mean(axis=0)
            errors.append(signal @ self.matrix(l))
        return tuple(reversed(errors))

    def update(self, layer: int, activities: Activities, error: Array) -> Array:
        """Delta W_l = sum_k phi'_l[k] e_l[k] z_{l-1}[k]^T, in the shape of the weight or kernel.

        Args:
            layer: l in 1..L.
            activities: what the forward pass left behind.
            error: (samples, width_l), minus the derivative of a loss by z_l.
        """
        layer = inputs.layer_number(layer, self.depth)
        if activities.masks is not None:
            error = error * activities.masks[layer]
        gradient = error.T @ activities.z[layer - 1]
        weight = self._weights[layer - 1]
        return weight.kernel_gradient(gradient) if isinstance(weight, Convolution) else gradient

    def check_formula(self) -> None:
        """Raise a TypeError if a subclass has other activities than its downstream maps say."""

        def foreign(name: str) -> bool:
            method = getattr(type(self), name, None)
            return method is not None and not method.__module__.startswith(f"{__package__}.")

        if foreign("activities") and hasattr(self, "downstream") and not foreign("downstream"):
            raise TypeError(
                f"{type(self).__name__} computes its own activities but takes the downstream maps "
                "of its base class, so its updates would be those of another network: derive it "
                "from `Network` and let activities return the derivatives as masks, or define "
                "downstream as well."
            )

    def check_input(self, x: ArrayLike) -> Array:
        """``x`` as a read-only matrix (samples, n_0); raises the errors of `activities`."""
        samples = inputs.matrix(x, "x", "(samples, width)")
        if samples.shape[1] != self.widths[0]:
            raise ValueError(
                f"The network reads {self.widths[0]} features, but the samples have "
                f"{samples.shape[1]}: x must be (samples, {self.widths[0]})."
            )
        return samples


class DeepLinear(Network):
    """z_l = W_l z_{l-1}; the map downstream of layer l is V_l = W_L ... W_{l+1}, V_L = I."""

    _nonlinear = False

    def activities(self, x: ArrayLike) -> Activities:
        z = [self.check_input(x)]
        for w in self._matrices:
            z.append(z[-1] @ w.T)
        return Activities(tuple(z))

    @cached_property
    def _downstream(self) -> dict[int, tuple[Array, ...]]:
        """By e, the maps from the layers 1..e to layer e; filled when first asked for."""
        return {}

    def downstream(self, layer: int, end: int | None = None) -> Array:
        """V_{l..e} = W_e ... W_{l+1}, (n_e, n_l); up to the top layer, V_l, without ``end``."""
        layer, end = self._span(layer, end)
        if end not in self._downstream:
            maps = [np.eye(self.widths[end])]
            for w in reversed(self._matrices[1:end]):
                maps.append(maps[-1] @ w)
            self._downstream[end] = tuple(inputs.frozen(v) for v in reversed(maps))
        return self._downstream[end][layer - 1]

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

    def _span(self, layer: int, end: int | None) -> tuple[int, int]:
        layer = inputs.layer_number(layer, self.depth)
        end = self.depth if end is None else inputs.layer_number(end, self.depth)
        if end < layer:
            raise ValueError(f"Layer {end} is not downstream of layer {layer}.")
        return layer, end

    def isometric(self) -> DeepLinear:
        """The network with every weight but W_1 replaced by the nearest semi-orthogonal matrix.

        The nearest in Frobenius norm is U V^T of the singular value decomposition W = U S V^T.
        Then G_l = I for every layer from which the network does not narrow.

        Raises:
            ValueError: a layer above the first is a convolution, whose nearest isometry is no
                convolution.
        """
        if any(isinstance(w, Convolution) for w in self._weights[1:]):
            raise ValueError(
                "The nearest isometry of a convolution is not a convolution; give the weights "
                "above the first layer as matrices."
            )
        return self.with_weights(
            [self._weights[0], *(nearest_isometry(w) for w in self._matrices[1:])]
        )


class DeepReLU(Network):
    """z_l = max(0, W_l z_{l-1}); the map downstream of layer l is the sample's Jacobian V_l(x)."""

    _nonlinear = True

    def activities(self, x: ArrayLike) -> Activities:
        z = [self.check_input(x)]
        masks = [np.ones_like(z[0])]
        for w in self._matrices:
            drive = z[-1] @ w.T
            masks.append((drive > 0).astype(np.float64))
            z.append(drive * masks[-1])
        return Activities(tuple(z), tuple(masks))

    def downstream(self, layer: int, x: ArrayLike) -> Array:
        """V_l(x) = dz_L / dz_l for every sample, (samples, n_L, n_l)."""
        layer = inputs.layer_number(layer, self.depth)
        activities = self.activities(x)
        assert activities.masks is not None
        jacobian = np.broadcast_to(
            np.eye(self.widths[-1]), (len(activities.z[0]), self.widths[-1], self.widths[-1])
        )
        for l in range(self.depth, layer, -1):
            jacobian = (jacobian * activities.masks[l][:, None, :]) @ self.matrix(l)
        return np.array(jacobian)


def nearest_isometry(w: ArrayLike) -> Array:
    """The semi-orthogonal matrix nearest to ``w`` in Frobenius norm: U V^T of w = U S V^T."""
    u, _, vt = np.linalg.svd(inputs.matrix(w, "w", "(outputs, inputs)"), full_matrices=False)
    return np.asarray(u @ vt)


def _sizes(widths: Sequence[int]) -> tuple[int, ...]:
    sizes = inputs.widths(widths)
    for below, above in pairwise(sizes):
        inputs.room(below * above, f"a weight of {above} x {below}")
    return sizes


def _generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(inputs.whole(seed, "seed", 0))


def _semi_orthogonal(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Haar: QR of a Gaussian matrix, with the signs that make the factorisation unique."""
    rows, columns = shape
    q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return q if rows >= columns else q.T
