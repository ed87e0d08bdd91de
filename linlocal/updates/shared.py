"""What several rules have in common on one network and batch."""

from __future__ import annotations

from functools import cached_property

from linlocal.networks import Activities, Network
from linlocal.pairs import Pairs
from linlocal.projection import Rows


class Shared:
    """The forward pass, and its rows as projections see them.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
    """

    def __init__(self, network: Network, pairs: Pairs) -> None:
        self.network, self.pairs = network, pairs
        self.rows: dict[tuple[int, bytes], Rows] = {}

    @cached_property
    def activities(self) -> Activities:
        """What the forward pass of the batch leaves behind."""
        return self.network.activities(self.pairs.samples)
