"""Doors of packages: what others may import, loaded when first used, and which extra it needs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import lazy_loader

Door = tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]

# Which extra of `pip install 'linlocal[EXTRA]'` brings a module.
EXTRAS = {
    "torch": "torch",
    "tqdm": "torch",
    "sklearn": "torch",
    "matplotlib": "plots",
    "hypothesis": "testing",
    "lightning_fabric": "train",
    "kornia": "train",
    "torchvision": "vision",
    "timm": "vision",
    "distributed": "sweep",
    "ipywidgets": "notebooks",
}


def lazily(package: str, file: str) -> Door:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a package whose names its stub lists.

    The names stand once, in the ``__init__.pyi`` beside ``file``, where type checkers and editors
    read them too. A name is imported when it is first used.

    Args:
        package: its ``__name__``.
        file: its ``__file__``.

    Raises:
        ImportError: on use of a name, when a library is missing; the message names the extra.
    """
    load, names, everything = lazy_loader.attach_stub(package, file)

    def attribute(name: str) -> Any:
        try:
            return load(name)
        except ModuleNotFoundError as error:
            raise explained(error, f"{package}.{name}") from error

    return attribute, names, everything


def needs(module: str, who: str) -> None:
    """Import a library that only some parts of the package use.

    Args:
        module: the library.
        who: needs it, for the message.

    Raises:
        ImportError: it is missing; the message names the extra that brings it.
    """
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise explained(error, who) from error


def explained(error: ModuleNotFoundError, who: str) -> ImportError:
    """The same error with the extra that brings the missing module, if one does."""
    missing = (error.name or "").split(".")[0]
    if missing not in EXTRAS:
        return error
    return ImportError(
        f"{who} needs {missing}, which is not installed: "
        f"pip install 'linlocal[{EXTRAS[missing]}]'.",
        name=missing,
    )
