"""The command ``python -m paper_figures.report.readme``: the README's tables and pictures.

It reads what ``python -m paper_figures report`` and ``python -m experiments.benchmarks`` wrote;
nothing in the tables is typed by hand. With them it writes the claims and the gallery.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from paper_figures import claims, registry
from paper_figures.claims import Verdict
from paper_figures.report import gallery
from paper_figures.report.contents import PAPERS

VERIFIED, MEASURED, RULES = "verified", "measured", "rules"
IN_SHORT = "## In short\n"
# The rows of the page of benchmarks that the README shows, by the beginning of the first cell.
SHOWN = (
    "optimal projections and both updates",
    "a training step with the cosine of every block recorded",
    "a step in windows",
    "100,000 data of a Random Hierarchy Model",
)
# The picture of a recorded training; the others are those of `make results`.
PICTURE = "mismatch_terms.png"


def summary(entries: Mapping[str, Any]) -> str:
    """The number of claims of each paper and verdict, as a Markdown table.

    Args:
        entries: the claims of the figures, from `claims.entries`.
    """
    verdicts = get_args(Verdict)
    lines = [f"| claims of | figures | {' | '.join(verdicts)} |"]
    lines += [f"|---|{'---:|' * (1 + len(verdicts))}"]
    drawn = gallery.names(entries)
    for paper, title in [*PAPERS.items(), (None, "all")]:
        names = [name for name in drawn if paper in (None, registry.load(name).PAPER)]
        counted = [gallery.counts(entries[name]) for name in names]
        totals = [sum(each[verdict] for each in counted) for verdict in verdicts]
        lines += [f"| {title} | {len(names)} | {' | '.join(map(str, totals))} |"] if names else []
    runs = sorted({entries[name]["run"] for name in drawn})
    return "\n".join([*lines, "", f"Runs: {'; '.join(runs)}."])


def timings(page: Path) -> str:
    """The rows `SHOWN`, for each device, of the table at the head of the page of benchmarks.

    Args:
        page: ``docs/benchmarks.md``.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it has no such table or row.
    """
    _, found, rest = page.read_text(encoding="utf-8").partition(IN_SHORT)
    if not found:
        raise ValueError(f"{page} has no section {IN_SHORT.strip()!r}: write it anew.")
    head, line, *rows = rest.partition("\n## ")[0].strip().splitlines()
    shown = [[row for row in rows if row.startswith(f"| {begin}")] for begin in SHOWN]
    if not all(shown):
        raise ValueError(f"{page} needs a row for each of {', '.join(map(repr, SHOWN))}.")
    return "\n".join([head, line, *chain(*shown)])


def rules(page: Path) -> str:
    """The table of rules, which is the first one of ``docs/how-to/rules.md``."""
    lines = page.read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("|"))
    return "\n".join(lines[first:]).partition("\n\n")[0]


def markers(name: str, command: str = "make readme") -> tuple[str, str]:
    """What stands before and after a part of a page that a command writes."""
    return f"<!-- {name}: written by `{command}` -->", f"<!-- end of {name} -->"


def replace_between(text: str, name: str, block: str, command: str = "make readme") -> str:
    """``text`` with what stands between the two markers replaced.

    Raises:
        ValueError: the markers are missing.
    """
    first, last = markers(name, command)
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise ValueError(f"the page needs the markers {first!r} and {last!r}.")
    return f"{before}{first}\n\n{block}\n\n{last}{after}"


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    figures: Annotated[Path, typer.Option(help="Folder of the drawn figures.")] = Path("figures"),
    readme: Annotated[Path, typer.Option(help="The file to bring up to date.")] = Path("README.md"),
) -> None:
    """Write verdicts, benchmarks and rules into the README; write claims and gallery."""
    known, complaint = claims.entries(figures), claims.complaint(figures)
    if complaint is not None or not known:
        problem = complaint or f"{figures / 'claims.json'} is missing"
        typer.echo(f"error: {problem}; make it with\n  make figures", err=True)
        raise typer.Exit(2)
    docs = readme.parent / "docs"
    text = replace_between(readme.read_text(encoding="utf-8"), VERIFIED, summary(known))
    text = replace_between(text, MEASURED, timings(docs / "benchmarks.md"))
    text = replace_between(text, RULES, rules(docs / "how-to" / "rules.md"))
    gallery.fewer_colors(figures / PICTURE, docs / PICTURE)
    small = docs / "gallery"
    small.mkdir(exist_ok=True)
    for name in gallery.names(known):
        gallery.thumbnail(figures / f"{name}.png", small / f"{name}.webp")
    written = {
        readme: text,
        docs / "claims.md": claims.markdown(known),
        docs / "gallery.md": gallery.markdown(known),
    }
    for path, content in written.items():
        path.write_text(content, encoding="utf-8")
    typer.echo(f"written: {', '.join(map(str, written))} and pictures in {docs}")


if __name__ == "__main__":
    app(prog_name="python -m paper_figures.report.readme")
