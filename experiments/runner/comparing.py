"""Comparisons of local and global updates, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from experiments.runner.grids import stack
from linlocal import Pairs, Rule, compare
from linlocal.networks import Network


def compare_batches(network: Network, batches: Sequence[Pairs], rule: Rule) -> xr.Dataset:
    """`linlocal.compare` on every batch, over the dimensions ``batch`` and ``layer``."""
    parts = (compare(network, pairs, rule) for pairs in batches)
    return stack(parts, "batch", range(len(batches)))
