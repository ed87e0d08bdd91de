"""What the site needs beside sphinx, so that it is built and read without a network.

Formulas become MathML, which browsers draw by themselves. The notebooks stay where they are: a file
``docs/notebooks/NAME.notebook`` holds the path of the one that is shown in its place. Docstrings
are written to be read as they stand; a little of their text has another meaning for sphinx.
"""

from __future__ import annotations

import pkgutil
import re
import sys
import unicodedata
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.transforms.post_transforms import SphinxPostTransform

DOCS = Path(__file__).parent
REPORT = DOCS.parent / "figures" / "report.html"
# "arXiv 1312.6120", and in a list the numbers alone, which begin with year and month.
ARXIV = re.compile(r"(\barXiv \d{4}\.\d{4,5}\b|\b[012]\d(?:0[1-9]|1[0-2])\.\d{5}\b)")
VERBATIM = (nodes.reference, nodes.literal, nodes.literal_block, nodes.title, nodes.raw)


def read_notebook(text: str) -> nbformat.NotebookNode:
    """The notebook that a ``.notebook`` file names, relative to this folder."""
    return nbformat.read(DOCS / text.strip(), as_version=4)


def always_outdated(app: Any, env: Any, *found: set[str]) -> list[str]:
    """Read the notebooks in every build: sphinx watches only the files that name them.

    The gallery depends on whether there is a report.
    """
    return [name for name in env.found_docs if name.startswith(("notebooks/", "gallery"))]


def links_of_the_site(app: Any, page: str, source: list[str]) -> None:
    """Notebooks lie elsewhere than on a page of Markdown; the report is there if it was made."""
    text = re.sub(r"\]\(((?:\.\./)*)\.\./notebooks/(\w+)\.ipynb\)", r"](\1notebooks/\2)", source[0])
    if page == "gallery" and REPORT.exists():
        text = text.replace("`figures/report.html`", '<a href="report.html">the report</a>')
    source[0] = text


class LinkedPapers(SphinxPostTransform):
    """Every number of arXiv in a running text becomes a link."""

    default_priority = 900

    def run(self, **arguments: Any) -> None:
        """Replace the texts of a page."""
        for text in [*self.document.findall(nodes.Text)]:
            pieces = ARXIV.split(text.astext())
            if len(pieces) > 1 and not any(isinstance(each, VERBATIM) for each in above(text)):
                text.parent.replace(text, [*with_papers(pieces)])


def above(node: nodes.Node) -> Iterator[nodes.Node]:
    """The nodes that a node lies in."""
    while node.parent is not None:
        node = node.parent
        yield node


def with_papers(pieces: list[str]) -> Iterator[nodes.Node]:
    """Texts, and between them what was split off, as links."""
    for text, found in zip_longest(pieces[::2], pieces[1::2], fillvalue=""):
        yield nodes.Text(text)
        if found:
            address = f"https://arxiv.org/abs/{found.split()[-1]}"
            yield nodes.reference("", found, refuri=address, internal=False)


def mathml(latex: str, display: str) -> str:
    """A formula as browsers draw it, with what latex2mathml leaves undone.

    Raises:
        ValueError: a command that it does not know.
    """
    formula = convert(latex, display=display).replace(r"<mi>\arg</mi>", "<mi>arg</mi>")
    formula = re.sub("<mi>(&#x027F9;)</mi>", r"<mo>\1</mo>", formula)  # an arrow needs its space
    # Browsers know no `mathvariant`, but a letter for each.
    formula = re.sub('<mi mathvariant="script">([A-Z])</mi>', script_letter, formula)
    if unknown := re.findall(r"\\[A-Za-z]+", formula):
        raise ValueError(f"latex2mathml does not know {', '.join(unknown)}, in: {latex}")
    return formula


def script_letter(match: re.Match[str]) -> str:
    """The script capital of a letter; some are older than the others and named otherwise."""
    try:
        letter = unicodedata.lookup(f"SCRIPT CAPITAL {match[1]}")
    except KeyError:
        letter = unicodedata.lookup(f"MATHEMATICAL SCRIPT CAPITAL {match[1]}")
    return f"<mi>{letter}</mi>"


def draw_formula(writer: Any, node: nodes.math) -> None:
    """A formula within a line."""
    writer.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def draw_display(writer: Any, node: nodes.math_block) -> None:
    """A formula on a line of its own."""
    writer.body.append(f'<div class="formula">{mathml(node.astext(), "block")}</div>\n')
    raise nodes.SkipNode


def plain_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let |x| be an absolute value, and keep the columns of indented tables in modules."""
    if what in ("attribute", "property") and lines[-2:-1] == [""] and ":type: " in lines[-1]:
        # Napoleon takes what stands before a colon for a type.
        lines[:] = [f"{lines[-1].removeprefix(':type: ')}: {lines[0]}", *lines[1:-2]]
    text = "\n".join(lines)
    if what == "module":
        text = re.sub(r"\n\n(?<!::\n\n)(?=    (?!>>>)\S)", "\n\n.. code-block:: text\n\n", text)
    verbatim = r"^    .*|" if what == "module" else ""
    pieces = re.split(rf"(?m)({verbatim}^>>>.*|^\.\.\. .*|`[^`]*`)", text)
    # Every other piece is what split them.
    pieces[::2] = [piece.replace("|", r"\|") for piece in pieces[::2]]
    lines[:] = "".join(pieces).split("\n")


def plain_signature(
    app: Any,
    what: str,
    name: str,
    obj: Any,
    options: Any,
    arguments: str | None,
    result: str | None,
) -> tuple[str | None, str | None]:
    """No constructor of protocols, and no wrapping of the names in `autodoc_type_aliases`."""

    def unwrapped(part: str | None) -> str | None:
        return part and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", part)

    if what == "class" and arguments == "(*args, **kwargs)":
        return "", result
    return unwrapped(arguments), unwrapped(result)


def our_name(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Link a name in the module that defines it to the door whose page shows it.

    What exists need not be on a page; a name that does not exist stays an error.
    """
    target = node.get("reftarget", "")
    package, _, _ = target.partition(".")
    if package != "linlocal":
        return None
    try:
        meant = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError):
        return None
    python = env.get_domain("py")
    rooms, name = target.split("."), ""
    while ".".join(rooms) not in sys.modules:
        name = f".{rooms.pop()}{name}"
    while rooms:
        shown = ".".join(rooms) + name
        if shown in python.objects and pkgutil.resolve_name(shown) == meant:
            page = node["refdoc"]
            return python.resolve_xref(env, page, app.builder, "obj", shown, node, content)
        rooms.pop()
    return content


def setup(app: Any) -> dict[str, bool]:
    """Register everything with sphinx."""
    app.add_html_math_renderer("mathml", (draw_formula, None), (draw_display, None))
    app.add_post_transform(LinkedPapers)
    app.connect("source-read", links_of_the_site)
    app.connect("env-get-outdated", always_outdated)
    app.connect("autodoc-process-docstring", plain_text)
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("missing-reference", our_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
