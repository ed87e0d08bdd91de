"""Contrast of queries with keys of a teacher and with a bank of earlier keys, in every block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linlocal import inputs
from linlocal.analysis.local_losses.contract import LocalLoss, views_of
from linlocal.analysis.local_losses.pooling import (
    Pool,
    Pooling,
    Shape,
    checked_pooling,
    pools,
    shapes_of,
)


class BankContrast(LocalLoss):
    """mean over queries of -log softmax(q.k / t) at its own key, among it and the keys of a bank.

    Queries q are the first view, keys k the second, which a teacher gives. Both are pooled and
    scaled to length 1, and no gradient runs into keys. Built by a `MomentumContrast`.

    Args:
        pool: P.
        bank: (size, features) the keys to begin with, of length 1.
        temperature: t.
    """

    compares = "views"
    remembers = True

    def __init__(self, pool: Pool, bank: Tensor, temperature: float) -> None:
        super().__init__()
        self.pool, self.temperature = pool, temperature
        self.register_buffer("bank", bank)
        self.register_buffer("next_row", torch.zeros((), dtype=torch.int64))
        self.bank: Tensor
        self.next_row: Tensor

    def forward(self, here: Tensor, top: Tensor | None, batch: Any = None) -> Tensor:
        with torch.autocast(here.device.type, enabled=False):
            queries, keys = views_of(self._directions(here))
            own = (queries * keys.detach()).sum(1, keepdim=True)
            logits = torch.cat([own, queries @ self.bank.to(queries.dtype).T], 1)
            answers = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
            return F.cross_entropy(logits / self.temperature, answers)

    @torch.no_grad()
    def remember(self, keys: Tensor) -> None:
        rows = self._directions(keys)[-len(self.bank) :].to(self.bank.dtype)
        places = (self.next_row + torch.arange(len(rows), device=rows.device)) % len(self.bank)
        self.bank[places] = rows
        self.next_row.copy_((self.next_row + len(rows)) % len(self.bank))

    def _directions(self, z: Tensor) -> Tensor:
        pooled = self.pool(z)
        return F.normalize(pooled.to(torch.promote_types(pooled.dtype, torch.float32)), dim=1)


@dataclass(frozen=True, kw_only=True)
class MomentumContrast:
    """The loss of MoCo in every block, each with a bank of its own.

    He et al. 2020 (arXiv 1911.05722), eq. 1: a query is to find the key of the same datum among
    this key and those of the last batches. Keys are the activities of the same block of a teacher
    (a momentum encoder), and a bank begins with random directions, as published. The recorder keeps
    the banks, so it watches the teacher in every step. With several processes each keeps the keys
    of its own rows.

    Attributes:
        size: the number of keys in each bank.
        temperature: what scores are divided by.
        pooling: the pooling of each block, see `pools`.

    Raises:
        ValueError: a size below 1, a temperature that is not positive, or an unknown pooling.
    """

    size: int = 65536
    temperature: float = 0.07
    pooling: Pooling = "global"

    def __post_init__(self) -> None:
        inputs.keep(self, partial(inputs.whole, least=1), "size")
        inputs.keep(self, inputs.positive, "temperature")
        inputs.keep(self, checked_pooling, "pooling")

    def build(self, shapes: Sequence[Shape], seed: int = 0) -> nn.ModuleList:
        """One loss for each block; see `local_losses.LocalRule`."""
        seed, shapes = inputs.whole(seed, "seed", 0), shapes_of(shapes)
        generator = torch.Generator().manual_seed(seed)
        losses = nn.ModuleList()
        for pool, shape in zip(pools(self.pooling, len(shapes)), shapes, strict=True):
            drawn = torch.randn(self.size, pool.features(shape), generator=generator)
            losses.append(BankContrast(pool, F.normalize(drawn, dim=1), self.temperature))
        return losses
