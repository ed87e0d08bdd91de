"""Which source files a module depends on, read from their imports without running them."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("linlocal", "analysis", "experiments")


def code_version(module: str) -> str:
    """A hash of all source files that ``module`` reaches by imports, the same on every machine.

    Only files of this project count. An import under ``if TYPE_CHECKING`` computes nothing and
    does not count; a name that a package imports when first used (its table ``_HOME``) leads to
    the module that defines it.

    Args:
        module: full name of a module.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    files = {module: _file(module)}
    todo = [module]
    while todo:
        for name in _imports(todo.pop(), files):
            files[name] = _file(name)
            todo.append(name)
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        content = file.read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:16]


def _imports(module: str, known: dict[str, Path]) -> set[str]:
    """Modules of the project that ``module`` imports and that are not known yet."""
    targets: set[str] = set()
    for node in _computing(ast.parse(known[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                targets.update({alias.name, *_everything(alias.name)})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            targets.update(_member(node.module, alias.name) for alias in node.names)
    # Importing a.b.c runs a and a.b first.
    parents = {
        ".".join(parts[:end])
        for parts in (target.split(".") for target in targets)
        for end in range(1, len(parts) + 1)
    }
    return {name for name in parents if name.split(".")[0] in PACKAGES} - known.keys()


def _computing(tree: ast.AST) -> list[ast.AST]:
    """All nodes but those under ``if TYPE_CHECKING``."""
    nodes = []
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        nodes.append(node)
        todo.extend(
            child
            for child in ast.iter_child_nodes(node)
            if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING")
        )
    return nodes


def _member(package: str, name: str) -> str:
    """The module that defines ``name`` of ``package``, as far as their files say."""
    if package.split(".")[0] not in PACKAGES:
        return package
    lazy = _lazy(_file(package))
    if name in lazy:
        return f"{package}.{lazy[name]}"
    try:
        _file(f"{package}.{name}")
    except ModuleNotFoundError:
        return package
    return f"{package}.{name}"


def _everything(package: str) -> list[str]:
    """What ``import package`` gives access to by its table of lazy names."""
    if package not in PACKAGES:
        return []
    return [f"{package}.{module}" for module in _lazy(_file(package)).values()]


@cache
def _lazy(file: Path) -> dict[str, str]:
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOME":
            table = ast.literal_eval(node.value)
            assert isinstance(table, dict)
            return table
    return {}


@cache
def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    spec = find_spec(module) if "." not in module or module.split(".")[0] in PACKAGES else None
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {module!r}.", name=module)
    return Path(spec.origin)
