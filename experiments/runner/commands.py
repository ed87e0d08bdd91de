"""Lines for the shell that users are told to type."""

from __future__ import annotations

import shlex
import shutil
import sys


def line(*words: object) -> str:
    """``python -m experiments`` with these words, in the interpreter that runs now."""
    # Inside a virtual environment that is not activated, plain "python" is another one.
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    return shlex.join([python, "-m", "experiments", *map(str, words)])
