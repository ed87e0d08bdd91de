"""Networks that mirror the tree of a Random Hierarchy Model, with exchangeable backward passes.

Layer l reads ``tuple_size`` neighbouring positions of the layer below and writes one, as a node of
the tree is made of its tuple:

    a_l[p] = W_l concat(z_{l-1}[s p], ..., z_{l-1}[s p + s - 1]) + b_l,    z_l = relu(norm(a_l)).

How the error of the output reaches the layers is a property of the network, its `Feedback`. One
training loop thus serves backpropagation, its masked variants and the direct-feedback rules.
Activities have the shape (samples, positions, width).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from linlocal import inputs
from linlocal.analysis.feedback import carried, sent_directly, target_error
from linlocal.networks import Masks

Weights = Literal["transposed", "random", "direct", "target"]
Sharing = Literal["convolutional", "local"]


@dataclass(frozen=True)
class Feedback:
    """How the error of the output reaches layer l.

    Let D_l(x) be the mask of the layer's ReLU, e the error dLoss/dlogits, and R_l, B_l fixed random
    matrices. The error signal of the layer is delta_l = D_l(x) g_l, and below the top

        transposed:  g_l = W_{l+1}^T Dbar_{l+1} g_{l+1}        backpropagation if Dbar is D(x)
        random:      g_l = R_{l+1}   Dbar_{l+1} g_{l+1}        feedback alignment if Dbar is D(x)
        direct:      g_l = B_l e                               direct feedback alignment
        target:      g_l = -B_l y                              direct random target projection

    where Dbar is D(x) itself ("sample"), its average over the batch ("batch") or the identity
    ("none"). With "batch" or "none" the path from the output to layer l is the same for all data of
    a batch: it is a direct feedback with the matrix W_{l+1}^T Dbar_{l+1} ... W_L^T. (Batch
    normalisation puts its own derivative into the path, which does depend on the data.)

    Attributes:
        weights: which matrices carry the error down.
        masks: which masks Dbar of the layers above l to use, for "transposed" and "random".
        local_derivative: whether to multiply by the layer's own D_l(x).

    Raises:
        ValueError: an unknown word, or masks chosen for a path that has none.

    References:
        Lillicrap et al. 2016 (feedback alignment); Nøkland 2016, arXiv 1609.01596 (direct feedback
        alignment); Frenkel et al. 2021, arXiv 1909.01311 (direct random target projection);
        statement 10 of docs/theory.md (masks).
    """

    weights: Weights = "transposed"
    masks: Masks = "sample"
    local_derivative: bool = True

    def __post_init__(self) -> None:
        for what, value, known in (
            ("weights", self.weights, get_args(Weights)),
            ("masks", self.masks, get_args(Masks)),
        ):
            if not inputs.is_one_of(value, known):
                raise ValueError(f"{what} must be one of {', '.join(known)}, got {value!r}.")
        inputs.keep(self, inputs.flag, "local_derivative")
        if self.direct and self.masks != "sample":
            raise ValueError(f"{self.weights!r} feedback crosses no layer, hence no masks.")

    @property
    def direct(self) -> bool:
        """Whether the error jumps from the output to each layer."""
        return self.weights in ("direct", "target")


class HierarchicalNet(nn.Module):
    """A ReLU network with one layer for each level of the tree, and 1x1 layers above them.

    Args:
        num_symbols: the width of the input, one-hot leaves (samples, d, num_symbols).
        tuple_sizes: the number of positions that each layer 1..L reads, bottom first; 1 for a layer
            that only deepens the network. A fully connected network reads all d leaves in layer 1:
            ``(d, 1, 1)``.
        width: the number of units per position.
        num_classes: the number of classes that a linear readout of the flattened top layer gives.
        num_positions: d, the number of positions of the input.
        sharing: "convolutional" uses the same weights at all positions, "local" does not.
        normalise: whether batch normalisation (without affine part) comes before each ReLU.
        feedback: how the error of the output reaches the layers.
        seed: seeds the weights and, after all of them, the feedback matrices: networks of one seed
            that differ in their feedback only start from the same weights. The global random state
            is not touched.

    ``loss.backward()`` for any loss of the logits sends the error down as the feedback says. The
    "target" feedback sends the labels instead of the error, which a loss does not tell: there
    only `backward` trains.

    Raises:
        ValueError: tuple sizes that do not divide the positions, or a number that is too small.
        TypeError: a number that is not whole, or a feedback that is no `Feedback`.
    """

    def __init__(
        self,
        num_symbols: int,
        tuple_sizes: Sequence[int],
        width: int,
        num_classes: int,
        num_positions: int,
        *,
        sharing: Sharing = "convolutional",
        normalise: bool = False,
        feedback: Feedback = Feedback(),
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not inputs.is_one_of(sharing, get_args(Sharing)):
            raise ValueError(f"sharing must be one of {get_args(Sharing)}, got {sharing!r}.")
        normalise = inputs.flag(normalise, "normalise")
        inputs.instance(feedback, Feedback, "feedback", "a `Feedback`")
        num_symbols = inputs.whole(num_symbols, "num_symbols", 1)
        width = inputs.whole(width, "width", 1)
        num_classes = inputs.whole(num_classes, "num_classes", 1)
        num_positions = inputs.whole(num_positions, "num_positions", 1)
        sizes = inputs.wholes(tuple_sizes, "tuple_sizes", 1)
        generator = torch.Generator().manual_seed(inputs.whole(seed, "seed", 0))
        self.width, self.num_positions, self.feedback = width, num_positions, feedback
        self.num_symbols = num_symbols
        layers: list[_Layer] = []
        counts, channels = [num_positions], num_symbols
        for size in sizes:
            if counts[-1] % size:
                raise ValueError(
                    f"A layer that reads {size} positions cannot tile {counts[-1]}: tuple sizes "
                    f"{sizes} must divide the {num_positions} leaves one by one."
                )
            counts.append(counts[-1] // size)
            copies = counts[-1] if sharing == "local" else 1
            shape = (copies, width, size * channels)
            layers.append(_Layer(size, shape, normalise, feedback, generator))
            channels = width
        self.layers = nn.ModuleList(layers)
        self.readout = nn.utils.skip_init(nn.Linear, counts[-1] * width, num_classes, device="cpu")
        with torch.no_grad():
            self.readout.weight.normal_(0, width**-0.5, generator=generator)
            self.readout.bias.zero_()
        # After the weights, so these are the same for every feedback.
        if feedback.weights == "random":
            for layer in layers:
                layer.draw_carrier(generator)
        if feedback.direct:
            for number, count in enumerate(counts[1:], start=1):
                matrix = _normal((num_classes, count * width), generator)
                self.register_buffer(f"direct_{number}", matrix / width**0.5)
        # Drawn on the CPU, so a seed means the same on every device.
        self.to(torch.get_default_device())

    def activities(self, x: Tensor) -> list[Tensor]:
        """z_1..z_L of one-hot leaves (samples, d, num_symbols).

        With direct feedback no error passes between layers: a loss of an activity itself trains its
        own layer alone.

        Raises:
            TypeError: x is no tensor, or of another floating-point type than the weights.
            ValueError: another shape.
        """
        self._check(x)
        outputs: list[Tensor] = []
        z = x
        for layer in self.layers:
            z = layer(z.detach() if self.feedback.direct else z)
            outputs.append(z)
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """The logits (samples, classes).

        Raises:
            TypeError: as `activities`.
            ValueError: as `activities`.
            RuntimeError: on the way back from them, if the feedback is "target".
        """
        return self._logits(x, None)

    def backward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Add the update's gradients for the mean cross-entropy to ``.grad``; returns logits.

        Raises:
            TypeError: as `activities`, or labels that are no tensor of whole numbers.
            ValueError: as `activities`, or not one label for each sample.
        """
        self._check(x)
        inputs.instance(labels, Tensor, "labels", "a tensor (torch.from_numpy makes one)")
        if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool:
            raise TypeError(
                f"labels must be whole numbers, got {labels.dtype}; labels.long() makes them."
            )
        if labels.shape != x.shape[:1]:
            raise ValueError(
                f"labels must have the shape (samples,), here ({len(x)},), got "
                f"{tuple(labels.shape)}."
            )
        labels = labels.long()
        logits = self._logits(x, labels)
        F.cross_entropy(logits, labels).backward()
        return logits.detach()

    def _logits(self, x: Tensor, labels: Tensor | None) -> Tensor:
        outputs = self.activities(x)
        top = outputs[-1].flatten(1)
        if not self.feedback.direct:
            logits: Tensor = self.readout(top)
            return logits
        matrices = [self.get_buffer(f"direct_{l}") for l in range(1, len(outputs) + 1)]
        sent = _Targets(labels) if self.feedback.weights == "target" else None
        return sent_directly(self.readout(top.detach()), outputs, matrices, sent)

    def _check(self, x: Tensor) -> None:
        """Raise unless x is a batch that the first layer can read."""
        inputs.instance(x, Tensor, "x", "a tensor (torch.from_numpy makes one)")
        weight = cast(_Layer, self.layers[0]).weight
        channels = weight.shape[2] // cast(_Layer, self.layers[0]).tuple_size
        if x.ndim != 3 or x.shape[1:] != (self.num_positions, channels):
            raise ValueError(
                f"x must be (samples, positions, symbols), here (samples, {self.num_positions}, "
                f"{channels}), got shape {tuple(x.shape)}."
            )
        if x.device != weight.device:
            raise ValueError(
                f"The weights are on {weight.device}, but x is on {x.device}: move one of them."
            )
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise TypeError(
                f"The weights are {weight.dtype}, but x is {x.dtype}: give x.to({weight.dtype}), "
                "or run the forward pass in torch.autocast."
            )


@dataclass(frozen=True)
class _Targets:
    """What "target" feedback sends instead of the error: minus the labels, over the batch."""

    labels: Tensor | None

    def __call__(self, error: Tensor) -> Tensor:
        if self.labels is None:
            raise RuntimeError(
                '"target" feedback sends the labels down, which the loss does not tell: call '
                "net.backward(x, labels) instead of loss.backward()."
            )
        return target_error(self.labels, error.shape[1], error.dtype)


class _Layer(nn.Module):
    """relu(norm(W patches + b)) with the backward pass that a `Feedback` asks for."""

    def __init__(
        self,
        tuple_size: int,
        shape: tuple[int, int, int],
        normalise: bool,
        feedback: Feedback,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        copies, width, fan_in = shape
        self.tuple_size = tuple_size
        self.std = (2 / fan_in) ** 0.5
        self.weight = nn.Parameter(_normal(shape, generator) * self.std)
        self.bias = nn.Parameter(torch.zeros(copies, width, device="cpu"))
        self.norm = nn.BatchNorm1d(width, affine=False, device="cpu") if normalise else None
        self.feedback = feedback

    def draw_carrier(self, generator: torch.Generator) -> None:
        """Draw the fixed matrix that carries the error down instead of the weight."""
        carrier = _normal(tuple(self.weight.shape), generator) * self.std
        self.register_buffer("carrier", carrier)

    def forward(self, h: Tensor) -> Tensor:
        samples, positions, channels = h.shape
        patches = h.reshape(samples, positions // self.tuple_size, self.tuple_size * channels)
        feedback = self.feedback
        if feedback.direct or feedback == Feedback():
            pre = self._normalised(_affine(patches, self.weight, self.bias))
            return F.relu(pre) if feedback.local_derivative else _Unmasked.apply(pre)  # type: ignore[no-untyped-call]
        # The layer's own error and what it passes down differ: two paths of equal value.
        own = self._normalised(_affine(patches.detach(), self.weight, self.bias))
        weight, bias = self.weight.detach(), self.bias.detach()
        carrier = self.get_buffer("carrier") if feedback.weights == "random" else weight
        passed = _linear(patches.detach(), weight)
        down = carried(passed, patches, _linear_transposed, carrier) + bias
        if self.norm is not None:
            # In evaluation by the running statistics, as the value; in training they are updated
            # by the first path alone.
            fixed = not self.norm.training
            mean, variance = self.norm.running_mean, self.norm.running_var
            down = F.batch_norm(
                down.flatten(0, 1),
                mean if fixed else None,
                variance if fixed else None,
                training=not fixed,
                eps=self.norm.eps,
            ).view_as(down)
        return _Joined.apply(own, down.to(own.dtype), feedback)  # type: ignore[no-untyped-call]

    def _normalised(self, pre: Tensor) -> Tensor:
        if self.norm is None:
            return pre
        return self.norm(pre.flatten(0, 1)).view_as(pre)


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device="cpu")


def _affine(patches: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if len(weight) == 1:
        return F.linear(patches, weight[0], bias[0])
    return _linear(patches, weight) + bias


def _linear(patches: Tensor, weight: Tensor) -> Tensor:
    if len(weight) == 1:
        return F.linear(patches, weight[0])
    return torch.einsum("npi,poi->npo", patches, weight)


def _linear_transposed(error: Tensor, shape: torch.Size, weight: Tensor) -> Tensor:
    if len(weight) == 1:
        return error @ weight[0]
    return torch.einsum("npo,poi->npi", error, weight)


class _Joined(torch.autograd.Function):
    """relu of a value that two paths compute; the error of each path gets a mask of its own."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, down: Tensor, feedback: Feedback) -> Tensor:
        mask = own > 0
        ctx.save_for_backward(mask)
        ctx.feedback = feedback
        return own * mask

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (mask,) = ctx.saved_tensors
        (error,) = gradients
        own = error * mask if ctx.feedback.local_derivative else error
        if ctx.feedback.masks == "sample":
            down = error * mask
        elif ctx.feedback.masks == "batch":
            down = error * mask.to(error.dtype).mean(0)
        else:
            down = error
        return own, down, None


class _Unmasked(torch.autograd.Function):
    """relu whose derivative is taken for 1."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor) -> Tensor:
        return F.relu(pre)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]
