"""Claims: what a figure must show, decided by numbers."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from linlocal.analysis.results import temporary_beside

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


def entries(folder: Path) -> dict[str, Any]:
    """What is recorded in ``claims.json``, by figure.

    Entries that were damaged or edited are left out: drawing their figures makes them again.
    """
    try:
        found = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {figure: entry for figure, entry in found.items() if _is_whole(figure, entry)}


def record(
    figure: str,
    claims: Sequence[Claim],
    run: str,
    folder: Path,
    source: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Enter the claims of one figure into ``claims.json`` and ``claims.md``.

    Args:
        figure: name of the figure; the entries of other figures stay.
        claims: the claims, in the order in which they are to be read.
        run: preset and seed of the results, as text.
        folder: folder of the figures.
        source: what the figure was drawn from, see `report.sources.source`; the report shows it.
    """
    decided = [
        {
            "claim": claim.text,
            "verdict": claim.verdict,
            "measured": claim.measured,
            "published": claim.published,
        }
        for claim in claims
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with _only_writer(folder):
        entry = {"run": run, "claims": decided, **source}
        known = entries(folder) | {figure: {**entry, "checksum": _checksum(figure, entry)}}
        known = dict(sorted(known.items()))
        text = json.dumps(known, indent=1, ensure_ascii=False) + "\n"
        replace_text(folder / "claims.json", text)
        replace_text(folder / "claims.md", _markdown(known))


def table(claims: Sequence[Mapping[str, str | None]]) -> list[str]:
    """The recorded claims of one figure as the lines of a Markdown table."""
    lines = ["| claim | verdict | measured | published |", "|---|---|---|---|"]
    for claim in claims:
        cells = (plain(str(cell or "")).replace("|", "\\|") for cell in claim.values())
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def plain(text: str) -> str:
    """Text for a line of Markdown, without HTML and links: results may come from strangers."""
    one_line = " ".join(text.split())
    return re.sub("<(?=[a-zA-Z/!?])", "&lt;", one_line).replace("](", "]&#40;")


def replace_text(path: Path, text: str) -> None:
    """Write a file so that at any moment it is the old one or the whole new one."""
    temporary = temporary_beside(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _only_writer(folder: Path) -> Iterator[None]:
    """Wait until no other process changes the records of ``folder``."""
    if sys.platform == "win32":  # has no lock that ends with its process and leaves no file
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _markdown(known: Mapping[str, Any]) -> str:
    lines = ["# Claims", ""]
    for figure, entry in known.items():
        lines += [f"## {figure} ({plain(entry['run'])})", "", *table(entry["claims"]), ""]
    return "\n".join(lines)


def _is_whole(figure: str, entry: Any) -> bool:
    if not isinstance(entry, dict):
        return False
    rest = {key: value for key, value in entry.items() if key != "checksum"}
    return entry.get("checksum") == _checksum(figure, rest)


def _checksum(figure: str, entry: Mapping[str, Any]) -> str:
    text = json.dumps([figure, entry], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
