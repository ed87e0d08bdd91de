"""Every example runs, in small, and its page names it."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from experiments.networks import import_torchvision

FOLDER = Path(__file__).parent.parent / "examples"
# Advice in classes of libraries: with several workers pytest would import these elsewhere.
pytestmark = pytest.mark.filterwarnings("ignore")
EXAMPLES = sorted(FOLDER.glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_in_small(path, tmp_path, monkeypatch, capsys):
    import_torchvision()  # also where its compiled part does not fit torch
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name, "--smoke"])
    runpy.run_path(str(path), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search("^(layer|block)", printed, re.MULTILINE), printed
    assert "nan" not in printed


def test_the_page_of_the_examples_names_all():
    text = (FOLDER / "README.md").read_text()
    assert [path.name for path in EXAMPLES if f"`{path.name}`" not in text] == []
    assert len(EXAMPLES) == text.count(".py`")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_needs_nothing_of_the_checkout(path):
    assert "experiments" not in path.read_text()
