"""``python -m linlocal.symbolic [FILE]`` writes the page of theorems, docs/theory.md by default."""

from __future__ import annotations

import argparse
from pathlib import Path

from linlocal.symbolic.document import theory


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m linlocal.symbolic", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=Path("docs/theory.md"))
    file: Path = parser.parse_args().file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(theory(), encoding="utf-8")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
