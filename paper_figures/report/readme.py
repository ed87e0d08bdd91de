"""The command ``python -m paper_figures.report.readme``: the README's tables and picture.

It reads what ``python -m paper_figures report`` and ``python -m experiments.benchmarks`` wrote;
nothing in the tables is typed by hand.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, get_args

import typer

from paper_figures import claims as recorded
from paper_figures.claims import Verdict

VERIFIED, MEASURED = "verified", "measured"
IN_SHORT = "## In short\n"
PICTURE = "linear_alignment.png"


def summary(claims: Path) -> str:
    """The number of claims of each figure and verdict, as a Markdown table.

    Args:
        claims: the ``claims.json`` of a figures folder.

    Raises:
        FileNotFoundError: the figures were not drawn.
        ValueError: some entries were damaged or edited.
    """
    entries = recorded.entries(claims.parent)
    if lost := sorted(json.loads(claims.read_text(encoding="utf-8")).keys() - entries.keys()):
        raise ValueError(f"{claims} was damaged or edited: draw again {', '.join(lost)}.")
    verdicts = get_args(Verdict)
    lines = [f"| figure | {' | '.join(verdicts)} |", f"|---|{'---:|' * len(verdicts)}"]
    totals = dict.fromkeys(verdicts, 0)
    for figure, entry in entries.items():
        found = [row["verdict"] for row in entry["claims"]]
        counts = {verdict: found.count(verdict) for verdict in verdicts}
        totals = {verdict: totals[verdict] + counts[verdict] for verdict in verdicts}
        lines.append(f"| {figure} | {' | '.join(map(str, counts.values()))} |")
    lines.append(f"| all | {' | '.join(map(str, totals.values()))} |")
    runs = sorted({entry["run"] for entry in entries.values()})
    return "\n".join([*lines, "", f"Runs: {'; '.join(runs)}."])


def timings(page: Path) -> str:
    """The table at the head of the page of benchmarks.

    Args:
        page: ``docs/benchmarks.md``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it has no such table.
    """
    _, found, rest = page.read_text(encoding="utf-8").partition(IN_SHORT)
    if not found:
        raise ValueError(f"{page} has no section {IN_SHORT.strip()!r}: write it anew.")
    return rest.partition("\n## ")[0].strip()


def markers(name: str) -> tuple[str, str]:
    """What stands before and after a part of the README that is written here."""
    return f"<!-- {name}: written by `make readme` -->", f"<!-- end of {name} -->"


def replace_between(text: str, name: str, block: str) -> str:
    """``text`` with what stands between the two markers replaced.

    Raises:
        ValueError: the markers are missing.
    """
    first, last = markers(name)
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise ValueError(f"the README needs the markers {first!r} and {last!r}.")
    return f"{before}{first}\n\n{block}\n\n{last}{after}"


def main(
    figures: Annotated[Path, typer.Option(help="Folder of the drawn figures.")] = Path("figures"),
    readme: Annotated[Path, typer.Option(help="The file to bring up to date.")] = Path("README.md"),
) -> None:
    """Write verdicts and benchmarks into the README; copy its picture and the claims."""
    claims = figures / "claims.json"
    if not claims.exists():
        typer.echo(f"error: {claims} is missing; make it with\n  make figures", err=True)
        raise typer.Exit(2)
    docs = readme.parent / "docs"
    text = replace_between(readme.read_text(encoding="utf-8"), VERIFIED, summary(claims))
    text = replace_between(text, MEASURED, timings(docs / "benchmarks.md"))
    readme.write_text(text, encoding="utf-8")
    picture = docs / PICTURE
    shutil.copyfile(figures / PICTURE, picture)
    full = picture.with_name("claims.md")
    shutil.copyfile(figures / "claims.md", full)
    typer.echo(f"written: {readme}, {picture}, {full}")


if __name__ == "__main__":
    typer.run(main)
