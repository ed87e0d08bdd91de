"""What the report holds of one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Exhibit:
    """One figure of the report.

    Attributes:
        name: of the figure.
        caption: what it shows.
        claims: as recorded in ``claims.json``; none if it is missing.
        runs: for each result that it shows, labels and what they say.
        commands: lines for the shell that make it, in their order.
        larger: those that draw it from results of larger presets which lie in the same folder.
        pictures: its files by suffix; none if it is missing.
    """

    name: str
    caption: str
    claims: Sequence[Mapping[str, Any]]
    runs: Sequence[Mapping[str, str]]
    commands: Sequence[str]
    larger: Sequence[str]
    pictures: Mapping[str, Path]

    def count(self, verdict: str) -> int:
        """How many of its claims have this verdict."""
        return sum(claim["verdict"] == verdict for claim in self.claims)
