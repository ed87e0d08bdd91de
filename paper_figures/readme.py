"""The command ``python -m paper_figures.readme``: brings the README's table and picture up to date.

It reads what ``python -m paper_figures all`` wrote; nothing in the table is typed by hand.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, get_args

import typer

from paper_figures.claims import Verdict

BEGIN, END = "<!-- verified: written by `make readme` -->", "<!-- end of verified -->"
PICTURE = "linear_alignment.png"


def summary(claims: Path) -> str:
    """How many claims of each figure have which verdict, as a Markdown table.

    Args:
        claims: the ``claims.json`` of a figures folder.

    Raises:
        FileNotFoundError: the figures were not drawn.
    """
    entries = json.loads(claims.read_text(encoding="utf-8"))
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


def replace_between(text: str, block: str) -> str:
    """``text`` with what stands between the two markers replaced.

    Raises:
        ValueError: the markers are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the README needs the markers {BEGIN!r} and {END!r}.")
    return f"{before}{BEGIN}\n\n{block}\n\n{END}{after}"


def main(
    figures: Annotated[Path, typer.Option(help="Folder of the drawn figures.")] = Path("figures"),
    readme: Annotated[Path, typer.Option(help="The file to bring up to date.")] = Path("README.md"),
) -> None:
    """Write the verdicts into the README; copy its picture and the claims with their numbers."""
    claims = figures / "claims.json"
    if not claims.exists():
        typer.echo(f"error: {claims} is missing; make it with\n  make figures", err=True)
        raise typer.Exit(2)
    text = replace_between(readme.read_text(encoding="utf-8"), summary(claims))
    readme.write_text(text, encoding="utf-8")
    picture = readme.parent / "docs" / PICTURE
    picture.parent.mkdir(exist_ok=True)
    shutil.copyfile(figures / PICTURE, picture)
    full = picture.with_name("claims.md")
    shutil.copyfile(figures / "claims.md", full)
    typer.echo(f"written: {readme}, {picture}, {full}")


if __name__ == "__main__":
    typer.run(main)
