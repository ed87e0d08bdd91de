"""Laws of the version of an experiment: it follows the code that runs, and nothing else."""

import shutil
from pathlib import Path

import pytest

from linlocal.analysis.results import code_version, sources

FILES = {
    "linlocal/__init__.py": "x = 1\n",
    "linlocal/__init__.pyi": (
        "from . import p_rhm as p_rhm\nfrom .p_pairs import Pairs as Pairs\n"
        "from .p_room import Rule as Rule\n"
    ),
    "linlocal/p_rhm.py": "x = 2\n",
    "linlocal/p_pairs.py": "import numpy\nx = 3\n",
    "linlocal/p_room/__init__.py": "x = 4\n",
    "linlocal/p_room/__init__.pyi": "from .p_rules import Rule as Rule\n",
    "linlocal/p_room/p_rules.py": "from linlocal.p_pairs import x\nRule = x\n",
    "linlocal/p_room/p_unused.py": "x = 5\n",
    "linlocal/analysis/__init__.py": "x = 6\n",
    "linlocal/analysis/p_meter.py": "x = 7\n",
    "linlocal/analysis/p_series.py": "x = 8\n",
    "linlocal/analysis/p_typed.py": "x = 9\n",
    "linlocal/analysis/p_else.py": "from . import p_near\nfrom .p_near import x\ny = 1\n",
    "linlocal/analysis/p_near.py": "x = 10\n",
    "experiments/__init__.py": "x = 11\n",
    "experiments/p_lazy.py": "from linlocal import Pairs\nx = 12\n",
    "experiments/p_room.py": "from linlocal import Rule\nx = 13\n",
    "experiments/p_whole.py": "import linlocal as ll\nx = 14\n",
    "experiments/p_deep.py": "def run():\n    from linlocal.analysis import p_meter\n",
    "experiments/p_typed.py": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from linlocal.analysis.p_typed import x\n"
        "else:\n    from linlocal.analysis import p_else\n"
    ),
    "experiments/p_chain.py": (
        "from linlocal.analysis import p_series as s\nimport experiments.p_deep\nx = 15\n"
    ),
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty project."""
    monkeypatch.setattr(sources, "_folder", lambda package: tmp_path / package)
    return tmp_path


@pytest.fixture
def small(root):
    """A project of a few files."""
    for name, content in FILES.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text(content)
    return root


def edit(file):
    """Let the module do one thing more when it is imported."""
    file.write_text(file.read_text() + "print()\n")


ROOT, ANALYSIS = "linlocal/__init__.py", "linlocal/analysis/__init__.py"
RULES = {ROOT, "linlocal/p_room/__init__.py", "linlocal/p_room/p_rules.py", "linlocal/p_pairs.py"}
REACHED = {
    "p_lazy": {ROOT, "linlocal/p_pairs.py"},
    "p_room": RULES,
    "p_whole": {*RULES, "linlocal/p_rhm.py"},
    "p_deep": {ROOT, ANALYSIS, "linlocal/analysis/p_meter.py"},
    "p_typed": {ROOT, ANALYSIS, "linlocal/analysis/p_else.py", "linlocal/analysis/p_near.py"},
    "p_chain": {
        *(ROOT, ANALYSIS, "linlocal/analysis/p_series.py", "linlocal/analysis/p_meter.py"),
        *("experiments/__init__.py", "experiments/p_deep.py"),
    },
}


@pytest.mark.parametrize("name", REACHED)
def test_the_version_follows_exactly_the_files_that_are_reached(small, name):
    module = f"experiments.{name}"
    changed = set()
    for file in FILES:
        if file.endswith(".pyi"):
            continue
        before = code_version(module)
        assert code_version(module) == before
        edit(small / file)
        if code_version(module) != before:
            changed.add(file)
    assert changed == REACHED[name] | {f"experiments/{name}.py"}


def test_files_that_are_no_source_do_not_count(small):
    before = code_version("experiments.p_whole")
    (small / "linlocal" / "notes.txt").write_text("no source\n")
    (small / "linlocal" / "p_new.py").write_text("x = 1\n")
    assert code_version("experiments.p_whole") == before


CODE = '''"""What it is for."""

from __future__ import annotations

import math


def area(radius: float) -> float:
    """pi r^2."""
    return math.pi * radius**2


LARGEST = 3
'''
UNCHECKED = CODE.replace("LARGEST", "if TYPE_CHECKING:\n    import os\nelse:\n    LARGEST")
SAME = {
    "what is for type checkers": UNCHECKED,
    "a comment": CODE + "# by the way\n",
    "another docstring": CODE.replace("pi r^2.", "Of a disc."),
    "no docstring": CODE.replace('    """pi r^2."""\n', ""),
    "layout": CODE.replace("radius**2", "(\n        radius ** 2\n    )"),
    "another order": "LARGEST = 3\n" + CODE.replace("LARGEST = 3\n", ""),
    "an import that is not used": CODE.replace("import math", "import math\nimport os"),
}
OTHER = {
    "a number": CODE.replace("LARGEST = 3", "LARGEST = 4"),
    "an operator": CODE.replace("math.pi *", "math.pi +"),
    "a default": CODE.replace("radius: float", "radius: float = 1.0"),
    "a new statement": CODE + "LARGEST += 1\n",
    "a statement with an effect": CODE + "area(LARGEST)\n",
    "a function of the same name": CODE + "def area(radius):\n    return 0\n",
    "what a name is imported from": CODE.replace("import math", "import cmath as math"),
    "what is done where types are not checked": UNCHECKED.replace("LARGEST = 3", "LARGEST = 4"),
    "a text that is used": CODE.replace("LARGEST = 3", 'LARGEST = "3"'),
}


def version_of(root, code):
    (root / "experiments").mkdir(exist_ok=True)
    (root / "experiments" / "p_one.py").write_text(code)
    return code_version("experiments.p_one")


@pytest.mark.parametrize("change", SAME)
def test_what_cannot_change_a_number_does_not_count(root, change):
    assert SAME[change] != CODE
    assert version_of(root, CODE) == version_of(root, SAME[change])


@pytest.mark.parametrize("change", OTHER)
def test_what_can_change_a_number_counts(root, change):
    assert version_of(root, CODE) != version_of(root, OTHER[change])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1\nx += 1\nx *= 2\n", "x = 1\nx *= 2\nx += 1\n"),
        ("x = [1]\nx.append(2)\ny = sum(x)\n", "x = [1]\ny = sum(x)\nx.append(2)\n"),
        ("def f():\n    return 1\ndef f():\n    return 2\n", "def f():\n    return 2\n" * 2),
    ],
    ids=["one name", "an effect", "one function"],
)
def test_the_order_counts_where_a_module_does_more_than_define(root, one, other):
    assert version_of(root, one) != version_of(root, other)


def project(root, **modules):
    """The version of p_main, which has these modules beside it."""
    shutil.rmtree(root / "experiments", ignore_errors=True)
    (root / "experiments").mkdir()
    (root / "experiments" / "__init__.py").touch()
    for name, code in modules.items():
        (root / "experiments" / f"{name}.py").write_text(code)
    return code_version("experiments.p_main")


USES = "from experiments.p_one import {}\nfrom experiments.p_two import {}\n"


def test_code_may_move_from_one_module_to_another(root):
    limit, small = "LIMIT = 3\n", "def small(x):\n    return x < LIMIT\n"
    main = "def run():\n    return small(2)\n"
    together = project(
        root, p_main="from experiments.p_one import small\n" + main, p_one=limit + small
    )
    apart = project(
        root,
        p_main=main.replace("    return", "    from experiments.p_two import small\n    return"),
        p_one=limit,
        p_two="from experiments.p_one import LIMIT\n" + small,
    )
    in_one = project(root, p_main=limit + small + main)
    assert together == apart == in_one
    assert project(root, p_main=limit.replace("3", "4") + small + main) != together


def test_code_may_move_to_a_module_of_its_own_that_says_what_all_say(root):
    offers, small = "__all__ = ()\n", "def small(x):\n    return x < 3\n"
    main = "from experiments.{} import small\ndef run():\n    return small(2)\n"
    one = offers + "def large(x):\n    return x > 3\n"
    before = project(root, p_main=main.format("p_one"), p_one=one + small)
    passed_on = one + "from experiments.p_two import small\n"
    for name, rest in (("p_one", passed_on), ("p_two", one)):
        after = project(root, p_main=main.format(name), p_one=rest, p_two=offers + small)
        assert after == before


def test_which_of_two_definitions_a_name_means_counts(root):
    one, two = "def f():\n    return 1\n", "def f():\n    return 2\n"
    versions = {
        project(root, p_main=USES.format(*names) + "x = f()\n", p_one=one, p_two=two)
        for names in (("f", "f as g"), ("f as g", "f"))
    }
    through_modules = {
        project(
            root,
            p_main=f"from experiments import p_one, p_two\nx = {module}.f()\n",
            p_one=one,
            p_two=two,
        )
        for module in ("p_one", "p_two")
    }
    assert len(versions) == len(through_modules) == 2


def test_two_constants_of_one_name_may_not_change_places(root):
    functions = {name: f"def {name}():\n    return LIMIT\n" for name in ("f", "g")}

    def version(one, two):
        return project(
            root,
            p_main=USES.format("f", "g") + "x = f(), g()\n",
            p_one=f"LIMIT = {one}\n{functions['f']}",
            p_two=f"LIMIT = {two}\n{functions['g']}",
        )

    assert version(1, 2) == version(1, 2) != version(2, 1)


TOOLS = """
def f(x):
    return g(x) + LIMIT

def g(x):
    return Shape().side * x

class Shape:
    side = SIDE

SIDE = 2
LIMIT = 3
OTHER = 4

def h(x):
    return OTHER * x
"""
RUN = "from experiments.p_tools import f\ndef run():\n    return f(1)\n"


def test_a_definition_counts_if_what_counts_names_it(root):
    before = project(root, p_main=RUN, p_tools=TOOLS)

    def counts(old, new):
        assert TOOLS.count(old) == 1
        return project(root, p_main=RUN, p_tools=TOOLS.replace(old, new)) != before

    for reached in ("g(x) + LIMIT", "().side * x", "SIDE = 2", "LIMIT = 3"):
        assert counts(reached, f"{reached} + 1")
    assert counts("    side = SIDE", "    side = SIDE + 1")
    for unreached in ("OTHER = 4", "OTHER * x"):
        assert not counts(unreached, f"{unreached} + 1")
    assert not counts("def h(x):\n    return OTHER * x\n", "")


@pytest.mark.parametrize(
    "more",
    [
        "print()",
        "OTHER += 1",
        "OTHER = h(1)",
        "if LIMIT:\n    OTHER = 5",
        "@h\ndef i():\n    pass",
        "@OTHER.command\ndef i():\n    pass",
        "def __getattr__(name):\n    return 1",
    ],
)
def test_what_does_more_than_define_counts_where_it_is_imported(root, more):
    before = project(root, p_main=RUN, p_tools=TOOLS)
    assert project(root, p_main=RUN, p_tools=f"{TOOLS}{more}\n") != before
    plain = project(
        root, p_main=RUN, p_tools=f"{TOOLS}OTHERS = Shape(), h(1)\ndef i():\n    pass\n"
    )
    assert plain == before


@pytest.mark.parametrize(
    "main",
    [
        "from experiments import p_tools\ndef run(name):\n    return getattr(p_tools, name)\n",
        "from experiments.p_tools import *\ndef run(name):\n    return h(name)\n",
        "from experiments import p_tools\ndef run():\n    return p_tools.__dict__\n",
        "from experiments import p_tools as t\nTOOLS = (t,)\ndef run():\n    return TOOLS\n",
    ],
    ids=["an argument", "a star", "its names", "in a list"],
)
def test_all_of_a_module_counts_where_it_is_an_object(root, main):
    other = TOOLS.replace("OTHER * x", "OTHER / x")
    versions = {project(root, p_main=main, p_tools=each) for each in (TOOLS, other)}
    assert len(versions) == 2


@pytest.mark.parametrize("how", ["sys.modules[__name__]", "globals()[x]", "vars()"])
def test_all_of_a_module_counts_that_looks_into_itself(root, how):
    tools = TOOLS.replace("LIMIT\n", f"LIMIT, {how}\n", 1)
    other = tools.replace("OTHER * x", "OTHER / x")
    assert tools != TOOLS
    versions = {project(root, p_main=RUN, p_tools=each) for each in (tools, other)}
    assert len(versions) == 2


def test_what_a_module_passes_on_is_part_of_it(root):
    main = "from experiments.p_tools import h\n"
    other = TOOLS.replace("OTHER * x", "OTHER / x")
    versions = {project(root, p_main=main, p_tools=each) for each in (TOOLS, other)}
    assert len(versions) == 2
    assert project(root, p_main=main, p_tools=TOOLS.replace("LIMIT = 3", "LIMIT = 4")) in versions


def test_a_function_leaves_out_what_it_does_not_reach_in_its_own_module(root):
    def version(tools, entry):
        project(root, p_main=tools)
        return code_version(entry)

    other = TOOLS.replace("OTHER = 4", "OTHER = 5")
    for entry, same in (("f", True), ("h", False), (None, False)):
        asked = f"experiments.p_main:{entry}" if entry else "experiments.p_main"
        assert (version(TOOLS, asked) == version(other, asked)) is same
    with pytest.raises(ValueError, match="defines no 'i'"):
        version(TOOLS, "experiments.p_main:i")


GIVEN = """
from __future__ import annotations

class Side:
    length = 1

class Config:
    side: Side

class Sweep:
    parts: Parts

class Parts:
    folder = 2

class Depth:
    layers = 6

class Pair:
    first = 3

def f(pair: Pair) -> Pair:
    return pair

def run(config: Config, spare: Parts = None, *, more: Depth, sweep: Sweep = Sweep()):
    return f(config)
"""


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ("length = 1", True),
        ("layers = 6", True),
        ("sweep = Sweep()", True),
        ("folder = 2", False),
        ("first = 3", False),
    ],
)
def test_annotations_count_of_what_an_entry_is_given_alone(root, change, counts):
    """Other objects are made where something names their class."""
    given = GIVEN.replace("sweep: Sweep = Sweep()", "sweep = Sweep()")
    assert change in given

    def version(tools):
        project(root, p_main=tools)
        return code_version("experiments.p_main:run")

    assert (version(given) != version(given.replace(change, f"{change} or 4"))) is counts
    assert version(GIVEN) == version(GIVEN.replace("folder = 2", "folder = 5"))


def test_modules_may_pass_a_name_to_each_other(root):
    circle = {
        "p_one": "def f():\n    from experiments.p_two import g\n    return g\n",
        "p_two": "from experiments.p_one import f as g\n",
        "p_main": "from experiments.p_two import g as h\nx = h\n",
    }
    assert project(root, **circle) == project(root, **circle)


@pytest.mark.parametrize(
    "code",
    [
        "from linlocal import p_wing\nx = p_wing.Rule\n",
        "import linlocal\nx = linlocal.p_wing.Rule\n",
        "import linlocal.p_wing\nx = linlocal.p_wing.Rule\n",
        "from linlocal.p_wing import Rule\nx = Rule\n",
    ],
)
def test_a_package_in_a_package_leads_to_what_it_offers(root, code):
    wing = root / "linlocal" / "p_wing"
    wing.mkdir(parents=True)
    (root / "linlocal" / "__init__.py").touch()
    (root / "linlocal" / "__init__.pyi").write_text("from . import p_wing as p_wing\n")
    (wing / "__init__.py").touch()
    (wing / "__init__.pyi").write_text("from .p_rules import Rule as Rule\n")
    (wing / "p_rules.py").write_text("Rule = 1\n")
    before = project(root, p_main=code)
    (wing / "p_rules.py").write_text("Rule = 2\n")
    assert project(root, p_main=code) != before


def test_a_folder_that_is_its_own_register_leads_to_all_in_it(root):
    register = root / "linlocal" / "p_sets"
    register.mkdir(parents=True)
    for package in (root / "linlocal", register):
        (package / "__init__.py").touch()
    code = "from linlocal import p_sets\nx = p_sets.__path__\n"
    versions = {project(root, p_main=code)}
    for number in (1, 2):
        (register / "p_digits.py").write_text(f"NAME = {number}\n")
        versions.add(project(root, p_main=code))
    assert len(versions) == 3


def test_the_version_is_the_same_in_any_folder(small, tmp_path_factory, monkeypatch):
    here = code_version("experiments.p_chain")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(small, elsewhere)
    monkeypatch.setattr(sources, "_folder", lambda package: elsewhere / package)
    assert code_version("experiments.p_chain") == here
    edit(elsewhere / "linlocal/analysis/p_meter.py")
    assert code_version("experiments.p_chain") != here


def nested(root, files):
    """The version of experiments.p_main in a project of these files."""
    shutil.rmtree(root / "experiments", ignore_errors=True)
    for name, code in files.items():
        file = root / "experiments" / name
        for folder in (file.parent, *file.parent.relative_to(root).parents):
            (root / folder).mkdir(parents=True, exist_ok=True)
            if folder != Path():
                (root / folder / "__init__.py").touch()
        file.write_text(code)
    return code_version("experiments.p_main")


# f is defined in each of these; a relative import means one of them, by where it stands.
PLACES = ("p_one.py", "p_room/p_one.py", "p_room/p_wing/p_one.py", "p_other/p_one.py")
RELATIVE = [
    ("p_room/p_use.py", "from .p_one import f", "p_room/p_one.py"),
    ("p_room/p_use.py", "from . import p_one", "p_room/p_one.py"),
    ("p_room/p_use.py", "from ..p_one import f", "p_one.py"),
    ("p_room/p_use.py", "from .. import p_one", "p_one.py"),
    ("p_room/p_use.py", "from ..p_other.p_one import f", "p_other/p_one.py"),
    ("p_room/p_use.py", "from ..p_other import p_one", "p_other/p_one.py"),
    ("p_room/p_use.py", "from .p_wing.p_one import f", "p_room/p_wing/p_one.py"),
    ("p_room/__init__.py", "from .p_one import f", "p_room/p_one.py"),
    ("p_room/__init__.py", "from . import p_one", "p_room/p_one.py"),
    ("p_room/__init__.py", "from ..p_one import f", "p_one.py"),
    ("p_room/__init__.py", "from .p_wing.p_one import f", "p_room/p_wing/p_one.py"),
    ("p_room/p_wing/p_use.py", "from .p_one import f", "p_room/p_wing/p_one.py"),
    ("p_room/p_wing/p_use.py", "from ..p_one import f", "p_room/p_one.py"),
    ("p_room/p_wing/p_use.py", "from ...p_one import f", "p_one.py"),
    ("p_room/p_wing/p_use.py", "from ... import p_one", "p_one.py"),
    ("p_room/p_wing/p_use.py", "from ...p_other import p_one", "p_other/p_one.py"),
    ("p_room/p_wing/__init__.py", "from ..p_one import f", "p_room/p_one.py"),
]


@pytest.mark.parametrize(("where", "line", "meant"), RELATIVE)
def test_a_relative_import_means_what_the_absolute_one_does(root, where, line, meant):
    def module(file):
        name = f"experiments/{file}".removesuffix(".py").removesuffix("/__init__")
        return name.replace("/", ".")

    f = "f" if line.endswith(" f") else "p_one.f"
    absolute = f"from {module(meant)} import f"
    if f != "f":
        absolute = f"from {module(meant).rpartition('.')[0]} import p_one"

    def version(said, changed=None):
        code = {file: f"def f():\n    return {k}\n" for k, file in enumerate(PLACES)}
        if changed:
            code[changed] = "def f():\n    return 99\n"
        uses = f"{said}\ndef use():\n    return {f}()\n"
        main = f"from {module(where)} import use\nx = use()\n"
        return nested(root, {**code, where: uses, "p_main.py": main})

    before = version(line)
    assert version(absolute) == before
    changing = [file for file in PLACES if version(line, file) != before]
    assert changing == [meant]


def test_a_module_that_does_not_exist_is_refused(small):
    with pytest.raises(ModuleNotFoundError, match=r"experiments\.p_nothing"):
        code_version("experiments.p_nothing")
