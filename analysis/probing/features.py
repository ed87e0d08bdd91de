"""What is read of a block's output: one row of features for each sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def pooled(output: Tensor, pooling: int, name: str) -> Tensor:
    """(samples, features) of an output in standard form, in float32 or wider.

    Maps are averaged to ``pooling`` x ``pooling`` values per channel, sequences over the tokens.

    Args:
        output: the output.
        pooling: the side of the pooled maps; smaller maps stay as they are.
        name: the name of the block, for the message.

    Raises:
        ValueError: the output has not 2 to 4 axes.
    """
    output = output.detach().to(torch.promote_types(output.dtype, torch.float32))
    if output.ndim == 4:
        height, width = (min(pooling, side) for side in output.shape[2:])
        output = F.adaptive_avg_pool2d(output, (height, width))
    elif output.ndim == 3:
        output = output.mean(dim=1)
    elif output.ndim != 2:
        raise ValueError(
            f"Block {name!r} returned shape {tuple(output.shape)}; a probe reads (samples, "
            "channels), maps and sequences: choose another block, or wrap this one to reshape its "
            "output."
        )
    # Copied, because an in-place activation may overwrite what the block returned.
    return output.flatten(1).clone()
