"""Claims: what a figure must show, decided by numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["reproduced", "not reproduced", "open"]


@dataclass(frozen=True)
class Claim:
    """A statement that a result supports or not.

    Attributes:
        text: the statement.
        holds: whether the result supports it; None if it cannot tell.
        measured: the numbers that decide, as text.
        published: the numbers in the paper, where it has any.
    """

    text: str
    holds: bool | None
    measured: str
    published: str | None = None

    @property
    def verdict(self) -> Verdict:
        """The decision in words."""
        if self.holds is None:
            return "open"
        return "reproduced" if self.holds else "not reproduced"

    def __str__(self) -> str:
        published = f"; published {self.published}" if self.published else ""
        return f"{self.verdict}: {self.text} (measured {self.measured}{published})"


def record(figure: str, claims: Sequence[Claim], run: str, folder: Path) -> None:
    """Enter the claims of one figure into ``claims.json`` and ``claims.md``.

    Args:
        figure: its name; the entries of other figures stay.
        claims: in the order in which they are to be read.
        run: preset and seed of the results, as text.
        folder: of the figures.
    """
    path = folder / "claims.json"
    try:
        entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # cut off: drawing all figures makes it whole again
        entries = {}
    decided = [
        {
            "claim": claim.text,
            "verdict": claim.verdict,
            "measured": claim.measured,
            "published": claim.published,
        }
        for claim in claims
    ]
    entries[figure] = {"run": run, "claims": decided}
    entries = dict(sorted(entries.items()))
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "claims.md").write_text(_markdown(entries), encoding="utf-8")


def _markdown(entries: Mapping[str, Any]) -> str:
    lines = ["# Claims", ""]
    for figure, entry in entries.items():
        lines += [f"## {figure} ({entry['run']})", ""]
        lines += ["| claim | verdict | measured | published |", "|---|---|---|---|"]
        for claim in entry["claims"]:
            cells = (str(cell or "").replace("|", "\\|") for cell in claim.values())
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)
