"""Peak memory of a computation: counted tensor by tensor, or asked of the GPU's allocator.

Counted are the bytes of all storages that operators make during a call and that are alive at a
time, whoever holds them: activities, tensors saved for the backward pass, gradients on their way.
What exists before (parameters, their gradients, an optimiser's state, inputs) is not counted, and
temporary memory inside an operator is not seen. The count takes no time on the device "meta", where
tensors have shapes and no values; it is the same there as on the CPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(call: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """max over time of the bytes alive, above those alive before the call.

    Run forward and backward once before, so that parameters have their gradients already.

    Args:
        call: the computation.
        device: where it runs. On a GPU the allocator's statistics are read, which contain the
            temporary memory of operators and round sizes up.
    """
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _Count() as count:
        call()
    return count.peak


class _Count(TorchDispatchMode):
    """Adds up storages as operators return them, and subtracts them when they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive, self.peak = 0, 0
        self.storages: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, Tensor):
                self._note(leaf, new=False)
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf, new=True)
        return result

    def _note(self, tensor: Tensor, new: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.storages:
            return
        size = storage.nbytes() if new else 0

        def freed(_: object) -> None:
            self.alive -= size
            del self.storages[key]

        self.storages[key] = weakref.ref(storage, freed)
        self.alive += size
        self.peak = max(self.peak, self.alive)
