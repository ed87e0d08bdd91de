"""Peak memory of a computation: counted tensor by tensor, or read from the GPU's allocator.

The count adds up the bytes of all storages that operators make during a call and that are alive at
the same time, whoever holds them: activities, tensors saved for the backward pass, gradients on
their way. It leaves out what existed before (parameters, their gradients, an optimiser's state,
inputs) and the temporary memory inside an operator. On the device "meta", where tensors have shapes
but no values, the count takes almost no time and gives the same number as on the CPU.
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
    """The largest number of bytes alive at a time during a call, beyond those alive before it.

    Run the forward and backward pass once before, so that parameters have their gradients already.

    Args:
        call: the computation.
        device: where the computation runs. On a GPU the number comes from the allocator's
            statistics, which include the temporary memory of operators and round sizes up.

    Returns:
        The number of bytes.
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
