"""Which operations of a forward pass have a derivative that is the same for all samples.

Each operation is seen below autograd, as torch's dispatcher calls it, so it makes no difference
whether a method, an operator, a functional form, a larger module, a compiled script or activation
checkpointing called it. What is not on the lists below is refused by its name.

An activity is a tensor that depends on the samples and through which errors flow back. An operation
on an activity is allowed if its derivative by the activity is the same for all samples (a linear
map, or statistics of the batch), or is a mask.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from linlocal.analysis.watching.surveys import nodes
from linlocal.networks import Masks


class Depends(IntEnum):
    """On what the values of a tensor depend."""

    NOT = 0
    ON_BATCH = 1
    """The same for all samples: statistics of the batch."""
    ON_SAMPLE = 2


@dataclass(frozen=True)
class Verdict:
    """What is known of an operation whose derivative by its activities is asked for.

    Attributes:
        refused: why it cannot be used, in words; empty if it can.
        masks: whether it multiplies errors by a mask.
        below: what takes the place of the mask; None leaves errors as they are.
    """

    refused: str = ""
    masks: bool = False
    below: Tensor | None = None


# Linear in all tensors together.
_LINEAR = frozenset({
    "add", "sub", "rsub", "neg", "sum", "mean", "cumsum", "trace", "real", "imag", "clone", "copy",
    "detach", "alias", "lift", "lift_fresh", "_to_copy", "view", "_unsafe_view", "reshape",
    "_reshape_alias", "view_as_real", "view_as_complex", "_conj", "resolve_conj", "t", "transpose",
    "permute", "expand", "squeeze", "unsqueeze", "slice", "select", "split", "split_with_sizes",
    "unbind", "unfold", "diagonal", "as_strided", "flip", "roll", "repeat", "tril", "triu", "cat",
    "stack", "slice_scatter", "select_scatter", "constant_pad_nd", "reflection_pad1d",
    "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
    "replication_pad3d", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "native_channel_shuffle", "im2col", "col2im", "avg_pool2d", "avg_pool3d",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d",
    "upsample_trilinear3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "_fft_r2c",
    "_fft_c2r", "_fft_c2c", "native_dropout",
})  # fmt: skip
# Errors pass as usual: the places that are selected are not a mask of the activity.
_MAX_POOLING = frozenset({
    "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d",
    "adaptive_max_pool3d",
})  # fmt: skip
# Linear in all tensors but these arguments, which must be the same for all samples.
_COEFFICIENTS = {
    "div": ("other",),
    "where": ("condition",),
    "masked_fill": ("mask",),
    "index": ("indices",),
    "index_select": ("index",),
    "index_add": ("index",),
    "index_copy": ("index",),
    "index_put": ("indices",),
    "gather": ("index",),
    "scatter": ("index",),
    "scatter_add": ("index",),
    "embedding": ("indices",),
    "grid_sampler_2d": ("grid",),
    "grid_sampler_3d": ("grid",),
}
# Linear in each of two arguments, of which one must be the same for all samples.
_PRODUCTS = {
    "mul": ("self", "other"),
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "mv": ("self", "vec"),
    "dot": ("self", "tensor"),
    "addmm": ("mat1", "mat2"),
    "addmv": ("mat", "vec"),
    "baddbmm": ("batch1", "batch2"),
    "addcmul": ("tensor1", "tensor2"),
    "linear": ("input", "weight"),
    "convolution": ("input", "weight"),
}
_BATCH_NORMALISATIONS = frozenset({
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update", "_batch_norm_no_update", "cudnn_batch_norm", "miopen_batch_norm",
})  # fmt: skip
_MASKS: dict[str, Callable[..., Tensor]] = {
    "relu": lambda self: self > 0,
    "threshold": lambda self, threshold, value: self > threshold,
    "hardtanh": lambda self, min_val=-1, max_val=1: (self > min_val) & (self < max_val),
    "clamp": lambda self, min=None, max=None: _within(self, min, max),
    "clamp_min": lambda self, min: _within(self, min, None),
    "clamp_max": lambda self, max: _within(self, None, max),
}
# They read the shape of an argument only.
_FACTORIES = frozenset({
    "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like",
    "new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided",
})  # fmt: skip
_REDUCTIONS = frozenset({
    "sum", "mean", "var", "std", "var_mean", "std_mean", "amax", "amin", "max", "min", "prod",
    "any", "all", "norm", "linalg_vector_norm", "median", "logsumexp",
})  # fmt: skip
# Values that leave torch cannot be followed.
_LEAVING = frozenset({"numpy", "tolist", "__array__", "__dlpack__"})


@contextmanager
def forward_pass(model: nn.Module, inputs: Tensor, masks: Masks) -> Iterator[Operations]:
    """Watch the operations of a forward pass, which runs inside.

    Args:
        model: the network.
        inputs: (samples, ...) its inputs.
        masks: what takes the place of the masks.

    Raises:
        ValueError: values of activities are read as numbers, or a tensor is not dense.
    """
    operations = Operations(model, inputs, masks)
    with _Calls(operations), operations:
        yield operations
    operations.end()


class _Calls(TorchFunctionMode):
    """Notes the name that the user wrote: calls inside of a function of torch are not seen here."""

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self._operations = operations

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _LEAVING:
            self._operations.read(args[0], name)
        self._operations.called = name
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self._operations.called = ""


class Operations(TorchDispatchMode):
    """The operations of a forward pass: which are linear, which are masks, which are neither.

    Nodes of autograd's graph are numbered in the order in which they are made, and an operation is
    dispatched after its node is made. So the number and the name of a node say which operation it
    is the derivative of. Operations without a node leave verdicts that no node asks for.

    Attributes:
        called: the function of torch that the network calls.
    """

    def __init__(self, model: nn.Module, inputs: Tensor, masks: Masks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.called = ""
        self._samples, self._masks = len(inputs), masks
        self._parameters = {_storage(p) for p in model.parameters()}
        # A weak reference keeps the address from being given to another storage.
        self._depends: dict[int, tuple[StorageWeakRef, Depends]] = {}
        self._set(inputs, Depends.ON_SAMPLE)
        self._verdicts: dict[tuple[int, str], Verdict] = {}
        self._in_place: dict[int, list[Verdict]] = {}
        self._reads: dict[int, Depends] = {}
        self._first = self._last = _next_number()

    def end(self) -> None:
        """Say that the forward pass has ended."""
        self._last = _next_number()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        schema = func._schema
        named = {a.name: value for a, value in zip(schema.arguments, args, strict=False)}
        named.update(kwargs or {})
        tensors = [t for value in named.values() for t in _tensors(value)]
        name = schema.name.removeprefix("aten::")
        in_place = name.endswith("_") and not name.endswith("__")
        name = name.removesuffix("_") if in_place else name
        depends = max(map(self._of, tensors), default=Depends.NOT)
        number = _next_number() - 1
        self._reads[number] = max(self._reads.get(number, Depends.NOT), depends)
        if torch.is_grad_enabled():
            verdict = self._verdict(name, named, tensors)
            # The first one is that of the node: what follows until the next node has none.
            self._verdicts.setdefault((number, _plain(name)), verdict)
            if in_place:
                self._in_place.setdefault(number, []).append(verdict)
                # Its node may be followed by that of a copy of what it overwrites.
                self._verdicts.setdefault((number - 1, _plain(name)), verdict)
        if name == "_local_scalar_dense":
            self.read(tensors[0], self.called or "item")
        if name in _FACTORIES or (name == "bernoulli" and "p" in named):
            depends = Depends.NOT
        elif name in _REDUCTIONS and self._over_batch(named):
            depends = min(depends, Depends.ON_BATCH)
        result = func(*args, **(kwargs or {}))
        before = {_storage(t) for t in tensors}
        for a in schema.arguments:
            if a.alias_info and a.alias_info.is_write:
                statistics = a.name in ("running_mean", "running_var")
                own = min(depends, Depends.ON_BATCH) if statistics else depends
                for t in _tensors(named.get(a.name)):
                    self._set(t, max(own, self._of(t)))
        for t in _tensors(result):
            if _storage(t) not in before:
                self._set(t, depends)
        return result

    def read(self, t: Tensor, name: str) -> None:
        """Raise if a tensor whose values leave torch differs from sample to sample."""
        if self._of(t) == Depends.ON_SAMPLE:
            raise ValueError(
                f"masked_gradients cannot follow values of single samples out of torch, and met "
                f"{name!r} of shape {tuple(t.shape)} (also if, float() and bool() read a value): "
                "compute with tensors, or leave it to loss_fn."
            )

    def masks(self, loss: Tensor) -> dict[Any, Tensor | None]:
        """What takes the place of each mask on the way back from a loss, by its node of the graph.

        Raises:
            ValueError: an operation on the way has a derivative that differs from sample to sample,
                or cannot be looked into.
        """
        masks: dict[Any, Tensor | None] = {}
        for node in nodes(loss):
            if self._first <= node._sequence_nr() < self._last:
                verdict = self._verdict_of(node)
                if verdict.refused:
                    raise ValueError(verdict.refused)
                if verdict.masks:
                    masks[node] = verdict.below
        return masks

    def _verdict_of(self, node: Any) -> Verdict:
        number, whole = node._sequence_nr(), node.name()
        name = whole.removeprefix("torch::autograd::")
        operation = _plain(re.sub(r"Backward\d*$", "", name))
        custom = isinstance(node, torch.autograd.function.BackwardCFunction) or "::" in name
        if not custom and (number, operation) in self._verdicts:
            return self._verdicts[number, operation]
        if self._reads.get(number) == Depends.NOT:  # a function of parameters only
            return Verdict()
        if custom:
            return Verdict(
                f"masked_gradients cannot look into {name!r}, which has a backward pass of its "
                "own, and so cannot tell whether it is linear: use use_reentrant=False for "
                "activation checkpointing, no torch.compile, and modules written in torch's "
                "operations."
            )
        if name == "CopySlices":
            # What wrote into a part of a tensor has a node of its own, just before and not shown.
            inside = self._in_place.get(number - 1, [])
            if inside and not any(v.masks or v.refused for v in inside):
                return Verdict()
            return Verdict(
                "masked_gradients knows the masks of ReLU only where ReLU does not work in place "
                "on a part of a tensor or on another view of it: use the form that is not in place "
                "(inplace=False). Other operations in place on a part must be linear."
            )
        if name == "CopyBackwards" or operation in _LINEAR_NODES:
            return Verdict()
        return self._no(operation)

    def _verdict(self, name: str, named: Mapping[str, Any], tensors: Sequence[Tensor]) -> Verdict:
        activities = [t for t in tensors if self._is_activity(t)]
        if not activities or name in _LINEAR or name in _MAX_POOLING:
            return Verdict()
        if name in _MASKS:
            bounds = [t for n, value in named.items() if n != "self" for t in _tensors(value)]
            return self._mask(name, named) if all(map(self._is_fixed, bounds)) else self._no(name)
        if name in _COEFFICIENTS:
            coefficients = [t for n in _COEFFICIENTS[name] for t in _tensors(named.get(n))]
            other = named.get("rounding_mode") or named.get("reduce")
            linear = all(map(self._is_fixed, coefficients)) and not other
            return Verdict() if linear else self._no(name)
        if name in _PRODUCTS:
            a, b = ([*_tensors(named.get(n))] for n in _PRODUCTS[name])
            for these, others in ((a, b), (b, a)):
                varies = any(self._of(t) == Depends.ON_SAMPLE for t in others)
                if varies and any(map(self._is_activity, these)):
                    return self._no(name)
            return Verdict()
        if name in _BATCH_NORMALISATIONS:
            # Instance normalisation calls it with all samples side by side, as channels.
            single = named.get("training") and len(named["input"]) == 1 < self._samples
            others = [t for n, value in named.items() if n != "input" for t in _tensors(value)]
            if single or not all(map(self._is_fixed, others)):
                return self._no("instance_norm" if single else name)
            return Verdict()
        return self._no(name)

    def _mask(self, name: str, named: Mapping[str, Any]) -> Verdict:
        x = named["self"].detach()
        if self._masks != "batch":
            return Verdict(masks=True)
        if x.ndim == 0 or len(x) != self._samples:
            return Verdict(
                f"The mean of masks over samples needs the samples along the first axis, and "
                f"{name!r} met an activity of shape {tuple(x.shape)} for {self._samples} samples: "
                'put them there before it (batch_first), or use masks="none".'
            )
        bounds = {n: value for n, value in named.items() if n != "self"}
        return Verdict(masks=True, below=_MASKS[name](x, **bounds).to(x.dtype).mean(dim=0))

    def _no(self, name: str) -> Verdict:
        inside = f" (in {self.called!r})" if self.called.strip("_") not in ("", name) else ""
        return Verdict(
            f"masked_gradients knows the masks of ReLU only, and met {name!r}{inside}, whose "
            "derivative differs from sample to sample. Use nn.ReLU or F.relu (ReLU6, hardtanh, "
            "threshold and clamp count as ReLU), linear operations, pooling and BatchNorm; or "
            "leave it to loss_fn, where everything is allowed."
        )

    def _over_batch(self, named: Mapping[str, Any]) -> bool:
        """Whether a reduction leaves no axis of samples, given that it is the first one."""
        x, axes = named.get("self"), named.get("dim")
        if not isinstance(x, Tensor) or x.ndim < 2 or len(x) != self._samples:
            return False
        axes = [axes] if isinstance(axes, int) else axes
        return not axes or any(axis % x.ndim == 0 for axis in axes)

    def _is_activity(self, t: Tensor) -> bool:
        return not t.is_leaf and self._of(t) > Depends.NOT

    def _is_fixed(self, t: Tensor) -> bool:
        """Whether errors need no way through a tensor, and it is the same for all samples."""
        return not self._is_activity(t) and self._of(t) < Depends.ON_SAMPLE

    def _of(self, t: Tensor) -> Depends:
        _, depends = self._depends.get(_storage(t), (None, Depends.NOT))
        return depends

    def _set(self, t: Tensor, depends: Depends) -> None:
        key = _storage(t)
        if key in self._parameters:  # what is written there is a constant to errors
            return
        if depends == Depends.NOT:
            self._depends.pop(key, None)
        else:
            self._depends[key] = (StorageWeakRef(t.untyped_storage()), depends)


def _plain(name: str) -> str:
    """A name as operations (max_pool2d) and their nodes (MaxPool2D) share it."""
    return name.replace("_", "").lower()


_LINEAR_NODES = frozenset(map(_plain, _LINEAR))


def _within(x: Tensor, least: Any, most: Any) -> Tensor:
    inside = torch.ones_like(x, dtype=torch.bool)
    if least is not None:
        inside = inside & (x >= least)
    return inside if most is None else inside & (x <= most)


def _storage(t: Tensor) -> int:
    if t.layout != torch.strided:
        raise ValueError(
            f"masked_gradients met a tensor of layout {t.layout}, whose dependence on the samples "
            "it cannot follow: use dense tensors."
        )
    address: int = t.untyped_storage()._cdata
    return address


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for v in value for t in _tensors(v)] if isinstance(value, tuple | list) else []


def _next_number() -> int:
    """The sequence number that autograd's next node gets in this thread."""
    number: int = torch._C._autograd._get_sequence_nr()
    return number
