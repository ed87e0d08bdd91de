"""Doors of packages: what others may import, loaded when first used, and which extra it needs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lazy_loader

Door = tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]

# Which extra of `pip install 'linlocal[EXTRA]'` brings a library; None: linlocal itself does.
EXTRAS = {
    "sympy": None,
    "torch": "torch",
    "tqdm": "torch",
    "matplotlib": "plots",
    "hypothesis": "testing",
    "lightning_fabric": "train",
    "lightning": "lightning",
    "torchvision": "vision",
    "timm": "vision",
    "distributed": "sweep",
    "ipywidgets": "notebooks",
    "kornia": "experiments",
    "sklearn": "experiments",
    "PIL": "experiments",
    "typer": "experiments",
}


def lazily(package: str, file: str) -> Door:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names its stub lists.

    The names stand once, in the ``__init__.pyi`` beside ``file``, where type checkers and editors
    read them too. A name is imported when it is first used.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.

    Raises:
        ModuleNotFoundError: on use of a name, when a library is missing; the message names the
            extra that brings it.
    """
    load, names, everything = lazy_loader.attach_stub(package, file)

    def attribute(name: str) -> Any:
        if name not in everything:
            # With name and obj, Python adds what else could have been meant.
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}",
                name=name,
                obj=sys.modules.get(package),
            )
        with missing_explained(f"{package}.{name}"):
            return load(name)

    return attribute, names, everything


@contextmanager
def missing_explained(who: str) -> Iterator[None]:
    """Report a library that is missing inside with the command that installs it.

    Args:
        who: what needs the library, for the message. Of several nested ones the outermost is
            named, because that is what the user wrote.

    Raises:
        ModuleNotFoundError: a library of `EXTRAS` is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        # A library that is installed but lacks a part has been imported; no extra helps.
        if missing not in EXTRAS or sys.modules.get(missing) is not None:
            raise
        extra = EXTRAS[missing]
        target = "linlocal" if extra is None else f"'linlocal[{extra}]'"
        raise ModuleNotFoundError(
            f"{who} needs {missing}, which is not installed: pip install {target}", name=missing
        ) from (error.__cause__ or error)
