"""The committed page is what the command writes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from linlocal.symbolic import __main__ as command

ROOT = Path(__file__).resolve().parents[3]


def test_the_command_writes_the_committed_page(tmp_path):
    file = tmp_path / "new" / "theory.md"
    line = [sys.executable, "-m", "linlocal.symbolic", str(file)]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True)
    committed = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    written = file.read_text(encoding="utf-8")
    assert committed == written, (
        "Run `python -m linlocal.symbolic docs/theory.md` and commit docs/theory.md."
    )
    assert "NOT proved" not in committed


def test_without_a_file_the_page_is_shown_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["linlocal.symbolic"])
    monkeypatch.setattr(command, "theory", lambda: "the page\n")
    command.main()
    assert capsys.readouterr().out == "the page\n"
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_costs_one_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["linlocal.symbolic", str(tmp_path / "file" / "page.md")])
    monkeypatch.setattr(command, "theory", lambda: "the page\n")
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 2
    assert "page.md cannot be written (" in capsys.readouterr().err


def test_the_page_names_tests_and_figures_that_exist():
    page = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    named = set(re.findall(r"(test_\w+\.py)`", page))
    assert len(named) > 5
    assert named <= tests
    figures = set(re.findall(r"figure\s+`(\w+)`", page))
    assert figures
    assert all((ROOT / "paper_figures" / "figures" / f"{name}.py").exists() for name in figures)


def test_the_table_has_a_row_for_each_statement_of_the_page():
    page = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    headed = set(re.findall(r"^## (\d+)\.", page, re.MULTILINE)) | {"10", "11"}
    rows = set(re.findall(r"^\| (\d+) \|", page, re.MULTILINE))
    assert headed == rows >= {str(n) for n in range(1, 15)}
    assert "{" not in page.split("## Statement by statement")[1]
