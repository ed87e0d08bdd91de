"""Masked backpropagation: what the input-specific masks of ReLU contribute to a gradient.

Backpropagation multiplies an error by the mask ``D = 1[a > 0]`` of every ReLU that it passes, and
the mask differs from sample to sample. Here the masks downstream of a layer are replaced by their
mean over the batch, or left out, while each layer's own derivative stays that of the sample
(statement 10 of docs/theory.md):

    g_l = W_{l+1}^T (Dbar_{l+1} g_{l+1}),    dL/dW_l = sum over samples of (D_l g_l) h_{l-1}^T

with a_l = W_l h_{l-1}, h_l = relu(a_l) and g_l the error at h_l.

The network runs as it is written. Its backward pass runs twice. The first time every mask is
replaced, which gives all g_l. The second time the true masks stand, and each ReLU takes its g_l of
the first pass in place of the error that arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from linlocal.analysis.block import refuse_inference, refuse_lazy
from linlocal.analysis.watching.operations import forward_pass
from linlocal.analysis.watching.restore import own_pass, untouched
from linlocal.inputs import instance
from linlocal.networks import Masks


def masked_gradients(
    model: nn.Module, inputs: Tensor, loss_fn: Callable[[Any], Tensor], masks: Masks = "batch"
) -> dict[str, Tensor]:
    """Gradients by other masks: ``D_l g_l h_{l-1}^T``, ``g_l = W_{l+1}^T (Dbar_{l+1} g_{l+1})``.

    The model's own forward pass runs once. The model may have any topology (residual connections
    included) of linear maps, normalisation over the batch, pooling and ReLU. All parameters between
    two ReLUs get the true mask of the upper ReLU; all that lies below the lower ReLU gets the
    replacement. ReLU6, hardtanh, threshold and clamp with fixed bounds count as ReLU: D is their
    derivative, 0 or 1. Max-pooling passes errors on as usual, and so does normalisation over the
    batch. Any other operation whose derivative differs from sample to sample is refused, also a
    product of two activities. ``.grad``, the model's buffers, parameters and attributes, ``inputs``
    and the random states stay as they are.

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
        ValueError: the masks are unknown, the network has another nonlinearity than ReLU, hides
            its operations (a script, an own `torch.autograd.Function`, a reentrant checkpoint),
            has no weights yet (lazy modules), or makes parameters in its pass; the samples do not
            lie along the first axis of every ReLU ("batch" only); the loss is not a scalar, or
            depends on no trainable parameter.
    """
    if not isinstance(masks, str) or masks not in ("sample", "batch", "none"):
        raise ValueError(f'masks must be "sample", "batch" or "none", got {masks!r}.')
    instance(model, nn.Module, "model", "a torch.nn.Module")
    instance(inputs, Tensor, "inputs", "a tensor (samples, ...)")
    if not inputs.ndim:
        raise ValueError("inputs must be (samples, ...), got a single number.")
    refuse_lazy(model)
    refuse_inference(model)
    _refuse_what_is_not_seen(model)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with own_pass(), untouched(model), torch.inference_mode(False), torch.enable_grad():
        x = inputs.detach().clone()  # the network may begin with an operation in place
        with forward_pass(model, x, masks) as operations:
            output = model(x)
        loss = loss_fn(output)
        instance(loss, Tensor, "the value of loss_fn", "a tensor with one number")
        if loss.ndim:
            raise ValueError(f"loss_fn must return a scalar, got shape {tuple(loss.shape)}.")
        if not named:
            return {}
        if not loss.requires_grad:
            raise ValueError(
                "The loss depends on none of the parameters that require a gradient: was the "
                "output computed under no_grad or detached, or is loss_fn a constant?"
            )
        masked = operations.masks(loss)
        errors = _errors(loss, masked) if masked and masks != "sample" else {}
        gradients = _gradients(loss, [*named.values()], errors)
    return dict(zip(named, gradients, strict=True))


def _refuse_what_is_not_seen(model: nn.Module) -> None:
    for name, module in model.named_modules():
        what = name or "The network"
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"{what} is a scripted module, whose operations may be fused into one with a "
                "derivative of its own: use the module that it was made from."
            )
        if isinstance(module, nn.DataParallel) and len(module.device_ids) > 1:
            raise ValueError(
                f"{what} is a DataParallel of several devices, which runs where masked_gradients "
                "does not see it: use the module inside, model.module."
            )


def _errors(loss: Tensor, masked: Mapping[Any, Tensor | None]) -> dict[Any, Tensor]:
    """g_l at the output of every mask, by a backward pass in which all masks are replaced."""

    def replacing(below: Tensor | None) -> Callable[..., Any]:
        def hook(into: tuple[Tensor | None, ...], error: tuple[Tensor | None, ...]) -> Any:
            (g,) = error
            if g is None:
                return None
            return (g if below is None else below * g, *into[1:])

        return hook

    # The edges into the nodes, because parameters may have hooks of their user.
    edges = [GradientEdge(node, 0) for node in masked]
    with _hooked((node.register_hook(replacing(below)) for node, below in masked.items())):
        found = torch.autograd.grad(loss, edges, retain_graph=True, allow_unused=True)
    return {node: g for node, g in zip(masked, found, strict=True) if g is not None}


def _gradients(
    loss: Tensor, parameters: list[nn.Parameter], errors: Mapping[Any, Tensor]
) -> tuple[Tensor, ...]:
    """The gradients, by a backward pass in which every mask takes its error from ``errors``."""

    def taking(g: Tensor) -> Callable[..., Any]:
        return lambda error: (g,)

    with _hooked((node.register_prehook(taking(g)) for node, g in errors.items())):
        return torch.autograd.grad(
            loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )


@contextmanager
def _hooked(handles: Iterator[Any]) -> Iterator[None]:
    kept = [*handles]
    try:
        yield
    finally:
        for handle in kept:
            handle.remove()
