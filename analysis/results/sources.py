"""Finds the code that a module runs, by reading imports without running them, and hashes it.

The hash follows what is executed. Docstrings, comments, layout, imports for type annotations, the
order of definitions and the modules that hold them do not count. Import statements do not count
either, but what they bind does: a name counts as the text of its definition, wherever that stands,
or as the name of what another library offers. So moving code leaves the hash as it is, and an edit
of what is executed changes it.

A function, class or constant counts if something that counts names it, other than in an annotation;
so do the classes of what the entry is given, and of their fields. What does more than define counts
wherever its module is imported: statements, and definitions that functions of ours decorate. Making
a constant is taken to do nothing else. Where a module is used as an object, or looks for its own
definitions by their names, all of it counts. Code that is found by its name at run time in another
way (by ``import_module``, or in a data file) is not seen.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from linlocal.analysis.results.syntax import OPENING, Code, Member, Source, digest, read


def code_version(entry: str) -> str:
    """A hash of the code that a module or a function of it reaches, the same on every machine.

    Only linlocal and the package of the module count. An import under ``if TYPE_CHECKING`` computes
    nothing and does not count. A name that is imported from a package leads to the module that
    defines it, as the package's stub says; a package imported as a whole leads to all of these, or
    to all modules in its folder where it has no stub.

    Args:
        entry: full name of a module, all of which counts, or ``module:function``: what the
            function reaches, and what importing the module does.

    Raises:
        ModuleNotFoundError: there is no such module.
        ValueError: the module defines no such function.
    """
    module, _, name = entry.partition(":")
    project = _Project(("linlocal", module.split(".")[0]))
    statements = set()
    for home, code in project.counted(module, name):
        meant = (f"{each}={project.meaning(home, each)}" for each in sorted(code.used))
        statements.add(" ".join([code.text, *meant]))
    return digest("\n".join(sorted(statements)))


class _Target(NamedTuple):
    """What a name leads to: a definition, a module as a whole, or something of another library."""

    module: str
    name: str = ""


class _Project:
    """The modules of some packages as they are now; each file is read once.

    Args:
        packages: the names of the packages.
    """

    def __init__(self, packages: tuple[str, ...]) -> None:
        self._folders = {package: _folder(package) for package in packages}
        self._sources: dict[str, Source | None] = {}
        self._homes: dict[str, dict[str, str]] = {}
        self._found: dict[tuple[str, str], frozenset[_Target]] = {}

    def counted(self, module: str, name: str) -> Collection[tuple[str, Code]]:
        """All that counts, each with the module where it stands.

        Args:
            module: full name of a module.
            name: what is asked for in it; "" for all of it.

        Raises:
            ModuleNotFoundError: there is no such module.
            ValueError: the module does not define the name.
        """
        reached = self._reached_from(module)
        if name and name not in reached[module].defined:
            raise ValueError(f"{module} defines no {name!r}.")
        todo = [*self._given(_Target(module, name))]
        if not name:
            # What a module imports and passes on is part of it.
            passed_on = [self._targets(module, each) for each in reached[module].bound]
            for target in frozenset().union(*passed_on):
                todo += self._codes(target) if target.name else ()
        for each, source in reached.items():
            todo += [(each, code) for code in source.code if self._does_more(each, code)]
            for member in source.members:
                if member[1] == "*":
                    todo += self._codes(_Target(_absolute(each, source.package, member)))
        return self._followed(todo, lambda code: code.used)

    def _given(self, target: _Target) -> Collection[tuple[str, Code]]:
        """What defines a target, and the classes of what it is given."""
        return self._followed(self._codes(target), lambda code: code.given)

    def _followed(
        self, start: Iterable[tuple[str, Code]], names: Callable[[Code], frozenset[str]]
    ) -> Collection[tuple[str, Code]]:
        """What some code leads to by such names, itself included."""
        found: dict[tuple[str, Code], None] = {}
        todo = [*start]
        while todo:
            each, code = todo.pop()
            if (each, code) not in found:
                found[each, code] = None
                for name in names(code) - OPENING:
                    for target in self._targets(each, name):
                        todo += self._codes(target)
                if names(code) & OPENING:
                    todo += self._own(each)
        return found

    def meaning(self, module: str, used: str) -> str:
        """What a name in a module stands for, as text that does not say where that is."""
        return "|".join(sorted(map(self._text, self._targets(module, used))))

    def _text(self, target: _Target) -> str:
        source = self._source(target.module)
        if source is None:
            return target.module
        return source.defined[target.name] if target.name else "a module"

    def _own(self, module: str) -> list[tuple[str, Code]]:
        source = self._source(module)
        return [(module, code) for code in source.code] if source else []

    def _codes(self, target: _Target) -> Iterator[tuple[str, Code]]:
        """What defines a target; of a package as a whole, all that it offers."""
        if target.name:
            yield from (own for own in self._own(target.module) if target.name in own[1].defines)
        else:
            for module in sorted(self._whole(target.module)):
                yield from self._own(module)

    def _does_more(self, module: str, code: Code) -> bool:
        """Whether importing the module does more than define the code's names."""
        return code.runs or any(
            bool(target.name) and target.name not in source.classes
            for decorator in code.decorators
            for target in self._targets(module, decorator)
            if (source := self._source(target.module)) is not None
        )

    def _targets(self, module: str, used: str) -> frozenset[_Target]:
        """What a name in a module leads to; branches may differ."""
        if (module, used) in self._found:
            return self._found[module, used]
        # Until it is known: two modules may pass a name to each other.
        self._found[module, used] = frozenset()
        source, (first, *attributes) = self._source(module), used.split(".")
        assert source is not None
        found = {_Target(module, first)} if first in source.defined else set()
        for bound in source.bound.get(first, ()):
            if isinstance(bound, str):
                found |= self._member(bound, attributes)
            else:
                package = _absolute(module, source.package, bound)
                inside = f"{package}.{bound[1]}"
                # A package that imports from itself imports a module in it.
                if package == module and self._source(inside) is not None:
                    found |= self._member(inside, attributes)
                else:
                    found |= self._member(package, [bound[1], *attributes])
        self._found[module, used] = frozenset(found)
        return self._found[module, used]

    def _member(self, module: str, attributes: list[str]) -> frozenset[_Target]:
        """What ``module.attribute.attribute`` leads to."""
        source = self._source(module)
        if source is None:
            return frozenset({_Target(".".join([module, *attributes]))})
        if not attributes:
            return frozenset({_Target(module)})
        name, *rest = attributes
        if name in source.defined or name in source.bound:
            return self._targets(module, ".".join(attributes))
        inside = f"{module}.{name}"
        home = self._offered(module).get(name, inside)
        if home != inside:
            return self._member(home, attributes)
        if self._source(inside) is not None:
            return self._member(inside, rest)
        # What a module does not define is found by looking into it.
        return frozenset({_Target(module)})

    def _reached_from(self, module: str) -> dict[str, Source]:
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

    def _imported(self, module: str, source: Source) -> set[str]:
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
            for member in read(stub).members:
                named, name, _ = member
                home = _absolute(package, True, member)
                # A package may pass on what one inside it offers.
                homes[name] = self._offered(home).get(name, home) if named else f"{home}.{name}"
        else:
            # A folder that is its own register: a module that imports it can find all files in it.
            names = {each.stem for each in file.parent.glob("*.py")} - {"__init__", "__main__"}
            homes.update({name: f"{package}.{name}" for name in names})
        return homes

    def _source(self, module: str) -> Source | None:
        if module not in self._sources:
            file = self._find(module)
            self._sources[module] = None if file is None else read(file)
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


def _loaded(module: str) -> Source | None:
    """A module that somebody imported from elsewhere."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return read(Path(spec.origin)) if spec is not None and spec.origin else None
