"""The command ``python -m paper_figures.report.printed PAGE...``: what the examples of pages print.

A block of ``text`` right below a block of ``python`` is what the code prints. It is written here
and compared in the tests, so no output on a page is typed by hand.
"""

from __future__ import annotations

import io
import math
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

EXAMPLE = re.compile(r"```python\n(?P<code>.*?)```(?:\n\n```text\n(?P<shown>.*?)```)?", re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]\d+)?|-?\d+e[-+]\d+")
RELATIVE, ZERO = 0.02, 1e-9


@dataclass(frozen=True)
class Example:
    """A block of code that was run.

    Attributes:
        number: which block of its page it is, from 1.
        shown: the output that stands on the page; None where none does.
        printed: what the code has printed.
    """

    number: int
    shown: str | None
    printed: str

    @property
    def current(self) -> bool:
        """Whether the page shows what is printed, or nothing."""
        return self.shown is None or same(self.shown, self.printed)


def same(shown: str, printed: str) -> bool:
    """Whether two outputs agree: the words and whole numbers exactly, others to two digits.

    What is below 1e-9 counts as zero, because rounding differs between machines.
    """

    def agree(first: str, second: str) -> bool:
        return math.isclose(float(first), float(second), rel_tol=RELATIVE, abs_tol=ZERO)

    def words(text: str) -> list[str]:
        return NUMBER.sub("#", text).split()

    # Rounding can take a sign or a digit with it, and with them spaces.
    return words(shown) == words(printed) and all(
        map(agree, NUMBER.findall(shown), NUMBER.findall(printed))
    )


def run(text: str, name: str) -> Iterator[Example]:
    """Run the blocks of a page in their order, in one namespace and a folder of their own.

    Args:
        text: the page, in Markdown.
        name: name of the page, for messages.

    Raises:
        Exception: whatever the code raises.
    """
    module = ModuleType(f"page {name}")
    sys.modules[module.__name__] = module  # a dataclass looks it up
    try:
        with tempfile.TemporaryDirectory() as folder, chdir(folder):
            for number, match in enumerate(EXAMPLE.finditer(text), start=1):
                out = io.StringIO()
                with redirect_stdout(out):
                    code = compile(match["code"], f"{name}, block {number}", "exec")
                    exec(code, module.__dict__)
                yield Example(number, match["shown"], out.getvalue())
    finally:
        del sys.modules[module.__name__]


def brought_up_to_date(text: str, name: str) -> str:
    """The page with the outputs that its code prints now; those that agree stay as they are."""
    examples = {example.number: example for example in run(text, name)}
    numbers = iter(sorted(examples))

    def replaced(match: re.Match[str]) -> str:
        example = examples[next(numbers)]
        if example.current:
            return match[0]
        lines = "\n".join(line.rstrip() for line in example.printed.rstrip().splitlines())
        return f"```python\n{match['code']}```\n\n```text\n{lines}\n```"

    return EXAMPLE.sub(replaced, text)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    pages: Annotated[list[Path], typer.Argument(help="Pages in Markdown, e.g. README.md.")],
) -> None:
    """Run the examples of pages and write below each what it prints, where something stands."""
    for page in pages:
        text = page.read_text(encoding="utf-8")
        new = brought_up_to_date(text, page.name)
        if new != text:
            page.write_text(new, encoding="utf-8")
        typer.echo(f"{'written' if new != text else 'up to date'}: {page}")


if __name__ == "__main__":
    app()
