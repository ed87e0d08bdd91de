"""The committed page is what the command writes."""

import subprocess
import sys
from pathlib import Path

from linlocal.symbolic.document import theory

ROOT = Path(__file__).resolve().parents[3]


def test_the_committed_page_is_up_to_date():
    committed = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    assert committed == theory(), "Run `python -m linlocal.symbolic` and commit docs/theory.md."
    assert "NOT proved" not in committed


def test_the_command_writes_it(tmp_path):
    file = tmp_path / "new" / "theory.md"
    command = [sys.executable, "-m", "linlocal.symbolic", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert file.read_text(encoding="utf-8") == theory()
