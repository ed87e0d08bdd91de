"""The command ``python -m paper_figures.readme``: brings the README's table and picture up to date.

It reads what ``python -m paper_figures all`` wrote; nothing in the table is typed by hand.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

BEGIN, END = "<!-- verified: written by `make readme` -->", "<!-- end of verified -->"
PICTURE = "linear_alignment.png"


def table(claims: Path) -> str:
    """The claims of all figures as one Markdown table.

    Args:
        claims: the ``claims.json`` of a figures folder.

    Raises:
        FileNotFoundError: the figures were not drawn.
    """
    entries = json.loads(claims.read_text(encoding="utf-8"))
    lines = ["| figure | claim | verdict | measured | published |", "|---|---|---|---|---|"]
    for figure, entry in entries.items():
        for row in entry["claims"]:
            cells = [figure, row["claim"], row["verdict"], row["measured"], row["published"] or ""]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
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
    """Write the table of claims into the README and copy its picture."""
    claims = figures / "claims.json"
    if not claims.exists():
        typer.echo(f"error: {claims} is missing; make it with\n  make figures", err=True)
        raise typer.Exit(2)
    text = replace_between(readme.read_text(encoding="utf-8"), table(claims))
    readme.write_text(text, encoding="utf-8")
    picture = readme.parent / "docs" / PICTURE
    picture.parent.mkdir(exist_ok=True)
    shutil.copyfile(figures / PICTURE, picture)
    typer.echo(f"written: {readme}, {picture}")


if __name__ == "__main__":
    typer.run(main)
