"""The committed page is what the command writes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_the_command_writes_the_committed_page(tmp_path):
    file = tmp_path / "new" / "theory.md"
    command = [sys.executable, "-m", "linlocal.symbolic", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    committed = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    written = file.read_text(encoding="utf-8")
    assert committed == written, (
        "Run `python -m linlocal.symbolic docs/theory.md` and commit docs/theory.md."
    )
    assert "NOT proved" not in committed
