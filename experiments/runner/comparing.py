"""Comparisons of local and global updates, batch by batch."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from linlocal import Pairs, Rule, sweep
from linlocal.networks import Network


def compare_batches(network: Network, batches: Sequence[Pairs], rule: Rule) -> xr.Dataset:
    """`linlocal.compare` on every batch, over the dimensions ``batch`` and ``layer``."""
    return sweep([network], batches, [rule]).isel(network=0, rule=0, drop=True)
