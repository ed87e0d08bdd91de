"""Initial weights near an isometry: orthogonal matrices and kernels, and small residual branches.

They are calls and not options of a trainer, because any training and any measurement can begin with
them, and because a trainer never changes weights before its first step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from linlocal import inputs
from linlocal.analysis.block import refuse_lazy, unwrap
from linlocal.analysis.training.weight_matrices import WeightMatrix, named_modules, weight_matrices

Kernel = Literal["auto", "delta", "flattened"]


@torch.no_grad()
def orthogonal_(
    model: nn.Module,
    names: str | Iterable[str] | None = None,
    *,
    gain: float = 1.0,
    kernel: Kernel = "auto",
    seed: int = 0,
) -> dict[str, str]:
    """Set weights to random orthogonal ones: W W^T = gain^2 I, or W^T W = gain^2 I if W is tall.

    A kernel is set in one of two ways. "flattened": the matrix (out, in k k) that acts on a patch
    is orthogonal; the layer is then an isometry (for gain 1 and at least as many rows as columns)
    where patches lie side by side, its stride being the size of its kernel. "delta": the kernel is
    zero but for its centre, where an orthogonal (out, in) matrix stands; a layer with stride 1 and
    padding that keeps the size is then an isometry if it has at least as many output as input
    channels (Xiao et al. 2018, arXiv 1806.05393). Each group of a grouped convolution is set for
    itself, so a depthwise delta kernel passes its channel on, up to the sign.

    Biases of these layers become 0, because a shifted activity has other inner products.
    Normalisations and all other parameters stay as they are.

    Args:
        model: the network; its weights are changed in place.
        names: the layers, or modules that hold them, also with wildcards ("layer?.*"); by default
            all linear and convolutional layers whose weights are trained.
        gain: the singular values of each weight: 1 for linear layers, sqrt(2) keeps the size of
            activities through ReLU.
        kernel: "delta" or "flattened"; "auto" takes delta where a layer has stride 1, odd kernel
            sides and padding that keeps the size, and flattened elsewhere.
        seed: seeds the weights; the global random state stays as it is.

    Returns:
        What was set, by the name of the layer: "linear", "delta" or "flattened".

    Raises:
        TypeError: no module, names or numbers.
        ValueError: a name that fits nothing; a layer that has no such weight, see
            `weight_matrices`; a delta kernel for a stride; or gain is not positive.
    """
    gain = inputs.positive(gain, "gain")
    if not inputs.is_one_of(kernel, get_args(Kernel)):
        raise ValueError(f'kernel must be "auto", "delta" or "flattened", got {kernel!r}.')
    generator = torch.Generator().manual_seed(inputs.whole(seed, "seed", 0))
    found = weight_matrices(model, names)
    kinds = {each.name: _kind(each, kernel) for each in found}
    for each in found:
        delta = kinds[each.name] == "delta"
        shape = each.weight.shape[:2] if delta else each.weight.shape
        drawn = torch.stack(
            [_drawn(m.shape, generator) for m in each.matrices(torch.empty(shape, device="meta"))]
        )
        set_to = drawn.reshape(shape) * gain
        place: Tensor = each.weight
        if delta:
            place.zero_()
            for side in each.weight.shape[2:]:
                place = place.select(2, side // 2)
        place.copy_(set_to)
        if each.layer.bias is not None:
            each.layer.bias.zero_()
    return kinds


@torch.no_grad()
def scale_branches_(
    model: nn.Module, ends: str | Iterable[str], scale: float | None = None
) -> tuple[str, ...]:
    """Multiply residual branches by ``scale``, so that the network stays near the identity.

    A branch is scaled through the weight and the bias of the module that ends it, such as the last
    normalisation of a residual block: ``"layer*.*.bn2"`` in torchvision's ResNet-18, or
    ``["blocks.*.attn.proj", "blocks.*.mlp.fc2"]`` in timm's ViT. With n branches, 1/sqrt(n) keeps
    the variance of activities bounded at any depth (Zhang et al. 2019, arXiv 1901.09321, go
    further). The bound prod(1 + scale ||W_l||)^2 on the downstream metric (statement 14) stays
    bounded only with 1/n, which is what `linlocal.DeepLinear.with_scaled_branches` takes.

    Args:
        model: the network; its weights are changed in place.
        ends: the last module with weights of each branch, also with wildcards.
        scale: the factor; by default 1/sqrt(n). 0 makes every block the identity at first.

    Returns:
        The names of the modules that were scaled.

    Raises:
        TypeError: no module, names or number.
        ValueError: a name that fits nothing, a module without weight or with parts of its own, a
            weight of several branches, or a negative scale.
    """
    network = unwrap(model)
    refuse_lazy(network)
    found = named_modules(network, ends)
    scale = len(found) ** -0.5 if scale is None else inputs.not_negative(scale, "scale")
    seen: dict[int, str] = {}
    for name, module in found.items():
        own = dict(module.named_parameters(recurse=False))
        if "weight" not in own or any(True for _ in module.children()):
            inside = [n for n, m in module.named_modules(prefix=name) if "weight" in m._parameters]
            raise ValueError(
                f"{name!r} ({type(module).__name__}) is not a single module with a weight, so it "
                "cannot be told what ends the branch: name the last one with a weight"
                + (f", such as {inside[-1]!r}." if inside else ".")
            )
        if seen.setdefault(id(own["weight"]), name) != name:
            raise ValueError(
                f"{name!r} and {seen[id(own['weight'])]!r} share a weight, which would be scaled "
                "twice: name one of them."
            )
    for module in found.values():
        for parameter in module.parameters(recurse=False):
            parameter.mul_(scale)
    return tuple(found)


def _kind(each: WeightMatrix, kernel: Kernel) -> str:
    layer = each.layer
    if not isinstance(layer, _ConvNd):
        return "linear"
    steady = all(step == 1 for step in layer.stride)
    if kernel == "delta" and not steady:
        raise ValueError(
            f"{each.name} has stride {tuple(layer.stride)}: a kernel that is zero but for its "
            'centre would drop pixels. Use kernel="auto" or "flattened", or name the other layers.'
        )
    if kernel != "auto":
        return kernel
    sides = zip(layer.kernel_size, layer.dilation, strict=True)
    kept = tuple(dilation * (side - 1) // 2 for side, dilation in sides)
    odd = all(side % 2 for side in layer.kernel_size)
    same = layer.padding == "same" or tuple(layer.padding) == kept
    return "delta" if steady and odd and same else "flattened"


def _drawn(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A matrix with orthonormal rows, or columns if it is tall, uniform over all of them."""
    rows, columns = shape
    normal = torch.randn(
        max(rows, columns), min(rows, columns), generator=generator, dtype=torch.float64
    )
    q, r = torch.linalg.qr(normal)
    # The signs of R's diagonal make Q unique, and so uniform (Mezzadri 2007, math-ph/0609050).
    q = q * r.diagonal().sign()
    return q if rows >= columns else q.T
