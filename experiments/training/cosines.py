"""Cosines of local and global updates, and of backpropagation with masks that are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import xarray as xr
from torch import Tensor, nn

from linlocal.analysis.alignment import TERMS, align
from linlocal.analysis.watching import masked_gradients
from linlocal.networks import Masks

Batch = tuple[Tensor, ...]

OF_TERMS: tuple[str, ...] = tuple(
    f"{term}{kind}" for term in TERMS for kind in ("", "_share", "_shapley")
)
APPROXIMATE_MASKS: tuple[Masks, ...] = ("batch", "none")


def update_cosines(
    network: nn.Module,
    losses: nn.ModuleList,
    watched: Sequence[Batch],
    terms: bool = False,
    window: int = 1,
) -> xr.Dataset:
    """Cosine of the local and the global update per ``layer``, averaged over batches.

    Args:
        network: its children are the blocks.
        losses: the local losses of the blocks.
        watched: batches, each of both views, stacked (2N, ...), and what else the losses read.
        terms: whether to add what masks, feedback and slopes take from the cosine, see
            `linlocal.analysis.align`.
        window: through how many blocks a loss is backpropagated.
    """
    measured = [
        align(network, None, losses, each[0], batch=each, terms=terms, window=window)
        for each in watched
    ]
    names = ["cosine", *(["error_cosine", *OF_TERMS] if terms else [])]
    parts = [each[names] for each in measured]
    return xr.concat(parts, "batch").mean("batch").drop_vars(("parameter", "view"), errors="ignore")


def masked_cosines(
    network: nn.Sequential, last: nn.Module, watched: Sequence[Batch]
) -> xr.DataArray:
    """Cosine of masked and exact backpropagation of the last loss, over mask and layer.

    Args:
        network: its children are the blocks.
        last: the loss of the last block.
        watched: batches of both views, over which the cosine is averaged.
    """

    def loss_of(output: Tensor) -> Tensor:
        value: Tensor = last(output, output.detach())
        return value

    cosines = torch.zeros(len(watched), len(APPROXIMATE_MASKS), len(network), dtype=torch.float64)
    names = [name for name, _ in network.named_children()]
    for row, (views, *_) in enumerate(watched):
        gradients = partial(masked_gradients, network, views, loss_of)
        exact = gradients(masks="sample")
        for column, masks in enumerate(APPROXIMATE_MASKS):
            masked = gradients(masks=masks)
            for l, name in enumerate(names):
                a, b = (
                    torch.cat([g.double().flatten() for n, g in each.items() if _of(n, name)])
                    for each in (masked, exact)
                )
                cosines[row, column, l] = a @ b / (a.norm() * b.norm())
    return xr.DataArray(
        cosines.mean(0).numpy(),
        {"mask": list(APPROXIMATE_MASKS), "layer": range(1, len(names) + 1)},
        ("mask", "layer"),
    )


def _of(parameter: str, block: str) -> bool:
    return parameter.startswith(f"{block}.")
