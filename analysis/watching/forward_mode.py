"""What a change of a block's output does to the last one, by forward-mode differentiation.

A pass on dual numbers carries a tangent v along with z_l and gives J_l v at the top. Its product
with dLoss/dz_L is the directional derivative <dLoss/dz_l, v>, so what backpropagation brings to a
block can be probed without a backward pass: no activity is kept, and nothing runs from top to
bottom.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from linlocal import inputs
from linlocal.analysis.block import Block
from linlocal.analysis.watching.window import one_pass

Run = Callable[[], object]


def pushed_forward(blocks: Sequence[Block], run: Run, position: int, tangent: Tensor) -> Tensor:
    """How the last block's output changes if that of block l moves along v: J_l v.

    Costs a forward pass of the network.

    Args:
        blocks: the blocks, as `block.resolve` returns them.
        run: runs the network once on the batch, with the same random numbers in each call.
        position: l, from 0.
        tangent: v, in the shape of z_l.

    Returns:
        A tensor in the shape of z_L; zero where nothing leads there.

    Raises:
        NotImplementedError: an operation above the block has no forward derivative in torch.
    """
    position = inputs.whole(position, "position", 0)
    kept: list[Tensor] = []

    def look(l: int, z: Tensor) -> Tensor | None:
        if l == position:
            z = forward_ad.make_dual(z.detach().clone(), tangent.to(z))
        if l == len(blocks) - 1:
            moved = forward_ad.unpack_dual(z).tangent
            kept.append(torch.zeros_like(z) if moved is None else moved)
        return z if l == position else None

    try:
        with torch.no_grad(), forward_ad.dual_level(), one_pass(blocks, look):
            run()
    except NotImplementedError as error:
        raise NotImplementedError(
            "An operation above the block has no derivative in forward mode: use an implementation "
            "that has one (of fused attention the one of `torch.nn.attention.sdpa_kernel("
            f"SDPBackend.MATH)`), or backpropagate the error. torch said: {error}"
        ) from error
    return kept[0]


def refuse_interaction(blocks: Sequence[Block], run: Run, position: int, z: Tensor) -> None:
    """Raise if samples act on each other above a block, as in batch normalisation that is training.

    Directional derivatives of single samples are then not those of the loss.

    Args:
        blocks: as for `pushed_forward`.
        run: as for `pushed_forward`.
        position: as for `pushed_forward`.
        z: the output of the block.

    Raises:
        ValueError: moving the first half of the rows moves the others.
    """
    position, half = inputs.whole(position, "position", 0), len(z) // 2
    tangent = torch.zeros_like(z)
    tangent[:half] = 1.0
    moved = pushed_forward(blocks, run, position, tangent)
    if bool(moved[half:].any()):
        raise ValueError(
            f"Samples act on each other above block {blocks[position].name!r}, as in batch "
            "normalisation that is training, so the directional derivative of the loss is no sum "
            "over samples: put such modules into eval mode, normalise each sample (GroupNorm, "
            "LayerNorm), or backpropagate the error (tangents=None)."
        )
