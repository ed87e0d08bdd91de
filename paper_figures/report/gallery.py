"""The page docs/gallery.md: every figure in small, what it found, its code and its commands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from PIL import Image

from paper_figures import registry
from paper_figures.claims import Verdict, plain
from paper_figures.report.contents import PAPERS

WIDTH, QUALITY, COLORS = 440, 35, 48

INTRODUCTION = """\
# Gallery

Every figure of the project, with what its claims found, the file that draws it and the commands
that make it. Written by `make readme`; do not edit. [All claims](claims.md) stand with their
numbers on a page of their own, and `make figures` writes everything, in full size, into
`figures/report.html`.
"""


def markdown(known: Mapping[str, Any]) -> str:
    """The page.

    Args:
        known: the claims of the figures, from `claims.entries`.
    """
    parts = [INTRODUCTION]
    for paper, title in PAPERS.items():
        shown = [name for name in names(known) if paper == registry.load(name).PAPER]
        if shown:
            parts += [f"## {title}\n", *("\n".join(_entry(name, known[name])) for name in shown)]
    return "\n".join(parts)


def names(known: Mapping[str, Any]) -> list[str]:
    """The figures that exist and are drawn; an old record may name others."""
    return [name for name in registry.NAMES if name in known]


def counts(entry: Mapping[str, Any]) -> dict[str, int]:
    """How many claims of a figure have each verdict."""
    found = [claim["verdict"] for claim in entry["claims"]]
    return {verdict: found.count(verdict) for verdict in get_args(Verdict)}


def thumbnail(picture: Path, out: Path) -> None:
    """Write a picture in small: some kilobytes of WebP."""
    small = _opaque(picture)
    small.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
    small.save(out, quality=QUALITY, method=6)


def fewer_colors(picture: Path, out: Path) -> None:
    """Write a picture in full size in a third of the bytes."""
    _opaque(picture).quantize(COLORS, dither=Image.Dither.NONE).save(out, optimize=True)


def _opaque(picture: Path) -> Image.Image:
    with Image.open(picture) as full:
        return full.convert("RGB")


def _entry(name: str, entry: Mapping[str, Any]) -> Iterator[str]:
    module = registry.load(name)
    place = f"claims.md#{_anchor(name, entry)}"
    caption = plain(registry.caption(module))
    yield f"### {name}\n\n{caption}\n"
    yield f"[![{caption}](gallery/{name}.webp)]({place})\n"
    numbers = [f"{count} {verdict}" for verdict, count in counts(entry).items() if count]
    yield f"[Claims]({place}): {', '.join(numbers)}. {_first(entry)}\n"
    file = f"paper_figures/figures/{name}.py"
    yield f"Code: [{file}](../{file})\n"
    preset = entry["run"].removeprefix("preset ").partition(",")[0]
    size = "" if preset == "cpu" else f" --preset {preset}"
    runs = [f"python -m experiments run {experiment}{size}" for experiment in module.INPUTS]
    commands = [*runs, f"python -m paper_figures {name}{size}"]
    yield "\n".join(["```text", *commands, "```\n"])


def _anchor(name: str, entry: Mapping[str, Any]) -> str:
    """The place of a figure in ``claims.md``, see `claims.markdown`."""
    heading = f"{name} ({entry['run']})".lower()
    return "".join(c for c in heading.replace(" ", "-") if c.isalnum() or c in "-_")


def _first(entry: Mapping[str, Any]) -> str:
    """The first claim that was decided, with its numbers."""
    decided = [each for each in entry["claims"] if each["verdict"] != "undecided"]
    claim = (decided or entry["claims"])[0]
    return plain(f"The first: {claim['claim']}; *{claim['verdict']}*: {claim['measured']}.")
