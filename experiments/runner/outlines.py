"""Experiments as a list shows them, read without importing what they compute with.

An experiment imports torch and more, which takes seconds for a list that needs none of it. Only the
statements are executed without which the presets have no values. What they take from other modules
of ours is read in the same way, and what comes from other libraries is unknown.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from experiments.runner import registry
from experiments.runner.registry import Experiment

_SHOWN = ("PRESETS", "PUBLISHED")
_PACKAGE = "experiments"


class _Unknown:
    """What stands for a thing of another library, and for all that it could return."""

    def __call__(self, *_: Any, **__: Any) -> _Unknown:
        return self

    def __getattr__(self, name: str) -> _Unknown:
        if name.startswith("__"):
            raise AttributeError(name)
        return self


def outline(name: str) -> Experiment:
    """An experiment with its docstring, PRESETS and PUBLISHED only.

    Where these need something unknown, the experiment is imported.

    Args:
        name: name of the experiment.

    Raises:
        ResultError: unknown name.
    """
    module = registry.module_of(name)
    if name not in registry.NAMES or module in sys.modules:
        return registry.load(name)
    try:
        shown = _sliced(module, _SHOWN)
        json.dumps([shown.PUBLISHED, *map(asdict, shown.PRESETS.values())])
    except Exception:  # whatever it is, the import says it, or does better
        return registry.load(name)
    return cast(Experiment, shown)


def _sliced(module: str, names: Iterable[str]) -> Any:
    """A module in which only these names have values, and those that they need."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    statements, wanted = _needed(tree, names)
    shown = ModuleType(f"{module}:outline", ast.get_docstring(tree))
    for each in tree.body:
        if isinstance(each, ast.Import | ast.ImportFrom):
            for alias in each.names:
                called = alias.asname or alias.name.split(".")[0]
                if called in wanted and alias.name != "annotations":
                    setattr(shown, called, _imported(each, alias))
    # Where a dataclass looks for the module that defines it.
    sys.modules[shown.__name__] = shown
    try:
        future = ast.parse("from __future__ import annotations").body
        code = compile(ast.Module([*future, *statements], []), spec.origin, "exec")
        exec(code, shown.__dict__)
    finally:
        del sys.modules[shown.__name__]
    return shown


def _imported(statement: ast.Import | ast.ImportFrom, alias: ast.alias) -> Any:
    place = (statement.module or "") if isinstance(statement, ast.ImportFrom) else alias.name
    package = place.split(".")[0]
    if package in sys.stdlib_module_names:
        found = import_module(place)
        return getattr(found, alias.name) if isinstance(statement, ast.ImportFrom) else found
    home = _home(place, alias.name) if package == _PACKAGE else None
    return _Unknown() if home is None else getattr(_sliced(home, [alias.name]), alias.name)


def _home(place: str, name: str) -> str | None:
    """The module of ours that defines what is imported from a place; None for a module."""
    spec = find_spec(place)
    if spec is None or spec.origin is None:
        return None
    stub = Path(spec.origin).with_suffix(".pyi")
    if not stub.exists():
        return place
    for each in ast.parse(stub.read_text(encoding="utf-8")).body:
        named = isinstance(each, ast.ImportFrom) and each.module
        if named and name in {alias.name for alias in each.names}:
            return f"{place}.{each.module}"
    return None


def _needed(tree: ast.Module, names: Iterable[str]) -> tuple[list[ast.stmt], set[str]]:
    """The statements without which some names have no values, and all names that these use."""
    todo, wanted = {*names}, set[str]()
    kept: dict[int, ast.stmt] = {}
    while todo:
        name = todo.pop()
        wanted.add(name)
        for place, statement in enumerate(tree.body):
            is_import = isinstance(statement, ast.Import | ast.ImportFrom)
            if not is_import and place not in kept and name in _bound(statement):
                kept[place] = statement
                todo |= {*_used(statement)} - wanted
    return [kept[place] for place in sorted(kept)], wanted


def _bound(statement: ast.stmt) -> set[str]:
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return {statement.name}
    stored = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
    return {node.id for node in stored if isinstance(node.ctx, ast.Store)}


def _used(statement: ast.AST) -> Iterator[str]:
    """The names that are read where a statement is executed; annotations and methods are not."""
    todo: list[ast.AST] = [statement]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        for field, value in ast.iter_fields(node):
            skipped = field in ("annotation", "returns") or (
                field == "body" and isinstance(node, ast.FunctionDef) and node is not statement
            )
            if not skipped:
                inner = value if isinstance(value, list) else [value]
                todo += [each for each in inner if isinstance(each, ast.AST)]
