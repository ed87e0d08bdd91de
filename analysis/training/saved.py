"""What autograd keeps for the backward pass, tensor by tensor, and for which block.

This is the part of the memory that local training frees after each block. It is less than the peak
of `memory.peak_bytes`, which also holds what operators make on the way and gradients.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from linlocal import inputs as checks
from linlocal.analysis.block import resolve
from linlocal.analysis.watching import overlook, own_pass, untouched
from linlocal.vocabulary import described

AFTER = "after the blocks"


def saved_activations(
    model: nn.Module, inputs: Tensor, blocks: Iterable[str] | None = None
) -> xr.Dataset:
    """The tensors that a forward pass keeps for the backward pass, the largest first.

    A tensor counts once, as the whole that it keeps alive if it is a view. What is a block's output
    and the next one's input is one row of the table, but counts for both blocks, because each needs
    it where it is trained alone. So backpropagation keeps ``bytes.sum()``, and training block after
    block ``block_bytes.max()``. Parameters and buffers do not count. What runs between two blocks
    counts for the upper one, as in training. On the device "meta" nothing is computed, and the
    bytes are the same. The model is not changed.

    Args:
        model: the network, in the mode in which it trains.
        inputs: a batch, on the device of the network. It counts where the first layer keeps it.
        blocks: the names of its blocks, as for `linlocal.analysis.blocks`.

    Returns:
        ``bytes`` over ``tensor``, in falling order, with the coordinates ``block`` (the name of the
        first block that keeps it, or "after the blocks"), ``shape`` and ``dtype``; and
        ``block_bytes`` over ``layer``, with the coordinate ``name``.

    Raises:
        ValueError: as `linlocal.analysis.blocks`.
        TypeError: the inputs are no tensor.
        RuntimeError: the blocks do not run once each, in this order.
    """
    checks.instance(inputs, Tensor, "inputs", "one tensor (samples, ...)")
    watched = resolve(model, blocks, strict=False)
    names = [*(block.name for block in watched), AFTER]
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    # Held, because the address of a storage is its own only while it lives.
    kept: dict[int, tuple[Tensor, set[int]]] = {}
    running = 0

    def pack(tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in own:
            kept.setdefault(key, (tensor.detach(), set()))[1].add(running)
        return tensor

    def ended(position: int, z: Tensor) -> None:
        nonlocal running
        running = position + 1

    with own_pass(), untouched(model), torch.inference_mode(False), torch.enable_grad():
        x = inputs.detach().clone()  # the network may begin with an operation in place
        hooks = saved_tensors_hooks(pack, lambda tensor: tensor)
        with hooks, overlook(model, watched, ended, lambda: None):
            model(x)
    rows = sorted(
        ((t.untyped_storage().nbytes(), positions, t) for t, positions in kept.values()),
        key=lambda row: (-row[0], min(row[1])),
    )
    of_block = [sum(size for size, where, _ in rows if l in where) for l in range(len(watched))]
    return described(
        xr.Dataset(
            {
                "bytes": ("tensor", np.array([size for size, _, _ in rows], dtype=np.int64)),
                "block_bytes": ("layer", np.array(of_block, dtype=np.int64)),
            },
            {
                "layer": range(1, len(names)),
                "name": ("layer", names[:-1]),
                "block": (
                    "tensor",
                    np.array([names[min(where)] for _, where, _ in rows], dtype=str),
                ),
                "shape": ("tensor", np.array([str(tuple(t.shape)) for _, _, t in rows], dtype=str)),
                "dtype": ("tensor", np.array([str(t.dtype) for _, _, t in rows], dtype=str)),
            },
        ),
        "saved",
    )
