"""Which code a module runs, read from imports without running them, and one number for all of it.

The number follows what is executed: docstrings, comments, blank lines, the order of definitions and
the modules that they stand in do not count, nor do import statements. So moving code from one place
to another leaves it as it is, and any edit that can change a result changes it.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path


def code_version(module: str) -> str:
    """A hash of the code that ``module`` reaches by imports, the same on every machine.

    Only linlocal and the package of ``module`` count. An import under ``if TYPE_CHECKING`` computes
    nothing and does not count. A name that is imported from a package leads to the module that
    defines it, as the package's stub says; ``import package`` leads to all of these.

    Args:
        module: full name of a module.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    statements = [statement for file in files_of(module) for statement in _imports(file).code]
    return hashlib.sha256("\n".join(sorted(statements)).encode()).hexdigest()[:16]


def files_of(module: str) -> list[Path]:
    """The source files that ``module`` reaches by imports, itself included.

    Args:
        module: full name of a module.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    packages = ("linlocal", module.split(".")[0])
    start = _find(module, packages) or _loaded(module)
    if start is None:
        raise ModuleNotFoundError(f"No module named {module!r}.", name=module)
    files = {module: start}
    todo = [module]
    while todo:
        name = todo.pop()
        for each in _reached(name, files[name], packages) - files.keys():
            file = _find(each, packages)
            if file is not None:
                files[each] = file
                todo.append(each)
    return [file for _, file in sorted(files.items())]


@dataclass
class _Source:
    """What a file says.

    Attributes:
        modules: of ``import module``.
        members: (module, name, level) of ``from module import name``; level counts leading dots.
        code: its statements but for imports, as text that knows no place and no comment.
    """

    modules: list[str] = field(default_factory=list)
    members: list[tuple[str, str, int]] = field(default_factory=list)
    code: list[str] = field(default_factory=list)


def _reached(module: str, file: Path, packages: tuple[str, ...]) -> set[str]:
    """Names of modules that ``module`` imports, and some that are none."""
    source = _imports(file)
    targets = set(source.modules)
    for package in source.modules:
        targets |= set(_homes(package, packages).values())
    for named, name, level in source.members:
        package = _absolute(module, file, named, level)
        targets |= {package, _homes(package, packages).get(name, f"{package}.{name}")}
    # Importing a.b.c runs a and a.b first.
    return {
        ".".join(parts[:end])
        for parts in (target.split(".") for target in targets)
        for end in range(1, len(parts) + 1)
    }


def _homes(package: str, packages: tuple[str, ...]) -> dict[str, str]:
    """The names that a package offers, and the modules that define them, as its stub says."""
    file = _find(package, packages)
    stub = None if file is None else file.with_suffix(".pyi")
    if stub is None or not stub.is_file():
        return {}
    homes = {}
    for named, name, level in _imports(stub).members:
        home = _absolute(package, stub, named, level)
        # A package may pass on what one inside it offers.
        homes[name] = _homes(home, packages).get(name, home) if named else f"{home}.{name}"
    return homes


def _absolute(module: str, file: Path, named: str, level: int) -> str:
    if not level:
        return named
    parts = module.split(".")
    base = parts[: len(parts) - level + (file.stem == "__init__")]
    return ".".join([*base, *([named] if named else [])])


def _find(module: str, packages: tuple[str, ...]) -> Path | None:
    """The file of a module of these packages."""
    package, *rest = module.split(".")
    folder = _folder(package) if package in packages else None
    if folder is None:
        return None
    path = folder.joinpath(*rest)
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


def _folder(package: str) -> Path | None:
    spec = find_spec(package)
    places = None if spec is None else spec.submodule_search_locations
    return Path(next(iter(places))) if places else None


def _loaded(module: str) -> Path | None:
    """The file of a module that somebody imported from elsewhere."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return Path(spec.origin) if spec is not None and spec.origin else None


def _imports(file: Path) -> _Source:
    stat = file.stat()
    return _read(file, stat.st_mtime_ns, stat.st_size)


@cache
def _read(file: Path, modified: int, size: int) -> _Source:
    """A file, read anew only when it has changed."""
    found = _Source()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and _for_types_only(node):
            todo.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found.modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.members += [(node.module or "", alias.name, node.level) for alias in node.names]
        todo.extend(ast.iter_child_nodes(node))
    found.code = [text for text in map(_text, _executed(tree.body)) if text]
    return found


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _executed(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements without imports, docstrings, and what is for type checkers."""
    for node in body:
        a_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if not (isinstance(node, ast.Import | ast.ImportFrom) or a_text or _for_types_only(node)):
            yield node


def _text(node: object) -> str:
    """A syntax tree as text, the same for all versions of Python and wherever it stands."""
    if isinstance(node, list):
        statements = bool(node) and all(isinstance(each, ast.stmt) for each in node)
        return ",".join(map(_text, _executed(node) if statements else node))
    if not isinstance(node, ast.AST):
        return repr(node)
    parts = (
        f"{name}={_text(value)}"
        for name, value in ast.iter_fields(node)
        # What is empty, some versions of Python do not have.
        if value is not None and value != [] and name not in ("type_comment", "kind")
    )
    return f"{type(node).__name__}({' '.join(parts)})"
