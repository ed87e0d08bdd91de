"""The site is complete, is built and read without a network, and its examples run."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from pkgutil import iter_modules
from types import FunctionType, ModuleType
from typing import Any
from urllib.parse import unquote

import pytest
from sphinx.util.inventory import InventoryFile
from typer.testing import CliRunner

from experiments.__main__ import app as experiments_command
from experiments.networks import import_torchvision
from experiments.runner import registry as experiments
from paper_figures import registry as figures
from paper_figures.__main__ import app as figures_command
from paper_figures.report import printed

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FIRST = [DOCS / f"{name}.md" for name in ("index", "quickstart", "tutorial")]
PAGES = [*FIRST, *sorted((DOCS / "how-to").glob("*.md"))]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_of_a_page_run_in_order_and_print_what_stands_below_them(page):
    examples = [*printed.run(page.read_text(encoding="utf-8"), page.name)]
    assert examples
    assert [each for each in examples if not each.current] == [], (
        f"Run `python -m paper_figures.report.printed {page.relative_to(ROOT)}`."
    )


def commands(text: str) -> list[list[str]]:
    """The words of every indented line for the shell, without its comment and `-m`."""
    lines = re.findall(r"^    (make|python -m) (.*?)(?: +#.*)?$", text, re.MULTILINE)
    return [[*first.split()[:1], *rest.split()] for first, rest in lines]


def impossible(command: list[str], targets: set[str]) -> list[str]:
    """The words of a command that name no target, experiment, figure or option."""
    program, *words = command
    if program == "make":
        return [word for word in words if word not in targets and "=" not in word]
    module, *words = words
    if module == "experiments":
        described = CliRunner().invoke(experiments_command, [words[0], "--help"])
        names = {"all", "NAME", *experiments.NAMES} if words[0] == "run" else set()
        named = words[1:2] if words[0] == "run" else []
        options = [word for word in words if word.startswith("--")]
        unknown = [word for word in options if word not in described.output]
        return unknown + [word for word in named if word not in names]
    if module == "paper_figures":
        described = CliRunner().invoke(figures_command, ["--help"])
        named = list(takewhile(lambda word: not word.startswith("--"), words))
        options = [word for word in words if word.startswith("--")]
        unknown = [word for word in options if word not in described.output]
        names = {"all", "report", "NAME", *figures.NAMES}
        return unknown + [word for word in named if word not in names]
    return [] if module == "pip" or is_ours(module) else [module]


def is_ours(module: str) -> bool:
    """Whether it is a module that can be run."""
    found = module.startswith("paper_figures.") and find_spec(module)
    return bool(found)


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page.read_text())])
def test_commands_of_a_page_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    found = commands(page.read_text(encoding="utf-8"))
    assert [word for command in found for word in impossible(command, targets)] == []


@pytest.mark.parametrize(
    "line",
    [
        "make fires",
        "python -m experiments run narowing",
        "python -m experiments run all --present x",
        "python -m paper_figures narrow",
        "python -m paper_figures narrowing --sets x",
        "python -m experimentals list",
    ],
)
def test_a_planted_command_is_found(line):
    (command,) = commands(f"    {line}  # as if\n")
    assert len(impossible(command, {"figures"})) == 1


LINK = re.compile(r"\[((?:!\[[^\]]*\]\([^)]*\)|[^\[\]])*)\]\(([^)\s]*)\)")


def wordless_or_lost(page: Path) -> list[str]:
    """The links of a page in Markdown that show nothing, or lead to no file of the repository."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "`", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [
        target
        for words, target in LINK.findall(prose)
        if not words.strip()
        or not (re.match(r"[a-z]+:|#", target) or (page.parent / target.partition("#")[0]).exists())
    ]


def test_links_of_all_pages_have_words_and_lead_to_files_wherever_they_are_read():
    pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    assert len(pages) > 25
    found = {page.name: wordless_or_lost(page) for page in pages if "_build" not in page.parts}
    assert {name: links for name, links in found.items() if links} == {}


def test_a_link_without_words_or_file_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "[](page.md), [x](page.md#here), [a](gone.md), [![p](p.png)](no.md), [b](https://c.d), "
        "`[](x.md)`, `Rule`[](page.md)\n```text\n[](code)\n```\n"
    )
    assert wordless_or_lost(page) == ["page.md", "gone.md", "no.md", "page.md"]


def test_every_notebook_is_on_the_site():
    shown = {path.read_text().strip() for path in (DOCS / "notebooks").glob("*.notebook")}
    assert shown == {f"../notebooks/{path.name}" for path in (ROOT / "notebooks").glob("*.ipynb")}


def test_every_toctree_entry_is_a_page():
    entries = {}
    for page in [*DOCS.glob("*.md"), *(DOCS / "api").glob("*.md")]:
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.DOTALL):
            lines = [line for line in tree.splitlines() if line and not line.startswith(":")]
            targets = [re.sub(r".*<(.*)>", r"\1", line) for line in lines]
            entries |= {target: list(page.parent.glob(f"{target}.*")) for target in targets}
    assert len(entries) > 20
    assert [entry for entry, files in entries.items() if not files and "*" not in entry] == []


# -- the site itself -------------------------------------------------------------------------------

LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|embed)\b[^>]*?\bsrc=["'](?P<src>[^"']*)"""
    r"""|<link\b[^>]*?\bhref=["'](?P<href>[^"']*)"""
    r"""|url\(["']?(?P<url>(?:https?:)?//[^)]*)\)|@import\s+["'](?P<sheet>[^"']*)"""
)


def from_elsewhere(text: str) -> list[str]:
    """What a page or style sheet makes a browser fetch from another machine; links are not."""
    found = [match[match.lastgroup or 0] for match in LOADED.finditer(text)]
    return [address for address in found if re.match(r"(https?:)?//", address)]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ('<script defer src="https://cdn.example/mathjax.js"></script>', 1),
        ('<link rel="stylesheet" href="//fonts.example/a.css">', 1),
        ('<img alt="x" src="http://example.org/a.png">', 1),
        ("a { background: url(https://example.org/a.png) }", 1),
        ('@import "https://example.org/a.css";', 1),
        ('<a href="https://arxiv.org">link</a> <img src="_images/a.png">', 0),
    ],
)
def test_what_a_browser_would_fetch_is_found(text, count):
    assert len(from_elsewhere(text)) == count


def dead_links(site: Path) -> list[str]:
    """Links and pictures of all pages that lead to no file of the site, or to no place in it."""
    texts = {page: page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    places = {page: set(re.findall(r'\bid="([^"]+)"', text)) for page, text in texts.items()}
    dead = []
    for page, text in texts.items():
        for link in set(re.findall(r'<[^>]*\b(?:href|src)="([^"]*)"', text)):
            if re.match(r"[a-z]+:|//", link):
                continue
            path, _, place = unquote(link).partition("#")
            target = (page.parent / path.partition("?")[0]).resolve() if path else page.resolve()
            # "#" alone is the top of a page.
            known = places.get(target, set()) if place else set()
            if not target.exists() or (place and target.suffix == ".html" and place not in known):
                dead.append(f"{page.relative_to(site)}: {link}")
    return sorted(dead)


def test_a_dead_link_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">b</a> <a id="there" href="#there">a</a>'
    )
    (tmp_path / "b.html").write_text('<p id="here"><img src="no.png"><a href="a.html#here">a</a>')
    assert dead_links(tmp_path) == ["b.html: a.html#here", "b.html: no.png"]


def doors_of(package: str) -> Iterator[str]:
    """A package and all packages in it."""
    yield package
    for each in iter_modules(import_module(package).__path__, f"{package}."):
        if each.ispkg:
            yield from doors_of(each.name)


def missing(door: str, documented: set[str]) -> list[str]:
    """What a door offers and no page shows, under its own name or that of a door further out.

    Aliases of types and constants have no docstring to be shown.
    """
    found = []
    for name in import_module(door).__all__:
        value = getattr(import_module(door), name)
        rooms = door.split(".")
        outer = [".".join([*rooms[:end], name]) for end in range(1, len(rooms) + 1)]
        if isinstance(value, ModuleType):
            outer.append(value.__name__)
        described = isinstance(value, type | FunctionType | ModuleType)
        if described and not documented.intersection(outer):
            found.append(f"{door}.{name}")
    return found


# Objects that are formulas: their first line is the formula itself.
FORMULAS = ("linlocal.losses", "linlocal.networks.activations", "local_losses")


def says_what_for(line: str) -> bool:
    """Whether a docstring begins with a word and not in the middle of a formula."""
    return re.match(r"([A-Z][A-Za-z-]*|`+[\w.]+`+)[ ,:.]", line) is not None


def test_the_first_line_of_what_a_door_offers_says_what_it_is_for():
    offered = [
        getattr(import_module(door), name)
        for door in doors_of("linlocal")
        for name in import_module(door).__all__
    ]
    described = [
        each
        for each in offered
        if isinstance(each, type | FunctionType)
        and not any(part in each.__module__ for part in (*FORMULAS, "projection.problem"))
    ]
    assert len(described) > 150
    assert [each for each in described if not says_what_for((each.__doc__ or "").strip())] == []


@pytest.mark.parametrize(
    "line", ["exp(-m).", "z_l = W_l z_{l-1}.", "-dLoss/dW of x.", "J^T e: errors.", "rate dW."]
)
def test_a_formula_says_not_what_for(line):
    assert not says_what_for(line)


def test_what_no_page_shows_is_found():
    shown = {"linlocal.Pairs", *(f"linlocal.pairs.{n}" for n in ("Contrasts", "Groups", "Table"))}
    assert missing("linlocal.pairs", shown) == ["linlocal.pairs.Direction"]
    assert missing("linlocal.pairs", {*shown, "linlocal.Direction"}) == []


@pytest.mark.timeout(900)
def test_the_site_is_built_without_a_warning_and_whole(tmp_path):
    site = tmp_path / "html"
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-q", DOCS, site],
        # A request to anywhere fails.
        env={**os.environ, "HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr

    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    documented = {name for entries in inventory.data.values() for name in entries}
    doors = list(doors_of("linlocal"))
    assert {"linlocal", "linlocal.rhm", "linlocal.analysis.results"} <= set(doors)
    assert [name for door in doors for name in missing(door, documented)] == []

    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    sheets = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    assert {
        path.name: from_elsewhere(text)
        for path, text in {**pages, **sheets}.items()
        if from_elsewhere(text)
    } == {}
    assert dead_links(site.resolve()) == []

    # Numbers of arXiv are links, in docstrings as well.
    linked = {page: text.count("https://arxiv.org/abs/") for page, text in pages.items()}
    assert min(linked[site / f"{name}.html"] for name in ("theory", "claims", "departures")) > 5
    assert sum(count for page, count in linked.items() if page.parent.name == "api") > 5
    assert (site / "report.html").exists() == (ROOT / "figures" / "report.html").exists()

    theory = (DOCS / "theory.md").read_text(encoding="utf-8")
    formulas = len(re.findall(r"\$\$.+?\$\$|\$.+?\$", theory))
    assert pages[site / "theory.html"].count("<math ") == formulas > 0
    for name in ("01_conditions", "03_explore", "04_hierarchy", "05_your_own_network"):
        assert "_images/" in pages[site / "notebooks" / f"{name}.html"]
    assert not [path for path, text in pages.items() if "HBox(children" in text]


PACKAGES = ("linlocal", "linlocal.analysis", "experiments", "paper_figures")
PLACES = [
    *PACKAGES,
    *(
        f"{package}.{room.name}"
        for package in PACKAGES
        for room in iter_modules(import_module(package).__path__)
    ),
]


def dangling(text: str) -> list[str]:
    """The dotted names in back quotes that begin with a package or room, and name nothing in it."""
    names = re.findall(r"(?<!`)`((?:\w+\.)+\w+)`", text)
    return [name for name in names if not name.endswith((".py", ".json")) and not leads(name)]


def leads(name: str) -> bool:
    first, *rest = name.split(".")
    places = [place for place in PLACES if place.split(".")[-1] == first]
    return not places or any(has(import_module(place), rest) for place in places)


def has(thing: Any, names: list[str]) -> bool:
    for name in names:
        with suppress(ImportError, AttributeError):
            import_module(f"{thing.__name__}.{name}")
        if not hasattr(thing, name):
            return False
        thing = getattr(thing, name)
    return True


def test_every_name_in_back_quotes_exists():
    import_torchvision()  # which Lightning imports, also where its compiled part does not fit torch
    sources = [path for name in PACKAGES for path in (ROOT / name.replace(".", "/")).rglob("*.py")]
    pages = [path for folder in (ROOT, DOCS, DOCS / "how-to") for path in folder.glob("*.md")]
    found = {path: dangling(path.read_text(encoding="utf-8")) for path in sources + pages}
    assert len(found) > 200
    assert {path: names for path, names in found.items() if names} == {}


def test_a_name_that_leads_nowhere_is_found():
    text = "`linlocal.nowhere`, `alignment.Meter`, `alignment.meter.Meter`, `np.linalg`, `rules.py`"
    assert dangling(text) == ["linlocal.nowhere", "alignment.Meter"]


def named_tests(text: str) -> Iterator[tuple[str, str]]:
    """(file, function) of every test in back quotes; a file holds on within its line."""
    for line in text.splitlines():
        file = ""
        for named, function in re.findall(r"`([\w/]*(?:\.py)?)::(\w+)`", line):
            file = named or file
            yield file, function


def test_every_test_that_a_page_names_exists():
    named = [pair for page in DOCS.glob("*.md") for pair in named_tests(page.read_text("utf-8"))]
    assert len(named) > 40
    for file, function in named:
        assert f"def {function}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), function


def test_a_named_test_is_found_in_the_file_before_it():
    assert [*named_tests("| a | `x/test_a.py::test_b`, `::test_c` |")] == [
        ("x/test_a.py", "test_b"),
        ("x/test_a.py", "test_c"),
    ]
