"""Which source files a module depends on, read from their imports without running them."""

from __future__ import annotations

import ast
import hashlib
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("linlocal", "analysis", "experiments")


def code_version(module: str) -> str:
    """A hash of all source files that ``module`` reaches by imports, the same on every machine.

    Only files of this project count. An import under ``if TYPE_CHECKING`` computes nothing and
    does not count; a name that a package imports when first used (its tables ``_HOME`` and
    ``_MODULES``) leads to the module that defines it, and ``import package`` to all of these.

    Args:
        module: full name of a module.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    start = _find(module) or _loaded(module)
    if start is None:
        raise ModuleNotFoundError(f"No module named {module!r}.", name=module)
    files = {module: start}
    todo = [module]
    while todo:
        name = todo.pop()
        for each in _reached(name, files[name]) - files.keys():
            file = _find(each)
            if file is not None:
                files[each] = file
                todo.append(each)
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        content = file.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


@dataclass
class _Imports:
    """What a file says of imports.

    Attributes:
        modules: of ``import module``.
        members: (module, name, level) of ``from module import name``; level counts leading dots.
        lazy: names that the file, a package, imports when first used, and the modules of these.
    """

    modules: list[str] = field(default_factory=list)
    members: list[tuple[str, str, int]] = field(default_factory=list)
    lazy: dict[str, str] = field(default_factory=dict)


def _reached(module: str, file: Path) -> set[str]:
    """Names of modules of the project that ``module`` imports, and some that are none."""
    imports = _imports(file)
    targets = set(imports.modules)
    for package in imports.modules:
        if package in PACKAGES:
            lazy = _imports_of(package).lazy
            targets |= {f"{package}.{home}" for home in lazy.values()}
    for named, name, level in imports.members:
        package = named
        if level:
            parts = module.split(".")
            base = parts[: len(parts) - level + (file.name == "__init__.py")]
            package = ".".join([*base, *([named] if named else [])])
        home = _imports_of(package).lazy.get(name, name)
        targets |= {package, f"{package}.{home}"}
    # Importing a.b.c runs a and a.b first.
    return {
        ".".join(parts[:end])
        for parts in (target.split(".") for target in targets)
        for end in range(1, len(parts) + 1)
    }


def _find(module: str) -> Path | None:
    """The file of a module of the project."""
    if module.split(".")[0] not in PACKAGES:
        return None
    path = ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _loaded(module: str) -> Path | None:
    """The file of a module that somebody imported from elsewhere."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return Path(spec.origin) if spec is not None and spec.origin else None


def _imports_of(package: str) -> _Imports:
    file = _find(package)
    return _Imports() if file is None else _imports(file)


def _imports(file: Path) -> _Imports:
    stat = file.stat()
    return _read(file, stat.st_mtime_ns, stat.st_size)


@cache
def _read(file: Path, modified: int, size: int) -> _Imports:
    """The imports of a file, read anew only when it has changed."""
    found = _Imports()
    todo: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found.modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.members += [(node.module or "", alias.name, node.level) for alias in node.names]
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOME":
            found.lazy |= ast.literal_eval(node.value)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_MODULES":
            found.lazy |= {name: name for name in ast.literal_eval(node.value)}
        todo.extend(ast.iter_child_nodes(node))
    return found
