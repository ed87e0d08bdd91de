"""What one source file says: its imports, and what it executes, as text without places."""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

Member = tuple[str, str, int]


@dataclass(frozen=True)
class Code:
    """A definition, or statements within which the order counts.

    Attributes:
        text: what is executed, without places and comments.
        used: the names in it that mean something outside it, as ``name`` or
            ``name.attribute.attribute``; annotations are not executed.
        given: such names in the annotations of what it cannot be called without, or of its fields.
        defines: the names that it defines.
        decorators: of the names in ``used``, those that decorate it.
        runs: whether it does more than define each of its names once.
    """

    text: str
    used: frozenset[str]
    given: frozenset[str]
    defines: frozenset[str]
    decorators: frozenset[str]
    runs: bool


@dataclass
class Source:
    """What a source file says.

    Attributes:
        package: whether the file is the ``__init__`` of a package.
        modules: the modules of all ``import module``.
        members: (module, name, level) of every ``from module import name``; level counts leading
            dots.
        bound: the names that imports bind, each to modules or members; branches may differ.
        defined: the names that are defined at the top, each with a hash of its definitions.
        classes: those of them that are classes.
        code: all that is executed.
    """

    package: bool
    modules: list[str] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    bound: dict[str, list[str | Member]] = field(default_factory=dict)
    defined: dict[str, str] = field(default_factory=dict)
    classes: set[str] = field(default_factory=set)
    code: list[Code] = field(default_factory=list)


_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef
_DEFINING = _FUNCTION | ast.ClassDef
# With these a module finds its definitions by their names.
OPENING = frozenset({"__name__", "globals", "vars"})


def read(file: Path) -> Source:
    """What a file says; it is parsed again only when it has changed."""
    stat = file.stat()
    return _parsed(file, stat.st_mtime_ns, stat.st_size)


@cache
def _parsed(file: Path, modified: int, size: int) -> Source:
    found = Source(package=file.stem == "__init__")
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
    found.defined = {name: digest("\n".join(texts)) for name, texts in definitions.items()}
    found.classes = {each.name for each in statements if isinstance(each, ast.ClassDef)}
    known = found.bound.keys() | found.defined.keys() | OPENING
    found.code = [_code(group, known) for group in _free(statements)]
    return found


def _code(group: list[ast.stmt], known: Iterable[str]) -> Code:
    def of_others(nodes: Iterable[ast.AST]) -> frozenset[str]:
        names = (name for node in nodes for name in _used(node))
        return frozenset(name for name in names if name.split(".")[0] in known)

    defines = frozenset(name for each in group for name in _defined(each))
    a_definition = len(group) == 1 and isinstance(group[0], _DEFINING | ast.Assign | ast.AnnAssign)
    return Code(
        "\n".join(map(_text, group)),
        of_others(group),
        of_others(node for each in group for node in _given(each)),
        defines,
        of_others(node for each in group for node in getattr(each, "decorator_list", ())),
        not a_definition or any(name.startswith("__") for name in defines),
    )


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
        known = isinstance(statement, _DEFINING)
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
    if isinstance(statement, _DEFINING):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, _DEFINING):
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
            todo += _children_executed(node)


def _children_executed(node: ast.AST) -> Iterator[ast.AST]:
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns"):
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, ast.AST):
                    yield each


def _given(statement: ast.stmt) -> Iterator[ast.AST]:
    """Annotations of a function's parameters without defaults, and of the fields of a class."""
    if isinstance(statement, ast.ClassDef):
        yield from (each.annotation for each in statement.body if isinstance(each, ast.AnnAssign))
    elif isinstance(statement, _FUNCTION):
        parameters = statement.args
        plain = [*parameters.posonlyargs, *parameters.args]
        needed = plain[: len(plain) - len(parameters.defaults)]
        pairs = zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True)
        needed += [parameter for parameter, default in pairs if default is None]
        yield from (each.annotation for each in needed if each.annotation is not None)


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


def digest(text: str) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
