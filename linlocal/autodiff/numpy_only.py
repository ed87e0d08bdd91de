"""Losses that only numpy knows, as torch functions that use the losses' own derivatives.

A score or loss of one's own defines its value and derivatives in numpy. Here autograd is told these
derivatives, so the same object works wherever torch is: in the oracle, on a network, on any device
(by way of the CPU, in float64).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linlocal.losses import Goodness, PairLoss, ViewLoss
from linlocal.pairs import Direction

Array = NDArray[np.float64]
Derivatives = Sequence[Callable[[Array], Array]]


def elementwise(derivatives: Derivatives, m: Tensor) -> Tensor:
    """f(m) elementwise, with f = derivatives[0], f' = derivatives[1] and so on.

    Args:
        derivatives: f, f', f'' and so on, as numpy functions.
        m: margins of any shape.

    Raises:
        NotImplementedError: autograd asks for a derivative beyond the last.
    """
    return _applied(_Elementwise, m, tuple(derivatives))


class NumpyPairLoss:
    """phi(T u) of a `PairLoss` of one's own; a `PairFormula`."""

    def __init__(self, loss: PairLoss) -> None:
        self.loss = loss

    def __call__(self, positive: Tensor, negative: Tensor, real: Tensor | None = None) -> Tensor:
        """The loss; takes the arguments of `PairFormula`."""
        references, number = negative.shape
        there = (
            np.ones((references, number), dtype=bool)
            if real is None
            else np.asarray(real.cpu(), dtype=bool)
        )
        reference, place = np.nonzero(there)
        own = np.arange(references)
        # The next sample as anchor, or all but the reference's own, in their order.
        others = place + (place >= reference)
        following = (reference + place + 1) % references
        anchor = others if number == references - 1 else following
        direction = Direction(
            np.concatenate([own, anchor]),
            np.concatenate([own, reference]),
            np.repeat([1.0, -1.0], [references, len(reference)]),
            np.concatenate([own, reference]),
        )
        scores = torch.cat([positive, negative[torch.from_numpy(there)]])
        return self.of_scores(scores, direction)

    def of_scores(self, u: Tensor, pairs: Direction) -> Tensor:
        """The loss of the scores (pairs,) of a direction."""
        return _applied(_Phi, _applied(_Contrast, u, (self.loss, pairs)), (self.loss, pairs))


class NumpyGoodness:
    """A `Goodness` of one's own, once differentiable."""

    def __init__(self, loss: Goodness) -> None:
        self.loss = loss

    def __call__(self, good: Tensor, bad: Tensor) -> Tensor:
        """The loss of the goodness of good samples and of that of bad ones."""
        rows = np.arange(len(good) + len(bad))
        sign = np.repeat([1.0, -1.0], [len(good), len(bad)])
        group = np.where(sign > 0, rows, (rows - len(good)) % len(good))
        return self.of_goodness(torch.cat([good, bad]), Direction(rows, rows, sign, group))

    def of_goodness(self, goodness: Tensor, pairs: Direction) -> Tensor:
        """The loss of the goodness (pairs,) of a direction."""
        return _applied(_GoodnessValue, goodness, (self.loss, pairs))


def view_loss(loss: ViewLoss, first: Tensor, second: Tensor) -> Tensor:
    """A `ViewLoss` of one's own, once differentiable."""
    result: Tensor = _Views.apply(first, second, loss)  # type: ignore[no-untyped-call]
    return result


def _applied(function: type[torch.autograd.Function], x: Tensor, told: Any) -> Tensor:
    result: Tensor = function.apply(x, told)
    return result


def by_numpy(function: Callable[[Array], Any], x: Tensor) -> Tensor:
    """A numpy function of a tensor, without a graph."""
    return _like(x, function(_array(x)))


class _Told(torch.autograd.Function):
    """A function of one tensor that is told how to differentiate itself."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        x, ctx.told = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)


class _Elementwise(_Told):
    @staticmethod
    def forward(x: Tensor, told: Any) -> Tensor:
        if not told:
            raise NotImplementedError(
                "A score of your own brings its value and two derivatives; a third was asked for."
            )
        return by_numpy(told[0], x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * _applied(_Elementwise, x, ctx.told[1:]), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        result: Tensor = tangents[0] * _applied(_Elementwise, x, ctx.told[1:])
        return result

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, told: Any) -> Any:
        return _applied(_Elementwise, x, told), in_dims[0]


class _Contrast(_Told):
    """T u, which is linear; the transpose T^T is `_Adjoint`."""

    @staticmethod
    def forward(x: Tensor, told: Any) -> Tensor:
        loss, pairs = told
        return by_numpy(loss.contrasts(pairs).apply, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _applied(_Adjoint, gradients[0], ctx.told), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _applied(_Contrast, tangents[0], ctx.told)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, told: Any) -> Any:
        return _row_by_row(_Contrast, in_dims, x, told)


class _Adjoint(_Told):
    @staticmethod
    def forward(x: Tensor, told: Any) -> Tensor:
        loss, pairs = told
        return by_numpy(loss.contrasts(pairs).adjoint, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _applied(_Contrast, gradients[0], ctx.told), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        return _applied(_Adjoint, tangents[0], ctx.told)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, told: Any) -> Any:
        return _row_by_row(_Adjoint, in_dims, x, told)


class _Phi(_Told):
    """phi(m), a scalar; its gradient is `_Gradient`."""

    @staticmethod
    def forward(x: Tensor, told: Any) -> Tensor:
        loss, pairs = told
        return by_numpy(lambda m: loss.value(m, pairs), x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * _applied(_Gradient, x, ctx.told), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        return (tangents[0] * _applied(_Gradient, x, ctx.told)).sum()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, told: Any) -> Any:
        return _row_by_row(_Phi, in_dims, x, told)


class _Gradient(_Told):
    """d phi / d m; its derivative is the curvature, `_Curved`."""

    @staticmethod
    def forward(x: Tensor, told: Any) -> Tensor:
        loss, pairs = told
        return by_numpy(lambda m: loss.gradient(m, pairs), x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return _curved(x, gradients[0], ctx.told), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        (x,) = ctx.saved_tensors
        return _curved(x, tangents[0], ctx.told)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, told: Any) -> Any:
        return _row_by_row(_Gradient, in_dims, x, told)


class _Curved(torch.autograd.Function):
    """The Hessian of phi at m times a vector, whose derivative by m nobody told."""

    @staticmethod
    def forward(m: Tensor, vector: Tensor, told: Any) -> Tensor:
        loss, pairs = told
        hessian = by_numpy(lambda array: loss.curvature(array, pairs), m)
        return hessian * vector if hessian.ndim == 1 else hessian @ vector

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        m, _, ctx.told = inputs
        ctx.save_for_backward(m)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        if ctx.needs_input_grad[0]:
            raise NotImplementedError(
                "A loss of pairs of your own brings its value and two derivatives; a third was "
                "asked for."
            )
        (m,) = ctx.saved_tensors
        return None, _curved(m, gradients[0], ctx.told), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], m: Tensor, v: Tensor, told: Any) -> Any:
        both = [
            x.expand(info.batch_size, *x.shape) if axis is None else x.movedim(axis, 0)
            for x, axis in zip((m, v), in_dims, strict=False)
        ]
        return torch.stack([_curved(a, b, told) for a, b in zip(*both, strict=True)]), 0


def _curved(m: Tensor, vector: Tensor, told: Any) -> Tensor:
    result: Tensor = _Curved.apply(m, vector, told)  # type: ignore[no-untyped-call]
    return result


def _row_by_row(
    function: type[torch.autograd.Function], in_dims: tuple[int | None, ...], x: Tensor, told: Any
) -> tuple[Tensor, int]:
    axis = in_dims[0] or 0
    return torch.stack([_applied(function, row, told) for row in x.movedim(axis, 0)]), 0


class _GoodnessValue(_Told):
    """A loss of goodness, a scalar; its gradient is `_GoodnessGradient`."""

    @staticmethod
    def forward(x: Tensor, told: Any) -> Tensor:
        loss, pairs = told
        return by_numpy(lambda goodness: loss.value(goodness, pairs), x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * _applied(_GoodnessGradient, x, ctx.told), None


class _GoodnessGradient(_Told):
    """d loss / d goodness, whose own derivative nobody told."""

    @staticmethod
    def forward(x: Tensor, told: Any) -> Tensor:
        loss, pairs = told
        return by_numpy(lambda goodness: loss.gradient(goodness, pairs), x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError(
            "A loss of goodness of your own brings its value and one derivative; a second was "
            "asked for."
        )


class _Views(torch.autograd.Function):
    """A loss of two views; its gradients are `_ViewGradients`."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, loss: ViewLoss) -> Tensor:
        ctx.loss = loss
        ctx.save_for_backward(first, second)
        return _like(first, loss.value(_array(first), _array(second)))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        both: Any = _ViewGradients.apply(*ctx.saved_tensors, ctx.loss)  # type: ignore[no-untyped-call]
        by_first, by_second = (gradients[0] * g for g in both)
        return by_first, by_second, None


class _ViewGradients(torch.autograd.Function):
    """The gradients by both views, whose own derivatives nobody told."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, loss: ViewLoss) -> tuple[Tensor, Tensor]:
        by_first, by_second = loss.gradients(_array(first), _array(second))
        return _like(first, by_first), _like(second, by_second)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError(
            "A loss of views of your own brings its value and one derivative; a second was asked "
            "for."
        )


def _array(x: Tensor) -> Array:
    array: Array = x.detach().cpu().double().numpy()
    return array


def _like(x: Tensor, value: Any) -> Tensor:
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)
