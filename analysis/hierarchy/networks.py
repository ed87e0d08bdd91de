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
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    ("none"). With "batch" or "none" the path from the output to layer l no longer depends on the
    input: it is a direct feedback with the matrix W_{l+1}^T Dbar_{l+1} ... W_L^T.

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
            if value not in known:
                raise ValueError(f"{what} must be one of {', '.join(known)}, got {value!r}.")
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
        seed: seeds the weights and feedback matrices; the global random state is not touched.

    Raises:
        ValueError: tuple sizes that do not divide the positions.
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
        if sharing not in get_args(Sharing):
            raise ValueError(f"sharing must be one of {get_args(Sharing)}, got {sharing!r}.")
        generator = torch.Generator().manual_seed(seed)
        self.width, self.feedback = width, feedback
        layers: list[_Layer] = []
        channels, positions = num_symbols, num_positions
        for size in tuple_sizes:
            if size < 1 or positions % size:
                raise ValueError(
                    f"A layer that reads {size} positions cannot tile {positions}: tuple sizes "
                    f"{tuple(tuple_sizes)} must divide the {num_positions} leaves one by one."
                )
            positions //= size
            copies = positions if sharing == "local" else 1
            layers.append(
                _Layer(size, (copies, width, size * channels), normalise, feedback, generator)
            )
            channels = width
        self.layers = nn.ModuleList(layers)
        self.readout = nn.utils.skip_init(nn.Linear, positions * channels, num_classes)
        with torch.no_grad():
            self.readout.weight.normal_(0, channels**-0.5, generator=generator)
            self.readout.bias.zero_()
        if feedback.direct:
            counts = [num_positions]
            for size in tuple_sizes:
                counts.append(counts[-1] // size)
            for number, count in enumerate(counts[1:], start=1):
                matrix = torch.randn(num_classes, count * width, generator=generator)
                self.register_buffer(f"direct_{number}", matrix / width**0.5)

    def activities(self, x: Tensor) -> list[Tensor]:
        """z_1..z_L of one-hot leaves (samples, d, num_symbols)."""
        outputs: list[Tensor] = []
        z = x
        for layer in self.layers:
            z = layer(z.detach() if self.feedback.direct else z)
            outputs.append(z)
        return outputs

    def forward(self, x: Tensor) -> Tensor:
        """The logits (samples, classes)."""
        return self.readout(self.activities(x)[-1].flatten(1))

    def backward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Add the update's gradients for the mean cross-entropy to ``.grad``; returns logits."""
        outputs = self.activities(x)
        top = outputs[-1].flatten(1)
        if not self.feedback.direct:
            logits: Tensor = self.readout(top)
            F.cross_entropy(logits, labels).backward()
            return logits.detach()
        logits = self.readout(top.detach())
        (error,) = torch.autograd.grad(F.cross_entropy(logits, labels), logits, retain_graph=True)
        logits.backward(error)
        if self.feedback.weights == "target":
            error = -F.one_hot(labels, logits.shape[1]).to(error.dtype) / len(labels)
        for number, output in enumerate(outputs, start=1):
            output.backward((error @ self.get_buffer(f"direct_{number}")).view_as(output))
        return logits.detach()


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
        std = (2 / fan_in) ** 0.5
        self.weight = nn.Parameter(torch.randn(shape, generator=generator) * std)
        self.bias = nn.Parameter(torch.zeros(copies, width))
        self.norm = nn.BatchNorm1d(width, affine=False) if normalise else None
        self.feedback = feedback
        if feedback.weights == "random":
            self.register_buffer("carrier", torch.randn(shape, generator=generator) * std)

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
        carrier = self.carrier if feedback.weights == "random" else weight
        down = _Carried.apply(patches, weight, carrier) + bias  # type: ignore[no-untyped-call]
        if self.norm is not None:
            flat = down.flatten(0, 1)
            down = F.batch_norm(flat, None, None, training=True).view_as(down)
        return _Joined.apply(own, down, feedback)  # type: ignore[no-untyped-call]

    def _normalised(self, pre: Tensor) -> Tensor:
        if self.norm is None:
            return pre
        return self.norm(pre.flatten(0, 1)).view_as(pre)


def _affine(patches: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if len(weight) == 1:
        return F.linear(patches, weight[0], bias[0])
    return torch.einsum("npi,poi->npo", patches, weight) + bias


class _Carried(torch.autograd.Function):
    """W h forwards; the error passes back through another matrix."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, carrier: Tensor) -> Tensor:
        ctx.save_for_backward(carrier)
        return _affine(h, weight, torch.zeros((), dtype=h.dtype).expand(len(weight), 1))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (carrier,) = ctx.saved_tensors
        return _affine_transposed(gradients[0], carrier), None, None


def _affine_transposed(error: Tensor, weight: Tensor) -> Tensor:
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
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]
