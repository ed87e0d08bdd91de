"""Errors that jump from the output, or from the target, to every block at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from linlocal import inputs
from linlocal.analysis.local_losses import LocalLoss, Shape, labels_of, shapes_of
from linlocal.seeds import generator_for

OutputLoss = Callable[[Tensor, Tensor], Tensor]
Sends = Literal["error", "target", "nothing"]
Maps = Literal["whole", "pooled"]


def target_error(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """What random target projection sends in place of the error: -y / samples, y one-hot rows.

    Args:
        labels: (samples,) whole numbers below ``classes``.
        classes: the number of classes.
        dtype: the dtype of what is returned, (samples, classes).
    """
    return -F.one_hot(labels, classes).to(dtype) / len(labels)


def projected(error: Tensor, matrix: Tensor) -> Tensor:
    """The rows of ``error`` (samples, classes) times ``matrix`` (classes, units)."""
    return error @ matrix.to(error.dtype)


def sent_directly(
    logits: Tensor,
    outputs: Sequence[Tensor],
    matrices: Sequence[Tensor],
    sent: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The logits, whose error e also jumps to each output, as ``sent(e)`` times its matrix.

    Args:
        logits: (samples, classes), made from detached outputs.
        outputs: (samples, ...) those of the layers.
        matrices: (classes, units) for each of them.
        sent: what is sent in place of e; None sends e.
    """
    joined: Tensor = _Direct.apply(logits, sent, [*matrices], *outputs)  # type: ignore[no-untyped-call]
    return joined


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        sent: Callable[[Tensor], Tensor] | None,
        matrices: list[Tensor],
        *outputs: Tensor,
    ) -> Tensor:
        ctx.sent, ctx.outputs = sent, [(z.shape, z.dtype) for z in outputs]
        ctx.save_for_backward(*matrices)
        return logits.view_as(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (error,) = gradients
        sent = error if ctx.sent is None else ctx.sent(error)
        below = [
            projected(sent, matrix).view(shape).to(dtype)
            for matrix, (shape, dtype) in zip(ctx.saved_tensors, ctx.outputs, strict=True)
        ]
        return error, None, None, *below


@dataclass(frozen=True)
class DirectFeedback:
    """Supervised learning in which no error passes from block to block.

    With the loss L of the network's output z_L, e = dL/dz_L and fixed random matrices B_l, block l
    below the top gets the error signal

        "error":   dLoss_l/dz_l = B_l e (+ b_l / rows)         direct feedback alignment
        "target":  dLoss_l/dz_l = -B_l y / rows (+ b_l / rows) direct random target projection

    and sends it through its own layers down to its input. The last block is the one whose output
    the loss reads, so the head must be one of the blocks; it gets the gradient of L itself. A local
    loss here is <z_l, error signal>: its gradient counts, its value says nothing.

    It is a rule: `LocalTrainer` trains by it (with ``one_pass=True`` in one forward and one
    backward pass), `align` and `AlignmentRecorder` compare its gradients with backpropagation of L,
    and `audit_locality` shows that no block reaches another. Any topology will do in which
    activities reach the loss through the outputs of all blocks in turn.

    With "nothing", only the last block has a loss. With ``window=L`` it is the loss of the output,
    backpropagated through the network as it is. In a network that `feedback_alignment` has changed,
    ``align(model, names, DirectFeedback("nothing"), x, batch=(x, labels), window=L)`` thus compares
    its feedback with backpropagation.

    Attributes:
        sends: what the blocks below the top get.
        loss: L, a function of the output and the labels.
        maps: of convolutional maps and tokens, whether B_l leads to each unit of the "whole" map,
            or to its mean over places ("pooled"), so all places get the same error.
        bias: whether the feedback has biases b_l, fixed and random.

    Raises:
        ValueError: an unknown word.
        TypeError: a loss that cannot be called, or a bias that is no bool.

    References:
        Nøkland 2016, arXiv 1609.01596 (direct feedback alignment); Frenkel, Lefebvre & Bol 2021,
        arXiv 1909.01311 (direct random target projection).
    """

    sends: Sends = "error"
    loss: OutputLoss = field(default_factory=lambda: F.cross_entropy)
    maps: Maps = "whole"
    bias: bool = False

    def __post_init__(self) -> None:
        for what, value, known in (
            ("sends", self.sends, get_args(Sends)),
            ("maps", self.maps, get_args(Maps)),
        ):
            if not inputs.is_one_of(value, known):
                raise ValueError(f"{what} must be one of {', '.join(known)}, got {value!r}.")
        if not callable(self.loss):
            raise TypeError(
                "loss must be a function of the output and the labels, as F.cross_entropy, got "
                f"{inputs.described(self.loss)}."
            )
        inputs.keep(self, inputs.flag, "bias")

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """One local loss for each block.

        The entries of B_l and b_l are normal with the standard deviation 1 / sqrt(units that B_l
        leads to), so the error of a sample keeps its size. They are buffers.

        Args:
            shapes: the shapes of the blocks' outputs, without the axis of samples.
            seed: seeds the matrices.

        Raises:
            ValueError: there are no blocks, or the last one has no flat output.
        """
        seed = inputs.whole(seed, "seed", 0)
        shapes = shapes_of(shapes)
        if not shapes or len(shapes[-1]) != 1:
            raise ValueError(
                f"The outputs of the blocks have shapes {shapes}, of which the last one must be "
                "(classes,): direct feedback sends the error of the network's output, so name the "
                "head as the last block, as in blocks=[..., 'fc']."
            )
        *below, top = shapes
        losses: list[LocalLoss] = []
        for l, shape in enumerate(below, start=1):
            if self.sends == "nothing":
                losses.append(_Nothing())
                continue
            units = prod(shape) if self.maps == "whole" else _channels(shape)
            draws = generator_for("direct feedback", seed, l).standard_normal((top[0] + 1, units))
            normal = torch.from_numpy(draws / units**0.5).to(torch.get_default_dtype())
            losses.append(_Fed(self, normal[:-1], normal[-1] if self.bias else None))
        return nn.ModuleList([*losses, _OfOutput(self.loss)])


class _Nothing(LocalLoss):
    """No loss: a block that learns nothing by itself."""

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        return here.new_zeros(())


class _OfOutput(LocalLoss):
    """The loss of the network's output."""

    def __init__(self, loss: OutputLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        return self.loss(here, labels_of(batch, len(here), here.device))


class _Fed(LocalLoss):
    """<z_l, B_l e + b_l / rows>, with the error or minus the target in place of e."""

    bias: Tensor | None

    def __init__(self, rule: DirectFeedback, matrix: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.rule = rule
        self.reads_top = rule.sends == "error"
        self.register_buffer("matrix", matrix)
        self.register_buffer("bias", bias)

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        labels = labels_of(batch, len(here), here.device)
        matrix = cast(Tensor, self.matrix)
        if self.rule.sends == "error":
            with torch.enable_grad():
                output = cast(Tensor, top).detach().requires_grad_()
                (error,) = torch.autograd.grad(self.rule.loss(output, labels), output)
        else:
            error = target_error(labels, len(matrix), matrix.dtype)
        signal = projected(error, matrix)
        if self.bias is not None:
            signal = signal + self.bias.to(signal.dtype) / len(here)
        read = here.flatten(1) if self.rule.maps == "whole" else _means(here)
        return (read * signal.to(here.dtype)).sum()


def _channels(shape: Shape) -> int:
    """The channels of an output in standard form: (C,), (tokens, C) or (C, height, width)."""
    return shape[0] if len(shape) == 3 else shape[-1]


def _means(z: Tensor) -> Tensor:
    """The means over places, (samples, channels)."""
    return z.mean((2, 3)) if z.ndim == 4 else z.mean(1) if z.ndim == 3 else z
