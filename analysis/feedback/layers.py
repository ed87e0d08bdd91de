"""Linear and convolutional layers whose errors pass back through feedback weights.

Each class takes the place of the class of a layer that exists, so the layer keeps its parameters,
hooks, mode and name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from linlocal.analysis.feedback.carrying import carried, is_exact

# B from W and what was drawn, which is missing where B is a function of W alone.
Feedback = Callable[[Tensor, Tensor | None], Tensor]


class FedLayer(nn.Module):
    """The part that all layers with feedback weights share.

    Attributes:
        feedback: gives B, in the shape of the weight.
        feedback_weight: what was drawn for it, a buffer; a parameter if it is trained; None if B is
            a function of the weight alone.
    """

    weight: Tensor
    feedback: Feedback
    feedback_weight: Tensor | None

    def _through(self, x: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        weight, drawn = self.weight, self.feedback_weight
        if isinstance(drawn, nn.Parameter) and torch.is_grad_enabled():
            weight = _Twins.apply(weight, drawn)  # type: ignore[no-untyped-call]
        y = product(x.detach(), weight)
        if not (x.requires_grad and torch.is_grad_enabled()):
            return y
        matrices = [self.weight.detach(), *([] if drawn is None else [drawn.detach()])]
        return carried(y, x, self._to_input, *matrices)

    def _to_input(
        self, error: Tensor, shape: torch.Size, weight: Tensor, drawn: Tensor | None = None
    ) -> Tensor:
        matrix = weight if is_exact() else self.feedback(weight, drawn)
        return self._transposed(error, shape, matrix)

    def _transposed(self, error: Tensor, shape: torch.Size, matrix: Tensor) -> Tensor:
        """The product's transpose with another matrix in place of the weight, on an error."""
        raise NotImplementedError


class FedLinear(FedLayer, nn.Linear):
    """A linear layer with feedback weights."""

    def forward(self, x: Tensor) -> Tensor:
        return self._through(x, lambda h, weight: F.linear(h, weight, self.bias))

    def _transposed(self, error: Tensor, shape: torch.Size, matrix: Tensor) -> Tensor:
        return error @ matrix


class _FedConvolution(FedLayer, _ConvNd):
    def forward(self, x: Tensor) -> Tensor:
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self._reversed_padding_repeated_twice, mode=mode)
        run = getattr(F, f"conv{len(self.kernel_size)}d")
        return self._through(
            x,
            lambda h, weight: run(
                h, weight, self.bias, self.stride, self._inside(), self.dilation, self.groups
            ),
        )

    def _inside(self) -> tuple[int, ...]:
        """The padding that the convolution itself makes."""
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return (0,) * len(self.kernel_size)
        return self.padding

    def _transposed(self, error: Tensor, shape: torch.Size, matrix: Tensor) -> Tensor:
        return _error_of_convolution(self, error, shape, matrix, self._inside())


class _FedTransposed(FedLayer, _ConvTransposeNd):
    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        sides = len(self.kernel_size)
        run = getattr(F, f"conv_transpose{sides}d")
        padding: Any = self._output_padding(
            x,
            output_size,
            cast(Any, self.stride),
            cast(Any, self.padding),
            cast(Any, self.kernel_size),
            sides,
            cast(Any, self.dilation),
        )
        return self._through(
            x,
            lambda h, weight: run(
                h,
                weight,
                self.bias,
                self.stride,
                self.padding,
                padding,
                self.groups,
                self.dilation,
            ),
        )

    def _transposed(self, error: Tensor, shape: torch.Size, matrix: Tensor) -> Tensor:
        padding = cast(tuple[int, ...], self.padding)
        return _error_of_convolution(self, error, shape, matrix, padding)


def _error_of_convolution(
    layer: _ConvNd, error: Tensor, shape: torch.Size, matrix: Tensor, padding: tuple[int, ...]
) -> Tensor:
    single = error.ndim == 1 + len(layer.kernel_size)  # one sample, without the axis of samples
    if single:
        error, shape = error.unsqueeze(0), torch.Size((1, *shape))
    # Of the input only the shape is read.
    below: Tensor = torch.ops.aten.convolution_backward(
        error,
        error.new_empty(1).expand(shape),
        matrix,
        None,
        layer.stride,
        padding,
        layer.dilation,
        layer.transposed,
        layer.output_padding,
        layer.groups,
        (True, False, False),
    )[0]
    return below.squeeze(0) if single else below


class FedConv1d(_FedConvolution, nn.Conv1d):
    """A convolution over one axis with feedback weights."""


class FedConv2d(_FedConvolution, nn.Conv2d):
    """A convolution over two axes with feedback weights."""


class FedConv3d(_FedConvolution, nn.Conv3d):
    """A convolution over three axes with feedback weights."""


class FedConvTranspose1d(_FedTransposed, nn.ConvTranspose1d):
    """A transposed convolution over one axis with feedback weights."""


class FedConvTranspose2d(_FedTransposed, nn.ConvTranspose2d):
    """A transposed convolution over two axes with feedback weights."""


class FedConvTranspose3d(_FedTransposed, nn.ConvTranspose3d):
    """A transposed convolution over three axes with feedback weights."""


FED: Mapping[type[nn.Module], type[FedLayer]] = {
    nn.Linear: FedLinear,
    nn.Conv1d: FedConv1d,
    nn.Conv2d: FedConv2d,
    nn.Conv3d: FedConv3d,
    nn.ConvTranspose1d: FedConvTranspose1d,
    nn.ConvTranspose2d: FedConvTranspose2d,
    nn.ConvTranspose3d: FedConvTranspose3d,
}
"""The class that takes the place of another."""


def feedback_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Feedback weights that are trained (Kolen-Pollack): they carry errors, not activities."""
    layers = (module for module in model.modules() if isinstance(module, FedLayer))
    drawn = (layer.feedback_weight for layer in layers)
    return [weight for weight in drawn if isinstance(weight, nn.Parameter)]


def is_fed(model: nn.Module) -> bool:
    """Whether a network has layers with feedback weights."""
    return any(isinstance(module, FedLayer) for module in model.modules())


class _Twins(torch.autograd.Function):
    """W, whose gradient B gets as well."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, twin: Tensor) -> Tensor:
        return weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        (gradient,) = gradients
        # A copy, because each becomes a .grad that clipping and scalers overwrite.
        return gradient, gradient.clone() if ctx.needs_input_grad[0] else None
