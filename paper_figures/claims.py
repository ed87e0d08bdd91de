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

from linlocal.analysis.results import replacing

# Three for what a paper says, two for what we say, one for either.
Verdict = Literal["reproduced", "contradicted", "not comparable", "holds", "fails", "undecided"]


@dataclass(frozen=True)
class Claim:
    """A statement that a result supports or not.

    A statement of a paper is reproduced or contradicted only where it was published on what we
    measured. Elsewhere it is not comparable, whatever comes out. Our own statements hold or fail.
    Either is undecided where the result cannot tell.

    Attributes:
        text: the statement.
        holds: whether the result supports it; None if it cannot tell.
        measured: the numbers that decide, as text.
        published: what the paper says, in numbers or words; None for a statement of our own.
        elsewhere: what it was published on, where we measured on something else.
    """

    text: str
    holds: bool | None
    measured: str
    published: str | None = None
    elsewhere: str | None = None

    @property
    def here(self) -> Verdict:
        """What the result says by itself."""
        return "undecided" if self.holds is None else "holds" if self.holds else "fails"

    @property
    def verdict(self) -> Verdict:
        """The decision in words."""
        if self._foreign:
            return "not comparable"
        if self.published is None or self.holds is None:
            return self.here
        return "reproduced" if self.holds else "contradicted"

    @property
    def _foreign(self) -> bool:
        return self.published is not None and self.elsewhere is not None

    @property
    def evidence(self) -> str:
        """The numbers that decide, and what they say where nothing can be compared."""
        return f"{self.here} here: {self.measured}" if self._foreign else self.measured

    @property
    def source(self) -> str | None:
        """What the paper says, and what of."""
        return f"{self.published} (on {self.elsewhere})" if self._foreign else self.published

    def __str__(self) -> str:
        published = f"; published {self.source}" if self.source else ""
        return f"{self.verdict}: {self.text} (measured {self.evidence}{published})"


def entries(folder: Path) -> dict[str, Any]:
    """What is recorded in ``claims.json``, by figure.

    An entry counts only as it was written: each carries a checksum of its figure's name and of all
    that it says. A file that is missing or damaged has none. What does not count is to be drawn
    again; `complaint` names it.
    """
    return _stored(folder)[0]


def complaint(folder: Path) -> str | None:
    """Which entries of ``claims.json`` do not count, in one line; None if all do."""
    return _stored(folder)[1]


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
            "measured": claim.evidence,
            "published": claim.source,
        }
        for claim in claims
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with _only_writer(folder):
        entry = {"run": run, "claims": decided, **source}
        entry["checksum"] = _checksum(figure, entry)
        known = dict(sorted((entries(folder) | {figure: entry}).items()))
        text = json.dumps(known, indent=1, ensure_ascii=False) + "\n"
        replace_text(folder / "claims.json", text)
        replace_text(folder / "claims.md", markdown(known))


def markdown(known: Mapping[str, Any]) -> str:
    """The claims of all figures, as `entries` gives them, as a page in Markdown."""
    lines = ["# Claims", ""]
    for figure, entry in known.items():
        lines += [f"## {figure} ({plain(entry['run'])})", "", *table(entry["claims"]), ""]
    return "\n".join(lines)


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
    with replacing(path) as file:
        file.write(text.encode())


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


def _stored(folder: Path) -> tuple[dict[str, Any], str | None]:
    """The entries that count, and what is wrong with the others."""
    path = folder / "claims.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        return {}, f"{path} is damaged: none of its figures counts as drawn; draw them again."
    whole = {
        figure: entry
        for figure, entry in found.items()
        if isinstance(entry, dict) and entry.get("checksum") == _checksum(figure, entry)
    }
    others = ", ".join(figure for figure in found if figure not in whole)
    if not others:
        return whole, None
    return whole, (
        f"{path}: not as it was written (edited by hand, or by an older version of linlocal): "
        f"{others}. This does not count as drawn; draw it again."
    )


def _checksum(figure: str, entry: Mapping[str, Any]) -> str:
    """The SHA-256 of an entry without its checksum; the order of keys is that of the columns."""
    said = {key: value for key, value in entry.items() if key != "checksum"}
    return hashlib.sha256(json.dumps([figure, said]).encode()).hexdigest()
