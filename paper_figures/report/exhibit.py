"""What the report says about one figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Exhibit:
    """One figure of the report.

    Attributes:
        name: name of the figure.
        caption: what the figure shows.
        claims: its claims, as recorded in ``claims.json``; none if the figure is missing.
        runs: for each result that it shows, labelled facts about the run.
        commands: lines for the shell that make the figure, in their order.
        larger: lines that draw it from results of larger presets in the same folder.
        pictures: its files by suffix; none if the figure is missing.
        failure: why the figure could not be drawn now; "" where it was not tried or could.
    """

    name: str
    caption: str
    claims: Sequence[Mapping[str, Any]]
    runs: Sequence[Mapping[str, str]]
    commands: Sequence[str]
    larger: Sequence[str]
    pictures: Mapping[str, Path]
    failure: str = ""

    def count(self, verdict: str) -> int:
        """The number of its claims that have this verdict."""
        return sum(claim["verdict"] == verdict for claim in self.claims)
