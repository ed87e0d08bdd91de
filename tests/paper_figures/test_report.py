"""Laws of the report: it stands alone, traces every number, drops nothing, and repeats nothing."""

import base64
import hashlib
import importlib.util
import json
import re
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from linlocal.analysis import results
from linlocal.analysis.results import Address, Provenance
from paper_figures import claims, registry
from paper_figures.__main__ import app
from paper_figures.claims import Claim
from paper_figures.look import style
from paper_figures.report import contents as report, page as report_page, sources as drawing

FIGURE = '''"""A toy <of> a figure."""

from matplotlib.figure import Figure

from paper_figures.claims import Claim
from paper_figures.look import style
from paper_figures.look import style

INPUTS = ("toy",)
PAPER = ""
drawn = []


def draw(datasets):
    drawn.append(1)
    with style.house():
        figure = Figure()
        figure.subplots().plot(datasets["toy"]["x"], color="k")
    return figure


def claims(datasets):
    mean = float(datasets["toy"]["x"].mean())
    return [
        Claim("a < b & <script>", True, f"{mean:.3f} | exact", "1 <b>"),
        Claim("it is large", mean > 2, f"{mean:.3f}"),
        Claim("who knows", None, "nothing"),
        Claim("who knows more", None, "nothing"),
    ]
'''


def load(name, file, monkeypatch):
    """A module from a file, as if it were one of the figures until the end of the test."""
    spec = importlib.util.spec_from_file_location(registry.module_of(name), file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A figure in a file of its own, its result in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("toy.py").write_text(FIGURE)
    monkeypatch.setattr(registry, "NAMES", ("toy",))
    store()
    return load("toy", tmp_path / "toy.py", monkeypatch)


def store(experiment="toy", value=0.5, preset="cpu"):
    dataset = xr.Dataset({"x": ("n", [value, 1.5])}, attrs={"date": "2026-11-21T12:00:00+00:00"})
    path = Address(experiment, preset, 0, Path("results")).path
    config = {"width": 128, "rates": [0.1, 0.01], "data": "embedded"}
    stored = Provenance.collect(experiment, preset, 0, config)
    return results.write(dataset, path, stored)


def cli(line):
    return CliRunner().invoke(app, shlex.split(line))


def draw_report(code=0):
    done = cli("report")
    assert done.exit_code == code, done.output
    return tuple(Path(f"figures/report.{suffix}").read_text() for suffix in ("html", "md"))


def digests(folder="figures"):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(folder).iterdir()}


class Page(HTMLParser):
    """The tags, the addresses they point to and the text of a page; every tag must be closed."""

    VOID = ("meta", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.links, self.ids, self.words = [], [], [], [], []
        self.open = []
        self.feed(text)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        attrs = dict(attrs)
        self.sources += [attrs[key] for key in ("src", "data", "srcset") if key in attrs]
        self.links += [attrs["href"]] if "href" in attrs else []
        self.ids += [attrs["id"]] if "id" in attrs else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def test_the_page_stands_alone(toy):
    html, _ = draw_report()
    page = Page(html)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    (picture,) = page.sources
    head, _, data = picture.partition(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(data) == Path("figures/toy.svg").read_bytes()
    assert "#toy" in page.links
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)
    assert "url(" not in html
    assert "@import" not in html


def test_claims_are_shown_as_they_are_written(toy):
    html, markdown = draw_report()
    words = "a < b & <script> ✓ reproduced 1.000 | exact 1 <b>"
    assert words in Page(html).text
    # In Markdown, what a browser would take for a tag stands as text.
    assert r"| a < b & &lt;script> | reproduced | 1.000 \| exact |  | 1 &lt;b> |" in markdown
    assert "A toy <of> a figure." in Page(html).text


def test_the_verdicts_are_counted(toy):
    html, markdown = draw_report()
    assert "| [toy](#toy) | 1 | 0 | 0 | 0 | 1 | 2 |" in markdown
    assert "| all | 1 | 0 | 0 | 0 | 1 | 2 |" in markdown
    assert "toy A toy <of> a figure. 1 0 0 0 1 2 all 1 0 0 0 1 2" in Page(html).text


def test_every_number_is_traced_to_a_file_and_a_command(toy):
    html, markdown = draw_report()
    path = Path("results/toy-cpu-seed0.nc")
    stored = Provenance.of(results.read(path))
    for text in (Page(html).text, markdown):
        for fact in (
            path.as_posix(),
            hashlib.sha256(path.read_bytes()).hexdigest()[:12],
            "preset cpu, seed 0",
            "data embedded, rates [0.1, 0.01], width 128",
            "2026-11-21T12:00:00+00:00",
            f"numpy {np.__version__}",
            json.loads(stored.hardware)["processor"],
            stored.commit[:12],
            stored.code,
            "python -m experiments run toy --preset cpu --seed 0 --out results",
        ):
            assert fact in text
    before = digests()
    (command,) = (line for line in markdown.splitlines() if "-m paper_figures toy" in line)
    assert command.strip() in Page(html).text
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "paper_figures"]
    assert cli(shlex.join([*words[3:], "--force"])).exit_code == 0
    assert len(toy.drawn) == 2
    assert digests() == before


def test_results_of_a_larger_run_are_pointed_to(toy):
    assert not any(report_page.LARGER in text for text in draw_report())
    store(preset="smoke")
    assert not any(report_page.LARGER in text for text in draw_report())
    store(value=0.75, preset="paper")
    html, markdown = draw_report()
    after = markdown.partition(report_page.LARGER)[2]
    (command,) = after.split("\n\n")[1:2]
    assert f"{report_page.LARGER} {command.strip()}" in Page(html).text
    assert cli(shlex.join(shlex.split(command)[3:])).exit_code == 0
    drawn = json.loads(Path("figures/paper/claims.json").read_text())["toy"]
    assert drawn["inputs"][0]["preset"] == "paper"
    assert draw_report() == (html, markdown)


def test_what_was_not_recorded_is_said(toy):
    path = Path("results/toy-cpu-seed0.nc")
    dataset = results.read(path)
    stored = Provenance.of(dataset)
    results.write(xr.Dataset({"x": dataset["x"]}), path, stored)
    assert "date not recorded" in draw_report()[1]


def test_a_missing_figure_is_listed_with_the_commands_that_make_it(toy, monkeypatch, tmp_path):
    Path("lacking.py").write_text(FIGURE.replace('("toy",)', '("toy", "absent")'))
    load("lacking", tmp_path / "lacking.py", monkeypatch)
    monkeypatch.setattr(registry, "NAMES", ("lacking", "toy"))
    html, markdown = draw_report(code=2)
    assert "| [lacking](#lacking) | missing |  |  |" in markdown
    assert "| [toy](#toy) | 1 | 0 | 0 | 0 | 1 | 2 |" in markdown
    made_by = "python -m experiments run absent --preset cpu --seed 0 --out results"
    assert made_by in markdown.partition("### lacking")[2].partition("### toy")[0]
    assert made_by in Page(html).text
    assert Page(html).text.count("– missing") == 1
    # It can be drawn once, and then its result is lost: the old picture does not stand for it.
    store("absent")
    assert "missing |" not in draw_report()[1]
    Path("results/absent-cpu-seed0.nc").unlink()
    html, markdown = draw_report(code=2)
    assert "| [lacking](#lacking) | missing |  |  |" in markdown
    assert len(Page(html).sources) == 1


def test_drawing_twice_gives_the_same_bytes(toy):
    draw_report()
    first = digests()
    assert set(first) == {
        "toy.png",
        "toy.svg",
        "claims.json",
        "claims.md",
        "report.html",
        "report.md",
    }
    cli("report --force")
    assert len(toy.drawn) == 2
    assert digests() == first


def test_a_figure_is_drawn_again_only_if_something_changed_by_content(toy, tmp_path):
    def drawings():
        before = len(toy.drawn)
        output = cli("all").output
        after = len(toy.drawn)
        assert (after == before) == ("toy: up to date" in output)
        return after - before

    assert drawings() == 1
    assert drawings() == 0
    result = Path("results/toy-cpu-seed0.nc")
    result.write_bytes(result.read_bytes())
    assert drawings() == 0
    store(value=0.25)
    assert drawings() == 1
    Path("toy.py").write_text(FIGURE + "# edited\n")
    assert drawings() == 0
    Path("toy.py").write_text(FIGURE.replace('"k"', '"r"'))
    assert drawings() == 1
    Path("figures/toy.png").write_bytes(b"spoiled")
    assert drawings() == 1
    Path("figures/toy.svg").unlink()
    assert drawings() == 1
    claims.record("toy", [], "preset cpu, seed 0", Path("figures"))  # from no known source
    assert drawings() == 1
    Path("results").rename("elsewhere")
    assert "is missing" in cli("all").output
    cli("all --results elsewhere")
    assert "elsewhere/toy-cpu-seed0.nc" in Path("figures/claims.json").read_text()


def test_the_fingerprint_follows_code_results_and_no_comment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    room = Path("toy_room")
    room.mkdir()
    shared, figure = room / "shared.py", room / "figure.py"
    for file, text in (
        (room / "__init__.py", ""),
        (shared, "COLOR = 'k'\n"),
        (figure, "from toy_room.shared import COLOR\n"),
    ):
        file.write_text(text)
    store()

    def now():
        return drawing.fingerprint("toy_room.figure", [Address("toy", "cpu", 0, Path("results"))])

    first = now()
    assert first is not None
    shared.write_text("# A comment.\nCOLOR = 'k'\n")
    assert now() == first
    shared.write_text("COLOR = 'red'\n")
    edited = now()
    assert edited != first
    figure.write_text("COLOR = 'red'\n")  # what stands here no longer stands there
    assert now() == edited
    store(value=0.25)
    assert now() != edited
    assert drawing.fingerprint("toy_room.absent", []) is None


def test_many_writers_of_claims_lose_nothing(tmp_path):
    claim = Claim("it holds", True, "1")

    def write(number):
        claims.record(f"figure {number}", [claim], "preset cpu", tmp_path)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(60)))
    assert set(claims.entries(tmp_path)) == {f"figure {number}" for number in range(60)}
    assert {path.name for path in tmp_path.iterdir()} == {"claims.json", "claims.md"}


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "[" * 10**5, "\x00"])
def test_damaged_claims_are_none_and_said_to_be_damaged(tmp_path, text):
    assert claims.complaint(tmp_path) is None  # there are none yet
    (tmp_path / "claims.json").write_text(text)
    assert claims.entries(tmp_path) == {}
    assert "claims.json is damaged: none of its figures" in claims.complaint(tmp_path)


def edited(known, name):
    """Entries as somebody may leave them who wants other verdicts, or does not know better."""
    entry, other = known["toy"], known["other"]
    first, second, *rest = entry["claims"]
    entry |= {
        "a verdict": {"claims": [first, second | {"verdict": "holds"}, *rest]},
        "a number": {"claims": [first, second | {"measured": "3.000"}, *rest]},
        "a dropped claim": {"claims": [first, *rest]},
        "other columns": {"claims": [dict(reversed(first.items())), second, *rest]},
        "another run": {"run": "preset paper, seed 0"},
        "another picture": {"pictures": {"other.svg": "0"}},
        "no checksum": {"checksum": None},
        "that of another": {"checksum": other["checksum"]},
        "one more field": {"note": "fine"},
    }.get(name, {})
    if name == "another's claims":
        known["toy"] = other
    elif name == "no object":
        known["toy"] = [1]
    elif name == "an older version":
        del entry["checksum"]
    return known


@pytest.mark.parametrize(
    "name",
    [
        *("a verdict", "a number", "a dropped claim", "other columns", "another run"),
        *("another picture", "no checksum", "that of another", "one more field"),
        *("another's claims", "no object", "an older version"),
    ],
)
def test_edited_claims_reach_no_report(toy, name):
    claims.record("other", [Claim("b", True, "1")], "preset cpu, seed 0", Path("figures"))
    honest = draw_report()
    file = Path("figures/claims.json")
    before = json.loads(file.read_text())
    file.write_text(json.dumps(edited(json.loads(file.read_text()), name)))
    assert claims.entries(Path("figures")) == {"other": before["other"]}
    said = (
        f"{file}: not as it was written (edited by hand, or by an older version of linlocal): toy."
    )
    assert said in claims.complaint(Path("figures"))
    # Where the results lie, the figure is drawn again; where they do not, it is missing.
    done = cli("report")
    assert f"warning: {said}" in done.output
    assert len(toy.drawn) == 2
    assert json.loads(file.read_text()) == before
    assert claims.complaint(Path("figures")) is None
    assert draw_report() == honest


def test_layout_and_order_of_the_file_are_no_edits(toy):
    draw_report()
    file = Path("figures/claims.json")
    claims.record("other", [Claim("ü", None, "1")], "preset cpu, seed 0", Path("figures"))
    known = json.loads(file.read_text())
    file.write_text(json.dumps(dict(reversed(known.items()))))
    assert claims.entries(Path("figures")) == known
    assert claims.complaint(Path("figures")) is None


def luminance(color):
    parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_is_legible_in_both_schemes(scheme):
    blocks = re.findall(r":root \{(.*?)\}", report_page._STYLE, re.DOTALL)
    assert len(blocks) == 2
    colors = dict(re.findall(r"--(\w+): (#\w{6})", blocks[scheme]))
    backgrounds = [luminance(colors[name]) for name in ("page", "panel")]
    # The contrast that WCAG 2.1 asks of text.
    for name in ("text", "quiet", "link", "good", "bad", "open"):
        for background in backgrounds:
            bright, dim = sorted((luminance(colors[name]), background), reverse=True)
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, name


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.012, "0.012 s"), (6.483, "6.48 s"), (527.96, "8 min 47 s"), (5028.9, "1 h 23 min")],
)
def test_a_duration_in_words(seconds, words):
    assert report._duration(seconds) == words


@pytest.mark.parametrize("name", registry.NAMES)
def test_every_figure_says_which_paper_it_is_about(name):
    assert registry.load(name).PAPER in report.PAPERS


HOSTILE = (
    "<script>alert(1)</script>\n\n<img src=x onerror=alert(1)> [here](javascript:alert(1)) | x"
)


def foreign(change=lambda dataset: dataset, value=0.5, **fields):
    """The toy's result with other contents, its checksum right."""
    path = store(value=value)
    dataset = results.read(path)
    stored = replace(Provenance.of(dataset), **fields)
    return results.write(change(dataset.drop_attrs()).assign_attrs(date=HOSTILE), path, stored)


def test_no_text_of_a_result_is_html_or_a_link_in_markdown(toy, monkeypatch):
    words = json.dumps({"processor": HOSTILE, "machine": HOSTILE, HOSTILE: HOSTILE})
    foreign(commit=HOSTILE, code=HOSTILE, hardware=words, packages=words, config=words)
    monkeypatch.setattr(toy, "claims", lambda datasets: [Claim("x", True, HOSTILE, HOSTILE)])
    html, markdown = draw_report()
    assert not {"script", "link", "iframe", "object"} & set(Page(html).tags)
    for text in (markdown, Path("figures/claims.md").read_text()):
        assert "&lt;script>" in text
        assert not re.search(r"<[a-zA-Z/!?]|\]\(javascript", text)
        # Nor does any begin a line of its own.
        assert not any(line.startswith("&lt;img") for line in text.splitlines())


FOREIGN = {
    "a missing variable": {"change": lambda dataset: dataset.drop_vars("x")},
    "text for numbers": {"change": lambda dataset: dataset.assign(x=("n", ["a", "b"]))},
    "another shape": {"change": lambda dataset: dataset.assign(x=("n", []))},
    "a formula that is none": {"change": lambda dataset: dataset.assign(title="$\\frac{$")},
    "no hardware": {"hardware": "{}", "value": 0.25},
    "a formula in a parameter": {"config": json.dumps({"$\\frac{": "$\\frac{$"})},
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_result_keeps_no_other_figure_from_the_report(toy, monkeypatch, tmp_path, case):
    Path("sound.py").write_text(
        FIGURE.replace('("toy",)', '("sound",)').replace('"toy"', '"sound"')
    )
    load("sound", tmp_path / "sound.py", monkeypatch)
    monkeypatch.setattr(registry, "NAMES", ("toy", "sound"))
    plain = toy.draw

    def titled(datasets):
        figure = plain(datasets)
        figure.axes[0].set_title(str(datasets["toy"].get("title", xr.DataArray("A toy")).values))
        style.footer(figure, datasets["toy"])
        datasets["toy"]["x"].values.reshape(2).astype(float)
        return figure

    monkeypatch.setattr(toy, "draw", titled)
    store("sound")
    foreign(**FOREIGN[case])
    done = cli("report")
    html, markdown = (Path(f"figures/report.{suffix}").read_text() for suffix in ("html", "md"))
    assert Path("figures/sound.svg").exists()
    if {"hardware", "config"} & FOREIGN[case].keys():
        assert done.exit_code == 0, done.output
        return
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    (said,) = [line for line in done.output.splitlines() if line.startswith("error: toy: ")]
    assert "cannot be drawn from results/toy-cpu-seed0.nc" in said
    assert "run toy --preset cpu" in done.output
    for text in (Page(html).text, markdown):
        assert "cannot be drawn from results/toy-cpu-seed0.nc" in text
    # Neither a picture nor a claim that only half of it gave.
    assert not list(Path("figures").glob("toy.*"))
    assert set(claims.entries(Path("figures"))) == {"sound"}


@pytest.mark.parametrize("field", ["experiment", "preset", "seed"])
def test_a_result_of_another_run_is_not_drawn(toy, field):
    other = {"experiment": "another", "preset": "smoke", "seed": 3}[field]
    foreign(**{field: other})
    done = cli("toy")
    assert done.exit_code == 2
    assert "it was renamed" in done.output


def test_an_edited_verdict_is_decided_again(toy):
    draw_report()
    path = Path("figures/claims.json")
    path.write_text(path.read_text().replace('"fails"', '"holds"'))
    assert claims.entries(Path("figures")) == {}
    cli("toy")
    found = [each["verdict"] for each in claims.entries(Path("figures"))["toy"]["claims"]]
    assert found == ["reproduced", "fails", "undecided", "undecided"]


def test_of_results_from_several_data_one_is_chosen_by_name(toy):
    plain = results.read(Path("results/toy-cpu-seed0.nc"))
    Path("results/toy-cpu-seed0.nc").unlink()
    for value, label in ((3.0, "mnist-1"), (4.0, "mnist-2")):
        path = Address("toy", "cpu", 0, Path("results"), label).path
        results.write(plain.assign(x=("n", [value])), path, Provenance.of(plain))
        if label == "mnist-1":  # the only one there is
            assert cli("toy").exit_code == 0
            assert claims.entries(Path("figures"))["toy"]["inputs"][0]["file"].endswith(
                "mnist-1.nc"
            )
    several = cli("toy")
    assert several.exit_code == 2
    assert "several data, mnist-1, mnist-2: choose one by --data" in several.output
    done = cli("report --data mnist-2")
    assert done.exit_code == 0, done.output
    (entry,) = claims.entries(Path("figures"))["toy"]["inputs"]
    assert entry["file"].endswith("mnist-2.nc")
    assert "--data FOLDER" in entry["command"]
    assert "--data mnist-2" in Path("figures/report.md").read_text()
