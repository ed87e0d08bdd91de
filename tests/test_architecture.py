"""The plan of the house: which package, room and module may import which, read from the source.

A *package* is one of `PACKAGES`. A *room* is a module or a folder at the top of a package. The
*door* of a folder is the stub beside its ``__init__``: what it lists may be used outside, the
modules inside may not. Each law is a function from a `House` to sentences that say what breaks it,
and is tried on houses with a planted fault.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# What each package may import of ours: what stands to its left, and figures only result files.
MAY_IMPORT = {
    "linlocal": ("linlocal",),
    "linlocal.analysis": ("linlocal", "linlocal.analysis"),
    "experiments": ("linlocal", "linlocal.analysis", "experiments"),
    "paper_figures": ("linlocal", "linlocal.analysis.results", "paper_figures"),
}
PACKAGES = tuple(MAY_IMPORT)

# Of other libraries, what may be imported in a place and everywhere inside it.
MAY_USE = {
    "linlocal": ("numpy", "scipy", "threadpoolctl", "xarray"),
    "linlocal.doors": ("lazy_loader",),
    "linlocal.autodiff": ("torch",),
    "linlocal.symbolic": ("sympy",),
    "linlocal.plots": ("matplotlib",),
    "linlocal.testing": ("hypothesis",),
    "linlocal.analysis": ("torch",),
    "linlocal.analysis.results": ("h5py",),
    "linlocal.analysis.lightning": ("lightning", "pytorch_lightning"),
    "linlocal.analysis.training": ("lightning_fabric", "tqdm"),
    "linlocal.analysis.explore": ("IPython", "ipywidgets", "matplotlib"),
    "experiments": (
        *("PIL", "kornia", "lightning_fabric", "numpy", "scipy", "sklearn", "threadpoolctl"),
        *("torch", "tqdm", "typer", "xarray"),
    ),
    "experiments.benchmarks": ("distributed",),
    "experiments.runner": ("cloudpickle", "dask", "distributed"),
    "paper_figures": ("cycler", "matplotlib", "numpy", "scipy", "tqdm", "typer", "xarray"),
    "paper_figures.report.gallery": ("PIL",),  # which matplotlib brings
}

# Folders without a door: their modules are loaded by name.
REGISTERS = (
    "experiments.benchmarks",
    "experiments.catalogue",
    "experiments.data.grey_sets",
    "experiments.data.labelled_sets",
    "experiments.pretrain",
    "paper_figures.figures",
)

# How many rooms a newcomer has to look into.
MOST_ROOMS = {
    "linlocal": 18,
    "linlocal.analysis": 14,
    "experiments": 9,
    "paper_figures": 7,
}


def within(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def is_ours(name: str) -> bool:
    return any(within(name, package) for package in PACKAGES)


def package_of(name: str) -> str:
    return max((package for package in PACKAGES if within(name, package)), key=len)


def room_of(name: str) -> str:
    """``linlocal.rhm`` for ``linlocal.rhm.trees``; a package is the room of its ``__init__``."""
    return ".".join(name.split(".")[: package_of(name).count(".") + 2])


@dataclass(frozen=True)
class Import:
    """One imported name.

    Attributes:
        level: of ``from`` with that many leading dots.
        name: in full, what stands behind the dots.
        called: by this the module calls it.
    """

    level: int
    name: str
    called: str


@cache
def imports_of(source: str) -> list[Import]:
    """All in a text, those inside functions and for type checkers alone included."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [Import(0, a.name, a.asname or a.name) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = f"{node.module}." if node.module else ""
            found += [Import(node.level, base + a.name, a.asname or a.name) for a in node.names]
    return found


@cache
def attributes_of(source: str) -> set[str]:
    """All ``a.b.c`` in a text."""
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))
    return {ast.unparse(node) for node in nodes}


@dataclass(frozen=True)
class House:
    """Source texts, by full names of modules; a folder's ``__init__`` has the folder's name.

    Attributes:
        modules: of all modules.
        doors: stubs of folders.
    """

    modules: Mapping[str, str]
    doors: Mapping[str, str]

    @classmethod
    def read(cls) -> "House":
        found: dict[str, dict[str, str]] = {".py": {}, ".pyi": {}}
        for package in PACKAGES:
            # The link to analysis/ is not followed from above, so that no file is read twice.
            for file in (ROOT / package.replace(".", "/")).rglob("*.py*"):
                if file.suffix in found:
                    parts = file.relative_to(ROOT).with_suffix("").parts
                    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                    found[file.suffix][name] = file.read_text(encoding="utf-8")
        return cls(found[".py"], found[".pyi"])

    def furnished(self, modules: Mapping[str, str]) -> "House":
        """The same house with some modules added or replaced."""
        return House({**self.modules, **modules}, self.doors)

    @cached_property
    def folders(self) -> set[str]:
        """Modules that other modules are inside of."""
        return {name.rpartition(".")[0] for name in self.modules} & self.modules.keys()

    @cached_property
    def offers(self) -> dict[str, dict[str, str]]:
        """Per door its names, each with the module that it is taken from or, as a module, is."""
        return {
            door: {
                each.called: f"{door}.{each.name.rpartition('.')[0] or each.name}"
                for each in imports_of(stub)
            }
            for door, stub in self.doors.items()
        }

    def home(self, name: str) -> str:
        """The module that defines what is imported as ``name``, through any number of doors."""
        place, *parts = name.split(".")
        for part in parts:
            inside = f"{place}.{part}"
            offered = self.offers.get(place, {}).get(part, inside)
            if offered != inside:
                place = self.home(f"{offered}.{part}")
            elif inside in self.modules:
                place = inside
            else:
                break
        return place

    def imports(self, module: str) -> dict[str, str]:
        """Full names of what a module imports, and by which names it calls them."""
        found = {}
        for each in imports_of(self.modules[module]):
            parts = module.split(".")
            up = each.level - (module in self.folders)
            base = ".".join([*parts[: len(parts) - up], ""]) if each.level else ""
            found[base + each.name] = each.called
        return found

    def names(self, module: str) -> Iterator[str]:
        """Full names of ours that a module imports or, after ``import room``, uses as room.name."""
        for name, called in self.imports(module).items():
            if is_ours(name):
                yield name
                for attribute in attributes_of(self.modules[module]):
                    if attribute.startswith(f"{called}."):
                        yield name + attribute.removeprefix(called)

    def needs(self, module: str) -> set[str]:
        """The modules that define what a module imports.

        The door of a room loads nothing before a name is taken through it, so that is what counts.
        A register is read for its names; what it holds is not imported with it.
        """
        homes = {self.home(name) for name in self.names(module)}
        return homes - {module, *REGISTERS}


# The laws.


def wrong_way(house: House) -> Iterator[str]:
    """Packages import to their left only."""
    for module in house.modules:
        allowed = MAY_IMPORT[package_of(module)]
        for name in {*house.imports(module), *house.names(module)}:
            if is_ours(name):
                rooms = (place for place in allowed if place not in PACKAGES)
                if package_of(name) not in allowed and not any(within(name, r) for r in rooms):
                    yield f"{module} imports {name}"
            elif name.split(".")[0] in ("analysis", "tests"):
                yield f"{module} imports {name}"


def heavy(house: House) -> Iterator[str]:
    """Libraries stay in their rooms."""
    for module in house.modules:
        usable = {lib for place, libs in MAY_USE.items() if within(module, place) for lib in libs}
        known = usable | sys.stdlib_module_names | {"analysis", "tests"}
        for name in house.imports(module):
            if not is_ours(name) and name.split(".")[0] not in known:
                yield f"{module} imports {name}"


def through_the_wall(house: House) -> Iterator[str]:
    """From outside, a room is entered by its door."""
    for module in house.modules:
        for name in set(house.names(module)):
            room = room_of(name)
            if room in house.doors and room not in PACKAGES and not within(module, room):
                part = name.removeprefix(room).strip(".").split(".")[0]
                if f"{room}.{part}" in house.modules and part not in house.offers[room]:
                    yield f"{module} uses {name}, but {room} does not offer {part}"


def without_door(house: House) -> Iterator[str]:
    """A folder has a door unless its modules are loaded by their names."""
    for folder in house.folders - {"experiments", "paper_figures"}:
        if (folder in house.doors) == (folder in REGISTERS):
            yield f"{folder} has {'a' if folder in house.doors else 'no'} door"


def circles(edges: Mapping[str, set[str]]) -> Iterator[str]:
    edges = {name: set(others) for name, others in edges.items()}
    while True:
        try:
            TopologicalSorter(edges).prepare()
        except CycleError as error:
            # Each is followed by one that depends on it.
            circle = error.args[1][::-1]
            yield " -> ".join(circle)
            edges[circle[0]].discard(circle[1])
        else:
            return


def circles_of_modules(house: House) -> Iterator[str]:
    """No module needs itself, on whatever detour."""
    yield from circles({module: house.needs(module) for module in house.modules})


def circles_of_rooms(house: House) -> Iterator[str]:
    """Nor does a room."""
    edges: dict[str, set[str]] = {}
    for module in house.modules:
        needed = {room_of(name) for name in house.needs(module)}
        edges[room_of(module)] = edges.get(room_of(module), set()) | needed
    yield from circles({room: needed - {room} for room, needed in edges.items()})


def not_alone(house: House) -> Iterator[str]:
    """An edit outdates only what it can change: experiments, figures and data stand alone."""
    learning = [f"experiments.{room}" for room in ("catalogue", "networks", "pretrain", "training")]
    apart = {
        "experiments.catalogue": ["experiments.catalogue"],
        "experiments.data": learning,
        "paper_figures.figures": ["paper_figures.figures"],
    }
    for module in house.modules:
        places = apart.get(room_of(module), [])
        for needed in house.needs(module):
            if any(within(needed, place) for place in places):
                yield f"{module} needs {needed}"


def too_many_rooms(house: House) -> Iterator[str]:
    """What is looked for is found at a glance."""
    for package, most in MOST_ROOMS.items():
        rooms = {room_of(name) for name in house.modules if package_of(name) == package} - {package}
        if len(rooms) > most:
            yield f"{package} has {len(rooms)} rooms"


def shadowed(house: House) -> Iterator[str]:
    """Importing a module sets its name in the folder, over whatever a door offers by that name."""
    for door, names in house.offers.items():
        for name, home in names.items():
            inside = f"{door}.{name}"
            if inside in house.modules and home != inside:
                yield f"{door} offers {name} of {home}, and {inside} is a module"


LAWS = (
    wrong_way,
    heavy,
    through_the_wall,
    without_door,
    circles_of_modules,
    circles_of_rooms,
    not_alone,
    too_many_rooms,
    shadowed,
)


@cache
def our_house() -> House:
    return House.read()


def test_the_whole_house_is_read():
    house = our_house()
    assert {package_of(module) for module in house.modules} == set(PACKAGES)
    assert {"linlocal.rhm", "linlocal.analysis.alignment"} <= house.doors.keys()
    assert house.home("linlocal.analysis.align") == "linlocal.analysis.alignment.batch"
    assert house.home("linlocal.losses.scores.Softplus.value") == "linlocal.losses.scores"


@cache
def our_faults(law) -> set[str]:
    return set(law(our_house()))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_our_house_keeps(law):
    assert sorted(our_faults(law)) == []


# A law, a module that breaks it, and its text.
PLANTED = [
    (wrong_way, "linlocal.rules", "import linlocal.analysis"),
    (wrong_way, "linlocal.rules", "from linlocal import analysis"),
    (wrong_way, "linlocal.rules", "def f():\n    from experiments import data"),
    (wrong_way, "linlocal.rhm.theory", "from ..analysis import results"),
    (wrong_way, "linlocal.rhm", "from ..analysis import results"),
    (wrong_way, "linlocal.analysis.explore", "from experiments.data import load_images"),
    (wrong_way, "linlocal.analysis.explore", "import tests.laws"),
    (wrong_way, "experiments.catalogue.new", "import paper_figures.look"),
    (wrong_way, "experiments.catalogue.new", "from analysis import align"),
    (wrong_way, "paper_figures.figures.new", "import experiments"),
    (wrong_way, "paper_figures.figures.new", "from linlocal.analysis import results, align"),
    (wrong_way, "paper_figures.figures.new", "import linlocal as ll\nll.analysis.align()"),
    (heavy, "linlocal.rules", "import torch.nn"),
    (heavy, "linlocal.rules", "def f():\n    from hypothesis import given"),
    (heavy, "linlocal.autodiff.graph", "import sympy"),
    (heavy, "linlocal.analysis.explore", "from sklearn import datasets"),
    (heavy, "linlocal.analysis.block", "import matplotlib"),
    (heavy, "experiments.catalogue.new", "import sympy"),
    (heavy, "paper_figures.figures.new", "import torch"),
    (through_the_wall, "linlocal.rules", "from linlocal.losses.pairs import TypeTwo"),
    (through_the_wall, "linlocal.rules", "from linlocal.losses import pairs"),
    (through_the_wall, "linlocal.rules", "import linlocal.losses.pairs"),
    (through_the_wall, "linlocal.rules", "from linlocal import losses as l\nl.pairs.TypeTwo"),
    (through_the_wall, "experiments.data", "from experiments.training.fitting import fit_by_rule"),
    (
        through_the_wall,
        "paper_figures.figures.new",
        "from linlocal.analysis.results.files import read",
    ),
    (without_door, "linlocal.rules.inside", ""),
    (circles_of_modules, "linlocal.inputs", "from linlocal.rules import Rule"),
    (circles_of_modules, "linlocal.losses.scores", "from linlocal.losses import TypeTwo"),
    (circles_of_modules, "linlocal.losses.scores", "import linlocal as ll\nll.compare"),
    (
        circles_of_modules,
        "linlocal.inputs",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from linlocal import Rule",
    ),
    (circles_of_rooms, "linlocal.rhm.new", "from linlocal.testing import networks"),
    (not_alone, "experiments.catalogue.new", "from experiments.catalogue import scaling"),
    (not_alone, "experiments.catalogue.new", "from experiments.catalogue.scaling import run"),
    (not_alone, "experiments.data.new", "from experiments.training import fit_by_rule"),
    (not_alone, "paper_figures.figures.new", "from .scaling import draw"),
    (too_many_rooms, "linlocal.new", ""),
    (shadowed, "linlocal.updates.compare", ""),
]


@pytest.mark.parametrize(("law", "module", "source"), PLANTED)
def test_a_planted_fault_is_found(law, module, source):
    furnished = our_house().furnished({module: source})
    assert set(law(furnished)) - our_faults(law)


def test_a_fault_is_planted_for_every_law():
    assert {law for law, _, _ in PLANTED} == set(LAWS)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("linlocal.autodiff.new", "import torch"),
        ("linlocal.symbolic.new", "from sympy import Matrix"),
        ("linlocal.rhm.new", "from .. import inputs\nfrom . import grammar\nimport math"),
        ("linlocal.updates.new", "from linlocal import losses\nlosses.scores.Softplus()"),
        (
            "experiments.catalogue.new",
            "import linlocal\nimport torch\nfrom linlocal.analysis import align",
        ),
        (
            "paper_figures.figures.new",
            "from linlocal.analysis.results import read\nfrom linlocal.analysis import results",
        ),
    ],
)
def test_what_the_laws_allow_passes(module, source):
    furnished = our_house().furnished({module: source})
    assert [fault for law in LAWS for fault in set(law(furnished)) - our_faults(law)] == []


@pytest.mark.parametrize("door", sorted(our_house().doors))
def test_a_door_offers_what_its_stub_says(door):
    house, room = our_house(), import_module(door)
    offered = house.offers[door]
    assert sorted(room.__all__) == sorted(offered)
    assert offered.keys() <= set(dir(room))
    for name in offered:
        home = import_module(house.home(f"{door}.{name}"))
        value = getattr(room, name)
        assert value is home or value is getattr(home, name)


def test_no_module_is_loaded_under_two_names():
    for door in our_house().doors:
        import_module(door)
    files = [
        Path(module.__file__).resolve()
        for name, module in sys.modules.items()
        if is_ours(name) or within(name, "analysis")
    ]
    assert len(files) > len(our_house().doors)
    assert len(set(files)) == len(files)


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("linlocal", {"torch", "sympy", "hypothesis", "xarray", "scipy"}),
        ("linlocal.analysis", {"torch", "sympy", "matplotlib", "xarray", "scipy"}),
        ("linlocal.analysis.results", {"torch", "sympy", "matplotlib"}),
        ("experiments.__main__", {"torch", "sympy", "matplotlib", "sklearn"}),
        ("paper_figures.__main__", {"torch", "sympy", "sklearn"}),
    ],
)
def test_importing_stays_light(module, heavy):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert heavy.isdisjoint(done.stdout.split())
