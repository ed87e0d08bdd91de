"""Masked backpropagation: what the input-specific masks of ReLU contribute to a gradient.

Backpropagation multiplies an error by the mask ``D = 1[a > 0]`` of every ReLU that it passes, and
the mask differs from sample to sample. Here the masks downstream of a layer are replaced by their
mean over the batch, or left out, while each layer's own derivative stays that of the sample
(statement 10 of docs/theory.md):

    g_l = W_{l+1}^T (Dbar_{l+1} g_{l+1}),    dL/dW_l = sum over samples of (D_l g_l) h_{l-1}^T

with a_l = W_l h_{l-1}, h_l = relu(a_l) and g_l the error at h_l.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from linlocal.analysis.watching.restore import own_pass, untouched
from linlocal.inputs import instance
from linlocal.networks import Masks

_RELU = {F.relu, torch.relu, Tensor.relu}
# Other functions whose derivatives depend on the sample. Max-pooling is allowed: the places that it
# selects are not a mask of the activity.
_REFUSED = {
    *("relu_", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu"),
    *("mish", "sigmoid", "tanh", "hardtanh", "hardswish", "hardsigmoid", "softplus", "softmax"),
    *("log_softmax", "layer_norm", "scaled_dot_product_attention"),
}


def masked_gradients(
    model: nn.Module, inputs: Tensor, loss_fn: Callable[[Any], Tensor], masks: Masks = "batch"
) -> dict[str, Tensor]:
    """``dL/dW_l = D_l g_l h_{l-1}^T`` with ``g_l = W_{l+1}^T (Dbar_{l+1} g_{l+1})``.

    The model's own forward pass runs once. The model may have any topology (residual connections
    included) of linear maps, normalisation over the batch, pooling and ReLU. All parameters between
    two ReLUs get the true mask of the upper ReLU; all that lies below the lower ReLU gets the
    replacement. Max-pooling passes errors on as usual. ``.grad``, buffers and the random state stay
    as they are.

    Args:
        model: the network, in the mode (train or eval) of the gradient.
        inputs: (samples, ...) the batch.
        loss_fn: turns the model's output into a scalar.
        masks: Dbar. "sample" is D itself, which gives backpropagation; "batch" is the mean of D
            over the samples; "none" is 1.

    Returns:
        A gradient for each parameter that requires one, zero if the loss does not depend on it.

    Raises:
        TypeError: model, inputs or the loss are not a module, a tensor and a tensor.
        ValueError: the masks are unknown, the network has another nonlinearity than ReLU, or the
            loss is not a scalar.
    """
    if masks not in ("sample", "batch", "none"):
        raise ValueError(f'masks must be "sample", "batch" or "none", got {masks!r}.')
    instance(model, nn.Module, "model", "a torch.nn.Module")
    instance(inputs, Tensor, "inputs", "a tensor (samples, ...)")
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with own_pass(), untouched(model), torch.enable_grad():
        with _CutAtReLU() as cut:
            output = model(inputs)
        loss = loss_fn(output)
        instance(loss, Tensor, "the value of loss_fn", "a tensor with one number")
        if loss.ndim:
            raise ValueError(f"loss_fn must return a scalar, got shape {tuple(loss.shape)}.")
        gradients = cut.gradients(loss, list(named.values()), masks)
    return dict(zip(named, gradients, strict=True))


class _CutAtReLU(TorchFunctionMode):
    """Every ReLU returns a new leaf, which cuts the graph into one piece for each ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.preactivations: list[Tensor] = []
        self.outputs: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RELU:
            # Never in place, even if asked for, because the preactivation is still needed.
            return self._relu(args[0] if args else kwargs["input"])
        if (name := getattr(func, "__name__", "")) in _REFUSED:
            raise ValueError(
                f"masked_gradients knows the masks of ReLU only, and met {name!r}; use "
                "nn.ReLU or F.relu (and their returned value)."
            )
        return func(*args, **kwargs)

    def _relu(self, preactivation: Tensor) -> Tensor:
        output = preactivation.detach().relu().requires_grad_()
        self.preactivations.append(preactivation)
        self.outputs.append(output)
        return output

    def gradients(self, loss: Tensor, parameters: list[nn.Parameter], masks: Masks) -> list[Tensor]:
        gradients = [torch.zeros_like(p) for p in parameters]
        errors = [torch.zeros_like(h) for h in self.outputs]
        _add(gradients, loss, parameters)
        _add(errors, loss, self.outputs)
        # A ReLU depends only on those that ran before it, so its error is complete in its turn.
        for l in reversed(range(len(errors))):
            preactivation, error = self.preactivations[l], errors[l]
            mask = (preactivation.detach() > 0).to(error.dtype)
            _add(gradients, preactivation, parameters, mask * error)
            below = {"sample": mask, "batch": mask.mean(dim=0), "none": torch.ones_like(mask)}
            _add(errors[:l], preactivation, self.outputs[:l], below[masks] * error)
        return gradients


def _add(
    totals: list[Tensor], of: Tensor, by: Sequence[Tensor], weight: Tensor | None = None
) -> None:
    """Add ``weight^T d of / d by`` to the totals."""
    if not of.requires_grad or not by:
        return
    found = torch.autograd.grad(of, by, weight, retain_graph=True, allow_unused=True)
    for total, part in zip(totals, found, strict=True):
        if part is not None:
            total += part
