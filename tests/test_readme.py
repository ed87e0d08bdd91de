"""The README runs as it stands, and its outputs and tables come from commands."""

import re
from pathlib import Path
from traceback import extract_tb

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import linlocal as ll
from linlocal import rules
from paper_figures import claims
from paper_figures.report import gallery, printed, readme

README = Path(__file__).parent.parent / "README.md"
RULES, BENCHMARKS = (README.parent / "docs" / name for name in ("how-to/rules.md", "benchmarks.md"))
RENEW = "Run `python -m paper_figures.report.printed README.md` and look at what changed."


def test_python_blocks_of_the_readme_run_in_order_and_print_what_stands_below_them() -> None:
    examples = [*printed.run(README.read_text(encoding="utf-8"), README.name)]
    assert sum(example.shown is not None for example in examples) >= 3
    assert [example for example in examples if not example.current] == [], RENEW


@pytest.mark.parametrize(
    ("shown", "now", "agree"),
    [
        ("cosine 0.3318, error 3.1e-14\n", "cosine  0.3319, error 2.2e-16", True),
        ("cosine 0.33", "cosine 0.35", False),
        ("cosine 0.33", "cosine -0.33", False),
        ("layer 1", "layer 2", False),
        ("error 1e-12", "error 1e-03", False),
        ("holds 0.5", "fails 0.5", False),
        ("0.5 0.5", "0.5", False),
    ],
)
def test_outputs_agree_but_for_rounding(shown: str, now: str, agree: bool) -> None:
    assert printed.same(shown, now) is agree


def test_outputs_are_written_below_their_code_where_something_stands(tmp_path: Path) -> None:
    block = "```python\n{}\n```\n\n"
    page = tmp_path / "page.md"
    first, second = block.format("x = 0.1234\nprint(x)"), block.format("print(2 * x)")
    stale, current = "```text\nstale\n```\n", "```text\n0.123\n```\n"
    text = f"{first}Text.\n\n{second}{stale}{block.format('print(x)')}{current}"
    page.write_text(text)
    done = CliRunner().invoke(printed.app, [str(page)])
    assert done.exit_code == 0, done.output
    assert page.read_text() == text.replace("stale", "0.2468")
    done = CliRunner().invoke(printed.app, [str(page)])
    assert done.output == f"up to date: {page}\n"


def test_code_of_a_page_that_fails_names_its_block() -> None:
    with pytest.raises(ZeroDivisionError) as failed:
        [*printed.run("```python\nx = 0\n```\n```python\n1 / x\n```", "page.md")]
    assert extract_tb(failed.tb)[-1].filename == "page.md, block 2"


def table_of_rules() -> dict[str, list[str]]:
    """The cells behind the name of each rule."""
    lines = [line.strip("| ").split(" | ") for line in readme.rules(RULES).splitlines()[2:]]
    return {name.strip("`"): cells for name, *cells in lines}


def test_every_rule_has_a_row_that_links_the_paper_it_comes_from() -> None:
    rows = table_of_rules()
    assert sorted(rows) == sorted(rules.NAMES)
    for name, (_, paper, _) in rows.items():
        source = rules.from_name(name).source
        assert bool(source) == ("](https://" in paper), name
        if "arXiv" in source:
            number = re.search(r"\d{4}\.\d{5}", source)
            assert number is not None
            assert f"](https://arxiv.org/abs/{number[0]})" in paper


@pytest.mark.parametrize("name", rules.NAMES)
def test_the_table_says_which_rules_are_exact_below_an_isometry(name: str) -> None:
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal((2, 8, 6))
    make = ll.Pairs.from_positive_negative if name == "ForwardForward" else ll.Pairs.from_views
    pairs = make(x, x + 0.5 * noise)
    net = ll.DeepLinear.orthogonal([6, 6, 6], seed=0)
    rows = table_of_rules()
    when = rows["CLAPP"][-1] if rows[name][-1] == "as `CLAPP`" else rows[name][-1]
    error = float(ll.compare(net, pairs, rules.from_name(name))["relative_error"].max())
    assert (error < 1e-9) == when.startswith("G = I"), error
    assert error < 1e-9 or error > 1e-3


def test_tables_are_replaced_between_their_markers_and_nowhere_else(tmp_path: Path) -> None:
    figures, docs = tmp_path / "figures", tmp_path / "docs"
    figures.mkdir()
    for picture in ("windows.png", readme.PICTURE):
        Image.new("RGBA", (2000, 1000), "white").save(figures / picture)
    claims.record("no_more", [claims.Claim("b", True, "1")], "preset cpu, seed 0", figures)
    claims.record("windows", [claims.Claim("a | b", None, "1")], "preset smoke, seed 0", figures)
    written = (figures / "claims.md").read_text()
    (figures / "claims.md").write_text("edited by hand")
    page = tmp_path / "README.md"
    names = (readme.VERIFIED, readme.MEASURED, readme.RULES)
    parts = ["{}\nstale\n{}".format(*readme.markers(name)) for name in names]
    page.write_text("\n".join(["before", *parts, "after\n"]))
    (docs / "how-to").mkdir(parents=True)
    (docs / "how-to" / "rules.md").write_text("# Rules\n\n| a rule |\n|---|\n\n| other |\n")
    rows = "".join(f"| {begin} | fast |\n" for begin in readme.SHOWN)
    (docs / "benchmarks.md").write_text(
        f"# All\n\n{readme.IN_SHORT}\n| what |\n|---|\n{rows}| rest |\n\n## At length\n\n| slow |\n"
    )
    app = typer.Typer()
    app.command()(readme.main)
    done = CliRunner().invoke(app, ["--figures", str(figures), "--readme", str(page)])
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale" not in text
    assert "| Our own | 1 | 0 | 0 | 0 | 0 | 0 | 1 |" in text
    assert "| all | 1 | 0 | 0 | 0 | 0 | 0 | 1 |" in text
    assert "Runs: preset smoke, seed 0." in text
    assert text.count("| fast |") == len(readme.SHOWN)
    assert "| a rule |" in text
    assert not [word for word in ("slow", "rest", "other") if f"| {word} |" in text]
    assert (docs / "claims.md").read_text() == written
    with Image.open(docs / readme.PICTURE) as full:
        assert full.size == (2000, 1000)
    with Image.open(docs / "gallery" / "windows.webp") as small:
        assert small.size == (gallery.WIDTH, gallery.WIDTH // 2)
    page = (docs / "gallery.md").read_text()
    assert "(claims.md#windows-preset-smoke-seed-0)" in page
    assert "\npython -m paper_figures windows --preset smoke\n" in page
    assert "no_more" not in page


def test_missing_figures_name_the_command(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(readme.main)
    done = CliRunner().invoke(app, ["--figures", str(tmp_path)])
    assert done.exit_code == 2
    assert "make figures" in done.output


def test_verdicts_that_were_edited_by_hand_do_not_reach_the_readme(tmp_path: Path) -> None:
    claims.record("toy", [claims.Claim("a", False, "1")], "preset smoke, seed 0", tmp_path)
    file = tmp_path / "claims.json"
    file.write_text(file.read_text().replace('"fails"', '"holds"'))
    app = typer.Typer()
    app.command()(readme.main)
    done = CliRunner().invoke(app, ["--figures", str(tmp_path)])
    assert done.exit_code == 2
    assert f"{file}: not as it was written" in done.output
    assert "make figures" in done.output


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="markers"):
        readme.replace_between("nothing here", readme.VERIFIED, "table")


def test_the_tables_of_the_readme_are_those_of_the_commands() -> None:
    text = README.read_text(encoding="utf-8")
    assert readme.replace_between(text, readme.MEASURED, readme.timings(BENCHMARKS)) == text
    assert readme.replace_between(text, readme.RULES, readme.rules(RULES)) == text


def test_what_the_first_screen_says_was_measured() -> None:
    screen = README.read_text(encoding="utf-8").partition("## Start")[0]
    assert "agree to 1e-12" in screen
    assert "hundreds of times" in screen
    (row,) = (row for row in readme.timings(BENCHMARKS).splitlines() if "both updates" in row)
    error, times = re.search(r"error (\S+)", row), re.search(r"\((\d+) times\)", row)
    assert error is not None
    assert times is not None
    assert float(error[1]) <= 1e-12
    assert 200 <= int(times[1]) < 1000


def test_every_citation_is_the_same() -> None:
    said = (README.parent / "CITATION.cff").read_text(encoding="utf-8")
    bibtex = re.search(r"```bibtex\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert bibtex is not None
    fields = dict(re.findall(r"(\w+)\s+= \{+(.*?)\}+,", bibtex[1]))
    assert f'title: "{fields["title"]}"\n' in said
    assert f"name: {fields['author']}\n" in said
    assert f"version: {fields['version']}\n" in said
    assert fields["version"] == ll.__version__
