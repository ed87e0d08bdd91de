"""Records of decided claims: ``claims.json`` and ``claims.md``."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from linlocal.analysis.results import replacing
from paper_figures.claims.claim import Claim

_COLUMNS = ("claim", "verdict", "measured", "by", "published")


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
    decided = [_row(claim) for claim in claims]
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
    sizes = sorted({entry["run"].partition(",")[0] for entry in known.values()})
    lines = [f"# {', '.join(['Claims', *map(plain, sizes)])}", ""]
    for figure, entry in known.items():
        lines += [f"## {figure} ({plain(entry['run'])})", "", *table(entry["claims"]), ""]
    return "\n".join(lines)


def table(claims: Sequence[Mapping[str, Any]]) -> list[str]:
    """The recorded claims of one figure as the lines of a Markdown table."""
    lines = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|"]
    for claim in claims:
        shown = (
            claim.get(key) or "" for key in ("claim", "verdict", "measured", "by", "published")
        )
        cells = (plain(str(cell)).replace("|", "\\|") for cell in shown)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _row(claim: Claim) -> dict[str, Any]:
    """What is recorded of a claim: its verdict, and all that the verdict rests on."""
    decision = claim.decision
    correction = decision.correction if decision else ""
    return {
        "claim": claim.text,
        "verdict": claim.verdict,
        "measured": claim.evidence,
        "published": claim.source,
        "paper": claim.paper,
        "by": "; ".join(filter(None, (decision.units, correction))) if decision else "",
        "intervals": [_digits(pair) for pair in decision.intervals] if decision else [],
    }


def _digits(pair: tuple[float, float]) -> list[float | None]:
    """Six digits are more than an interval has; JSON knows no NaN."""
    return [float(f"{end:.6g}") if math.isfinite(end) else None for end in pair]


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
