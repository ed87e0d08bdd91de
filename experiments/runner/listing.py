"""What there is: experiments and their sizes, read without importing them, and their results.

An experiment imports torch and more, which takes seconds for a list that needs none of it.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from experiments.runner import registry, settings
from experiments.runner.registry import Experiment
from experiments.runner.sweep import Parts
from linlocal.analysis import results
from linlocal.analysis.results import Address, Provenance, ResultError

# What a list shows of an experiment.
_SHOWN = ("PRESETS", "PUBLISHED")


@dataclass(frozen=True)
class Entry:
    """A result that there is or could be.

    Attributes:
        what: the preset, or the settings beside it.
        state: the state of the result and of an unfinished run, in words.
    """

    what: str
    state: str


def outline(name: str) -> Experiment:
    """An experiment with its docstring, PRESETS and PUBLISHED only.

    Only the statements that these need are executed. Where that is not possible, the experiment is
    imported.

    Args:
        name: name of the experiment.

    Raises:
        ResultError: unknown name.
    """
    loaded = sys.modules.get(registry.module_of(name))
    spec = None if loaded is not None else find_spec(registry.module_of(name))
    if spec is None or spec.origin is None:
        return registry.load(name)
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    shown = ModuleType(f"{spec.name}:outline", ast.get_docstring(tree))
    needed = ast.Module([*_needed(tree, _SHOWN)], [])
    # Where a dataclass looks for the module that defines it.
    sys.modules[shown.__name__] = shown
    try:
        exec(compile(needed, spec.origin, "exec"), shown.__dict__)
        registry.sizes(cast(Experiment, shown))
    except Exception:  # whatever it is, the import says it, or does better
        return registry.load(name)
    finally:
        del sys.modules[shown.__name__]
    return cast(Experiment, shown)


def entries(name: str, preset: str, seed: int, data: Path | None, folder: Path) -> Iterator[Entry]:
    """The results of an experiment: of a preset, then with other parameters.

    Args:
        name: name of the experiment.
        preset: name of its size.
        seed: seed of the runs.
        data: folder of data sets.
        folder: folder of the results.

    Raises:
        DataError: data that the experiment reads are not in the folder.
    """
    plain = Address(name, preset, seed, folder)
    others = _changed(plain)
    if data is None and not others and not _is_begun(plain):
        yield Entry(preset, "no result")
        return
    config = registry.configure(outline(name), preset, seed, data)
    parameters = registry.describe(name, config)

    def provenance(given: dict[str, Any]) -> Provenance:
        return Provenance.collect(name, preset, seed, parameters | given, registry.module_of(name))

    usual = provenance({})
    yield Entry(preset, _state(registry.address(usual, {}, folder), usual))
    for label, given in others.items():
        if given is None:
            yield Entry(label, "damaged")
            continue
        run = provenance(given)
        address = registry.address(run, given, folder)
        # Results from other data have other names.
        if address.data == label:
            yield Entry(" ".join(settings.options(given)), _state(address, run))


def parts_folder(address: Address) -> Path:
    """Where an unfinished run keeps its finished points."""
    return address.folder / ".parts" / address.path.stem


def state(address: Address, provenance: Provenance) -> str:
    """The state of a result file, compared with the run that would make it now."""
    if not address.path.exists():
        return "no result"
    try:
        stored = Provenance.of(results.read(address.path))
    except ResultError:
        return "damaged"
    if stored.repeats(provenance):
        return "up to date"
    return "older code" if stored.config == provenance.config else "other parameters"


def _state(address: Address, provenance: Provenance) -> str:
    """The state of a result and of an unfinished run."""
    found, unfinished = state(address, provenance), parts_folder(address)
    if not unfinished.exists() or (
        found == "up to date" and not Parts(unfinished, provenance).forced
    ):
        return found
    return "interrupted" if found == "no result" else f"{found}; interrupted"


def _is_begun(address: Address) -> bool:
    return address.path.exists() or parts_folder(address).exists()


def _changed(plain: Address) -> dict[str, dict[str, Any] | None]:
    """The settings of results beside that of a preset, by what the names of their files end with.

    They are None where the file cannot be read or holds none.
    """
    prefix = f"{plain.path.stem}-"
    found: dict[str, dict[str, Any] | None] = {}
    for path in sorted(plain.folder.glob(f"{prefix}set-*.nc")):
        given = None
        with suppress(ResultError, ValueError):
            given = json.loads(str(results.read(path).attrs.get("settings")))
        found[path.stem.removeprefix(prefix)] = given if isinstance(given, dict) else None
    return found


def _needed(tree: ast.Module, names: Iterable[str]) -> Iterator[ast.stmt]:
    """The statements of a module without which some of its names have no values, in their order."""
    todo, wanted = {*names, "annotations"}, set[str]()
    kept: dict[int, ast.stmt] = {}
    while todo:
        name = todo.pop()
        wanted.add(name)
        for place, statement in enumerate(tree.body):
            if isinstance(statement, ast.Import | ast.ImportFrom):
                continue
            if name in _bound(statement) and place not in kept:
                kept[place] = statement
                todo |= {*_used(statement)} - wanted
    for place, statement in enumerate(tree.body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            statement.names = [
                each
                for each in statement.names
                if (each.asname or each.name.split(".")[0]) in wanted
            ]
            if statement.names:
                kept[place] = statement
    yield from (kept[place] for place in sorted(kept))


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
