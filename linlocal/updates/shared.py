"""What several rules have in common on one network and batch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from linlocal.networks import Activities, Network
from linlocal.pairs import Pairs
from linlocal.projection import Projection, Rows, optimal_projection


class Shared:
    """The forward pass, its rows as projections see them, and what solves for projections.

    Args:
        network: the network with layers 1..L.
        pairs: the batch.
        solve: called as `optimal_projection`, which it is by default.
    """

    def __init__(
        self,
        network: Network,
        pairs: Pairs,
        solve: Callable[..., Projection] = optimal_projection,
    ) -> None:
        self.network, self.pairs, self.solve = network, pairs, solve
        self.rows: dict[tuple[int, bytes], Rows] = {}

    @cached_property
    def activities(self) -> Activities:
        """What the forward pass of the batch leaves behind."""
        return self.network.activities(self.pairs.samples)
