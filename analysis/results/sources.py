"""Finds the code that a module runs, by reading imports without running them, and hashes it.

The hash follows what is executed. Docstrings, comments, layout, imports for type annotations, the
order of definitions and the modules that hold them do not count. Import statements do not count
either, but what they bind does: a name counts as the text of its definition, wherever that stands,
or as the name of what another library offers. So moving code leaves the hash as it is, and an edit
of what is executed changes it. Code that is found by its name at run time (by ``import_module``, or
in a data file) is not seen.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path


def code_version(module: str) -> str:
    """A hash of the code that ``module`` reaches by imports, the same on every machine.

    Only linlocal and the package of ``module`` count. An import under ``if TYPE_CHECKING`` computes
    nothing and does not count. A name that is imported from a package leads to the module that
    defines it, as the package's stub says; a package imported as a whole leads to all of these, or
    to all modules in its folder where it has no stub.

    Args:
        module: full name of a module.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    project = _Project(("linlocal", module.split(".")[0]))
    statements = []
    for name, source in project.reached_from(module).items():
        for text, used in source.code:
            meant = (f"{each}={project.meaning(name, each)}" for each in sorted(used))
            statements.append(" ".join([text, *meant]))
    return _hash("\n".join(sorted(statements)))[:16]


Member = tuple[str, str, int]


@dataclass
class _Source:
    """What a source file says.

    Attributes:
        package: whether the file is the ``__init__`` of a package.
        modules: the modules of all ``import module``.
        members: (module, name, level) of every ``from module import name``; level counts leading
            dots.
        bound: the names that imports bind, each to modules or members; branches may differ.
        defined: the names that are defined at the top, each with a hash of its definitions.
        code: the executed statements as text without places and comments, each with the names in
            it that are bound or defined at the top, as ``name`` or ``name.attribute.attribute``.
    """

    package: bool
    modules: list[str] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    bound: dict[str, list[str | Member]] = field(default_factory=dict)
    defined: dict[str, str] = field(default_factory=dict)
    code: list[tuple[str, frozenset[str]]] = field(default_factory=list)


class _Project:
    """The modules of some packages as they are now; each file is read once.

    Args:
        packages: the names of the packages.
    """

    def __init__(self, packages: tuple[str, ...]) -> None:
        self._folders = {package: _folder(package) for package in packages}
        self._sources: dict[str, _Source | None] = {}
        self._homes: dict[str, dict[str, str]] = {}
        self._meanings: dict[tuple[str, str], str] = {}

    def reached_from(self, module: str) -> dict[str, _Source]:
        """The modules that ``module`` reaches by imports, itself included.

        Raises:
            ModuleNotFoundError: there is no such module.
        """
        start = self._source(module) or _loaded(module)
        if start is None:
            raise ModuleNotFoundError(f"No module named {module!r}.", name=module)
        found = {module: start}
        self._sources[module] = start
        todo = [module]
        while todo:
            name = todo.pop()
            for each in self._imported(name, found[name]) - found.keys():
                source = self._source(each)
                if source is not None:
                    found[each] = source
                    todo.append(each)
        return found

    def meaning(self, module: str, used: str) -> str:
        """What a name in a module stands for, as text that does not say where that is."""
        if (module, used) in self._meanings:
            return self._meanings[module, used]
        # Until it is known: two modules may pass a name to each other.
        self._meanings[module, used] = "unknown"
        source, (first, *attributes) = self._source(module), used.split(".")
        assert source is not None
        meanings = set()
        for target in source.bound.get(first, ()):
            if isinstance(target, str):
                meanings.add(self._member(target, attributes))
            else:
                package = _absolute(module, source.package, target)
                meanings.add(self._member(package, [target[1], *attributes]))
        if first in source.defined:
            meanings.add(source.defined[first])
        self._meanings[module, used] = "|".join(sorted(meanings))
        return self._meanings[module, used]

    def _member(self, module: str, attributes: list[str]) -> str:
        """What ``module.attribute.attribute`` stands for."""
        source = self._source(module)
        if source is None:
            return ".".join([module, *attributes])
        if not attributes:
            return "a module"
        name, *rest = attributes
        if name in source.defined or name in source.bound:
            return self.meaning(module, ".".join(attributes))
        home = self._offered(module).get(name, f"{module}.{name}")
        return self._member(home, rest if home == f"{module}.{name}" else attributes)

    def _imported(self, module: str, source: _Source) -> set[str]:
        """Names of modules that a module imports, and some that are none."""
        targets: set[str] = set().union(*map(self._whole, source.modules))
        for member in source.members:
            package, name = _absolute(module, source.package, member), member[1]
            home = self._offered(package).get(name, f"{package}.{name}")
            # A name whose home is itself is a module.
            targets |= {package, *(self._whole(home) if home.endswith(f".{name}") else {home})}
        # Importing a.b.c runs a and a.b first.
        return {
            ".".join(parts[:end])
            for parts in (target.split(".") for target in targets)
            for end in range(1, len(parts) + 1)
        }

    def _whole(self, module: str) -> set[str]:
        """A module, and all that it offers where it is a package."""
        found, todo = set(), [module]
        while todo:
            each = todo.pop()
            if each not in found:
                found.add(each)
                todo += self._offered(each).values()
        return found

    def _offered(self, package: str) -> dict[str, str]:
        """The names that a package offers, and the modules that define them.

        They are those of its stub, or all its modules where it has none.
        """
        if package in self._homes:
            return self._homes[package]
        homes = self._homes[package] = {}
        file = self._find(package)
        if file is None or file.stem != "__init__":
            return homes
        stub = file.with_suffix(".pyi")
        if stub.is_file():
            for member in _read(stub).members:
                named, name, _ = member
                home = _absolute(package, True, member)
                # A package may pass on what one inside it offers.
                homes[name] = self._offered(home).get(name, home) if named else f"{home}.{name}"
        else:
            # A folder that is its own register: a module that imports it can find all files in it.
            names = {each.stem for each in file.parent.glob("*.py")} - {"__init__", "__main__"}
            homes.update({name: f"{package}.{name}" for name in names})
        return homes

    def _source(self, module: str) -> _Source | None:
        if module not in self._sources:
            file = self._find(module)
            self._sources[module] = None if file is None else _read(file)
        return self._sources[module]

    def _find(self, module: str) -> Path | None:
        """The file of a module of these packages."""
        package, *rest = module.split(".")
        folder = self._folders.get(package)
        if folder is None:
            return None
        path = folder.joinpath(*rest)
        candidates = (path / "__init__.py", path.with_suffix(".py"))
        return next((file for file in candidates if file.is_file()), None)


def _absolute(module: str, package: bool, member: Member) -> str:
    """The module that ``from MODULE import`` names, in a module that may be a package."""
    named, _, level = member
    if not level:
        return named
    parts = module.split(".")
    base = parts[: len(parts) - level + package]
    return ".".join([*base, *([named] if named else [])])


def _folder(package: str) -> Path | None:
    spec = find_spec(package)
    places = None if spec is None else spec.submodule_search_locations
    return Path(next(iter(places))) if places else None


def _loaded(module: str) -> _Source | None:
    """A module that somebody imported from elsewhere."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return _read(Path(spec.origin)) if spec is not None and spec.origin else None


def _read(file: Path) -> _Source:
    stat = file.stat()
    return _parsed(file, stat.st_mtime_ns, stat.st_size)


@cache
def _parsed(file: Path, modified: int, size: int) -> _Source:
    """A file, parsed again only when it has changed."""
    found = _Source(package=file.stem == "__init__")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in _all_but_types(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.modules.append(alias.name)
                # Without a name of its own, `import a.b` binds a.
                target = alias.name if alias.asname else alias.name.split(".")[0]
                found.bound.setdefault(alias.asname or target, []).append(target)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                member = (node.module or "", alias.name, node.level)
                found.members.append(member)
                found.bound.setdefault(alias.asname or alias.name, []).append(member)
    statements = list(_executed(tree.body))
    definitions: dict[str, list[str]] = {}
    for statement in statements:
        for name in _defined(statement):
            definitions.setdefault(name, []).append(_text(statement))
    found.defined = {name: _hash("\n".join(texts))[:16] for name, texts in definitions.items()}
    known = found.bound.keys() | found.defined.keys()
    for group in _free(statements):
        text = "\n".join(map(_text, group))
        used = {name for each in group for name in _used(each) if name.split(".")[0] in known}
        found.code.append((text, frozenset(used)))
    return found


def _all_but_types(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes of a syntax tree except those that only type checkers read."""
    todo = [tree]
    while todo:
        node = todo.pop()
        if _for_types_only(node):
            assert isinstance(node, ast.If)
            todo += node.orelse
        else:
            yield node
            todo += ast.iter_child_nodes(node)


def _free(statements: list[ast.stmt]) -> Iterator[list[ast.stmt]]:
    """Groups of statements within which the order counts.

    Each function, class and constant is a group of its own. In a module that does more than define
    each of them once, everything but functions and classes with unique names is one group.
    """
    times = Counter(name for statement in statements for name in set(_defined(statement)))
    rest = []
    for statement in statements:
        known = isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if known and all(times[name] == 1 for name in _defined(statement)):
            yield [statement]
        else:
            rest.append(statement)
    constants = all(
        isinstance(each, ast.Assign | ast.AnnAssign)
        and all(isinstance(node, ast.Name) for node in _targets(each))
        for each in rest
    )
    if constants and all(count == 1 for count in times.values()):
        yield from ([each] for each in rest)
    else:
        yield rest


def _targets(statement: ast.Assign | ast.AnnAssign) -> Iterator[ast.expr]:
    """What is assigned to, one by one."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    for target in targets:
        yield from target.elts if isinstance(target, ast.Tuple) else [target]


def _defined(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top of a module defines, and some that it does not."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name


def _used(statement: ast.AST) -> Iterator[str]:
    """All names in a statement, as ``name`` or ``name.attribute.attribute``."""
    todo = [statement]
    while todo:
        node = todo.pop()
        attributes: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            attributes.insert(0, inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            yield ".".join([inner.id, *attributes])
        else:
            todo += ast.iter_child_nodes(node)


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _executed(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements without imports, docstrings, and what is for type checkers."""
    for node in body:
        a_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if _for_types_only(node):
            assert isinstance(node, ast.If)
            yield from _executed(node.orelse)
        elif not (isinstance(node, ast.Import | ast.ImportFrom) or a_text):
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
        # Some versions of Python lack the fields that are empty in others.
        if value is not None and value != [] and name not in ("type_comment", "kind")
    )
    return f"{type(node).__name__}({' '.join(parts)})"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
