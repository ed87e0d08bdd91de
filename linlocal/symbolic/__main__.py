"""``python -m linlocal.symbolic [FILE]`` writes the page of theorems into a file, or shows it."""

from __future__ import annotations

import argparse
from pathlib import Path

from linlocal.symbolic.document import theory


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="python -m linlocal.symbolic", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="docs/theory.md in a checkout")
    file: Path | None = parser.parse_args().file
    page = theory()
    if file is None:
        print(page, end="")
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        parser.error(f"{file} cannot be written ({error.strerror}).")
    print(f"wrote {file}")


if __name__ == "__main__":
    main()
