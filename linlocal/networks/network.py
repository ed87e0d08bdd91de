"""Deep networks with frozen weights: activities, downstream maps, backpropagation, updates.

Layers are numbered 1..L; z_0 is the input. Activities are matrices (samples, width).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike

from linlocal import inputs
from linlocal.inputs import Array
from linlocal.networks.convolution import Convolution, MapShape, Weight
from linlocal.networks.links import Links, described, link_table
from linlocal.networks.modules import ModuleParts, parts_of_module

Masks = Literal["sample", "batch", "none"]
Parameters = Literal["weights", "biases"]


@dataclass(frozen=True, eq=False)
class Activities:
    """What one forward pass leaves behind.

    Attributes:
        z: z[l] is (samples, width_l) for l = 0..L.
        masks: masks[l] is the derivative phi' of layer l's nonlinearity at its drive,
            (samples, width_l), and masks[0] is unused; None for a linear network.
    """

    z: tuple[Array, ...]
    masks: tuple[Array, ...] | None = None

    __repr__ = inputs.brief


class Network(ABC):
    """A feed-forward network z_l = phi(W_l z_{l-1} + b_l) + sum_k s_lk z_k with frozen weights.

    The links k -> l add earlier activities to a layer: residual networks, and sums of branches. The
    loss of layer l sees the whole of z_l, links included, and the update of layer l is that of W_l
    and b_l alone. A local update stops the gradient at all activities below, and backpropagation
    counts all paths.

    Args:
        weights: W_1..W_L as matrices (width_l, width_{l-1}) or `Convolution` objects.
        biases: b_1..b_L, each (width_l,), or (out channels,) for a convolution; None where a layer
            has none.
        links: for each layer the earlier layers that are added to it, ``{l: [k, ...]}``, or with
            their scales, ``{l: {k: s}}``, where k = 0 is the input; or "residual", which adds
            z_{l-1} to every layer as wide as the one below.

    Raises:
        ValueError: no layer, non-finite weights, widths that do not chain, a bias of another
            length, or a link that does not fit.
        TypeError: no sequence of matrices of real numbers, or links of another kind.
    """

    def __init__(
        self,
        weights: Sequence[ArrayLike | Convolution],
        biases: Sequence[ArrayLike | None] | None = None,
        links: Links | None = None,
    ) -> None:
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
        self._biases = self._checked_biases(biases)
        self._links = link_table(links, self.widths)

    def _checked_biases(self, biases: Sequence[ArrayLike | None] | None) -> tuple[Array, ...]:
        if biases is None:
            return (inputs.frozen(()),) * self.depth
        given = inputs.sequence(biases, "biases", "vectors b_1..b_L (None where a layer has none)")
        if len(given) != self.depth:
            raise ValueError(
                f"biases has {len(given)} entries for {self.depth} layers; give one for each "
                "layer, None where it has none."
            )
        checked = []
        for l, (bias, weight) in enumerate(zip(given, self._weights, strict=True), start=1):
            vector = inputs.frozen(inputs.numbers(() if bias is None else bias, f"b_{l}"))
            size = _units(weight)
            if vector.size and vector.shape != (size,):
                unit = "channels" if isinstance(weight, Convolution) else "units"
                raise ValueError(
                    f"b_{l} must be ({size},), one number for each of the {unit} that W_{l} "
                    f"writes, got shape {vector.shape}."
                )
            inputs.all_finite(vector, f"b_{l}")
            checked.append(vector)
        return tuple(checked)

    # -- constructors ------------------------------------------------------------------------

    @classmethod
    def orthogonal(
        cls,
        widths: Sequence[int],
        seed: int = 0,
        links: Links | None = None,
        bias_std: float | None = None,
    ) -> Self:
        """Haar-distributed weights with orthonormal rows (narrowing) or columns (widening).

        Args:
            widths: n_0..n_L.
            seed: seeds the weights, then the biases.
            links: as in the class.
            bias_std: the standard deviation of independent normal biases; None for no biases.
        """
        return cls._draw(widths, seed, _semi_orthogonal, links, bias_std)

    @classmethod
    def conformal(
        cls,
        widths: Sequence[int],
        scale: float,
        seed: int = 0,
        links: Links | None = None,
        bias_std: float | None = None,
    ) -> Self:
        """Semi-orthogonal weights times ``scale``.

        Without links, G_l = scale^(2(L-l)) I if no layer narrows.

        Args:
            widths: n_0..n_L.
            scale: the singular value of every weight.
            seed: seeds the weights, then the biases.
            links: as in the class.
            bias_std: as in `orthogonal`.

        Raises:
            ValueError: scale is not a positive number.
        """
        scale = inputs.positive(scale, "scale")
        return cls._draw(
            widths, seed, lambda rng, shape: scale * _semi_orthogonal(rng, shape), links, bias_std
        )

    @classmethod
    def uniform(
        cls,
        widths: Sequence[int],
        seed: int = 0,
        links: Links | None = None,
        bias_std: float | None = None,
    ) -> Self:
        """The default of ``torch.nn.Linear``: uniform on +-1/sqrt(fan in).

        Args:
            widths: n_0..n_L.
            seed: seeds the weights, then the biases.
            links: as in the class.
            bias_std: as in `orthogonal`.
        """
        return cls._draw(
            widths,
            seed,
            lambda rng, shape: rng.uniform(-1.0, 1.0, shape) / np.sqrt(shape[1]),
            links,
            bias_std,
        )

    @classmethod
    def gaussian(
        cls,
        widths: Sequence[int],
        seed: int = 0,
        links: Links | None = None,
        bias_std: float | None = None,
    ) -> Self:
        """Independent normal entries with variance 1/fan in.

        Args:
            widths: n_0..n_L.
            seed: seeds the weights, then the biases.
            links: as in the class.
            bias_std: as in `orthogonal`.
        """
        return cls._draw(
            widths,
            seed,
            lambda rng, shape: rng.standard_normal(shape) / np.sqrt(shape[1]),
            links,
            bias_std,
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
    def from_module(
        cls, module: Any, input_shape: Sequence[int] | None = None, links: Links | None = None
    ) -> Self:
        """The network of a ``torch.nn.Sequential`` of Linear and Conv2d layers.

        Flatten, Identity and Dropout (as in eval mode) are skipped. A `DeepLinear` takes no
        nonlinearity. A `DeepReLU` needs a ReLU after each weight. A `DeepNonlinear` takes ReLU,
        LeakyReLU, Tanh or GELU, the same after each weight, and none or the same after the last.

        Args:
            module: a ``torch.nn.Sequential``, ``Linear`` or ``Conv2d``.
            input_shape: (channels, height, width) of the input; needed if there is a Conv2d.
            links: as in the class. What a module of your own adds up in its ``forward`` cannot be
                read: give its weights in a ``Sequential``, and say here what is added.

        Raises:
            ValueError: a missing input shape, or a nonlinearity in the wrong place.
            TypeError: a layer that is no exact matrix (normalisation, pooling by maximum, ...).
        """
        return cls._of_module(parts_of_module(module, input_shape), links)

    @classmethod
    def _of_module(cls, parts: ModuleParts, links: Links | None) -> Self:
        """The network of what was read of a module."""
        raise TypeError(
            f"{cls.__name__} does not say how it is made of a torch module: make it of weights."
        )

    @classmethod
    def _draw(
        cls,
        widths: Sequence[int],
        seed: int,
        draw: Callable[[np.random.Generator, tuple[int, int]], Array],
        links: Links | None,
        bias_std: float | None,
    ) -> Self:
        sizes, rng = _sizes(widths), _generator(seed)
        shapes = zip(sizes[1:], sizes[:-1], strict=True)
        weights = [draw(rng, shape) for shape in shapes]
        if bias_std is None:
            return cls(weights, links=links)
        bias_std = inputs.not_negative(bias_std, "bias_std")
        return cls(weights, [bias_std * rng.standard_normal(n) for n in sizes[1:]], links)

    # -- shape -------------------------------------------------------------------------------

    @property
    def is_linear(self) -> bool:
        """Whether phi is the identity."""
        return False

    @property
    def weights(self) -> tuple[Weight, ...]:
        """W_1..W_L as they were given; ``weights[l - 1]`` belongs to layer l."""
        return self._weights

    @property
    def biases(self) -> tuple[Array, ...]:
        """b_1..b_L as they were given; empty, (0,), where a layer has none."""
        return self._biases

    @property
    def has_biases(self) -> bool:
        """Whether any layer has a bias."""
        return any(b.size for b in self._biases)

    @property
    def links(self) -> dict[int, dict[int, float]]:
        """``links[l][k]`` is the scale s_lk of the link k -> l, for each layer l with links."""
        return {l: dict(into) for l, into in enumerate(self._links) if into}

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

    def with_weights(
        self,
        weights: Sequence[ArrayLike | Convolution],
        biases: Sequence[ArrayLike | None] | None = None,
    ) -> Self:
        """A network of the same kind with other weights.

        A step along updates, matrices and convolutions alike, is
        ``network.with_weights([w + rate * u for w, u in zip(network.weights, updates)])``.

        Args:
            weights: W_1..W_M. With fewer than L, biases and links end with the new top layer.
            biases: b_1..b_M; by default those of this network.
        """
        weights = inputs.sequence(weights, "weights", "matrices or `Convolution`s, W_1..W_L")
        if biases is None and self.has_biases:
            biases = self._biases[: len(weights)]
        links = {l: into for l, into in self.links.items() if l <= len(weights)}
        return self._like(weights, biases, links)

    def _like(
        self,
        weights: Sequence[ArrayLike | Convolution],
        biases: Sequence[ArrayLike | None] | None,
        links: Links,
    ) -> Self:
        return type(self)(weights, biases, links)

    def __repr__(self) -> str:
        parts = [" -> ".join(map(str, self.widths)), *self._features()]
        return f"{type(self).__name__}({', '.join(parts)})"

    def _features(self) -> list[str]:
        links = described(self._links, self.widths)
        return ["biases"] * self.has_biases + ([links] if links else [])

    # -- what it computes ----------------------------------------------------------------------

    @abstractmethod
    def activities(self, x: ArrayLike) -> Activities:
        """One forward pass.

        Args:
            x: (samples, n_0).

        Raises:
            ValueError: x does not fit the first layer or is not finite.
        """

    def _drive(self, layer: int, below: Array) -> Array:
        """W_l z_{l-1} + b_l."""
        drive = below @ self._matrices[layer - 1].T
        bias = self._biases[layer - 1]
        if bias.size:
            drive = drive + np.repeat(bias, drive.shape[1] // bias.size)
        return drive

    def _linked(self, layer: int, own: Array, z: Sequence[Array]) -> Array:
        """What the layer computes itself, plus what its links add."""
        for k, scale in self._links[layer]:
            own = own + scale * z[k]
        return own

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
        top = self.depth if source is None else inputs.layer_number(source, self.depth, "source")
        if not inputs.is_one_of(masks, get_args(Masks)):
            raise ValueError(f'masks must be "sample", "batch" or "none", got {masks!r}.')
        errors = {top: error}
        for l in range(top, 1, -1):
            signal = errors[l]
            if activities.masks is not None and masks == "sample":
                signal = signal * activities.masks[l]
            elif activities.masks is not None and masks == "batch":
                signal = signal * activities.masks[l].mean(axis=0)
            _arrive(errors, l - 1, signal @ self.matrix(l))
            for k, scale in self._links[l]:
                _arrive(errors, k, scale * errors[l])
        return tuple(errors[l] for l in range(1, top + 1))

    def update(self, layer: int, activities: Activities, error: Array) -> Array:
        """Delta W_l = sum_k phi'_l[k] e_l[k] z_{l-1}[k]^T, in the shape of the weight or kernel.

        Args:
            layer: l in 1..L.
            activities: what the forward pass left behind.
            error: (samples, width_l), minus the derivative of a loss by z_l.
        """
        layer = inputs.layer_number(layer, self.depth)
        gradient = self._at_drive(layer, activities, error).T @ activities.z[layer - 1]
        weight = self._weights[layer - 1]
        return weight.kernel_gradient(gradient) if isinstance(weight, Convolution) else gradient

    def bias_update(self, layer: int, activities: Activities, error: Array) -> Array:
        """Delta b_l = sum_k phi'_l[k] e_l[k], in the shape of the bias; empty without one.

        Args:
            layer: l in 1..L.
            activities: what the forward pass left behind.
            error: (samples, width_l), minus the derivative of a loss by z_l.
        """
        layer = inputs.layer_number(layer, self.depth)
        bias = self._biases[layer - 1]
        if not bias.size:
            return np.zeros(0)
        gradient = self._at_drive(layer, activities, error).sum(axis=0)
        return np.asarray(gradient.reshape(bias.size, -1).sum(axis=1))

    def updates(
        self, activities: Activities, errors: Sequence[Array], of: Parameters = "weights"
    ) -> tuple[Array, ...]:
        """The updates of all layers, by `update` or by `bias_update`.

        Args:
            activities: what the forward pass left behind.
            errors: ``errors[l - 1]`` is minus the derivative of a loss by z_l, (samples, width_l).
            of: "weights" or "biases".

        Raises:
            ValueError: neither of the two, or no layer has a bias.
        """
        self.check_parameters(of)
        update = self.update if of == "weights" else self.bias_update
        return tuple(update(l, activities, errors[l - 1]) for l in self.layers)

    def check_parameters(self, of: Parameters) -> None:
        """Raise a ValueError unless ``of`` is "weights", or "biases" where there are any."""
        if not inputs.is_one_of(of, get_args(Parameters)):
            raise ValueError(f'of must be "weights" or "biases", got {inputs.described(of)}.')
        if of == "biases" and not self.has_biases:
            raise ValueError(
                "No layer of this network has a bias to update; build it with biases=[b_1, ...] or "
                "bias_std."
            )

    def joint_update(self, layer: int, activities: Activities, error: Array) -> Array:
        """The update of all parameters of a layer: `update`, and `bias_update` if it has a bias.

        With a bias it is the matrix [Delta W_l, Delta b_l], which has a row for each unit (for each
        output channel, of a convolution).

        Args:
            layer: l in 1..L.
            activities: what the forward pass left behind.
            error: (samples, width_l), minus the derivative of a loss by z_l.
        """
        weight = self.update(layer, activities, error)
        bias = self.bias_update(layer, activities, error)
        return np.column_stack([weight.reshape(bias.size, -1), bias]) if bias.size else weight

    def _at_drive(self, layer: int, activities: Activities, error: Array) -> Array:
        return error if activities.masks is None else error * activities.masks[layer]

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


def _arrive(errors: dict[int, Array], layer: int, signal: Array) -> None:
    errors[layer] = errors[layer] + signal if layer in errors else signal


def _units(weight: Weight) -> int:
    """How many numbers a bias of this weight has."""
    return weight.kernel.shape[0] if isinstance(weight, Convolution) else weight.shape[0]


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
